//! Logging in, in one step or, with a second factor, two; logging out.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::tries::{self, Network};
use crate::{
    access,
    account::State as AccountState,
    app::App,
    auth::CurrentUser,
    error::{Error, Result},
    extract::{Form, Json},
    form::{Fault, FormErrors},
    second_factor,
    sessions::{self, Client, Which},
    text::clean,
    tickets::{self, Purpose},
};

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Login {
    /// Name or e-mail.
    #[schema(required, min_length = 1, max_length = 254)]
    login: Option<String>,
    #[schema(required, min_length = 1, max_length = 254)]
    password: Option<String>,
}

impl Form for Login {
    fn check(&self, form: &mut FormErrors) {
        for (path, value) in [("login", &self.login), ("password", &self.password)] {
            if let Some(text) = form.required(path, value) {
                form.length(path, text, 1..=254);
            }
        }
    }
}

/// What a client starts with before READY.
#[derive(Debug, Serialize, ToSchema)]
struct FirstSettings {
    locale: String,
    theme: String,
}

/// Logged in, or halfway.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Entrance {
    Open(LoggedIn),
    Ticket(SecondFactorWanted),
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LoggedIn {
    token: String,
    user_id: Id<marker::User>,
    user_settings: FirstSettings,
}

/// The ticket is for `/auth/mfa/totp` or `/auth/mfa/backup`, within five minutes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecondFactorWanted {
    ticket: String,
    mfa: bool,
    totp: bool,
    sms: bool,
    backup: bool,
    /// Always null: there are no security keys.
    webauthn: Option<String>,
    user_id: Id<marker::User>,
}

/// Logs in by name or address. Whatever is wrong, the answer is the same.
///
/// Errors: 50035 INVALID_LOGIN on both fields, 50035 ACCOUNT_DISABLED on `login`, 429.
#[utoipa::path(
    post,
    path = "/auth/login",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = Entrance))
)]
pub(super) async fn auth_login(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<Login>,
) -> Result<Json<Entrance>> {
    let (login, password) = (
        body.login.unwrap_or_default(),
        body.password.unwrap_or_default(),
    );
    let login = clean(&login).to_lowercase();
    let account = sqlx::query!(
        "select user_id, password_hash, state from account
         where not bot and (lower(username) = $1 or lower(email) = $1)
         order by lower(username) = $1 desc limit 1",
        login,
    )
    .fetch_optional(&app.db)
    .await?;
    let user = account.as_ref().map(|account| Id::from_db(account.user_id));
    let counted = tries::count(&app, &login, user, network).await?;
    let stored = account
        .as_ref()
        .and_then(|account| account.password_hash.clone());
    let is_right = app.passwords.verify(password, stored).await;
    if !matches!(is_right, Ok(false)) {
        counted.take_back(&app).await;
    }
    let is_right = is_right?;
    let account = account.filter(|_| is_right).ok_or_else(invalid_login)?;
    if AccountState::from_db(account.state) == AccountState::Locked {
        let fault = Fault::Other("ACCOUNT_DISABLED", "This account is disabled.".into());
        return Err(FormErrors::one("login", fault));
    }
    let (user, stored) = (Id::from_db(account.user_id), account.password_hash);
    enter(&app, user, stored.as_deref(), &client, network)
        .await
        .map(Json)
}

fn invalid_login() -> Error {
    let mut form = FormErrors::new();
    for path in ["login", "password"] {
        form.add(
            path,
            Fault::Other("INVALID_LOGIN", "Login or password is invalid.".into()),
        );
    }
    Error::Form(form)
}

/// The last step of whoever has shown the first factor (or the mail that stands for it) while
/// the account had this password.
///
/// Errors: 50035 INVALID_LOGIN if the password was changed, or the account locked or deleted, since.
pub(super) async fn enter(
    app: &App,
    user: Id<marker::User>,
    password_hash: Option<&str>,
    client: &Client,
    network: Network,
) -> Result<Entrance> {
    let mut tx = app.db.begin().await?;
    // Whoever ends an account's sessions holds it too: this one is among them, or comes after.
    access::lock_realms(&mut tx, [user.cast()]).await?;
    let stands = sqlx::query_scalar!(
        r#"select exists (
             select from account
             where user_id = $1 and password_hash is not distinct from $2 and state in (0, 1)
           ) as "stands!""#,
        user.to_db(),
        password_hash,
    )
    .fetch_one(&mut *tx)
    .await?;
    if !stands {
        return Err(invalid_login());
    }
    if second_factor::is_on(&mut tx, user).await? {
        let ticket = tickets::issue(&mut tx, user, Purpose::Login, None).await?;
        tx.commit().await?;
        return Ok(Entrance::Ticket(SecondFactorWanted {
            ticket,
            mfa: true,
            totp: true,
            sms: false,
            backup: true,
            webauthn: None,
            user_id: user,
        }));
    }
    let opened = open(app, tx, user, client, network).await;
    opened.map(Entrance::Open)
}

/// Opens a session and commits. An account its owner had disabled is active again. Its realm's
/// head is locked.
async fn open(
    app: &App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    user: Id<marker::User>,
    client: &Client,
    network: Network,
) -> Result<LoggedIn> {
    crate::account::wake(&mut tx, user).await?;
    let (token, ended) = sessions::open(&mut tx, user, client).await?;
    let user_settings = first_settings(&mut tx, user).await?;
    tx.commit().await?;
    if let Some(ended) = ended {
        app.tokens.forget(user);
        app.publisher.publish([ended]);
    }
    tries::remember(app, user, network).await;
    Ok(LoggedIn {
        token: token.reveal().to_owned(),
        user_id: user,
        user_settings,
    })
}

/// The language and colours a client starts with.
async fn first_settings(db: &mut PgConnection, user: Id<marker::User>) -> Result<FirstSettings> {
    let row = sqlx::query!(
        r#"select a.locale, s.settings ->> 'theme' as theme
           from account a left join user_settings s using (user_id) where a.user_id = $1"#,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(FirstSettings {
        locale: row.locale,
        theme: row.theme.unwrap_or_else(|| "dark".to_owned()),
    })
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct SecondStep {
    #[schema(required, max_length = 64)]
    ticket: Option<String>,
    #[schema(required, max_length = 64)]
    code: Option<String>,
}

impl Form for SecondStep {
    fn check(&self, form: &mut FormErrors) {
        for (path, value) in [("ticket", &self.ticket), ("code", &self.code)] {
            if let Some(text) = form.required(path, value) {
                form.length(path, text, 1..=64);
            }
        }
    }
}

/// The second step of a log-in, by a code of the authenticator. Five wrong codes void the
/// ticket; a code counts once.
///
/// Errors: 60006, 60008, 429.
#[utoipa::path(
    post,
    path = "/auth/mfa/totp",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = LoggedIn))
)]
pub(super) async fn auth_mfa_totp(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<SecondStep>,
) -> Result<Json<LoggedIn>> {
    second_step(&app, &client, network, body, Code::Totp).await
}

/// The second step of a log-in, by a backup code, which is then used up.
///
/// Errors: 60006, 60008, 429.
#[utoipa::path(
    post,
    path = "/auth/mfa/backup",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = LoggedIn))
)]
pub(super) async fn auth_mfa_backup(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<SecondStep>,
) -> Result<Json<LoggedIn>> {
    second_step(&app, &client, network, body, Code::Backup).await
}

enum Code {
    Totp,
    Backup,
}

async fn second_step(
    app: &App,
    client: &Client,
    network: Network,
    body: SecondStep,
    kind: Code,
) -> Result<Json<LoggedIn>> {
    let (ticket, code) = (
        body.ticket.unwrap_or_default(),
        body.code.unwrap_or_default(),
    );
    let mut db = app.db.acquire().await?;
    // Committed by itself: a wrong code counts.
    let user = tickets::attempt(&mut db, &ticket, Purpose::Login)
        .await?
        .ok_or(ErrorCode::InvalidTicket)?
        .user;
    drop(db);
    second_factor::count_try(app, user).await?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.cast()]).await?;
    let keys = &app.keys;
    match kind {
        Code::Totp => second_factor::take_totp(&mut tx, keys, user, &code).await?,
        Code::Backup => {
            second_factor::take_backup_code(&mut tx, keys, user, &code).await?;
        }
    }
    // Of two requests with the same ticket and different good codes one gets in.
    tickets::redeem(&mut tx, &ticket, Purpose::Login)
        .await?
        .ok_or(ErrorCode::InvalidTicket)?;
    require_active(&mut tx, user).await?;
    open(app, tx, user, client, network).await.map(Json)
}

/// Errors: 60006 for who was locked or deleted since the ticket was made.
async fn require_active(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    match crate::account::state(db, user).await? {
        Some(AccountState::Active | AccountState::Disabled) => Ok(()),
        Some(AccountState::Locked | AccountState::Deleted) | None => {
            Err(ErrorCode::InvalidTicket.into())
        }
    }
}

/// Revokes the token it comes with; gateway sessions of that token close. Errors: 401, 20001.
#[utoipa::path(
    post,
    path = "/auth/logout",
    tag = "Accounts",
    responses((status = 204, description = "The token is void"))
)]
pub(super) async fn auth_logout(State(app): State<App>, caller: CurrentUser) -> Result<StatusCode> {
    caller.require_human()?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    let event = sessions::revoke(&mut tx, caller.id, Which::One(caller.token)).await?;
    tx.commit().await?;
    app.tokens.forget(caller.id);
    app.publisher.publish(event);
    Ok(StatusCode::NO_CONTENT)
}
