//! Dispatch events by name and number.

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $number:literal => $wire:literal),* $(,)?) => {
        /// What happened. The number is part of the envelope and of stored events:
        /// it never changes; the name is the dispatch's `t`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum EventKind {
            $($(#[$doc])* $name = $number),*
        }

        impl EventKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// `t` of the dispatch; for kinds below 100 the name in logs only.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $wire),* }
            }

            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

events! {
    // Below 100: between our own processes, never dispatched to a client.
    /// In a user's realm: the user is now in a guild. Body: `{"guild_id"}`.
    UserJoinedGuild = 1 => "user joined guild",
    /// In a user's realm: the user is no longer in a guild. Body: `{"guild_id"}`.
    UserLeftGuild = 2 => "user left guild",
    /// In a user's realm: tokens were revoked. Body: `{"tokens": ["<hex sha-256>", …]}`
    /// or `{"tokens": null}` for all of them.
    TokensRevoked = 3 => "tokens revoked",

    // As clients know them.
    Ready = 100 => "READY",
    ReadySupplemental = 101 => "READY_SUPPLEMENTAL",
    Resumed = 102 => "RESUMED",
    RateLimited = 103 => "RATE_LIMITED",
    ApplicationCommandPermissionsUpdate = 104 => "APPLICATION_COMMAND_PERMISSIONS_UPDATE",
    AutoModerationRuleCreate = 105 => "AUTO_MODERATION_RULE_CREATE",
    AutoModerationRuleUpdate = 106 => "AUTO_MODERATION_RULE_UPDATE",
    AutoModerationRuleDelete = 107 => "AUTO_MODERATION_RULE_DELETE",
    AutoModerationActionExecution = 108 => "AUTO_MODERATION_ACTION_EXECUTION",
    ChannelCreate = 109 => "CHANNEL_CREATE",
    ChannelUpdate = 110 => "CHANNEL_UPDATE",
    ChannelDelete = 111 => "CHANNEL_DELETE",
    ChannelInfo = 112 => "CHANNEL_INFO",
    ChannelPinsUpdate = 113 => "CHANNEL_PINS_UPDATE",
    ThreadCreate = 114 => "THREAD_CREATE",
    ThreadUpdate = 115 => "THREAD_UPDATE",
    ThreadDelete = 116 => "THREAD_DELETE",
    ThreadListSync = 117 => "THREAD_LIST_SYNC",
    ThreadMemberUpdate = 118 => "THREAD_MEMBER_UPDATE",
    ThreadMembersUpdate = 119 => "THREAD_MEMBERS_UPDATE",
    GuildCreate = 120 => "GUILD_CREATE",
    GuildUpdate = 121 => "GUILD_UPDATE",
    GuildDelete = 122 => "GUILD_DELETE",
    GuildAuditLogEntryCreate = 123 => "GUILD_AUDIT_LOG_ENTRY_CREATE",
    GuildBanAdd = 124 => "GUILD_BAN_ADD",
    GuildBanRemove = 125 => "GUILD_BAN_REMOVE",
    GuildEmojisUpdate = 126 => "GUILD_EMOJIS_UPDATE",
    GuildStickersUpdate = 127 => "GUILD_STICKERS_UPDATE",
    GuildSoundboardSoundCreate = 128 => "GUILD_SOUNDBOARD_SOUND_CREATE",
    GuildSoundboardSoundUpdate = 129 => "GUILD_SOUNDBOARD_SOUND_UPDATE",
    GuildSoundboardSoundDelete = 130 => "GUILD_SOUNDBOARD_SOUND_DELETE",
    GuildSoundboardSoundsUpdate = 131 => "GUILD_SOUNDBOARD_SOUNDS_UPDATE",
    SoundboardSounds = 132 => "SOUNDBOARD_SOUNDS",
    GuildIntegrationsUpdate = 133 => "GUILD_INTEGRATIONS_UPDATE",
    IntegrationCreate = 134 => "INTEGRATION_CREATE",
    IntegrationUpdate = 135 => "INTEGRATION_UPDATE",
    IntegrationDelete = 136 => "INTEGRATION_DELETE",
    GuildMemberAdd = 137 => "GUILD_MEMBER_ADD",
    GuildMemberUpdate = 138 => "GUILD_MEMBER_UPDATE",
    GuildMemberRemove = 139 => "GUILD_MEMBER_REMOVE",
    GuildMembersChunk = 140 => "GUILD_MEMBERS_CHUNK",
    GuildRoleCreate = 141 => "GUILD_ROLE_CREATE",
    GuildRoleUpdate = 142 => "GUILD_ROLE_UPDATE",
    GuildRoleDelete = 143 => "GUILD_ROLE_DELETE",
    GuildScheduledEventCreate = 144 => "GUILD_SCHEDULED_EVENT_CREATE",
    GuildScheduledEventUpdate = 145 => "GUILD_SCHEDULED_EVENT_UPDATE",
    GuildScheduledEventDelete = 146 => "GUILD_SCHEDULED_EVENT_DELETE",
    GuildScheduledEventUserAdd = 147 => "GUILD_SCHEDULED_EVENT_USER_ADD",
    GuildScheduledEventUserRemove = 148 => "GUILD_SCHEDULED_EVENT_USER_REMOVE",
    InteractionCreate = 149 => "INTERACTION_CREATE",
    InviteCreate = 150 => "INVITE_CREATE",
    InviteDelete = 151 => "INVITE_DELETE",
    MessageCreate = 152 => "MESSAGE_CREATE",
    MessageUpdate = 153 => "MESSAGE_UPDATE",
    MessageDelete = 154 => "MESSAGE_DELETE",
    MessageDeleteBulk = 155 => "MESSAGE_DELETE_BULK",
    MessageReactionAdd = 156 => "MESSAGE_REACTION_ADD",
    MessageReactionRemove = 157 => "MESSAGE_REACTION_REMOVE",
    MessageReactionRemoveAll = 158 => "MESSAGE_REACTION_REMOVE_ALL",
    MessageReactionRemoveEmoji = 159 => "MESSAGE_REACTION_REMOVE_EMOJI",
    MessagePollVoteAdd = 160 => "MESSAGE_POLL_VOTE_ADD",
    MessagePollVoteRemove = 161 => "MESSAGE_POLL_VOTE_REMOVE",
    PresenceUpdate = 162 => "PRESENCE_UPDATE",
    StageInstanceCreate = 163 => "STAGE_INSTANCE_CREATE",
    StageInstanceUpdate = 164 => "STAGE_INSTANCE_UPDATE",
    StageInstanceDelete = 165 => "STAGE_INSTANCE_DELETE",
    TypingStart = 166 => "TYPING_START",
    UserUpdate = 167 => "USER_UPDATE",
    VoiceChannelEffectSend = 168 => "VOICE_CHANNEL_EFFECT_SEND",
    VoiceChannelStatusUpdate = 169 => "VOICE_CHANNEL_STATUS_UPDATE",
    VoiceChannelStartTimeUpdate = 170 => "VOICE_CHANNEL_START_TIME_UPDATE",
    VoiceStateUpdate = 171 => "VOICE_STATE_UPDATE",
    VoiceServerUpdate = 172 => "VOICE_SERVER_UPDATE",
    WebhooksUpdate = 173 => "WEBHOOKS_UPDATE",
    GuildMemberListUpdate = 174 => "GUILD_MEMBER_LIST_UPDATE",
    MessageAck = 175 => "MESSAGE_ACK",
    ChannelPinsAck = 176 => "CHANNEL_PINS_ACK",
    ChannelRecipientAdd = 177 => "CHANNEL_RECIPIENT_ADD",
    ChannelRecipientRemove = 178 => "CHANNEL_RECIPIENT_REMOVE",
    ChannelUnreadUpdate = 179 => "CHANNEL_UNREAD_UPDATE",
    RelationshipAdd = 180 => "RELATIONSHIP_ADD",
    RelationshipUpdate = 181 => "RELATIONSHIP_UPDATE",
    RelationshipRemove = 182 => "RELATIONSHIP_REMOVE",
    SessionsReplace = 183 => "SESSIONS_REPLACE",
    UserSettingsUpdate = 184 => "USER_SETTINGS_UPDATE",
    UserGuildSettingsUpdate = 185 => "USER_GUILD_SETTINGS_UPDATE",
    UserNoteUpdate = 186 => "USER_NOTE_UPDATE",
    RecentMentionDelete = 187 => "RECENT_MENTION_DELETE",
    InteractionSuccess = 188 => "INTERACTION_SUCCESS",
    InteractionFailure = 189 => "INTERACTION_FAILURE",
    InteractionModalCreate = 190 => "INTERACTION_MODAL_CREATE",
    ApplicationCommandAutocompleteResponse = 191 => "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE",
    GuildApplicationCommandIndexUpdate = 192 => "GUILD_APPLICATION_COMMAND_INDEX_UPDATE",
    AuthSessionChange = 193 => "AUTH_SESSION_CHANGE",
    GuildScheduledEventExceptionCreate = 194 => "GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE",
    GuildScheduledEventExceptionUpdate = 195 => "GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE",
    GuildScheduledEventExceptionDelete = 196 => "GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE",
    ChannelStatuses = 197 => "CHANNEL_STATUSES",
    ChannelMemberCountUpdate = 198 => "CHANNEL_MEMBER_COUNT_UPDATE",
    PassiveUpdateV1 = 199 => "PASSIVE_UPDATE_V1",
    PassiveUpdateV2 = 200 => "PASSIVE_UPDATE_V2",
}

/// Kinds from this number on are dispatched to clients.
const FIRST_DISPATCH: u16 = 100;

impl EventKind {
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether clients ever see it.
    pub const fn is_dispatched(self) -> bool {
        self.number() >= FIRST_DISPATCH
    }

    /// Whether it can change what somebody may see or do: permission checks made
    /// before it are stale after it (`realm_head.state_seq`).
    pub const fn changes_access(self) -> bool {
        matches!(
            self,
            Self::UserJoinedGuild
                | Self::UserLeftGuild
                | Self::TokensRevoked
                | Self::ChannelCreate
                | Self::ChannelUpdate
                | Self::ChannelDelete
                | Self::ThreadCreate
                | Self::ThreadUpdate
                | Self::ThreadDelete
                | Self::ThreadMembersUpdate
                | Self::GuildUpdate
                | Self::GuildDelete
                | Self::GuildMemberAdd
                | Self::GuildMemberUpdate
                | Self::GuildMemberRemove
                | Self::GuildRoleCreate
                | Self::GuildRoleUpdate
                | Self::GuildRoleDelete
                | Self::UserUpdate
                | Self::AutoModerationRuleCreate
                | Self::AutoModerationRuleUpdate
                | Self::AutoModerationRuleDelete
                | Self::ChannelRecipientAdd
                | Self::ChannelRecipientRemove
        )
    }

    /// Whether it can change which of the channels that were there before a member of the guild
    /// sees; of [`Self::GuildMemberUpdate`] only that member.
    pub const fn moves_views(self) -> bool {
        matches!(
            self,
            Self::ChannelUpdate
                | Self::ChannelDelete
                | Self::GuildUpdate
                | Self::GuildMemberUpdate
                | Self::GuildRoleUpdate
                | Self::GuildRoleDelete
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_map_both_ways() {
        for &kind in EventKind::ALL {
            assert_eq!(EventKind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(EventKind::from_number(0), None);
        assert_eq!(EventKind::MessageCreate.name(), "MESSAGE_CREATE");
    }
}
