//! The second factor: one-time codes of an authenticator (TOTP, RFC 6238), and backup codes.
//! Spec: endpoints › /users/@me/mfa.
//!
//! A code is taken once. The authenticator's secret is stored sealed with the cluster's key,
//! backup codes are derived from it and not stored: who reads the database can make neither.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{extract::FromRequestParts, http::request::Parts};
use guildhall_shared::{Id, error_code::ErrorCode, id::marker};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use sqlx::PgConnection;
use totp_rs::{Builder, Secret as TotpSecret, Totp};
use utoipa::ToSchema;

use crate::{
    app::App,
    auth::{self, Audience, CurrentUser},
    config::Secret,
    error::{Error, Result},
    rate_limit::Limit,
    sealed, sessions,
    tickets::{self, Purpose},
};

/// Backup codes of an account.
const BACKUP_CODES: u32 = 10;
/// What a backup code is made of: no letter or digit that is taken for another.
const BACKUP_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Letters of a backup code; 40 bits.
const BACKUP_CODE_LENGTH: usize = 8;
/// What an authenticator's secret is sealed for.
const SEALED_FOR: &str = "guildhall totp secret 1";
/// Codes tried for one account, right or wrong.
const TRIES: Limit = Limit::per_seconds(10, 600);
/// How long the second factor counts after it was shown for a sensitive call.
const SHOWN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Where its proof stands.
const SHOWN_HEADER: &str = "x-discord-mfa-authorization";

/// An authenticator's secret as its owner typed it: base32, spaces and case aside.
///
/// Errors: 60005.
pub(crate) fn parse_secret(text: &str) -> Result<Totp> {
    let text: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-' && *c != '=')
        .collect();
    let secret = TotpSecret::try_from_base32(text.to_ascii_uppercase())
        .map_err(|_| ErrorCode::InvalidTotpSecret)?;
    authenticator(secret)
}

/// Errors: 60005 for less than 128 bits.
fn authenticator(secret: impl Into<TotpSecret>) -> Result<Totp> {
    Builder::new()
        .with_secret(secret)
        .build()
        .map_err(|_| ErrorCode::InvalidTotpSecret.into())
}

/// Whether an account has one.
pub(crate) async fn is_on(db: &mut PgConnection, user: Id<marker::User>) -> Result<bool> {
    let on = sqlx::query_scalar!(
        r#"select exists (select from account_mfa where user_id = $1) as "on!""#,
        user.to_db(),
    )
    .fetch_one(db)
    .await?;
    Ok(on)
}

/// Switches it on; the code shows that the authenticator has the secret, and is used up.
///
/// Errors: 60001, 60008.
pub(crate) async fn switch_on(
    db: &mut PgConnection,
    key: &Secret,
    user: Id<marker::User>,
    totp: &Totp,
    code: &str,
) -> Result<()> {
    let step = step_of(totp, code).ok_or(ErrorCode::InvalidTotpCode)?;
    let salt: [u8; 16] = rand::random();
    let secret = sealed::seal(key, SEALED_FOR, user.get(), totp.secret().as_ref());
    let stored = sqlx::query!(
        "insert into account_mfa (user_id, totp_secret, totp_step, backup_salt)
         values ($1, $2, $3, $4) on conflict do nothing",
        user.to_db(),
        secret,
        step,
        salt.as_slice(),
    )
    .execute(db)
    .await?;
    if stored.rows_affected() == 0 {
        return Err(ErrorCode::SecondFactorInUse.into());
    }
    Ok(())
}

pub(crate) async fn switch_off(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    sqlx::query!("delete from account_mfa where user_id = $1", user.to_db())
        .execute(db)
        .await?;
    Ok(())
}

/// Counts a try of a code. Errors: 429.
pub(crate) async fn count_try(app: &App, user: Id<marker::User>) -> Result<()> {
    app.limiter.attempt(&format!("mfa:{user}"), TRIES).await
}

/// Takes a code of the authenticator, once. Errors: 60002, 60008, also for every code if the
/// secret was sealed with another cluster key.
pub(crate) async fn take_totp(
    db: &mut PgConnection,
    key: &Secret,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    let secret = sqlx::query_scalar!(
        "select totp_secret from account_mfa where user_id = $1",
        user.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::NoSecondFactor)?;
    let Some(secret) = sealed::open(key, SEALED_FOR, user.get(), &secret) else {
        tracing::error!(%user, "a second factor cannot be read: CLUSTER_KEY is not the one it was made with");
        return Err(ErrorCode::InvalidTotpCode.into());
    };
    let step = step_of(&authenticator(secret)?, code).ok_or(ErrorCode::InvalidTotpCode)?;
    // Of two requests with the same code one finds the step taken.
    let taken = sqlx::query!(
        "update account_mfa set totp_step = $2 where user_id = $1 and totp_step < $2",
        user.to_db(),
        step,
    )
    .execute(db)
    .await?;
    if taken.rows_affected() == 0 {
        return Err(ErrorCode::InvalidTotpCode.into());
    }
    Ok(())
}

/// The step a code belongs to: the current one or a neighbour.
fn step_of(totp: &Totp, code: &str) -> Option<i64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(totp.check(&code, now)?).ok()
}

/// Takes a backup code, once. Errors: 60002, 60008.
pub(crate) async fn take_backup_code(
    db: &mut PgConnection,
    key: &Secret,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    let row = sqlx::query!(
        "select backup_salt, backup_used from account_mfa where user_id = $1 for update",
        user.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ErrorCode::NoSecondFactor)?;
    let code: String = code
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .take(BACKUP_CODE_LENGTH + 1)
        .collect::<String>()
        .to_ascii_lowercase();
    let number = (0..BACKUP_CODES)
        .filter(|number| row.backup_used & (1 << number) == 0)
        .find(|&number| {
            let own = backup_code(key, user, &row.backup_salt, number);
            bool::from(subtle::ConstantTimeEq::ct_eq(
                own.as_bytes(),
                code.as_bytes(),
            ))
        })
        .ok_or(ErrorCode::InvalidTotpCode)?;
    sqlx::query!(
        "update account_mfa set backup_used = backup_used | $2 where user_id = $1",
        user.to_db(),
        1 << number,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Either kind of code. Errors: 60002, 60008.
pub(crate) async fn take_any(
    db: &mut PgConnection,
    key: &Secret,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    match take_totp(&mut *db, key, user, code).await {
        Err(Error::Code(ErrorCode::InvalidTotpCode)) => take_backup_code(db, key, user, code).await,
        other => other,
    }
}

/// A code for when the authenticator is lost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackupCode {
    code: String,
    consumed: bool,
    user_id: Id<marker::User>,
}

/// An account's backup codes; new ones if `regenerate`. Errors: 60002.
pub(crate) async fn backup_codes(
    db: &mut PgConnection,
    key: &Secret,
    user: Id<marker::User>,
    regenerate: bool,
) -> Result<Vec<BackupCode>> {
    if regenerate {
        let salt: [u8; 16] = rand::random();
        sqlx::query!(
            "update account_mfa set backup_salt = $2, backup_used = 0 where user_id = $1",
            user.to_db(),
            salt.as_slice(),
        )
        .execute(&mut *db)
        .await?;
    }
    let row = sqlx::query!(
        "select backup_salt, backup_used from account_mfa where user_id = $1",
        user.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::NoSecondFactor)?;
    Ok((0..BACKUP_CODES)
        .map(|number| BackupCode {
            code: backup_code(key, user, &row.backup_salt, number),
            consumed: row.backup_used & (1 << number) != 0,
            user_id: user,
        })
        .collect())
}

fn backup_code(key: &Secret, user: Id<marker::User>, salt: &[u8], number: u32) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(b"backup code");
    mac.update(&user.get().to_be_bytes());
    mac.update(salt);
    mac.update(&number.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let letter = |byte: &u8| char::from(BACKUP_ALPHABET[usize::from(byte % 32)]);
    digest.iter().take(BACKUP_CODE_LENGTH).map(letter).collect()
}

/// Proof that the caller has just shown their second factor, if they have one. For calls
/// that nobody with a stolen token should make.
///
/// Errors: 401, 401 60003 with a ticket for `POST /mfa/finish`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecondFactor;

impl FromRequestParts<App> for SecondFactor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = CurrentUser::from_request_parts(parts, app).await?;
        if caller.bot || !caller.account.user.mfa_enabled || is_shown(app, &caller, parts) {
            return Ok(Self);
        }
        Err(required(app, &caller).await)
    }
}

/// Whether the request carries a fresh proof of the caller's session.
fn is_shown(app: &App, caller: &CurrentUser, parts: &Parts) -> bool {
    let proof = parts.headers.get(SHOWN_HEADER);
    proof
        .and_then(|value| value.to_str().ok())
        .and_then(|proof| {
            auth::token_subject(&app.config.cluster_key, Audience::SecondFactor, proof)
        })
        .is_some_and(|session| session == sessions::name(caller.token))
}

/// What [`SHOWN_HEADER`] shall hold for this session's next sensitive calls.
pub(crate) fn proof(app: &App, caller: &CurrentUser) -> Result<String> {
    auth::sign_token(
        &app.config.cluster_key,
        Audience::SecondFactor,
        &sessions::name(caller.token),
        SHOWN_LIFETIME,
    )
}

/// The refusal that asks for it: 60003 with a new ticket.
pub(crate) async fn required(app: &App, caller: &CurrentUser) -> Error {
    let ticket = async {
        let mut db = app.db.acquire().await?;
        tickets::issue(&mut db, caller.id, Purpose::Action, None).await
    };
    match ticket.await {
        Ok(ticket) => Error::SecondFactorRequired { ticket },
        Err(error) => error,
    }
}

/// For calls that take the code in their body too: passes who has no second factor, has
/// shown it, or gives a right code.
///
/// Errors: 60003, 60008, 429.
pub(crate) async fn require(
    app: &App,
    caller: &CurrentUser,
    shown: Shown,
    code: Option<&str>,
) -> Result<()> {
    if caller.bot || !caller.account.user.mfa_enabled || shown.0 {
        return Ok(());
    }
    let Some(code) = code else {
        return Err(required(app, caller).await);
    };
    count_try(app, caller.id).await?;
    let mut tx = app.db.begin().await?;
    take_any(&mut tx, &app.config.cluster_key, caller.id, code).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether the request carries a proof; for [`require`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown(bool);

impl FromRequestParts<App> for Shown {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = CurrentUser::from_request_parts(parts, app).await?;
        Ok(Self(is_shown(app, &caller, parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_as_people_type_them() {
        for good in [
            "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
            "jbsw y3dp ehpk 3pxp jbsw y3dp ehpk 3pxp",
        ] {
            assert!(parse_secret(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "JBSWY3DP",
            "!!!!",
            "ä",
            "00000000000000000000000000000000",
        ] {
            assert!(parse_secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn backup_codes_differ_by_account_salt_and_number() {
        let key = Secret::from("k".repeat(32));
        let code = |user: u64, salt: &[u8], number| {
            backup_code(&key, Id::new(user).unwrap(), salt, number)
        };
        let all = [
            code(1, b"a", 0),
            code(1, b"a", 1),
            code(1, b"b", 0),
            code(2, b"a", 0),
        ];
        for (n, one) in all.iter().enumerate() {
            assert_eq!(one.len(), BACKUP_CODE_LENGTH);
            assert!(!all[n + 1..].contains(one));
        }
        assert_eq!(code(1, b"a", 0), all[0]);
    }
}
