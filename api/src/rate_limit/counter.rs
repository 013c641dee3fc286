//! Counts: in Redis, so that all API processes count together; alone while Redis is away. And what
//! was seen lately, in Redis alone.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use rustc_hash::FxHashMap;

use super::rules::Limit;
use crate::telemetry::Metrics;

/// How a window stands after a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) used: u32,
    pub(super) reset_after: Duration,
}

/// Counts in each of `KEYS` for one window, up to the first that is above its maximum.
/// `ARGV`: maximum and window (ms) of each. Gives used and remaining ms of each.
const SCRIPT: &str = r"
local counts = {}
for n, key in ipairs(KEYS) do
  local used = redis.call('INCR', key)
  local left = redis.call('PTTL', key)
  if left < 0 then
    left = tonumber(ARGV[2 * n])
    redis.call('PEXPIRE', key, left)
  end
  counts[2 * n - 1] = used
  counts[2 * n] = left
  if used > tonumber(ARGV[2 * n - 1]) then
    return counts
  end
end
return counts
";

/// Adds `ARGV[1]` to `KEYS[1]`, or nothing if that were above the maximum `ARGV[2]`; the window is
/// `ARGV[3]` ms. Gives whether it was added (1 or 0), and the remaining ms.
const SPEND: &str = r"
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  left = tonumber(ARGV[3])
end
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then
  return {0, left}
end
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], left)
return {1, left}
";

/// One less in `KEYS[1]`, if its window still runs.
const TAKE_BACK: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DECR', KEYS[1])
end
";

/// Puts `ARGV[1]` into the set `KEYS[1]`, where it stays for `ARGV[2]` seconds as one of the
/// `ARGV[3]` newest.
const REMEMBER: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
";

/// Slower than this is as good as away.
const REDIS_TIMEOUT: Duration = Duration::from_millis(150);
/// Pause before Redis is asked again after it failed.
const REDIS_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Counter {
    redis: Connection,
    script: redis::Script,
    spend: redis::Script,
    take_back: redis::Script,
    remember: redis::Script,
    /// Until then (ms since `started`) Redis is not asked again.
    redis_away_until_ms: AtomicU64,
    started: Instant,
    local: Local,
    metrics: Metrics,
}

impl Counter {
    pub(super) fn new(redis: Connection, metrics: Metrics) -> Self {
        Self {
            redis,
            script: redis::Script::new(SCRIPT),
            spend: redis::Script::new(SPEND),
            take_back: redis::Script::new(TAKE_BACK),
            remember: redis::Script::new(REMEMBER),
            redis_away_until_ms: AtomicU64::new(0),
            started: Instant::now(),
            local: Local::default(),
            metrics,
        }
    }

    /// Counts a request in windows of one owner, up to the first that is full: the last
    /// count is then above its limit.
    pub(super) async fn count(&self, windows: &[(String, Limit)]) -> Vec<Count> {
        if let Some(counts) = self.in_time(self.count_in_redis(windows)).await {
            return counts;
        }
        self.metrics.rate_limit_fallbacks.inc();
        self.local.count(windows, Instant::now())
    }

    /// Counts so much at once in a window; nothing where it is too much, which gives the time until
    /// the window starts anew.
    pub(super) async fn spend(&self, key: &str, amount: u32, limit: Limit) -> Result<(), Duration> {
        let in_redis = async {
            let mut redis = self.redis.clone();
            let mut call = self.spend.prepare_invoke();
            call.key(key)
                .arg(amount)
                .arg(limit.requests)
                .arg(limit.window.as_millis() as u64);
            call.invoke_async::<(u64, u64)>(&mut redis).await
        };
        match self.in_time(in_redis).await {
            Some((0, left_ms)) => Err(Duration::from_millis(left_ms)),
            Some(_) => Ok(()),
            None => {
                self.metrics.rate_limit_fallbacks.inc();
                self.local.spend(key, amount, limit, Instant::now())
            }
        }
    }

    /// Undoes one count of a window that still runs.
    pub(super) async fn take_back(&self, key: &str) {
        let in_redis = async {
            let mut redis = self.redis.clone();
            let mut call = self.take_back.prepare_invoke();
            call.key(key);
            call.invoke_async::<()>(&mut redis).await
        };
        if self.in_time(in_redis).await.is_none() {
            self.local.take_back(key);
        }
    }

    /// Puts something into a set for a time, of which it keeps the newest; not while Redis is away.
    pub(super) async fn remember(&self, set: &str, what: &str, lasts: Duration, newest: usize) {
        let in_redis = async {
            let mut redis = self.redis.clone();
            let mut call = self.remember.prepare_invoke();
            call.key(set).arg(what).arg(lasts.as_secs()).arg(newest);
            call.invoke_async::<()>(&mut redis).await
        };
        self.in_time(in_redis).await;
    }

    /// Whether something is in a set; `false` while Redis is away.
    pub(super) async fn remembers(&self, set: &str, what: &str) -> bool {
        let in_redis = async {
            let mut redis = self.redis.clone();
            let mut score = redis::cmd("ZSCORE");
            score.arg(set).arg(what);
            score.query_async::<Option<f64>>(&mut redis).await
        };
        self.in_time(in_redis).await.flatten().is_some()
    }

    /// Empties a set; not while Redis is away.
    pub(super) async fn forget(&self, set: &str) {
        let in_redis = async {
            let mut redis = self.redis.clone();
            redis::cmd("DEL")
                .arg(set)
                .query_async::<()>(&mut redis)
                .await
        };
        self.in_time(in_redis).await;
    }

    /// What Redis answers; `None` if it is away.
    async fn in_time<T>(&self, asked: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let now_ms = self.started.elapsed().as_millis() as u64;
        if now_ms < self.redis_away_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        match tokio::time::timeout(REDIS_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                let until = now_ms + REDIS_PAUSE.as_millis() as u64;
                self.redis_away_until_ms.store(until, Ordering::Relaxed);
                None
            }
        }
    }

    async fn count_in_redis(&self, windows: &[(String, Limit)]) -> redis::RedisResult<Vec<Count>> {
        let mut redis = self.redis.clone();
        let mut call = self.script.prepare_invoke();
        for (key, limit) in windows {
            call.key(key)
                .arg(limit.requests)
                .arg(limit.window.as_millis() as u64);
        }
        let counts: Vec<u64> = call.invoke_async(&mut redis).await?;
        Ok(counts
            .chunks_exact(2)
            .map(|count| Count {
                used: count[0].min(u64::from(u32::MAX)) as u32,
                reset_after: Duration::from_millis(count[1]),
            })
            .collect())
    }
}

/// Windows remembered while Redis is away; more forget the others.
const LOCAL_WINDOWS_MAX: usize = 65_536;

/// When a window ends, and how much was counted in it.
type Windows = FxHashMap<String, (Instant, u32)>;

/// The same counting in this process alone.
#[derive(Debug, Default)]
struct Local(Mutex<Windows>);

impl Local {
    /// With room for more.
    fn windows(&self, now: Instant) -> MutexGuard<'_, Windows> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= LOCAL_WINDOWS_MAX {
            windows.retain(|_, (end, _)| *end > now);
            if windows.len() >= LOCAL_WINDOWS_MAX {
                windows.clear();
            }
        }
        windows
    }

    fn spend(&self, key: &str, amount: u32, limit: Limit, now: Instant) -> Result<(), Duration> {
        let mut windows = self.windows(now);
        let (end, used) = running(&mut windows, key, limit, now);
        let after = used.saturating_add(amount);
        if after > limit.requests {
            return Err(*end - now);
        }
        *used = after;
        Ok(())
    }

    fn count(&self, asked: &[(String, Limit)], now: Instant) -> Vec<Count> {
        let mut windows = self.windows(now);
        let mut counts = Vec::new();
        for (key, limit) in asked {
            let (end, used) = running(&mut windows, key, *limit, now);
            *used += 1;
            counts.push(Count {
                used: *used,
                reset_after: *end - now,
            });
            if *used > limit.requests {
                break;
            }
        }
        counts
    }

    fn take_back(&self, key: &str) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, used)) = windows.get_mut(key) {
            *used = used.saturating_sub(1);
        }
    }
}

/// The window of a key that runs now, begun if there is none.
fn running<'a>(
    windows: &'a mut Windows,
    key: &str,
    limit: Limit,
    now: Instant,
) -> &'a mut (Instant, u32) {
    let fresh = (now + limit.window, 0);
    let window = windows.entry(key.to_owned()).or_insert(fresh);
    if window.0 <= now {
        *window = fresh;
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Vec<(String, Limit)> {
        vec![
            ("all".to_owned(), Limit::per_seconds(3, 1)),
            ("one".to_owned(), Limit::per_seconds(2, 5)),
        ]
    }

    #[test]
    fn windows_fill_and_start_anew() {
        let (local, now) = (Local::default(), Instant::now());
        for used in 1..=2 {
            let counts = local.count(&windows(), now);
            assert_eq!((counts[0].used, counts[1].used), (used, used));
        }
        assert_eq!(local.count(&windows(), now)[1].used, 3);
        // Above the first maximum the second window is not counted.
        assert_eq!(local.count(&windows(), now).len(), 1);
        let later = now + Duration::from_secs(5);
        let counts = local.count(&windows(), later);
        assert_eq!((counts[0].used, counts[1].used), (1, 1));
        assert_eq!(counts[1].reset_after, Duration::from_secs(5));
        for key in ["one", "one", "other"] {
            local.take_back(key);
        }
        let counts = local.count(&windows(), later);
        assert_eq!((counts[0].used, counts[1].used), (2, 1));
    }

    #[test]
    fn what_is_too_much_at_once_is_not_counted() {
        let (local, now) = (Local::default(), Instant::now());
        let limit = Limit::per_seconds(5, 10);
        let spend = |amount, now| local.spend("a", amount, limit, now);
        assert_eq!(spend(3, now), Ok(()));
        let later = now + Duration::from_secs(4);
        assert_eq!(spend(3, later), Err(Duration::from_secs(6)));
        assert_eq!(spend(2, later), Ok(()));
        assert_eq!(spend(1, later), Err(Duration::from_secs(6)));
        assert_eq!(spend(5, now + limit.window), Ok(()));
    }
}
