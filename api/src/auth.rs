//! Who is calling: tokens, passwords, operator tokens. Spec: limits-and-errors › HTTP basics.
//!
//! Never decides what a caller may do (see `access`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker,
    model::User,
    token::{Token, TokenHash},
};
use guildhall_store::account::{self, Account};
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey, EncodingKey, Header, Validation};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::Semaphore;

use crate::{
    app::App,
    config::Secret,
    error::{Error, Result},
};

/// The account that makes the request. Errors: 401.
#[derive(Debug, Clone)]
pub(crate) struct CurrentUser {
    pub(crate) id: Id<marker::User>,
    pub(crate) bot: bool,
    /// At most [`TOKEN_CACHE_AGE_MAX`] old.
    pub(crate) account: Arc<Account>,
    /// The token it came with.
    pub(crate) token: TokenHash,
}

impl CurrentUser {
    /// As everyone sees it.
    pub(crate) fn user(&self) -> &User {
        &self.account.user.user
    }

    /// Errors: 20001 for bots.
    pub(crate) fn require_human(&self) -> Result<()> {
        if self.bot {
            return Err(ErrorCode::BotsCannotUse.into());
        }
        Ok(())
    }

    /// Errors: 20002 for humans.
    pub(crate) fn require_bot(&self) -> Result<()> {
        if self.bot {
            Ok(())
        } else {
            Err(ErrorCode::OnlyBotsCanUse.into())
        }
    }
}

impl FromRequestParts<App> for CurrentUser {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = match parts.extensions.get::<Authenticated>() {
            Some(Authenticated(caller)) => caller.clone(),
            None => authenticate(app, &parts.headers).await?,
        };
        caller.ok_or_else(|| ErrorCode::Unauthorized.into())
    }
}

/// What the rate-limit layer found out about the caller.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(pub(crate) Option<CurrentUser>);

/// The account behind `Authorization`; `None` without a valid token.
pub(crate) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Option<CurrentUser>> {
    let Some(token) = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(Token::parse)
    else {
        return Ok(None);
    };
    let token = token.hash();
    let account = match app.tokens.find(token) {
        Some(account) => account,
        None => match account::by_token(&app.db, token).await? {
            Some(account) => app.tokens.remember(token, account),
            None => return Ok(None),
        },
    };
    Ok(Some(CurrentUser {
        id: account.user.user.id,
        bot: account.user.user.bot,
        account,
        token,
    }))
}

/// Makes a token for `user` and stores its hash.
pub(crate) async fn issue_token(db: &mut PgConnection, user: Id<marker::User>) -> Result<Token> {
    let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
    let token = Token::mint(user, now_ms as u64, rand::random());
    let hash = token.hash();
    sqlx::query!(
        "insert into auth_token (token_hash, user_id) values ($1, $2)",
        hash.0.as_slice(),
        user.to_db(),
    )
    .execute(db)
    .await?;
    Ok(token)
}

/// A revoked token or an old name may still be served this long by another API process.
pub(crate) const TOKEN_CACHE_AGE_MAX: Duration = Duration::from_secs(1);
const TOKEN_CACHE_ENTRIES_MAX: usize = 16_384;

/// Accounts looked up in the last second, by token.
#[derive(Debug, Default)]
pub(crate) struct TokenCache(Mutex<FxHashMap<TokenHash, (Instant, Arc<Account>)>>);

impl TokenCache {
    fn find(&self, token: TokenHash) -> Option<Arc<Account>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, account) = entries.get(&token)?;
        (at.elapsed() < TOKEN_CACHE_AGE_MAX).then(|| Arc::clone(account))
    }

    fn remember(&self, token: TokenHash, account: Account) -> Arc<Account> {
        let account = Arc::new(account);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= TOKEN_CACHE_ENTRIES_MAX {
            entries.retain(|_, (at, _)| at.elapsed() < TOKEN_CACHE_AGE_MAX);
            if entries.len() >= TOKEN_CACHE_ENTRIES_MAX {
                entries.clear();
            }
        }
        entries.insert(token, (Instant::now(), Arc::clone(&account)));
        account
    }

    /// Call after the commit of whatever changed the account or its tokens.
    pub(crate) fn forget(&self, user: Id<marker::User>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (_, account)| account.user.user.id != user);
    }
}

/// Password hashes being computed at once; each takes [`PASSWORD_MEMORY_KIB`].
const PASSWORDS_AT_ONCE: usize = 4;
/// Requests waiting for their turn; more are answered 503.
const PASSWORDS_WAITING_MAX: usize = 64;
const PASSWORD_MEMORY_KIB: u32 = 19 * 1024;

/// Hashes and checks passwords with argon2id, off the async threads.
#[derive(Debug)]
pub(crate) struct Passwords {
    running: Semaphore,
    admitted: Semaphore,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            running: Semaphore::new(PASSWORDS_AT_ONCE),
            admitted: Semaphore::new(PASSWORDS_AT_ONCE + PASSWORDS_WAITING_MAX),
        }
    }

    /// The PHC string to store. Errors: 503 when too many wait.
    pub(crate) async fn hash(&self, password: String) -> Result<String> {
        self.run(move || {
            let hash = argon2().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string())
                .map_err(|error| Error::Internal(format!("argon2: {error}")))
        })
        .await?
    }

    /// Whether `password` has the stored hash. `None` (no such account) takes as long as
    /// a wrong password, so that timing names no accounts.
    pub(crate) async fn verify(&self, password: String, stored: Option<String>) -> Result<bool> {
        self.run(move || match stored {
            Some(stored) => PasswordHash::new(&stored)
                .is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok()),
            None => {
                let _ = argon2().hash_password(password.as_bytes());
                false
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _admitted = self
            .admitted
            .try_acquire()
            .map_err(|_| Error::Unavailable("too many passwords wait to be checked"))?;
        let _running =
            self.running.acquire().await.map_err(|_| {
                Error::Internal("the password semaphore is never closed".to_owned())
            })?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::Internal(format!("password task: {error}")))
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(PASSWORD_MEMORY_KIB, 2, 1, None)
        .expect("19 MiB, 2 passes and 1 lane are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// What an operator token is for; the `aud` of its JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The operator endpoints of the API.
    Operator,
}

impl Audience {
    const fn name(self) -> &'static str {
        match self {
            Self::Operator => "guildhall-operator",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    /// Unix seconds.
    exp: u64,
}

/// A short-lived token signed with the cluster's key (HS256).
///
/// Errors: only if the key cannot sign.
pub fn sign_token(
    key: &Secret,
    audience: Audience,
    subject: &str,
    lifetime: Duration,
) -> Result<String> {
    let expires = Timestamp::now().0 + lifetime;
    let claims = Claims {
        sub: subject.to_owned(),
        aud: audience.name().to_owned(),
        exp: expires.unix_timestamp() as u64,
    };
    jsonwebtoken::encode(
        &Header::new(JwtAlgorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key.reveal().as_bytes()),
    )
    .map_err(|error| Error::Internal(format!("JWT: {error}")))
}

/// Proof that the request carries an operator token (`Authorization: Bearer`). Errors: 401.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) name: String,
}

impl FromRequestParts<App> for Operator {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or(ErrorCode::Unauthorized)?;
        let mut rules = Validation::new(JwtAlgorithm::HS256);
        rules.set_audience(&[Audience::Operator.name()]);
        rules.leeway = 0;
        let key = DecodingKey::from_secret(app.config.cluster_key.reveal().as_bytes());
        let token = jsonwebtoken::decode::<Claims>(token, &key, &rules)
            .map_err(|_| ErrorCode::Unauthorized)?;
        Ok(Self {
            name: token.claims.sub,
        })
    }
}
