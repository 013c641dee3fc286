//! Notices that Redis has lost something of what it was told: it was emptied, it started anew, or
//! a replica that was behind has taken its place.
//!
//! What is lost may be that others have taken sessions over from this node. So its cores doubt the
//! copies they have, and what was written to a delivery log before is not read any more.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::keys;
use redis::{Pipeline, RedisError, RedisResult};
use tokio::{sync::Mutex, time::timeout};

use super::log::DeliveryLog;
use crate::{
    bus::{CoreHandle, ToCore},
    node::{answer, map::MapWatch},
};

/// Time between looks.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// How long ago the last look may be for whoever relies on it.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);
/// For so long after another node was last in the map, sessions may have gone there.
const OTHERS_KEPT: Duration = Duration::from_millis(keys::DELIVERY_LOG_MS);

/// Which life of which server a key is on: another one after every start and fail-over.
const LIFE: &str = r"
    local function of(section, field)
        return string.sub(string.match(redis.call('INFO', section), field .. ':(%x+)') or '', 1, 16)
    end
    return of('server', 'run_id') .. of('replication', 'master_replid')
";

/// Asks for the life of the server that has a key.
pub(super) fn ask_life(pipeline: &mut Pipeline, key: &str) {
    pipeline.cmd("EVAL").arg(LIFE).arg(1).arg(key);
}

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
    seen: RefCell<Seen>,
    /// One look at a time.
    looking: Mutex<()>,
}

#[derive(Default)]
struct Seen {
    /// Of the mark's server; `None` before the first look.
    life: Option<String>,
    /// When it was looked at last.
    at: Option<Instant>,
    /// When the last attempt to look ended.
    tried_at: Option<Instant>,
    /// It was in vain.
    is_blind: bool,
    /// When there was another node in the map.
    others_at: Option<Instant>,
}

impl Losses {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            mark: format!("{:032x}", rand::random::<u128>()),
            seen: RefCell::default(),
            looking: Mutex::new(()),
        })
    }

    /// Looks again and again, at once if a log is not there any more, as long as the task lives.
    pub(crate) async fn watch(self: Rc<Self>) {
        let mut is_gone = false;
        loop {
            let is_lost = {
                let _turn = self.looking.lock().await;
                self.look().await
            };
            if is_gone && !is_lost {
                self.lost().await;
            }
            is_gone = timeout(LOOK_PERIOD, self.parts.log.is_gone()).await.is_ok();
        }
    }

    /// Whether the cores know of everything that Redis had lost a moment ago.
    pub(super) async fn are_known(&self) -> bool {
        let is_recent = || {
            let at = self.seen.borrow().at;
            at.is_some_and(|at| at.elapsed() < LOOK_AGE_MAX)
        };
        if is_recent() {
            return true;
        }
        let came = Instant::now();
        let _turn = self.looking.lock().await;
        // One look is for all who waited for it, also one in vain.
        if self.seen.borrow().tried_at.is_none_or(|at| at < came) {
            self.look().await;
        }
        is_recent()
    }

    /// True if something was lost, which the cores have been told then.
    async fn look(&self) -> bool {
        let looked = self.try_look().await;
        let mut seen = self.seen.borrow_mut();
        seen.tried_at = Some(Instant::now());
        let was_blind = std::mem::replace(&mut seen.is_blind, looked.is_err());
        looked.unwrap_or_else(|error| {
            if !was_blind {
                tracing::warn!(%error, "what Redis has lost is not known: RESUME gets op 9");
            }
            false
        })
    }

    async fn try_look(&self) -> RedisResult<bool> {
        let began = Instant::now();
        let Parts {
            boot,
            map,
            log,
            cores,
            ..
        } = &self.parts;
        if map.current().nodes.len() > 1 {
            self.seen.borrow_mut().others_at = Some(began);
        }
        let mark = keys::mark(*boot);
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SET")
            .arg(&mark)
            .arg(&self.mark)
            .arg("PX")
            .arg(keys::DELIVERY_LOG_MS)
            .arg("GET");
        ask_life(&mut pipeline, &mark);
        for core in 0..cores.len() {
            ask_life(&mut pipeline, &keys::delivery_log(*boot, core as u16));
        }
        let mut commands = self.parts.commands.clone();
        // The logs may be on other servers, one of which may be away.
        let pipeline = pipeline.ignore_errors();
        let said: Vec<RedisResult<Option<String>>> = pipeline.query_async(&mut commands).await?;
        let mut said = said.into_iter();
        let mut next = || said.next().unwrap_or_else(|| Err(no_answer()));
        let (found, life) = (next()?, next()?);
        let logs_changed = log.on_lives((0..cores.len()).map(|_| next().ok().flatten()));
        let is_lost = {
            let mut seen = self.seen.borrow_mut();
            seen.at = Some(began);
            let is_first = seen.life.is_none();
            let is_other = std::mem::replace(&mut seen.life, life.clone()) != life;
            !is_first && (is_other || found.as_ref() != Some(&self.mark)) || logs_changed
        };
        if is_lost {
            self.lost().await;
        }
        Ok(is_lost)
    }

    async fn lost(&self) {
        let Parts { log, cores, .. } = &self.parts;
        let others_at = self.seen.borrow().others_at;
        let doubt = others_at.is_some_and(|at| at.elapsed() < OTHERS_KEPT);
        tracing::info!(doubt, "Redis has lost what it was told: logs begin anew");
        let loss = log.begin_anew();
        for core in 0..cores.len() {
            let message = ToCore::RedisForgot { doubt, loss };
            if answer(cores, core as u16, message).await.is_err() {
                // Until it takes answers again: the next look finds another life.
                self.seen.borrow_mut().life = Some(String::new());
            }
        }
        log.forget();
    }
}

fn no_answer() -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "too few answers").into()
}
