//! Rate limits: buckets, the headers that tell of them, and 429. Spec: limits-and-errors › Rate limits.
//!
//! Counts in Redis, so that all API processes count together; alone while Redis is away.
//! Never looks at a body.

mod counter;
mod invalid;
pub(crate) mod layer;
mod rules;

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{error_code::ErrorCode, keys};
use sha2::{Digest, Sha256};

use self::{
    counter::{Count, Counter},
    invalid::{Blocked, INVALID},
    rules::{Bucket, Owner},
};
use crate::{
    config::RateLimits,
    error::{Error, Result},
    telemetry::Metrics,
};

pub(crate) use rules::{GLOBAL, Limit};

/// Counts requests per bucket.
pub(crate) struct Limiter {
    mode: RateLimits,
    counter: Counter,
    blocked: Blocked,
    metrics: Metrics,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What a request's counts come to.
enum Verdict {
    Serve {
        bucket: Count,
    },
    /// The bucket is full.
    Full {
        bucket: Count,
    },
    /// Another window is: everything of the caller, or what callers share.
    Refuse {
        count: Count,
        scope: Scope,
    },
}

/// Whose limit it is; the value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    User,
    Shared,
    Global,
}

impl Scope {
    const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Shared => "shared",
            Self::Global => "global",
        }
    }
}

impl Limiter {
    pub(crate) fn new(mode: RateLimits, redis: Connection, metrics: Metrics) -> Self {
        Self {
            mode,
            counter: Counter::new(redis, metrics.clone()),
            blocked: Blocked::default(),
            metrics,
        }
    }

    /// Counts a try of something that must not be guessed, over all processes; `what` holds
    /// whose it is.
    ///
    /// Errors: 429.
    pub(crate) async fn attempt(&self, what: &str, limit: Limit) -> Result<()> {
        if self.mode == RateLimits::Off {
            return Ok(());
        }
        let window = (hidden("try", what), limit);
        let counts = self.counter.count(&[window]).await;
        match counts.first() {
            Some(count) if count.used > limit.requests => {
                self.metrics.rate_limited.inc();
                Err(Error::RateLimited {
                    retry_after: count.reset_after,
                })
            }
            _ => Ok(()),
        }
    }

    /// Undoes one [`Self::attempt`] in the window that runs.
    pub(crate) async fn take_back(&self, what: &str) {
        if self.mode != RateLimits::Off {
            self.counter.take_back(&hidden("try", what)).await;
        }
    }

    /// Counts `amount` of something of which a window holds only so much, over all processes: all
    /// of it, or nothing where it is too much. `what` holds whose it is.
    ///
    /// Errors: `code`, a 429.
    pub(crate) async fn spend(
        &self,
        what: &str,
        amount: u32,
        limit: Limit,
        code: ErrorCode,
    ) -> Result<()> {
        if self.mode == RateLimits::Off {
            return Ok(());
        }
        let key = hidden("spent", what);
        let spent = self.counter.spend(&key, amount, limit).await;
        spent.map_err(|retry_after| {
            self.metrics.rate_limited.inc();
            Error::Exhausted { code, retry_after }
        })
    }

    /// Keeps in mind what was seen with somebody, of which the newest count; for all processes, if
    /// Redis is there.
    pub(crate) async fn remember(&self, who: &str, what: &str, lasts: Duration, newest: usize) {
        if self.mode != RateLimits::Off {
            let (set, what) = (hidden("known", who), digest(what));
            self.counter.remember(&set, &what, lasts, newest).await;
        }
    }

    /// Whether something was seen with somebody lately. While Redis is away nothing was.
    pub(crate) async fn remembers(&self, who: &str, what: &str) -> bool {
        if self.mode == RateLimits::Off {
            return false;
        }
        let (set, what) = (hidden("known", who), digest(what));
        self.counter.remembers(&set, &what).await
    }

    /// Forgets all that was seen with somebody.
    pub(crate) async fn forget(&self, who: &str) {
        if self.mode != RateLimits::Off {
            self.counter.forget(&hidden("known", who)).await;
        }
    }

    async fn judge(&self, who: &str, bucket: &Bucket) -> Verdict {
        let mut windows = Vec::with_capacity(2);
        let is_global = bucket.owner != Owner::Token;
        if is_global {
            windows.push((keys::rate_limit_of(who, "global"), GLOBAL));
        }
        windows.push((keys::rate_limit_of(who, &bucket.key()), bucket.limit));
        let counts = self.counter.count(&windows).await;
        if let (true, &[count]) = (is_global, counts.as_slice()) {
            let scope = Scope::Global;
            return Verdict::Refuse { count, scope };
        }
        let Some(&count) = counts.last() else {
            // Redis answered with less than it was asked for.
            let bucket = Count {
                used: 1,
                reset_after: bucket.limit.window,
            };
            return Verdict::Serve { bucket };
        };
        if count.used > bucket.limit.requests {
            return Verdict::Full { bucket: count };
        }
        if let Some((key, limit)) = &bucket.shared {
            let window = (keys::rate_limit(&format!("shared:{key}")), *limit);
            let counts = self.counter.count(&[window]).await;
            if let Some(&count) = counts.first().filter(|count| count.used > limit.requests) {
                let scope = Scope::Shared;
                return Verdict::Refuse { count, scope };
            }
        }
        Verdict::Serve { bucket: count }
    }

    /// Counts a refusal of an address, which is blocked after too many.
    async fn count_invalid(&self, address: IpAddr) {
        let window = (keys::rate_limit(&format!("invalid:{address}")), INVALID);
        let counts = self.counter.count(&[window]).await;
        if let Some(count) = counts.first().filter(|it| it.used >= INVALID.requests) {
            let until = Instant::now() + count.reset_after;
            self.blocked.block(address, until);
        }
    }
}

/// The key of something that is named: names and addresses are not kept in Redis as they are.
fn hidden(kind: &str, what: &str) -> String {
    keys::rate_limit(&format!("{kind}:{}", digest(what)))
}

fn digest(what: &str) -> String {
    hex::encode(&Sha256::digest(what.as_bytes())[..16])
}
