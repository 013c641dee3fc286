//! The second factor: switching it on and off, its backup codes, showing it for a sensitive
//! call (calls of user clients; no official page).

use axum::extract::State;
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::auth::{REGENERATE_NONCE, VIEW_NONCE};
use crate::{
    access, account,
    app::App,
    auth::{self, CurrentUser},
    error::Result,
    extract::{Form, Json},
    form::{Fault, FormErrors},
    second_factor::{self, BackupCode, Shown},
    sessions::{self, Client},
    tickets::{self, Purpose},
};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(mfa_totp_enable))
        .routes(routes!(mfa_totp_disable))
        .routes(routes!(mfa_backup_codes))
        .routes(routes!(mfa_finish))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct EnableTotp {
    #[schema(required, max_length = 72)]
    password: Option<String>,
    /// Base32, at least 128 bits; made by the client.
    #[schema(max_length = 256)]
    secret: Option<String>,
    /// What the authenticator makes of it now.
    #[schema(max_length = 64)]
    code: Option<String>,
}

impl Form for EnableTotp {
    fn check(&self, form: &mut FormErrors) {
        if let Some(secret) = &self.secret {
            form.length("secret", secret, 0..=256);
        }
        if let Some(code) = &self.code {
            form.length("code", code, 0..=64);
        }
    }
}

/// A token in place of the one the call came with, which is void like all others.
#[derive(Serialize, ToSchema)]
struct NewToken {
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_codes: Option<Vec<BackupCode>>,
}

/// Switches the second factor on. The password alone is answered 60005: a client asks in
/// this way whether it is right.
///
/// Errors: 401, 20001, 50035 on `password`, 60001, 60005, 60008, 429.
#[utoipa::path(
    post,
    path = "/users/@me/mfa/totp/enable",
    tag = "Accounts",
    responses((status = 200, body = NewToken))
)]
async fn mfa_totp_enable(
    State(app): State<App>,
    caller: CurrentUser,
    client: Client,
    Json(body): Json<EnableTotp>,
) -> Result<Json<NewToken>> {
    caller.require_human()?;
    auth::check_password_of(&app, caller.id, body.password.as_deref()).await?;
    if caller.account.user.mfa_enabled {
        return Err(ErrorCode::SecondFactorInUse.into());
    }
    let secret = body.secret.as_deref().ok_or(ErrorCode::InvalidTotpSecret)?;
    let totp = second_factor::parse_secret(secret)?;
    let code = body.code.as_deref().ok_or(ErrorCode::InvalidTotpCode)?;
    second_factor::count_try(&app, caller.id).await?;

    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    caller.require_session(&mut tx).await?;
    let keys = &app.keys;
    second_factor::switch_on(&mut tx, keys, caller.id, &totp, code).await?;
    let codes = second_factor::backup_codes(&mut tx, keys, caller.id, false).await?;
    let token = renew(&app, tx, caller.id, &client).await?;
    Ok(Json(NewToken {
        token,
        backup_codes: Some(codes),
    }))
}

/// After a change of factors: USER_UPDATE, every token and ticket void, one new token.
async fn renew(
    app: &App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    user: Id<marker::User>,
    client: &Client,
) -> Result<String> {
    tickets::void_all(&mut tx, user).await?;
    let mut events = vec![account::append_update(&mut tx, user).await?];
    let (token, told) = sessions::renew(&mut tx, user, client).await?;
    events.extend(told);
    tx.commit().await?;
    app.tokens.forget(user);
    app.publisher.publish(events);
    Ok(token.reveal().to_owned())
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct DisableTotp {
    /// Of the authenticator or a backup code; not needed with `X-Discord-MFA-Authorization`.
    #[schema(max_length = 64)]
    code: Option<String>,
}

impl Form for DisableTotp {
    fn check(&self, form: &mut FormErrors) {
        if let Some(code) = &self.code {
            form.length("code", code, 0..=64);
        }
    }
}

/// Switches the second factor off. Errors: 401, 20001, 60002, 60003, 60008, 429.
#[utoipa::path(
    post,
    path = "/users/@me/mfa/totp/disable",
    tag = "Accounts",
    responses((status = 200, body = NewToken))
)]
async fn mfa_totp_disable(
    State(app): State<App>,
    caller: CurrentUser,
    shown: Shown,
    client: Client,
    Json(body): Json<DisableTotp>,
) -> Result<Json<NewToken>> {
    caller.require_human()?;
    if !caller.account.user.mfa_enabled {
        return Err(ErrorCode::NoSecondFactor.into());
    }
    second_factor::require(&app, &caller, shown, body.code.as_deref()).await?;
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    caller.require_session(&mut tx).await?;
    second_factor::switch_off(&mut tx, caller.id).await?;
    let token = renew(&app, tx, caller.id, &client).await?;
    Ok(Json(NewToken {
        token,
        backup_codes: None,
    }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct ShowBackupCodes {
    /// From the mail that `/auth/verify/view-backup-codes-challenge` sends.
    #[schema(max_length = 64)]
    key: Option<String>,
    /// Which of the challenge's nonces.
    #[schema(max_length = 64)]
    nonce: Option<String>,
    /// Where no mail is: the password stands for the key.
    #[schema(max_length = 72)]
    password: Option<String>,
    regenerate: Option<bool>,
}

impl Form for ShowBackupCodes {
    fn check(&self, form: &mut FormErrors) {
        if self.password.is_some() {
            return;
        }
        for (path, value) in [("key", &self.key), ("nonce", &self.nonce)] {
            if let Some(text) = form.required(path, value) {
                form.length(path, text, 1..=64);
            }
        }
    }
}

#[derive(Serialize, ToSchema)]
struct BackupCodes {
    backup_codes: Vec<BackupCode>,
}

/// Shows the backup codes, or makes new ones. By the mailed key, or by the password together
/// with a fresh proof of the second factor.
///
/// Errors: 401, 20001, 50035 on `key`, `nonce` or `password`, 60002, 60003.
#[utoipa::path(
    post,
    path = "/users/@me/mfa/codes-verification",
    tag = "Accounts",
    responses((status = 200, body = BackupCodes))
)]
async fn mfa_backup_codes(
    State(app): State<App>,
    caller: CurrentUser,
    shown: Shown,
    Json(body): Json<ShowBackupCodes>,
) -> Result<Json<BackupCodes>> {
    caller.require_human()?;
    if !caller.account.user.mfa_enabled {
        return Err(ErrorCode::NoSecondFactor.into());
    }
    let regenerate = body.regenerate.unwrap_or_default();
    let by_password = body.password.is_some();
    if by_password {
        auth::check_password_of(&app, caller.id, body.password.as_deref()).await?;
        second_factor::require(&app, &caller, shown, None).await?;
    }
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [caller.id.cast()]).await?;
    caller.require_session(&mut tx).await?;
    if !by_password {
        let wanted = if regenerate {
            REGENERATE_NONCE
        } else {
            VIEW_NONCE
        };
        let key = body.key.unwrap_or_default();
        let ticket = tickets::redeem(&mut tx, &key, Purpose::ViewBackupCodes).await?;
        let is_good = ticket.is_some_and(|ticket| ticket.user == caller.id)
            && body.nonce.as_deref() == Some(wanted);
        if !is_good {
            let fault = Fault::Other("BACKUP_CODES_KEY_INVALID", "Invalid key.".into());
            return Err(FormErrors::one("key", fault));
        }
    }
    let keys = &app.keys;
    let backup_codes = second_factor::backup_codes(&mut tx, keys, caller.id, regenerate).await?;
    tx.commit().await?;
    Ok(Json(BackupCodes { backup_codes }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct FinishMfa {
    /// From the answer 60003.
    #[schema(required, max_length = 64)]
    ticket: Option<String>,
    /// `totp` or `backup`.
    #[schema(required)]
    mfa_type: Option<String>,
    /// The code.
    #[schema(required, max_length = 64)]
    data: Option<String>,
}

impl Form for FinishMfa {
    fn check(&self, form: &mut FormErrors) {
        for (path, value) in [("ticket", &self.ticket), ("data", &self.data)] {
            if let Some(text) = form.required(path, value) {
                form.length(path, text, 1..=64);
            }
        }
        if let Some(kind) = form.required("mfa_type", &self.mfa_type)
            && !matches!(kind.as_str(), "totp" | "backup")
        {
            form.add("mfa_type", Fault::Choices("'totp', 'backup'"));
        }
    }
}

/// A proof for `X-Discord-MFA-Authorization`, for five minutes.
#[derive(Serialize, ToSchema)]
struct Proof {
    token: String,
}

/// Shows the second factor for a call that was answered 60003, which may then be made again.
///
/// Errors: 401, 20001, 50035, 60002, 60006, 60008, 429.
#[utoipa::path(
    post,
    path = "/mfa/finish",
    tag = "Accounts",
    responses((status = 200, body = Proof))
)]
async fn mfa_finish(
    State(app): State<App>,
    caller: CurrentUser,
    Json(body): Json<FinishMfa>,
) -> Result<Json<Proof>> {
    caller.require_human()?;
    let (ticket, code) = (
        body.ticket.unwrap_or_default(),
        body.data.unwrap_or_default(),
    );
    let mut db = app.db.acquire().await?;
    // Committed by itself: a wrong code counts.
    let shown = tickets::attempt(&mut db, &ticket, Purpose::Action).await?;
    if shown.is_none_or(|ticket| ticket.user != caller.id) {
        return Err(ErrorCode::InvalidTicket.into());
    }
    drop(db);
    second_factor::count_try(&app, caller.id).await?;
    let mut tx = app.db.begin().await?;
    let keys = &app.keys;
    if body.mfa_type.as_deref() == Some("totp") {
        second_factor::take_totp(&mut tx, keys, caller.id, &code).await?;
    } else {
        second_factor::take_backup_code(&mut tx, keys, caller.id, &code).await?;
    }
    tickets::redeem(&mut tx, &ticket, Purpose::Action).await?;
    tx.commit().await?;
    let token = second_factor::proof(&app, &caller)?;
    Ok(Json(Proof { token }))
}
