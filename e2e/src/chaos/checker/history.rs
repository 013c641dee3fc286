//! What a run leaves behind for the checker: what Postgres numbered, what sessions were told, what
//! writers were promised, and which faults there were when.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Milliseconds since the Unix epoch, by the clock of the one machine that everything runs on.
pub type Millis = u64;

/// Everything of one run.
#[derive(Debug, Default)]
pub struct History {
    pub guilds: Vec<GuildHistory>,
    pub sessions: Vec<SessionHistory>,
    /// What got a 2xx.
    pub writes: Vec<Write>,
    /// Messages in Postgres at the end: id and text.
    pub stored: BTreeMap<u64, String>,
    pub troubles: Vec<Trouble>,
    /// What dispatches said, by [`fingerprint`].
    pub bodies: HashMap<u64, Body>,
}

/// `t` and the text of `d`.
#[derive(Debug, Clone)]
pub struct Body {
    pub t: String,
    pub d: String,
}

/// Tells dispatches apart by what they say.
pub fn fingerprint(t: &str, d: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (t, d).hash(&mut hasher);
    hasher.finish()
}

/// A guild's log after a base, in which its state is known.
#[derive(Debug)]
pub struct GuildHistory {
    pub id: u64,
    pub base: Base,
    /// With the numbers after `base.seq`, in their order.
    pub events: Vec<Logged>,
}

/// A guild at a number, read through REST while nobody wrote.
#[derive(Debug, Clone, Default)]
pub struct Base {
    pub seq: u64,
    pub owner: u64,
    pub roles: BTreeMap<u64, Role>,
    pub channels: BTreeMap<u64, Channel>,
    /// Members and their roles.
    pub members: BTreeMap<u64, Vec<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Role {
    pub name: String,
    pub permissions: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Channel {
    pub topic: Option<String>,
    pub overwrites: Vec<Overwrite>,
    /// Newest message.
    pub last: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub struct Overwrite {
    pub id: u64,
    pub of_member: bool,
    pub allow: u64,
    pub deny: u64,
}

/// A row of `realm_event`.
#[derive(Debug, Clone)]
pub struct Logged {
    pub seq: u64,
    pub at: Millis,
    pub kind: &'static str,
    /// JSON of `d`.
    pub body: String,
    /// The same for who may not read messages' text.
    pub alt: Option<String>,
}

/// One client over all its sockets and sessions.
#[derive(Debug)]
pub struct SessionHistory {
    pub name: String,
    pub user: u64,
    /// `None` for humans, who have no intents.
    pub intents: Option<u32>,
    pub records: Vec<Record>,
    /// Connected when the run ended.
    pub alive: bool,
}

#[derive(Debug)]
pub struct Record {
    pub at: Millis,
    pub what: What,
}

/// What a client saw.
#[derive(Debug)]
pub enum What {
    /// A socket at a gateway.
    Opened {
        node: usize,
    },
    Ready {
        s: u64,
        /// The gateway that has the session.
        node: usize,
        pictures: Vec<Picture>,
    },
    Resumed {
        s: u64,
    },
    /// GUILD_CREATE.
    Guild {
        s: u64,
        picture: Box<Picture>,
    },
    /// GUILD_DELETE.
    GuildGone {
        s: u64,
        guild: u64,
    },
    /// Any other dispatch; what it said is in [`History::bodies`].
    Dispatch {
        s: u64,
        said: u64,
    },
    /// op 9 in answer to RESUME.
    Refused,
    /// op 9 in answer to IDENTIFY.
    NotNow,
    /// op 7.
    SentAway,
    Ended {
        code: Option<u16>,
    },
    /// A frame that breaks the rules of the wire.
    Malformed(String),
}

/// A guild as a READY or a GUILD_CREATE shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub guild: u64,
    pub channels: BTreeMap<u64, Seen>,
    pub roles: BTreeMap<u64, Role>,
    pub member_count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub topic: Option<String>,
    pub last: Option<u64>,
}

/// A promise by a 2xx.
#[derive(Debug, Clone)]
pub enum Write {
    Created {
        id: u64,
        /// Unique for its nonce.
        content: String,
    },
    Edited {
        id: u64,
        content: String,
    },
    Deleted {
        id: u64,
    },
    /// A change that bears a name (role), topic (channel) or nick (member) used only once.
    Marked {
        kind: &'static str,
        mark: String,
    },
}

/// One fault, from its beginning until everything it touched was well again.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub from: Millis,
    pub to: Millis,
    pub label: String,
    pub touches: Touches,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touches {
    Gateway(usize),
    /// A gateway that is well and sends its clients away: each of their sessions resumes at
    /// another one, so it explains no op 9.
    Clients(usize),
    Redis,
    Postgres,
    /// Not what sessions live on.
    Other,
}
