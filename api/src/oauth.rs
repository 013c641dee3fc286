//! OAuth2 access tokens: whom they speak for, and which calls they may make.
//! Spec: Topics › OAuth2; endpoints.tsv › auth.
//!
//! A call that is not in [`ROUTES`] takes no access token: a new route is closed to them
//! until it is named here.

use axum::http::Method;
use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker::{Application, User},
};
use guildhall_store::account::{self, Account};
use sha2::{Digest, Sha256};
use sqlx::{PgExecutor, PgPool};

use crate::error::Result;

/// What a user may allow an application.
pub(crate) const USER_SCOPES: [&str; 7] = [
    "identify",
    "email",
    "connections",
    "guilds",
    "guilds.join",
    "guilds.members.read",
    COMMANDS_PERMISSIONS,
];
/// What adds an application to a guild.
pub(crate) const GUILD_SCOPES: [&str; 2] = ["bot", "applications.commands"];
/// Changes commands; only an application's owner has tokens for it (client credentials).
pub(crate) const COMMANDS_UPDATE: &str = "applications.commands.update";
const COMMANDS_PERMISSIONS: &str = "applications.commands.permissions.update";

/// Calls that access tokens may make, and the scope each needs; `None`: any.
const ROUTES: &[(Method, &str, Option<&str>)] = &[
    (Method::GET, "/oauth2/@me", None),
    (Method::GET, "/users/@me", Some("identify")),
    (Method::GET, "/users/@me/connections", Some("connections")),
    (Method::GET, "/users/@me/guilds", Some("guilds")),
    (
        Method::GET,
        "/users/@me/guilds/{guild_id}/member",
        Some("guilds.members.read"),
    ),
];
/// Below this, every call is about commands.
const COMMANDS: [&str; 2] = [
    "/applications/{application_id}/commands",
    "/applications/{application_id}/guilds/{guild_id}/commands",
];

/// What an access token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) application: Id<Application>,
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_at: Timestamp,
}

impl Access {
    pub(crate) fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope)
    }

    /// Errors: 401 for a call that takes no access tokens, 50026.
    pub(crate) fn check_route(&self, method: &Method, route: Option<&str>) -> Result<()> {
        let route = route.ok_or(ErrorCode::Unauthorized)?;
        let needed = needed_scope(method, route).ok_or(ErrorCode::Unauthorized)?;
        match needed {
            Some(scope) if !self.has(scope) => Err(ErrorCode::MissingScope.into()),
            Some(_) | None => Ok(()),
        }
    }
}

/// The scope a call needs; `None` if it takes no access tokens.
fn needed_scope(method: &Method, route: &str) -> Option<Option<&'static str>> {
    let listed = ROUTES
        .iter()
        .find(|(known, path, _)| known == method && *path == route);
    if let Some((_, _, scope)) = listed {
        return Some(*scope);
    }
    if !COMMANDS.iter().any(|path| route.starts_with(path)) {
        return None;
    }
    let scope = match route.ends_with("/permissions") {
        true => COMMANDS_PERMISSIONS,
        false => COMMANDS_UPDATE,
    };
    Some(Some(scope))
}

/// What is stored instead of a code, a token or a secret.
pub(crate) fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Whose access token this is; `None` if it is unknown or has expired. Without the scope
/// `email` the account has no address.
pub(crate) async fn authenticate(db: &PgPool, token: &str) -> Result<Option<(Account, Access)>> {
    // Operator tokens look the same from outside; ours are short.
    if token.len() > 128 {
        return Ok(None);
    }
    let Some((user, access)) = find(db, token).await? else {
        return Ok(None);
    };
    let Some(mut account) = account::by_id(db, user).await? else {
        return Ok(None);
    };
    if !access.has("email") {
        account.user.email = None;
    }
    Ok(Some((account, access)))
}

/// The user and the extent of an access token that is valid; nobody's while the account is not
/// active.
pub(crate) async fn find(
    db: impl PgExecutor<'_>,
    token: &str,
) -> Result<Option<(Id<User>, Access)>> {
    let row = sqlx::query!(
        "select t.user_id, t.application_id, t.scopes, t.expires_at
         from oauth2_token t join application p using (application_id)
           join account a on a.user_id = t.user_id
         where t.token_hash = $1 and t.expires_at > now() and p.deleted_at is null
           and a.state = 0",
        hash(token),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let access = Access {
            application: Id::from_db(row.application_id),
            scopes: row.scopes,
            expires_at: Timestamp(row.expires_at),
        };
        (Id::from_db(row.user_id), access)
    }))
}

/// No application may act for a user any more. The account's realm is locked.
pub(crate) async fn withdraw_all(db: impl PgExecutor<'_>, user: Id<User>) -> Result<()> {
    sqlx::query!(
        "with token as (delete from oauth2_token where user_id = $1),
              code as (delete from oauth2_code where user_id = $1)
         delete from oauth2_grant where user_id = $1",
        user.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_closed_unless_named() {
        assert_eq!(
            needed_scope(&Method::GET, "/users/@me"),
            Some(Some("identify"))
        );
        for (method, route) in [
            (Method::PATCH, "/users/@me"),
            (Method::DELETE, "/users/@me/guilds/{guild_id}"),
            (Method::POST, "/channels/{channel_id}/messages"),
            (Method::POST, "/applications/{application_id}/bot/reset"),
        ] {
            assert_eq!(needed_scope(&method, route), None, "{method} {route}");
        }
        let commands = "/applications/{application_id}/guilds/{guild_id}/commands";
        assert_eq!(
            needed_scope(&Method::PUT, commands),
            Some(Some(COMMANDS_UPDATE))
        );
        let permissions = format!("{commands}/{{command_id}}/permissions");
        assert_eq!(
            needed_scope(&Method::PUT, &permissions),
            Some(Some(COMMANDS_PERMISSIONS))
        );
    }
}
