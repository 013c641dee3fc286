//! Applications and their bots. Spec: Resources › Application; making them is a call of user clients.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker,
    model::{Application, User},
};
use guildhall_store::account::UserRow;
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor};

use crate::{
    app::App,
    auth::{self, CurrentUser},
    error::{Result, json_response},
    events,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
    routes::auth::{append_revocation, check_bot_name},
};

const APPLICATIONS_PER_USER_MAX: i64 = 50;
/// Flags an owner may set: the intents, by their self-service bits.
const SETTABLE_FLAGS: u64 = Application::FLAGS_NEW;

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route(
            "/applications",
            get(list_applications).post(create_application),
        )
        .route("/applications/@me", get(get_my_application))
        .route("/oauth2/applications/@me", get(get_my_application))
        .route(
            "/applications/{application_id}",
            get(get_application).patch(update_application),
        )
        .route("/applications/{application_id}/bot", post(create_bot))
        .route("/applications/{application_id}/bot/reset", post(reset_bot))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CreateApplication {
    name: Option<String>,
    description: Option<String>,
}

impl Form for CreateApplication {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            check_bot_name(form, "name", name);
        }
        if let Some(description) = &self.description {
            form.length("description", description, 0..=400);
        }
    }
}

/// Makes an application and its bot user. The bot gets its token by [`create_bot`].
///
/// Errors: 20001, 50035.
async fn create_application(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<CreateApplication>,
) -> Result<Response> {
    caller.require_human()?;
    let name = body.name.unwrap_or_default().trim().to_owned();
    let id: Id<marker::User> = app.snowflakes.next()?;
    // Signs nothing yet: interactions over HTTP will; libraries only want 64 hex digits.
    let verify_key = hex::encode(rand::random::<[u8; 32]>());

    let mut tx = app.db.begin().await?;
    // One application at a time per owner, so that the count holds.
    sqlx::query!(
        "select from account where user_id = $1 for update",
        caller.id.to_db()
    )
    .fetch_one(&mut *tx)
    .await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from application where owner_id = $1"#,
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
        body.description.unwrap_or_default(),
        Application::FLAGS_NEW as i64,
        verify_key,
    )
    .execute(&mut *tx)
    .await?;
    let application = find(&mut *tx, id.cast()).await?;
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
async fn list_applications(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Vec<Application>>> {
    caller.require_human()?;
    let ids = sqlx::query_scalar!(
        "select application_id from application where owner_id = $1 order by application_id",
        caller.id.to_db(),
    )
    .fetch_all(&app.db)
    .await?;
    let mut applications = Vec::new();
    for id in ids {
        applications.push(find(&app.db, Id::from_db(id)).await?);
    }
    Ok(Json(applications))
}

/// The calling bot's own. Errors: 20002.
/// [Get Current Application](https://docs.discord.com/developers/resources/application#get-current-application)
async fn get_my_application(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<Json<Application>> {
    caller.require_bot()?;
    Ok(Json(find(&app.db, caller.id.cast()).await?))
}

/// For its owner and its bot. Errors: 10002, 20012.
async fn get_application(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Json<Application>> {
    let application = find(&app.db, application_id).await?;
    require_owner_or_bot(&caller, &application)?;
    Ok(Json(application))
}

fn require_owner_or_bot(caller: &CurrentUser, application: &Application) -> Result<()> {
    if caller.id == application.owner.id || caller.id == application.bot.id {
        Ok(())
    } else {
        Err(ErrorCode::NotAuthorizedOnApplication.into())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UpdateApplication {
    name: Option<String>,
    description: Option<String>,
    bot_public: Option<bool>,
    flags: Option<u64>,
    redirect_uris: Option<Vec<String>>,
}

impl Form for UpdateApplication {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            check_bot_name(form, "name", name);
        }
        if let Some(description) = &self.description {
            form.length("description", description, 0..=400);
        }
        let uris = self.redirect_uris.as_deref().unwrap_or_default();
        if uris.len() > 10 {
            form.add("redirect_uris", Fault::BadLength { min: 0, max: 10 });
        }
        for (index, uri) in uris.iter().enumerate() {
            let is_absolute = uri
                .split_once("://")
                .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
            if !is_absolute || uri.len() > 2048 || uri.contains(char::is_whitespace) {
                let fault = Fault::Other("URL_TYPE_INVALID_URL", "Not a well formed URL.".into());
                form.add(format!("redirect_uris.{index}"), fault);
            }
        }
    }
}

/// For its owner and its bot. Errors: 10002, 20012, 50035.
async fn update_application(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
    Json(body): Json<UpdateApplication>,
) -> Result<Json<Application>> {
    require_owner_or_bot(&caller, &find(&app.db, application_id).await?)?;
    sqlx::query!(
        "update application set
           name = coalesce($2, name),
           description = coalesce($3, description),
           bot_public = coalesce($4, bot_public),
           flags = coalesce(flags & ~$6::bigint | $5::bigint & $6, flags),
           redirect_uris = coalesce($7, redirect_uris)
         where application_id = $1",
        application_id.to_db(),
        body.name.as_deref().map(str::trim),
        body.description,
        body.bot_public,
        body.flags.map(|flags| flags as i64),
        SETTABLE_FLAGS as i64,
        body.redirect_uris.as_deref(),
    )
    .execute(&app.db)
    .await?;
    app.tokens.forget(application_id.cast());
    Ok(Json(find(&app.db, application_id).await?))
}

/// The bot's first token. Errors: 10002, 20012; 400 once there is one (reset it instead).
async fn create_bot(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let bot = lock_own_bot(&mut tx, &caller, application_id).await?;
    let has_token = sqlx::query_scalar!(
        r#"select exists (select from auth_token where user_id = $1) as "has!""#,
        bot.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if has_token {
        return Err(ErrorCode::BadRequest.into());
    }
    let token = auth::issue_token(&mut tx, bot).await?;
    tx.commit().await?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "token": token.reveal() }),
    ))
}

/// A new token; the old ones die and their gateway sessions close. Errors: 10002, 20012.
async fn reset_bot(
    State(app): State<App>,
    caller: CurrentUser,
    Path(application_id): Path<Id<marker::Application>>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let bot = lock_own_bot(&mut tx, &caller, application_id).await?;
    let revoked = sqlx::query_scalar!(
        "delete from auth_token where user_id = $1 returning token_hash",
        bot.to_db(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let token = auth::issue_token(&mut tx, bot).await?;
    let event = append_revocation(&mut tx, bot, &revoked).await?;
    tx.commit().await?;
    app.tokens.forget(bot);
    app.publisher.publish([event]);
    Ok(json_response(
        StatusCode::OK,
        &json!({ "token": token.reveal() }),
    ))
}

/// The bot of one of the caller's applications, its row locked: tokens change one at a time.
async fn lock_own_bot(
    db: &mut PgConnection,
    caller: &CurrentUser,
    application: Id<marker::Application>,
) -> Result<Id<marker::User>> {
    let owner = sqlx::query_scalar!(
        "select owner_id from application where application_id = $1 for update",
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

/// An application with its owner and bot. Errors: 10002.
pub(crate) async fn find(
    db: impl PgExecutor<'_>,
    id: Id<marker::Application>,
) -> Result<Application> {
    let row = sqlx::query!(
        r#"select p.name, p.description, p.icon, p.flags, p.bot_public, p.verify_key, p.redirect_uris,
                  (select count(*) from member m where m.user_id = p.application_id) as "guilds!",
                  o.user_id, o.username, o.discriminator, o.global_name, o.avatar, o.banner,
                  o.accent_color, o.bot, o.public_flags,
                  b.user_id as bot_user_id, b.username as bot_username,
                  b.discriminator as bot_discriminator, b.global_name as bot_global_name,
                  b.avatar as bot_avatar, b.banner as bot_banner,
                  b.accent_color as bot_accent_color, b.public_flags as bot_public_flags
           from application p
           join account o on o.user_id = p.owner_id
           join account b on b.user_id = p.application_id
           where p.application_id = $1"#,
        id.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::UnknownApplication)?;
    let owner: User = UserRow {
        user_id: row.user_id,
        username: row.username,
        discriminator: row.discriminator,
        global_name: row.global_name,
        avatar: row.avatar,
        banner: row.banner,
        accent_color: row.accent_color,
        bot: row.bot,
        public_flags: row.public_flags,
    }
    .into();
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
    Ok(Application {
        id,
        name: row.name,
        icon: row.icon,
        description: row.description,
        summary: String::new(),
        kind: None,
        bot,
        bot_public: row.bot_public,
        bot_require_code_grant: false,
        verify_key: row.verify_key,
        flags: row.flags as u64,
        flags_new: row.flags.to_string(),
        owner,
        team: None,
        redirect_uris: row.redirect_uris,
        interactions_endpoint_url: None,
        role_connections_verification_url: None,
        approximate_guild_count: row.guilds as u64,
        approximate_user_install_count: 0,
        approximate_user_authorization_count: 0,
        explicit_content_filter: 0,
        eligible_oauth2_scopes: Vec::new(),
    })
}
