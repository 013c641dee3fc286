//! Guilds. Spec: objects.md › Guild.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, User},
    model::{AuditAction, ChannelKind, Guild, GuildSettings, Role, RoleColors, present},
    shard::realm,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};

use super::{channels, members, roles};
use crate::{
    access,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    collect,
    error::Result,
    events,
    extract::{Form, Json, Path, Query, null_is_default},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_image, store_optional_image},
    routes::policies,
    second_factor::SecondFactor,
};

pub(crate) fn router() -> Router<App> {
    let one = get(get_guild).patch(update_guild).delete(guild_delete);
    Router::new()
        .route("/guilds", post(guild_create))
        .route("/guilds/{guild_id}", one)
        .route("/guilds/{guild_id}/delete", post(guild_delete))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct CreateGuild {
    name: Option<String>,
    icon: Option<String>,
    verification_level: Option<u8>,
    default_message_notifications: Option<u8>,
    explicit_content_filter: Option<u8>,
    afk_timeout: Option<u32>,
    system_channel_flags: Option<u32>,
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
    }
}

fn check_levels(
    form: &mut FormErrors,
    verification: Option<u8>,
    notifications: Option<u8>,
    filter: Option<u8>,
    afk_timeout: Option<u32>,
) {
    for (path, level, max) in [
        ("verification_level", verification, 4),
        ("default_message_notifications", notifications, 1),
        ("explicit_content_filter", filter, 2),
    ] {
        if let Some(level) = level.filter(|&level| level > max) {
            form.add(path, Fault::NotEnum(level.to_string()));
        }
    }
    if afk_timeout.is_some_and(|seconds| ![60, 300, 900, 1800, 3600].contains(&seconds)) {
        form.add("afk_timeout", Fault::Choices("(60, 300, 900, 1800, 3600)"));
    }
}

/// A new guild with @everyone, a category and a channel each for text and voice. Its owner
/// learns of it by an event in their own realm.
///
/// Errors: 20001, 30001, 50035.
async fn guild_create(
    State(app): State<App>,
    user: CurrentUser,
    Json(body): Json<CreateGuild>,
) -> Result<(StatusCode, Json<Guild>)> {
    user.require_human()?;
    policies::require_guild_creation(&app, &user)?;
    let id: Id<marker::Guild> = app.snowflakes.next()?;
    let [text_category, voice_category, general, voice] = [
        app.snowflakes.next()?,
        app.snowflakes.next()?,
        app.snowflakes.next()?,
        app.snowflakes.next()?,
    ];
    let default = GuildSettings::default();
    let settings = GuildSettings {
        verification_level: body.verification_level.unwrap_or_default(),
        default_message_notifications: body.default_message_notifications.unwrap_or_default(),
        explicit_content_filter: body.explicit_content_filter.unwrap_or_default(),
        afk_timeout: body.afk_timeout.unwrap_or(default.afk_timeout),
        system_channel_flags: body.system_channel_flags.unwrap_or_default(),
        system_channel_id: Some(general),
        ..default
    };
    let everyone = Role {
        id: id.cast(),
        name: "@everyone".to_owned(),
        color: 0,
        colors: RoleColors::default(),
        hoist: false,
        icon: None,
        unicode_emoji: None,
        position: 0,
        permissions: Permissions::NEW_GUILD,
        managed: false,
        mentionable: false,
        tags: None,
        flags: 0,
    };

    let icon = match &body.icon {
        Some(icon) => Some(store_image(&app, ImageOf::GuildIcon(id), "icon", icon).await?),
        None => None,
    };
    let mut tx = app.db.begin().await?;
    // The user's head first: it is the older, smaller id.
    access::lock_realms(&mut tx, [realm(user.id)]).await?;
    members::check_guild_count(&mut tx, user.id).await?;
    sqlx::query!(
        "insert into guild (guild_id, name, owner_id, member_count, settings, icon)
         values ($1, $2, $3, 1, $4, $5)",
        id.to_db(),
        super::clean(body.name.as_deref().unwrap_or_default()),
        user.id.to_db(),
        Jsonb(&settings) as Jsonb<&GuildSettings>,
        icon,
    )
    .execute(&mut *tx)
    .await?;
    events::create_realm(&mut tx, id, app.shards()).await?;
    roles::insert(&mut tx, id, &everyone).await?;
    for (channel, kind, name, position, parent) in [
        (
            text_category,
            ChannelKind::CATEGORY,
            "Text Channels",
            0,
            None,
        ),
        (
            voice_category,
            ChannelKind::CATEGORY,
            "Voice Channels",
            1,
            None,
        ),
        (
            general,
            ChannelKind::TEXT,
            "general",
            0,
            Some(text_category),
        ),
        (
            voice,
            ChannelKind::VOICE,
            "General",
            0,
            Some(voice_category),
        ),
    ] {
        let channel = guildhall_shared::model::Channel {
            id: channel,
            kind,
            guild_id: id,
            name: name.to_owned(),
            position,
            parent_id: parent,
            permission_overwrites: Vec::new(),
            last_message_id: None,
            settings: channels::default_settings(kind),
        };
        channels::insert(&mut tx, &channel).await?;
    }
    sqlx::query!(
        "insert into member (guild_id, user_id) values ($1, $2)",
        id.to_db(),
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let (guild, _) = by_id(&mut tx, id).await?;
    let event = members::tell_user(&mut tx, id, user.id, EventKind::UserJoinedGuild).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok((StatusCode::CREATED, Json(guild)))
}

async fn by_id(db: &mut PgConnection, id: Id<marker::Guild>) -> Result<(Guild, u64)> {
    let found = guildhall_store::guild::by_id(db, id).await?;
    Ok(found.ok_or(ErrorCode::UnknownGuild)?)
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct WithCounts {
    with_counts: bool,
}

impl Form for WithCounts {}

#[derive(Serialize)]
struct GuildWithCounts {
    #[serde(flatten)]
    guild: Guild,
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_member_count: Option<u64>,
    /// Presence is the gateways' knowledge; this tier says 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_presence_count: Option<u64>,
}

/// Errors: 10004, 50001.
async fn get_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
    Query(query): Query<WithCounts>,
) -> Result<Json<GuildWithCounts>> {
    let mut db = app.db.acquire().await?;
    access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let (guild, members) = by_id(&mut db, guild_id).await?;
    Ok(Json(GuildWithCounts {
        guild,
        approximate_member_count: query.with_counts.then_some(members),
        approximate_presence_count: query.with_counts.then_some(0),
    }))
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct UpdateGuild {
    name: Option<String>,
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
    owner_id: Option<Id<User>>,
    verification_level: Option<u8>,
    default_message_notifications: Option<u8>,
    explicit_content_filter: Option<u8>,
    afk_timeout: Option<u32>,
    preferred_locale: Option<String>,
    system_channel_flags: Option<u32>,
    premium_progress_bar_enabled: Option<bool>,
    #[serde(deserialize_with = "present")]
    afk_channel_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "present")]
    system_channel_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "present")]
    rules_channel_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "present")]
    public_updates_channel_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "present")]
    safety_alerts_channel_id: Option<Option<Id<marker::Channel>>>,
    #[serde(deserialize_with = "present")]
    icon: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    splash: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    banner: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    discovery_splash: Option<Option<String>>,
    #[serde(deserialize_with = "null_is_default")]
    features: Vec<Option<String>>,
}

impl Form for UpdateGuild {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 2..=100);
        }
        if let Some(Some(description)) = &self.description {
            form.length("description", description, 0..=300);
        }
        if let Some(locale) = &self.preferred_locale {
            form.length("preferred_locale", locale, 2..=8);
        }
        for (path, image) in [
            ("icon", &self.icon),
            ("splash", &self.splash),
            ("banner", &self.banner),
            ("discovery_splash", &self.discovery_splash),
        ] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
        check_levels(
            form,
            self.verification_level,
            self.default_message_notifications,
            self.explicit_content_filter,
            self.afk_timeout,
        );
    }
}

/// Hashes of the images in a body; absent ones stay as they are.
#[derive(Default)]
struct Images {
    icon: Option<Option<String>>,
    splash: Option<Option<String>>,
    discovery_splash: Option<Option<String>>,
    banner: Option<Option<String>>,
}

impl Images {
    /// Stores them, for who may change the guild. Errors: 10004, 50001, 50013, 50035.
    async fn store(
        app: &App,
        user: &CurrentUser,
        guild: Id<marker::Guild>,
        body: &UpdateGuild,
    ) -> Result<Self> {
        let given = [
            &body.icon,
            &body.splash,
            &body.discovery_splash,
            &body.banner,
        ];
        if given.iter().all(|image| image.is_none()) {
            return Ok(Self::default());
        }
        access::guild(&app.db, user, guild, Permissions::MANAGE_GUILD).await?;
        let store = store_optional_image;
        let discovery = ImageOf::GuildDiscoverySplash(guild);
        Ok(Self {
            icon: store(app, ImageOf::GuildIcon(guild), "icon", &body.icon).await?,
            splash: store(app, ImageOf::GuildSplash(guild), "splash", &body.splash).await?,
            discovery_splash: store(app, discovery, "discovery_splash", &body.discovery_splash)
                .await?,
            banner: store(app, ImageOf::GuildBanner(guild), "banner", &body.banner).await?,
        })
    }

    fn apply(self, guild: &mut Guild) {
        let settings = &mut guild.settings;
        for (column, image) in [
            (&mut guild.icon, self.icon),
            (&mut settings.splash, self.splash),
            (&mut settings.discovery_splash, self.discovery_splash),
            (&mut settings.banner, self.banner),
        ] {
            if let Some(image) = image {
                *column = image;
            }
        }
    }
}

/// MANAGE_GUILD; a new owner is named by the old one only.
///
/// Errors: 10004, 20001, 50001, 50013, 50035, 50132.
async fn update_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
    reason: Reason,
    Json(body): Json<UpdateGuild>,
) -> Result<Json<Guild>> {
    let images = Images::store(&app, &user, guild_id, &body).await?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let (mut guild, _) = by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    if let Some(owner) = body.owner_id.filter(|&owner| owner != guild.owner_id) {
        user.require_human()?;
        if !access.is_owner() {
            return Err(ErrorCode::MissingPermissions.into());
        }
        let member = guildhall_store::guild::member(&mut *tx, guild_id, owner).await?;
        let account = member.and_then(|member| member.user);
        if account.ok_or(ErrorCode::UnknownMember)?.bot {
            return Err(ErrorCode::OwnershipToBot.into());
        }
        guild.owner_id = owner;
    }
    check_channels(&mut tx, guild_id, &body).await?;
    apply(body, &mut guild);
    images.apply(&mut guild);
    let mut events = vec![store(&mut tx, &guild).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
        .target(guild_id)
        .changed(&before, &guild)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(guild))
}

/// Channels named in the settings must be the guild's and of the right kind.
async fn check_channels(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    body: &UpdateGuild,
) -> Result<()> {
    let named = [
        ("afk_channel_id", body.afk_channel_id, ChannelKind::VOICE),
        (
            "system_channel_id",
            body.system_channel_id,
            ChannelKind::TEXT,
        ),
        ("rules_channel_id", body.rules_channel_id, ChannelKind::TEXT),
        (
            "public_updates_channel_id",
            body.public_updates_channel_id,
            ChannelKind::TEXT,
        ),
        (
            "safety_alerts_channel_id",
            body.safety_alerts_channel_id,
            ChannelKind::TEXT,
        ),
    ];
    let mut form = FormErrors::new();
    for (path, channel, wanted) in named {
        let Some(channel) = channel.flatten() else {
            continue;
        };
        let kind = sqlx::query_scalar!(
            "select kind from channel where guild_id = $1 and channel_id = $2",
            guild.to_db(),
            channel.to_db(),
        )
        .fetch_optional(&mut *db)
        .await?;
        if kind != Some(i16::from(wanted.0)) {
            let message = "This is no channel of the guild that fits.";
            form.add(path, Fault::Other("CHANNEL_INVALID", message.into()));
        }
    }
    form.finish()
}

fn apply(body: UpdateGuild, guild: &mut Guild) {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    set(&mut guild.name, body.name.map(|name| super::clean(&name)));
    if let Some(description) = body.description {
        guild.description = description
            .map(|text| super::clean(&text))
            .filter(|text| !text.is_empty());
    }
    let settings = &mut guild.settings;
    set(&mut settings.verification_level, body.verification_level);
    set(
        &mut settings.default_message_notifications,
        body.default_message_notifications,
    );
    set(
        &mut settings.explicit_content_filter,
        body.explicit_content_filter,
    );
    set(&mut settings.afk_timeout, body.afk_timeout);
    set(
        &mut settings.preferred_locale,
        body.preferred_locale.map(|locale| super::clean(&locale)),
    );
    set(
        &mut settings.system_channel_flags,
        body.system_channel_flags,
    );
    set(
        &mut settings.premium_progress_bar_enabled,
        body.premium_progress_bar_enabled,
    );
    set(&mut settings.afk_channel_id, body.afk_channel_id);
    set(&mut settings.system_channel_id, body.system_channel_id);
    set(&mut settings.rules_channel_id, body.rules_channel_id);
    set(
        &mut settings.public_updates_channel_id,
        body.public_updates_channel_id,
    );
    set(
        &mut settings.safety_alerts_channel_id,
        body.safety_alerts_channel_id,
    );
}

/// Takes a channel that is being deleted out of the guild's settings, if it is in them.
pub(super) async fn forget_channel(
    db: &mut PgConnection,
    guild_id: Id<marker::Guild>,
    channel: Id<marker::Channel>,
) -> Result<Option<Envelope>> {
    let (mut guild, _) = by_id(db, guild_id).await?;
    let settings = &mut guild.settings;
    let mut named = false;
    for field in [
        &mut settings.afk_channel_id,
        &mut settings.widget_channel_id,
        &mut settings.system_channel_id,
        &mut settings.rules_channel_id,
        &mut settings.public_updates_channel_id,
        &mut settings.safety_alerts_channel_id,
    ] {
        named |= field.take_if(|named| *named == channel).is_some();
    }
    if !named {
        return Ok(None);
    }
    store(db, &guild).await.map(Some)
}

/// Stores a changed guild and numbers its GUILD_UPDATE.
async fn store(db: &mut PgConnection, guild: &Guild) -> Result<Envelope> {
    sqlx::query!(
        "update guild set name = $2, description = $3, owner_id = $4, settings = $5, icon = $6
         where guild_id = $1",
        guild.id.to_db(),
        guild.name,
        guild.description,
        guild.owner_id.to_db(),
        Jsonb(&guild.settings) as Jsonb<&GuildSettings>,
        guild.icon,
    )
    .execute(&mut *db)
    .await?;
    let (kind, vis) = (EventKind::GuildUpdate, Visibility::realm(Intents::GUILDS));
    events::append(db, guild.id, kind, vis, guild, None).await
}

#[derive(Serialize)]
struct GuildDelete {
    id: Id<marker::Guild>,
}

/// The owner's. The numbers go on: GUILD_DELETE is the realm's last event.
///
/// Errors: 10004, 20001, 50001, 50013, 60003.
async fn guild_delete(
    State(app): State<App>,
    user: CurrentUser,
    _shown: SecondFactor,
    Path(guild_id): Path<Id<marker::Guild>>,
) -> Result<StatusCode> {
    user.require_human()?;
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    if !access.is_owner() {
        return Err(ErrorCode::MissingPermissions.into());
    }
    collect::of_guild(&mut tx, guild_id).await?;
    sqlx::query!("delete from guild where guild_id = $1", guild_id.to_db())
        .execute(&mut *tx)
        .await?;
    let (kind, vis) = (EventKind::GuildDelete, Visibility::realm(Intents::GUILDS));
    let body = GuildDelete { id: guild_id };
    let event = events::append(&mut tx, guild_id, kind, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}
