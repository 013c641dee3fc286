//! What a chunk is made of, for who writes it and who reads it.

/// First byte of a chunk: a reader of another version takes nothing from it.
pub(super) const VERSION: u8 = 2;

/// Kinds of records. A record is its kind and varints, unless said otherwise.
pub(super) mod kind {
    /// `realm, era, seq` (0, 0: ephemeral), then the sessions that got it as their next `s`.
    pub(crate) const EVENT: u8 = 1;
    /// `slot`: one dispatch that is no realm's.
    pub(crate) const OWN: u8 = 2;
    /// `slot, s, length`, then a `SessionRecord` in postcard.
    pub(crate) const STATE: u8 = 3;
    /// `slot, numbered, guild, era, seq`: has the guild from here on.
    pub(crate) const JOINED: u8 = 4;
    /// `slot, numbered, guild`.
    pub(crate) const LEFT: u8 = 5;
    /// `slot, numbered, guild, arrival`: waits for GUILD_CREATE.
    pub(crate) const WAITS: u8 = 6;
    /// `slot, era, seq`: the events of its own realm up to here were acted on.
    pub(crate) const HOME: u8 = 7;
    /// `slot`: the session is over, or no longer here.
    pub(crate) const END: u8 = 8;
    /// `slot, guild`: what it knows of the guild's channels may be wrong from here on.
    pub(crate) const BLURRED: u8 = 9;
    /// `slot, guild`: it is right again.
    pub(crate) const SHARP: u8 = 10;
}

/// Whether a record tells of a dispatch too: the session's next `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    Yes,
    No,
}
