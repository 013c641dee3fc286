//! The node of the model: answers what cores ask, and has the log that they are told of.

use bytes::Bytes;
use guildhall_shared::{
    envelope::{Durability, Envelope, Scope, Visibility},
    gateway::EventKind,
    shard,
};

use super::*;
use crate::{
    bus::{Claim, Claimed, ClassId, NotResumed, Subscribed, Subscription, ToCore, ViewChange},
    codec::Resume,
    delivery::{Found, History},
    names::SessionId,
    session::record::Travelling,
    telemetry::Resumed,
};

/// Events in one answer, if there are more; of many it is half.
const PORTION_MIN: usize = 3;

/// The log of the guild, and the way of its events to the core.
pub(super) struct Node {
    pub(super) log: Vec<(Kind, Arc<Envelope>)>,
    /// Whether the hidden channel is shown.
    pub(super) shown: bool,
    pub(super) deleted: bool,
    pub(super) requests: mpsc::Receiver<ToNode>,
    pub(super) inbox: VecDeque<ToCore>,
    pub(super) late: Option<ToCore>,
    pub(super) subscribed: bool,
    pub(super) resume: ResumeLog,
    /// Start of the node that the client is at now.
    pub(super) boot: u32,
    /// Starts of nodes so far.
    pub(super) boots: u32,
    /// By the start of the node whose log it is.
    pub(super) histories: HashMap<u32, History>,
    /// Who has a session that has moved.
    pub(super) holders: HashMap<SessionId, u32>,
    /// The node that the client was at before, if it lives.
    pub(super) former: Option<Former>,
    /// How often Redis has lost everything.
    pub(super) losses: u64,
}

pub(super) struct Former {
    pub(super) boot: u32,
    pub(super) core: Core,
    pub(super) requests: mpsc::Receiver<ToNode>,
    pub(super) inbox: VecDeque<ToCore>,
    pub(super) subscribed: bool,
    pub(super) fate: Fate,
}

impl Node {
    fn head(&self) -> Position {
        Position {
            era: 1,
            seq: self.log.len() as u64,
        }
    }

    pub(super) fn publish(&mut self, kind: Kind, pad: usize, way: Way) {
        if self.deleted {
            return;
        }
        let seq = self.log.len() as u64 + 1;
        let channel = match kind {
            Kind::HiddenChannel | Kind::Toggle => hidden_channel(),
            Kind::Seen | Kind::OtherIntent => seen_channel(),
        };
        let intents = match kind {
            Kind::OtherIntent => Intents::GUILD_MESSAGE_TYPING,
            Kind::Seen | Kind::HiddenChannel => Intents::GUILD_MESSAGES,
            Kind::Toggle => Intents::GUILDS,
        };
        let of_channel = json!({"id": channel, "seq": seq, "pad": "x".repeat(pad)});
        let body = Bytes::from(of_channel.to_string());
        let event = Arc::new(Envelope {
            realm: shard::realm(guild()),
            durability: Durability::Durable(Position { era: 1, seq }),
            kind: match kind {
                Kind::Toggle => EventKind::ChannelUpdate,
                Kind::Seen | Kind::HiddenChannel | Kind::OtherIntent => EventKind::MessageCreate,
            },
            vis: Visibility::channel(channel, intents),
            at_ms: 0,
            trace: 0,
            body: body.clone(),
            alt: None,
        });
        self.log.push((kind, event.clone()));
        self.shown ^= kind == Kind::Toggle;
        if !self.subscribed {
            return;
        }
        let message = || ToCore::Event(event.clone());
        if kind == Kind::Toggle {
            // As `owner::realm` does it: lost together, or not at all.
            if way != Way::Lost {
                let told = Envelope {
                    durability: Durability::Ephemeral,
                    kind: match self.shown {
                        true => EventKind::ChannelCreate,
                        false => EventKind::ChannelDelete,
                    },
                    vis: Visibility::of(Scope::Users([user()].into()), Intents::GUILDS),
                    ..Envelope::clone(&event)
                };
                let told = ToCore::Event(Arc::new(told));
                let change = ViewChange {
                    channels: Vec::new(),
                    users: vec![(user(), Some(self.classes()))],
                };
                self.inbox.push_back(ToCore::View {
                    realm: shard::realm(guild()),
                    change,
                });
                match self.shown {
                    true => self.inbox.extend([told, message()]),
                    false => self.inbox.extend([message(), told]),
                }
                self.inbox.extend(self.late.take());
            }
            return;
        }
        match way {
            Way::Straight => self.inbox.push_back(message()),
            Way::Lost => {}
            Way::Twice => self.inbox.extend([message(), message()]),
            Way::Late => {
                let before = self.late.replace(message());
                self.inbox.extend(before);
                return;
            }
        }
        self.inbox.extend(self.late.take());
    }

    /// Nothing comes after it that would show a gap: all nodes that listen get it.
    pub(super) fn delete(&mut self) {
        let seq = self.log.len() as u64 + 1;
        let event = Arc::new(Envelope {
            realm: shard::realm(guild()),
            durability: Durability::Durable(Position { era: 1, seq }),
            kind: EventKind::GuildDelete,
            vis: Visibility::realm(Intents::GUILDS),
            at_ms: 0,
            trace: 0,
            body: json!({"id": guild()}).to_string().into(),
            alt: None,
        });
        self.log.push((Kind::OtherIntent, event.clone()));
        self.deleted = true;
        let told = || {
            let change = ViewChange {
                channels: Vec::new(),
                users: vec![(user(), None)],
            };
            let realm = shard::realm(guild());
            [ToCore::Event(event.clone()), ToCore::View { realm, change }]
        };
        if self.subscribed {
            self.inbox.extend(told());
        }
        if let Some(former) = &mut self.former
            && former.subscribed
        {
            former.inbox.extend(told());
        }
    }

    /// What the user sees.
    fn classes(&self) -> Vec<ClassId> {
        if self.shown { vec![0, 1] } else { vec![0] }
    }

    pub(super) fn answer(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                ToNode::Identify {
                    session, request, ..
                } => {
                    let mut identity = identity(&request);
                    identity.guilds.retain(|_| !self.deleted);
                    let result = Ok(Box::new(identity));
                    self.inbox.push_back(ToCore::Identified { session, result });
                }
                ToNode::Stay {
                    connection, resume, ..
                } => {
                    let session = SessionId::parse(&resume.session_id).unwrap();
                    let holder = self.holders.get(&session).copied();
                    if holder.unwrap_or(session.boot()) == self.boot {
                        self.holders.insert(session, self.boot);
                        self.inbox.push_back(ToCore::Stays { connection, resume });
                    } else {
                        self.inbox.push_back(ToCore::Taken(session));
                        self.bring(connection, &resume);
                    }
                }
                ToNode::Find {
                    connection, resume, ..
                } => self.bring(connection, &resume),
                ToNode::Delivered {
                    number,
                    chunk,
                    loss,
                    ..
                } => {
                    let history = self.histories.entry(self.boot).or_default();
                    if loss == self.losses {
                        history.push(&chunk).unwrap();
                    }
                    if self.resume == ResumeLog::Sync {
                        self.inbox.push_back(ToCore::Stored(number));
                    }
                }
                ToNode::Subscribe { subscriptions, .. } => {
                    for subscription in subscriptions {
                        self.subscribe(subscription);
                    }
                }
                ToNode::Unsubscribe { realm, .. } => {
                    self.subscribed &= realm != shard::realm(guild());
                }
                _ => {}
            }
        }
    }

    /// Redis loses all that it was told; each node that lives notices before it is asked next.
    pub(super) fn forget(&mut self) {
        self.losses += 1;
        self.holders.clear();
        self.histories.clear();
        let forgot = || ToCore::RedisForgot {
            doubt: true,
            loss: self.losses,
        };
        self.inbox.push_back(forgot());
        if let Some(former) = &mut self.former {
            former.inbox.push_back(forgot());
        }
    }

    fn bring(&mut self, connection: SessionKey, resume: &Resume) {
        let message = match self.find(resume) {
            Some(session) => ToCore::Arrived {
                connection,
                session,
                how: Resumed::Moved,
            },
            None => ToCore::NotResumed {
                connection,
                why: NotResumed::Gone,
            },
        };
        self.inbox.push_back(message);
    }

    /// As `node::travel` does it.
    fn find(&mut self, resume: &Resume) -> Option<Box<Travelling>> {
        let session = SessionId::parse(&resume.session_id).unwrap();
        let holder = self.holders.get(&session).copied();
        let holder = holder.unwrap_or(session.boot());
        if holder == self.boot {
            return None;
        }
        let former = self.former.as_mut().filter(|former| former.boot == holder);
        let history = self.histories.entry(holder).or_default();
        let found = match former {
            Some(former) if former.fate == Fate::Lives => {
                for message in former.inbox.drain(..) {
                    former.core.on_message(message);
                }
                former.core.claimed(Claim {
                    number: 1,
                    session,
                    token: resume.token.hash(),
                    s: resume.seq,
                });
                let mut claimed = None;
                while let Ok(request) = former.requests.try_recv() {
                    match request {
                        ToNode::Claimed { result, .. } => claimed = Some(*result),
                        ToNode::Delivered { chunk, loss, .. } if loss == self.losses => {
                            history.push(&chunk).unwrap();
                        }
                        _ => {}
                    }
                }
                match claimed {
                    Some(Claimed::Session(session)) => Some(session),
                    Some(Claimed::Unknown | Claimed::Gone) => None,
                    other => panic!("{other:?}"),
                }
            }
            // One that was only cut off keeps a copy that counts no longer.
            _ => {
                let found = history.at(session, resume.seq);
                match found {
                    Found::At(record) => {
                        history.taken(session);
                        Some(Box::new(Travelling {
                            record: *record,
                            s: resume.seq,
                            dispatches: Vec::new(),
                        }))
                    }
                    Found::Ahead => {
                        assert_ne!(self.resume, ResumeLog::Sync, "told before the log was");
                        None
                    }
                    Found::Unknown | Found::Behind => None,
                }
            }
        };
        if found.is_some() {
            self.holders.insert(session, self.boot);
        }
        found
    }

    fn subscribe(&mut self, subscription: Subscription) {
        let Subscription { realm, from, users } = subscription;
        let of_guild = realm == shard::realm(guild());
        let position = match of_guild {
            true => self.head(),
            false => Position { era: 1, seq: 1 },
        };
        self.subscribed |= of_guild;
        let mut replay = Vec::new();
        let mut view = ViewChange::default();
        if of_guild {
            let from = from.map_or(self.log.len(), |from| from.seq as usize);
            let lacking = &self.log[from..];
            // One answer may not hold all of them.
            let portion = lacking.len().min(PORTION_MIN.max(lacking.len() / 2));
            replay.extend(lacking[..portion].iter().map(|(_, event)| event.clone()));
            view.channels = vec![(seen_channel(), Some(0)), (hidden_channel(), Some(1))];
            view.users = vec![(user(), (!self.deleted).then(|| self.classes()))];
        }
        let body = json!({"id": guild(), "position": position.seq, "shown": self.shown});
        let body = body.to_string();
        let snapshots = users.iter().flat_map(|user| &user.snapshots);
        let snapshots = snapshots
            .filter(|_| !self.deleted)
            .map(|wanted| (wanted.session, Bytes::from(body.clone())))
            .collect();
        self.inbox
            .push_back(ToCore::Subscribed(Box::new(Subscribed {
                realm,
                position,
                view,
                complete: true,
                replay,
                lost: None,
                snapshots,
            })));
    }
}
