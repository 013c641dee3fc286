//! Stickers of guilds and of packs. Spec: objects.md › Sticker; endpoints › stickers.

mod file;
pub(crate) mod packs;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Guild},
    model::{AuditAction, StandardSticker, Sticker, StickerFormat},
};
use guildhall_store::expressions;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::FormErrors,
    text::clean,
    upload::StickerUpload,
};
pub(crate) use file::StickerFile;

const STICKERS_MAX: usize = 5;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_guild_stickers, create_guild_sticker))
        .routes(routes!(
            get_guild_sticker,
            update_guild_sticker,
            delete_guild_sticker
        ))
        .routes(routes!(get_sticker))
        .routes(routes!(packs::list_sticker_packs))
        .routes(routes!(packs::get_sticker_pack))
}

/// The form of a new sticker.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = CreateStickerRequest)]
struct CreateSticker {
    /// 2 to 30 characters.
    #[schema(required)]
    name: Option<String>,
    /// 1 to 200 characters.
    #[schema(required)]
    tags: Option<String>,
    /// None, or 2 to 100 characters.
    description: Option<String>,
    /// PNG, animated PNG, GIF or Lottie, at most 512 KiB, 320 × 320 and 5 seconds.
    #[schema(required, content_media_type = "application/octet-stream")]
    file: Option<String>,
}

impl Form for CreateSticker {
    fn check(&self, form: &mut FormErrors) {
        form.required("name", &self.name);
        form.required("tags", &self.tags);
        form.required("file", &self.file);
        let description = self.description.as_deref();
        check_texts(
            form,
            self.name.as_deref(),
            self.tags.as_deref(),
            description,
        );
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = UpdateStickerRequest)]
struct UpdateSticker {
    name: Option<String>,
    tags: Option<String>,
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    description: Option<Option<String>>,
}

impl Form for UpdateSticker {
    fn check(&self, form: &mut FormErrors) {
        let description = self.description.as_ref().and_then(Option::as_deref);
        check_texts(
            form,
            self.name.as_deref(),
            self.tags.as_deref(),
            description,
        );
    }
}

fn check_texts(
    form: &mut FormErrors,
    name: Option<&str>,
    tags: Option<&str>,
    description: Option<&str>,
) {
    if let Some(name) = name {
        form.length("name", name, 2..=30);
    }
    if let Some(tags) = tags {
        form.length("tags", tags, 1..=200);
    }
    if let Some(description) = description.filter(|text| !text.trim().is_empty()) {
        form.length("description", description, 2..=100);
    }
}

fn described(text: Option<&str>) -> Option<String> {
    text.map(clean).filter(|text| !text.is_empty())
}

/// Who made it is for those who manage expressions.
fn shown_to(access: &GuildAccess, sticker: Sticker) -> Sticker {
    let sees = access
        .base()
        .intersects(Permissions::CREATE_GUILD_EXPRESSIONS | Permissions::MANAGE_GUILD_EXPRESSIONS);
    Sticker {
        user: sticker.user.filter(|_| sees),
        ..sticker
    }
}

/// Errors: 10060.
async fn find(
    db: &mut PgConnection,
    guild: Option<Id<Guild>>,
    id: Id<marker::Sticker>,
) -> Result<Sticker> {
    let found = expressions::stickers(db, guild, Some(id)).await?.pop();
    found.ok_or_else(|| ErrorCode::UnknownSticker.into())
}

#[derive(Serialize)]
struct StickersUpdate {
    guild_id: Id<Guild>,
    stickers: Vec<Sticker>,
}

/// Numbers GUILD_STICKERS_UPDATE with the whole list.
async fn announce(db: &mut PgConnection, guild_id: Id<Guild>) -> Result<Envelope> {
    let body = StickersUpdate {
        guild_id,
        stickers: expressions::guild_stickers(&mut *db, guild_id).await?,
    };
    let vis = Visibility::realm(Intents::GUILD_EXPRESSIONS);
    let kind = EventKind::GuildStickersUpdate;
    events::append(db, guild_id, kind, vis, &body, None).await
}

/// What the audit log tells of a sticker.
fn logged(sticker: &Sticker) -> impl Serialize + use<> {
    serde_json::json!({
        "name": sticker.name,
        "tags": sticker.tags,
        "description": sticker.description,
        "format_type": sticker.format_type,
        "available": sticker.available,
        "guild_id": sticker.guild_id,
        "id": sticker.id,
        "type": sticker.kind,
    })
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/stickers",
    tag = "Stickers",
    responses((status = 200, body = Vec<Sticker>))
)]
async fn list_guild_stickers(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Sticker>>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let stickers = expressions::stickers(&app.db, Some(guild_id), None).await?;
    let stickers = stickers.into_iter().map(|one| shown_to(&access, one));
    Ok(Json(stickers.collect()))
}

/// Errors: 10004, 10060, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/stickers/{sticker_id}",
    tag = "Stickers",
    responses((status = 200, body = Sticker))
)]
async fn get_guild_sticker(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sticker_id)): Path<(Id<Guild>, Id<marker::Sticker>)>,
) -> Result<Json<Sticker>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let sticker = find(&mut db, Some(guild_id), sticker_id).await?;
    Ok(Json(shown_to(&access, sticker)))
}

/// A sticker of a guild or of a pack.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum AnySticker {
    Guild(Box<Sticker>),
    Standard(StandardSticker),
}

/// Of any guild or pack, for everybody. Errors: 10060.
#[utoipa::path(
    get,
    path = "/stickers/{sticker_id}",
    tag = "Stickers",
    responses((status = 200, body = AnySticker))
)]
async fn get_sticker(
    State(app): State<App>,
    _user: CurrentUser,
    Path(sticker_id): Path<Id<marker::Sticker>>,
) -> Result<Json<AnySticker>> {
    let mut db = app.db.acquire().await?;
    if let Some(sticker) = packs::find(&mut *db, sticker_id).await? {
        return Ok(Json(AnySticker::Standard(sticker)));
    }
    let sticker = find(&mut db, None, sticker_id).await?;
    Ok(Json(AnySticker::Guild(Box::new(Sticker {
        user: None,
        ..sticker
    }))))
}

/// CREATE_GUILD_EXPRESSIONS; a form with `name`, `tags`, `description` and `file`.
///
/// Errors: 10004, 30039, 50001, 50013, 50035, 50046 for a file that is no sticker, 170007.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/stickers",
    tag = "Stickers",
    request_body(content = CreateSticker, content_type = "multipart/form-data"),
    responses((status = 201, body = Sticker))
)]
async fn create_guild_sticker(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    upload: StickerUpload,
) -> Result<(StatusCode, Json<Sticker>)> {
    let needed = Permissions::CREATE_GUILD_EXPRESSIONS;
    access::guild(&app.db, &user, guild_id, needed).await?;
    let (body, format, id) = keep_file(&app, upload).await?;
    let mut tx = app.db.begin().await?;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let others = expressions::stickers(&mut *tx, Some(guild_id), None).await?;
    if others.len() >= STICKERS_MAX {
        return Err(ErrorCode::MaximumStickers.into());
    }
    let sticker = Sticker {
        id,
        name: clean(body.name.as_deref().unwrap_or_default()),
        description: described(body.description.as_deref()),
        tags: clean(body.tags.as_deref().unwrap_or_default()),
        kind: Sticker::OF_GUILD,
        format_type: format,
        available: true,
        guild_id,
        user: Some(user.user().clone()),
    };
    sqlx::query!(
        "insert into sticker (sticker_id, guild_id, name, description, tags, format, creator_id)
         values ($1, $2, $3, $4, $5, $6, $7)",
        sticker.id.to_db(),
        guild_id.to_db(),
        sticker.name,
        sticker.description,
        sticker.tags,
        i16::from(format.0),
        user.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::STICKER_CREATE, &reason)
        .target(sticker.id)
        .created(&logged(&sticker))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok((StatusCode::CREATED, Json(sticker)))
}

/// Checks a form and keeps its file. Errors: 50035, 50046, 170007.
async fn keep_file(
    app: &App,
    upload: StickerUpload,
) -> Result<(CreateSticker, StickerFormat, Id<marker::Sticker>)> {
    let StickerUpload { mut fields, file } = upload;
    let (filename, bytes) = file.unzip();
    fields.remove("file");
    if let Some(filename) = filename {
        fields.insert("file".to_owned(), Value::String(filename));
    }
    let body: CreateSticker = crate::extract::parse_form(&serde_json::to_vec(&fields)?)?;
    let file = StickerFile::inspect(&app.media, bytes.unwrap_or_default()).await?;
    let id = app.snowflakes.next()?;
    file.keep(&app.media, id).await?;
    Ok((body, file.format, id))
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10060, 50001, 50013, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/stickers/{sticker_id}",
    tag = "Stickers",
    request_body = UpdateSticker,
    responses((status = 200, body = Sticker))
)]
async fn update_guild_sticker(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sticker_id)): Path<(Id<Guild>, Id<marker::Sticker>)>,
    reason: Reason,
    Json(body): Json<UpdateSticker>,
) -> Result<Json<Sticker>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let mut sticker = find(&mut tx, Some(guild_id), sticker_id).await?;
    access.require_own_expression(sticker.user.as_ref().map(|user| user.id))?;
    let before = logged(&sticker);
    if let Some(name) = &body.name {
        sticker.name = clean(name);
    }
    if let Some(tags) = &body.tags {
        sticker.tags = clean(tags);
    }
    if let Some(description) = &body.description {
        sticker.description = described(description.as_deref());
    }
    sqlx::query!(
        "update sticker set name = $2, tags = $3, description = $4 where sticker_id = $1",
        sticker_id.to_db(),
        sticker.name,
        sticker.tags,
        sticker.description,
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::STICKER_UPDATE, &reason)
        .target(sticker_id)
        .changed(&before, &logged(&sticker))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(sticker))
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10060, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/stickers/{sticker_id}",
    tag = "Stickers",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_guild_sticker(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, sticker_id)): Path<(Id<Guild>, Id<marker::Sticker>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let sticker = find(&mut tx, Some(guild_id), sticker_id).await?;
    access.require_own_expression(sticker.user.as_ref().map(|user| user.id))?;
    let id = sticker_id.to_db();
    sqlx::query!("delete from sticker where sticker_id = $1", id)
        .execute(&mut *tx)
        .await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::STICKER_DELETE, &reason)
        .target(sticker_id)
        .deleted(&logged(&sticker))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}
