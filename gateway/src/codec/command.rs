//! What clients say, whatever the encoding it came in.

use guildhall_shared::{
    Id,
    gateway::{Capabilities, CloseCode, Intents},
    id::marker::{Channel, Guild, User},
    model::{Platform, Status},
    token::Token,
};

use crate::ask::{Question, Wanted};

/// A payload from a client. Spec: gateway.md › Opcodes.
#[derive(Debug, Clone)]
pub enum Command {
    /// Op 1 and 40, with the `s` of the newest dispatch the client has, if it says so.
    Heartbeat(Option<u64>),
    Identify(Box<Identify>),
    Resume(Box<Resume>),
    /// Op 2 or 6 of another shape; how to close then: 4002, 4004 for a token without a token's form.
    /// Who has identified already is told that first.
    Unfit(CloseCode),
    /// Op 3.
    Presence(Box<PresenceCommand>),
    /// Op 14 and 37: what a person's client looks at in these guilds.
    Watch(Vec<(Id<Guild>, WatchCommand)>),
    /// Op 4 for a guild.
    Voice(Box<VoiceCommand>),
    /// Op 31: the soundboards of these guilds.
    Sounds(Vec<Id<Guild>>),
    /// An identified client's command with a body of another shape; how to close then. Who has not
    /// identified is told that first.
    Malformed(CloseCode),
    /// Op 8, and 35.
    Members(Box<MembersCommand>),
    /// Op 36, 39 and 43: something of a guild that its owner knows.
    Ask(Id<Guild>, Question),
    /// Known, legal once READY was sent, and without effect here.
    Other,
}

/// Op 2 as it came; what only the database can tell is not checked yet.
#[derive(Debug, Clone)]
pub struct Identify {
    pub token: Token,
    /// `None`: not given, or with unknown bits or no integer.
    pub intents: Option<Intents>,
    /// `(id, count)`, `id < count`; `None`: not given, or no such pair.
    pub shard: Option<(u32, u32)>,
    /// How to close for a bad `shard` (4010), else for bad `intents` (4013): once the token is known to
    /// be somebody's, as that is checked before.
    pub unfit: Option<CloseCode>,
    /// 50 to 250.
    pub large_threshold: Option<u16>,
    /// Of user clients; none if not given.
    pub capabilities: Capabilities,
    /// Large dispatches are to come as zlib streams of their own.
    pub compress: bool,
    /// What the client runs on; bots count as web.
    pub platform: Platform,
    pub presence: Option<Box<PresenceCommand>>,
}

/// Op 3: how the session is to be seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PresenceCommand {
    /// `None`: as it was; in IDENTIFY as the account's settings say, else online.
    pub status: Option<Status>,
    pub activities: Vec<ActivityCommand>,
}

/// What a client looks at in a guild; what it does not say stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchCommand {
    /// Blocks of a hundred rows of the lists beside these channels.
    pub channels: Option<Vec<(Id<Channel>, Vec<u32>)>>,
    pub members: Option<Vec<Id<User>>>,
    /// It wants to know the guild's active threads.
    pub threads: bool,
}

/// An activity as its client says it; not all of it is shown of a bot.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivityCommand {
    /// 0 to 5.
    pub kind: u8,
    /// May be empty.
    pub name: String,
    pub state: Option<String>,
    pub url: Option<String>,
    /// Checked fields besides.
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Op 4: into a voice channel, how one is in it, or out of voice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoiceCommand {
    pub guild: Id<Guild>,
    pub channel: Option<Id<Channel>>,
    pub self_mute: bool,
    pub self_deaf: bool,
    pub self_video: bool,
}

/// Op 8: members of guilds. Never without a guild; bots may name one only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersCommand {
    pub guilds: Vec<Id<Guild>>,
    pub wanted: Wanted,
    pub presences: bool,
    /// At most 32 bytes.
    pub nonce: Option<String>,
}

/// Op 6.
#[derive(Debug, Clone)]
pub struct Resume {
    pub token: Token,
    pub session_id: String,
    pub seq: u64,
}
