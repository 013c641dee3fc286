//! Tokens: read from the environment, or made from the cluster's key for a short while.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guildhall_shared::operator::Scope;
use serde_json::json;
use shard_coordinator::access::{AdminKey, TokenError};

use crate::args::TokenArgs;
use crate::error::{Error, Result};
use crate::print::Output;

/// Life of a token made for a single request, a stream of events among them.
const REQUEST_LIFETIME: Duration = Duration::from_secs(3_600);
/// In whose name a token is made where `USER` does not say.
const NAME_DEFAULT: &str = "guildctl";

/// What requests are made with.
#[derive(Clone)]
pub(crate) enum Credentials {
    Token(String),
    /// Each request gets a token of its own, in this name.
    Key(AdminKey, String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Credentials {
    /// `GUILDCTL_TOKEN`, else `CLUSTER_KEY` in the name of `USER`.
    pub(crate) fn from_environment() -> Result<Self> {
        if let Some(token) = variable("GUILDCTL_TOKEN") {
            return Ok(Self::Token(token));
        }
        let key = variable("CLUSTER_KEY").ok_or(Error::NoToken)?;
        let key = AdminKey::of_cluster(&key).map_err(usage)?;
        let name = variable("USER").unwrap_or_else(|| NAME_DEFAULT.to_owned());
        // A name that no token may bear is no reason to fail.
        match sign(&key, &name, Scope::Read, REQUEST_LIFETIME) {
            Ok(_) => Ok(Self::Key(key, name)),
            Err(_) => Ok(Self::Key(key, NAME_DEFAULT.to_owned())),
        }
    }

    /// The token of a request.
    pub(crate) fn bearer(&self) -> Result<String> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Key(key, name) => {
                sign(key, name, Scope::Operate, REQUEST_LIFETIME).map_err(usage)
            }
        }
    }
}

/// `guildctl token`.
pub(crate) fn print(wanted: &TokenArgs, output: Output) -> Result<()> {
    let key = variable("CLUSTER_KEY").ok_or_else(|| {
        Error::Usage("a token is made from the cluster's key: set CLUSTER_KEY".to_owned())
    })?;
    let key = AdminKey::of_cluster(&key).map_err(usage)?;
    let scope = Scope::from(wanted.scope);
    let token = sign(&key, &wanted.name, scope, wanted.lifetime).map_err(usage)?;
    let expires = SystemTime::now() + wanted.lifetime;
    let expires_at_s = expires
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let report = json!({
        "token": token,
        "name": wanted.name,
        "scope": scope,
        "expires_at_ms": expires_at_s * 1_000,
    });
    output.print(&report, |_| format!("{token}\n"))
}

fn sign(
    key: &AdminKey,
    name: &str,
    scope: Scope,
    lifetime: Duration,
) -> Result<String, TokenError> {
    key.sign(name, scope, lifetime, SystemTime::now())
}

fn usage(error: TokenError) -> Error {
    Error::Usage(error.to_string())
}

/// An empty variable counts as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_printed_and_make_a_token_for_each_request() {
        let key = AdminKey::of_cluster("a cluster key for tests, long enough").unwrap();
        let credentials = Credentials::Key(key, "alice".to_owned());
        assert_eq!(format!("{credentials:?}"), "***");
        assert_eq!(credentials.bearer().unwrap().split('.').count(), 3);
    }
}
