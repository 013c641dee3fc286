//! Applications and their bots. Spec: Resources › Application; making them is a call of user clients.

mod bot;
mod delete;
mod update;

use axum::{extract::State, http::StatusCode, response::Response};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{Application, ApplicationSettings, PublicApplication, User},
};
use guildhall_store::{user::UserRow, user_of};
use serde::Deserialize;
use sqlx::{PgConnection, PgExecutor, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::delete::finish_deletions;
use crate::{
    access,
    account::check_bot_name,
    app::App,
    auth::CurrentUser,
    config::Secret,
    error::{Result, json_response},
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    routes::policies,
    signing::ApplicationKey,
    text::clean,
};

const APPLICATIONS_PER_USER_MAX: i64 = 50;
const DESCRIPTION_MAX: usize = 400;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(applications_list, application_create))
        .routes(routes!(get_my_application, update::update_my_application))
        .routes(routes!(get_my_oauth2_application))
        .routes(routes!(get_application, update::update_application))
        .routes(routes!(application_public))
        .routes(routes!(delete::application_delete))
        .routes(routes!(
            bot::application_bot_create,
            bot::application_bot_update
        ))
        .routes(routes!(bot::application_bot_reset))
        .routes(routes!(bot::application_secret_reset))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct CreateApplication {
    #[schema(required, min_length = 2, max_length = 32)]
    name: Option<String>,
    #[schema(max_length = 400)]
    description: Option<String>,
}

impl Form for CreateApplication {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            check_bot_name(form, "name", name);
        }
        if let Some(description) = &self.description {
            form.length("description", description, 0..=DESCRIPTION_MAX);
        }
    }
}

/// Makes an application and its bot user. The bot gets its token by another call.
///
/// Errors: 10013 for who has deleted their account, 20001, 50035.
#[utoipa::path(
    post,
    path = "/applications",
    tag = "Applications",
    responses((status = 201, body = Application))
)]
async fn application_create(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<CreateApplication>,
) -> Result<Response> {
    caller.require_human()?;
    policies::require_bot_creation(&app, &caller)?;
    let name = clean(&body.name.unwrap_or_default());
    let id: Id<marker::User> = app.snowflakes.next()?;
    let verify_key = ApplicationKey::new(&app.config.cluster_key, id.cast()).verify_key();

    let mut tx = app.db.begin().await?;
    // One application at a time per owner, so that the count holds; none for one who was deleted
    // meanwhile.
    sqlx::query!(
        "select from account where user_id = $1 and state <> 3 for update",
        caller.id.to_db()
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ErrorCode::UnknownUser)?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from application
           where owner_id = $1 and deleted_at is null"#,
        caller.id.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if count >= APPLICATIONS_PER_USER_MAX {
        let message =
            format!("Maximum number of applications reached ({APPLICATIONS_PER_USER_MAX})");
        return Err(FormErrors::one(
            "",
            Fault::Other("BASE_TYPE_MAX_LENGTH", message.into()),
        ));
    }
    insert_bot(&mut tx, id, &name).await?;
    events::create_realm(&mut tx, id, app.shards()).await?;
    sqlx::query!(
        "insert into application (application_id, owner_id, name, description, flags, verify_key)
         values ($1, $2, $3, $4, $5, $6)",
        id.to_db(),
        caller.id.to_db(),
        name,
        clean(&body.description.unwrap_or_default()),
        Application::FLAGS_NEW as i64,
        verify_key,
    )
    .execute(&mut *tx)
    .await?;
    let application = find(&mut *tx, &app.config.cluster_key, id.cast()).await?;
    tx.commit().await?;
    Ok(json_response(StatusCode::CREATED, &application))
}

/// A bot's name is its application's; if that is taken, with four digits behind it.
async fn insert_bot(db: &mut PgConnection, id: Id<marker::User>, name: &str) -> Result<()> {
    const ATTEMPTS_MAX: usize = 10;
    let mut username = name.to_owned();
    for _ in 0..ATTEMPTS_MAX {
        let inserted = sqlx::query!(
            "insert into account (user_id, username, bot, verified) values ($1, $2, true, true)
             on conflict ((lower(username))) do nothing",
            id.to_db(),
            username,
        )
        .execute(&mut *db)
        .await?;
        if inserted.rows_affected() == 1 {
            return Ok(());
        }
        let head: String = name.chars().take(27).collect();
        username = format!("{head} {:04}", rand::random::<u16>() % 10_000);
    }
    let fault = Fault::Other(
        "USERNAME_TOO_MANY_USERS",
        "Too many users have this username.".into(),
    );
    Err(FormErrors::one("name", fault))
}

/// The caller's applications, oldest first. Errors: 20001.
#[utoipa::path(
    get,
    path = "/applications",
    tag = "Applications",
    responses((status = 200, body = [Application]))
)]
async fn applications_list(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Vec<Application>>> {
    caller.require_human()?;
    let ids = sqlx::query_scalar!(
        "select application_id from application
         where owner_id = $1 and deleted_at is null order by application_id",
        caller.id.to_db(),
    )
    .fetch_all(&app.db)
    .await?;
    Ok(Json(
        find_all(&app.db, &app.config.cluster_key, &ids).await?,
    ))
}

/// The calling bot's own. Errors: 20002.
/// [Get Current Application](https://docs.discord.com/developers/resources/application#get-current-application)
#[utoipa::path(
    get,
    path = "/applications/@me",
    tag = "Applications",
    responses((status = 200, body = Application))
)]
async fn get_my_application(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Application>> {
    caller.require_bot()?;
    let application = find(&app.db, &app.config.cluster_key, caller.id.cast()).await?;
    Ok(Json(application))
}

/// The calling bot's own; libraries ask for it when they log in. Errors: 20002.
#[utoipa::path(
    get,
    path = "/oauth2/applications/@me",
    tag = "OAuth2",
    responses((status = 200, body = Application))
)]
async fn get_my_oauth2_application(
    app: State<App>,
    caller: CurrentUser,
) -> Result<Json<Application>> {
    get_my_application(app, caller).await
}

/// For its owner and its bot. Errors: 10002, 20012.
#[utoipa::path(
    get,
    path = "/applications/{application_id}",
    tag = "Applications",
    responses((status = 200, body = Application))
)]
async fn get_application(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<Application>> {
    let application = find(&app.db, &app.config.cluster_key, application_id).await?;
    require_owner_or_bot(&caller, &application)?;
    Ok(Json(application))
}

/// What everyone may know of an application. Errors: 10002.
#[utoipa::path(
    get,
    path = "/applications/{application_id}/public",
    tag = "Applications",
    responses((status = 200, body = PublicApplication))
)]
async fn application_public(
    State(app): State<App>,
    _caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<PublicApplication>> {
    let application = find(&app.db, &app.config.cluster_key, application_id).await?;
    Ok(Json(application.into()))
}

/// Errors: 20012.
fn require_owner_or_bot(caller: &CurrentUser, application: &Application) -> Result<()> {
    if caller.id == application.owner.id || caller.id == application.bot.id {
        Ok(())
    } else {
        Err(ErrorCode::NotAuthorizedOnApplication.into())
    }
}

/// The bot of one of the caller's applications, its row locked until the commit. Rows that refer
/// to it can still be added: whoever adds them has locked realms, which are locked after it here.
///
/// Errors: 10002, 20012.
async fn lock_own_bot(
    db: &mut PgConnection,
    caller: &CurrentUser,
    application: Id<marker::Application>,
) -> Result<Id<marker::User>> {
    let owner = sqlx::query_scalar!(
        "select owner_id from application
         where application_id = $1 and deleted_at is null for no key update",
        application.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownApplication)?;
    if owner != caller.id.to_db() {
        return Err(ErrorCode::NotAuthorizedOnApplication.into());
    }
    Ok(application.cast())
}

/// [`lock_own_bot`] for who is given its secrets or deletes it: with the realms of the caller, whose
/// session stands until the commit, and of the bot.
///
/// Errors: 401, 10002, 20012.
async fn lock_own_bot_by_session(
    db: &mut PgConnection,
    caller: &CurrentUser,
    application: Id<marker::Application>,
) -> Result<Id<marker::User>> {
    let bot = lock_own_bot(&mut *db, caller, application).await?;
    access::lock_realms(&mut *db, [caller.id.cast(), bot.cast()]).await?;
    caller.require_session(db).await?;
    Ok(bot)
}

/// An application with its owner and bot. Errors: 10002.
pub(crate) async fn find(
    db: impl PgExecutor<'_>,
    cluster_key: &Secret,
    id: Id<marker::Application>,
) -> Result<Application> {
    let found = find_all(db, cluster_key, &[id.to_db()]).await?.pop();
    found.ok_or_else(|| ErrorCode::UnknownApplication.into())
}

/// Whether there is such an application.
pub(crate) async fn exists(db: impl PgExecutor<'_>, id: Id<marker::Application>) -> Result<bool> {
    let exists = sqlx::query_scalar!(
        r#"select exists (select from application
                          where application_id = $1 and deleted_at is null) as "is!""#,
        id.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(exists)
}

/// Those of the applications that exist, ascending.
pub(crate) async fn find_all(
    db: impl PgExecutor<'_>,
    cluster_key: &Secret,
    ids: &[i64],
) -> Result<Vec<Application>> {
    let rows = sqlx::query!(
        r#"select p.application_id, p.name, p.description, p.icon, p.flags, p.bot_public,
                  p.redirect_uris, p.settings as "settings: Jsonb<ApplicationSettings>",
                  (select count(*) from integration i
                   where i.application_id = p.application_id) as "guilds!",
                  (select count(*) from oauth2_grant g
                   where g.application_id = p.application_id) as "grants!",
                  (select count(*) from oauth2_grant g
                   where g.application_id = p.application_id and g.installed) as "installs!",
                  o.user_id, o.username, o.discriminator, o.global_name, o.avatar, o.banner,
                  o.accent_color, o.bot, o.public_flags,
                  b.user_id as bot_user_id, b.username as bot_username,
                  b.discriminator as bot_discriminator, b.global_name as bot_global_name,
                  b.avatar as bot_avatar, b.banner as bot_banner,
                  b.accent_color as bot_accent_color, b.public_flags as bot_public_flags
           from application p
           join account o on o.user_id = p.owner_id
           join account b on b.user_id = p.application_id
           where p.application_id = any($1) and p.deleted_at is null
           order by p.application_id"#,
        ids,
    )
    .fetch_all(db)
    .await?;
    let applications = rows.into_iter().map(|row| {
        let id = Id::from_db(row.application_id);
        let owner: User = user_of!(row);
        let bot: User = UserRow {
            user_id: row.bot_user_id,
            username: row.bot_username,
            discriminator: row.bot_discriminator,
            global_name: row.bot_global_name,
            avatar: row.bot_avatar,
            banner: row.bot_banner,
            accent_color: row.bot_accent_color,
            bot: true,
            public_flags: row.bot_public_flags,
        }
        .into();
        Application {
            id,
            name: row.name,
            icon: row.icon,
            description: row.description,
            summary: String::new(),
            kind: None,
            bot,
            bot_public: row.bot_public,
            bot_require_code_grant: false,
            // Not the stored one: rows of before keys existed hold random digits.
            verify_key: ApplicationKey::new(cluster_key, id).verify_key(),
            flags: row.flags as u64,
            flags_new: row.flags.to_string(),
            owner,
            team: None,
            redirect_uris: row.redirect_uris,
            settings: row.settings.0,
            approximate_guild_count: row.guilds as u64,
            approximate_user_install_count: row.installs as u64,
            approximate_user_authorization_count: row.grants as u64,
            eligible_oauth2_scopes: Vec::new(),
            verification_state: 1,
        }
    });
    Ok(applications.collect())
}
