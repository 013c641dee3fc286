//! Emojis of guilds and of applications. Spec: objects.md › Emoji; endpoints › emojis.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{self, Application, Guild, Role},
    model::{AuditAction, Emoji},
};
use guildhall_store::{
    expressions::{self, EmojisOf},
    ids_to_db,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::soundboard;
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    media::{self, ImageOf},
    text::clean,
};

/// Still ones of a guild; as many animated ones.
const GUILD_EMOJIS_MAX: usize = 50;
const APPLICATION_EMOJIS_MAX: usize = 2000;
const ROLES_MAX: usize = 250;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_guild_emojis, create_guild_emoji))
        .routes(routes!(
            get_guild_emoji,
            update_guild_emoji,
            delete_guild_emoji
        ))
        .routes(routes!(list_application_emojis, create_application_emoji))
        .routes(routes!(
            get_application_emoji,
            update_application_emoji,
            delete_application_emoji
        ))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = CreateEmojiRequest)]
struct CreateEmoji {
    /// 2 to 32 letters, digits and underscores.
    #[schema(required)]
    name: Option<String>,
    /// `data:image/png;base64,…`: png, jpeg, gif or webp, at most 256 KiB.
    #[schema(required)]
    image: Option<String>,
    /// Guilds: who may use it; everybody if there are none.
    roles: Option<Vec<Option<Id<Role>>>>,
}

impl Form for CreateEmoji {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            check_name(form, name);
        }
        if let Some(image) = form.required("image", &self.image) {
            media::check_image(form, "image", Some(image));
        }
        check_roles(form, self.roles.as_ref().map_or(0, Vec::len));
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = UpdateEmojiRequest)]
struct UpdateEmoji {
    name: Option<String>,
    /// Null: for everybody.
    #[serde(deserialize_with = "guildhall_shared::model::present")]
    roles: Option<Option<Vec<Option<Id<Role>>>>>,
}

impl Form for UpdateEmoji {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            check_name(form, name);
        }
        let roles = self.roles.as_ref().and_then(Option::as_ref);
        check_roles(form, roles.map_or(0, Vec::len));
    }
}

fn check_name(form: &mut FormErrors, name: &str) {
    form.length("name", name, 2..=32);
    if !name
        .trim()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        form.add("name", Fault::NotMatching);
    }
}

fn check_roles(form: &mut FormErrors, count: usize) {
    if count > ROLES_MAX {
        let max = ROLES_MAX;
        form.add("roles", Fault::BadLength { min: 0, max });
    }
}

/// Roles of a request. Errors: 50028 for one that is neither the guild's nor one of `before`: an
/// emoji may still be for a role that was deleted.
fn known_roles(
    access: &GuildAccess,
    before: &[Id<Role>],
    wanted: Option<Vec<Option<Id<Role>>>>,
) -> Result<Option<Vec<Id<Role>>>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let mut roles: Vec<_> = wanted.into_iter().flatten().collect();
    roles.sort_unstable();
    roles.dedup();
    let known = |role: &Id<Role>| access.role(*role).is_some() || before.contains(role);
    match roles.iter().all(known) {
        true => Ok(Some(roles)),
        false => Err(ErrorCode::InvalidRole.into()),
    }
}

/// Who made it is for those who manage expressions.
fn shown_to(access: &GuildAccess, emoji: Emoji) -> Emoji {
    let sees = access
        .base()
        .intersects(Permissions::CREATE_GUILD_EXPRESSIONS | Permissions::MANAGE_GUILD_EXPRESSIONS);
    Emoji {
        user: emoji.user.filter(|_| sees),
        ..emoji
    }
}

/// Errors: 10014.
async fn find(db: &mut PgConnection, of: EmojisOf, id: Id<marker::Emoji>) -> Result<Emoji> {
    let found = expressions::emojis(db, of, Some(id)).await?.pop();
    found.ok_or_else(|| ErrorCode::UnknownEmoji.into())
}

#[derive(Serialize)]
struct EmojisUpdate {
    guild_id: Id<Guild>,
    emojis: Vec<Emoji>,
}

/// Numbers GUILD_EMOJIS_UPDATE with the whole list.
async fn announce(db: &mut PgConnection, guild_id: Id<Guild>) -> Result<Envelope> {
    let body = EmojisUpdate {
        guild_id,
        emojis: expressions::guild_emojis(&mut *db, guild_id).await?,
    };
    let vis = Visibility::realm(Intents::GUILD_EXPRESSIONS);
    events::append(db, guild_id, EventKind::GuildEmojisUpdate, vis, &body, None).await
}

/// Takes a role that is being deleted from the emojis for several roles. One for that role alone
/// stays so, and nobody's, until somebody changes it: it was never meant for all.
pub(super) async fn forget_role(
    db: &mut PgConnection,
    guild_id: Id<Guild>,
    role: Id<Role>,
) -> Result<Option<Envelope>> {
    let changed = sqlx::query!(
        "update emoji set roles = array_remove(roles, $2)
         where guild_id = $1 and $2 = any(roles) and cardinality(roles) > 1",
        guild_id.to_db(),
        role.to_db(),
    )
    .execute(&mut *db)
    .await?;
    match changed.rows_affected() {
        0 => Ok(None),
        _ => announce(db, guild_id).await.map(Some),
    }
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/emojis",
    tag = "Emojis",
    responses((status = 200, body = Vec<Emoji>))
)]
async fn list_guild_emojis(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Vec<Emoji>>> {
    let access = access::guild(&app.db, &user, guild_id, Permissions::empty()).await?;
    let emojis = expressions::emojis(&app.db, EmojisOf::Guild(guild_id), None).await?;
    let emojis = emojis.into_iter().map(|emoji| shown_to(&access, emoji));
    Ok(Json(emojis.collect()))
}

/// Errors: 10004, 10014, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/emojis/{emoji_id}",
    tag = "Emojis",
    responses((status = 200, body = Emoji))
)]
async fn get_guild_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, emoji_id)): Path<(Id<Guild>, Id<marker::Emoji>)>,
) -> Result<Json<Emoji>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let emoji = find(&mut db, EmojisOf::Guild(guild_id), emoji_id).await?;
    Ok(Json(shown_to(&access, emoji)))
}

/// CREATE_GUILD_EXPRESSIONS; 50 still and 50 animated ones.
///
/// Errors: 10004, 30008, 30018, 50001, 50013, 50028, 50035.
#[utoipa::path(
    post,
    path = "/guilds/{guild_id}/emojis",
    tag = "Emojis",
    request_body = CreateEmoji,
    responses((status = 201, body = Emoji))
)]
async fn create_guild_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<CreateEmoji>,
) -> Result<(StatusCode, Json<Emoji>)> {
    let needed = Permissions::CREATE_GUILD_EXPRESSIONS;
    access::guild(&app.db, &user, guild_id, needed).await?;
    let (id, animated) = keep_image(&app, &body).await?;
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let of = EmojisOf::Guild(guild_id);
    let others = expressions::emojis(&mut *tx, of, None).await?;
    let alike = others.iter().filter(|emoji| emoji.animated == animated);
    if alike.count() >= GUILD_EMOJIS_MAX {
        return Err(match animated {
            true => ErrorCode::MaximumAnimatedEmojis.into(),
            false => ErrorCode::MaximumEmojis.into(),
        });
    }
    let emoji = Emoji {
        id,
        name: clean(body.name.as_deref().unwrap_or_default()),
        roles: known_roles(&access, &[], body.roles)?.unwrap_or_default(),
        user: Some(user.user().clone()),
        require_colons: true,
        managed: false,
        animated,
        available: true,
    };
    insert(&mut tx, of, &emoji, user.id).await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::EMOJI_CREATE, &reason)
        .target(emoji.id)
        .created(&logged(&emoji))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok((StatusCode::CREATED, Json(emoji)))
}

/// What the audit log tells of an emoji.
fn logged(emoji: &Emoji) -> impl Serialize + use<> {
    serde_json::json!({ "name": emoji.name, "roles": emoji.roles })
}

/// Keeps the image of a new emoji; its id, and whether it moves. Errors: 50035.
async fn keep_image(app: &App, body: &CreateEmoji) -> Result<(Id<marker::Emoji>, bool)> {
    let data_uri = body.image.as_deref().unwrap_or_default();
    let max = ImageOf::SMALL_BYTES_MAX;
    let image = media::parse_image(&app.media, "image", data_uri, max).await?;
    let id: Id<marker::Emoji> = app.snowflakes.next()?;
    image.keep(&app.media, format!("emojis/{id}")).await?;
    Ok((id, image.animated))
}

async fn insert(
    db: &mut PgConnection,
    of: EmojisOf,
    emoji: &Emoji,
    creator: Id<marker::User>,
) -> Result<()> {
    let (guild, application) = match of {
        EmojisOf::Guild(id) => (Some(id.to_db()), None),
        EmojisOf::Application(id) => (None, Some(id.to_db())),
    };
    sqlx::query!(
        "insert into emoji (emoji_id, guild_id, application_id, name, roles, animated, creator_id)
         values ($1, $2, $3, $4, $5, $6, $7)",
        emoji.id.to_db(),
        guild,
        application,
        emoji.name,
        &ids_to_db(&emoji.roles),
        emoji.animated,
        creator.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10014, 50001, 50013, 50028, 50035.
#[utoipa::path(
    patch,
    path = "/guilds/{guild_id}/emojis/{emoji_id}",
    tag = "Emojis",
    request_body = UpdateEmoji,
    responses((status = 200, body = Emoji))
)]
async fn update_guild_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, emoji_id)): Path<(Id<Guild>, Id<marker::Emoji>)>,
    reason: Reason,
    Json(body): Json<UpdateEmoji>,
) -> Result<Json<Emoji>> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let mut emoji = find(&mut tx, EmojisOf::Guild(guild_id), emoji_id).await?;
    access.require_own_expression(emoji.user.as_ref().map(|user| user.id))?;
    let before = logged(&emoji);
    if let Some(name) = &body.name {
        emoji.name = clean(name);
    }
    let wanted = body.roles.map(Option::unwrap_or_default);
    if let Some(roles) = known_roles(&access, &emoji.roles, wanted)? {
        emoji.roles = roles;
    }
    sqlx::query!(
        "update emoji set name = $2, roles = $3 where emoji_id = $1",
        emoji_id.to_db(),
        emoji.name,
        &ids_to_db(&emoji.roles),
    )
    .execute(&mut *tx)
    .await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    let entry = Entry::new(guild_id, user.id, AuditAction::EMOJI_UPDATE, &reason)
        .target(emoji_id)
        .changed(&before, &logged(&emoji))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(emoji))
}

/// MANAGE_GUILD_EXPRESSIONS, or one's own with CREATE_GUILD_EXPRESSIONS.
///
/// Errors: 10004, 10014, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/guilds/{guild_id}/emojis/{emoji_id}",
    tag = "Emojis",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_guild_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((guild_id, emoji_id)): Path<(Id<Guild>, Id<marker::Emoji>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let access = access::guild_for_change(&mut tx, &user, guild_id, Permissions::empty()).await?;
    let emoji = find(&mut tx, EmojisOf::Guild(guild_id), emoji_id).await?;
    access.require_own_expression(emoji.user.as_ref().map(|user| user.id))?;
    sqlx::query!("delete from emoji where emoji_id = $1", emoji_id.to_db())
        .execute(&mut *tx)
        .await?;
    let mut events = vec![announce(&mut tx, guild_id).await?];
    events.extend(soundboard::forget_emoji(&mut tx, guild_id, emoji_id).await?);
    let entry = Entry::new(guild_id, user.id, AuditAction::EMOJI_DELETE, &reason)
        .target(emoji_id)
        .deleted(&logged(&emoji))?;
    events.extend(audit::append(&app, &mut tx, entry).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

/// Errors: 10002, 20012 unless the caller is the application's bot or owner.
async fn own_application(
    db: &mut PgConnection,
    caller: &CurrentUser,
    id: Id<Application>,
    for_change: bool,
) -> Result<EmojisOf> {
    let owner = sqlx::query_scalar!(
        "select owner_id from application where application_id = $1 and deleted_at is null",
        id.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::UnknownApplication)?;
    if caller.id.to_db() != owner && caller.id != id.cast() {
        return Err(ErrorCode::NotAuthorizedOnApplication.into());
    }
    if for_change {
        // One at a time, so that the limit holds.
        sqlx::query!(
            "select 1 as one from application where application_id = $1 for no key update",
            id.to_db(),
        )
        .fetch_optional(db)
        .await?;
    }
    Ok(EmojisOf::Application(id))
}

#[derive(Serialize, ToSchema)]
struct ApplicationEmojis {
    items: Vec<Emoji>,
}

/// Errors: 10002, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/emojis",
    tag = "Emojis",
    responses((status = 200, body = ApplicationEmojis))
)]
async fn list_application_emojis(
    State(app): State<App>,
    user: CurrentUser,
    Path(application_id): Path<Id<Application>>,
) -> Result<Json<ApplicationEmojis>> {
    let mut db = app.db.acquire().await?;
    let of = own_application(&mut db, &user, application_id, false).await?;
    let items = expressions::emojis(&mut *db, of, None).await?;
    Ok(Json(ApplicationEmojis { items }))
}

/// Errors: 10002, 10014, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/emojis/{emoji_id}",
    tag = "Emojis",
    responses((status = 200, body = Emoji))
)]
async fn get_application_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((application_id, emoji_id)): Path<(Id<Application>, Id<marker::Emoji>)>,
) -> Result<Json<Emoji>> {
    let mut db = app.db.acquire().await?;
    let of = own_application(&mut db, &user, application_id, false).await?;
    Ok(Json(find(&mut db, of, emoji_id).await?))
}

/// 2000 at most. Errors: 10002, 20012, 30008, 50035.
#[utoipa::path(
    post,
    path = "/applications/{application_id}/emojis",
    tag = "Emojis",
    request_body = CreateEmoji,
    responses((status = 201, body = Emoji))
)]
async fn create_application_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path(application_id): Path<Id<Application>>,
    Json(body): Json<CreateEmoji>,
) -> Result<(StatusCode, Json<Emoji>)> {
    let mut db = app.db.acquire().await?;
    own_application(&mut db, &user, application_id, false).await?;
    drop(db);
    let (id, animated) = keep_image(&app, &body).await?;
    let mut tx = app.db.begin().await?;
    let of = own_application(&mut tx, &user, application_id, true).await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from emoji where application_id = $1"#,
        application_id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if count as usize >= APPLICATION_EMOJIS_MAX {
        return Err(ErrorCode::MaximumEmojis.into());
    }
    let emoji = Emoji {
        id,
        name: clean(body.name.as_deref().unwrap_or_default()),
        roles: Vec::new(),
        user: Some(user.user().clone()),
        require_colons: true,
        managed: false,
        animated,
        available: true,
    };
    insert(&mut tx, of, &emoji, user.id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(emoji)))
}

/// Its name only. Errors: 10002, 10014, 20012, 50035.
#[utoipa::path(
    patch,
    path = "/applications/{application_id}/emojis/{emoji_id}",
    tag = "Emojis",
    request_body = UpdateEmoji,
    responses((status = 200, body = Emoji))
)]
async fn update_application_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((application_id, emoji_id)): Path<(Id<Application>, Id<marker::Emoji>)>,
    Json(body): Json<UpdateEmoji>,
) -> Result<Json<Emoji>> {
    let mut tx = app.db.begin().await?;
    let of = own_application(&mut tx, &user, application_id, true).await?;
    let mut emoji = find(&mut tx, of, emoji_id).await?;
    if let Some(name) = &body.name {
        emoji.name = clean(name);
        sqlx::query!(
            "update emoji set name = $2 where emoji_id = $1",
            emoji_id.to_db(),
            emoji.name,
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(Json(emoji))
}

/// Errors: 10002, 10014, 20012.
#[utoipa::path(
    delete,
    path = "/applications/{application_id}/emojis/{emoji_id}",
    tag = "Emojis",
    responses((status = 204, description = "It is gone"))
)]
async fn delete_application_emoji(
    State(app): State<App>,
    user: CurrentUser,
    Path((application_id, emoji_id)): Path<(Id<Application>, Id<marker::Emoji>)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let of = own_application(&mut tx, &user, application_id, true).await?;
    find(&mut tx, of, emoji_id).await?;
    sqlx::query!("delete from emoji where emoji_id = $1", emoji_id.to_db())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
