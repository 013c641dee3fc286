//! What sessions ask of a guild's owner, and what they look at there.

use guildhall_shared::{
    Id,
    id::marker::{Channel, Guild, User},
};
use serde::{Deserialize, Serialize};

use crate::names::Address;

/// What a session looks at in a guild.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Lists of members beside channels: the blocks of a hundred rows.
    pub channels: Vec<(Id<Channel>, Vec<u32>)>,
    /// Members that it follows wherever they stand in a list.
    pub members: Vec<Id<User>>,
}

impl Watch {
    /// How many blocks it is.
    pub fn blocks(&self) -> usize {
        self.channels.iter().map(|(_, blocks)| blocks.len()).sum()
    }
}

/// A session looks at something else in a guild; without a watch at nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchChange {
    pub guild: Id<Guild>,
    pub from: Address,
    pub user: Id<User>,
    pub watch: Option<Watch>,
}

/// What a session asks of a guild it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back with the answer.
    pub number: u32,
    pub guild: Id<Guild>,
    pub from: Address,
    pub user: Id<User>,
    pub bot: bool,
    /// As identified with; of people those they count as having.
    pub intents: u32,
    pub question: Question,
}

/// The questions that a guild's owner answers from its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Op 31: SOUNDBOARD_SOUNDS.
    Sounds,
    /// Op 8 and 35: GUILD_MEMBERS_CHUNK.
    Members(Box<Members>),
    /// Op 36: CHANNEL_STATUSES.
    ChannelStatuses,
    /// Op 39: CHANNEL_MEMBER_COUNT_UPDATE.
    MemberCount { channel: Id<Channel> },
    /// Op 43: CHANNEL_INFO.
    ChannelInfo(ChannelFields),
    /// Asked by the core itself: PASSIVE_UPDATE_V1 with all who are in voice.
    VoiceStates,
    /// Op 14 and 37 with `threads`: THREAD_LIST_SYNC with all active ones that are seen.
    Threads,
}

/// Which members, and how the answer is to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub wanted: Wanted,
    pub presences: bool,
    /// Echoed; at most 32 bytes.
    pub nonce: Option<String>,
}

/// Which members of a guild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// One part of them all; `None`: the first, and how many there are.
    All(Option<Part>),
    /// Those with a name that starts so.
    Prefix { query: String, limit: u16 },
    /// These.
    Ids(Vec<Wish>),
    /// Who joined last, of those with a name that starts so.
    Recent { query: String },
}

/// One of the parts in which all members of a guild are told: those with ids above `after`,
/// up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// 1 and up: the first part needs none.
    pub index: u32,
    pub count: u32,
    pub after: Id<User>,
    /// `None` of the last part.
    pub to: Option<Id<User>>,
}

/// A user asked for by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    User(Id<User>),
    /// JSON that is no id: nobody's.
    Junk(String),
}

/// What is asked of channels besides their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelFields {
    pub status: bool,
    pub voice_start_time: bool,
}

/// Which question something answers, and what there is beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub number: u32,
    /// Of the first part of all members: the last id of each part but the last one.
    pub ends: Vec<Id<User>>,
}
