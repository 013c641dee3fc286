//! Postgres: realms with their numbered events, guilds as they are now, and who has which token.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Visibility},
    gateway::EventKind,
    id::marker::{Guild, Realm, User},
    model::CurrentUser,
    shard::{self, Position, ShardId},
    token::{Token, TokenHash},
};
use guildhall_store::{events::Head, guild::Snapshot};
use serde_json::json;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};

use super::{
    redis::Redis,
    world::{travel, unix_ms},
};
use crate::{
    bus::{CoreHandle, ToCore},
    identity::{IdentifyRequest, Identity, Refused},
    names::{CoreId, SessionKey},
    node::{database::Error, to_core::answer},
};

/// The log reaches back so far.
const KEPT: Duration = Duration::from_secs(30 * 60);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Store(Rc<RefCell<Tables>>);

struct Tables {
    shards: u16,
    realms: BTreeMap<Id<Realm>, Log>,
    by_shard: BTreeMap<ShardId, Vec<Id<Realm>>>,
    guilds: BTreeMap<Id<Guild>, Snapshot>,
    accounts: BTreeMap<[u8; 32], Account>,
    away_until: Option<Instant>,
}

#[derive(Default)]
struct Log {
    seq: u64,
    /// The newest ones.
    events: VecDeque<Envelope>,
}

struct Account {
    user: CurrentUser,
    guilds: BTreeSet<Id<Guild>>,
}

/// How an event reaches Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Straight,
    /// Its publisher dies between commit and publish.
    Lost,
    /// The shard's stream has it, and nobody hears of it.
    Unheard,
    Twice,
    /// Those that follow may be faster.
    Late {
        ms: u64,
    },
}

impl Store {
    pub fn new(shards: u16) -> Self {
        Self(Rc::new(RefCell::new(Tables {
            shards,
            realms: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            guilds: BTreeMap::new(),
            accounts: BTreeMap::new(),
            away_until: None,
        })))
    }

    /// It answers no gateway until then.
    pub fn go_away(&self, until: Instant) {
        let mut tables = self.0.borrow_mut();
        tables.away_until = tables.away_until.max(Some(until));
    }

    /// A guild at the beginning of its realm; its members have accounts.
    pub fn put_guild(&self, guild: Snapshot) {
        let mut tables = self.0.borrow_mut();
        let id = guild.guild.id;
        tables.put_realm(shard::realm(id));
        let members = guild
            .members
            .iter()
            .filter_map(|member| member.user.as_ref());
        let members: BTreeSet<Id<User>> = members.map(|user| user.id).collect();
        for account in tables.accounts.values_mut() {
            if members.contains(&account.user.user.id) {
                account.guilds.insert(id);
            }
        }
        tables.guilds.insert(id, guild);
    }

    /// A bot, and the token it identifies with.
    pub fn put_bot(&self, id: Id<User>) -> String {
        let token = Token::mint(id, 0, [7; 32]);
        let user = json!({
            "id": id, "username": id.to_string(), "discriminator": "0", "bot": true,
            "public_flags": 0, "flags": 0, "mfa_enabled": false, "locale": "en-US",
            "verified": true, "premium_type": 0,
        });
        let account = Account {
            user: serde_json::from_value(user).expect("it is written above"),
            guilds: BTreeSet::new(),
        };
        let mut tables = self.0.borrow_mut();
        tables.put_realm(shard::realm(id));
        tables.accounts.insert(token.hash().0, account);
        token.reveal().to_owned()
    }

    /// Changes a guild and appends the event that says so, as one transaction.
    pub fn change(
        &self,
        guild: Id<Guild>,
        kind: EventKind,
        vis: Visibility,
        change: impl FnOnce(&mut Snapshot, u64) -> Bytes,
    ) -> Option<Envelope> {
        let mut tables = self.0.borrow_mut();
        let seq = tables.realms.get(&shard::realm(guild))?.seq + 1;
        let body = change(tables.guilds.get_mut(&guild)?, seq);
        tables.append(shard::realm(guild), kind, vis, body)
    }

    /// A user comes to a guild or leaves it, as far as their own realm and their READY tell.
    pub fn member(&self, guild: Id<Guild>, user: Id<User>, joins: bool) -> Option<Envelope> {
        let mut tables = self.0.borrow_mut();
        let accounts = tables.accounts.values_mut();
        for account in accounts.filter(|account| account.user.user.id == user) {
            match joins {
                true => account.guilds.insert(guild),
                false => account.guilds.remove(&guild),
            };
        }
        let kind = match joins {
            true => EventKind::UserJoinedGuild,
            false => EventKind::UserLeftGuild,
        };
        let body = json!({"guild_id": guild}).to_string().into();
        tables.append(
            shard::realm(user),
            kind,
            Visibility::users(vec![user]),
            body,
        )
    }

    /// Publishes what was appended.
    pub fn publish(&self, redis: &Redis, event: &Envelope, way: Way) {
        let (shard, bytes) = (self.shard(event.realm), event.encode());
        match way {
            Way::Lost => {}
            Way::Unheard => redis.append(shard, bytes),
            Way::Straight => {
                redis.append(shard, bytes.clone());
                redis.publish(shard, &bytes);
            }
            Way::Twice => {
                redis.append(shard, bytes.clone());
                redis.publish(shard, &bytes);
                redis.publish(shard, &bytes);
            }
            Way::Late { ms } => {
                let redis = redis.clone();
                spawn_local(async move {
                    sleep(Duration::from_millis(ms)).await;
                    redis.append(shard, bytes.clone());
                    redis.publish(shard, &bytes);
                });
            }
        }
    }

    fn shard(&self, realm: Id<Realm>) -> ShardId {
        ShardId::of(realm, self.0.borrow().shards)
    }

    /// What is read there once the question has arrived. Errors: it does not answer.
    async fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> Result<T, Error> {
        travel().await;
        let answer = {
            let tables = self.0.borrow();
            let is_away = tables
                .away_until
                .is_some_and(|until| Instant::now() < until);
            (!is_away).then(|| read(&tables))
        };
        travel().await;
        answer.ok_or(Error::Timeout)
    }

    pub(crate) async fn heads(&self, realms: &[Id<Realm>]) -> Result<Vec<Head>, Error> {
        let heads = |tables: &Tables| realms.iter().filter_map(|&id| tables.head(id)).collect();
        self.read(heads).await
    }

    pub(crate) async fn since(
        &self,
        realm: Id<Realm>,
        after: Position,
        limit: u32,
    ) -> Result<Vec<Envelope>, Error> {
        self.read(|tables| {
            let Some(log) = tables.realms.get(&realm).filter(|_| after.era == ERA) else {
                return Vec::new();
            };
            let first = log.seq + 1 - log.events.len() as u64;
            let skipped = (after.seq + 1).saturating_sub(first) as usize;
            let events = log.events.iter().skip(skipped);
            events.take(limit as usize).cloned().collect()
        })
        .await
    }

    pub(crate) async fn newer_in_shards(
        &self,
        shards: &[ShardId],
        window: Duration,
    ) -> Result<Vec<Head>, Error> {
        self.read(|tables| {
            let since = unix_ms().unwrap_or_default();
            let since = since.saturating_sub(window.as_millis() as u64);
            let realms = shards.iter().filter_map(|shard| tables.by_shard.get(shard));
            let newer = realms.flatten().filter(|id| {
                let log = tables.realms.get(id);
                log.and_then(|log| log.events.back())
                    .is_some_and(|event| event.at_ms > since)
            });
            newer.filter_map(|&id| tables.head(id)).collect()
        })
        .await
    }

    pub(crate) async fn guild(&self, guild: Id<Guild>) -> Result<Option<Snapshot>, Error> {
        self.read(|tables| {
            let position = tables.head(shard::realm(guild))?.position;
            let mut snapshot = tables.guilds.get(&guild)?.clone();
            snapshot.position = position;
            Some(snapshot)
        })
        .await
    }
}

/// Nothing is restored here.
const ERA: u32 = 1;

impl Tables {
    fn put_realm(&mut self, realm: Id<Realm>) {
        let shard = ShardId::of(realm, self.shards);
        self.by_shard.entry(shard).or_default().push(realm);
        self.realms.insert(realm, Log::default());
    }

    fn head(&self, realm: Id<Realm>) -> Option<Head> {
        let seq = self.realms.get(&realm)?.seq;
        let position = Position { era: ERA, seq };
        Some(Head { realm, position })
    }

    fn append(
        &mut self,
        realm: Id<Realm>,
        kind: EventKind,
        vis: Visibility,
        body: Bytes,
    ) -> Option<Envelope> {
        let log = self.realms.get_mut(&realm)?;
        log.seq += 1;
        let now = unix_ms().unwrap_or_default();
        let event = Envelope {
            realm,
            durability: Durability::Durable(Position {
                era: ERA,
                seq: log.seq,
            }),
            kind,
            vis,
            at_ms: now,
            trace: 0,
            body,
            alt: None,
        };
        log.events.push_back(event.clone());
        let oldest = now.saturating_sub(KEPT.as_millis() as u64);
        while log.events.front().is_some_and(|event| event.at_ms < oldest) {
            log.events.pop_front();
        }
        Some(event)
    }
}

/// Says who identifies.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) store: Store,
    pub(crate) cores: Rc<[CoreHandle]>,
}

impl Accounts {
    pub(crate) fn identify(&self, core: CoreId, session: SessionKey, request: &IdentifyRequest) {
        let this = self.clone();
        let (token, intents) = (request.token.hash(), request.intents.unwrap_or_default());
        spawn_local(async move {
            let identity = |tables: &Tables| tables.identity(token, intents);
            let result = match this.store.read(identity).await {
                Ok(Some(identity)) => Ok(Box::new(identity)),
                Ok(None) | Err(_) => Err(Refused::TryLater),
            };
            let message = ToCore::Identified { session, result };
            let _ = answer(&this.cores, core, message).await;
        });
    }
}

impl Tables {
    fn identity(
        &self,
        token: TokenHash,
        intents: guildhall_shared::gateway::Intents,
    ) -> Option<Identity> {
        let Account { user, guilds } = self.accounts.get(&token.0)?;
        Some(Identity {
            user: user.clone(),
            token,
            intents,
            presences: Vec::new(),
            sessions: Vec::new(),
            application: None,
            position: self.head(shard::realm(user.user.id))?.position,
            private_channels: Vec::new(),
            guilds: guilds.iter().copied().collect(),
            personal: None,
            seat: None,
        })
    }
}
