//! Who has a session: what Redis says of it, and what this node knows of the sessions here.
//!
//! A session that was never resumed is where its id says. Every RESUME, wherever it comes to,
//! raises the session's generation in Redis by compare-and-set: of two nodes with a copy of one
//! session only one gets it, and the other learns that its copy counts no longer (I13).

use std::{cell::RefCell, rc::Rc, sync::LazyLock, time::Duration};

use guildhall_redis::Connection;
use guildhall_shared::keys;
use redis::{RedisResult, Script, streams::StreamRangeReply};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::{sleep, timeout};

use super::{
    lives::LIFE,
    log::{DeliveryLog, note_taken},
};
use crate::{
    broken::{self, Broken},
    bus::{CoreHandle, ToCore},
    names::{CoreId, SessionId},
    node::redis::invoke_all,
};

/// Time between signs of life of sessions that Redis says are here, far below
/// [`keys::SESSION_TTL_MS`].
const RENEW_PERIOD: Duration = Duration::from_secs(60);
/// Sessions renewed with one round trip.
const RENEWED_AT_ONCE: usize = 500;
/// Time between looks for sessions that other nodes have taken over.
const TAKEN_PERIOD: Duration = Duration::from_secs(2);
/// Of those, read at once.
const TAKEN_AT_ONCE: usize = 1000;
/// Attempts to stay: one more for each that a core made before and has no answer to.
const STAY_ATTEMPTS_MAX: u32 = 4;

/// Who has a session, and in which life Redis says so.
pub(crate) static OF: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        r"{LIFE} return {{redis.call('GET', KEYS[1]) or '', life()}}"
    ))
});

/// Gives a session to a core of this node if its generation is the one that was read, and Redis has
/// lost nothing since; 0 if not.
pub(crate) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        r"{LIFE}
        local stored = redis.call('GET', KEYS[1])
        local generation = 0
        if stored then
            generation = tonumber(string.match(stored, '^(%d+) ')) or 0
        end
        if generation ~= tonumber(ARGV[1]) or life() ~= ARGV[4] then
            return 0
        end
        redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
        return 1
        "
    ))
});

/// Lua: the function `keep()`, which writes who has a session, if that is still who it was; 0 if
/// somebody has a later generation of it, or the same. What Redis lost says nothing against it.
const KEEP: &str = r"
    local function keep()
        local stored = redis.call('GET', KEYS[1])
        if stored and stored ~= ARGV[2] then
            local generation = tonumber(string.match(stored, '^(%d+) ')) or 0
            if generation >= tonumber(ARGV[1]) then
                return 0
            end
        end
        redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
        return 1
    end
";

pub(crate) static RENEW: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{KEEP} return keep()")));

/// The same, but for a client that comes back: nothing is done, and -1 the answer, unless it is known
/// what Redis had lost. The second answer is its life, the third who had the session.
pub(crate) static STAY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        r"{LIFE} {KEEP}
        local now = life()
        if not string.find(ARGV[5], ' ' .. now .. ' ', 1, true) then
            return {{-1, now, ''}}
        end
        local had = redis.call('GET', KEYS[1]) or ''
        return {{keep(), now, had}}
        "
    ))
});

/// Who has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// How often it was resumed.
    pub(crate) generation: u64,
    pub(crate) boot: u32,
    pub(crate) core: CoreId,
}

/// What becomes of a session here whose client comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stay {
    /// It goes on here.
    Stays,
    /// What is here is a copy of a session that goes on elsewhere.
    Copy,
    /// Redis is in this life, and what it lost before is not known.
    Unknown(String),
}

/// See the module.
pub(crate) struct Holders {
    boot: u32,
    commands: Connection,
    cores: Rc<[CoreHandle]>,
    /// Sessions here of which Redis says so: those that were resumed.
    here: RefCell<FxHashMap<SessionId, Holder>>,
    /// Copies that count no longer, at cores that had no room to be told so.
    unended: RefCell<FxHashSet<(SessionId, CoreId)>>,
}

impl Holders {
    pub(crate) fn new(boot: u32, commands: Connection, cores: Rc<[CoreHandle]>) -> Rc<Self> {
        Rc::new(Self {
            boot,
            commands,
            cores,
            here: RefCell::default(),
            unended: RefCell::default(),
        })
    }

    /// Who has a session, as Redis says, and the life in which it does.
    pub(super) async fn of(&self, session: SessionId) -> RedisResult<(Holder, String)> {
        let mut commands = self.commands.clone();
        let (stored, life): (String, String) = OF
            .key(keys::session(&session.to_string()))
            .invoke_async(&mut commands)
            .await?;
        let holder = Holder::parse(&stored).unwrap_or_else(|| Holder::by_id(session));
        Ok((holder, life))
    }

    /// The generation of the copy that is here, as far as this node knows.
    pub(crate) fn generation(&self, session: SessionId) -> u64 {
        let here = self.here.borrow();
        here.get(&session).map_or(0, |holder| holder.generation)
    }

    /// Whether a session is at another core of this node: what this one has is a copy from before.
    pub(crate) fn is_elsewhere(&self, session: SessionId, core: CoreId) -> bool {
        let here = self.here.borrow();
        here.get(&session).is_some_and(|holder| holder.core != core)
    }

    /// Gives a session to a core of this node; `false`: somebody else was faster, or Redis has lost
    /// something since it said who has it.
    pub(super) async fn take(
        &self,
        session: SessionId,
        (from, life): (Holder, &str),
        core: CoreId,
    ) -> RedisResult<bool> {
        let to = self.next(from, core);
        let mut commands = self.commands.clone();
        let taken: bool = TAKE
            .key(keys::session(&session.to_string()))
            .arg(from.generation)
            .arg(to.to_string())
            .arg(keys::SESSION_TTL_MS)
            .arg(life)
            .invoke_async(&mut commands)
            .await?;
        let taken = taken || broken::is(Broken::Generation);
        if taken {
            self.came(session, to);
        }
        Ok(taken)
    }

    /// A session goes on at a core of this node. Another one that had it, and did not give it up now,
    /// has a copy from before it went elsewhere.
    pub(crate) fn came(&self, session: SessionId, to: Holder) {
        // What its core is told next of this session is that it is there again.
        self.unended.borrow_mut().remove(&(session, to.core));
        let before = self.here.borrow_mut().insert(session, to);
        if let Some(before) = before
            && before.core != to.core
        {
            self.end_copy(session, before.core);
        }
    }

    /// A client resumes a session where it is. `lives`: those of Redis of which it is known what was
    /// lost before them.
    pub(super) async fn stay(
        &self,
        session: SessionId,
        core: CoreId,
        lives: &str,
    ) -> RedisResult<Stay> {
        let known = self.here.borrow().get(&session).copied();
        let is_over = self.unended.borrow().contains(&(session, core));
        if is_over || known.is_some_and(|known| known.core != core) {
            self.end_copy(session, core);
            return Ok(Stay::Copy);
        }
        let mut known = known.unwrap_or_else(|| Holder::by_id(session));
        let mut commands = self.commands.clone();
        for _ in 0..STAY_ATTEMPTS_MAX {
            let next = self.next(known, core);
            let mut script = keep(&STAY, session, known, next);
            let (stays, life, had): (i64, String, String) =
                script.arg(lives).invoke_async(&mut commands).await?;
            if stays == 1 || broken::is(Broken::Generation) {
                self.here.borrow_mut().insert(session, next);
                return Ok(Stay::Stays);
            }
            if stays < 0 {
                return Ok(Stay::Unknown(life));
            }
            // This core's own words: of an attempt whose answer is on its way, or was lost.
            match Holder::parse(&had) {
                Some(had) if had.boot == self.boot && had.core == core => known = had,
                _ => break,
            }
        }
        self.lose(session, core);
        Ok(Stay::Copy)
    }

    /// Tells the node that had a session, should it live, that it has it no longer.
    pub(super) async fn announce(&self, from: Holder, session: SessionId) -> RedisResult<()> {
        let (key, commands) = (keys::taken(from.boot), self.commands.clone());
        let fields = [
            (keys::STREAM_FIELD, session.to_string()),
            (keys::GENERATION_FIELD, (from.generation + 1).to_string()),
        ];
        note_taken(commands, &key, &fields).await
    }

    /// A session is no longer here.
    pub(crate) fn gone(&self, session: SessionId) {
        self.here.borrow_mut().remove(&session);
    }

    fn next(&self, from: Holder, core: CoreId) -> Holder {
        Holder {
            generation: from.generation + 1,
            boot: self.boot,
            core,
        }
    }

    /// Says again and again which sessions are here, at once if Redis has forgotten, as long as the
    /// task lives.
    pub(crate) async fn renew(self: Rc<Self>, log: Rc<DeliveryLog>) {
        loop {
            let _ = timeout(RENEW_PERIOD, log.forgotten()).await;
            let here: Vec<(SessionId, Holder)> = {
                let here = self.here.borrow();
                here.iter().map(|(&id, &holder)| (id, holder)).collect()
            };
            for some in here.chunks(RENEWED_AT_ONCE) {
                if let Err(error) = self.renew_some(some).await {
                    tracing::debug!(%error, "sessions were not renewed");
                    break;
                }
            }
        }
    }

    async fn renew_some(&self, here: &[(SessionId, Holder)]) -> RedisResult<()> {
        let mut commands = self.commands.clone();
        let mut pipeline = redis::pipe();
        for &(session, holder) in here {
            pipeline.invoke_script(&keep(&RENEW, session, holder, holder));
        }
        let ours = invoke_all::<bool>(&mut commands, &RENEW, &mut pipeline).await?;
        for (&(session, holder), ours) in here.iter().zip(ours) {
            // It may have been resumed since.
            let as_it_was = self.here.borrow().get(&session) == Some(&holder);
            if matches!(ours, Ok(false)) && as_it_was {
                self.lose(session, holder.core);
            }
        }
        Ok(())
    }

    /// Ends the copies of sessions that other nodes have taken over, as long as the task lives.
    pub(crate) async fn watch_taken(self: Rc<Self>) {
        let mut after = "0".to_owned();
        loop {
            sleep(TAKEN_PERIOD).await;
            self.end_rest();
            let read = async |after: &str| {
                let mut commands = self.commands.clone();
                redis::cmd("XRANGE")
                    .arg(keys::taken(self.boot))
                    .arg(format!("({after}"))
                    .arg("+")
                    .arg("COUNT")
                    .arg(TAKEN_AT_ONCE)
                    .query_async::<StreamRangeReply>(&mut commands)
                    .await
            };
            if let Err(error) = self.end_taken(&mut after, read).await {
                tracing::debug!(%error, "what others have taken over is not known");
            }
        }
    }

    /// One look: ends all copies that `read` has of, behind the entry `after` and in portions.
    async fn end_taken(
        &self,
        after: &mut String,
        read: impl AsyncFn(&str) -> RedisResult<StreamRangeReply>,
    ) -> RedisResult<()> {
        loop {
            let taken = read(after.as_str()).await?;
            let is_all = taken.ids.len() < TAKEN_AT_ONCE;
            for entry in taken.ids {
                if let Some(session) = entry.get::<String>(keys::STREAM_FIELD)
                    && let Some(session) = SessionId::parse(&session)
                {
                    let here = self.here.borrow().get(&session).copied();
                    let here = here.unwrap_or_else(|| Holder::by_id(session));
                    let taken: Option<u64> = entry.get(keys::GENERATION_FIELD);
                    // It may have come back since.
                    if taken.is_none_or(|taken| taken > here.generation) {
                        self.lose(session, here.core);
                    }
                }
                *after = entry.id;
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// The copy that a core has counts no longer.
    fn lose(&self, session: SessionId, core: CoreId) {
        if broken::is(Broken::Generation) {
            return;
        }
        self.gone(session);
        self.end_copy(session, core);
    }

    /// A core's copy of a session, if it has one, counts no longer. Who has no room is told with the
    /// next look.
    pub(super) fn end_copy(&self, session: SessionId, core: CoreId) {
        let mut unended = self.unended.borrow_mut();
        match self.is_told(session, core) {
            true => {
                unended.remove(&(session, core));
            }
            false if unended.insert((session, core)) => {
                tracing::warn!("a core is too busy to end a session that is elsewhere");
            }
            false => {}
        }
    }

    /// Ends the copies of which their cores could not be told before.
    pub(super) fn end_rest(&self) {
        let mut unended = self.unended.borrow_mut();
        unended.retain(|&(session, core)| !self.is_told(session, core));
    }

    /// True if there is no such core.
    fn is_told(&self, session: SessionId, core: CoreId) -> bool {
        let core = self.cores.get(usize::from(core));
        core.is_none_or(|core| core.send(ToCore::Taken(session)).is_ok())
    }
}

fn keep(
    script: &'static Script,
    session: SessionId,
    from: Holder,
    to: Holder,
) -> redis::ScriptInvocation<'static> {
    let mut invocation = script.key(keys::session(&session.to_string()));
    invocation
        .arg(from.generation)
        .arg(from.to_string())
        .arg(to.to_string())
        .arg(keys::SESSION_TTL_MS);
    invocation
}

impl Holder {
    /// Who has a session that was never resumed.
    fn by_id(session: SessionId) -> Self {
        Self {
            generation: 0,
            boot: session.boot(),
            core: session.core(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let generation = words.next()?.parse().ok()?;
        let boot = u32::from_str_radix(words.next()?, 16).ok()?;
        let core = words.next()?.parse().ok()?;
        Some(Self {
            generation,
            boot,
            core,
        })
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            generation,
            boot,
            core,
        } = self;
        write!(f, "{generation} {boot:08x} {core}")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ::redis::{Value, streams::StreamId};

    use super::*;
    use crate::{bus, node::redis};

    const BOOT: u32 = 7;

    #[tokio::test]
    async fn of_two_copies_here_the_one_from_before_the_session_went_elsewhere_ends() {
        let ((first, first_inbox), (second, _second_inbox)) = (bus::inbox(), bus::inbox());
        // Nobody is there, nor asked.
        let nowhere = redis::client("redis://127.0.0.1:1").unwrap();
        let cores = vec![first, second].into();
        let holders = Holders::new(BOOT, nowhere.connection().unwrap(), cores);
        let session = SessionId::new(BOOT + 1, 0, [1; 10]);
        let at = |generation, core| Holder {
            generation,
            boot: BOOT,
            core,
        };
        let ended = || {
            let messages = first_inbox.messages.try_iter();
            messages
                .filter(|message| matches!(message, ToCore::Taken(id) if *id == session))
                .count()
        };
        holders.came(session, at(1, 0));
        assert_eq!(ended(), 0);
        // Elsewhere it had the second.
        holders.came(session, at(3, 1));
        assert_eq!(ended(), 1);
        assert_eq!(holders.stay(session, 0, "").await.unwrap(), Stay::Copy);
        assert_eq!(ended(), 1);
        assert_eq!(holders.generation(session), 3);
    }

    /// All sessions of a node that hung were taken over meanwhile.
    #[tokio::test]
    async fn copies_of_many_sessions_end_with_one_look() {
        const MANY: usize = 2 * TAKEN_AT_ONCE + 500;
        let (core, inbox) = bus::inbox();
        let nowhere = redis::client("redis://127.0.0.1:1").unwrap();
        let holders = Holders::new(BOOT, nowhere.connection().unwrap(), vec![core].into());
        let entries: Vec<StreamId> = (1..=MANY)
            .map(|number| {
                let session = format!("{BOOT:08x}{number:024x}").into_bytes();
                StreamId {
                    id: number.to_string(),
                    map: [(keys::STREAM_FIELD.to_owned(), Value::BulkString(session))].into(),
                    ..StreamId::default()
                }
            })
            .collect();
        let reads = Cell::new(0);
        let read = async |after: &str| {
            reads.set(reads.get() + 1);
            let skipped = after.parse().unwrap();
            let ids = entries.iter().skip(skipped).take(TAKEN_AT_ONCE);
            let ids = ids.cloned().collect();
            RedisResult::Ok(StreamRangeReply { ids })
        };
        let mut after = "0".to_owned();
        holders.end_taken(&mut after, read).await.unwrap();
        let messages = inbox.messages.try_iter();
        let ended = messages.filter(|message| matches!(message, ToCore::Taken(_)));
        assert_eq!((ended.count(), reads.get()), (MANY, 3));
        assert_eq!(after, MANY.to_string());
    }

    #[tokio::test]
    async fn a_core_that_had_no_room_ends_a_copy_when_it_has_some() {
        let (core, inbox) = bus::inbox();
        let nowhere = redis::client("redis://127.0.0.1:1").unwrap();
        let cores = vec![core.clone()].into();
        let holders = Holders::new(BOOT, nowhere.connection().unwrap(), cores);
        let session = |number| SessionId::new(BOOT, 0, [number; 10]);
        let (goes, returns) = (session(1), session(2));
        while core.send(ToCore::KeepClients).is_ok() {}
        for session in [goes, returns] {
            holders.lose(session, 0);
            holders.end_rest();
        }
        // Its client is not told before either.
        assert_eq!(holders.stay(goes, 0, "").await.unwrap(), Stay::Copy);
        // It is about to be there again, and not as that copy.
        let here = Holder {
            generation: 2,
            boot: BOOT,
            core: 0,
        };
        holders.came(returns, here);
        inbox.messages.try_iter().for_each(drop);
        let ended = || -> Vec<SessionId> {
            let messages = inbox.messages.try_iter();
            messages
                .filter_map(|message| match message {
                    ToCore::Taken(session) => Some(session),
                    _ => None,
                })
                .collect()
        };
        holders.end_rest();
        assert_eq!(ended(), [goes]);
        holders.end_rest();
        assert!(ended().is_empty());
    }

    #[test]
    fn a_holder_is_read_as_it_is_written() {
        let holder = Holder {
            generation: 3,
            boot: 0xDEAD_BEEF,
            core: 1,
        };
        assert_eq!(holder.to_string(), "3 deadbeef 1");
        assert_eq!(Holder::parse(&holder.to_string()), Some(holder));
        assert_eq!(Holder::parse("3 deadbeef"), None);
    }
}
