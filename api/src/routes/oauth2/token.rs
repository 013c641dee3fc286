//! Tokens for applications: codes, refresh tokens and client credentials exchanged, tokens revoked.
//!
//! Form-encoded, and with errors as RFC 6749 § 5.2 has them: OAuth2 libraries read those.

use axum::{
    extract::{FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use guildhall_shared::{
    Id,
    error_code::ErrorCode,
    id::marker::{Application, User},
};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::authorize;
use crate::{
    access, account,
    app::App,
    error::{Error, Result, json_response},
    extract::is_urlencoded,
    form::{Fault, FormErrors},
    oauth::{self, COMMANDS_UPDATE, USER_SCOPES},
};

const ACCESS_SECONDS: u32 = 7 * 24 * 3600;
/// A refresh token is good for this long after its access token was made.
const REFRESH_SECONDS: u32 = 90 * 24 * 3600;
/// Tokens of one user for one application; the oldest go.
const TOKENS_MAX: i64 = 25;
/// Rows that a round of the housekeeping forgets.
const FORGET_MAX: i64 = 5000;

/// A form-encoded body. Errors: 50035 for another content type.
pub(super) struct Fields(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if !is_urlencoded(request.headers()) {
            let message = "Expected \"Content-Type\" header to be one of \
                           {'application/x-www-form-urlencoded'}.";
            let fault = Fault::Other("CONTENT_TYPE_INVALID", message.into());
            return Err(FormErrors::one("", fault));
        }
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|_| ErrorCode::RequestEntityTooLarge)?;
        let fields = form_urlencoded::parse(&body).into_owned();
        Ok(Self(fields.collect()))
    }
}

impl Fields {
    fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Why no token is given.
enum Refusal {
    /// RFC 6749 § 5.2.
    OAuth(StatusCode, &'static str),
    Other(Error),
}

const INVALID_GRANT: Refusal = Refusal::OAuth(StatusCode::BAD_REQUEST, "invalid_grant");
const INVALID_REQUEST: Refusal = Refusal::OAuth(StatusCode::BAD_REQUEST, "invalid_request");
const INVALID_SCOPE: Refusal = Refusal::OAuth(StatusCode::BAD_REQUEST, "invalid_scope");
const INVALID_CLIENT: Refusal = Refusal::OAuth(StatusCode::UNAUTHORIZED, "invalid_client");

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::OAuth(status, error) => json_response(status, &json!({ "error": error })),
            Self::Other(error) => error.into_response(),
        }
    }
}

/// What an application gets.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u32,
    /// Absent for client credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// Separated by spaces.
    scope: String,
}

/// Tokens for a code, a refresh token or the client's own credentials. Errors: RFC 6749 § 5.2.
#[utoipa::path(
    post,
    path = "/oauth2/token",
    tag = "OAuth2",
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 200, body = Tokens), (status = 400), (status = 401))
)]
pub(super) async fn oauth_token(
    State(app): State<App>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    match exchange(&app, &headers, &fields).await {
        Ok(tokens) => json_response(StatusCode::OK, &tokens),
        Err(refusal) => refusal.into_response(),
    }
}

async fn exchange(app: &App, headers: &HeaderMap, fields: &Fields) -> Result<Tokens, Refusal> {
    let mut tx = app.db.begin().await?;
    let client = authenticate(&mut tx, headers, fields).await?;
    let tokens = match fields.find("grant_type") {
        Some("authorization_code") => by_code(app, &mut tx, client.id, fields).await,
        Some("refresh_token") => by_refresh_token(&mut tx, client.id, fields).await,
        Some("client_credentials") => by_credentials(&mut tx, &client, fields).await,
        _ => {
            let error = "unsupported_grant_type";
            return Err(Refusal::OAuth(StatusCode::BAD_REQUEST, error));
        }
    };
    // A refusal too: a code that was shown is used up.
    if !matches!(tokens, Err(Refusal::Other(_))) {
        tx.commit().await?;
    }
    tokens
}

struct Client {
    id: Id<Application>,
    owner: Id<User>,
}

/// The application whose secret the request carries, in `Authorization: Basic` or in its fields.
async fn authenticate(
    db: &mut PgConnection,
    headers: &HeaderMap,
    fields: &Fields,
) -> Result<Client, Refusal> {
    let basic = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|value| String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok());
    let (id, secret) = match basic.as_deref().and_then(|basic| basic.split_once(':')) {
        Some(pair) => pair,
        None => {
            let id = fields.find("client_id").ok_or(INVALID_CLIENT)?;
            (id, fields.find("client_secret").ok_or(INVALID_CLIENT)?)
        }
    };
    let id: Id<Application> = id.parse().map_err(|_| INVALID_CLIENT)?;
    let row = sqlx::query!(
        "select owner_id, secret_hash from application
         where application_id = $1 and deleted_at is null",
        id.to_db(),
    )
    .fetch_optional(db)
    .await?
    .ok_or(INVALID_CLIENT)?;
    let stored = row.secret_hash.ok_or(INVALID_CLIENT)?;
    if !bool::from(stored.as_slice().ct_eq(&oauth::hash(secret))) {
        return Err(INVALID_CLIENT);
    }
    let owner = Id::from_db(row.owner_id);
    Ok(Client { id, owner })
}

/// A code works once, even where the rest of the request is wrong.
async fn by_code(
    app: &App,
    db: &mut PgConnection,
    client: Id<Application>,
    fields: &Fields,
) -> Result<Tokens, Refusal> {
    let hash = oauth::hash(fields.find("code").ok_or(INVALID_REQUEST)?);
    let user = sqlx::query_scalar!(
        "select user_id from oauth2_code where code_hash = $1",
        &hash,
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(INVALID_GRANT)?;
    // Before the code's row, as whoever withdraws a user's codes does.
    access::lock_realms(&mut *db, [Id::<User>::from_db(user).cast()]).await?;
    let code = sqlx::query!(
        r#"delete from oauth2_code where code_hash = $1
           returning application_id, user_id, scopes, redirect_uri, code_challenge,
                     expires_at > now() as "is_valid!""#,
        &hash,
    )
    .fetch_optional(&mut *db)
    .await?
    .filter(|code| code.is_valid && code.application_id == client.to_db())
    .ok_or(INVALID_GRANT)?;
    if fields.find("redirect_uri").unwrap_or_default() != code.redirect_uri {
        return Err(INVALID_GRANT);
    }
    let verified = fields
        .find("code_verifier")
        .filter(|verifier| !verifier.is_empty())
        .map(|verifier| URL_SAFE_NO_PAD.encode(oauth::hash(verifier)));
    // A verifier without a challenge too: somebody has taken the challenge out (RFC 9700 § 2.1.1).
    if code.code_challenge != verified {
        return Err(INVALID_GRANT);
    }
    let user = Id::from_db(code.user_id);
    require_active(&mut *db, user).await?;
    let id: Id<guildhall_shared::id::marker::Any> = app.snowflakes.next()?;
    sqlx::query!(
        "insert into oauth2_grant (grant_id, user_id, application_id, scopes)
         values ($1, $2, $3, $4)
         on conflict (user_id, application_id) do update set scopes = array(
           select distinct unnest(oauth2_grant.scopes || excluded.scopes))",
        id.to_db(),
        code.user_id,
        client.to_db(),
        &code.scopes,
    )
    .execute(&mut *db)
    .await?;
    Ok(issue(db, client, user, code.scopes, true).await?)
}

async fn by_refresh_token(
    db: &mut PgConnection,
    client: Id<Application>,
    fields: &Fields,
) -> Result<Tokens, Refusal> {
    let token = fields.find("refresh_token").ok_or(INVALID_REQUEST)?;
    let hash = oauth::hash(token);
    let user = sqlx::query_scalar!(
        "select user_id from oauth2_token where refresh_hash = $1 and application_id = $2",
        hash.as_slice(),
        client.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(INVALID_GRANT)?;
    let user = Id::from_db(user);
    require_active(&mut *db, user).await?;
    let scopes = sqlx::query_scalar!(
        "delete from oauth2_token
         where refresh_hash = $1 and application_id = $2 and forget_at > now()
         returning scopes",
        hash.as_slice(),
        client.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(INVALID_GRANT)?;
    Ok(issue(db, client, user, scopes, true).await?)
}

/// A token of the application's owner, with no refresh token.
async fn by_credentials(
    db: &mut PgConnection,
    client: &Client,
    fields: &Fields,
) -> Result<Tokens, Refusal> {
    let scopes = authorize::scopes(fields.find("scope").unwrap_or("identify"));
    let is_known =
        |scope: &String| scope == COMMANDS_UPDATE || USER_SCOPES.contains(&scope.as_str());
    if scopes.is_empty() || !scopes.iter().all(is_known) {
        return Err(INVALID_SCOPE);
    }
    require_active(&mut *db, client.owner).await?;
    Ok(issue(db, client.id, client.owner, scopes, false).await?)
}

/// Locks the user's realm, as whoever locks or deletes the account does: tokens are given before,
/// and go with the others, or not at all.
async fn require_active(db: &mut PgConnection, user: Id<User>) -> Result<(), Refusal> {
    access::lock_realms(&mut *db, [user.cast()]).await?;
    match account::state(db, user).await? {
        Some(account::State::Active) => Ok(()),
        Some(_) | None => Err(INVALID_GRANT),
    }
}

async fn issue(
    db: &mut PgConnection,
    client: Id<Application>,
    user: Id<User>,
    scopes: Vec<String>,
    is_refreshed: bool,
) -> Result<Tokens> {
    let secret = || URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
    let access_token = secret();
    let refresh_token = is_refreshed.then(secret);
    let forget = match is_refreshed {
        true => REFRESH_SECONDS,
        false => ACCESS_SECONDS,
    };
    sqlx::query!(
        "insert into oauth2_token (token_hash, refresh_hash, application_id, user_id, scopes,
                                   expires_at, forget_at)
         values ($1, $2, $3, $4, $5, now() + $6::float8 * interval '1 second',
                 now() + $7::float8 * interval '1 second')",
        oauth::hash(&access_token),
        refresh_token.as_deref().map(oauth::hash),
        client.to_db(),
        user.to_db(),
        &scopes,
        f64::from(ACCESS_SECONDS),
        f64::from(forget),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "delete from oauth2_token where token_hash in (
           select token_hash from oauth2_token where application_id = $1 and user_id = $2
           order by expires_at desc offset $3)",
        client.to_db(),
        user.to_db(),
        TOKENS_MAX,
    )
    .execute(db)
    .await?;
    Ok(Tokens {
        access_token,
        token_type: "Bearer",
        expires_in: ACCESS_SECONDS,
        refresh_token,
        scope: scopes.join(" "),
    })
}

/// Takes back all that the user of a token (of either kind) allowed the application. A token
/// that is not known is no error. Errors: RFC 7009.
#[utoipa::path(
    post,
    path = "/oauth2/token/revoke",
    tag = "OAuth2",
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 200, description = "The token works no more"), (status = 401))
)]
pub(super) async fn oauth_token_revoke(
    State(app): State<App>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    match revoke(&app, &headers, &fields).await {
        Ok(()) => json_response(StatusCode::OK, &json!({})),
        Err(refusal) => refusal.into_response(),
    }
}

async fn revoke(app: &App, headers: &HeaderMap, fields: &Fields) -> Result<(), Refusal> {
    let mut tx = app.db.begin().await?;
    let client = authenticate(&mut tx, headers, fields).await?;
    let token = oauth::hash(fields.find("token").ok_or(INVALID_REQUEST)?);
    let user = sqlx::query_scalar!(
        "select user_id from oauth2_token
         where (token_hash = $1 or refresh_hash = $1) and application_id = $2",
        token,
        client.id.to_db(),
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(user) = user {
        withdraw(&mut tx, Id::from_db(user), client.id).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// An application may no longer act for a user.
pub(super) async fn withdraw(
    db: &mut PgConnection,
    user: Id<User>,
    application: Id<Application>,
) -> Result<()> {
    // Whoever gives tokens holds it, too: theirs are among those that go, or come after.
    access::lock_realms(&mut *db, [user.cast()]).await?;
    for statement in [
        "delete from oauth2_token where user_id = $1 and application_id = $2",
        "delete from oauth2_code where user_id = $1 and application_id = $2",
        "delete from oauth2_grant where user_id = $1 and application_id = $2",
    ] {
        sqlx::query(statement)
            .bind(user.to_db())
            .bind(application.to_db())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Forgets codes and tokens that nobody can use any more.
pub(crate) async fn forget_expired(db: &PgPool) -> Result<()> {
    sqlx::query!(
        "delete from oauth2_code where code_hash in (
           select code_hash from oauth2_code where expires_at < now() limit $1)",
        FORGET_MAX,
    )
    .execute(db)
    .await?;
    sqlx::query!(
        "delete from oauth2_token where token_hash in (
           select token_hash from oauth2_token where forget_at < now() limit $1)",
        FORGET_MAX,
    )
    .execute(db)
    .await?;
    Ok(())
}
