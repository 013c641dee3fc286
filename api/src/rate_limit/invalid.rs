//! Invalid requests: an address that gets too many refusals is not served for a while.
//! Spec: limits-and-errors › Rate limits.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::http::{HeaderMap, StatusCode};
use rustc_hash::FxHashMap;

use super::rules::Limit;

/// Answers of 401, 403 and 429 to one address; beyond them it is not served until the
/// window ends.
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
pub(super) fn is_invalid(status: StatusCode, headers: &HeaderMap) -> bool {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
        StatusCode::TOO_MANY_REQUESTS => headers
            .get("x-ratelimit-scope")
            .is_none_or(|scope| scope != "shared"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn shared_limits_do_not_count() {
        let mut headers = HeaderMap::new();
        assert!(is_invalid(StatusCode::FORBIDDEN, &headers));
        assert!(is_invalid(StatusCode::TOO_MANY_REQUESTS, &headers));
        headers.insert("x-ratelimit-scope", "shared".parse().unwrap());
        assert!(!is_invalid(StatusCode::TOO_MANY_REQUESTS, &headers));
        assert!(!is_invalid(StatusCode::NOT_FOUND, &headers));
    }
}
