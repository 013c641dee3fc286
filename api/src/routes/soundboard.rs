//! Sounds of guilds, and playing them in voice channels. Spec: objects.md › Soundboard sound.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Channel, Guild},
    model::{AuditAction, SoundboardSound},
};
use guildhall_store::{expressions, ids_from_db};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    emoji::is_unicode_emoji,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{self, File},
    text::clean,
};

const SOUNDS_MAX: usize = 8;
const FILE_BYTES_MAX: usize = 512 << 10;
const LENGTH_MAX: Duration = Duration::from_millis(5200);

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_soundboard_default_sounds))
        .routes(routes!(
            list_guild_soundboard_sounds,
            create_guild_soundboard_sound
        ))
        .routes(routes!(
            get_guild_soundboard_sound,
            update_guild_soundboard_sound,
            delete_guild_soundboard_sound
        ))
        .routes(routes!(send_soundboard_sound))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = CreateSoundRequest)]
struct CreateSound {
    /// 2 to 32 characters.
    #[schema(required)]
    name: Option<String>,
    /// 0 to 1; 1 if not given.
    volume: Option<f64>,
    /// Of the guild.
    emoji_id: Option<Id<marker::Emoji>>,
    /// A unicode emoji.
    emoji_name: Option<String>,
    /// `data:audio/ogg;base64,…`: MP3, or Ogg with Vorbis or Opus; at most 512 KiB and 5.2 seconds.
    #[schema(required)]
    sound: Option<String>,
}

impl Form for CreateSound {
    fn check(&self, form: &mut FormErrors) {
        form.required("name", &self.name);
        form.required("sound", &self.sound);
        check_fields(
            form,
            self.name.as_deref(),
            self.volume,
            self.emoji_name.as_deref(),
        );
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = UpdateSoundRequest)]
struct UpdateSound {
    name: Option<String>,
    /// Null: 1.
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    volume: Option<Option<f64>>,
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    emoji_id: Option<Option<Id<marker::Emoji>>>,
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    emoji_name: Option<Option<String>>,
}

impl Form for UpdateSound {
    fn check(&self, form: &mut FormErrors) {
        let emoji_name = self.emoji_name.as_ref().and_then(Option::as_deref);
        check_fields(
            form,
            self.name.as_deref(),
            self.volume.flatten(),
            emoji_name,
        );
    }
}

fn check_fields(
    form: &mut FormErrors,
    name: Option<&str>,
    volume: Option<f64>,
    emoji_name: Option<&str>,
) {
    if let Some(name) = name {
        form.length("name", name, 2..=32);
    }
    match volume {
        Some(volume) if volume < 0.0 => form.add("volume", Fault::Min(0)),
        Some(volume) if volume > 1.0 => form.add("volume", Fault::Max(1)),
        _ => {}
    }
    if emoji_name.is_some_and(|name| !is_unicode_emoji(name)) {
        form.add("emoji_name", Fault::NotMatching);
    }
}

/// Errors: 50035 for an emoji that is not the guild's.
async fn check_emoji(
    db: &mut PgConnection,
    guild: Id<Guild>,
    emoji: Option<Id<marker::Emoji>>,
) -> Result<()> {
    let Some(emoji) = emoji else { return Ok(()) };
    let of = expressions::EmojisOf::Guild(guild);
    match expressions::emojis(db, of, Some(emoji)).await?.is_empty() {
        false => Ok(()),
        true => {
            let fault = Fault::Other("EMOJI_INVALID", "Unknown Emoji".into());
            Err(FormErrors::one("emoji_id", fault))
        }
    }
}

/// Who made it is for those who manage expressions.
fn shown_to(access: &GuildAccess, sound: SoundboardSound) -> SoundboardSound {
    let sees = access
        .base()
        .intersects(Permissions::CREATE_GUILD_EXPRESSIONS | Permissions::MANAGE_GUILD_EXPRESSIONS);
    SoundboardSound {
        user: sound.user.filter(|_| sees),
        ..sound
    }
}

/// Errors: 10097.
async fn find(
    db: &mut PgConnection,
    guild: Id<Guild>,
    id: Id<marker::Sound>,
) -> Result<SoundboardSound> {
    let found = expressions::sounds(db, guild, Some(id)).await?.pop();
    found.ok_or_else(|| ErrorCode::UnknownSound.into())
}

async fn announce(
    db: &mut PgConnection,
    guild: Id<Guild>,
    kind: EventKind,
    body: &impl Serialize,
) -> Result<Envelope> {
    let vis = Visibility::realm(Intents::GUILD_EXPRESSIONS);
    events::append(db, guild, kind, vis, body, None).await
}

/// Takes a deleted emoji from the guild's sounds; tells of those that had it, all at once.
pub(super) async fn forget_emoji(
    db: &mut PgConnection,
    guild: Id<Guild>,
    emoji: Id<marker::Emoji>,
) -> Result<Option<Envelope>> {
    let changed = sqlx::query_scalar!(
        "update soundboard_sound set emoji_id = null where guild_id = $1 and emoji_id = $2
         returning sound_id",
        guild.to_db(),
        emoji.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    if changed.is_empty() {
        return Ok(None);
    }
    let mut sounds = expressions::sounds(&mut *db, guild, None).await?;
    sounds.retain(|sound| changed.contains(&sound.sound_id.to_db()));
    let body = json!({ "soundboard_sounds": sounds, "guild_id": guild });
    let kind = EventKind::GuildSoundboardSoundsUpdate;
    announce(db, guild, kind, &body).await.map(Some)
}

/// What the audit log tells of a sound.
fn logged(sound: &SoundboardSound) -> impl Serialize + use<> {
    json!({
        "name": sound.name,
        "volume": sound.volume,
        "emoji_id": sound.emoji_id,
        "emoji_name": sound.emoji_name,
        "guild_id": sound.guild_id,
        "available": sound.available,
    })
}

/// None: this server comes without sounds.
#[utoipa::path(
    get,
    path = "/soundboard-default-sounds",
    tag = "Soundboard",
    responses((status = 200, body = Vec<SoundboardSound>))
)]
async fn get_soundboard_default_sounds(_user: CurrentUser) -> Json<Vec<SoundboardSound>> {
    Json(Vec::new())
}

#[derive(Serialize, ToSchema)]
struct Sounds {
    items: Vec<SoundboardSound>,
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/soundboard-sounds",
    tag = "Soundboard",
    responses((status = 200, body = Sounds))
)]
async fn list_guild_soundboard_sounds(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Sounds>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let sounds = expressions::sounds(&app.db, guild_id, None).await?;
    let sounds = sounds.into_iter().map(|sound| shown_to(&access, sound));
    Ok(Json(Sounds {
        items: sounds.collect(),
    }))
}

/// Errors: 10004, 10097, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/soundboard-sounds/{sound_id}",
    tag = "Soundboard",
    responses((status = 200, body = SoundboardSound))
)]
async fn get_guild_soundboard_sound(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sound_id)): Path<(Id<Guild>, Id<marker::Sound>)>,
) -> Result<Json<SoundboardSound>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let sound = find(&mut db, guild_id, sound_id).await?;
    Ok(Json(shown_to(&access, sound)))
}

/// CREATE_GUILD_EXPRESSIONS; 8 of a guild.
///
/// Errors: 10004, 30045, 50001, 50013, 50035, 50124.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/soundboard-sounds",
    tag = "Soundboard",
    responses((status = 201, body = SoundboardSound))
)]
async fn create_guild_soundboard_sound(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<CreateSound>,
) -> Result<(StatusCode, Json<SoundboardSound>)> {
    let needed = Permissions::CREATE_GUILD_EXPRESSIONS;
    access::guild(&app.db, &user, guild_id, needed).await?;
    let sound_id: Id<marker::Sound> = app.snowflakes.next()?;
    keep_sound(&app, sound_id, body.sound.as_deref().unwrap_or_default()).await?;
    let mut tx = app.db.begin().await?;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    check_emoji(&mut tx, guild_id, body.emoji_id).await?;
    let others = expressions::sounds(&mut *tx, guild_id, None).await?;
    if others.len() >= SOUNDS_MAX {
        return Err(ErrorCode::MaximumSounds.into());
    }
    let sound = SoundboardSound {
        sound_id,
        name: clean(body.name.as_deref().unwrap_or_default()),
        volume: body.volume.unwrap_or(1.0),
        emoji_name: body.emoji_name.filter(|_| body.emoji_id.is_none()),
        emoji_id: body.emoji_id,
        guild_id: Some(guild_id),
        available: true,
        user: Some(user.user().clone()),
    };
    sqlx::query!(
        "insert into soundboard_sound (sound_id, guild_id, name, volume, emoji_id, emoji_name,
                                       creator_id)
         values ($1, $2, $3, $4, $5, $6, $7)",
        sound_id.to_db(),
        guild_id.to_db(),
        sound.name,
        sound.volume,
        sound.emoji_id.map(Id::to_db),
        sound.emoji_name,
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::GuildSoundboardSoundCreate;
    let mut events = vec![announce(&mut tx, guild_id, kind, &sound).await?];
    let action = AuditAction::SOUNDBOARD_SOUND_CREATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(sound_id)
        .created(&logged(&sound))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok((StatusCode::CREATED, Json(sound)))
}

/// Keeps the bytes of a new sound.
///
/// Errors: 50035 for what is neither MP3 nor Ogg with Vorbis or Opus, 50124 for what plays too long.
async fn keep_sound(app: &App, id: Id<marker::Sound>, data_uri: &str) -> Result<()> {
    let bytes = media::decode_data_uri("sound", data_uri, FILE_BYTES_MAX)?;
    let content_type = media::sniff_type(&bytes);
    let Some(lasts) = media::sound_length(content_type, &bytes) else {
        let fault = Fault::Other("AUDIO_INVALID", "Invalid audio file".into());
        return Err(FormErrors::one("sound", fault));
    };
    if lasts > LENGTH_MAX {
        return Err(ErrorCode::SoundTooLong.into());
    }
    let file = File {
        path: format!("soundboard-sounds/{id}"),
        content_type: content_type.to_owned(),
        size: bytes.len() as u64,
        width: None,
        height: None,
    };
    app.media.put(&file, bytes.into()).await
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10097, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/soundboard-sounds/{sound_id}",
    tag = "Soundboard",
    responses((status = 200, body = SoundboardSound))
)]
async fn update_guild_soundboard_sound(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sound_id)): Path<(Id<Guild>, Id<marker::Sound>)>,
    reason: Reason,
    Json(body): Json<UpdateSound>,
) -> Result<Json<SoundboardSound>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let mut sound = find(&mut tx, guild_id, sound_id).await?;
    access.require_own_expression(sound.user.as_ref().map(|user| user.id))?;
    check_emoji(&mut tx, guild_id, body.emoji_id.flatten()).await?;
    let before = logged(&sound);
    if let Some(name) = &body.name {
        sound.name = clean(name);
    }
    if let Some(volume) = body.volume {
        sound.volume = volume.unwrap_or(1.0);
    }
    if let Some(name) = body.emoji_name {
        sound.emoji_id = sound.emoji_id.filter(|_| name.is_none());
        sound.emoji_name = name;
    }
    if let Some(id) = body.emoji_id {
        sound.emoji_name = sound.emoji_name.take().filter(|_| id.is_none());
        sound.emoji_id = id;
    }
    sqlx::query!(
        "update soundboard_sound set name = $2, volume = $3, emoji_id = $4, emoji_name = $5
         where sound_id = $1",
        sound_id.to_db(),
        sound.name,
        sound.volume,
        sound.emoji_id.map(Id::to_db),
        sound.emoji_name,
    )
    .execute(&mut *tx)
    .await?;
    let kind = EventKind::GuildSoundboardSoundUpdate;
    let mut events = vec![announce(&mut tx, guild_id, kind, &sound).await?];
    let action = AuditAction::SOUNDBOARD_SOUND_UPDATE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(sound_id)
        .changed(&before, &logged(&sound))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(sound))
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10097, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/soundboard-sounds/{sound_id}",
    tag = "Soundboard",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_guild_soundboard_sound(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sound_id)): Path<(Id<Guild>, Id<marker::Sound>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let sound = find(&mut tx, guild_id, sound_id).await?;
    access.require_own_expression(sound.user.as_ref().map(|user| user.id))?;
    let id = sound_id.to_db();
    sqlx::query!("delete from soundboard_sound where sound_id = $1", id)
        .execute(&mut *tx)
        .await?;
    let kind = EventKind::GuildSoundboardSoundDelete;
    let body = json!({ "sound_id": sound_id, "guild_id": guild_id });
    let mut events = vec![announce(&mut tx, guild_id, kind, &body).await?];
    let action = AuditAction::SOUNDBOARD_SOUND_DELETE;
    let entry = Entry::new(guild_id, user.id, action, &reason)
        .target(sound_id)
        .deleted(&logged(&sound))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = SendSoundRequest)]
struct SendSound {
    #[schema(required)]
    sound_id: Option<Id<marker::Sound>>,
    /// The sound's guild, if it is not the channel's.
    source_guild_id: Option<Id<Guild>>,
}

impl Form for SendSound {
    fn check(&self, form: &mut FormErrors) {
        form.required("sound_id", &self.sound_id);
    }
}

/// Plays a sound to those connected to the caller's voice channel; nothing is stored.
///
/// Errors: 10003, 10097, 50001, 50013, 50035, 50167 unless the caller is connected there and
/// can be heard.
#[utoipa::path(
    post,
    path = "/channels/{channel_id}/send-soundboard-sound",
    tag = "Soundboard",
    responses((status = 204, description = "Those connected were told"))
)]
async fn send_soundboard_sound(
    State(app): State<App>,
    user: CurrentUser,
    Path(channel_id): Path<Id<Channel>>,
    Json(body): Json<SendSound>,
) -> Result<StatusCode> {
    let mut db = app.db.acquire().await?;
    let needed = Permissions::SPEAK | Permissions::USE_SOUNDBOARD;
    let access = access::channel(&mut db, &user, channel_id, needed).await?;
    let guild = access.guild.id;
    let connected = sqlx::query!(
        "select user_id, self_mute, self_deaf, suppress from voice_state
         where guild_id = $1 and channel_id = $2 and alive_until > now()",
        guild.to_db(),
        channel_id.to_db(),
    )
    .fetch_all(&mut *db)
    .await?;
    let member = &access.guild.member;
    let is_heard = connected.iter().any(|state| {
        state.user_id == user.id.to_db() && !(state.self_mute || state.self_deaf || state.suppress)
    });
    if !is_heard || member.mute || member.deaf {
        return Err(ErrorCode::SoundboardVoice.into());
    }
    let source = body.source_guild_id.unwrap_or(guild);
    if source != guild {
        access.require(Permissions::USE_EXTERNAL_SOUNDS)?;
        access::guild(&mut *db, &user, source, Permissions::empty()).await?;
    }
    let sound_id = body.sound_id.ok_or(ErrorCode::UnknownSound)?;
    let sound = find(&mut db, source, sound_id).await?;
    let users = connected.into_iter().map(|state| state.user_id).collect();
    let vis = Visibility {
        intents: Intents::GUILD_VOICE_STATES,
        ..Visibility::users(ids_from_db(users))
    };
    let emoji = match (sound.emoji_id, &sound.emoji_name) {
        (None, None) => None,
        (id, name) => Some(json!({ "id": id, "name": name })),
    };
    let effect = json!({
        "channel_id": channel_id,
        "guild_id": guild,
        "user_id": user.id,
        "emoji": emoji,
        "sound_id": sound_id,
        "sound_volume": sound.volume,
    });
    let kind = EventKind::VoiceChannelEffectSend;
    app.publisher.publish_ephemeral(guild, kind, vis, &effect)?;
    Ok(StatusCode::NO_CONTENT)
}
