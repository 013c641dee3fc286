//! How long the node waits for Redis; events have connections of their own (`owner/feed.rs`).

use std::time::Duration;

use guildhall_redis::{Client, Patience};
use redis::RedisResult;

/// Time to connect, and to answer one command.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// A way to Redis; its commands fail fast while it is away.
pub(crate) fn client(url: &str) -> RedisResult<Client> {
    let patience = Patience {
        answer: TIMEOUT,
        retries: 1,
        pause_max: None,
    };
    Client::open(url, patience)
}
