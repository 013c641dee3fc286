//! The delivery log: what a core did, so that another node can tell what a session had got when
//! its client had seen its `s`.
//!
//! A core writes *chunks* of records and forgets them; the node ships them to Redis. A session's
//! whole state stands in the log when it gets READY and about once a minute; in between, only
//! what moves it: which sessions an event of a realm reached, and what was dispatched to one
//! alone. Whoever reads the log starts from the newest state at or before the client's `s` and
//! counts to `s`. Chunks are numbered: behind a gap nothing of before counts, so a log that lost
//! something says too little, never something wrong.
//!
//! Pure: knows no Redis, no clock and no socket.

mod history;
mod writer;

pub use history::{BadLog, Found, History};
pub use writer::Writer;

/// First byte of a chunk: a reader of another version takes nothing from it.
const VERSION: u8 = 2;

/// Kinds of records. A record is its kind and varints, unless said otherwise.
mod kind {
    /// `realm, era, seq` (0, 0: ephemeral), then the sessions that got it as their next `s`.
    pub(super) const EVENT: u8 = 1;
    /// `slot`: one dispatch that is no realm's.
    pub(super) const OWN: u8 = 2;
    /// `slot, s, length`, then a `SessionRecord` in postcard.
    pub(super) const STATE: u8 = 3;
    /// `slot, numbered, guild, era, seq`: has the guild from here on.
    pub(super) const JOINED: u8 = 4;
    /// `slot, numbered, guild`.
    pub(super) const LEFT: u8 = 5;
    /// `slot, numbered, guild, arrival`: waits for GUILD_CREATE.
    pub(super) const WAITS: u8 = 6;
    /// `slot, era, seq`: the events of its own realm up to here were acted on.
    pub(super) const HOME: u8 = 7;
    /// `slot`: the session is over, or no longer here.
    pub(super) const END: u8 = 8;
    /// `slot, guild`: what it knows of the guild's channels may be wrong from here on.
    pub(super) const BLURRED: u8 = 9;
    /// `slot, guild`: it is right again.
    pub(super) const SHARP: u8 = 10;
}

/// Whether a record tells of a dispatch too: the session's next `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
