//! What people set for themselves, in all and per guild (calls of user clients; no official
//! page). Shapes: objects.md › User settings, User guild settings.

use std::collections::BTreeMap;

use axum::extract::State;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
    model::{
        CHANNEL_OVERRIDES_MAX, FOLDERS_MAX, GuildFolder, MuteConfig, SETTINGS_GUILDS_MAX,
        StoredChannelOverride, StoredGuildSettings, UserGuildSettings, UserGuildSettingsChange,
        UserSettings, UserSettingsChange,
    },
};
use guildhall_store::personal;
use serde::Deserialize;
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access, account,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
};

/// Guilds changed by one call.
const GUILDS_AT_ONCE_MAX: usize = 200;
/// A mute ends at most this many seconds from now, if at all.
const MUTE_SECONDS_MAX: i64 = 10 * 366 * 86_400;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(user_settings_get, user_settings_update))
        .routes(routes!(user_guild_settings_update))
        .routes(routes!(user_guild_settings_bulk))
}

/// The caller's settings, with defaults for what they never set. Errors: 401, 20001.
#[utoipa::path(
    get,
    path = "/users/@me/settings",
    tag = "Users",
    responses((status = 200, body = UserSettings))
)]
async fn user_settings_get(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<UserSettings>> {
    caller.require_human()?;
    Ok(Json(personal::settings(&app.db, caller.id).await?))
}

impl Form for UserSettingsChange {
    fn check(&self, form: &mut FormErrors) {
        for (path, guilds) in [
            ("restricted_guilds", &self.restricted_guilds),
            (
                "activity_restricted_guild_ids",
                &self.activity_restricted_guild_ids,
            ),
            (
                "activity_joining_restricted_guild_ids",
                &self.activity_joining_restricted_guild_ids,
            ),
        ] {
            if let Some(guilds) = guilds {
                check_count(form, path, guilds.len(), SETTINGS_GUILDS_MAX);
            }
        }
        if let Some(folders) = &self.guild_folders {
            check_folders(form, folders);
        }
        if let Some(locale) = &self.locale {
            check_locale(form, locale);
        }
        if let Some(Some(status)) = &self.custom_status {
            for (path, text, max) in [
                ("custom_status.text", &status.text, 128),
                ("custom_status.emoji_name", &status.emoji_name, 64),
            ] {
                if let Some(text) = text {
                    form.length(path, text, 0..=max);
                }
            }
        }
        for (path, value, max) in [
            ("afk_timeout", self.afk_timeout.map(i64::from), 3600),
            ("animate_stickers", self.animate_stickers.map(i64::from), 2),
            (
                "explicit_content_filter",
                self.explicit_content_filter.map(i64::from),
                2,
            ),
            (
                "slayer_sdk_receive_dms_in_game",
                self.slayer_sdk_receive_dms_in_game.map(i64::from),
                3,
            ),
        ] {
            if let Some(value) = value {
                form.range(path, value, 0..=max);
            }
        }
        if let Some(offset) = self.timezone_offset {
            form.range("timezone_offset", offset.into(), -1440..=1440);
        }
        if let Some(volume) = self.soundboard_volume
            && !(0.0..=100.0).contains(&volume)
        {
            form.add("soundboard_volume", Fault::Max(100));
        }
    }
}

fn check_count(form: &mut FormErrors, path: &str, count: usize, max: usize) {
    if count > max {
        form.add(path, Fault::BadLength { min: 0, max });
    }
}

fn check_folders(form: &mut FormErrors, folders: &[GuildFolder]) {
    check_count(form, "guild_folders", folders.len(), FOLDERS_MAX);
    let guilds = folders.iter().map(|folder| folder.guild_ids.len()).sum();
    check_count(form, "guild_folders", guilds, SETTINGS_GUILDS_MAX);
    for (n, folder) in folders.iter().enumerate() {
        if let Some(name) = &folder.name {
            form.length(&format!("guild_folders.{n}.name"), name, 0..=32);
        }
        if let Some(color) = folder.color {
            form.range(
                &format!("guild_folders.{n}.color"),
                color.into(),
                0..=0xFF_FFFF,
            );
        }
    }
}

/// A language and perhaps a region: `de`, `pt-BR`.
fn check_locale(form: &mut FormErrors, locale: &str) {
    let is_plausible = (2..=10).contains(&locale.len())
        && locale
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_plausible {
        form.add("locale", Fault::NotEnum(locale.chars().take(40).collect()));
    }
}

/// Changes what is there; the caller's sessions are told of just that.
///
/// Errors: 401, 20001, 50035.
#[utoipa::path(
    patch,
    path = "/users/@me/settings",
    tag = "Users",
    responses((status = 200, body = UserSettings))
)]
async fn user_settings_update(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<UserSettingsChange>,
) -> Result<Json<UserSettings>> {
    caller.require_human()?;
    let change = without_nul(serde_json::to_value(&body)?);
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    sqlx::query!(
        "insert into user_settings (user_id, settings) values ($1, $2)
         on conflict (user_id) do update set settings = user_settings.settings || excluded.settings",
        caller.id.to_db(),
        change,
    )
    .execute(&mut *tx)
    .await?;
    let mut events: Vec<Envelope> = Vec::new();
    if let Some(locale) = &body.locale {
        let changed = sqlx::query!(
            "update account set locale = $2 where user_id = $1 and locale <> $2",
            caller.id.to_db(),
            locale,
        )
        .execute(&mut *tx)
        .await?;
        if changed.rows_affected() > 0 {
            events.push(account::append_update(&mut tx, caller.id).await?);
        }
    }
    let vis = Visibility::realm(Intents::empty());
    let kind = EventKind::UserSettingsUpdate;
    events.push(events::append(&mut tx, caller.id, kind, vis, &change, None).await?);
    let settings = personal::settings(&mut *tx, caller.id).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(events);
    Ok(Json(settings))
}

/// Postgres' jsonb takes every character but one.
fn without_nul(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(text.replace('\0', "")),
        Value::Array(list) => list.into_iter().map(without_nul).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, without_nul(value)))
            .collect(),
        other => other,
    }
}

impl Form for UserGuildSettingsChange {
    fn check(&self, form: &mut FormErrors) {
        check_guild_settings(form, "", self);
    }
}

fn check_guild_settings(form: &mut FormErrors, path: &str, change: &UserGuildSettingsChange) {
    if let Some(level) = change.message_notifications {
        form.range(&format!("{path}message_notifications"), level.into(), 0..=3);
    }
    if let Some(level) = change.notify_highlights {
        form.range(&format!("{path}notify_highlights"), level.into(), 0..=2);
    }
    if let Some(Some(mute)) = &change.mute_config {
        check_mute(form, &format!("{path}mute_config"), mute);
    }
    let Some(overrides) = &change.channel_overrides else {
        return;
    };
    let path = format!("{path}channel_overrides");
    check_count(form, &path, overrides.len(), CHANNEL_OVERRIDES_MAX);
    for (channel, settings) in overrides {
        if let Some(settings) = settings {
            check_override(form, &format!("{path}.{channel}"), settings);
        }
    }
}

fn check_override(form: &mut FormErrors, path: &str, settings: &StoredChannelOverride) {
    let level = settings.message_notifications;
    form.range(
        &format!("{path}.message_notifications"),
        level.into(),
        0..=3,
    );
    if let Some(mute) = &settings.mute_config {
        check_mute(form, &format!("{path}.mute_config"), mute);
    }
}

fn check_mute(form: &mut FormErrors, path: &str, mute: &MuteConfig) {
    if let Some(seconds) = mute.selected_time_window {
        form.range(
            &format!("{path}.selected_time_window"),
            seconds,
            -1..=MUTE_SECONDS_MAX,
        );
    }
    let latest = Timestamp::now().0 + time::Duration::seconds(MUTE_SECONDS_MAX);
    if let Some(end) = mute.end_time.filter(|end| end.0 > latest) {
        form.add(
            format!("{path}.end_time"),
            Fault::Other(
                "DATE_TIME_TYPE_TOO_LATE",
                format!("{} is too far away.", end.0.date()).into(),
            ),
        );
    }
}

/// Whose settings: a guild's, or those of direct messages (`@me`).
#[derive(Debug, Clone, Copy)]
struct Place(Option<Id<marker::Guild>>);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "@me" {
            return Ok(Self(None));
        }
        let id = text.parse();
        id.map(|id| Self(Some(id)))
            .map_err(|_| serde::de::Error::custom("expected a snowflake or @me"))
    }
}

/// Changes the caller's settings for a guild, or with `@me` for direct messages.
///
/// Errors: 401, 10004 for who is no member, 20001, 50035.
#[utoipa::path(
    patch,
    path = "/users/@me/guilds/{guild_id}/settings",
    tag = "Users",
    params(("guild_id" = String, Path, description = "A guild's id, or @me")),
    responses((status = 200, body = UserGuildSettings))
)]
async fn user_guild_settings_update(
    State(app): State<App>,
    caller: CurrentUser,
    Path(Place(guild)): Path<Place>,
    Json(body): Json<UserGuildSettingsChange>,
) -> Result<Json<UserGuildSettings>> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    let (settings, event) = change(&mut tx, caller.id, guild, body).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(Json(settings))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct BulkGuildSettings {
    /// By guild; `@me` for direct messages. At most 200.
    #[schema(required, value_type = BTreeMap<String, UserGuildSettingsChange>)]
    guilds: Option<BTreeMap<String, UserGuildSettingsChange>>,
}

impl Form for BulkGuildSettings {
    fn check(&self, form: &mut FormErrors) {
        let Some(guilds) = form.required("guilds", &self.guilds) else {
            return;
        };
        check_count(form, "guilds", guilds.len(), GUILDS_AT_ONCE_MAX);
        for (guild, change) in guilds {
            let shown: String = guild.chars().take(40).collect();
            if guild != "@me" && guild.parse::<Id<marker::Guild>>().is_err() {
                form.add(format!("guilds.{shown}"), Fault::NotSnowflake(shown));
            } else {
                check_guild_settings(form, &format!("guilds.{shown}."), change);
            }
        }
    }
}

/// Changes the caller's settings for several guilds. All or none.
///
/// Errors: 401, 10004, 20001, 50035.
#[utoipa::path(
    patch,
    path = "/users/@me/guilds/settings",
    tag = "Users",
    responses((status = 200, body = [UserGuildSettings]))
)]
async fn user_guild_settings_bulk(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<BulkGuildSettings>,
) -> Result<Json<Vec<UserGuildSettings>>> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    let (mut all, mut events) = (Vec::new(), Vec::new());
    for (guild, body) in body.guilds.unwrap_or_default() {
        // `@me`, as the form was checked.
        let guild = guild.parse().ok();
        let (settings, event) = change(&mut tx, caller.id, guild, body).await?;
        all.push(settings);
        events.push(event);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(all))
}

/// Errors: 10004, 50035.
async fn change(
    db: &mut PgConnection,
    user: Id<marker::User>,
    guild: Option<Id<marker::Guild>>,
    change: UserGuildSettingsChange,
) -> Result<(UserGuildSettings, Envelope)> {
    if let Some(guild) = guild {
        let is_member = sqlx::query_scalar!(
            r#"select exists (
                 select from member where guild_id = $1 and user_id = $2) as "is_member!""#,
            guild.to_db(),
            user.to_db(),
        )
        .fetch_one(&mut *db)
        .await?;
        if !is_member {
            return Err(ErrorCode::UnknownGuild.into());
        }
    }
    let stored = sqlx::query_scalar!(
        r#"select settings as "settings: Jsonb<StoredGuildSettings>"
           from user_guild_settings where user_id = $1 and guild_id = $2"#,
        user.to_db(),
        guild.map_or(0, Id::to_db),
    )
    .fetch_optional(&mut *db)
    .await?;
    let mut settings = stored.map(|json| json.0).unwrap_or_default();
    settings.apply(change);
    if settings.channel_overrides.len() > CHANNEL_OVERRIDES_MAX {
        let (min, max) = (0, CHANNEL_OVERRIDES_MAX);
        return Err(FormErrors::one(
            "channel_overrides",
            Fault::BadLength { min, max },
        ));
    }
    sqlx::query!(
        "insert into user_guild_settings (user_id, guild_id, settings) values ($1, $2, $3)
         on conflict (user_id, guild_id) do update set settings = excluded.settings",
        user.to_db(),
        guild.map_or(0, Id::to_db),
        Jsonb(&settings) as _,
    )
    .execute(&mut *db)
    .await?;
    let settings = settings.into_wire(guild);
    let vis = Visibility::realm(Intents::empty());
    let kind = EventKind::UserGuildSettingsUpdate;
    let event = events::append(db, user, kind, vis, &settings, None).await?;
    Ok((settings, event))
}
