//! Who is calling: tokens, passwords, operator tokens. Spec: limits-and-errors › HTTP basics.
//!
//! Never decides what a caller may do (see `access`).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, header, request::Parts},
};
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker,
    token::{Token, TokenHash},
};
use guildhall_store::account;
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

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
    token_cache::USE_NOTED_EVERY,
};

pub(crate) use crate::caller::CurrentUser;

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
        let found = Box::pin(oauth::authenticate(&app.db, token.trim())).await?;
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
            let generation = app.tokens.generation();
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
        Self::of(app, &parts.headers)
    }
}

impl Operator {
    /// Errors: 401.
    pub(crate) fn of(app: &App, headers: &HeaderMap) -> Result<Self> {
        let token = headers
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
