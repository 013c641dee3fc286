//! Who identifies: what is asked of the database, and what it says.

use guildhall_shared::{
    Id,
    gateway::{CloseCode, Intents},
    id::marker::{Application, Guild, User},
    model::{CurrentUser, Presence, PrivateChannel, SessionState},
    shard::Position,
    token::{Token, TokenHash},
};
use guildhall_store::personal::Personal;

use crate::names::Seat;

/// What IDENTIFY needs checked against the database.
#[derive(Debug, Clone)]
pub struct IdentifyRequest {
    pub token: Token,
    /// `None`: not given, as user clients do, or unfit.
    pub intents: Option<Intents>,
    /// Bot shard `(id, count)`, `id < count`.
    pub shard: (u32, u32),
    /// How to refuse whoever it is, whose shard (4010) or intents (4013) were none.
    pub unfit: Option<CloseCode>,
}

/// Who identified.
#[derive(Debug, Clone)]
pub struct Identity {
    pub user: CurrentUser,
    pub token: TokenHash,
    /// As asked for and allowed; of users whatever they sent.
    pub intents: Intents,
    /// Of people: who of their friends and partners is online.
    pub presences: Vec<(Id<User>, Presence)>,
    /// Of people: their other sessions.
    pub sessions: Vec<SessionState>,
    /// For bots: id and flags of the application.
    pub application: Option<(Id<Application>, u64)>,
    /// The user's realm stands here; guild joins and leaves after it follow as its events.
    pub position: Position,
    /// Of users: the DMs and group DMs they list.
    pub private_channels: Vec<PrivateChannel>,
    /// Guilds of this bot shard (all of them for users).
    pub guilds: Vec<Id<Guild>>,
    /// Relationships, settings, notes; bots have none.
    pub personal: Option<Box<Personal>>,
    /// Of people: its place among the sessions they may have, to be given back by
    /// [`ToNode::Left`](crate::bus::ToNode::Left).
    pub seat: Option<Seat>,
}

/// Why an IDENTIFY was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Close(CloseCode),
    /// Op 9, `d: false`: too many identifies in this bucket; the client waits and tries again.
    TryLater,
}
