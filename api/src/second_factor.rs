//! The second factor: one-time codes of an authenticator (TOTP, RFC 6238), and backup codes.
//! Spec: endpoints › /users/@me/mfa.
//!
//! A code is taken once. The authenticator's secret is stored sealed with the cluster's key,
//! backup codes are derived from it and not stored: who reads the database can make neither.
//! When the key is renewed, both are sealed anew, the codes as they are ([`Sealed`]).

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
    keys::{Keys, Use},
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
/// What backup codes are sealed for that a key of before has made.
const KEPT_FOR: &str = "guildhall backup codes 1";
/// Second factors that are read at once to be sealed anew.
const BATCH: i64 = 500;
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

/// What a cluster key has made of a second factor, as stored.
struct Sealed {
    secret: Vec<u8>,
    salt: Vec<u8>,
    /// Backup codes of a key of before; sealed with the key that sealed the secret.
    kept: Option<Vec<u8>>,
}

/// A second factor as stored.
struct Stored {
    sealed: Sealed,
    /// Bit n: backup code n is used up.
    used: i32,
}

impl Sealed {
    /// The authenticator's secret, and the key that sealed it; `None`: none of ours.
    fn open<'k>(&self, keys: &'k Keys, user: Id<marker::User>) -> Option<(&'k Secret, Vec<u8>)> {
        keys.find(|key| sealed::open(key, SEALED_FOR, user.get(), &self.secret))
    }

    /// The backup codes; `key` is the one that sealed the secret.
    fn codes(&self, key: &Secret, user: Id<marker::User>) -> Vec<String> {
        let kept = self.kept.as_deref();
        let kept = kept.and_then(|kept| sealed::open(key, KEPT_FOR, user.get(), kept));
        // Older code makes a new salt and knows of no kept codes: then they are over.
        let kept = kept.and_then(|kept| codes_of(kept.strip_prefix(&*self.salt)?));
        kept.unwrap_or_else(|| {
            let code = |number| backup_code(key, user, &self.salt, number);
            (0..BACKUP_CODES).map(code).collect()
        })
    }

    /// The same with the current key; `key` has sealed it, `secret` was inside.
    fn anew(&self, keys: &Keys, user: Id<marker::User>, key: &Secret, secret: &[u8]) -> Self {
        let mut kept = self.salt.clone();
        for code in self.codes(key, user) {
            kept.extend(code.as_bytes());
        }
        let seal = |purpose, plain: &[u8]| sealed::seal(&keys.current, purpose, user.get(), plain);
        Self {
            secret: seal(SEALED_FOR, secret),
            salt: self.salt.clone(),
            kept: Some(seal(KEPT_FOR, &kept)),
        }
    }
}

/// Backup codes, one after the other.
fn codes_of(letters: &[u8]) -> Option<Vec<String>> {
    let codes = letters.chunks(BACKUP_CODE_LENGTH);
    let codes: Option<Vec<String>> = codes
        .map(|code| String::from_utf8(code.to_vec()).ok())
        .collect();
    let length = BACKUP_CODE_LENGTH * BACKUP_CODES as usize;
    codes.filter(|_| letters.len() == length)
}

/// Reads a second factor. Errors: 60002.
async fn stored(db: &mut PgConnection, user: Id<marker::User>) -> Result<Stored> {
    let row = sqlx::query!(
        "select totp_secret, backup_salt, backup_kept, backup_used
         from account_mfa where user_id = $1",
        user.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(ErrorCode::NoSecondFactor)?;
    Ok(Stored {
        sealed: Sealed {
            secret: row.totp_secret,
            salt: row.backup_salt,
            kept: row.backup_kept,
        },
        used: row.backup_used,
    })
}

/// Seals it anew if the previous key sealed it, and notes which key it has else. False: it was not
/// of any key, or somebody else has changed it.
///
/// Nothing is overwritten that was not read: of two processes one stores, and new backup codes
/// stay.
async fn seal_with_current(
    db: &mut PgConnection,
    keys: &Keys,
    user: Id<marker::User>,
    old: &Sealed,
) -> Result<bool> {
    let Some((key, secret)) = old.open(keys, user) else {
        return Ok(false);
    };
    let stored = if keys.is_previous(key) {
        let new = old.anew(keys, user, key, &secret);
        sqlx::query!(
            "update account_mfa set totp_secret = $4, backup_kept = $5, sealed_with = $6
             where user_id = $1 and totp_secret = $2 and backup_salt = $3",
            user.to_db(),
            old.secret,
            old.salt,
            new.secret,
            new.kept,
            sealed::name(&keys.current),
        )
        .execute(db)
        .await?
    } else {
        sqlx::query!(
            "update account_mfa set sealed_with = $3 where user_id = $1 and totp_secret = $2",
            user.to_db(),
            old.secret,
            sealed::name(key),
        )
        .execute(db)
        .await?
    };
    Ok(stored.rows_affected() > 0)
}

/// [`seal_with_current`] for one that was just shown.
async fn note_use(
    db: &mut PgConnection,
    keys: &Keys,
    user: Id<marker::User>,
    sealed: &Sealed,
) -> Result<()> {
    let Some((key, _)) = sealed.open(keys, user) else {
        return Ok(());
    };
    keys.note(Use::SecondFactor, key);
    if keys.is_previous(key) {
        seal_with_current(db, keys, user, sealed).await?;
    }
    Ok(())
}

/// Seals anew, with the current key, what only the previous one opens: all of it, in steps. Does
/// nothing unless the key is being renewed.
pub(crate) async fn seal_anew(app: &App) -> Result<()> {
    let keys = &app.keys;
    if keys.previous.is_none() {
        return Ok(());
    }
    // What has the next key, others have made: it is ahead.
    let lasting: Vec<Vec<u8>> = keys.lasting().map(sealed::name).collect();
    let (mut after, mut done, mut left) = (0, 0_u64, 0_i64);
    while !app.stop.is_cancelled() {
        let rows = sqlx::query!(
            "select user_id, totp_secret, backup_salt, backup_kept from account_mfa
             where user_id > $1 and (sealed_with is null or sealed_with <> all($2))
             order by user_id limit $3",
            after,
            &lasting,
            BATCH,
        )
        .fetch_all(&app.db)
        .await?;
        let Some(last) = rows.last() else {
            app.metrics.factors_to_seal.set(left);
            break;
        };
        after = last.user_id;
        let mut db = app.db.acquire().await?;
        for row in rows {
            let sealed = Sealed {
                secret: row.totp_secret,
                salt: row.backup_salt,
                kept: row.backup_kept,
            };
            match seal_with_current(&mut db, keys, Id::from_db(row.user_id), &sealed).await? {
                true => done += 1,
                false => left += 1,
            }
        }
    }
    if done > 0 {
        tracing::info!(
            done,
            left,
            "second factors were looked at for the renewed CLUSTER_KEY"
        );
    }
    Ok(())
}

/// Switches it on; the code shows that the authenticator has the secret, and is used up.
///
/// Errors: 60001, 60008.
pub(crate) async fn switch_on(
    db: &mut PgConnection,
    keys: &Keys,
    user: Id<marker::User>,
    totp: &Totp,
    code: &str,
) -> Result<()> {
    let step = step_of(totp, code).ok_or(ErrorCode::InvalidTotpCode)?;
    let salt: [u8; 16] = rand::random();
    let key = &keys.current;
    let secret = sealed::seal(key, SEALED_FOR, user.get(), totp.secret().as_ref());
    let stored = sqlx::query!(
        "insert into account_mfa (user_id, totp_secret, totp_step, backup_salt, sealed_with)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
        user.to_db(),
        secret,
        step,
        salt.as_slice(),
        sealed::name(key),
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
/// secret was sealed with a key that is not ours any more.
pub(crate) async fn take_totp(
    db: &mut PgConnection,
    keys: &Keys,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    let sealed = stored(&mut *db, user).await?.sealed;
    let Some((_, secret)) = sealed.open(keys, user) else {
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
    .execute(&mut *db)
    .await?;
    if taken.rows_affected() == 0 {
        return Err(ErrorCode::InvalidTotpCode.into());
    }
    note_use(db, keys, user, &sealed).await
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
    keys: &Keys,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    // Nobody else takes one meanwhile.
    sqlx::query!(
        "select from account_mfa where user_id = $1 for update",
        user.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let Stored { sealed, used } = stored(&mut *db, user).await?;
    let code: String = code
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .take(BACKUP_CODE_LENGTH + 1)
        .collect::<String>()
        .to_ascii_lowercase();
    let codes = codes(&sealed, keys, user);
    let number = (0..BACKUP_CODES)
        .zip(&codes)
        .filter(|(number, _)| used & (1 << number) == 0)
        .find(|(_, own)| {
            bool::from(subtle::ConstantTimeEq::ct_eq(
                own.as_bytes(),
                code.as_bytes(),
            ))
        })
        .map(|(number, _)| number)
        .ok_or(ErrorCode::InvalidTotpCode)?;
    sqlx::query!(
        "update account_mfa set backup_used = backup_used | $2 where user_id = $1",
        user.to_db(),
        1 << number,
    )
    .execute(&mut *db)
    .await?;
    note_use(db, keys, user, &sealed).await
}

/// The backup codes of a second factor, whichever of our keys has made them.
fn codes(sealed: &Sealed, keys: &Keys, user: Id<marker::User>) -> Vec<String> {
    let key = sealed
        .open(keys, user)
        .map_or(&keys.current, |(key, _)| key);
    sealed.codes(key, user)
}

/// Either kind of code. Errors: 60002, 60008.
pub(crate) async fn take_any(
    db: &mut PgConnection,
    keys: &Keys,
    user: Id<marker::User>,
    code: &str,
) -> Result<()> {
    match take_totp(&mut *db, keys, user, code).await {
        Err(Error::Code(ErrorCode::InvalidTotpCode)) => {
            take_backup_code(db, keys, user, code).await
        }
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
    keys: &Keys,
    user: Id<marker::User>,
    regenerate: bool,
) -> Result<Vec<BackupCode>> {
    if regenerate {
        // New codes shall not follow from the previous key.
        let sealed = stored(&mut *db, user).await?.sealed;
        note_use(&mut *db, keys, user, &sealed).await?;
        let salt: [u8; 16] = rand::random();
        sqlx::query!(
            "update account_mfa set backup_salt = $2, backup_used = 0, backup_kept = null
             where user_id = $1",
            user.to_db(),
            salt.as_slice(),
        )
        .execute(&mut *db)
        .await?;
    }
    let Stored { sealed, used } = stored(db, user).await?;
    let codes = codes(&sealed, keys, user);
    Ok((0..BACKUP_CODES)
        .zip(codes)
        .map(|(number, code)| BackupCode {
            code,
            consumed: used & (1 << number) != 0,
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
        .and_then(|proof| auth::token_subject(&app.keys, Audience::SecondFactor, proof))
        .is_some_and(|session| session == sessions::name(caller.token))
}

/// What [`SHOWN_HEADER`] shall hold for this session's next sensitive calls.
pub(crate) fn proof(app: &App, caller: &CurrentUser) -> Result<String> {
    auth::sign_token(
        &app.keys.current,
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
    take_any(&mut tx, &app.keys, caller.id, code).await?;
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

    const SECRET: [u8; 20] = [7; 20];

    fn sealed_by(key: &str) -> Sealed {
        let key = Secret::from(key.to_owned());
        Sealed {
            secret: sealed::seal(&key, SEALED_FOR, 1, &SECRET),
            salt: vec![5; 16],
            kept: None,
        }
    }

    #[test]
    fn sealed_anew_it_has_the_same_secret_and_codes_without_the_key_of_before() {
        let user: Id<marker::User> = Id::new(1).unwrap();
        let old = sealed_by("old");
        let of = |sealed: &Sealed, key: &str| {
            let keys = Keys::renewing(key, None, None);
            let (key, secret) = sealed.open(&keys, user)?;
            Some((secret, sealed.codes(key, user)))
        };
        let at_first = of(&old, "old").unwrap();
        assert_eq!(at_first.0, SECRET);
        let anew = |sealed: &Sealed, key: &str, previous: &str| {
            let keys = Keys::renewing(key, None, Some(previous));
            let (by, secret) = sealed.open(&keys, user).unwrap();
            assert!(keys.is_previous(by));
            sealed.anew(&keys, user, by, &secret)
        };
        let new = anew(&old, "new", "old");
        assert_eq!(of(&new, "new").unwrap(), at_first);
        assert_eq!(of(&new, "old"), None);
        // And again, with the next key.
        let newer = anew(&new, "newer", "new");
        assert_eq!(of(&newer, "newer").unwrap(), at_first);
        assert_eq!(of(&newer, "new"), None);
        // Older code has made new codes: the kept ones are over.
        let regenerated = Sealed {
            salt: vec![6; 16],
            ..newer
        };
        let (secret, codes) = of(&regenerated, "newer").unwrap();
        assert_eq!(secret, SECRET);
        let key = Secret::from("newer".to_owned());
        assert_eq!(codes[3], backup_code(&key, user, &[6; 16], 3));
        assert!(!at_first.1.contains(&codes[3]));
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
