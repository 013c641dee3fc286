//! What a template holds: a guild with small numbers for ids.

use guildhall_shared::{
    Id, Permissions,
    id::marker::{self, Target},
    model::{
        Channel, ChannelKind, ChannelSettings, DefaultReaction, ForumTag, Guild, GuildSettings,
        RoleColors,
    },
    permissions::OverwriteKind,
};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use utoipa::ToSchema;

use crate::routes::{
    channels::fields::default_settings,
    guilds::build::{ChannelPlan, Key, Plan, RolePlan},
};

/// Guilds are in no region, but Discord4J reads no template without one.
const REGION: &str = "deprecated";

fn region<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Ok(REGION.to_owned())
}

/// A guild with small numbers for ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct Snapshot {
    name: String,
    description: Option<String>,
    /// Always `deprecated`. Templates made by an older server hold null.
    #[serde(deserialize_with = "region")]
    region: String,
    verification_level: u8,
    default_message_notifications: u8,
    explicit_content_filter: u8,
    preferred_locale: String,
    afk_channel_id: Option<Id<Target>>,
    afk_timeout: u32,
    system_channel_id: Option<Id<Target>>,
    system_channel_flags: u32,
    roles: Vec<RoleSnapshot>,
    channels: Vec<ChannelSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct RoleSnapshot {
    /// 0 is @everyone.
    id: u32,
    name: String,
    permissions: Permissions,
    color: u32,
    colors: RoleColors,
    hoist: bool,
    mentionable: bool,
    icon: Option<String>,
    unicode_emoji: Option<String>,
}

/// Templates know four kinds: text, voice, category and forum.
fn kind_of_new(kind: ChannelKind) -> ChannelKind {
    match kind {
        ChannelKind::ANNOUNCEMENT => ChannelKind::TEXT,
        ChannelKind::STAGE => ChannelKind::VOICE,
        ChannelKind::MEDIA => ChannelKind::FORUM,
        kind => kind,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct ChannelSnapshot {
    /// From 1.
    id: u32,
    #[serde(rename = "type")]
    kind: ChannelKind,
    name: String,
    position: i32,
    topic: Option<String>,
    bitrate: u32,
    user_limit: u32,
    nsfw: bool,
    rate_limit_per_user: u32,
    parent_id: Option<Id<Target>>,
    default_auto_archive_duration: Option<u32>,
    permission_overwrites: Vec<OverwriteSnapshot>,
    available_tags: Option<Vec<TagSnapshot>>,
    template: String,
    default_reaction_emoji: Option<DefaultReaction>,
    default_thread_rate_limit_per_user: Option<u32>,
    default_sort_order: Option<u8>,
    default_forum_layout: Option<u8>,
    default_tag_setting: Option<String>,
    theme_color: Option<u32>,
}

/// A forum's tag. Emojis of the guild itself stay behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct TagSnapshot {
    /// From 1, within its channel.
    id: u32,
    name: String,
    emoji_id: Option<Id<marker::Any>>,
    emoji_name: Option<String>,
    moderated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct OverwriteSnapshot {
    /// A role's number; as text, like every id of an overwrite.
    id: String,
    #[serde(rename = "type")]
    kind: u8,
    allow: Permissions,
    deny: Permissions,
}

fn tags(tags: &[ForumTag]) -> Vec<TagSnapshot> {
    let tags = tags.iter().zip(1..).map(|(tag, id)| TagSnapshot {
        id,
        name: tag.name.clone(),
        emoji_id: None,
        emoji_name: tag.emoji_name.clone().filter(|_| tag.emoji_id.is_none()),
        moderated: tag.moderated,
    });
    tags.collect()
}

impl Snapshot {
    /// Roles of bots stay behind, as do channels of kinds that a new guild cannot have and what
    /// is about single members.
    pub(super) fn of(guild: &Guild, channels: &[Channel]) -> Self {
        let settings = &guild.settings;
        let mut roles: Vec<_> = guild.roles.iter().filter(|role| !role.managed).collect();
        roles.sort_by_key(|role| (role.id.cast() != guild.id, role.rank()));
        let mut channels: Vec<&Channel> = channels
            .iter()
            .filter(|channel| !channel.kind.is_thread())
            .collect();
        channels.sort_by_key(|channel| {
            let category = channel.kind != ChannelKind::CATEGORY;
            (category, channel.position, channel.id)
        });
        let role_number = |id: Id<Target>| roles.iter().position(|role| role.id.cast() == id);
        let number = |id: Option<Id<marker::Channel>>| {
            let place = channels.iter().position(|channel| Some(channel.id) == id)?;
            Id::new(place as u64 + 1)
        };
        let snapshots = channels.iter().zip(1..).map(|(channel, id)| {
            let own = &channel.settings;
            let overwrites = channel.permission_overwrites.iter();
            let overwrites = overwrites.filter(|overwrite| overwrite.kind == OverwriteKind::Role);
            ChannelSnapshot {
                id,
                kind: kind_of_new(channel.kind),
                name: channel.name.clone(),
                position: channel.position,
                topic: own.topic.clone().flatten(),
                bitrate: own.bitrate.unwrap_or(64_000),
                user_limit: own.user_limit.unwrap_or_default(),
                nsfw: own.nsfw.unwrap_or_default(),
                rate_limit_per_user: own.rate_limit_per_user.unwrap_or_default(),
                parent_id: number(channel.parent_id),
                default_auto_archive_duration: own.default_auto_archive_duration,
                permission_overwrites: overwrites
                    .filter_map(|overwrite| {
                        Some(OverwriteSnapshot {
                            id: role_number(overwrite.id)?.to_string(),
                            kind: 0,
                            allow: overwrite.allow,
                            deny: overwrite.deny,
                        })
                    })
                    .collect(),
                available_tags: own.available_tags.as_deref().map(tags),
                template: String::new(),
                default_reaction_emoji: own
                    .default_reaction_emoji
                    .clone()
                    .flatten()
                    .filter(|emoji| emoji.emoji_id.is_none()),
                default_thread_rate_limit_per_user: own.default_thread_rate_limit_per_user,
                default_sort_order: own.default_sort_order.flatten(),
                default_forum_layout: own.default_forum_layout,
                default_tag_setting: own.default_tag_setting.clone().flatten(),
                theme_color: None,
            }
        });
        Self {
            name: guild.name.clone(),
            description: guild.description.clone(),
            region: REGION.to_owned(),
            verification_level: settings.verification_level,
            default_message_notifications: settings.default_message_notifications,
            explicit_content_filter: settings.explicit_content_filter,
            preferred_locale: settings.preferred_locale.clone(),
            afk_channel_id: number(settings.afk_channel_id),
            afk_timeout: settings.afk_timeout,
            system_channel_id: number(settings.system_channel_id),
            system_channel_flags: settings.system_channel_flags,
            roles: roles
                .iter()
                .zip(0..)
                .map(|(role, id)| RoleSnapshot {
                    id,
                    name: role.name.clone(),
                    permissions: role.permissions,
                    color: role.color,
                    colors: role.colors,
                    hoist: role.hoist,
                    mentionable: role.mentionable,
                    icon: None,
                    unicode_emoji: role.unicode_emoji.clone(),
                })
                .collect(),
            channels: snapshots.collect(),
        }
    }

    pub(super) fn plan(self, name: String) -> Plan {
        let key = |id: Id<Target>| Key(id.to_string());
        Plan {
            name,
            description: self.description,
            icon: None,
            settings: GuildSettings {
                verification_level: self.verification_level,
                default_message_notifications: self.default_message_notifications,
                explicit_content_filter: self.explicit_content_filter,
                preferred_locale: self.preferred_locale,
                afk_timeout: self.afk_timeout,
                system_channel_flags: self.system_channel_flags,
                ..GuildSettings::default()
            },
            roles: self
                .roles
                .into_iter()
                .map(|role| RolePlan {
                    key: Some(Key(role.id.to_string())),
                    name: role.name,
                    permissions: role.permissions,
                    colors: role.colors,
                    hoist: role.hoist,
                    mentionable: role.mentionable,
                    unicode_emoji: role.unicode_emoji,
                })
                .collect(),
            channels: self
                .channels
                .into_iter()
                .map(ChannelSnapshot::plan)
                .collect(),
            afk_channel: self.afk_channel_id.map(key),
            system_channel: self.system_channel_id.map(key),
        }
    }
}

impl ChannelSnapshot {
    fn plan(self) -> ChannelPlan {
        let first = default_settings(self.kind);
        let tags = self.available_tags.unwrap_or_default().into_iter();
        let tags = tags.filter_map(|tag| {
            Some(ForumTag {
                // A new one is given when the channel is made.
                id: Id::new(tag.id.into())?,
                name: tag.name,
                moderated: tag.moderated,
                emoji_id: None,
                emoji_name: tag.emoji_name,
            })
        });
        let tags = tags.collect();
        let settings = ChannelSettings {
            topic: first.topic.as_ref().map(|_| self.topic),
            nsfw: first.nsfw.map(|_| self.nsfw),
            bitrate: first.bitrate.map(|_| self.bitrate),
            user_limit: first.user_limit.map(|_| self.user_limit),
            rate_limit_per_user: first.rate_limit_per_user.map(|_| self.rate_limit_per_user),
            default_auto_archive_duration: self.default_auto_archive_duration,
            default_thread_rate_limit_per_user: self.default_thread_rate_limit_per_user,
            available_tags: first.available_tags.as_ref().map(|_| tags),
            default_reaction_emoji: first
                .default_reaction_emoji
                .as_ref()
                .map(|_| self.default_reaction_emoji),
            default_sort_order: first.default_sort_order.map(|_| self.default_sort_order),
            default_forum_layout: self.default_forum_layout.or(first.default_forum_layout),
            default_tag_setting: first
                .available_tags
                .as_ref()
                .and(self.default_tag_setting.map(Some)),
            ..first
        };
        let overwrites = self.permission_overwrites.into_iter();
        ChannelPlan {
            key: Some(Key(self.id.to_string())),
            kind: self.kind,
            name: self.name,
            parent: self.parent_id.map(|id| Key(id.to_string())),
            overwrites: overwrites
                .map(|overwrite| (Key(overwrite.id), overwrite.allow, overwrite.deny))
                .collect(),
            settings,
        }
    }
}
