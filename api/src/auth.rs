//! Who is calling: tokens, passwords, operator tokens. Spec: limits-and-errors › HTTP basics.
//!
//! Never decides what a caller may do (see `access`).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, header, request::Parts},
};
use futures_util::StreamExt;
use guildhall_redis::{Client, Connection};
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker,
    keys,
    model::User,
    token::{Token, TokenHash},
};
use guildhall_store::account::{self, Account};
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey, EncodingKey, Header, Validation};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    config::Secret,
    error::{Error, Result},
    form::{Fault, FormErrors},
    keys::{Keys, Use},
    oauth,
    rate_limit::Limit,
    request::without_version,
    sessions,
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
    /// What an OAuth2 access token allows; `None` with a token of the account itself.
    pub(crate) access: Option<Arc<oauth::Access>>,
}

impl CurrentUser {
    /// As everyone sees it.
    pub(crate) fn user(&self) -> &User {
        &self.account.user.user
    }

    /// For changes that waited for a password to be checked: by now the token they came with may
    /// be void. The account's realm is locked.
    ///
    /// Errors: 401.
    pub(crate) async fn require_session(&self, db: &mut PgConnection) -> Result<()> {
        let is_open = sqlx::query_scalar!(
            r#"select exists (select from auth_token where token_hash = $1) as "open!""#,
            self.token.0.as_slice(),
        )
        .fetch_one(db)
        .await?;
        if is_open {
            Ok(())
        } else {
            Err(ErrorCode::Unauthorized.into())
        }
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
        let caller = caller.ok_or(ErrorCode::Unauthorized)?;
        if let Some(access) = &caller.access {
            let route = parts.extensions.get::<MatchedPath>();
            let route = route.map(|route| without_version(route.as_str()));
            access.check_route(&parts.method, route)?;
        }
        Ok(caller)
    }
}

/// What the rate-limit layer found out about the caller.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(pub(crate) Option<CurrentUser>);

/// The account behind `Authorization`; `None` without a valid token.
pub(crate) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Option<CurrentUser>> {
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if let Some(token) = authorization.and_then(|value| value.strip_prefix("Bearer ")) {
        let found = Box::pin(oauth::authenticate(app, token.trim())).await?;
        return Ok(found.map(|(account, access)| CurrentUser {
            id: account.user.user.id,
            bot: account.user.user.bot,
            account: Arc::new(account),
            token: TokenHash(Sha256::digest(token.trim().as_bytes()).into()),
            access: Some(Arc::new(access)),
        }));
    }
    let Some(token) = authorization.and_then(Token::parse) else {
        return Ok(None);
    };
    let token = token.hash();
    let account = match app.tokens.find(token) {
        Some(account) => account,
        None => {
            let generation = app.tokens.generation.load(Ordering::Acquire);
            let Some(account) = Box::pin(account::by_token(&app.db, token)).await? else {
                return Ok(None);
            };
            note_use(app, token);
            app.seen.note(account.user.user.id);
            app.tokens.remember(token, account, generation)
        }
    };
    Ok(Some(CurrentUser {
        id: account.user.user.id,
        bot: account.user.user.bot,
        account,
        token,
        access: None,
    }))
}

/// Writes down, in the background and not too often, that a token is in use.
fn note_use(app: &App, token: TokenHash) {
    if !app.tokens.is_use_to_be_noted(token) {
        return;
    }
    let db = app.db.clone();
    app.work.spawn(async move {
        let noted = sqlx::query!(
            "update auth_token set last_used_at = now()
             where token_hash = $1 and last_used_at < now() - $2::float8 * interval '1 second'",
            token.0.as_slice(),
            USE_NOTED_EVERY.as_secs_f64(),
        )
        .execute(&db)
        .await;
        if let Err(error) = noted {
            tracing::debug!(%error, "the use of a token was not noted");
        }
    });
}

/// Makes a token for a bot and stores its hash. People's are made by `sessions::open`.
pub(crate) async fn issue_token(db: &mut PgConnection, user: Id<marker::User>) -> Result<Token> {
    let token = sessions::mint(user);
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

/// How long an account may be remembered, however healthy the news of changes looks.
pub(crate) const TOKEN_CACHE_AGE_MAX: Duration = Duration::from_secs(1);
const TOKEN_CACHE_ENTRIES_MAX: usize = 16_384;
/// Changes waiting to be told to the other processes; more are dropped, and those
/// processes then find out within [`TOKEN_CACHE_AGE_MAX`].
const CHANGES_MAX: usize = 4096;
/// Pause before Redis is asked again for the news.
const NEWS_PAUSE: Duration = Duration::from_millis(500);
/// Time between two writes of when a token was last used.
const USE_NOTED_EVERY: Duration = Duration::from_secs(5 * 60);

/// Accounts looked up in the last second, by token.
///
/// Whoever changes an account says so over Redis, and all processes forget it at once. A
/// process that does not hear the news (Redis is away) remembers nothing.
#[derive(Debug)]
pub(crate) struct TokenCache {
    entries: Mutex<FxHashMap<TokenHash, (Instant, Arc<Account>)>>,
    /// Rises with everything that is forgotten: what was read before is not kept after.
    generation: AtomicU64,
    hears_news: AtomicBool,
    changes: mpsc::Sender<Id<marker::User>>,
    /// Tokens whose use was noted, and when.
    noted: Mutex<FxHashMap<TokenHash, Instant>>,
}

impl TokenCache {
    /// Starts telling and hearing of changes, until `stop`.
    pub(crate) fn start(
        client: Client,
        redis: Connection,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (changes, told) = mpsc::channel(CHANGES_MAX);
        let cache = Arc::new(Self {
            entries: Mutex::default(),
            generation: AtomicU64::new(0),
            hears_news: AtomicBool::new(false),
            changes,
            noted: Mutex::default(),
        });
        let stopped = stop.clone();
        tasks.spawn(async move { stopped.run_until_cancelled(tell(told, redis)).await });
        let (hearing, stopped) = (Arc::clone(&cache), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(hearing.hear(client)).await });
        cache
    }

    fn find(&self, token: TokenHash) -> Option<Arc<Account>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, account) = entries.get(&token)?;
        (at.elapsed() < TOKEN_CACHE_AGE_MAX).then(|| Arc::clone(account))
    }

    /// Keeps what was read at `generation`, unless something was forgotten since.
    fn remember(&self, token: TokenHash, account: Account, generation: u64) -> Arc<Account> {
        let account = Arc::new(account);
        if !self.hears_news.load(Ordering::Acquire) {
            return account;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::Acquire) != generation {
            return account;
        }
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
        self.forget_here(Some(user));
        let _ = self.changes.try_send(user);
    }

    /// `None`: everything.
    fn forget_here(&self, user: Option<Id<marker::User>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        match user {
            Some(user) => entries.retain(|_, (_, account)| account.user.user.id != user),
            None => entries.clear(),
        }
    }

    async fn hear(&self, client: Client) {
        loop {
            // Ends when the connection does.
            let heard = self.hear_once(&client).await;
            self.hears_news.store(false, Ordering::Release);
            self.forget_here(None);
            if let Err(error) = heard {
                tracing::debug!(%error, "no news of changed accounts");
            }
            tokio::time::sleep(NEWS_PAUSE).await;
        }
    }

    async fn hear_once(&self, client: &Client) -> redis::RedisResult<()> {
        let server = client.home(keys::ACCOUNTS_CHANGED).await?;
        let mut connection = server.get_async_pubsub().await?;
        connection.subscribe(keys::ACCOUNTS_CHANGED).await?;
        self.hears_news.store(true, Ordering::Release);
        let mut messages = connection.on_message();
        while let Some(message) = messages.next().await {
            let user = message.get_payload::<String>()?;
            if let Ok(user) = user.parse() {
                self.forget_here(Some(user));
            }
        }
        Ok(())
    }

    /// Whether the use of a token is to be written down now.
    fn is_use_to_be_noted(&self, token: TokenHash) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted
            .get(&token)
            .is_some_and(|at| at.elapsed() < USE_NOTED_EVERY)
        {
            return false;
        }
        if noted.len() >= TOKEN_CACHE_ENTRIES_MAX {
            noted.clear();
        }
        noted.insert(token, Instant::now());
        true
    }
}

/// Tells the other processes which accounts changed.
async fn tell(mut changes: mpsc::Receiver<Id<marker::User>>, mut redis: Connection) {
    while let Some(user) = changes.recv().await {
        let told: redis::RedisResult<()> = redis::cmd("PUBLISH")
            .arg(keys::ACCOUNTS_CHANGED)
            .arg(user.to_string())
            .query_async(&mut redis)
            .await;
        if let Err(error) = told {
            tracing::debug!(%error, "a changed account was not told to the other processes");
        }
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
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE)),
            admitted: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE + PASSWORDS_WAITING_MAX)),
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

    /// The places are the work's own: it goes on when whoever asked for it has gone.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Error::Unavailable("too many passwords wait to be checked"))?;
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Internal("the password semaphore is never closed".to_owned()))?;
        let placed = move || {
            let _places = (admitted, running);
            work()
        };
        tokio::task::spawn_blocking(placed)
            .await
            .map_err(|error| Error::Internal(format!("password task: {error}")))
    }
}

/// Wrong passwords of somebody who is logged in.
const PASSWORD_TRIES: Limit = Limit::per_seconds(10, 600);

/// Checks the password that goes with a change of an account.
///
/// Errors: 50035 on `password`, 429.
pub(crate) async fn check_password_of(
    app: &App,
    user: Id<marker::User>,
    password: Option<&str>,
) -> Result<()> {
    let password = password.ok_or_else(|| FormErrors::one("password", Fault::Required))?;
    app.limiter
        .attempt(&format!("password:{user}"), PASSWORD_TRIES)
        .await?;
    let stored = sqlx::query_scalar!(
        "select password_hash from account where user_id = $1",
        user.to_db(),
    )
    .fetch_optional(&app.db)
    .await?;
    if app
        .passwords
        .verify(password.to_owned(), stored.flatten())
        .await?
    {
        return Ok(());
    }
    let fault = Fault::Other("PASSWORD_DOES_NOT_MATCH", "Password does not match.".into());
    Err(FormErrors::one("password", fault))
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
    /// Sensitive calls of somebody who has just shown their second factor.
    SecondFactor,
}

impl Audience {
    const fn name(self) -> &'static str {
        match self {
            Self::Operator => "guildhall-operator",
            Self::SecondFactor => "guildhall-second-factor",
        }
    }

    const fn key_use(self) -> Use {
        match self {
            Self::Operator => Use::OperatorToken,
            Self::SecondFactor => Use::Proof,
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
        let name =
            token_subject(&app.keys, Audience::Operator, token).ok_or(ErrorCode::Unauthorized)?;
        Ok(Self { name })
    }
}

/// Whose token this is, if it is one of ours for `audience` and still valid.
pub(crate) fn token_subject(keys: &Keys, audience: Audience, token: &str) -> Option<String> {
    let mut rules = Validation::new(JwtAlgorithm::HS256);
    rules.set_audience(&[audience.name()]);
    rules.leeway = 0;
    let decoded = keys.first(audience.key_use(), |key| {
        let key = DecodingKey::from_secret(key.reveal().as_bytes());
        jsonwebtoken::decode::<Claims>(token, &key, &rules).ok()
    });
    decoded.map(|(_, token)| token.claims.sub)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_password_has_its_place_until_it_is_hashed_even_if_nobody_waits() {
        let passwords = Passwords::new();
        let (end, until) = std::sync::mpsc::channel::<()>();
        let asked = passwords.run(move || until.recv().is_ok());
        assert!(asked.now_or_never().is_none());
        assert_eq!(passwords.running.available_permits(), PASSWORDS_AT_ONCE - 1);
        end.send(()).unwrap();
        let all = passwords.running.acquire_many(PASSWORDS_AT_ONCE as u32);
        assert!(all.await.is_ok());
    }
}
