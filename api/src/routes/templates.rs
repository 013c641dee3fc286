//! Guild templates: a guild's settings, roles and channels, to make others from.
//! Spec: objects.md › Template.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild as GuildMarker, Target},
    model::{
        Channel, ChannelKind, ChannelSettings, DefaultReaction, ForumTag, Guild, GuildSettings,
        RoleColors, User, present,
    },
    permissions::OverwriteKind,
};
use guildhall_store::account::UserRow;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    channels,
    guilds::{
        self,
        build::{self, ChannelPlan, Key, Plan, RolePlan},
    },
    policies,
};
use crate::{
    access,
    app::App,
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::FormErrors,
    media::{ImageOf, check_image, store_image},
};

const CODE_LENGTH: usize = 12;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_guild_template, guild_create_from_template))
        .routes(routes!(list_guild_templates, create_guild_template))
        .routes(routes!(
            sync_guild_template,
            update_guild_template,
            delete_guild_template
        ))
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct Template {
    code: String,
    name: String,
    description: Option<String>,
    usage_count: i32,
    creator_id: Id<marker::User>,
    creator: Option<User>,
    created_at: Timestamp,
    updated_at: Timestamp,
    source_guild_id: Id<GuildMarker>,
    serialized_source_guild: Snapshot,
    /// Whether the guild has changed since; null for who cannot know.
    is_dirty: Option<bool>,
}

/// A guild with small numbers for ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct Snapshot {
    name: String,
    description: Option<String>,
    region: Option<String>,
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
    fn of(guild: &Guild, channels: &[Channel]) -> Self {
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
            region: None,
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

    fn plan(self, name: String) -> Plan {
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
        let first = channels::default_settings(self.kind);
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

/// A guild as it is now.
async fn now(db: &mut PgConnection, guild: Id<GuildMarker>) -> Result<Snapshot> {
    let (found, _) = guilds::by_id(&mut *db, guild).await?;
    let channels = guildhall_store::guild::channels(db, guild).await?;
    Ok(Snapshot::of(&found, &channels))
}

struct Row {
    code: String,
    guild_id: i64,
    creator_id: i64,
    name: String,
    description: Option<String>,
    usage_count: i32,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    snapshot: Jsonb<Snapshot>,
    user_id: Option<i64>,
    username: Option<String>,
    discriminator: Option<String>,
    global_name: Option<String>,
    avatar: Option<String>,
    banner: Option<String>,
    accent_color: Option<i32>,
    bot: Option<bool>,
    public_flags: Option<i64>,
}

impl From<Row> for Template {
    fn from(row: Row) -> Self {
        let creator = || {
            Some(UserRow {
                user_id: row.user_id?,
                username: row.username?,
                discriminator: row.discriminator?,
                global_name: row.global_name,
                avatar: row.avatar,
                banner: row.banner,
                accent_color: row.accent_color,
                bot: row.bot?,
                public_flags: row.public_flags?,
            })
        };
        Self {
            creator: creator().map(Into::into),
            code: row.code,
            name: row.name,
            description: row.description,
            usage_count: row.usage_count,
            creator_id: Id::from_db(row.creator_id),
            created_at: Timestamp(row.created_at),
            updated_at: Timestamp(row.updated_at),
            source_guild_id: Id::from_db(row.guild_id),
            serialized_source_guild: row.snapshot.0,
            is_dirty: None,
        }
    }
}

/// Which template [`read`] reads.
#[derive(Debug, Clone, Copy)]
enum Of<'a> {
    Code(&'a str),
    Guild(Id<GuildMarker>),
}

/// `is_dirty` is not looked at.
async fn read(db: &mut PgConnection, of: Of<'_>) -> Result<Option<Template>> {
    // A statement for each index: a plan that is kept for all values has no use for one whose
    // column may be anything.
    macro_rules! select {
        ($place:literal, $value:expr) => {
            sqlx::query_as!(
                Row,
                r#"select t.code, t.guild_id, t.creator_id, t.name, t.description, t.usage_count,
                          t.created_at, t.updated_at, t.snapshot as "snapshot: Jsonb<Snapshot>",
                          a.user_id as "user_id?", a.username as "username?",
                          a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                          a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
                   from guild_template t join guild g using (guild_id)
                   left join account a on a.user_id = t.creator_id
                   where "#
                    + $place,
                $value,
            )
            .fetch_optional(db)
            .await?
        };
    }
    let row = match of {
        Of::Code(code) => select!("t.code = $1", code),
        Of::Guild(guild) => select!("t.guild_id = $1", guild.to_db()),
    };
    Ok(row.map(Template::from))
}

/// Errors: 10057.
async fn by_code(db: &mut PgConnection, code: &str) -> Result<Template> {
    let found = read(db, Of::Code(code)).await?;
    found.ok_or_else(|| ErrorCode::UnknownGuildTemplate.into())
}

/// A template of a guild, with `is_dirty`. Errors: 10057.
async fn of_guild(db: &mut PgConnection, guild: Id<GuildMarker>, code: &str) -> Result<Template> {
    let mut template = by_code(&mut *db, code).await?;
    if template.source_guild_id != guild {
        return Err(ErrorCode::UnknownGuildTemplate.into());
    }
    template.is_dirty = Some(template.serialized_source_guild != now(db, guild).await?);
    Ok(template)
}

/// For everyone, also without a token. Errors: 10057.
#[utoipa::path(
    get,
    path = "/guilds/templates/{code}",
    tag = "Guild templates",
    responses((status = 200, body = Template))
)]
async fn get_guild_template(
    State(app): State<App>,
    Path(code): Path<String>,
) -> Result<Json<Template>> {
    let mut db = app.db.acquire().await?;
    Ok(Json(by_code(&mut db, &super::clean(&code)).await?))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct FromTemplate {
    /// 2 to 100 characters.
    #[schema(required, min_length = 2, max_length = 100)]
    name: Option<String>,
    icon: Option<String>,
}

impl Form for FromTemplate {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            form.length("name", name, 2..=100);
        }
        check_image(form, "icon", self.icon.as_deref());
    }
}

/// Errors: 10057, 20001, 30001, 50035.
#[utoipa::path(
    post,
    path = "/guilds/templates/{code}",
    tag = "Guild templates",
    responses((status = 201, body = Guild))
)]
async fn guild_create_from_template(
    State(app): State<App>,
    user: CurrentUser,
    Path(code): Path<String>,
    Json(body): Json<FromTemplate>,
) -> Result<(StatusCode, Json<Guild>)> {
    user.require_human()?;
    policies::require_guild_creation(&app, &user)?;
    let code = super::clean(&code);
    let template = by_code(&mut *app.db.acquire().await?, &code).await?;
    let name = super::clean(body.name.as_deref().unwrap_or_default());
    let id: Id<GuildMarker> = app.snowflakes.next()?;
    let icon = match &body.icon {
        Some(icon) => Some(store_image(&app, ImageOf::GuildIcon(id), "icon", icon).await?),
        None => None,
    };
    let plan = Plan {
        icon,
        ..template.serialized_source_guild.plan(name)
    };
    let guild = build::build(&app, &user, id, plan).await?;
    sqlx::query!(
        "update guild_template set usage_count = usage_count + 1 where code = $1",
        code,
    )
    .execute(&app.db)
    .await?;
    Ok((StatusCode::CREATED, Json(guild)))
}

/// Errors: 10004, 50001, 50013.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/templates",
    tag = "Guild templates",
    responses((status = 200, body = Vec<Template>))
)]
async fn list_guild_templates(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<GuildMarker>>,
) -> Result<Json<Vec<Template>>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::MANAGE_GUILD).await?;
    let mut template = read(&mut db, Of::Guild(guild_id)).await?;
    if let Some(template) = &mut template {
        let dirty = template.serialized_source_guild != now(&mut db, guild_id).await?;
        template.is_dirty = Some(dirty);
    }
    Ok(Json(template.into_iter().collect()))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct CreateTemplate {
    /// 1 to 100 characters.
    #[schema(required, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// At most 120 characters.
    description: Option<String>,
}

impl Form for CreateTemplate {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            form.length("name", name, 1..=100);
        }
        if let Some(description) = &self.description {
            form.length("description", description, 0..=120);
        }
    }
}

/// A guild has one. Errors: 10004, 30031, 50001, 50013, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/templates",
    tag = "Guild templates",
    responses((status = 200, body = Template))
)]
async fn create_guild_template(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<GuildMarker>>,
    Json(body): Json<CreateTemplate>,
) -> Result<Json<Template>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let snapshot = now(&mut tx, guild_id).await?;
    let code = super::random_code(CODE_LENGTH);
    let description = body.description.map(|text| super::clean(&text));
    let made = sqlx::query!(
        "insert into guild_template (code, guild_id, creator_id, name, description, snapshot)
         values ($1, $2, $3, $4, $5, $6) on conflict (guild_id) do nothing",
        code,
        guild_id.to_db(),
        user.id.to_db(),
        super::clean(body.name.as_deref().unwrap_or_default()),
        description.filter(|text| !text.is_empty()),
        Jsonb(&snapshot) as Jsonb<&Snapshot>,
    )
    .execute(&mut *tx)
    .await?;
    if made.rows_affected() == 0 {
        return Err(ErrorCode::HasTemplate.into());
    }
    let template = of_guild(&mut tx, guild_id, &code).await?;
    tx.commit().await?;
    Ok(Json(template))
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct UpdateTemplate {
    /// 1 to 100 characters.
    name: Option<String>,
    /// At most 120 characters.
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
}

impl Form for UpdateTemplate {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 1..=100);
        }
        if let Some(Some(description)) = &self.description {
            form.length("description", description, 0..=120);
        }
    }
}

/// Errors: 10004, 10057, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/templates/{code}",
    tag = "Guild templates",
    responses((status = 200, body = Template))
)]
async fn update_guild_template(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, code)): Path<(Id<GuildMarker>, String)>,
    Json(body): Json<UpdateTemplate>,
) -> Result<Json<Template>> {
    let code = super::clean(&code);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut template = of_guild(&mut tx, guild_id, &code).await?;
    if let Some(name) = body.name {
        template.name = super::clean(&name);
    }
    if let Some(description) = body.description {
        template.description = description
            .map(|text| super::clean(&text))
            .filter(|text| !text.is_empty());
    }
    sqlx::query!(
        "update guild_template set name = $2, description = $3 where code = $1",
        code,
        template.name,
        template.description,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Json(template))
}

/// Takes the guild as it is now. Errors: 10004, 10057, 50001, 50013.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/templates/{code}",
    tag = "Guild templates",
    responses((status = 200, body = Template))
)]
async fn sync_guild_template(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, code)): Path<(Id<GuildMarker>, String)>,
) -> Result<Json<Template>> {
    let code = super::clean(&code);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut template = of_guild(&mut tx, guild_id, &code).await?;
    let snapshot = now(&mut tx, guild_id).await?;
    let updated_at = OffsetDateTime::now_utc();
    sqlx::query!(
        "update guild_template set snapshot = $2, updated_at = $3 where code = $1",
        code,
        Jsonb(&snapshot) as Jsonb<&Snapshot>,
        updated_at,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    template.serialized_source_guild = snapshot;
    template.updated_at = Timestamp(updated_at);
    template.is_dirty = Some(false);
    Ok(Json(template))
}

/// Errors: 10004, 10057, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/templates/{code}",
    tag = "Guild templates",
    responses((status = 200, body = Template))
)]
async fn delete_guild_template(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, code)): Path<(Id<GuildMarker>, String)>,
) -> Result<Json<Template>> {
    let code = super::clean(&code);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let template = of_guild(&mut tx, guild_id, &code).await?;
    sqlx::query!("delete from guild_template where code = $1", code)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Json(template))
}
