//! Sessions: what survives a broken socket, and the life of the connection in front of it.

pub mod lifecycle;
pub mod limit;
pub mod presence;
pub mod record;
pub mod replay;

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{Capabilities, Intents},
    id::marker::{Guild, User},
    model::{Platform, Status},
    shard::Position,
    token::TokenHash,
};
use serde::{Deserialize, Serialize};

use crate::{
    ask::Watch,
    dispatch::Dispatch,
    identity::Identity,
    names::{Seat, SessionId, SessionKey, SessionSlot},
    session::{limit::BlockLimit, presence::Doing, replay::Replay},
};

/// Bytes of bodies kept for RESUME, and bytes that may wait for a slow socket.
pub const REPLAY_BYTES_MAX: usize = 8 << 20;
pub const UNSENT_BYTES_MAX: usize = 2 << 20;
/// Bots get the load of many guilds on one session. What waits is less than what is kept: a bot that
/// is closed for it can resume.
pub const BOT_REPLAY_BYTES_MAX: usize = 16 << 20;
pub const BOT_UNSENT_BYTES_MAX: usize = 12 << 20;
/// Dispatches that may wait for a slow socket. A reader further behind is closed with 4000
/// and may resume.
pub const UNSENT_DISPATCHES_MAX: u64 = 4096;

/// A gateway session. Owned by one core; outlives its connection for the resume window.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub generation: u32,
    pub user: Id<User>,
    pub token: TokenHash,
    pub bot: bool,
    /// A person's: given back at the end.
    pub seat: Option<Seat>,
    /// Of users: all but what they must subscribe to.
    pub intents: Intents,
    /// Bot shard `(id, count)`.
    pub shard: (u32, u32),
    pub large_threshold: u16,
    /// Of user clients: which shapes they read.
    pub capabilities: Capabilities,
    /// IDENTIFY asked for compressed payloads.
    pub compress: bool,
    pub platform: Platform,
    /// As its client set it.
    pub status: Status,
    /// Activities and changes of presence, once there are any.
    pub doing: Option<Box<Doing>>,
    /// What a person's client looks at, what it named last at the end.
    pub watches: Vec<(Id<Guild>, Watch)>,
    /// How much of that it was shown lately, once it was.
    pub looks: Option<Box<Looks>>,
    /// Slot of the connection, while there is one.
    pub connection: Option<SessionSlot>,
    /// Since when there is none.
    pub detached_at: Option<Instant>,
    /// Redis says who has it.
    pub resumed: bool,
    /// It may go on elsewhere, and nobody would know.
    pub doubted: bool,
    /// Everything dispatched lately; numbers the dispatches.
    pub replay: Replay,
    /// Dispatches wait to be written.
    pub dirty: bool,
    /// When the delivery log was last told all of it; `None`: it is to be told anew.
    pub recorded_at: Option<Instant>,
    /// Where READY left off in the user's own realm, until its events follow from there.
    pub home: Option<Position>,
    /// By their ids: large bots have thousands, and READY asks for each.
    pub guilds: Vec<(Id<Guild>, GuildPhase)>,
    /// Guilds in which it asked for voice; it leaves it there when it ends.
    pub voice: Vec<Id<Guild>>,
    /// A user's READY while its guilds come in.
    pub assembling: Option<Box<Assembling>>,
}

/// How far a session is with one of its guilds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuildPhase {
    /// Its snapshot was asked for.
    Waiting(Arrival),
    /// GUILD_CREATE was sent (or its place in READY taken).
    Present,
    /// The session comes from another core: it has the guild, and its events up to here.
    Returning(Position),
}

/// What a session is shown of member lists.
#[derive(Debug)]
pub struct Looks {
    pub limit: BlockLimit,
    /// Guilds in which it is to be shown what it looks at when that is not too much any more, what it
    /// named last at the end.
    pub later: Vec<Id<Guild>>,
    /// It is in the line of those who wait for that.
    pub in_line: bool,
}

impl Looks {
    pub fn new(now: Instant) -> Self {
        Self {
            limit: BlockLimit::new(now),
            later: Vec::new(),
            in_line: false,
        }
    }
}

/// Why a guild comes to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arrival {
    /// It was in READY: GUILD_CREATE says `unavailable: false`.
    Initial,
    /// The user joined it: no such key, by which libraries tell the two apart.
    Joined,
    /// It was announced as unavailable and comes back.
    Restored,
}

impl Arrival {
    /// `unavailable` of its GUILD_CREATE.
    pub fn unavailable(self) -> Option<bool> {
        match self {
            Self::Initial | Self::Restored => Some(false),
            Self::Joined => None,
        }
    }
}

/// A READY that needs whole guilds.
#[derive(Debug)]
pub struct Assembling {
    pub identity: Box<Identity>,
    pub shard: Option<(u32, u32)>,
    pub since: Instant,
    pub guilds: Vec<AssembledGuild>,
    pub missed: Missed,
    /// Dispatches that came meanwhile; they follow READY.
    pub later: Vec<Rc<Dispatch>>,
}

/// One guild of a READY.
#[derive(Debug)]
pub struct AssembledGuild {
    pub id: Id<Guild>,
    /// Where its snapshot was taken: its events follow from here.
    pub position: Position,
    /// JSON of a GUILD_CREATE.
    pub body: Bytes,
}

/// Messages that a READY has to count: its read states are older than its guilds.
#[derive(Debug)]
pub enum Missed {
    /// Not known yet whether there are any.
    Unknown,
    /// The node looks them up.
    Asked,
    Known(Vec<Envelope>),
}

impl Session {
    /// What names the session, which is in `slot` of its core, to others.
    pub fn key(&self, slot: SessionSlot) -> SessionKey {
        SessionKey {
            slot,
            generation: self.generation,
        }
    }

    pub fn replay_bytes_max(&self) -> usize {
        if self.bot {
            BOT_REPLAY_BYTES_MAX
        } else {
            REPLAY_BYTES_MAX
        }
    }

    pub fn unsent_bytes_max(&self) -> usize {
        if self.bot {
            BOT_UNSENT_BYTES_MAX
        } else {
            UNSENT_BYTES_MAX
        }
    }

    pub fn guild_phase(&self, guild: Id<Guild>) -> Option<GuildPhase> {
        let place = self.place_of(guild).ok()?;
        Some(self.guilds[place].1)
    }

    pub fn set_guild_phase(&mut self, guild: Id<Guild>, phase: GuildPhase) {
        match self.place_of(guild) {
            Ok(place) => self.guilds[place].1 = phase,
            Err(place) => self.guilds.insert(place, (guild, phase)),
        }
    }

    /// Where a guild is in `guilds`, or would be.
    fn place_of(&self, guild: Id<Guild>) -> Result<usize, usize> {
        self.guilds.binary_search_by_key(&guild, |&(id, _)| id)
    }
}
