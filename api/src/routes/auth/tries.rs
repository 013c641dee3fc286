//! Wrong passwords at log-in: how many there may be, and from where.
//!
//! Whoever fails on purpose must not lock out the person whose account it is. So tries count by
//! account and network. Those of an account from everywhere count together, too, but for networks
//! that it was logged in to from lately. A name that nobody has counts like an account. All of it
//! is in Redis and may vanish.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use axum::{extract::FromRequestParts, http::request::Parts};
use guildhall_shared::{Id, id::marker};

use crate::{app::App, error::Result, rate_limit::Limit, request};

/// For one account, from one network.
const FROM_ONE: Limit = Limit::per_seconds(10, 600);
/// For one account, from all networks together that are not known to it.
const FROM_UNKNOWN: Limit = Limit::per_seconds(100, 3600);
/// A network is known to an account for so long after a log-in.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Networks of an account; older ones are forgotten.
const KNOWN_MAX: usize = 50;

/// Where a request comes from: an address, or the /64 around it.
#[derive(Clone, Copy)]
pub(in crate::routes) struct Network(IpAddr);

impl FromRequestParts<App> for Network {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let proxies = app.config.proxies;
        let address = request::client_address(&parts.extensions, &parts.headers, proxies);
        Ok(Self(request::network(address)))
    }
}

/// A try that counts as a wrong password, unless it is taken back.
pub(super) struct Try(Vec<String>);

/// Counts a try before its password is looked at. Of a name that nobody has there is no `user`.
///
/// Errors: 429.
pub(super) async fn count(
    app: &App,
    login: &str,
    user: Option<Id<marker::User>>,
    network: Network,
) -> Result<Try> {
    let limiter = &app.limiter;
    let whose = match user {
        Some(user) => format!("u{user}"),
        None => format!("n{login}"),
    };
    let mut counted = vec![format!("login-from:{}/{whose}", network.0)];
    limiter.attempt(&counted[0], FROM_ONE).await?;
    // Asked for nobody too: names that there are answer no later than others.
    let known = networks_of(user);
    if !limiter.remembers(&known, &network.0.to_string()).await {
        let from_unknown = format!("login:{whose}");
        limiter.attempt(&from_unknown, FROM_UNKNOWN).await?;
        counted.push(from_unknown);
    }
    Ok(Try(counted))
}

impl Try {
    /// The password was right, or was not looked at.
    pub(super) async fn take_back(self, app: &App) {
        for what in &self.0 {
            app.limiter.take_back(what).await;
        }
    }
}

/// Somebody has logged in from there.
pub(in crate::routes) async fn remember(app: &App, user: Id<marker::User>, network: Network) {
    let known = networks_of(Some(user));
    let network = network.0.to_string();
    app.limiter
        .remember(&known, &network, KNOWN_FOR, KNOWN_MAX)
        .await;
}

/// The password is a new one: where somebody logged in with the old one is not known any more.
pub(in crate::routes) async fn forget(app: &App, user: Id<marker::User>) {
    app.limiter.forget(&networks_of(Some(user))).await;
}

fn networks_of(user: Option<Id<marker::User>>) -> String {
    format!("networks:{}", user.map_or(0, Id::get))
}
