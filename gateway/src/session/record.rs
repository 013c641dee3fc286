//! What another core or another node needs to go on with a session.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    gateway::{Capabilities, EventKind, Intents},
    id::marker::{Guild, User},
    model::{Activity, Platform, Status},
    shard::Position,
    token::TokenHash,
};
use serde::{Deserialize, Serialize};

use super::{Arrival, Session, presence::Doing, replay::Replay};
use crate::{
    ask::Watch,
    hub,
    names::{Seat, SessionId},
};

/// A session without its connection and its dispatches, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub id: SessionId,
    pub user: Id<User>,
    pub token: TokenHash,
    pub bot: bool,
    /// A person's.
    pub seat: Option<Seat>,
    pub(crate) intents: u32,
    pub shard: (u32, u32),
    pub large_threshold: u16,
    pub(crate) capabilities: u32,
    pub compress: bool,
    pub platform: Platform,
    pub status: Status,
    pub activities: Option<Arc<Vec<Activity>>>,
    /// Guilds in which it asked for voice.
    pub voice: Vec<Id<Guild>>,
    pub watches: Vec<(Id<Guild>, Watch)>,
    /// It got the events of its user's own realm up to here.
    pub home: Position,
    pub guilds: Vec<(Id<Guild>, Reached)>,
}

/// How far a session is with a guild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reached {
    /// It waits for GUILD_CREATE.
    Nothing(Arrival),
    /// It has the guild, and its events up to here.
    Position(Position),
    /// The same, but its client may lack news of channels: it gets the guild anew.
    Blurred(Position),
}

impl SessionRecord {
    /// Of a session that has READY. `home`, `guilds`: how far it is in its user's own realm and
    /// in its guilds.
    pub fn new(session: &Session, home: Position, guilds: Vec<(Id<Guild>, Reached)>) -> Self {
        Self {
            id: session.id,
            user: session.user,
            token: session.token,
            bot: session.bot,
            seat: session.seat,
            intents: session.intents.bits(),
            shard: session.shard,
            large_threshold: session.large_threshold,
            capabilities: session.capabilities.bits(),
            compress: session.compress,
            platform: session.platform,
            status: session.status,
            activities: session.activities().cloned(),
            voice: session.voice.clone(),
            watches: session.watches.clone(),
            home,
            guilds,
        }
    }

    /// The session as another core goes on with it: nothing of its guilds is there yet.
    pub fn open(self, generation: u32, now: Instant, replay: Replay) -> Session {
        Session {
            id: self.id,
            generation,
            user: self.user,
            token: self.token,
            bot: self.bot,
            seat: self.seat,
            // A gateway of another version may have given people others.
            intents: match self.bot {
                true => Intents::from_bits_retain(self.intents),
                false => hub::user_intents(),
            },
            shard: self.shard,
            large_threshold: self.large_threshold,
            capabilities: Capabilities::from_bits_retain(self.capabilities),
            compress: self.compress,
            platform: self.platform,
            status: self.status,
            doing: Doing::resumed(self.activities, now),
            watches: self.watches,
            looks: None,
            connection: None,
            detached_at: Some(now),
            resumed: true,
            doubted: false,
            replay,
            dirty: false,
            recorded_at: None,
            home: Some(self.home),
            guilds: Vec::new(),
            voice: self.voice,
            assembling: None,
        }
    }
}

/// A session on its way to another core.
#[derive(Debug, Clone, PartialEq)]
pub struct Travelling {
    pub record: SessionRecord,
    /// Newest dispatch that its client has.
    pub s: u64,
    /// All dispatches after that one up to where `record` stands.
    pub dispatches: Vec<(EventKind, Bytes)>,
}
