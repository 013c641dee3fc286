//! The connection to one primary of a cluster, kept by a task of its own: commands never wait
//! for one that is known to be away.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Patience;

/// Pause before the first, and longest pause before a further connection attempt.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Node {
    name: Arc<str>,
    patience: Patience,
    state: watch::Receiver<State>,
    /// A command was not answered in time.
    doubt: Arc<Notify>,
    _stop: DropGuard,
}

enum State {
    /// For the first time, or the first time since it broke: worth a wait.
    Connecting,
    Up(MultiplexedConnection),
    Away,
}

impl Node {
    /// Connects, now and again after every failure. `broke` hears of each failure.
    pub(crate) fn start(
        name: Arc<str>,
        client: redis::Client,
        patience: Patience,
        broke: Arc<Notify>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let (doubt, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let keeper = Keeper {
            name: name.clone(),
            client,
            patience,
            state: sender,
            doubt: doubt.clone(),
            broke,
        };
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(keeper.keep()).await });
        Self {
            name,
            patience,
            state,
            doubt,
            _stop: stop.drop_guard(),
        }
    }

    /// The connection, if there is one now.
    pub(crate) fn up(&self) -> Option<MultiplexedConnection> {
        match &*self.state.borrow() {
            State::Up(connection) => Some(connection.clone()),
            State::Connecting | State::Away => None,
        }
    }

    /// Errors: there is none; those of the server.
    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let mut connection = self.connection().await?;
        let answer = connection.send_packed_command(command).await;
        self.heard(answer).and_then(Value::extract_error)
    }

    /// Errors: there is none. Those of single commands are among the values.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut connection = self.connection().await?;
        let answers = connection.send_packed_commands(pipeline, offset, count);
        self.heard(answers.await)
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let state = match &*self.state.borrow() {
            State::Up(connection) => return Ok(connection.clone()),
            State::Away => return Err(self.away()),
            State::Connecting => self.state.clone(),
        };
        settled(state, self.patience.answer)
            .await
            .ok_or_else(|| self.away())
    }

    fn away(&self) -> RedisError {
        (
            ErrorKind::Io,
            "a Redis primary is away",
            self.name.to_string(),
        )
            .into()
    }

    fn heard<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.doubt.notify_one();
        }
        answer
    }
}

/// The connection that is being made; `None` if it is not.
async fn settled(
    mut state: watch::Receiver<State>,
    patience: Duration,
) -> Option<MultiplexedConnection> {
    let is_settled = |state: &State| !matches!(state, State::Connecting);
    let state = timeout(patience, state.wait_for(is_settled)).await;
    match &*state.ok()?.ok()? {
        State::Up(connection) => Some(connection.clone()),
        State::Connecting | State::Away => None,
    }
}

struct Keeper {
    name: Arc<str>,
    client: redis::Client,
    patience: Patience,
    state: watch::Sender<State>,
    doubt: Arc<Notify>,
    broke: Arc<Notify>,
}

impl Keeper {
    async fn keep(self) {
        let mut pause = RETRY_FIRST;
        loop {
            let ended = Arc::new(Notify::new());
            match self.connect(&ended).await {
                Ok(connection) => {
                    tracing::info!(redis.primary = &*self.name, "connected to a Redis primary");
                    pause = RETRY_FIRST;
                    self.state.send_replace(State::Up(connection.clone()));
                    self.lives(connection, &ended).await;
                    tracing::warn!(
                        redis.primary = &*self.name,
                        "the connection to a Redis primary broke"
                    );
                    self.state.send_replace(State::Connecting);
                    self.broke.notify_one();
                }
                Err(error) => {
                    if !matches!(*self.state.borrow(), State::Away) {
                        tracing::warn!(redis.primary = &*self.name, %error, "a Redis primary is not reached");
                    }
                    self.state.send_replace(State::Away);
                    self.broke.notify_one();
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    async fn connect(&self, ended: &Arc<Notify>) -> RedisResult<MultiplexedConnection> {
        let ended = ended.clone();
        let config = self
            .patience
            .config()
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    ended.notify_one();
                }
                Ok::<(), ()>(())
            });
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Returns when the connection has ended, or does not answer.
    async fn lives(&self, mut connection: MultiplexedConnection, ended: &Notify) {
        loop {
            tokio::select! {
                () = ended.notified() => return,
                () = self.doubt.notified() => {
                    if connection.send_packed_command(&redis::cmd("PING")).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
