//! Gateway opcodes. Spec: gateway.md › Opcodes.

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    Dispatch = 0,
    Heartbeat = 1,
    Identify = 2,
    PresenceUpdate = 3,
    VoiceStateUpdate = 4,
    Resume = 6,
    Reconnect = 7,
    RequestGuildMembers = 8,
    InvalidSession = 9,
    Hello = 10,
    HeartbeatAck = 11,
    GuildSubscriptions = 14,
    RequestSoundboardSounds = 31,
    SearchRecentMembers = 35,
    RequestChannelStatuses = 36,
    GuildSubscriptionsBulk = 37,
    RequestChannelMemberCount = 39,
    QosHeartbeat = 40,
    RequestChannelInfo = 43,
}
