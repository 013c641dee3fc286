//! Invalid requests: an address that gets too many refusals is not served for a while.
//! Spec: limits-and-errors › Rate limits.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::{http::StatusCode, response::Response};
use rustc_hash::FxHashMap;

use super::rules::Limit;
use crate::error::WrongToken;

/// Answers of 401, 403 and 429 to one address, and of 404 to [`WrongToken`]s; beyond them it is
/// not served until the window ends.
pub(super) const INVALID: Limit = Limit::per_seconds(10_000, 600);

/// Blocked addresses this process remembers; more forget the others.
const BLOCKED_MAX: usize = 65_536;

/// Addresses that are not served, and until when. A process learns of a block with the
/// address's next refusal.
#[derive(Debug, Default)]
pub(super) struct Blocked(Mutex<FxHashMap<IpAddr, Instant>>);

impl Blocked {
    /// When the address is served again.
    pub(super) fn until(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let mut blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked.is_empty() {
            return None;
        }
        let until = *blocked.get(&address)?;
        if until <= now {
            blocked.remove(&address);
            return None;
        }
        Some(until)
    }

    pub(super) fn block(&self, address: IpAddr, until: Instant) {
        let mut blocked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked.len() >= BLOCKED_MAX {
            blocked.clear();
        }
        blocked.insert(address, until);
    }
}

/// Whether an answer counts: a limit shared with others is not the address's fault.
pub(super) fn is_invalid(response: &Response) -> bool {
    match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
        StatusCode::TOO_MANY_REQUESTS => response
            .headers()
            .get("x-ratelimit-scope")
            .is_none_or(|scope| scope != "shared"),
        _ => response.extensions().get::<WrongToken>().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn a_block_ends() {
        let (blocked, now) = (Blocked::default(), Instant::now());
        let address = IpAddr::from([10, 0, 0, 1]);
        blocked.block(address, now + Duration::from_secs(5));
        assert!(blocked.until(address, now).is_some());
        assert!(blocked.until(IpAddr::from([10, 0, 0, 2]), now).is_none());
        assert!(
            blocked
                .until(address, now + Duration::from_secs(5))
                .is_none()
        );
    }

    #[test]
    fn shared_limits_and_what_is_merely_not_there_do_not_count() {
        assert!(is_invalid(&StatusCode::FORBIDDEN.into_response()));
        let mut full = StatusCode::TOO_MANY_REQUESTS.into_response();
        assert!(is_invalid(&full));
        let scope = "shared".parse().unwrap();
        full.headers_mut().insert("x-ratelimit-scope", scope);
        assert!(!is_invalid(&full));
        let mut unknown = StatusCode::NOT_FOUND.into_response();
        assert!(!is_invalid(&unknown));
        unknown.extensions_mut().insert(WrongToken);
        assert!(is_invalid(&unknown));
    }
}
