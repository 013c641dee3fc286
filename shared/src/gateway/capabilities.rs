//! Capabilities: which shapes of READY a user client reads. Spec: gateway.md › Capabilities.

bitflags::bitflags! {
    /// `capabilities` of IDENTIFY. Without a bit the older shape is sent. Only the bits that
    /// change what we send are named; the others may be set.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Capabilities: u32 {
        /// No `notes` in READY.
        const LAZY_USER_NOTES = 1 << 0;
        /// `read_state` is `{entries, partial, version}`.
        const VERSIONED_READ_STATES = 1 << 2;
        /// `user_guild_settings` likewise.
        const VERSIONED_USER_GUILD_SETTINGS = 1 << 3;
        /// Users are in `users`, once each; ids stand in their places.
        const DEDUPE_USER_OBJECTS = 1 << 4;
        /// READY_SUPPLEMENTAL follows READY.
        const PRIORITIZED_READY_PAYLOAD = 1 << 5;
        /// What REST says of a guild is under `properties`.
        const CLIENT_STATE_V2 = 1 << 10;
        /// PASSIVE_UPDATE_V1 in place of CHANNEL_UNREAD_UPDATE.
        const PASSIVE_GUILD_UPDATE = 1 << 11;
        /// PASSIVE_UPDATE_V2 in place of both.
        const PASSIVE_GUILD_UPDATE_V2 = 1 << 14;
    }
}
