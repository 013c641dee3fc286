//! A client resumes a session that is not of the core it came to: finds it and brings it here.
//!
//! A session is where its id says (a core of one start of a node), or where its key in Redis
//! says, once it has moved. A node that lives gives it up, with what its client has missed. Of
//! one that does not answer the delivery log is read: it says how far the session was at the
//! client's `s`, and whatever followed is read again from there. Two nodes that bring one
//! session at once are told apart by its generation, which only rises (I13): one of them gets
//! it, the other's client is told op 9.

pub(crate) mod claims;
pub(crate) mod log;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::LazyLock,
    time::{Duration, Instant},
};

use guildhall_shared::keys;
use redis::{RedisResult, Script, aio::ConnectionManager, streams::StreamRangeReply};
use rustc_hash::FxHashMap;
use tokio::{sync::Mutex, time::sleep};

use self::{claims::Claims, log::DeliveryLog};
use super::{answer, relay::link::Links, start_limits::StartLimits, voice::Voice};
use crate::{
    bus::{Claim, Claimed, CoreHandle, CoreId, NotResumed, SessionKey, ToCore},
    codec::Resume,
    delivery::{Found, History},
    node::relay::frame::Wanted,
    session::{SessionId, record::Travelling},
    telemetry::Resumed,
};

/// A log that ends before what the client has is looked at again after a pause: its node may
/// live, and its next chunk be on the way.
const LOG_LOOKS: u32 = 6;
const LOG_PAUSE: Duration = Duration::from_millis(30);
/// What was read of a log is kept this long after it was last needed: the sessions of a dead node
/// come one after the other.
const HISTORY_KEPT: Duration = Duration::from_secs(60);
/// Time between signs of life of sessions that are not where their id says, far below
/// [`keys::SESSION_TTL_MS`].
const GUESTS_PERIOD: Duration = Duration::from_secs(60);
/// Sessions renewed with one round trip.
const RENEWED_AT_ONCE: usize = 500;
/// Time between looks for sessions that other nodes have taken over.
const TAKEN_PERIOD: Duration = Duration::from_secs(2);
/// Of those, read at once.
const TAKEN_AT_ONCE: usize = 1000;

/// Gives a session to a core of this node if its generation is the one that was read; 0 if not.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local stored = redis.call('GET', KEYS[1])
        local generation = 0
        if stored then
            generation = tonumber(string.match(stored, '^(%d+) ')) or 0
        end
        if generation ~= tonumber(ARGV[1]) then
            return 0
        end
        redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
        return 1
        ",
    )
});

/// Says that a session is still here; 0 if somebody has a later generation of it.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local stored = redis.call('GET', KEYS[1])
        if stored then
            local generation = tonumber(string.match(stored, '^(%d+) ')) or 0
            if generation > tonumber(ARGV[1]) then
                return 0
            end
        end
        redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
        return 1
        ",
    )
});

/// What a [`Finder`] works with.
pub(crate) struct Parts {
    pub(crate) boot: u32,
    pub(crate) commands: ConnectionManager,
    pub(crate) links: Rc<Links>,
    pub(crate) claims: Rc<Claims>,
    pub(crate) log: Rc<DeliveryLog>,
    pub(crate) limits: Rc<StartLimits>,
    pub(crate) voice: Rc<Voice>,
    pub(crate) cores: Rc<[CoreHandle]>,
}

/// See the module.
pub(crate) struct Finder {
    parts: Parts,
    /// Sessions here whose id says that they are elsewhere.
    guests: RefCell<FxHashMap<SessionId, Holder>>,
    /// What was read of other cores' logs.
    histories: RefCell<Histories>,
}

/// By start of a node and core.
type Histories = FxHashMap<(u32, CoreId), Rc<Mutex<Known>>>;

/// Who has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    /// How often it has moved.
    generation: u64,
    boot: u32,
    core: CoreId,
}

/// A core's log as far as it was read.
#[derive(Default)]
struct Known {
    history: History,
    /// Id of the last entry read.
    after: String,
    used: Option<Instant>,
}

impl Finder {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            guests: RefCell::default(),
            histories: RefCell::default(),
        })
    }

    /// The session that a client of a core of ours resumes.
    ///
    /// Errors: why there is none; `None`: that depends on whether the token is anybody's.
    pub(crate) async fn find(
        &self,
        core: CoreId,
        resume: &Resume,
    ) -> Result<(Box<Travelling>, Resumed), Option<NotResumed>> {
        let session = SessionId::parse(&resume.session_id).ok_or(None)?;
        let holder = self.holder(session).await.map_err(|error| {
            tracing::debug!(%error, "who has a session is not known");
            None
        })?;
        let claim = Claim {
            number: 0,
            session,
            token: resume.token.hash(),
            s: resume.seq,
        };
        let found = match self.claim(holder, claim.clone()).await {
            Some(Claimed::Session(session)) => (session, Resumed::Moved),
            Some(Claimed::InvalidSeq) => return Err(Some(NotResumed::InvalidSeq)),
            Some(Claimed::Unknown | Claimed::OtherToken | Claimed::Gone) => return Err(None),
            None if holder.boot == self.parts.boot => return Err(None),
            None => {
                let session = self.recover(holder, &claim).await.ok_or(None)?;
                (session, Resumed::Recovered)
            }
        };
        let here = Holder {
            generation: holder.generation + 1,
            boot: self.parts.boot,
            core,
        };
        match self.take(session, holder, here).await {
            Ok(true) => {}
            Ok(false) => return Err(None),
            Err(error) => {
                tracing::warn!(%error, "a session is not taken over");
                return Err(None);
            }
        }
        self.guests.borrow_mut().insert(session, here);
        Ok(found)
    }

    /// Gives a session to a core of ours, for a client that waits there.
    pub(crate) async fn bring(
        &self,
        core: CoreId,
        connection: SessionKey,
        (session, how): (Box<Travelling>, Resumed),
    ) {
        let parts = &self.parts;
        let record = &session.record;
        if let Some(seat) = record.seat {
            parts.limits.adopt(record.user, seat);
        }
        if !record.voice.is_empty() {
            parts.voice.adopt(record.id.to_string());
        }
        let message = ToCore::Arrived {
            connection,
            session,
            how,
        };
        if let Err(ToCore::Arrived { session, .. }) = answer(&parts.cores, core, message).await {
            self.guests.borrow_mut().remove(&session.record.id);
        }
    }

    /// A session is no longer here.
    pub(crate) fn gone(&self, session_id: &str) {
        if let Some(session) = SessionId::parse(session_id) {
            self.guests.borrow_mut().remove(&session);
        }
    }

    async fn holder(&self, session: SessionId) -> RedisResult<Holder> {
        let mut commands = self.parts.commands.clone();
        let stored: Option<String> = redis::cmd("GET")
            .arg(keys::session(&session.to_string()))
            .query_async(&mut commands)
            .await?;
        let moved = stored.as_deref().and_then(Holder::parse);
        Ok(moved.unwrap_or(Holder {
            generation: 0,
            boot: session.boot(),
            core: session.core(),
        }))
    }

    /// Asks whoever has the session; `None`: nobody answers.
    async fn claim(&self, holder: Holder, claim: Claim) -> Option<Claimed> {
        let parts = &self.parts;
        if holder.boot == parts.boot {
            return parts.claims.here(holder.core, claim).await;
        }
        let mut commands = parts.commands.clone();
        let node: RedisResult<Option<String>> = redis::cmd("GET")
            .arg(keys::boot(holder.boot))
            .query_async(&mut commands)
            .await;
        let node: Rc<str> = node.ok()??.into();
        let wanted = Wanted {
            boot: holder.boot,
            core: holder.core,
            claim,
        };
        parts.claims.at_node(&parts.links, &node, wanted).await
    }

    /// What the log of a dead node says of a session.
    async fn recover(&self, holder: Holder, claim: &Claim) -> Option<Box<Travelling>> {
        let known = {
            let mut histories = self.histories.borrow_mut();
            let known = histories.entry((holder.boot, holder.core)).or_default();
            known.clone()
        };
        let mut known = known.lock().await;
        known.used = Some(Instant::now());
        let mut found = known.history.at(claim.session, claim.s);
        for look in 0..LOG_LOOKS {
            if let Found::At(_) = found {
                break;
            }
            if look > 0 {
                sleep(LOG_PAUSE).await;
            }
            let Known { history, after, .. } = &mut *known;
            let read = self
                .parts
                .log
                .read(holder.boot, holder.core, history, after);
            if let Err(error) = read.await {
                tracing::warn!(%error, "a delivery log cannot be read");
                return None;
            }
            found = known.history.at(claim.session, claim.s);
            if !matches!(found, Found::At(_) | Found::Ahead) {
                break;
            }
        }
        let Found::At(record) = found else {
            tracing::debug!(?found, "a delivery log does not tell where a session stood");
            return None;
        };
        if record.token != claim.token {
            return None;
        }
        let session = Travelling {
            record: *record,
            s: claim.s,
            dispatches: Vec::new(),
        };
        if let Err(error) = self.announce(holder, claim.session).await {
            // Its node may live, and would not learn that the session is here.
            tracing::warn!(%error, "a session is not taken over");
            return None;
        }
        Some(Box::new(session))
    }

    /// Tells the node that had a session, should it live, that it has it no longer.
    async fn announce(&self, holder: Holder, session: SessionId) -> RedisResult<()> {
        let key = keys::taken(holder.boot);
        let mut commands = self.parts.commands.clone();
        redis::pipe()
            .cmd("XADD")
            .arg(&key)
            .arg("*")
            .arg(keys::STREAM_FIELD)
            .arg(session.to_string())
            .ignore()
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(keys::DELIVERY_LOG_MS)
            .ignore()
            .query_async(&mut commands)
            .await
    }

    async fn take(&self, session: SessionId, from: Holder, to: Holder) -> RedisResult<bool> {
        let mut commands = self.parts.commands.clone();
        TAKE.key(keys::session(&session.to_string()))
            .arg(from.generation)
            .arg(to.to_string())
            .arg(keys::SESSION_TTL_MS)
            .invoke_async(&mut commands)
            .await
    }

    /// Says again and again that sessions from elsewhere are here, as long as the task lives.
    pub(crate) async fn keep_guests(self: Rc<Self>) {
        loop {
            sleep(GUESTS_PERIOD).await;
            let guests: Vec<(SessionId, Holder)> = {
                let guests = self.guests.borrow();
                guests.iter().map(|(&id, &holder)| (id, holder)).collect()
            };
            for guests in guests.chunks(RENEWED_AT_ONCE) {
                if let Err(error) = self.renew(guests).await {
                    tracing::debug!(%error, "sessions were not renewed");
                    break;
                }
            }
        }
    }

    async fn renew(&self, guests: &[(SessionId, Holder)]) -> RedisResult<()> {
        let mut commands = self.parts.commands.clone();
        let mut pipeline = redis::pipe();
        for (session, holder) in guests {
            let renewal = RENEW.key(keys::session(&session.to_string()));
            let mut renewal = renewal;
            renewal
                .arg(holder.generation)
                .arg(holder.to_string())
                .arg(keys::SESSION_TTL_MS);
            pipeline.invoke_script(&renewal);
        }
        let ours: Vec<bool> = pipeline.query_async(&mut commands).await?;
        for (&(session, holder), ours) in guests.iter().zip(ours) {
            if !ours {
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
            let mut commands = self.parts.commands.clone();
            let taken: RedisResult<StreamRangeReply> = redis::cmd("XRANGE")
                .arg(keys::taken(self.parts.boot))
                .arg(format!("({after}"))
                .arg("+")
                .arg("COUNT")
                .arg(TAKEN_AT_ONCE)
                .query_async(&mut commands)
                .await;
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::debug!(%error, "what others have taken over is not known");
                    continue;
                }
            };
            for entry in taken.ids {
                if let Some(session) = entry.get::<String>(keys::STREAM_FIELD)
                    && let Some(session) = SessionId::parse(&session)
                {
                    let guest = self.guests.borrow().get(&session).copied();
                    let core = guest.map_or(session.core(), |holder| holder.core);
                    self.lose(session, core);
                }
                after = entry.id;
            }
        }
    }

    fn lose(&self, session: SessionId, core: CoreId) {
        self.guests.borrow_mut().remove(&session);
        if let Some(core) = self.parts.cores.get(usize::from(core))
            && core.send(ToCore::Taken(session)).is_err()
        {
            tracing::warn!("a core is too busy to end a session that is elsewhere");
        }
    }

    /// Gives back the memory of logs that nobody asks for, as long as the task lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            sleep(HISTORY_KEPT).await;
            let now = Instant::now();
            self.histories.borrow_mut().retain(|_, known| {
                // Locked: it is being read.
                known.try_lock().map_or(true, |known| {
                    known
                        .used
                        .is_some_and(|used| now.duration_since(used) < HISTORY_KEPT)
                })
            });
        }
    }
}

impl Holder {
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
    use super::*;

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
