//! POST /guilds. Spec: objects.md › Guild.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    model::{ChannelKind, Guild, GuildSettings, RoleColors},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{
        channels::fields::{clean_name, default_settings},
        policies,
    },
    build::{self, CHANNELS_MAX, ChannelPlan, Key, Plan, ROLES_MAX, RolePlan},
    update::check_levels,
};
use crate::{
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, null_is_default},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_image},
    text::clean,
};

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(crate) struct CreateGuild {
    /// 2 to 100 characters.
    #[schema(required, min_length = 2, max_length = 100)]
    name: Option<String>,
    icon: Option<String>,
    verification_level: Option<u8>,
    default_message_notifications: Option<u8>,
    explicit_content_filter: Option<u8>,
    /// Seconds.
    afk_timeout: Option<u32>,
    system_channel_flags: Option<u32>,
    /// The first one is @everyone.
    #[serde(deserialize_with = "null_is_default")]
    roles: Vec<NewRole>,
    #[serde(deserialize_with = "null_is_default")]
    channels: Vec<NewChannel>,
    /// The placeholder of one of `channels`.
    afk_channel_id: Option<Key>,
    system_channel_id: Option<Key>,
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct NewRole {
    id: Option<Key>,
    name: Option<String>,
    permissions: Option<Permissions>,
    color: Option<u32>,
    hoist: Option<bool>,
    mentionable: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct NewChannel {
    id: Option<Key>,
    #[schema(required, min_length = 1, max_length = 100)]
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<u8>,
    parent_id: Option<Key>,
    topic: Option<String>,
    nsfw: Option<bool>,
    bitrate: Option<u32>,
    user_limit: Option<u32>,
    rate_limit_per_user: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    permission_overwrites: Vec<NewOverwrite>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct NewOverwrite {
    id: Key,
    #[serde(default, rename = "type")]
    kind: u8,
    #[serde(default)]
    allow: Option<Permissions>,
    #[serde(default)]
    deny: Option<Permissions>,
}

impl Form for CreateGuild {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            form.length("name", name, 2..=100);
        }
        check_image(form, "icon", self.icon.as_deref());
        check_levels(
            form,
            self.verification_level,
            self.default_message_notifications,
            self.explicit_content_filter,
            self.afk_timeout,
        );
        for (path, length, max) in [
            ("roles", self.roles.len(), ROLES_MAX),
            ("channels", self.channels.len(), CHANNELS_MAX),
        ] {
            if length > max {
                form.add(path, Fault::BadLength { min: 0, max });
            }
        }
        for (index, role) in self.roles.iter().enumerate().take(ROLES_MAX) {
            if let Some(name) = &role.name {
                form.length(&format!("roles.{index}.name"), name, 1..=100);
            }
            if let Some(color) = role.color {
                form.range(&format!("roles.{index}.color"), color.into(), 0..=0xFF_FFFF);
            }
        }
        for (index, channel) in self.channels.iter().enumerate().take(CHANNELS_MAX) {
            channel.check(&format!("channels.{index}"), form);
        }
        // That takes time by the square of how many they are.
        if self.roles.len() <= ROLES_MAX && self.channels.len() <= CHANNELS_MAX {
            self.plan().check(form);
        }
    }
}

impl NewChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind(self.kind.unwrap_or_default())
    }

    fn check(&self, at: &str, form: &mut FormErrors) {
        if let Some(name) = form.required(&format!("{at}.name"), &self.name) {
            form.length(&format!("{at}.name"), name, 1..=100);
        }
        if !matches!(
            self.kind(),
            ChannelKind::TEXT | ChannelKind::VOICE | ChannelKind::CATEGORY
        ) {
            let kind = self.kind().0.to_string();
            form.add(format!("{at}.type"), Fault::NotEnum(kind));
        }
        if let Some(topic) = &self.topic {
            form.length(&format!("{at}.topic"), topic, 0..=1024);
        }
        for (field, value, allowed) in [
            ("bitrate", self.bitrate, 8_000..=96_000),
            ("user_limit", self.user_limit, 0..=99),
            ("rate_limit_per_user", self.rate_limit_per_user, 0..=21_600),
        ] {
            if let Some(value) = value {
                form.range(&format!("{at}.{field}"), value.into(), allowed);
            }
        }
        if self.permission_overwrites.len() > ROLES_MAX {
            let max = ROLES_MAX;
            form.add(
                format!("{at}.permission_overwrites"),
                Fault::BadLength { min: 0, max },
            );
        }
    }

    fn plan(&self) -> ChannelPlan {
        let kind = self.kind();
        let mut settings = default_settings(kind);
        if settings.topic.is_some() {
            let topic = self.topic.as_deref().map(clean);
            settings.topic = Some(topic.filter(|topic| !topic.is_empty()));
        }
        for (field, value) in [
            (&mut settings.bitrate, self.bitrate),
            (&mut settings.user_limit, self.user_limit),
            (&mut settings.rate_limit_per_user, self.rate_limit_per_user),
        ] {
            if field.is_some() && value.is_some() {
                *field = value;
            }
        }
        if settings.nsfw.is_some() && self.nsfw.is_some() {
            settings.nsfw = self.nsfw;
        }
        let bits = |bits: Option<Permissions>| bits.unwrap_or_default();
        ChannelPlan {
            key: self.id.clone(),
            kind,
            name: clean_name(self.name.as_deref().unwrap_or_default(), kind),
            parent: self.parent_id.clone(),
            overwrites: self
                .permission_overwrites
                .iter()
                .filter(|overwrite| overwrite.kind == 0)
                .map(|overwrite| {
                    let key = overwrite.id.clone();
                    (key, bits(overwrite.allow), bits(overwrite.deny))
                })
                .collect(),
            settings,
        }
    }
}

impl CreateGuild {
    fn plan(&self) -> Plan {
        let default = GuildSettings::default();
        let mut roles: Vec<RolePlan> = self
            .roles
            .iter()
            .map(|role| RolePlan {
                key: role.id.clone(),
                name: clean(role.name.as_deref().unwrap_or("new role")),
                permissions: role.permissions.unwrap_or_default(),
                colors: RoleColors {
                    primary_color: role.color.unwrap_or_default(),
                    ..RoleColors::default()
                },
                hoist: role.hoist.unwrap_or_default(),
                mentionable: role.mentionable.unwrap_or_default(),
                unicode_emoji: None,
            })
            .collect();
        if roles.is_empty() {
            roles.push(RolePlan {
                permissions: Permissions::NEW_GUILD,
                ..RolePlan::default()
            });
        }
        let (channels, system_channel) = if self.channels.is_empty() {
            (usual_channels(), Some(Key("general".to_owned())))
        } else {
            let channels = self.channels.iter().map(NewChannel::plan).collect();
            (channels, self.system_channel_id.clone())
        };
        Plan {
            name: clean(self.name.as_deref().unwrap_or_default()),
            description: None,
            icon: None,
            settings: GuildSettings {
                verification_level: self.verification_level.unwrap_or_default(),
                default_message_notifications: self
                    .default_message_notifications
                    .unwrap_or_default(),
                explicit_content_filter: self.explicit_content_filter.unwrap_or_default(),
                afk_timeout: self.afk_timeout.unwrap_or(default.afk_timeout),
                system_channel_flags: self.system_channel_flags.unwrap_or_default(),
                ..default
            },
            roles,
            channels,
            afk_channel: self.afk_channel_id.clone(),
            system_channel,
        }
    }
}

/// A category and a channel each for text and voice.
fn usual_channels() -> Vec<ChannelPlan> {
    let plan = |key: &str, kind, name: &str, parent: Option<&str>| ChannelPlan {
        key: Some(Key(key.to_owned())),
        kind,
        name: name.to_owned(),
        parent: parent.map(|key| Key(key.to_owned())),
        overwrites: Vec::new(),
        settings: default_settings(kind),
    };
    vec![
        plan("text", ChannelKind::CATEGORY, "Text Channels", None),
        plan("voice", ChannelKind::CATEGORY, "Voice Channels", None),
        plan("general", ChannelKind::TEXT, "general", Some("text")),
        plan("lounge", ChannelKind::VOICE, "General", Some("voice")),
    ]
}

/// A new guild: with the roles and channels of the request, which name each other by
/// placeholders, or with @everyone, a category and a channel each for text and voice.
///
/// Errors: 20001, 30001, 50035.
#[utoipa::path(
    post,
    path = "/guilds",
    tag = "Guilds",
    responses((status = 201, body = Guild))
)]
pub(crate) async fn guild_create(
    State(app): State<App>,
    user: CurrentUser,
    Json(body): Json<CreateGuild>,
) -> Result<(StatusCode, Json<Guild>)> {
    user.require_human()?;
    policies::require_guild_creation(&app, &user)?;
    let id: Id<_> = app.snowflakes.next()?;
    let icon = match &body.icon {
        Some(icon) => Some(store_image(&app.media, ImageOf::GuildIcon(id), "icon", icon).await?),
        None => None,
    };
    let plan = Plan {
        icon,
        ..body.plan()
    };
    let guild = build::build(&app, &user, id, plan).await?;
    Ok((StatusCode::CREATED, Json(guild)))
}
