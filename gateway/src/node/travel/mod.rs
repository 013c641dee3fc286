//! A client resumes a session that is not of the core it came to: finds it and brings it here.
//!
//! A session is where its id says (a core of one start of a node), or where its key in Redis
//! says, once it has moved. A node that lives gives it up, with what its client has missed. Of
//! one that does not answer the delivery log is read: it says how far the session was at the
//! client's `s`, and whatever followed is read again from there. Two nodes that bring one
//! session at once are told apart by its generation, which only rises (I13): one of them gets
//! it, and the other looks for it there if its client is still waiting. A client that gave up and
//! came again to one node has its session by the last of its attempts.

mod attempts;
pub(crate) mod claims;
pub(crate) mod holders;
mod lives;
pub(crate) mod log;
pub(crate) mod losses;

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{Id, id::marker::User, keys};
use redis::RedisResult;
use rustc_hash::FxHashMap;
use tokio::{sync::Mutex, time::sleep};

use self::{
    attempts::Attempts,
    claims::Claims,
    holders::{Holder, Holders, Stay},
    log::DeliveryLog,
    losses::Losses,
};
use super::{relay::link::Links, start_limits::StartLimits, to_core::answer, voice::Voice};
use crate::{
    bus::{Claim, Claimed, CoreHandle, NotResumed, ToCore},
    clock,
    codec::Resume,
    delivery::Found,
    names::{CoreId, Seat, SessionId, SessionKey},
    node::relay::frame::Wanted,
    session::record::Travelling,
    telemetry::Resumed,
};

/// A log that ends before what the client has is looked at again after a pause: its node may
/// live, and its next chunk be on the way.
const LOG_LOOKS: u32 = 6;
const LOG_PAUSE: Duration = Duration::from_millis(30);
/// What was read of a log is kept this long after it was last needed: the sessions of a dead node
/// come one after the other.
const HISTORY_KEPT: Duration = Duration::from_secs(60);

/// What a [`Finder`] works with.
pub(crate) struct Parts {
    pub(crate) boot: u32,
    pub(crate) commands: Connection,
    pub(crate) links: Rc<Links>,
    pub(crate) holders: Rc<Holders>,
    pub(crate) claims: Rc<Claims>,
    pub(crate) log: Rc<DeliveryLog>,
    pub(crate) losses: Rc<Losses>,
    pub(crate) limits: Rc<StartLimits>,
    pub(crate) voice: Rc<Voice>,
    pub(crate) cores: Rc<[CoreHandle]>,
}

/// See the module.
pub(crate) struct Finder {
    parts: Parts,
    attempts: Attempts,
    /// What was read of other cores' logs.
    histories: RefCell<Histories>,
}

/// By start of a node and core.
type Histories = FxHashMap<(u32, CoreId), Rc<Mutex<Read>>>;

#[derive(Default)]
struct Read {
    known: log::Known,
    /// When it was read last, and when it was needed.
    read_at: Option<Instant>,
    used: Option<Instant>,
}

/// What becomes of a RESUME where the session is.
pub(crate) enum Own {
    /// It goes on here.
    Stays,
    /// What is here is a copy of a session that goes on elsewhere.
    Copy,
    /// Nobody can tell.
    Unsure,
}

/// Why a session was not brought to the core whose client resumes it.
pub(crate) enum NotFound {
    Because(NotResumed),
    /// That depends on whether the token is anybody's.
    PerhapsToken,
    /// Somebody else took it meanwhile, or Redis has lost who has it.
    Overtaken,
}

impl Finder {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            attempts: Attempts::default(),
            histories: RefCell::default(),
        })
    }

    /// A client resumes a session of the core it came to.
    ///
    /// Without Redis nobody can tell whether the session went on elsewhere meanwhile, unless there
    /// is no other node; nor once Redis has lost something.
    pub(crate) async fn own(&self, core: CoreId, resume: &Resume) -> Own {
        let Some(session) = SessionId::parse(&resume.session_id) else {
            return Own::Unsure;
        };
        let Parts {
            holders, losses, ..
        } = &self.parts;
        let doubts = losses.doubts();
        // Once more if it was not known yet what Redis had lost, and that casts no doubt.
        for _ in 0..2 {
            match holders.stay(session, core, &losses.lives()).await {
                Ok(Stay::Stays) => return Own::Stays,
                Ok(Stay::Copy) => return Own::Copy,
                Ok(Stay::Unknown(life)) => {
                    if !losses.know(&life, session).await || losses.doubts() != doubts {
                        return Own::Unsure;
                    }
                }
                Err(_) if losses.is_alone() => return Own::Stays,
                Err(error) => {
                    tracing::debug!(%error, "who has a session is not known");
                    return Own::Unsure;
                }
            }
        }
        Own::Unsure
    }

    /// Brings the session that a client of a core of ours resumes to that core.
    pub(crate) async fn resume(
        &self,
        core: CoreId,
        connection: SessionKey,
        resume: &Resume,
    ) -> Result<(), NotFound> {
        let session = SessionId::parse(&resume.session_id).ok_or(NotFound::PerhapsToken)?;
        let claim = Claim {
            number: 0,
            session,
            token: resume.token.hash(),
            s: resume.seq,
        };
        // One that is on its way here is known to nobody before it has arrived.
        let attempt = self.attempts.of(session, claim.token);
        let Some(_turn) = attempt.turn().await else {
            return Err(NotFound::Because(NotResumed::Gone));
        };
        let found = self.find(core, &claim).await?;
        self.bring(core, connection, found).await;
        Ok(())
    }

    async fn find(
        &self,
        core: CoreId,
        claim: &Claim,
    ) -> Result<(Box<Travelling>, Resumed), NotFound> {
        let (session, holders) = (claim.session, &self.parts.holders);
        let (holder, life) = holders.of(session).await.map_err(|error| {
            tracing::debug!(%error, "who has a session is not known");
            NotFound::PerhapsToken
        })?;
        let found = match self.claim((holder, &life), claim.clone()).await {
            Some(Claimed::Session(session)) => (session, Resumed::Moved),
            Some(Claimed::InvalidSeq) => return Err(NotFound::Because(NotResumed::InvalidSeq)),
            Some(Claimed::Unknown | Claimed::OtherToken | Claimed::Gone) => {
                return Err(NotFound::PerhapsToken);
            }
            None if holder.boot == self.parts.boot => return Err(NotFound::PerhapsToken),
            None => {
                let session = self.recover(holder, claim).await;
                let session = session.ok_or(NotFound::PerhapsToken)?;
                (session, Resumed::Recovered)
            }
        };
        let taken = match holders.take(session, (holder, &life), core).await {
            // Its node may live, and would not learn that the session is here.
            Ok(true) if found.1 == Resumed::Recovered => self.told(holder, session).await,
            taken => taken,
        };
        match taken {
            Ok(true) => Ok(found),
            Ok(false) => Err(NotFound::Overtaken),
            Err(error) => {
                tracing::warn!(%error, "a session is not taken over");
                holders.gone(session);
                Err(NotFound::PerhapsToken)
            }
        }
    }

    /// The node that had a session and does not answer is told that it has it no longer, and so is
    /// whoever reads its log.
    async fn told(&self, from: Holder, session: SessionId) -> RedisResult<bool> {
        let Parts { holders, log, .. } = &self.parts;
        holders.announce(from, session).await?;
        log.end(from.boot, from.core, session).await?;
        Ok(true)
    }

    /// Gives a session to a core of ours, for a client that waits there.
    async fn bring(
        &self,
        core: CoreId,
        connection: SessionKey,
        (session, how): (Box<Travelling>, Resumed),
    ) {
        let parts = &self.parts;
        let record = &session.record;
        let (id, user, seat) = (record.id, record.user, record.seat);
        if let Some(seat) = seat {
            parts.limits.adopt(user, seat);
        }
        if !record.voice.is_empty() {
            parts.voice.adopt(id.to_string());
        }
        let message = ToCore::Arrived {
            connection,
            session,
            how,
        };
        if answer(&parts.cores, core, message).await.is_err() {
            self.over(core, id, seat.map(|seat| (user, seat))).await;
        }
    }

    /// A core has not taken a session: nobody has it, and any copy that is there from before counts no
    /// longer.
    async fn over(&self, core: CoreId, session: SessionId, seat: Option<(Id<User>, Seat)>) {
        let parts = &self.parts;
        parts.holders.gone(session);
        parts.holders.end_copy(session, core);
        parts.voice.let_go(&session.to_string());
        if let Some((user, seat)) = seat {
            parts.limits.leave_seat(user, seat).await;
        }
    }

    /// Asks whoever has the session; `None`: nobody answers.
    async fn claim(&self, (holder, life): (Holder, &str), claim: Claim) -> Option<Claimed> {
        let parts = &self.parts;
        if holder.boot == parts.boot {
            return parts.claims.here(holder.core, claim, life).await;
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
            generation: holder.generation,
            life: life.to_owned(),
            claim,
        };
        parts.claims.at_node(&parts.links, &node, wanted).await
    }

    /// What the log of a dead node says of a session.
    async fn recover(&self, holder: Holder, claim: &Claim) -> Option<Box<Travelling>> {
        let core = (holder.boot, holder.core);
        let log = self.histories.borrow_mut().entry(core).or_default().clone();
        let session = self.look_up(&log, holder, claim).await;
        // Anybody can name a core that never was. Here and in the list: nobody else waits for it.
        let is_last = Rc::strong_count(&log) == 2;
        if is_last && log.try_lock().is_ok_and(|read| read.known.is_empty()) {
            self.histories.borrow_mut().remove(&core);
        }
        session
    }

    async fn look_up(
        &self,
        log: &Mutex<Read>,
        holder: Holder,
        claim: &Claim,
    ) -> Option<Box<Travelling>> {
        let came = clock::now();
        let mut known = log.lock().await;
        known.used = Some(clock::now());
        let mut found = Found::Unknown;
        for look in 0..LOG_LOOKS {
            if look > 0 {
                sleep(LOG_PAUSE).await;
            }
            // One read is for all who waited for their turn: others may have taken the session over.
            if known.read_at.is_none_or(|at| at < came) || look > 0 {
                let at = clock::now();
                let log = &self.parts.log;
                let read = log.read(holder.boot, holder.core, &mut known.known);
                if let Err(error) = read.await {
                    tracing::warn!(%error, "a delivery log cannot be read");
                    return None;
                }
                known.read_at = Some(at);
            }
            found = known.known.history.at(claim.session, claim.s);
            if !matches!(found, Found::Ahead) {
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
        Some(Box::new(Travelling {
            record: *record,
            s: claim.s,
            dispatches: Vec::new(),
        }))
    }

    /// Gives back the memory of logs that nobody asks for, as long as the task lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            sleep(HISTORY_KEPT).await;
            let now = clock::now();
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

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        model::{Platform, Status},
        shard::Position,
        token::TokenHash,
        voice::VoiceSettings,
    };
    use guildhall_store::pool;
    use prometheus::Registry;
    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::{
        bus,
        config::{RateLimits, ResumeLog},
        node::{
            database::PATIENCE, map::MapWatch, metrics::Metrics, redis, relay::auth::ClusterKey,
        },
        session::record::SessionRecord,
    };

    const BOOT: u32 = 7;

    /// Of a node without Postgres and Redis.
    fn finder(cores: Vec<CoreHandle>) -> Rc<Finder> {
        let client = redis::client("redis://127.0.0.1:1").unwrap();
        let commands = client.connection().unwrap();
        let postgres: PgConnectOptions = "postgres://127.0.0.1:1/none".parse().unwrap();
        let db = pool::open(postgres, 1, PATIENCE);
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let map = Rc::new(MapWatch::new(1));
        let cores: Rc<[CoreHandle]> = cores.into();
        let log = DeliveryLog::new(commands.clone(), BOOT, ResumeLog::Async, cores.clone());
        let holders = Holders::new(BOOT, commands.clone(), cores.clone());
        let losses = Losses::new(losses::Parts {
            boot: BOOT,
            commands: commands.clone(),
            map: map.clone(),
            log: log.clone(),
            cores: cores.clone(),
        });
        let key = ClusterKey::new("key").unwrap();
        Finder::new(Parts {
            boot: BOOT,
            links: Links::new("a".to_owned(), key, map, metrics),
            claims: Claims::new(BOOT, holders.clone(), losses.clone(), Vec::new()),
            holders,
            log,
            losses,
            limits: StartLimits::new(commands.clone(), 1, RateLimits::On),
            voice: Voice::new(
                db,
                commands.clone(),
                1,
                VoiceSettings::default(),
                cores.clone(),
            ),
            commands,
            cores,
        })
    }

    #[tokio::test]
    async fn what_is_counted_of_a_session_that_its_core_does_not_take_is_let_go() {
        let finder = finder(Vec::new());
        let record = SessionRecord {
            id: SessionId::new(BOOT + 1, 0, [1; 10]),
            user: Id::new(10).unwrap(),
            token: TokenHash([1; 32]),
            bot: false,
            seat: Some(5),
            intents: 0,
            shard: (0, 1),
            large_threshold: 50,
            capabilities: 0,
            compress: false,
            platform: Platform::Web,
            status: Status::Online,
            activities: None,
            voice: vec![Id::new(77 << 22).unwrap()],
            watches: Vec::new(),
            home: Position { era: 1, seq: 1 },
            guilds: Vec::new(),
        };
        let session = Travelling {
            record,
            s: 1,
            dispatches: Vec::new(),
        };
        let connection = SessionKey {
            slot: 0,
            generation: 1,
        };
        let found = (Box::new(session), Resumed::Moved);
        finder.bring(0, connection, found).await;
        assert!(!finder.parts.limits.has_seats());
        assert!(!finder.parts.voice.keeps_any());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_log_that_is_not_there() {
        let finder = finder(Vec::new());
        let claim = Claim {
            number: 0,
            session: SessionId::new(BOOT + 1, 0, [1; 10]),
            token: TokenHash([1; 32]),
            s: 1,
        };
        let holder = Holder {
            generation: 0,
            boot: BOOT + 1,
            core: 0,
        };
        assert_eq!(finder.recover(holder, &claim).await, None);
        assert!(finder.histories.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_core_that_has_not_taken_a_session_ends_the_copy_that_it_has() {
        let (core, inbox) = bus::inbox();
        let finder = finder(vec![core.clone()]);
        while core.send(ToCore::KeepClients).is_ok() {}
        let session = SessionId::new(BOOT + 1, 0, [1; 10]);
        finder.over(0, session, None).await;
        inbox.messages.try_iter().for_each(drop);
        finder.parts.holders.end_rest();
        let told: Vec<ToCore> = inbox.messages.try_iter().collect();
        assert!(
            matches!(&told[..], [ToCore::Taken(taken)] if *taken == session),
            "{told:?}"
        );
    }
}
