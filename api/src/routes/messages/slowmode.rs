//! Slowmode: how long people wait for their next message, or their next thread, in a channel.
//! Spec: limits-and-errors › Rate limits.
//!
//! Kept in Redis; with Redis away nobody waits.

use std::time::Duration;

use guildhall_shared::{Permissions, id::marker, keys};

use crate::{
    access::Place,
    app::App,
    auth::CurrentUser,
    error::{Error, Result},
};

/// Deletes `KEYS[1]`, if it still holds `ARGV[1]`.
const GIVE_BACK: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
";

/// What is slowed down; each by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slowed {
    Messages,
    Threads,
}

impl Slowed {
    const fn name(self) -> &'static str {
        match self {
            Self::Messages => "slow",
            Self::Threads => "slowthread",
        }
    }
}

/// A wait that a request has begun for those after it.
#[derive(Debug)]
pub(crate) struct Wait {
    key: String,
    /// What tells it from a later one under the same key.
    mark: u64,
}

/// Begins the author's wait, before what it is for is done; whoever is refused afterwards gives it
/// back. `None` for whom there is none: bots, and who has BYPASS_SLOWMODE.
///
/// Errors: 20016 while an earlier one goes on.
pub(crate) async fn begin(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    what: Slowed,
) -> Result<Option<Wait>> {
    let seconds = place.slowmode_seconds();
    let exempt = Permissions::BYPASS_SLOWMODE;
    if seconds == 0 || author.bot || place.permissions().contains(exempt) {
        return Ok(None);
    }
    let key = keys::rate_limit(&format!("{}:{}:{}", what.name(), place.id(), author.id));
    let mark = app.snowflakes.next::<marker::Message>()?.get();
    let mut redis = app.redis.clone();
    let mut ask = redis::pipe();
    ask.cmd("SET").arg(&key).arg(mark).arg("NX").arg("EX");
    ask.arg(seconds).cmd("PTTL").arg(&key);
    let asked: redis::RedisResult<(Option<String>, i64)> =
        Box::pin(ask.query_async(&mut redis)).await;
    match asked {
        Ok((Some(_), _)) => Ok(Some(Wait { key, mark })),
        Ok((None, left_ms)) if left_ms > 0 => Err(Error::Slowmode {
            retry_after: Duration::from_millis(left_ms as u64),
        }),
        Ok((None, _)) | Err(_) => Ok(None),
    }
}

impl Wait {
    /// Ends it: what it was begun for was not done. With Redis away it lasts as long as it would.
    pub(crate) async fn give_back(self, app: &App) {
        let mut redis = app.redis.clone();
        let script = redis::Script::new(GIVE_BACK);
        let mut call = script.prepare_invoke();
        call.key(&self.key).arg(self.mark);
        if let Err(error) = call.invoke_async::<()>(&mut redis).await {
            tracing::debug!(%error, "a wait was not given back");
        }
    }
}
