//! Notices that Redis has lost something of what it was told: it was emptied, it started anew, or
//! a replica that was behind has taken its place.
//!
//! What is lost may be that others have taken sessions over from this node. So its cores doubt the
//! copies they have, and what was written to a delivery log before is not read any more. A life of
//! Redis is known once all cores have been told; whoever relies on a session's key makes sure, in the
//! same step in which it is read or written, that Redis is in a known life.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::keys;
use redis::{Pipeline, RedisError, RedisResult};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    lives::{Lives, ask_life},
    log::DeliveryLog,
};
use crate::{
    bus::{CoreHandle, ToCore},
    clock,
    names::SessionId,
    node::{map::MapWatch, to_core::answer},
};

/// Time between looks.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// Time between signs that this node does not hang, and how late one may be.
const TICK_PERIOD: Duration = Duration::from_millis(500);
const TICK_LATE_MAX: Duration = Duration::from_secs(1);
/// For so long after another node was last in the map, sessions may have gone there.
const OTHERS_KEPT: Duration = Duration::from_millis(keys::DELIVERY_LOG_MS);
/// Keys all over Redis Cluster that are asked for their servers' lives, so that most primaries are
/// known before a session's key is there.
const PROBES: u16 = 16;

/// What a [`Losses`] works with.
pub(crate) struct Parts {
    pub(crate) boot: u32,
    pub(crate) commands: Connection,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) log: Rc<DeliveryLog>,
    pub(crate) cores: Rc<[CoreHandle]>,
}

/// See the module.
pub(crate) struct Losses {
    parts: Parts,
    /// Written to Redis at every look, and looked for at the next one.
    mark: String,
    /// What every look asks.
    questions: Pipeline,
    known: RefCell<Lives>,
    /// How often the cores were told to doubt what they have.
    doubts: Cell<u64>,
    seen: RefCell<Seen>,
    company: RefCell<Company>,
    /// One look at a time.
    looking: Mutex<()>,
}

#[derive(Default)]
struct Seen {
    /// The mark has been written.
    marked: bool,
    /// Some core has not been told of the last loss.
    untold: bool,
    /// When the last attempt to look ended.
    tried_at: Option<Instant>,
    /// It was in vain.
    is_blind: bool,
}

/// Whether there are other nodes, as far as a node that may hang can tell.
struct Company {
    /// When there was one, or might have been.
    others_at: Option<Instant>,
    ticked_at: Instant,
}

impl Losses {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        let mark = format!("{:032x}", clock::random::<u128>());
        Rc::new(Self {
            questions: questions(&parts, &mark),
            parts,
            mark,
            known: RefCell::default(),
            doubts: Cell::new(0),
            seen: RefCell::default(),
            company: RefCell::new(Company {
                others_at: None,
                ticked_at: clock::now(),
            }),
            looking: Mutex::new(()),
        })
    }

    /// Looks again and again, at once if a log is not there any more, as long as the task lives.
    pub(crate) async fn watch(self: Rc<Self>) {
        let mut is_gone = false;
        loop {
            {
                let _turn = self.looking.lock().await;
                if !self.look().await && is_gone {
                    self.lost().await;
                }
            }
            is_gone = timeout(LOOK_PERIOD, self.parts.log.is_gone()).await.is_ok();
        }
    }

    /// Keeps an eye on whether this node hangs, as long as the task lives.
    pub(crate) async fn tick(self: Rc<Self>) {
        loop {
            self.is_alone();
            sleep(TICK_PERIOD).await;
        }
    }

    /// Whether no other node can have taken a session over: none has been in the map for long, and
    /// this one has not stood still, in which case its map would be old.
    pub(super) fn is_alone(&self) -> bool {
        let mut company = self.company.borrow_mut();
        let now = clock::now();
        let hung = now.duration_since(company.ticked_at) > TICK_PERIOD + TICK_LATE_MAX;
        if hung || self.parts.map.current().nodes.len() > 1 {
            company.others_at = Some(now);
        }
        company.ticked_at = now;
        let since = company.others_at.map(|at| now.duration_since(at));
        since.is_none_or(|since| since >= OTHERS_KEPT)
    }

    /// The lives that the cores know of, for a script to look its own up.
    pub(super) fn lives(&self) -> String {
        self.known.borrow().list()
    }

    /// How often the cores were told to doubt what they have.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.get()
    }

    /// Whether the server that has a session's key is in this life, and the cores know of everything
    /// that was lost before it; they are told first if they do not.
    pub(super) async fn know(&self, life: &str, session: SessionId) -> bool {
        let is_known = || self.known.borrow().contains(life);
        if is_known() {
            return true;
        }
        let came = clock::now();
        let _turn = self.looking.lock().await;
        // One look is for all who waited for it, also one in vain.
        if !is_known() && self.seen.borrow().tried_at.is_none_or(|at| at < came) {
            self.look().await;
        }
        if !is_known() {
            // The look may have been at other servers. What was said may be out of date by now.
            match self.ask(session).await {
                Ok(now) if self.known.borrow().contains(&now) => {}
                Ok(now) => {
                    if self.lost().await {
                        self.known.borrow_mut().insert(now);
                    }
                }
                Err(error) => tracing::debug!(%error, "what Redis has lost is not known"),
            }
        }
        is_known()
    }

    /// The present life of the server that has a session's key.
    async fn ask(&self, session: SessionId) -> RedisResult<String> {
        let mut pipeline = redis::pipe();
        ask_life(&mut pipeline, &keys::session(&session.to_string()));
        let mut commands = self.parts.commands.clone();
        let (life,) = pipeline.query_async(&mut commands).await?;
        Ok(life)
    }

    /// True if something was lost, which the cores are told then.
    async fn look(&self) -> bool {
        let looked = self.try_look().await;
        let mut seen = self.seen.borrow_mut();
        seen.tried_at = Some(clock::now());
        let was_blind = std::mem::replace(&mut seen.is_blind, looked.is_err());
        looked.unwrap_or_else(|error| {
            if !was_blind {
                tracing::warn!(%error, "what Redis has lost is not known");
            }
            false
        })
    }

    async fn try_look(&self) -> RedisResult<bool> {
        let Parts { log, cores, .. } = &self.parts;
        let mut commands = self.parts.commands.clone();
        let said: Vec<RedisResult<Option<String>>> =
            self.questions.query_async(&mut commands).await?;
        let mut said = said.into_iter();
        let mut next = || said.next().unwrap_or_else(|| Err(no_answer()));
        let (found, life) = (next()?, next()?);
        let of_logs: Vec<Option<String>> =
            (0..cores.len()).map(|_| next().ok().flatten()).collect();
        let logs_changed = log.on_lives(of_logs.iter().cloned());
        let of_probes = said.filter_map(Result::ok);
        let lives = [life].into_iter().chain(of_logs).chain(of_probes).flatten();
        let lives: Vec<String> = lives.collect();
        let is_lost = {
            let (mut seen, known) = (self.seen.borrow_mut(), self.known.borrow());
            let unmarked =
                std::mem::replace(&mut seen.marked, true) && found.as_deref() != Some(&self.mark);
            let other = !known.is_empty() && !lives.iter().all(|life| known.contains(life));
            logs_changed || unmarked || other || seen.untold
        };
        if !is_lost || self.lost().await {
            let mut known = self.known.borrow_mut();
            lives.into_iter().for_each(|life| known.insert(life));
        }
        Ok(is_lost)
    }

    /// Tells the cores; false if one of them takes no messages: the next look tells them again.
    async fn lost(&self) -> bool {
        let Parts { log, cores, .. } = &self.parts;
        let doubt = !self.is_alone();
        tracing::info!(doubt, "Redis has lost what it was told: logs begin anew");
        let loss = log.begin_anew();
        let mut told = true;
        for core in 0..cores.len() {
            let message = ToCore::RedisForgot { doubt, loss };
            told &= answer(cores, core as u16, message).await.is_ok();
        }
        self.doubts.update(|doubts| doubts + u64::from(doubt));
        self.seen.borrow_mut().untold = !told;
        log.forget();
        told
    }
}

/// The mark, written and read; the lives of its server, of those of the logs, and, in Redis Cluster, of
/// those of the probes.
fn questions(parts: &Parts, mark: &str) -> Pipeline {
    let (boot, key) = (parts.boot, keys::mark(parts.boot));
    let mut pipeline = redis::pipe();
    pipeline
        .cmd("SET")
        .arg(&key)
        .arg(mark)
        .arg("PX")
        .arg(keys::DELIVERY_LOG_MS)
        .arg("GET");
    ask_life(&mut pipeline, &key);
    for core in 0..parts.cores.len() {
        ask_life(&mut pipeline, &keys::delivery_log(boot, core as u16));
    }
    if matches!(parts.commands, Connection::Cluster(_)) {
        for probe in 0..PROBES {
            ask_life(&mut pipeline, &keys::probe(probe));
        }
    }
    // Some may be on servers that are away.
    pipeline.ignore_errors();
    pipeline
}

fn no_answer() -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "too few answers").into()
}
