//! IDENTIFY: who is it, may they, and not too often. Spec: gateway.md › IDENTIFY, in its
//! order of checks from the token on.
//!
//! Tokens are read, and turns taken, in batches: all that came while the batch before was under way.
//! What a batch costs is two queries at most (tokens known, tokens new) and three pipelines, however
//! many it is for. Of people the rest is read one by one, as their READY takes a transaction each, and
//! only of those whose turn it is.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{CloseCode, Intents},
    id::marker::{Application, Guild, User},
    model::{CurrentUser, Presence, PrivateChannel, RelationshipKind, SessionState},
    shard::bot_shard,
    token::{Token, TokenHash},
};
use guildhall_store::{
    account::{self, Account, Identified},
    events::{self, Span},
    personal::{self, Personal},
};
use sqlx::PgPool;
use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    batches::Batches,
    database,
    identities::{self, Identities, Standing},
    metrics::Metrics,
    owner::people::people,
    start_limits::{Start, StartLimits, Started},
    to_core::answer,
};
use crate::{
    bus::{CoreHandle, NotResumed, ToCore},
    identity::{IdentifyRequest, Identity, Refused},
    names::{CoreId, Seat, SessionKey},
};

/// Guilds a bot may have on one of its shards.
const GUILDS_PER_SHARD_MAX: usize = 2500;
/// Reads of what a person's session starts from before the client is asked to come again.
const ATTEMPTS: u32 = 2;
/// Pause between them.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// IDENTIFYs at work at once. When full, further ones are asked to come again.
const AT_WORK_MAX: usize = 4096;
/// IDENTIFYs of one batch: bounds the time for which the thread is busy with their answers alone.
const BATCH_MAX: usize = 256;
/// A batch under way for longer no longer keeps the next one waiting.
const BATCH_WAIT_MAX: Duration = Duration::from_millis(100);
/// Messages looked through for one READY; calls by further ones are not in it.
const MISSED_MAX: u32 = 10_000;

pub(crate) struct Identifier {
    db: PgPool,
    commands: Connection,
    limits: Rc<StartLimits>,
    cores: Rc<[CoreHandle]>,
    metrics: Metrics,
    at_work: Cell<usize>,
    waiting: RefCell<Batches<Client>>,
    identities: Identities,
}

/// A client that identifies.
struct Client {
    core: CoreId,
    session: SessionKey,
    token: TokenHash,
    intents: Option<Intents>,
    /// Bot shard `(id, count)`.
    shard: (u32, u32),
    /// How to refuse it whoever it is.
    unfit: Option<CloseCode>,
}

/// Whose a token is.
enum Whose {
    Bot(Rc<Bot>),
    Person(Id<User>),
    /// Unknown or revoked, or the account is locked.
    Nobody,
}

/// A bot as it is now; its guilds may be those of a moment ago.
#[derive(Clone)]
struct Bot {
    user: CurrentUser,
    application: Option<(Id<Application>, u64)>,
    standing: Rc<Standing>,
}

impl Identifier {
    pub(crate) fn new(
        db: PgPool,
        commands: Connection,
        limits: Rc<StartLimits>,
        cores: Rc<[CoreHandle]>,
        metrics: Metrics,
    ) -> Self {
        Self {
            db,
            commands,
            limits,
            cores,
            metrics,
            at_work: Cell::new(0),
            waiting: RefCell::default(),
            identities: Identities::default(),
        }
    }

    /// A client identifies; its core is answered by [`ToCore::Identified`].
    pub(crate) fn identify(
        self: &Rc<Self>,
        core: CoreId,
        session: SessionKey,
        request: &IdentifyRequest,
    ) {
        let client = Client {
            core,
            session,
            token: request.token.hash(),
            intents: request.intents,
            shard: request.shard,
            unfit: request.unfit,
        };
        self.at_work.set(self.at_work.get() + 1);
        if self.at_work.get() > AT_WORK_MAX {
            return self.reply(&client, Err(Refused::TryLater));
        }
        if self.waiting.borrow_mut().put(client) {
            // Starts with what else is there when this thread has seen to its requests.
            spawn_local(self.clone().take_batches());
        }
    }

    /// Answers a client's core; one without room is waited for.
    fn reply(self: &Rc<Self>, client: &Client, result: Result<Box<Identity>, Refused>) {
        self.at_work.set(self.at_work.get() - 1);
        let label = match &result {
            Ok(_) => "ok",
            Err(Refused::TryLater) => "later",
            Err(Refused::Close(_)) => "closed",
        };
        self.metrics.identifies.with_label_values(&[label]).inc();
        let (core, session) = (client.core, client.session);
        let message = ToCore::Identified { session, result };
        let sent = match self.cores.get(usize::from(core)) {
            Some(core) => core.send(message),
            None => Err(message),
        };
        let Err(message) = sent else { return };
        let this = self.clone();
        spawn_local(async move {
            if let Err(ToCore::Identified {
                result: Ok(identity),
                ..
            }) = answer(&this.cores, core, message).await
                && let Some(seat) = identity.seat
            {
                this.limits.leave_seat(identity.user.user.id, seat).await;
            }
        });
    }

    /// Whether a token is anybody's. While the database is away every token may be: the
    /// client is then told to identify, where it is looked up again.
    async fn is_token(&self, token: &Token) -> bool {
        match database::limited(account::by_token(&self.db, token.hash())).await {
            Ok(account) => account.is_some(),
            Err(error) => {
                tracing::warn!(%error, "token not checked");
                true
            }
        }
    }

    /// Why a RESUME found nothing, as far as its token tells.
    pub(crate) async fn why_not(&self, token: &Token) -> NotResumed {
        if self.is_token(token).await {
            NotResumed::Gone
        } else {
            NotResumed::UnknownToken
        }
    }

    /// Messages that a READY has to count. Without the database it counts none of them.
    pub(crate) async fn messages_between(&self, spans: &[Span]) -> Vec<Envelope> {
        let read = events::messages_between(&self.db, spans, MISSED_MAX);
        match database::limited(read).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, "messages before a READY are not counted");
                Vec::new()
            }
        }
    }

    /// Takes one batch after the other, until nobody waits.
    async fn take_batches(self: Rc<Self>) {
        loop {
            let batch = self.waiting.borrow_mut().take(BATCH_MAX);
            let Some(batch) = batch else { return };
            let batch = spawn_local(self.clone().batch(batch));
            // One that takes longer goes on by itself.
            let _ = timeout(BATCH_WAIT_MAX, batch).await;
        }
    }

    async fn batch(self: Rc<Self>, clients: Vec<Client>) {
        let found = self.read(&clients).await;
        let (mut bots, mut people) = (Vec::with_capacity(clients.len()), Vec::new());
        for client in clients {
            match found.get(&client.token) {
                Some(Whose::Bot(bot)) => bots.push((client, bot.clone())),
                Some(Whose::Person(id)) => people.push((client, *id)),
                Some(Whose::Nobody) => self.refuse(&client, CloseCode::AuthenticationFailed),
                // Whatever is wrong with one of them is not to be the others' trouble again.
                None => {
                    let this = self.clone();
                    spawn_local(async move {
                        sleep(RETRY_AFTER).await;
                        this.again(client).await;
                    });
                }
            }
        }
        drop(found);
        tokio::join!(self.start(bots), self.admit(people));
    }

    /// One client by itself, whose token could not be read with those of others.
    async fn again(self: Rc<Self>, client: Client) {
        let mut found = self.read(std::slice::from_ref(&client)).await;
        match found.remove(&client.token) {
            Some(Whose::Bot(bot)) => self.start(vec![(client, bot)]).await,
            Some(Whose::Person(id)) => self.admit(vec![(client, id)]).await,
            Some(Whose::Nobody) => self.refuse(&client, CloseCode::AuthenticationFailed),
            None => self.reply(&client, Err(Refused::TryLater)),
        }
    }

    fn refuse(self: &Rc<Self>, client: &Client, code: CloseCode) {
        self.reply(client, Err(Refused::Close(code)));
    }

    /// Lets those bots in that may identify.
    async fn start(self: &Rc<Self>, bots: Vec<(Client, Rc<Bot>)>) {
        let mut entering = Vec::with_capacity(bots.len());
        let mut starts = Vec::with_capacity(bots.len());
        for (client, bot) in bots {
            let all = &bot.standing.guilds;
            let flags = bot.application.map_or(0, |(_, flags)| flags);
            let allowed = match client.unfit {
                Some(code @ CloseCode::InvalidShard) => Err(code),
                // Bad intents are none, which comes behind a shard with too much.
                _ => allowed(all, client.shard, client.intents, flags),
            };
            match allowed {
                Ok(guilds) => {
                    starts.push(Start {
                        bot: bot.user.user.id,
                        shard: client.shard.0,
                        guilds: all.len(),
                    });
                    entering.push((client, bot, guilds));
                }
                Err(code) => self.refuse(&client, code),
            }
        }
        let started = self.limits.start(&starts).await;
        for ((client, bot, guilds), started) in entering.into_iter().zip(started) {
            match started {
                Started::Yes => {
                    let identity = Rc::unwrap_or_clone(bot).identity(&client, guilds);
                    self.reply(&client, Ok(Box::new(identity)));
                }
                Started::NotYet => self.reply(&client, Err(Refused::TryLater)),
                // Until the day is over: a code that libraries do not try again after.
                Started::NotToday => self.refuse(&client, CloseCode::AuthenticationFailed),
            }
        }
    }

    /// Lets those people in whose turn it is.
    async fn admit(self: &Rc<Self>, people: Vec<(Client, Id<User>)>) {
        let mut fit = Vec::with_capacity(people.len());
        for (client, id) in people {
            match client.unfit {
                Some(code) => self.refuse(&client, code),
                None => fit.push((client, id)),
            }
        }
        let ids: Vec<Id<User>> = fit.iter().map(|&(_, id)| id).collect();
        let turns = self.limits.take_turns_of(&ids).await;
        for ((client, id), taken) in fit.into_iter().zip(turns) {
            if taken {
                spawn_local(self.clone().person(client, id));
            } else {
                self.reply(&client, Err(Refused::TryLater));
            }
        }
    }

    /// Lets a person in whose turn it is, if there is a seat.
    async fn person(self: Rc<Self>, client: Client, id: Id<User>) {
        let Some(seat) = self.limits.take_seat(id).await else {
            return self.refuse(&client, CloseCode::TooManySessions);
        };
        let refused = match self.read_person(client.token).await {
            Ok(Some(found)) => return self.welcome(&client, found, seat).await,
            Ok(None) => Refused::Close(CloseCode::AuthenticationFailed),
            Err(error) => {
                tracing::warn!(%error, "identify not read");
                Refused::TryLater
            }
        };
        self.limits.leave_seat(id, seat).await;
        self.reply(&client, Err(refused));
    }

    /// Answers a person's client, which has a seat.
    async fn welcome(self: &Rc<Self>, client: &Client, found: account::Identity, seat: Seat) {
        let id = found.user.user.id;
        let company = self.company(id, found.personal.as_deref(), &found.private_channels);
        let (presences, sessions) = company.await;
        let identity = Identity {
            presences,
            sessions,
            user: found.user,
            token: client.token,
            intents: client.intents.unwrap_or_default(),
            application: found.application,
            position: found.position,
            private_channels: found.private_channels,
            guilds: found.guilds,
            personal: found.personal,
            seat: Some(seat),
        };
        self.reply(client, Ok(Box::new(identity)));
    }

    /// Whose the clients' tokens are; those that could not be read are missing. Of a bot that was
    /// read a moment ago only what no event of its realm tells is read again: whether the token
    /// still stands, and the application's flags.
    async fn read(&self, clients: &[Client]) -> HashMap<TokenHash, Whose> {
        // From before the read: what is remembered is never newer than it says.
        let began = Instant::now();
        let tokens: HashSet<TokenHash> = clients.iter().map(|client| client.token).collect();
        let (mut known, mut standings, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for token in tokens {
            match self.identities.get(token, began) {
                Some(standing) => {
                    known.push(token);
                    standings.push(standing);
                }
                None => new.push(token),
            }
        }
        let (accounts, identified) = tokio::join!(
            many(&known, account::by_tokens(&self.db, &known)),
            many(&new, account::identify_many(&self.db, &new)),
        );
        let known = known.into_iter().zip(standings).zip(accounts);
        let known = known.map(|((token, standing), account)| (token, still(account, standing)));
        let new = new.into_iter().zip(identified);
        let new = new.map(|(token, identified)| {
            let whose = match identified {
                Identified::Bot(bot) => Whose::Bot(self.remember(token, *bot, began)),
                Identified::Person(id) => Whose::Person(id),
                Identified::Nobody => Whose::Nobody,
            };
            (token, whose)
        });
        known.chain(new).collect()
    }

    /// What a person's session starts from; `None` if the token is nobody's by now.
    async fn read_person(
        &self,
        token: TokenHash,
    ) -> Result<Option<account::Identity>, database::Error> {
        for _ in 1..ATTEMPTS {
            match database::limited(account::identify(&self.db, token)).await {
                Err(error) => tracing::warn!(%error, "identify not read"),
                found => return found,
            }
            sleep(RETRY_AFTER).await;
        }
        database::limited(account::identify(&self.db, token)).await
    }

    /// A bot that was read just now, for those who identify with its token next.
    fn remember(&self, token: TokenHash, bot: account::Identity, began: Instant) -> Rc<Bot> {
        let standing = Rc::new(Standing {
            position: bot.position,
            guilds: bot.guilds,
        });
        self.identities.put(token, standing.clone(), began);
        Rc::new(Bot {
            user: bot.user,
            application: bot.application,
            standing,
        })
    }

    /// Gives back the memory of identities that are too old, as long as the task lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            sleep(identities::AGE_MAX).await;
            self.identities.sweep(Instant::now());
        }
    }

    /// Of people: who of their friends and partners is online, but for those with whom there is a
    /// block, and their own other sessions. Nobody and none while Redis is away.
    async fn company(
        &self,
        own: Id<User>,
        personal: Option<&Personal>,
        private_channels: &[PrivateChannel],
    ) -> (Vec<(Id<User>, Presence)>, Vec<SessionState>) {
        let Some(personal) = personal else {
            return Default::default();
        };
        let of_kind = |kind: RelationshipKind| {
            let all = personal.relationships.iter();
            all.filter(move |one| one.kind == kind).map(|one| one.id)
        };
        let friends: HashSet<Id<User>> = of_kind(RelationshipKind::Friend).collect();
        let blocked: HashSet<Id<User>> = of_kind(RelationshipKind::Blocked).collect();
        let partners = private_channels.iter();
        let partners = partners.flat_map(|channel| &channel.recipients);
        let partners = partners.map(|partner| partner.id);
        let mut users: Vec<Id<User>> = friends.iter().copied().chain(partners).collect();
        users.retain(|user| !blocked.contains(user));
        users.push(own);
        users.sort_unstable();
        users.dedup();
        let mut commands = self.commands.clone();
        let mut people = match people(&mut commands, &users).await {
            Ok(people) => people,
            Err(error) => {
                tracing::debug!(%error, "presences of friends not read");
                return Default::default();
            }
        };
        let sessions = people.remove(&own).map(|own| own.sessions);
        people.retain(|_, person| !person.presence.is_offline());
        // Whoever has blocked somebody is no friend of theirs.
        let others = people.keys().filter(|user| !friends.contains(*user));
        let others: Vec<Id<User>> = others.copied().collect();
        for hidden in self.hidden_from(own, &others).await {
            people.remove(&hidden);
        }
        let presences = people.into_iter();
        let presences = presences.map(|(user, person)| (user, person.presence));
        (presences.collect(), sessions.unwrap_or_default())
    }

    /// Those of `others` who have blocked a person; all of them while the database is away.
    async fn hidden_from(&self, person: Id<User>, others: &[Id<User>]) -> Vec<Id<User>> {
        if others.is_empty() {
            return Vec::new();
        }
        match database::limited(personal::blockers(&self.db, person, others)).await {
            Ok(blockers) => blockers,
            Err(error) => {
                tracing::warn!(%error, "blocks not read");
                others.to_vec()
            }
        }
    }
}

impl Bot {
    /// What a session of one of its shards starts from. Its guilds are those at its position: the
    /// events after it follow READY.
    fn identity(self, client: &Client, guilds: Vec<Id<Guild>>) -> Identity {
        Identity {
            user: self.user,
            token: client.token,
            intents: client.intents.unwrap_or_default(),
            presences: Vec::new(),
            sessions: Vec::new(),
            application: self.application,
            position: self.standing.position,
            private_channels: Vec::new(),
            guilds,
            personal: None,
            seat: None,
        }
    }
}

/// A bot whose guilds are remembered, if its token still stands.
fn still(account: Option<Account>, standing: Rc<Standing>) -> Whose {
    account.map_or(Whose::Nobody, |account| {
        Whose::Bot(Rc::new(Bot {
            user: account.user,
            application: account.application,
            standing,
        }))
    })
}

/// What is read of tokens, if there are any; nothing if it could not be read.
async fn many<T>(
    tokens: &[TokenHash],
    read: impl Future<Output = guildhall_store::Result<Vec<T>>>,
) -> Vec<T> {
    if tokens.is_empty() {
        return Vec::new();
    }
    let read = database::limited(read).await;
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "identifies not read");
        Vec::new()
    })
}

/// The guilds of a bot's shard, if it may identify on it.
fn allowed(
    all: &[Id<Guild>],
    (shard, count): (u32, u32),
    intents: Option<Intents>,
    flags: u64,
) -> Result<Vec<Id<Guild>>, CloseCode> {
    let guilds = all.iter().copied();
    let guilds: Vec<_> = guilds
        .filter(|&guild| bot_shard(guild, count) == shard)
        .collect();
    if guilds.len() > GUILDS_PER_SHARD_MAX {
        return Err(CloseCode::ShardingRequired);
    }
    let intents = intents.ok_or(CloseCode::InvalidIntents)?;
    if Intents::allowed_by_application(flags).contains(intents) {
        Ok(guilds)
    } else {
        Err(CloseCode::DisallowedIntents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guilds(count: u64) -> Vec<Id<Guild>> {
        (1..=count).filter_map(|n| Id::new(n << 22)).collect()
    }

    #[test]
    fn a_bot_gets_the_guilds_of_its_shard() {
        let intents = Some(Intents::GUILDS);
        assert_eq!(
            allowed(&guilds(4), (1, 2), intents, 0),
            Ok(vec![Id::new(1 << 22).unwrap(), Id::new(3 << 22).unwrap()])
        );
    }

    #[test]
    fn checks_come_in_the_documented_order() {
        let all = Some(Intents::all());
        assert_eq!(
            allowed(&guilds(2501), (0, 1), None, 0),
            Err(CloseCode::ShardingRequired)
        );
        assert!(allowed(&guilds(2501), (0, 2), Some(Intents::GUILDS), 0).is_ok());
        assert_eq!(
            allowed(&guilds(1), (0, 1), None, 0),
            Err(CloseCode::InvalidIntents)
        );
        assert_eq!(
            allowed(&guilds(1), (0, 1), all, 0),
            Err(CloseCode::DisallowedIntents)
        );
        let flags = guildhall_shared::model::Application::FLAGS_NEW;
        assert!(allowed(&guilds(1), (0, 1), all, flags).is_ok());
    }
}
