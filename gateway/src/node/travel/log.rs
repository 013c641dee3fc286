//! Delivery logs in Redis: this node's go there, other nodes' are read.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guildhall_redis::Connection;
use guildhall_shared::keys;
use redis::{RedisResult, streams::StreamRangeReply};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Mutex, Notify},
    task::yield_now,
    time::{sleep, timeout},
};

use super::lives::ask_life;
use crate::{
    bus::{CoreHandle, ToCore},
    clock,
    config::ResumeLog,
    delivery::History,
    names::{CoreId, SessionId},
    node::to_core::ANSWER_PAUSE,
};

/// What is gathered before it is sent. After kill -9 this much is unknown.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
/// Bytes that wait while Redis is slow or away; then all of them are let go of, and whoever reads
/// the log sees the gap.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Time between extensions of a log's life, far below [`keys::DELIVERY_LOG_MS`].
const KEEP_PERIOD: Duration = Duration::from_secs(60);
/// A log that was not given time to live for longer may have come to its end: nobody had a session.
const SURE_FOR: Duration = Duration::from_millis(keys::DELIVERY_LOG_MS / 2);
/// Entries read with one round trip.
const READ_ENTRIES: usize = 500;

/// See the module.
pub(crate) struct DeliveryLog {
    commands: Connection,
    boot: u32,
    resume: ResumeLog,
    cores: Rc<[CoreHandle]>,
    waiting: RefCell<Vec<Chunk>>,
    bytes: Cell<usize>,
    filled: Notify,
    /// Logs that Redis has.
    kept: RefCell<FxHashMap<CoreId, Kept>>,
    /// By core: the life of its log's server, as far as it is known.
    lives: RefCell<Vec<Option<String>>>,
    /// Number of the last loss. What a core says that does not know of it yet is of no life.
    loss: Cell<u64>,
    gone: Notify,
    forgotten: Notify,
    /// Of each core that had no room to be told so: the newest chunk that is stored.
    untold: RefCell<Vec<(CoreId, u64)>>,
    /// One batch at a time, so that chunks stay in order.
    shipping: Mutex<()>,
}

/// A core's log as far as it was read.
#[derive(Default)]
pub(super) struct Known {
    pub(super) history: History,
    /// Id of the last entry read.
    after: String,
    /// Of the log's server.
    life: String,
}

impl Known {
    /// Nothing was there.
    pub(super) fn is_empty(&self) -> bool {
        self.after.is_empty()
    }
}

/// A log that Redis has.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// When it was last given time to live.
    since: Instant,
    /// Of its newest entry, by its server's clock: those of gateways may be wrong.
    newest_ms: u64,
}

struct Chunk {
    core: CoreId,
    number: u64,
    bytes: Bytes,
    loss: u64,
}

/// What becomes of chunks whose log is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Nothing, and the caller is told, unless it is the first of the log.
    Told,
    /// A new log.
    Made,
}

impl DeliveryLog {
    pub(crate) fn new(
        commands: Connection,
        boot: u32,
        resume: ResumeLog,
        cores: Rc<[CoreHandle]>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            boot,
            resume,
            cores,
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            filled: Notify::new(),
            kept: RefCell::default(),
            lives: RefCell::default(),
            loss: Cell::new(0),
            gone: Notify::new(),
            forgotten: Notify::new(),
            untold: RefCell::default(),
            shipping: Mutex::new(()),
        })
    }

    /// The next chunk of a core. `loss`: the last one that the core knew of.
    pub(crate) fn add(&self, core: CoreId, number: u64, chunk: Bytes, loss: u64) {
        let mut waiting = self.waiting.borrow_mut();
        let mut bytes = self.bytes.get() + chunk.len();
        if bytes > WAITING_BYTES_MAX {
            tracing::warn!("the delivery log does not keep up: a part of it is left out");
            // Their numbers stay: somebody may wait for them.
            waiting.iter_mut().for_each(|chunk| chunk.bytes.clear());
            bytes = chunk.len();
        }
        self.bytes.set(bytes);
        waiting.push(Chunk {
            core,
            number,
            bytes: chunk,
            loss,
        });
        self.filled.notify_one();
    }

    /// Ships what comes, as long as the task lives.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            let all_told = self.untold.borrow().is_empty();
            if all_told {
                self.filled.notified().await;
            } else {
                // Sessions wait for what their core was not told; perhaps no other chunk follows.
                let _ = timeout(ANSWER_PAUSE, self.filled.notified()).await;
            }
            if self.resume == ResumeLog::Async {
                sleep(BATCH_PERIOD).await;
            }
            self.ship().await;
        }
    }

    /// Ships what there is. What Redis does not take is lost: a gap that readers see.
    pub(crate) async fn ship(&self) {
        let _turn = self.shipping.lock().await;
        let chunks = std::mem::take(&mut *self.waiting.borrow_mut());
        self.bytes.set(0);
        if !chunks.is_empty() {
            self.store(&chunks).await;
        }
        if self.resume == ResumeLog::Sync {
            self.tell_stored(&chunks);
        }
    }

    /// Tells the cores that these chunks, and those that they were not told of, are stored. Who has no
    /// room is told with the next ones, or after a pause.
    fn tell_stored(&self, chunks: &[Chunk]) {
        let mut untold = self.untold.borrow_mut();
        for chunk in chunks {
            match untold.iter_mut().find(|(core, _)| *core == chunk.core) {
                Some((_, number)) => *number = chunk.number,
                None => untold.push((chunk.core, chunk.number)),
            }
        }
        untold.retain(|&(core, number)| {
            let core = self.cores.get(usize::from(core));
            core.is_some_and(|core| core.send(ToCore::Stored(number)).is_err())
        });
    }

    async fn store(&self, chunks: &[Chunk]) {
        let chunks: Vec<&Chunk> = chunks
            .iter()
            .filter(|chunk| !chunk.bytes.is_empty())
            .collect();
        let lost = match self.append(&chunks, Missing::Told).await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::debug!(%error, "a part of the delivery log is not stored");
                return;
            }
        };
        if lost.is_empty() {
            return;
        }
        let mut again = chunks;
        again.retain(|chunk| lost.contains(&chunk.core));
        if let Err(error) = self.append(&again, Missing::Made).await {
            tracing::debug!(%error, "a part of the delivery log is not stored");
        }
        self.gone.notify_one();
    }

    /// Appends chunks; returns the cores whose logs were there and are no more, in which case nothing
    /// is appended to those.
    async fn append(&self, chunks: &[&Chunk], missing: Missing) -> RedisResult<Vec<CoreId>> {
        let now = clock::now();
        let mut cores: Vec<CoreId> = Vec::new();
        let mut pipeline = redis::pipe();
        for Chunk {
            core, bytes, loss, ..
        } in chunks
        {
            let kept = self.kept.borrow().get(core).copied();
            let lives = self.lives.borrow();
            let life = lives.get(usize::from(*core)).cloned().flatten();
            let life = life.filter(|_| *loss == self.loss.get());
            let command = pipeline
                .cmd("XADD")
                .arg(keys::delivery_log(self.boot, *core));
            if missing == Missing::Told && kept.is_some_and(|kept| kept.must_be_there(now)) {
                command.arg("NOMKSTREAM");
            }
            command
                .arg("MINID")
                .arg("~")
                .arg(kept.map_or(0, Kept::oldest_ms))
                .arg("*")
                .arg(keys::STREAM_FIELD)
                .arg(&bytes[..])
                .arg(keys::LIFE_FIELD)
                .arg(life.unwrap_or_default());
            if !cores.contains(core) {
                cores.push(*core);
            }
        }
        let mut prolonged = Vec::new();
        for core in cores {
            let since = self.kept.borrow().get(&core).map(|kept| kept.since);
            let is_due = since.is_none_or(|since| now.duration_since(since) > KEEP_PERIOD);
            if is_due || missing == Missing::Made {
                pipeline
                    .cmd("PEXPIRE")
                    .arg(keys::delivery_log(self.boot, core))
                    .arg(keys::DELIVERY_LOG_MS)
                    .ignore();
                prolonged.push(core);
            }
        }
        let mut commands = self.commands.clone();
        let appended: Vec<Option<String>> = pipeline.query_async(&mut commands).await?;
        let mut all = self.kept.borrow_mut();
        for core in prolonged {
            let kept = all.entry(core).or_insert(Kept {
                since: now,
                newest_ms: 0,
            });
            kept.since = now;
        }
        let mut lost: Vec<CoreId> = Vec::new();
        for (Chunk { core, .. }, entry) in chunks.iter().zip(appended) {
            match entry {
                Some(id) => {
                    if let (Some(kept), Some(ms)) = (all.get_mut(core), written_at_ms(&id)) {
                        kept.newest_ms = ms;
                    }
                }
                None if !lost.contains(core) => lost.push(*core),
                None => {}
            }
        }
        Ok(lost)
    }

    /// Waits until a log that Redis had is not there.
    pub(super) async fn is_gone(&self) {
        self.gone.notified().await;
    }

    /// Which lives the logs' servers are in, by core; `None`: not known now. True if one of them is
    /// another than before, or is known for the first time and has been written to already.
    pub(super) fn on_lives(&self, now: impl Iterator<Item = Option<String>>) -> bool {
        let (mut lives, kept) = (self.lives.borrow_mut(), self.kept.borrow());
        let mut changed = false;
        for (core, life) in now.enumerate() {
            if lives.len() <= core {
                lives.push(None);
            }
            if life.is_some() && lives[core] != life {
                changed |= lives[core].is_some() || kept.contains_key(&(core as CoreId));
                lives[core] = life;
            }
        }
        changed
    }

    /// What is there of the logs is of no use. The number of this loss, which the cores have to be
    /// told.
    pub(super) fn begin_anew(&self) -> u64 {
        self.kept.borrow_mut().clear();
        self.loss.update(|loss| loss + 1);
        self.loss.get()
    }

    /// Redis has forgotten what this node wrote.
    pub(super) fn forget(&self) {
        self.forgotten.notify_one();
    }

    /// Waits until Redis has forgotten what this node wrote.
    pub(crate) async fn forgotten(&self) {
        self.forgotten.notified().await;
    }

    /// Writes into the log of another node's core that a session is no longer there.
    pub(crate) async fn end(&self, boot: u32, core: CoreId, session: SessionId) -> RedisResult<()> {
        let (key, commands) = (keys::delivery_log(boot, core), self.commands.clone());
        let session = session.to_string();
        note_taken(commands, &key, &[(keys::TAKEN_FIELD, session)]).await
    }

    /// Reads on in the log of a core, behind what was read before. Chunks of another life of the
    /// server count as lost: what followed them may be lost.
    pub(super) async fn read(&self, boot: u32, core: CoreId, known: &mut Known) -> RedisResult<()> {
        let key = keys::delivery_log(boot, core);
        let mut commands = self.commands.clone();
        loop {
            let from = match &known.after[..] {
                "" => "-".to_owned(),
                after => format!("({after}"),
            };
            let mut pipeline = redis::pipe();
            ask_life(&mut pipeline, &key);
            pipeline
                .cmd("XRANGE")
                .arg(&key)
                .arg(from)
                .arg("+")
                .arg("COUNT")
                .arg(READ_ENTRIES);
            let (life, reply): (String, StreamRangeReply) =
                pipeline.query_async(&mut commands).await?;
            if known.life != life {
                let is_first = known.life.is_empty();
                *known = Known {
                    life,
                    ..Known::default()
                };
                if !is_first {
                    continue;
                }
            }
            let Known {
                history,
                after,
                life,
            } = known;
            let all = reply.ids.len() < READ_ENTRIES;
            for mut entry in reply.ids {
                let is_of_life = entry.get::<String>(keys::LIFE_FIELD).as_ref() == Some(life);
                *after = entry.id;
                if let Some(session) = entry.map.remove(keys::TAKEN_FIELD) {
                    let session = redis::from_redis_value::<String>(session).ok();
                    if let Some(session) = session.as_deref().and_then(SessionId::parse) {
                        history.taken(session);
                    }
                    continue;
                }
                if !is_of_life {
                    continue;
                }
                let chunk = entry.map.remove(keys::STREAM_FIELD);
                let chunk: Vec<u8> = chunk
                    .and_then(|value| redis::from_redis_value(value).ok())
                    .unwrap_or_default();
                if let Err(error) = history.push(&chunk) {
                    tracing::warn!(%error, "a delivery log is not read any further back");
                }
            }
            if all {
                return Ok(());
            }
            yield_now().await;
        }
    }
}

/// Appends a session that was taken over to a stream, which is kept as long as delivery logs.
pub(super) async fn note_taken(
    mut commands: Connection,
    key: &str,
    fields: &[(&str, String)],
) -> RedisResult<()> {
    redis::pipe()
        .cmd("XADD")
        .arg(key)
        .arg("*")
        .arg(fields)
        .ignore()
        .cmd("PEXPIRE")
        .arg(key)
        .arg(keys::DELIVERY_LOG_MS)
        .ignore()
        .query_async(&mut commands)
        .await
}

impl Kept {
    /// If it is not, Redis has lost it.
    fn must_be_there(self, now: Instant) -> bool {
        now.duration_since(self.since) < SURE_FOR
    }

    /// What is older may go.
    fn oldest_ms(self) -> u64 {
        self.newest_ms.saturating_sub(keys::DELIVERY_LOG_MS)
    }
}

/// When an entry was written, by the clock of its server; Unix time.
fn written_at_ms(id: &str) -> Option<u64> {
    id.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::{bus, node::redis};

    /// Until a test gives up.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_core_that_had_no_room_to_be_told_that_its_log_is_stored_is_told_later() {
        let test = async {
            let client = redis::client("redis://127.0.0.1:1").unwrap();
            let commands = client.connection().unwrap();
            let (core, inbox) = bus::inbox();
            let cores: Rc<[CoreHandle]> = Rc::new([core.clone()]);
            let log = DeliveryLog::new(commands, 7, ResumeLog::Sync, cores);
            while core.send(ToCore::KeepClients).is_ok() {}
            log.add(0, 5, Bytes::from_static(b"chunk"), 0);
            log.filled.notified().await;
            log.ship().await;
            while inbox.messages.try_recv().is_ok() {}
            spawn_local(log.run());
            timeout(PATIENCE, inbox.wait()).await.expect("it is told");
            let told = inbox.messages.try_recv();
            assert!(matches!(told, Ok(ToCore::Stored(5))));
        };
        LocalSet::new().run_until(test).await;
    }

    #[test]
    fn a_log_that_ended_by_itself_is_not_missed() {
        let kept = Kept {
            since: Instant::now(),
            newest_ms: 0,
        };
        let lives = Duration::from_millis(keys::DELIVERY_LOG_MS);
        assert!(kept.must_be_there(kept.since + 2 * KEEP_PERIOD));
        assert!(!kept.must_be_there(kept.since + lives));
    }

    #[test]
    fn how_far_a_log_reaches_back_is_a_matter_of_its_servers_clock() {
        let newest_ms = written_at_ms("1700000300000-5").unwrap();
        let kept = Kept {
            since: Instant::now(),
            newest_ms,
        };
        assert_eq!(kept.oldest_ms(), 1_700_000_000_000);
    }
}
