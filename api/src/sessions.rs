//! Tokens of accounts: made, listed, revoked. A revocation is an event of the account's
//! realm, by which every gateway closes the sockets that came with the token.
//!
//! Never checks a token: that is `auth`.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
    token::{Token, TokenHash},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::convert::Infallible;

use crate::{error::Result, events};

/// Tokens of one person; the least recently used ones beyond are revoked.
const SESSIONS_MAX: i64 = 50;
/// Characters kept of what a client says about itself.
const CLIENT_TEXT_MAX: usize = 32;

/// What a client says about itself, for the list of sessions. Nothing depends on it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) os: Option<String>,
    /// Browser or application.
    pub(crate) platform: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

impl Client {
    /// From `X-Super-Properties` (base64 of JSON), else from `User-Agent`.
    fn of(headers: &HeaderMap) -> Self {
        #[derive(Deserialize)]
        struct Properties {
            os: Option<String>,
            browser: Option<String>,
        }
        let properties = headers
            .get("x-super-properties")
            .and_then(|value| STANDARD.decode(value.as_bytes()).ok())
            .and_then(|json| serde_json::from_slice::<Properties>(&json).ok());
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let (os, platform) = properties.map_or((None, None), |it| (it.os, it.browser));
        Self {
            os: shortened(os).or_else(|| first_in(agent, &OPERATING_SYSTEMS)),
            platform: shortened(platform)
                .or_else(|| first_in(agent, &BROWSERS))
                .or_else(|| shortened(agent.split('/').next().map(str::to_owned))),
        }
    }
}

/// What to look for in `User-Agent` and what to call it; the first that is there counts.
const OPERATING_SYSTEMS: [(&str, &str); 6] = [
    ("Android", "Android"),
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac OS X"),
    ("Linux", "Linux"),
];
const BROWSERS: [(&str, &str); 5] = [
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

fn first_in(agent: &str, known: &[(&str, &str)]) -> Option<String> {
    let found = known.iter().find(|(mark, _)| agent.contains(mark))?;
    Some(found.1.to_owned())
}

fn shortened(text: Option<String>) -> Option<String> {
    let text: String = text?
        .chars()
        .filter(|c| !c.is_control())
        .take(CLIENT_TEXT_MAX)
        .collect();
    Some(text).filter(|text| !text.is_empty())
}

/// Logs somebody in: a new token, and the event that ends sessions beyond the maximum.
pub(crate) async fn open(
    db: &mut PgConnection,
    user: Id<marker::User>,
    client: &Client,
) -> Result<(Token, Option<Envelope>)> {
    let surplus = sqlx::query_scalar!(
        "delete from auth_token where token_hash in (
           select token_hash from auth_token where user_id = $1
           order by last_used_at desc, created_at desc offset $2)
         returning token_hash",
        user.to_db(),
        SESSIONS_MAX - 1,
    )
    .fetch_all(&mut *db)
    .await?;
    let event = match surplus.as_slice() {
        [] => None,
        hashes => Some(append_revocation(db, user, hashes).await?),
    };
    let token = mint(user);
    store(db, user, token.hash(), client).await?;
    Ok((token, event))
}

/// Logs somebody out everywhere and in once; the events tell their sessions the name of the new
/// one (AUTH_SESSION_CHANGE), then end them.
pub(crate) async fn renew(
    db: &mut PgConnection,
    user: Id<marker::User>,
    client: &Client,
) -> Result<(Token, Vec<Envelope>)> {
    let token = mint(user);
    let vis = Visibility::realm(Intents::empty());
    let body = json!({ "auth_session_id_hash": name(token.hash()) });
    let kind = EventKind::AuthSessionChange;
    let mut events = vec![events::append(&mut *db, user, kind, vis, &body, None).await?];
    events.extend(revoke(&mut *db, user, Which::All).await?);
    store(db, user, token.hash(), client).await?;
    Ok((token, events))
}

async fn store(
    db: &mut PgConnection,
    user: Id<marker::User>,
    hash: TokenHash,
    client: &Client,
) -> Result<()> {
    sqlx::query!(
        "insert into auth_token (token_hash, user_id, os, platform) values ($1, $2, $3, $4)",
        hash.0.as_slice(),
        user.to_db(),
        client.os,
        client.platform,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A token that is not stored yet.
pub(crate) fn mint(user: Id<marker::User>) -> Token {
    let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
    Token::mint(user, now_ms as u64, rand::random())
}

/// Which tokens of an account are revoked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    All,
    One(TokenHash),
    /// By what the list of sessions calls them.
    Named(&'a [String]),
}

/// Deletes tokens and numbers the event that closes their sockets; `None` if there were
/// none. After the commit: publish it, and [`crate::token_cache::TokenCache::forget`] the account.
pub(crate) async fn revoke(
    db: &mut PgConnection,
    user: Id<marker::User>,
    which: Which<'_>,
) -> Result<Option<Envelope>> {
    let (one, named) = match which {
        Which::All => (None, None),
        Which::One(hash) => (Some(hash.0.to_vec()), None),
        Which::Named(names) => (None, Some(names)),
    };
    let hashes = sqlx::query_scalar!(
        "delete from auth_token
         where user_id = $1
           and ($2::bytea is null or token_hash = $2)
           and ($3::text[] is null or encode(sha256(token_hash), 'hex') = any ($3))
         returning token_hash",
        user.to_db(),
        one,
        named,
    )
    .fetch_all(&mut *db)
    .await?;
    if hashes.is_empty() {
        return Ok(None);
    }
    append_revocation(db, user, &hashes).await.map(Some)
}

/// Numbers the event that closes the gateway sessions of these tokens (by SHA-256).
pub(crate) async fn append_revocation(
    db: &mut PgConnection,
    user: Id<marker::User>,
    hashes: &[Vec<u8>],
) -> Result<Envelope> {
    let hashes: Vec<String> = hashes.iter().map(hex::encode).collect();
    let vis = Visibility::realm(Intents::empty());
    let body = json!({ "tokens": hashes });
    events::append(db, user, EventKind::TokensRevoked, vis, &body, None).await
}

/// What the list of sessions calls a token: the hash of its hash, so that neither the token
/// nor what is stored of it can be found from the name.
pub(crate) fn name(token: TokenHash) -> String {
    hex::encode(Sha256::digest(token.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &'static str, value: &str) -> Client {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Client::of(&headers)
    }

    #[test]
    fn a_client_is_told_by_its_properties_or_its_agent() {
        let properties = STANDARD.encode(r#"{"os":"Linux","browser":"Firefox"}"#);
        let named = client("x-super-properties", &properties);
        assert_eq!(named.os.as_deref(), Some("Linux"));
        assert_eq!(named.platform.as_deref(), Some("Firefox"));
        let agent = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36";
        let seen = client("user-agent", agent);
        assert_eq!(seen.os.as_deref(), Some("Windows"));
        assert_eq!(seen.platform.as_deref(), Some("Chrome"));
        assert_eq!(
            client("user-agent", "curl/8").platform.as_deref(),
            Some("curl")
        );
        assert_eq!(client("x-super-properties", "%%%"), Client::default());
    }
}
