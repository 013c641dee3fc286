//! A core: one thread, one runtime, and all it owns: connections, sessions, their realms.
//!
//! Its loop drains the inbox, then makes one write per session that has something to send:
//! idle means a batch of one, load makes batches grow. No task, channel or lock per delivery.

mod asks;
mod budget;
mod clock;
mod connections;
mod doubt;
#[cfg(feature = "echo")]
mod echo;
mod load;
#[cfg(test)]
mod model;
mod outbound;
mod outbox;
mod presence;
mod ready;
mod realms;
mod sessions;
mod snapshots;
#[cfg(test)]
mod tests;
mod travel;
mod unread;
mod views;
mod voice;
mod watch;

pub(crate) use connections::Next;

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::{Id, id::marker::Realm};
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use tokio::{sync::mpsc, task::LocalSet};

use crate::{
    bus::{CoreHandle, Inbox, Subscription, ToCore, ToNode},
    config::ResumeLog,
    connection, delivery,
    dispatch::Layouts,
    hub::Hub,
    names::{CoreId, SessionId, SessionKey, SessionSlot},
    session::Session,
    telemetry::CoreMetrics,
    wire::{PERSON_MESSAGE_BYTES_MAX, Parser},
};
use connections::Connection;

/// How often deadlines are looked at: heartbeats, IDENTIFY, resume windows, stuck writes.
const TICK: Duration = Duration::from_secs(1);
/// Messages taken from the inbox before sessions are written to, and the time they may take: one
/// event of a large guild is for thousands of sessions.
const BATCH_MESSAGES_MAX: usize = 4096;
const BATCH_TIME_MAX: Duration = Duration::from_millis(10);
/// Time sessions are written to before sockets, timers and the inbox get their turn; the rest
/// follows, with what has come for it meanwhile in the same write.
const FLUSH_TIME_MAX: Duration = Duration::from_millis(10);
/// Sessions written to between looks at the clock.
const FLUSH_STEP: usize = 16;
/// What waits for so few sessions is written at once by whoever caused it; more is left to the loop.
const FLUSH_AT_ONCE_MAX: usize = 64;
/// Requests that may wait for the node before the delivery log is left out, and questions without an
/// answer are not asked again.
const CHUNKS_WAITING_MAX: usize = 10_000;
/// Room in the list of sessions to write to that is not given back.
const KEPT_CAPACITY: usize = 4096;

/// What a core is told at its start.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    pub id: CoreId,
    /// Part of session ids: tells sessions of this start of the node from older ones.
    pub boot: u32,
    /// `resume_gateway_url`.
    pub resume_url: Arc<str>,
    /// All cores of this process by their ids, this one included: a RESUME may be another's.
    pub peers: Arc<[CoreHandle]>,
    pub metrics: Arc<CoreMetrics>,
    /// Whether clients are told things before or after the delivery log.
    pub resume: ResumeLog,
    /// Longest message of a client that is no person's;
    /// [`MESSAGE_BYTES_MAX`](crate::wire::MESSAGE_BYTES_MAX) everywhere but in tests of the WebSocket
    /// itself.
    pub message_bytes_max: usize,
    /// Bytes of what was dispatched to one session alone that this core keeps for RESUME.
    pub own_bytes_max: usize,
    /// Sends every message back and does nothing else.
    #[cfg(feature = "echo")]
    pub echo: bool,
}

/// See the module.
pub struct Core {
    config: CoreConfig,
    this: Weak<RefCell<Core>>,
    now: Instant,
    bell: Arc<crate::bus::Bell>,
    connections: Slab<Connection>,
    sessions: Slab<Session>,
    by_id: FxHashMap<SessionId, SessionSlot>,
    hub: Hub,
    /// Sessions with dispatches that were not written yet.
    dirty: VecDeque<SessionSlot>,
    layouts: Layouts,
    /// Requests on their way to the node: sent at the next flush, as its queue takes them.
    outbox: outbox::Outbox,
    subscriptions: Vec<Subscription>,
    /// The same for sessions that lack some of a realm which others here may have.
    lacking: Vec<Subscription>,
    /// Realms whose owner could not be reached: asked for again at the next tick.
    unavailable: FxHashSet<Id<Realm>>,
    /// Sessions for which owners are asked again in a moment.
    behind: FxHashMap<Id<Realm>, Vec<SessionKey>>,
    /// Sessions that lack more of a realm, which is asked for when their clients have taken what they
    /// were told.
    lagging: FxHashSet<(Id<Realm>, SessionKey)>,
    /// Sessions whose user's view changed by events that they did not get, or not in time: they get
    /// the guild again as soon as the rest has come.
    blurred: views::Blurred,
    /// Users whose view changed a moment ago: were this the last of this core, or of an owner, nobody
    /// would know what they were told of it.
    unsettled: views::Unsettled,
    /// Sessions that look at more than they are shown at once.
    looking: VecDeque<SessionKey>,
    node: mpsc::Sender<ToNode>,
    parser: Parser,
    scratch: Box<[u8]>,
    generation: u32,
    draining: bool,
    /// Of the newest order to send clients away or to keep them; older ones are over.
    away_order: u64,
    dispatched: u64,
    /// When the oldest event was stored that sessions wait for; Unix time.
    sampled_from_ms: Option<u64>,
    busy: load::Busy,
    asks: asks::Asks,
    snapshots: snapshots::Snapshots,
    budget: budget::Budget,
    log: delivery::Writer,
    /// Of those who wait for the log, if anybody does.
    held: Option<travel::Held>,
    doubt: doubt::Doubt,
    unread: unread::Unread,
}

/// Runs a core on this thread until its inbox is closed or it was drained.
pub fn run(config: CoreConfig, inbox: Inbox, node: mpsc::Sender<ToNode>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let core = Core::shared(config, inbox.bell.clone(), node);
    local.block_on(&runtime, live(core, inbox));
    Ok(())
}

/// The loop of a core.
pub(crate) async fn live(core: Rc<RefCell<Core>>, inbox: Inbox) {
    let ticking = core.clone();
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            ticking.borrow_mut().tick();
        }
    });
    while !core.borrow().is_drained() {
        if !core.borrow().is_behind() {
            inbox.wait().await;
        }
        let given_way = {
            let mut core = core.borrow_mut();
            let began = clock::now();
            core.now = clock::now();
            for message in inbox.messages.try_iter().take(BATCH_MESSAGES_MAX) {
                core.on_message(message);
                if clock::now().duration_since(began) > BATCH_TIME_MAX {
                    break;
                }
            }
            core.write_for(FLUSH_TIME_MAX);
            core.tell_node();
            core.lag_since(began)
        };
        // Sockets and timers get their turn between batches.
        tokio::task::yield_now().await;
        core.borrow().lag_since(given_way);
    }
}

impl Core {
    pub(crate) fn shared(
        config: CoreConfig,
        bell: Arc<crate::bus::Bell>,
        node: mpsc::Sender<ToNode>,
    ) -> Rc<RefCell<Self>> {
        Rc::new_cyclic(|this| RefCell::new(Self::new(config, this.clone(), bell, node)))
    }

    fn new(
        config: CoreConfig,
        this: Weak<RefCell<Self>>,
        bell: Arc<crate::bus::Bell>,
        node: mpsc::Sender<ToNode>,
    ) -> Self {
        Self {
            parser: Parser::new(PERSON_MESSAGE_BYTES_MAX.max(config.message_bytes_max)),
            held: match config.resume {
                ResumeLog::Async => None,
                ResumeLog::Sync => Some(travel::Held::default()),
            },
            config,
            this,
            now: clock::now(),
            bell,
            connections: Slab::new(),
            sessions: Slab::new(),
            by_id: FxHashMap::default(),
            hub: Hub::default(),
            dirty: VecDeque::new(),
            layouts: Layouts::default(),
            outbox: outbox::Outbox::default(),
            subscriptions: Vec::new(),
            lacking: Vec::new(),
            unavailable: FxHashSet::default(),
            behind: FxHashMap::default(),
            lagging: FxHashSet::default(),
            blurred: views::Blurred::default(),
            unsettled: views::Unsettled::default(),
            looking: VecDeque::new(),
            node,
            scratch: vec![0; connection::READ_BYTES].into_boxed_slice(),
            generation: 0,
            draining: false,
            away_order: 0,
            dispatched: 0,
            sampled_from_ms: None,
            busy: load::Busy::new(),
            asks: asks::Asks::default(),
            snapshots: snapshots::Snapshots::default(),
            budget: budget::Budget::default(),
            log: delivery::Writer::default(),
            doubt: doubt::Doubt::default(),
            unread: unread::Unread::new(clock::now()),
        }
    }

    fn on_message(&mut self, message: ToCore) {
        match message {
            ToCore::Socket(socket) => self.spawn(|core| connection::serve(core, socket)),
            ToCore::Handover(handover) => {
                self.spawn(|core| connection::serve_resume(core, *handover));
            }
            ToCore::Identified { session, result } => self.identified(session, result),
            ToCore::Stays { connection, resume } => self.stays(connection, *resume),
            ToCore::Overtaken { connection, resume } => self.overtaken(connection, *resume),
            ToCore::NotResumed { connection, why } => self.not_resumed(connection, why),
            ToCore::Claim(claim) => self.claimed(*claim),
            ToCore::Arrived {
                connection,
                session,
                how,
            } => self.arrived(connection, *session, how),
            ToCore::Taken(session) => self.taken(session),
            ToCore::Stored(chunk) => self.stored(chunk),
            ToCore::RedisForgot { doubt, loss } => self.redis_forgot(doubt, loss),
            ToCore::SendAway { over } => self.send_away_over(over),
            ToCore::KeepClients => self.keep_clients(),
            ToCore::Missed { session, messages } => self.missed(session, messages),
            ToCore::Tell {
                session,
                answers,
                dispatches,
            } => self.told(session, answers, dispatches),
            ToCore::Subscribed(subscribed) => self.subscribed(*subscribed),
            ToCore::Unavailable { realm } => self.realm_unavailable(realm),
            ToCore::Event(event) => {
                self.event(&event);
                if event.position().is_some() {
                    self.sample_from(event.at_ms);
                }
            }
            ToCore::View { realm, change } => self.view(realm, change),
            ToCore::Drain { over } => self.drain(over),
        }
    }

    fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce(Rc<RefCell<Self>>) -> F) {
        if let Some(this) = self.this.upgrade() {
            tokio::task::spawn_local(task(this));
        }
    }

    /// After something that concerns few sessions: they are written to at once. Where many wait,
    /// the loop does it in its own time. The node is sent what it is to do in any case.
    pub(crate) fn flush(&mut self) {
        if self.dirty.len() <= FLUSH_AT_ONCE_MAX {
            self.write_for(Duration::MAX);
        } else {
            self.bell.ring();
        }
        self.tell_node();
    }

    /// Writes what sessions have waiting, longest waiting first, for about as long as given.
    fn write_for(&mut self, time: Duration) {
        let began = clock::now();
        // What is marked while writing keeps its place for the next flush.
        let mut left = self.dirty.len();
        while left > 0 && (time == Duration::MAX || clock::now().duration_since(began) <= time) {
            let step = left.min(FLUSH_STEP);
            left -= step;
            for _ in 0..step {
                if let Some(slot) = self.dirty.pop_front() {
                    self.flush_session(slot);
                }
            }
        }
        if self.dirty.is_empty() {
            self.sample();
        }
        // Layouts hold dispatches alive.
        self.layouts.clear();
        self.keep_budget();
        if self.dirty.is_empty() && self.dirty.capacity() > KEPT_CAPACITY {
            self.dirty = VecDeque::new();
        }
        if self.dispatched > 0 {
            self.config.metrics.dispatches.inc_by(self.dispatched);
            self.dispatched = 0;
        }
    }

    /// Sends the node what it is to do. Never put off, however many sessions wait to be written
    /// to: those who come wait for the answer.
    fn tell_node(&mut self) {
        self.ask_ready();
        self.ask_for_guilds();
        // A session's own realm is asked for before its guilds.
        let mut subscriptions = realms::gathered(std::mem::take(&mut self.lacking));
        subscriptions.append(&mut self.subscriptions);
        if !subscriptions.is_empty() {
            self.describe(&mut subscriptions);
            self.outbox.push_back(ToNode::Subscribe {
                core: self.config.id,
                subscriptions,
            });
        }
        self.log_deliveries();
        self.post();
    }

    /// Hands the delivery log over. A node that is far behind gets none: whoever reads the log sees
    /// the gap.
    fn log_deliveries(&mut self) {
        let number = self.log.number();
        let Some(chunk) = self.log.take() else { return };
        if let Some(held) = &mut self.held {
            held.sent(number);
        }
        if self.outbox.len() < CHUNKS_WAITING_MAX {
            let core = self.config.id;
            self.outbox.push_back(ToNode::Delivered {
                core,
                number,
                chunk,
                loss: self.doubt.loss(),
            });
        } else {
            self.stored(number);
        }
    }

    /// Sessions wait to be written to.
    fn is_behind(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Counts a time in which one thing of this thread ran; the end of it.
    fn lag_since(&self, began: Instant) -> Instant {
        let now = clock::now();
        let lag = now.duration_since(began);
        self.config.metrics.lag_ms.observe(lag.as_secs_f64() * 1e3);
        now
    }

    /// Moves requests to the node while it has room; the rest waits for the next flush or tick.
    fn post(&mut self) {
        while !self.outbox.is_empty() {
            match self.node.try_reserve() {
                Ok(room) => {
                    if let Some(request) = self.outbox.pop_front() {
                        room.send(request);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                // Nobody will take them any more.
                Err(mpsc::error::TrySendError::Closed(())) => self.outbox.clear(),
            }
        }
    }

    fn tick(&mut self) {
        let began = clock::now();
        self.now = clock::now();
        self.tick_connections();
        self.tick_sessions();
        self.tick_doubt();
        self.tick_realms();
        self.tick_asks();
        self.tick_snapshots();
        self.tick_watches();
        self.tick_looking();
        self.tick_budget();
        self.report_load();
        self.tick_unread();
        self.flush();
        if self.is_drained() {
            self.bell.ring(); // its loop may wait for ever else
        }
        self.lag_since(began);
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Its clients have gone, and the node has been told all of it.
    fn is_drained(&self) -> bool {
        self.draining && self.connections.is_empty() && self.outbox.is_empty()
    }
}
