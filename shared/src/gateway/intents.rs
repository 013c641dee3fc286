//! Intents: which groups of events a session asked for. Spec: gateway.md › Intents.

use serde::{Deserialize, Serialize};

bitflags::bitflags! {
    /// Intents of a session, or the intents any of which lets an event through
    /// (empty: the event needs none).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Intents: u32 {
        const GUILDS = 1 << 0;
        const GUILD_MEMBERS = 1 << 1;
        const GUILD_MODERATION = 1 << 2;
        const GUILD_EXPRESSIONS = 1 << 3;
        const GUILD_INTEGRATIONS = 1 << 4;
        const GUILD_WEBHOOKS = 1 << 5;
        const GUILD_INVITES = 1 << 6;
        const GUILD_VOICE_STATES = 1 << 7;
        const GUILD_PRESENCES = 1 << 8;
        const GUILD_MESSAGES = 1 << 9;
        const GUILD_MESSAGE_REACTIONS = 1 << 10;
        const GUILD_MESSAGE_TYPING = 1 << 11;
        const DIRECT_MESSAGES = 1 << 12;
        const DIRECT_MESSAGE_REACTIONS = 1 << 13;
        const DIRECT_MESSAGE_TYPING = 1 << 14;
        const MESSAGE_CONTENT = 1 << 15;
        const GUILD_SCHEDULED_EVENTS = 1 << 16;
        const AUTO_MODERATION_CONFIGURATION = 1 << 20;
        const AUTO_MODERATION_EXECUTION = 1 << 21;
        const GUILD_MESSAGE_POLLS = 1 << 24;
        const DIRECT_MESSAGE_POLLS = 1 << 25;
    }
}

impl Intents {
    /// Needs a flag on the application.
    pub const PRIVILEGED: Self = Self::GUILD_MEMBERS
        .union(Self::GUILD_PRESENCES)
        .union(Self::MESSAGE_CONTENT);

    /// The privileged intents that an application's flags allow, by its approved
    /// or its self-service (`_LIMITED`) bit.
    pub fn allowed_by_application(flags: u64) -> Self {
        let mut allowed = Self::all().difference(Self::PRIVILEGED);
        for (bits, intent) in [
            (0b11 << 12, Self::GUILD_PRESENCES),
            (0b11 << 14, Self::GUILD_MEMBERS),
            (0b11 << 18, Self::MESSAGE_CONTENT),
        ] {
            if flags & bits != 0 {
                allowed |= intent;
            }
        }
        allowed
    }
}

impl Serialize for Intents {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bits().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Intents {
    /// Unknown bits are an error.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bits = u32::deserialize(deserializer)?;
        Self::from_bits(bits).ok_or_else(|| serde::de::Error::custom("unknown intents"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_documented_ones() {
        assert_eq!(Intents::all().bits(), 0x0331_FFFF);
        assert_eq!(
            Intents::all().difference(Intents::PRIVILEGED).bits(),
            0x0331_7EFD
        );
    }

    #[test]
    fn limited_flags_allow_as_approved_ones_do() {
        for flags in [1 << 18, 1 << 19] {
            let allowed = Intents::allowed_by_application(flags);
            assert!(allowed.contains(Intents::MESSAGE_CONTENT));
            assert!(!allowed.intersects(Intents::GUILD_MEMBERS | Intents::GUILD_PRESENCES));
        }
    }
}
