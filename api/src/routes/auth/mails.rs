//! What is done by mailed tickets: verifying an address, choosing a new password (also by a
//! ticket from an operator), seeing backup codes.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{
    login,
    tries::{self, Network},
};
use crate::{
    access,
    account::{self, check_email, check_password},
    app::App,
    auth::{self, CurrentUser},
    error::{Error, Result},
    extract::{Form, Json},
    form::{Fault, FormErrors},
    mail::Mail,
    rate_limit::Limit,
    sessions::{self, Client, Which},
    tickets::{self, Purpose},
};

/// Requests for a new password that are worked on at once; more are dropped.
const FORGOTTEN_AT_ONCE: usize = 16;

/// Mails for a new password to one address.
const MAILS_TO_ONE: Limit = Limit::per_seconds(3, 900);

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct VerifyEmail {
    /// From the mail.
    #[schema(required, max_length = 64)]
    token: Option<String>,
}

impl Form for VerifyEmail {
    fn check(&self, form: &mut FormErrors) {
        if let Some(token) = form.required("token", &self.token) {
            form.length("token", token, 1..=64);
        }
    }
}

fn bad_token() -> Error {
    FormErrors::one(
        "token",
        Fault::Other("TOKEN_INVALID", "Token is invalid or has expired.".into()),
    )
}

/// The address is theirs; they are logged in (or asked for their second factor).
///
/// Errors: 50035 TOKEN_INVALID on `token`.
#[utoipa::path(
    post,
    path = "/auth/verify",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = login::Entrance))
)]
pub(super) async fn auth_verify_email(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<VerifyEmail>,
) -> Result<Json<login::Entrance>> {
    let token = body.token.unwrap_or_default();
    let mut tx = app.db.begin().await?;
    let user = tickets::holder(&mut tx, &token, Purpose::VerifyEmail)
        .await?
        .ok_or_else(bad_token)?;
    access::lock_realms(&mut tx, [user.cast()]).await?;
    let ticket = tickets::redeem(&mut tx, &token, Purpose::VerifyEmail)
        .await?
        .ok_or_else(bad_token)?;
    let verified = sqlx::query_scalar!(
        "update account set verified = true
         where user_id = $1 and lower(email) = lower($2) and state in (0, 1)
         returning password_hash",
        user.to_db(),
        ticket.email,
    )
    .fetch_optional(&mut *tx)
    .await?;
    // The address was changed, or the account locked, since.
    let password_hash = verified.ok_or_else(bad_token)?;
    let event = account::append_update(&mut tx, user).await?;
    tx.commit().await?;
    app.tokens.forget(user);
    app.publisher.publish([event]);
    login::enter(&app, user, password_hash.as_deref(), &client, network)
        .await
        .map(Json)
}

/// Mails a new ticket; the one before is void. Errors: 401, 20001, 40006 without mail;
/// 50035 on `email` without an address.
#[utoipa::path(
    post,
    path = "/auth/verify/resend",
    tag = "Accounts",
    responses((status = 204, description = "A mail is on its way, unless the address is verified"))
)]
pub(super) async fn auth_verify_resend(
    State(app): State<App>,
    caller: CurrentUser,
) -> Result<StatusCode> {
    caller.require_human()?;
    let user = &caller.account.user;
    let email = user
        .email
        .as_deref()
        .ok_or_else(|| FormErrors::one("email", Fault::Required))?;
    if !app.mailer.is_on() {
        return Err(ErrorCode::FeatureDisabled.into());
    }
    if !user.verified {
        let mut tx = app.db.begin().await?;
        let mail = mail_verification(&app, &mut tx, caller.id, email).await?;
        tx.commit().await?;
        if let Some(mail) = mail {
            app.mailer.send(mail);
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The mail that verifies an address, to be sent after the commit; `None` where no mail is.
pub(crate) async fn mail_verification(
    app: &App,
    db: &mut PgConnection,
    user: Id<marker::User>,
    email: &str,
) -> Result<Option<Mail>> {
    if !app.mailer.is_on() {
        return Ok(None);
    }
    let ticket = tickets::issue(db, user, Purpose::VerifyEmail, Some(email)).await?;
    let name = &app.config.policies.instance_name;
    Ok(Some(Mail {
        to: email.to_owned(),
        subject: format!("Verify your address for {name}"),
        text: format!(
            "Somebody, you we hope, has given this address to an account of {name}.\n\
             This verifies it, within a day:\n\n{}\n\nOr by hand, the token:\n\n{ticket}\n\n\
             If it was not you, do nothing.\n",
            link(app, "verify", &ticket),
        ),
    }))
}

fn link(app: &App, page: &str, ticket: &str) -> String {
    let config = &app.config;
    let base = config.policies.front_page_url.as_ref();
    format!(
        "{}/{page}#token={ticket}",
        base.unwrap_or(&config.public_url)
    )
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Forgot {
    /// The account's address.
    #[schema(required, max_length = 254)]
    login: Option<String>,
}

impl Form for Forgot {
    fn check(&self, form: &mut FormErrors) {
        if let Some(login) = form.required("login", &self.login) {
            check_email(form, "login", login);
        }
    }
}

/// Mails a ticket for a new password, if there is such an account. Nobody learns whether
/// there is: the answer is the same, and the work is done after it.
///
/// Errors: 50035, 429.
#[utoipa::path(
    post,
    path = "/auth/forgot",
    tag = "Accounts",
    security(()),
    responses((status = 204, description = "A mail is on its way, if there is such an account"))
)]
pub(super) async fn auth_forgot(
    State(app): State<App>,
    Json(body): Json<Forgot>,
) -> Result<StatusCode> {
    let login = body.login.unwrap_or_default();
    if app.mailer.is_on()
        && let Ok(turn) = std::sync::Arc::clone(&app.forgotten).try_acquire_owned()
    {
        let worker = app.clone();
        app.work.spawn(async move {
            if let Err(error) = mail_reset(&worker, login.trim()).await {
                tracing::warn!(?error, "a mail for a new password was not made");
            }
            drop(turn);
        });
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Turns of those who work on forgotten passwords.
pub(crate) fn forgotten_turns() -> std::sync::Arc<tokio::sync::Semaphore> {
    std::sync::Arc::new(tokio::sync::Semaphore::new(FORGOTTEN_AT_ONCE))
}

async fn mail_reset(app: &App, email: &str) -> Result<()> {
    // Nobody's mailbox is filled by others.
    let what = format!("forgot:{}", email.to_lowercase());
    if app.limiter.attempt(&what, MAILS_TO_ONE).await.is_err() {
        return Ok(());
    }
    let mut tx = app.db.begin().await?;
    let account = sqlx::query!(
        r#"select user_id, email as "email!" from account
           where lower(email) = lower($1) and not bot and state in (0, 1)"#,
        email,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(account) = account else {
        return Ok(());
    };
    let user = Id::from_db(account.user_id);
    let ticket =
        tickets::issue(&mut tx, user, Purpose::ResetPassword, Some(&account.email)).await?;
    tx.commit().await?;
    let name = &app.config.policies.instance_name;
    app.mailer.send(Mail {
        to: account.email,
        subject: format!("A new password for {name}"),
        text: format!(
            "Somebody, you we hope, wants a new password for your account of {name}.\n\
             Choose it here, within an hour:\n\n{}\n\nOr by hand, the token:\n\n{ticket}\n\n\
             If it was not you, do nothing: your password stays.\n",
            link(app, "reset", &ticket),
        ),
    });
    Ok(())
}

/// A way to a new password, for an operator to hand over.
#[derive(Serialize)]
pub(crate) struct PasswordReset {
    /// Opens `/auth/reset` once.
    token: String,
    /// Of the page that mails link to, with the token.
    url: String,
    /// Seconds.
    expires_in: u64,
}

/// Makes a ticket for a new password that no mail brings: it proves no address. The one before is
/// void.
///
/// Errors: 10013 for bots, locked and deleted accounts too.
pub(crate) async fn hand_over_reset(
    app: &App,
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> Result<PasswordReset> {
    let may_reset = sqlx::query_scalar!(
        r#"select exists (
             select from account where user_id = $1 and not bot and state in (0, 1)
           ) as "may_reset!""#,
        user.to_db(),
    )
    .fetch_one(&mut *db)
    .await?;
    if !may_reset {
        return Err(ErrorCode::UnknownUser.into());
    }
    let token = tickets::issue(db, user, Purpose::ResetPassword, None).await?;
    Ok(PasswordReset {
        url: link(app, "reset", &token),
        token,
        expires_in: Purpose::ResetPassword.lifetime().as_secs(),
    })
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Reset {
    /// From the mail, or from an operator.
    #[schema(required, max_length = 64)]
    token: Option<String>,
    #[schema(required, min_length = 8, max_length = 72)]
    password: Option<String>,
}

impl Form for Reset {
    fn check(&self, form: &mut FormErrors) {
        if let Some(token) = form.required("token", &self.token) {
            form.length("token", token, 1..=64);
        }
        if let Some(password) = form.required("password", &self.password) {
            check_password(form, "password", password);
        }
    }
}

/// Sets the password by a ticket, mailed or from an operator. Every older token and ticket is
/// void; whoever has a second factor still has to show it.
///
/// Errors: 50035, TOKEN_INVALID on `token`.
#[utoipa::path(
    post,
    path = "/auth/reset",
    tag = "Accounts",
    security(()),
    responses((status = 200, body = login::Entrance))
)]
pub(super) async fn auth_reset(
    State(app): State<App>,
    client: Client,
    network: Network,
    Json(body): Json<Reset>,
) -> Result<Json<login::Entrance>> {
    let (token, password) = (
        body.token.unwrap_or_default(),
        body.password.unwrap_or_default(),
    );
    // Who guesses tokens is not given the work of hashing.
    let mut db = app.db.acquire().await?;
    let user = tickets::holder(&mut db, &token, Purpose::ResetPassword)
        .await?
        .ok_or_else(bad_token)?;
    drop(db);
    let hash = app.passwords.hash(password).await?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [user.cast()]).await?;
    let ticket = tickets::redeem(&mut tx, &token, Purpose::ResetPassword)
        .await?
        .ok_or_else(bad_token)?;
    // If a mail brought it, the address is theirs.
    let changed = sqlx::query!(
        "update account set password_hash = $2, verified = verified or $3::text is not null
         where user_id = $1 and ($3::text is null or lower(email) = lower($3))
           and state in (0, 1)",
        user.to_db(),
        hash,
        ticket.email,
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(bad_token());
    }
    tickets::void_all(&mut tx, user).await?;
    let mut events = vec![account::append_update(&mut tx, user).await?];
    events.extend(sessions::revoke(&mut tx, user, Which::All).await?);
    tx.commit().await?;
    app.tokens.forget(user);
    app.publisher.publish(events);
    tries::forget(&app, user).await;
    login::enter(&app, user, Some(&hash), &client, network)
        .await
        .map(Json)
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct OwnPassword {
    #[schema(required, max_length = 72)]
    password: Option<String>,
}

impl Form for OwnPassword {}

#[derive(Serialize, ToSchema)]
pub(super) struct Challenge {
    nonce: &'static str,
    regenerate_nonce: &'static str,
}

/// Nonces of a challenge: which of the two things its key is shown for. The key is the secret.
pub(crate) const VIEW_NONCE: &str = "view";
pub(crate) const REGENERATE_NONCE: &str = "regenerate";

/// Mails the key that shows backup codes (`/users/@me/mfa/codes-verification`).
///
/// Errors: 401, 20001, 40006 without mail, 50035 on `password`, 60002.
#[utoipa::path(
    post,
    path = "/auth/verify/view-backup-codes-challenge",
    tag = "Accounts",
    responses((status = 200, body = Challenge))
)]
pub(super) async fn auth_view_backup_codes_challenge(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<OwnPassword>,
) -> Result<Json<Challenge>> {
    caller.require_human()?;
    auth::check_password_of(&app, caller.id, body.password.as_deref()).await?;
    let user = &caller.account.user;
    if !user.mfa_enabled {
        return Err(ErrorCode::NoSecondFactor.into());
    }
    let email = user.email.as_deref().filter(|_| app.mailer.is_on());
    let email = email.ok_or(ErrorCode::FeatureDisabled)?;
    let mut tx = app.db.begin().await?;
    let key = tickets::issue(&mut tx, caller.id, Purpose::ViewBackupCodes, Some(email)).await?;
    tx.commit().await?;
    let name = &app.config.policies.instance_name;
    app.mailer.send(Mail {
        to: email.to_owned(),
        subject: format!("Your backup codes of {name}"),
        text: format!(
            "The key that shows the backup codes of your account of {name}, within half an \
             hour:\n\n{key}\n\nIf you did not ask for it, change your password.\n",
        ),
    });
    Ok(Json(Challenge {
        nonce: VIEW_NONCE,
        regenerate_nonce: REGENERATE_NONCE,
    }))
}
