//! How the node asks Redis, and how long it waits; events have connections of their own
//! (`owner/feed.rs`).

use std::time::Duration;

use guildhall_redis::{Client, Connection, Patience};
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisResult, Script, ServerErrorKind};

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

/// What a script answers to each of its invocations in a pipeline, which have a key each.
pub(crate) async fn invoke_all<T: FromRedisValue>(
    commands: &mut Connection,
    script: &Script,
    pipeline: &mut Pipeline,
) -> RedisResult<Vec<RedisResult<T>>> {
    // Of several servers one may be away, or have forgotten the script.
    pipeline.ignore_errors();
    let answers: Vec<RedisResult<T>> = pipeline.query_async(commands).await?;
    if !answers.iter().any(is_script_lacking) {
        return Ok(answers);
    }
    script.load_async(commands).await?;
    pipeline.query_async(commands).await
}

fn is_script_lacking<T>(answer: &RedisResult<T>) -> bool {
    let lacking = ErrorKind::Server(ServerErrorKind::NoScript);
    answer.as_ref().is_err_and(|error| error.kind() == lacking)
}
