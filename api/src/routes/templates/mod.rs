//! Guild templates: a guild's settings, roles and channels, to make others from.
//! Spec: objects.md › Template.

mod snapshot;

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Guild as GuildMarker},
    model::{Guild, User, present},
};
use guildhall_store::user::UserRow;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::snapshot::Snapshot;
use super::{
    guilds::{
        self,
        build::{self, Plan},
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
    text::{clean, random_code},
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
    Ok(Json(by_code(&mut db, &clean(&code)).await?))
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
    let code = clean(&code);
    let template = by_code(&mut *app.db.acquire().await?, &code).await?;
    let name = clean(body.name.as_deref().unwrap_or_default());
    let id: Id<GuildMarker> = app.snowflakes.next()?;
    let icon = match &body.icon {
        Some(icon) => Some(store_image(&app.media, ImageOf::GuildIcon(id), "icon", icon).await?),
        None => None,
    };
    let plan = Plan {
        icon,
        ..template.serialized_source_guild.plan(name)
    };
    let guild = build::build(&app, &user, id, plan).await?;
    let counted = sqlx::query!(
        "update guild_template set usage_count = usage_count + 1 where code = $1",
        code,
    )
    .execute(&app.db)
    .await;
    // The guild is there: an error would have another one made.
    if let Err(error) = counted {
        tracing::warn!(?error, "the use of a template was not counted");
    }
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
    let code = random_code(CODE_LENGTH);
    let description = body.description.map(|text| clean(&text));
    let made = sqlx::query!(
        "insert into guild_template (code, guild_id, creator_id, name, description, snapshot)
         values ($1, $2, $3, $4, $5, $6) on conflict (guild_id) do nothing",
        code,
        guild_id.to_db(),
        user.id.to_db(),
        clean(body.name.as_deref().unwrap_or_default()),
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
    let code = clean(&code);
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD;
    access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut template = of_guild(&mut tx, guild_id, &code).await?;
    if let Some(name) = body.name {
        template.name = clean(&name);
    }
    if let Some(description) = body.description {
        template.description = description
            .map(|text| clean(&text))
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
    let code = clean(&code);
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
    let code = clean(&code);
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
