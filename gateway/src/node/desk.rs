//! What the cores ask of their node, and who of it sees to that.

use std::rc::Rc;

use guildhall_shared::{envelope::Envelope, token::Token};
use guildhall_store::events::Span;
use tokio::task::spawn_local;

use super::{
    config::Config,
    edge::Edge,
    identify::Identifier,
    parts::Parts,
    start_limits::StartLimits,
    to_core::answer,
    travel::{self, Finder, NotFound, Own, claims::Claims, holders::Holders, log::DeliveryLog},
    voice::Voice,
};
use crate::{
    bus::{CoreHandle, NotResumed, ToCore, ToNode},
    codec::Resume,
    identity::IdentifyRequest,
    names::{CoreId, SessionId, SessionKey},
};

/// Who knows whose a token is.
#[derive(Clone)]
pub(crate) enum Accounts {
    Postgres(Rc<Identifier>),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::store::Accounts),
}

/// See the module.
pub(crate) struct Desk {
    edge: Rc<Edge>,
    claims: Rc<Claims>,
    holders: Rc<Holders>,
    log: Rc<DeliveryLog>,
    limits: Rc<StartLimits>,
    voice: Rc<Voice>,
    resumes: Resumes,
}

/// What sees to those who resume.
#[derive(Clone)]
struct Resumes {
    accounts: Accounts,
    finder: Rc<Finder>,
    cores: Rc<[CoreHandle]>,
}

impl Desk {
    pub(crate) fn new(
        config: &Config,
        parts: &Parts,
        accounts: Accounts,
        limits: Rc<StartLimits>,
        voice: Rc<Voice>,
        cores: Rc<[CoreHandle]>,
    ) -> Self {
        let finder = Finder::new(travel::Parts {
            boot: config.boot,
            commands: parts.commands.clone(),
            links: parts.links.clone(),
            holders: parts.holders.clone(),
            claims: parts.claims.clone(),
            log: parts.log.clone(),
            losses: parts.losses.clone(),
            limits: limits.clone(),
            voice: voice.clone(),
            cores: cores.clone(),
        });
        spawn_local(finder.clone().sweep());
        Self {
            edge: parts.edge.clone(),
            claims: parts.claims.clone(),
            holders: parts.holders.clone(),
            log: parts.log.clone(),
            limits,
            voice,
            resumes: Resumes {
                accounts,
                finder,
                cores,
            },
        }
    }

    pub(crate) fn take(&self, request: ToNode) {
        match request {
            ToNode::Subscribe {
                core,
                subscriptions,
            } => self.edge.subscribe(core, subscriptions),
            ToNode::Presence {
                core,
                user,
                realms,
                sessions,
            } => self.edge.presence(core, user, realms, sessions),
            ToNode::Watch(change) => self.edge.watch(*change),
            ToNode::Ask(ask) => self.edge.pass_on(*ask),
            ToNode::Left {
                core,
                session,
                person,
                seat,
            } => {
                let is_copy = |session| self.holders.is_elsewhere(session, core);
                if session.is_some_and(is_copy) {
                    return;
                }
                let limits = self.limits.clone();
                spawn_local(async move { limits.leave_seat(person, seat).await });
            }
            ToNode::Voice { core, request } => {
                let is_copy = |session| self.holders.is_elsewhere(session, core);
                if !request.ended || !SessionId::parse(&request.session_id).is_some_and(is_copy) {
                    self.voice.request(core, request);
                }
            }
            ToNode::Unsubscribe { core, realm, users } => {
                self.edge.unsubscribe(core, realm, &users);
            }
            ToNode::Identify {
                core,
                session,
                request,
            } => self.resumes.accounts.identify(core, session, &request),
            ToNode::Missed {
                core,
                session,
                spans,
            } => {
                let resumes = self.resumes.clone();
                spawn_local(async move {
                    let messages = resumes.accounts.messages_between(&spans).await;
                    resumes
                        .answer(core, ToCore::Missed { session, messages })
                        .await;
                });
            }
            ToNode::CheckToken {
                core,
                session,
                token,
            } => {
                let resumes = self.resumes.clone();
                spawn_local(async move {
                    let why = resumes.accounts.why_not(&token).await;
                    let connection = session;
                    let message = ToCore::NotResumed { connection, why };
                    resumes.answer(core, message).await;
                });
            }
            ToNode::Stay {
                core,
                connection,
                resume,
            } => {
                let resumes = self.resumes.clone();
                spawn_local(async move { resumes.stay(core, connection, resume).await });
            }
            ToNode::Find {
                core,
                connection,
                resume,
            } => {
                let resumes = self.resumes.clone();
                spawn_local(async move { resumes.find(core, connection, &resume).await });
            }
            ToNode::Claimed { number, result } => self.claims.answer(number, Some(result)),
            ToNode::Moved {
                session_id,
                seat,
                overtaken,
            } => {
                let Some(session) = SessionId::parse(&session_id) else {
                    return;
                };
                // What came back with it is not the copy's to end.
                if overtaken && self.holders.generation(session) > 0 {
                    return;
                }
                self.voice.let_go(&session_id);
                if let Some((person, seat)) = seat {
                    self.limits.let_go(person, seat);
                }
                self.holders.gone(session);
            }
            ToNode::Ended { core, session } => {
                // The end of a copy is not the session's.
                if !self.holders.is_elsewhere(session, core) {
                    self.holders.gone(session);
                }
            }
            ToNode::Delivered {
                core,
                number,
                chunk,
                loss,
            } => self.log.add(core, number, chunk, loss),
        }
    }
}

impl Resumes {
    /// A client resumes a session of the core it came to.
    async fn stay(&self, core: CoreId, connection: SessionKey, resume: Box<Resume>) {
        let message = match self.finder.own(core, &resume).await {
            Own::Stays => ToCore::Stays { connection, resume },
            Own::Unsure => ToCore::NotResumed {
                connection,
                why: NotResumed::Gone,
            },
            Own::Copy => return self.find(core, connection, &resume).await,
        };
        self.answer(core, message).await;
    }

    /// Brings a session to the core whose client resumes it, or says why not.
    async fn find(&self, core: CoreId, connection: SessionKey, resume: &Resume) {
        let why = match self.finder.resume(core, connection, resume).await {
            Ok(()) => return,
            Err(NotFound::Because(why)) => why,
            Err(NotFound::PerhapsToken) => self.accounts.why_not(&resume.token).await,
            Err(NotFound::Overtaken) => {
                let resume = Box::new(resume.clone());
                let message = ToCore::Overtaken { connection, resume };
                return self.answer(core, message).await;
            }
        };
        self.answer(core, ToCore::NotResumed { connection, why })
            .await;
    }

    async fn answer(&self, core: CoreId, message: ToCore) {
        let _ = answer(&self.cores, core, message).await;
    }
}

impl Accounts {
    /// A client identifies; its core is answered by [`ToCore::Identified`].
    fn identify(&self, core: CoreId, session: SessionKey, request: &IdentifyRequest) {
        match self {
            Self::Postgres(identifier) => identifier.identify(core, session, request),
            #[cfg(feature = "simulated")]
            Self::Simulated(accounts) => accounts.identify(core, session, request),
        }
    }

    async fn messages_between(&self, spans: &[Span]) -> Vec<Envelope> {
        match self {
            Self::Postgres(identifier) => identifier.messages_between(spans).await,
            // They are for people, and there are only bots.
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => Vec::new(),
        }
    }

    /// Why a session was not found for whoever has this token.
    async fn why_not(&self, token: &Token) -> NotResumed {
        match self {
            Self::Postgres(identifier) => identifier.why_not(token).await,
            // Everybody knows their token.
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => NotResumed::Gone,
        }
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
