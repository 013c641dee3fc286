//! A connection to one primary, on which it also says what it was not asked for.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, PushInfo, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::Primary;

/// Cheap to clone; clones are one connection.
#[derive(Clone)]
pub enum Line {
    Tcp(MultiplexedConnection),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::Line),
}

impl Primary {
    /// Connects. `pushed` hears of subscriptions, of their messages, and of the connection's end.
    /// Answers are waited for as long as the connection is.
    pub async fn line(
        &self,
        patience: Duration,
        pushed: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Line> {
        #[cfg(feature = "simulated")]
        if let Some(server) = &self.simulated {
            return Ok(Line::Simulated(
                server.clone().line(Box::new(pushed)).await?,
            ));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience))
            .set_push_sender(move |push: PushInfo| {
                pushed(push);
                Ok::<(), ()>(())
            });
        let client = &self.client;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Line::Tcp(connection.await?))
    }
}

impl Line {
    /// Subscribes to a channel of the whole server.
    pub async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::Tcp(connection) => connection.subscribe(channel).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => {
                let mut command = redis::cmd("SUBSCRIBE");
                command.arg(channel);
                self.req_packed_command(&command).await.map(drop)
            }
        }
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Tcp(connection) => connection.req_packed_command(command),
            #[cfg(feature = "simulated")]
            Self::Simulated(line) => line.command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Tcp(connection) => connection.req_packed_commands(pipeline, offset, count),
            #[cfg(feature = "simulated")]
            Self::Simulated(line) => line.pipeline(pipeline),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Tcp(connection) => connection.get_db(),
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => 0,
        }
    }
}
