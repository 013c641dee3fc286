//! PATCH /guilds/{guild_id}. Spec: objects.md › Guild.

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{self, User},
    model::{AuditAction, ChannelKind, Guild, GuildSettings, present},
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{by_id, store};
use crate::{
    access::{self, GuildAccess},
    account,
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{ImageOf, check_image, store_optional_image},
    second_factor::{self, Shown},
    text::clean,
};

/// Locales a guild can prefer.
const LOCALES: &[&str] = &[
    "ar", "bg", "cs", "da", "de", "el", "en-GB", "en-US", "es-419", "es-ES", "fi", "fr", "he",
    "hi", "hr", "hu", "id", "it", "ja", "ko", "lt", "nl", "no", "pl", "pt-BR", "ro", "ru", "sv-SE",
    "th", "tr", "uk", "vi", "zh-CN", "zh-TW",
];
/// Features a request can turn on and off, with the permission that needs.
const FEATURES: [(&str, Permissions); 4] = [
    ("COMMUNITY", Permissions::ADMINISTRATOR),
    ("DISCOVERABLE", Permissions::ADMINISTRATOR),
    ("INVITES_DISABLED", Permissions::MANAGE_GUILD),
    ("RAID_ALERTS_DISABLED", Permissions::MANAGE_GUILD),
];
const FEATURES_MAX: usize = 1521;

pub(super) fn check_levels(
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

/// What is to change; null gives a field its first value back.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(crate) struct UpdateGuild {
    /// 2 to 100 characters.
    name: Option<String>,
    /// At most 300 characters.
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
    /// Kept for old clients; channels choose their own.
    #[serde(deserialize_with = "present")]
    region: Option<Option<String>>,
    owner_id: Option<Id<User>>,
    /// Of the owner's second factor, if there is one: for another owner.
    code: Option<String>,
    #[serde(deserialize_with = "present")]
    verification_level: Option<Option<u8>>,
    #[serde(deserialize_with = "present")]
    default_message_notifications: Option<Option<u8>>,
    #[serde(deserialize_with = "present")]
    explicit_content_filter: Option<Option<u8>>,
    /// Seconds: 60, 300, 900, 1800 or 3600.
    #[serde(deserialize_with = "present")]
    afk_timeout: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    preferred_locale: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    system_channel_flags: Option<Option<u32>>,
    #[serde(deserialize_with = "present")]
    premium_progress_bar_enabled: Option<Option<bool>>,
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
    /// All that are to be on. Only COMMUNITY, DISCOVERABLE, INVITES_DISABLED and
    /// RAID_ALERTS_DISABLED follow; the others are the server's.
    #[serde(deserialize_with = "present")]
    features: Option<Option<Vec<Option<String>>>>,
}

impl Form for UpdateGuild {
    fn check(&self, form: &mut FormErrors) {
        if let Some(code) = &self.code {
            form.length("code", code, 0..=64);
        }
        if let Some(name) = &self.name {
            form.length("name", name, 2..=100);
        }
        if let Some(Some(description)) = &self.description {
            form.length("description", description, 0..=300);
        }
        if let Some(Some(region)) = &self.region {
            form.length("region", region, 0..=100);
        }
        if let Some(Some(locale)) = &self.preferred_locale
            && !LOCALES.contains(&locale.as_str())
        {
            form.add(
                "preferred_locale",
                Fault::NotEnum(locale.chars().take(20).collect()),
            );
        }
        if let Some(Some(flags)) = self.system_channel_flags {
            form.range(
                "system_channel_flags",
                flags.into(),
                0..=i64::from(i32::MAX),
            );
        }
        if let Some(Some(features)) = &self.features
            && features.len() > FEATURES_MAX
        {
            let max = FEATURES_MAX;
            form.add("features", Fault::BadLength { min: 0, max });
        }
        check_levels(
            form,
            self.verification_level.flatten(),
            self.default_message_notifications.flatten(),
            self.explicit_content_filter.flatten(),
            self.afk_timeout.flatten(),
        );
        for (path, image) in [
            ("icon", &self.icon),
            ("splash", &self.splash),
            ("banner", &self.banner),
            ("discovery_splash", &self.discovery_splash),
        ] {
            check_image(form, path, image.as_ref().and_then(Option::as_deref));
        }
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
        let (store, media) = (store_optional_image, &app.media);
        let discovery = ImageOf::GuildDiscoverySplash(guild);
        Ok(Self {
            icon: store(media, ImageOf::GuildIcon(guild), "icon", &body.icon).await?,
            splash: store(media, ImageOf::GuildSplash(guild), "splash", &body.splash).await?,
            discovery_splash: store(media, discovery, "discovery_splash", &body.discovery_splash)
                .await?,
            banner: store(media, ImageOf::GuildBanner(guild), "banner", &body.banner).await?,
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

/// MANAGE_GUILD; ADMINISTRATOR for the features COMMUNITY and DISCOVERABLE; a new owner is
/// named by the old one only, who shows their second factor.
///
/// Errors: 10004, 10007, 10013, 20001, 50001, 50013, 50035, 50131, 50132, 60003, 60008, 429.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}",
    tag = "Guilds",
    responses((status = 200, body = Guild))
)]
pub(crate) async fn update_guild(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<marker::Guild>>,
    reason: Reason,
    shown: Shown,
    Json(body): Json<UpdateGuild>,
) -> Result<Json<Guild>> {
    if body.owner_id.is_some_and(|owner| owner != user.id) {
        let code = body.code.as_deref();
        confirm_new_owner(&app, &user, guild_id, shown, code).await?;
    }
    let images = Images::store(&app, &user, guild_id, &body).await?;
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    // A new owner's too: they may be deleting their account.
    let heads = [guild_id.cast::<marker::Realm>()].into_iter();
    access::lock_realms(&mut tx, heads.chain(body.owner_id.map(Id::cast))).await?;
    let access = access::guild(&mut *tx, &user, guild_id, needed).await?;
    let (mut guild, _) = by_id(&mut tx, guild_id).await?;
    let before = guild.clone();
    if let Some(owner) = body.owner_id.filter(|&owner| owner != guild.owner_id) {
        user.require_human()?;
        if !access.is_owner() {
            return Err(ErrorCode::MissingPermissions.into());
        }
        let member = guildhall_store::guild::member(&mut *tx, guild_id, owner).await?;
        let member = member.ok_or(ErrorCode::UnknownMember)?;
        if member.user.is_some_and(|user| user.bot) {
            return Err(ErrorCode::OwnershipToBot.into());
        }
        if member.pending {
            return Err(ErrorCode::OwnerPending.into());
        }
        account::require_not_deleted(&mut tx, owner).await?;
        guild.owner_id = owner;
    }
    check_channels(&mut tx, guild_id, &body).await?;
    let features = body.features.clone();
    apply(body, &mut guild);
    images.apply(&mut guild);
    if let Some(wanted) = features {
        change_features(&access, &mut guild.settings, &wanted.unwrap_or_default())?;
    }
    check_community(&before.settings, &guild.settings)?;
    if guild == before {
        return Ok(Json(guild));
    }
    let mut events = vec![store(&mut tx, &guild).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::GUILD_UPDATE, &reason)
        .target(guild_id)
        .changed(&before, &guild)?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(guild))
}

/// An owner gives a guild away with their second factor, as they delete it: the next one could.
///
/// Errors: 10004, 50001, 50013, 60003, 60008, 429.
async fn confirm_new_owner(
    app: &App,
    user: &CurrentUser,
    guild: Id<marker::Guild>,
    shown: Shown,
    code: Option<&str>,
) -> Result<()> {
    let access = access::guild(&app.db, user, guild, Permissions::MANAGE_GUILD).await?;
    match access.is_owner() {
        true => second_factor::require(app, user, shown, code).await,
        // Refused later on.
        false => Ok(()),
    }
}

/// Errors: 50013 for a feature that is not the caller's to change.
fn change_features(
    access: &GuildAccess,
    settings: &mut GuildSettings,
    wanted: &[Option<String>],
) -> Result<()> {
    for (feature, needed) in FEATURES {
        let wants = wanted.iter().flatten().any(|wanted| wanted == feature);
        let has = settings.features.iter().any(|have| have == feature);
        if wants == has {
            continue;
        }
        access.require(needed)?;
        set_feature(settings, feature, wants);
        if feature == "COMMUNITY" {
            set_feature(settings, "NEWS", wants);
            if wants {
                settings.verification_level = settings.verification_level.max(1);
                settings.explicit_content_filter = 2;
            } else {
                set_feature(settings, "DISCOVERABLE", false);
            }
        }
    }
    Ok(())
}

/// Turns a feature on or off. Features are kept in alphabetical order.
pub(crate) fn set_feature(settings: &mut GuildSettings, feature: &str, on: bool) {
    settings.features.retain(|have| have != feature);
    if on {
        settings.features.push(feature.to_owned());
        settings.features.sort_unstable();
    }
}

/// A community has a channel for its rules and one for notices to its moderators.
fn check_community(before: &GuildSettings, after: &GuildSettings) -> Result<()> {
    let has = |feature: &str| after.features.iter().any(|have| have == feature);
    let mut form = FormErrors::new();
    if has("COMMUNITY") {
        for (path, channel) in [
            ("rules_channel_id", after.rules_channel_id),
            ("public_updates_channel_id", after.public_updates_channel_id),
        ] {
            if channel.is_none() {
                form.add(path, Fault::Required);
            }
        }
    } else if has("DISCOVERABLE") && before.features != after.features {
        let message = "Only communities can be discoverable.";
        form.add(
            "features",
            Fault::Other("GUILD_DISCOVERY_REQUIREMENTS_NOT_MET", message.into()),
        );
    }
    form.finish()
}

/// Channels named in the settings must be the guild's and of the right kind.
async fn check_channels(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    body: &UpdateGuild,
) -> Result<()> {
    const TEXT: &[ChannelKind] = &[ChannelKind::TEXT, ChannelKind::ANNOUNCEMENT];
    const VOICE: &[ChannelKind] = &[ChannelKind::VOICE];
    let mut form = FormErrors::new();
    for (path, channel, wanted) in [
        ("afk_channel_id", body.afk_channel_id, VOICE),
        ("system_channel_id", body.system_channel_id, TEXT),
        ("rules_channel_id", body.rules_channel_id, TEXT),
        (
            "public_updates_channel_id",
            body.public_updates_channel_id,
            TEXT,
        ),
        (
            "safety_alerts_channel_id",
            body.safety_alerts_channel_id,
            TEXT,
        ),
    ] {
        let Some(channel) = channel.flatten() else {
            continue;
        };
        check_channel(db, guild, channel, wanted, path, &mut form).await?;
    }
    form.finish()
}

/// Adds a fault at `path` unless the channel is the guild's and of one of the kinds.
pub(crate) async fn check_channel(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    channel: Id<marker::Channel>,
    wanted: &[ChannelKind],
    path: &str,
    form: &mut FormErrors,
) -> Result<()> {
    let kind = sqlx::query_scalar!(
        "select kind from channel where guild_id = $1 and channel_id = $2",
        guild.to_db(),
        channel.to_db(),
    )
    .fetch_optional(db)
    .await?;
    if !kind.is_some_and(|kind| wanted.contains(&ChannelKind(kind as u8))) {
        let message = "This is no channel of the guild that fits.";
        form.add(path, Fault::Other("CHANNEL_INVALID", message.into()));
    }
    Ok(())
}

fn apply(body: UpdateGuild, guild: &mut Guild) {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    fn set_or<T>(field: &mut T, value: Option<Option<T>>, default: T) {
        if let Some(value) = value {
            *field = value.unwrap_or(default);
        }
    }
    set(&mut guild.name, body.name.map(|name| clean(&name)));
    if let Some(description) = body.description {
        guild.description = description
            .map(|text| clean(&text))
            .filter(|text| !text.is_empty());
    }
    let first = GuildSettings::default();
    let settings = &mut guild.settings;
    let region = body.region.map(|region| region.map(|text| clean(&text)));
    set_or(&mut settings.region, region, first.region);
    set_or(&mut settings.verification_level, body.verification_level, 0);
    set_or(
        &mut settings.default_message_notifications,
        body.default_message_notifications,
        0,
    );
    set_or(
        &mut settings.explicit_content_filter,
        body.explicit_content_filter,
        0,
    );
    set_or(
        &mut settings.afk_timeout,
        body.afk_timeout,
        first.afk_timeout,
    );
    set_or(
        &mut settings.preferred_locale,
        body.preferred_locale,
        first.preferred_locale,
    );
    set_or(
        &mut settings.system_channel_flags,
        body.system_channel_flags,
        0,
    );
    set_or(
        &mut settings.premium_progress_bar_enabled,
        body.premium_progress_bar_enabled,
        false,
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
