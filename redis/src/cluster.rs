//! Redis Cluster: who has which slots now, and each command to the primary that has its key.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerError,
    ServerErrorKind, Value, aio::MultiplexedConnection, make_extension_error,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Patience,
    address::{at, host_and_port},
    layout::{Layout, Primary, Range, name, ranges},
    node::Node,
    slot::{Target, slot_of, target},
};

/// Time between looks at the layout while nothing hints at a change.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// At least so long between two.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A cluster in use; ends with its last clone.
#[derive(Clone)]
pub struct Cluster(Arc<Owned>);

struct Owned {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    seeds: Vec<ConnectionInfo>,
    patience: Patience,
    layout: watch::Sender<Arc<Layout>>,
    /// Something hints at another layout.
    doubt: Arc<Notify>,
}

impl Cluster {
    /// `seeds`: at least one member, which has a host and a port.
    pub(crate) fn start(seeds: Vec<ConnectionInfo>, patience: Patience) -> Self {
        let shared = Arc::new(Shared {
            seeds,
            patience,
            layout: watch::Sender::default(),
            doubt: Arc::default(),
        });
        let (keeper, stop) = (shared.clone(), CancellationToken::new());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(keeper.keep_layout()).await });
        Self(Arc::new(Owned {
            shared,
            _stop: stop.drop_guard(),
        }))
    }

    pub(crate) fn layout_changes(&self) -> watch::Receiver<Arc<Layout>> {
        self.0.shared.layout.subscribe()
    }

    pub(crate) fn doubt_layout(&self) {
        self.0.shared.doubt.notify_one();
    }

    /// The primary that has a key.
    pub(crate) async fn home(&self, key: &str) -> RedisResult<redis::Client> {
        let layout = self.0.shared.layout().await?;
        let home = layout.home(key.as_bytes()).ok_or_else(nobody)?;
        Ok(home.client.clone())
    }

    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let shared = &self.0.shared;
        let layout = shared.layout().await?;
        let key = match target(command) {
            Target::Key(key) => key,
            Target::Any => {
                let nodes = || layout.primaries().iter().filter_map(node);
                let up = nodes().find(|node| node.up().is_some());
                let any = up.or_else(|| nodes().next()).ok_or_else(nobody)?;
                return any.command(command).await;
            }
            Target::All => return everywhere(&layout, command).await,
        };
        let home = layout.home(key).and_then(node).ok_or_else(nobody)?;
        let answer = home.command(command).await;
        match answer.as_ref().err().and_then(Redirect::of) {
            None => answer,
            Some(Redirect::Ask(name)) => ask(&layout, &name, command).await,
            Some(Redirect::Moved(range)) => {
                let layout = shared.moved(&[range]);
                let home = layout.home(key).and_then(node).ok_or_else(nobody)?;
                home.command(command).await
            }
        }
    }

    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let shared = &self.0.shared;
        let layout = shared.layout().await?;
        if pipeline.is_transaction() {
            return self.transaction(pipeline, offset, count).await;
        }
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let mut answers = in_parts(&layout, &commands).await?;
        // Whoever has moved is asked at its new home, once.
        let redirects = answers.iter().enumerate().filter_map(|(number, answer)| {
            let Value::ServerError(error) = answer else {
                return None;
            };
            Some((number, Redirect::of(&error.clone().into())?))
        });
        let mut moved = Vec::new();
        let mut asked = Vec::new();
        for (number, redirect) in redirects {
            match redirect {
                Redirect::Moved(range) => moved.push((number, range)),
                Redirect::Ask(name) => asked.push((number, name)),
            }
        }
        if !moved.is_empty() {
            let (numbers, ranges): (Vec<usize>, Vec<Range>) = moved.into_iter().unzip();
            let layout = shared.moved(&ranges);
            let again: Vec<&Cmd> = numbers.iter().map(|&number| commands[number]).collect();
            for (number, answer) in numbers.into_iter().zip(in_parts(&layout, &again).await?) {
                answers[number] = answer;
            }
        }
        for (number, name) in asked {
            answers[number] = match ask(&layout, &name, commands[number]).await {
                Ok(answer) => answer,
                Err(error) => Value::ServerError(as_answer(&error)),
            };
        }
        Ok(answers)
    }

    async fn transaction(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let shared = &self.0.shared;
        let layout = shared.layout().await?;
        let key = pipeline
            .cmd_iter()
            .find_map(|command| match target(command) {
                Target::Key(key) => Some(key),
                Target::Any | Target::All => None,
            });
        let key = key.unwrap_or_default();
        let home = layout.home(key).and_then(node).ok_or_else(nobody)?;
        let answer = home.pipeline(pipeline, offset, count).await;
        let Some(Redirect::Moved(range)) = answer.as_ref().err().and_then(first_redirect) else {
            return answer;
        };
        let layout = shared.moved(&[range]);
        let home = layout.home(key).and_then(node).ok_or_else(nobody)?;
        home.pipeline(pipeline, offset, count).await
    }
}

impl Shared {
    /// The layout; waits for the first one. Errors: none is known.
    async fn layout(&self) -> RedisResult<Arc<Layout>> {
        let is_known = |layout: &Arc<Layout>| !layout.primaries().is_empty();
        {
            let layout = self.layout.borrow();
            if is_known(&layout) {
                return Ok(layout.clone());
            }
        }
        let mut layout = self.layout.subscribe();
        let is_asked = |layout: &Arc<Layout>| is_known(layout) || layout.asked_in_vain;
        let layout = timeout(self.patience.answer, layout.wait_for(is_asked)).await;
        let layout = layout
            .ok()
            .and_then(Result::ok)
            .map(|layout| layout.clone());
        layout.filter(is_known).ok_or_else(nobody)
    }

    /// Asks for the layout now and then, and when there is a doubt about it.
    async fn keep_layout(&self) {
        let mut turn = 0;
        loop {
            turn += 1;
            match self.ask_layout(turn).await {
                Ok(ranges) => self.adopt(&ranges, false),
                Err(error) => {
                    tracing::debug!(%error, "no member of the Redis Cluster says who has what");
                    self.layout.send_modify(|layout| {
                        if layout.primaries().is_empty() {
                            Arc::make_mut(layout).asked_in_vain = true;
                        }
                    });
                    self.doubt.notify_one();
                }
            }
            sleep(LOOK_PAUSE).await;
            let _ = timeout(LOOK_PERIOD, self.doubt.notified()).await;
        }
    }

    /// What the first to answer says, another one first at each turn: one that is cut off from
    /// the others does not know what is new.
    async fn ask_layout(&self, turn: usize) -> RedisResult<Vec<Range>> {
        let layout = self.layout.borrow().clone();
        let primaries = layout.primaries();
        let first = turn.checked_rem(primaries.len()).unwrap_or_default();
        for primary in primaries[first..].iter().chain(&primaries[..first]) {
            if let Some(connection) = node(primary).and_then(Node::up)
                && let Ok(ranges) = slots(connection, primary.client.get_connection_info()).await
            {
                return Ok(ranges);
            }
        }
        let mut last = nobody();
        for seed in &self.seeds {
            match self.ask_seed(seed).await {
                Ok(ranges) => return Ok(ranges),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_seed(&self, seed: &ConnectionInfo) -> RedisResult<Vec<Range>> {
        let client = redis::Client::open(seed.clone())?;
        let config = self.patience.config();
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        slots(connection.await?, seed).await
    }

    fn adopt(&self, ranges: &[Range], keep: bool) {
        self.layout.send_if_modified(|layout| {
            let next = layout.with(ranges, keep, |range, name| self.primary(range, name));
            let is_new = !next.is_as(layout);
            if is_new {
                let primaries = next.primaries().len();
                tracing::info!(primaries, "slots of the Redis Cluster");
                *layout = Arc::new(next);
            }
            is_new
        });
    }

    /// Primaries themselves said that they do not have these slots and who has.
    fn moved(&self, ranges: &[Range]) -> Arc<Layout> {
        self.adopt(ranges, true);
        self.doubt.notify_one();
        self.layout.borrow().clone()
    }

    fn primary(&self, range: &Range, name: Arc<str>) -> Option<Primary> {
        let info = at(self.seeds.first()?, &range.host, range.port);
        let client = redis::Client::open(info).ok()?;
        let node = Node::start(
            name.clone(),
            client.clone(),
            self.patience,
            self.doubt.clone(),
        );
        Some(Primary::new(name, client, Some(node)))
    }
}

fn node(primary: &Arc<Primary>) -> Option<&Node> {
    primary.node.as_ref()
}

fn nobody() -> RedisError {
    (ErrorKind::Io, "no Redis primary is known for this key").into()
}

async fn slots(
    mut connection: MultiplexedConnection,
    info: &ConnectionInfo,
) -> RedisResult<Vec<Range>> {
    let mut command = redis::cmd("CLUSTER");
    let answer = connection.send_packed_command(command.arg("SLOTS")).await?;
    let (host, _) = host_and_port(info).unwrap_or_default();
    let ranges = ranges(answer.extract_error()?, host);
    ranges.ok_or_else(|| (ErrorKind::UnexpectedReturnType, "no slots").into())
}

/// Sends to each primary what is its, in this order; an error of one is the answer to its
/// commands. Errors: all are away.
async fn in_parts(layout: &Layout, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
    let mut parts: Vec<(Vec<usize>, Pipeline)> = Vec::new();
    parts.resize_with(layout.primaries().len(), Default::default);
    let mut answers = vec![Value::Nil; commands.len()];
    let mut last_error = None;
    for (number, &command) in commands.iter().enumerate() {
        let home = match target(command) {
            Target::Key(key) => layout.number(slot_of(key)),
            Target::Any | Target::All => Some(0),
        };
        match home.and_then(|home| parts.get_mut(home)) {
            Some((numbers, pipeline)) => {
                numbers.push(number);
                pipeline.add_command(command.clone());
            }
            None => {
                let error = last_error.insert(nobody());
                answers[number] = Value::ServerError(as_answer(error));
            }
        }
    }
    let parts = layout.primaries().iter().zip(parts);
    let parts = parts.filter(|(_, (numbers, _))| !numbers.is_empty());
    let sent = join_all(parts.map(|(primary, (numbers, pipeline))| async move {
        let answers = match node(primary) {
            Some(node) => node.pipeline(&pipeline, 0, numbers.len()).await,
            None => Err(nobody()),
        };
        (numbers, answers)
    }));
    let mut is_any_up = commands.is_empty();
    for (numbers, part) in sent.await {
        match part {
            Ok(part) => {
                is_any_up = true;
                for (number, answer) in numbers.into_iter().zip(part) {
                    answers[number] = answer;
                }
            }
            Err(error) => {
                for number in numbers {
                    answers[number] = Value::ServerError(as_answer(&error));
                }
                last_error = Some(error);
            }
        }
    }
    match last_error {
        Some(error) if !is_any_up => Err(error),
        _ => Ok(answers),
    }
}

/// An error of ours in the place of one of a server.
fn as_answer(error: &RedisError) -> ServerError {
    ServerError::try_from(error.clone()).unwrap_or_else(|error| {
        let away = make_extension_error("AWAY".to_owned(), Some(error.to_string()));
        ServerError::try_from(away).expect("it was made as one of a server")
    })
}

/// The answer of the first primary that does it; all others that can do it too.
async fn everywhere(layout: &Layout, command: &Cmd) -> RedisResult<Value> {
    let nodes = layout.primaries().iter().filter_map(node);
    let answers = join_all(nodes.map(|node| node.command(command))).await;
    let mut all = Err(nobody());
    for answer in answers {
        if all.is_err() {
            all = answer;
        }
    }
    all
}

/// The slot is on its way there, and this key has arrived.
async fn ask(layout: &Layout, name: &str, command: &Cmd) -> RedisResult<Value> {
    let there = layout.named(name).and_then(node).ok_or_else(nobody)?;
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING").add_command(command.clone());
    let mut answers = there.pipeline(&pipeline, 0, 2).await?;
    answers.pop().ok_or_else(nobody)?.extract_error()
}

/// A primary's answer that the key is not here.
#[derive(Debug, PartialEq, Eq)]
enum Redirect {
    /// But there, for good.
    Moved(Range),
    /// Perhaps there, by name, for this once.
    Ask(Arc<str>),
}

impl Redirect {
    fn of(error: &RedisError) -> Option<Self> {
        let (address, slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        Some(match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => Self::Ask(name(host, port)),
            _ if host.is_empty() => return None,
            _ => Self::Moved(Range {
                first: slot,
                last: slot,
                host: host.to_owned(),
                port,
            }),
        })
    }
}

/// What the commands of a transaction were told.
fn first_redirect(error: &RedisError) -> Option<Redirect> {
    let errors = error.clone().into_server_errors()?;
    let mut errors = errors.iter();
    errors.find_map(|(_, error)| Redirect::of(&error.clone().into()))
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = self.0.shared.layout.borrow();
        f.debug_tuple("Cluster").field(&layout.primaries()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Option<Redirect> {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Redirect::of(&answer.extract_error().unwrap_err())
    }

    #[test]
    fn redirects_are_read() {
        let moved = Range {
            first: 3999,
            last: 3999,
            host: "::1".to_owned(),
            port: 6381,
        };
        assert_eq!(told("MOVED 3999 ::1:6381"), Some(Redirect::Moved(moved)));
        assert_eq!(told("ASK 1 h:6381"), Some(Redirect::Ask("h:6381".into())));
        assert_eq!(told("MOVED 1 :6381"), None);
        assert_eq!(told("TRYAGAIN not now"), None);
    }

    #[test]
    fn any_error_can_stand_among_answers() {
        let error = RedisError::from(as_answer(&nobody()));
        assert_eq!(error.code(), Some("AWAY"));
    }
}
