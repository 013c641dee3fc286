//! Wire objects, as REST answers and gateway events carry them. Spec: objects.md.
//!
//! Arrays are never null; a field without `skip_serializing_if` is always written.

mod application;
mod audit;
mod channel;
mod command;
mod expression;
mod guild;
mod invite;
mod member;
mod message;
mod presence;
mod relationship;
mod scheduled_event;
mod settings;
mod user;
mod voice;

pub use application::{
    Application, ApplicationSettings, InstallParams, IntegrationTypeConfig, PublicApplication,
};
pub use audit::{AuditAction, AuditChange, AuditEntry, audit_changes};
pub use channel::{
    AnyChannel, Channel, ChannelKind, ChannelSettings, DefaultReaction, ForumTag, GroupFields,
    PrivateChannel, Thread, ThreadMember, ThreadMetadata,
};
pub use command::{
    Command, CommandBody, CommandChoice, CommandKind, CommandOption, CommandPermission,
    CommandPermissions, Localizations,
};
pub use expression::{Emoji, SoundboardSound, StandardSticker, Sticker, StickerFormat};
pub use guild::{GatewayGuild, Guild, GuildSettings, UnavailableGuild};
pub use invite::{
    AnyInvite, GroupInvite, Invite, InviteChannel, InviteGroup, InviteGuild, InviteMetadata,
    InviteRecipient, InviteRole,
};
pub use member::{Member, Role, RoleColors, RoleTags, silenced_until};
pub use message::{
    Message, MessageFlags, MessageKind, MessageReference, PartialEmoji, Poll, PollAnswer,
    PollAnswerCount, PollMedia, PollResults, Reaction, ReactionCounts,
};
pub use presence::{
    ACTIVITIES_MAX, Activity, OnlineStatus, Platform, Platforms, Presence, PresenceUser,
    PresenceView, SessionState, SessionView,
};
pub use relationship::{Relationship, RelationshipKind};
pub use scheduled_event::{
    EventEntity, EventException, EventMetadata, EventStatus, NthWeekday, RecurrenceRule,
    ScheduledEvent,
};
pub use settings::{
    CHANNEL_OVERRIDES_MAX, ChannelOverride, CustomStatus, FOLDERS_MAX, FriendSourceFlags,
    GuildFolder, MuteConfig, SETTINGS_GUILDS_MAX, Status, StoredChannelOverride,
    StoredGuildSettings, Theme, UserGuildSettings, UserGuildSettingsChange, UserSettings,
    UserSettingsChange,
};
pub use user::{CurrentUser, PrivateUser, User};
pub use voice::{StageInstance, VoiceState};

/// Reads a field that may be absent (`None`), null (`Some(None)`) or there (`Some(Some(_))`).
/// Goes with `#[serde(default)]`.
pub fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
