//! What a core and its node say to each other.
//!
//! A *core* is a thread that owns sockets and sessions (the edge role). The *node* is the
//! one thread of this process that talks to the rest of the cluster: Postgres, Redis, the
//! cluster map, other gateways (the owner role and the relay). Cores never do any of that;
//! the node never touches a socket of a client.
//!
//! Both directions are bounded. A core whose inbox is full loses what does not fit and
//! notices by itself: the next durable event of a realm leaves a gap, and the core
//! subscribes again from the position it has. What one session alone was to be told leaves none: whom
//! that was is noted beside the inbox. Requests to the node wait for room.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::EventKind,
    id::marker::{Channel, Realm, User},
    model::{Presence, SessionState},
    shard::Position,
    token::{Token, TokenHash},
};
use guildhall_store::events::Span;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use crate::gate::Pass;

use crate::{
    ask::{Answers, Ask, WatchChange},
    codec::{Resume, VoiceCommand},
    identity::{IdentifyRequest, Identity, Refused},
    names::{CoreId, Seat, SessionId, SessionKey},
    session::{lifecycle::Lifecycle, record::Travelling},
    telemetry::Resumed,
};

/// Messages a core's inbox holds; what does not fit is dropped and fetched again.
pub const INBOX_MESSAGES_MAX: usize = 65_536;
/// Time an owner has to answer a subscription before another one is asked.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// From a core to the node.
#[derive(Debug)]
pub enum ToNode {
    /// A client sent IDENTIFY; answered by [`ToCore::Identified`].
    Identify {
        core: CoreId,
        session: SessionKey,
        request: IdentifyRequest,
    },
    /// A client sent RESUME with a token that is not the session's;
    /// answered by [`ToCore::NotResumed`].
    CheckToken {
        core: CoreId,
        session: SessionKey,
        token: Token,
    },
    /// A client resumes a session of this core, as far as it knows; answered by
    /// [`ToCore::Stays`], or as [`Self::Find`] is.
    Stay {
        core: CoreId,
        connection: SessionKey,
        resume: Box<Resume>,
    },
    /// A client resumes a session that is not of this core; answered by [`ToCore::Arrived`],
    /// [`ToCore::Overtaken`] or [`ToCore::NotResumed`].
    Find {
        core: CoreId,
        connection: SessionKey,
        resume: Box<Resume>,
    },
    /// Answers [`ToCore::Claim`].
    Claimed { number: u64, result: Box<Claimed> },
    /// A session of this core goes on elsewhere.
    Moved {
        /// As clients know it.
        session_id: String,
        /// A person's.
        seat: Option<(Id<User>, Seat)>,
        /// It was a copy that counts no longer; the session may have come back since.
        overtaken: bool,
    },
    /// A session of this core that was resumed is over.
    Ended { core: CoreId, session: SessionId },
    /// The next chunk of this core's delivery log; answered by [`ToCore::Stored`] if clients wait
    /// for it. `loss`: the last one that the core knew of.
    Delivered {
        core: CoreId,
        number: u64,
        chunk: Bytes,
        loss: u64,
    },
    /// This core has sessions that need these realms; each is answered by
    /// [`ToCore::Subscribed`] or [`ToCore::Unavailable`]. A subscription of a realm the core
    /// already has replaces its position and adds the users.
    Subscribe {
        core: CoreId,
        subscriptions: Vec<Subscription>,
    },
    /// A client sent op 4, or a session that may be in voice has ended; answered by
    /// [`ToCore::Tell`] if there is something to tell the session alone.
    Voice { core: CoreId, request: VoiceRequest },
    /// A session asks something of a guild's owner; answered by [`ToCore::Tell`], or not at all
    /// if there is no owner now, it is busy or lost: the core asks again.
    Ask(Box<Ask>),
    /// A READY's read states are older than its guilds: the messages in between; answered by
    /// [`ToCore::Missed`].
    Missed {
        core: CoreId,
        session: SessionKey,
        spans: Vec<Span>,
    },
    /// The sessions of a user on this core show something else than before.
    Presence {
        core: CoreId,
        user: Id<User>,
        /// What they show in each of these realms.
        realms: Vec<(Id<Realm>, Presence)>,
        /// All of them, if they are a person's.
        sessions: Vec<SessionState>,
    },
    /// A session looks at other members of a guild than before.
    Watch(Box<WatchChange>),
    /// A person's session is over and no longer counts.
    Left {
        core: CoreId,
        /// `None`: there was none yet.
        session: Option<SessionId>,
        person: Id<User>,
        seat: Seat,
    },
    /// This core's last session of these users in this realm is gone.
    Unsubscribe {
        core: CoreId,
        realm: Id<Realm>,
        users: Vec<Id<User>>,
    },
}

/// Op 4 of a session.
#[derive(Debug, Clone)]
pub struct VoiceRequest {
    pub session: SessionKey,
    /// As clients know it.
    pub session_id: String,
    pub user: Id<User>,
    pub command: VoiceCommand,
    /// The session is over; nothing more comes of it.
    pub ended: bool,
}

/// One realm a core wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub realm: Id<Realm>,
    /// Events after this position; `None`: from the snapshot on.
    pub from: Option<Position>,
    pub users: Vec<Subscriber>,
}

/// One user of a core in a realm. In a user's own realm it is that user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    pub user: Id<User>,
    /// Snapshots to make for sessions of this user; empty for a mere change of position.
    pub snapshots: Vec<SnapshotRequest>,
    /// What others see of the user's sessions here.
    pub presence: Presence,
    /// In a person's own realm: those sessions.
    pub sessions: Vec<SessionState>,
}

impl Subscriber {
    /// Whoever sends it fills in what others see.
    pub fn new(user: Id<User>, snapshots: Vec<SnapshotRequest>) -> Self {
        Self {
            user,
            snapshots,
            presence: Presence::default(),
            sessions: Vec::new(),
        }
    }
}

/// What the sessions of a user on a node show in a realm from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceChange {
    pub realm: Id<Realm>,
    pub user: Id<User>,
    pub presence: Presence,
    /// In a person's own realm: the sessions.
    pub sessions: Vec<SessionState>,
}

/// One GUILD_CREATE (or one guild of a user's READY) for one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    pub session: SessionKey,
    /// Members above which a guild is large: 50 to 250.
    pub large_threshold: u16,
    /// Whether all members of a guild that is not large are listed (GUILD_PRESENCES of a bot).
    pub members: bool,
    /// Whether presences are listed, and follow (GUILD_PRESENCES of a bot).
    pub presences: bool,
    /// `unavailable` of the guild: `Some(false)` for the initial load, `None` for a new guild.
    pub unavailable: Option<bool>,
}

/// From the node to a core.
#[derive(Debug)]
pub enum ToCore {
    /// A freshly accepted connection.
    Socket(Accepted),
    /// A connection that asked to resume a session of this core, from the core that accepted it.
    Handover(Box<Handover>),
    Identified {
        session: SessionKey,
        result: Result<Box<Identity>, Refused>,
    },
    /// A session of this core is nobody else's: its client may go on with it.
    Stays {
        connection: SessionKey,
        resume: Box<Resume>,
    },
    /// Somebody else was faster with a session that a client resumes. Unless the client has given up
    /// meanwhile, it is to be looked for again.
    Overtaken {
        connection: SessionKey,
        resume: Box<Resume>,
    },
    /// A RESUME found nothing to go on with.
    NotResumed {
        connection: SessionKey,
        why: NotResumed,
    },
    /// A session may be here and is wanted elsewhere; answered by [`ToNode::Claimed`].
    Claim(Box<Claim>),
    /// A session comes from elsewhere, for a client that waits for it.
    Arrived {
        connection: SessionKey,
        session: Box<Travelling>,
        how: Resumed,
    },
    /// Another node has taken a session over.
    Taken(SessionId),
    /// The delivery log is stored up to this chunk, or will never be.
    Stored(u64),
    /// Redis lost some of what it was told: the sessions' states are to be told to the delivery log
    /// again. `doubt`: nobody can tell which sessions go on elsewhere. `loss`: its number.
    RedisForgot {
        doubt: bool,
        loss: u64,
    },
    /// Send the clients that are here RECONNECT, spread over a time; the process stays.
    SendAway {
        over: Duration,
    },
    /// The clients that were not sent away yet stay.
    KeepClients,
    /// Messages that [`ToNode::Missed`] asked for; none if they could not be read.
    Missed {
        session: SessionKey,
        messages: Vec<Envelope>,
    },
    /// What a session alone is told.
    Tell {
        session: SessionKey,
        /// `None`: it was not asked for.
        answers: Option<Answers>,
        dispatches: Vec<(EventKind, Bytes)>,
    },
    Subscribed(Box<Subscribed>),
    /// No owner could be reached; the core says so to its clients and asks again later.
    Unavailable {
        realm: Id<Realm>,
    },
    /// An event of a realm. Durable ones arrive dense and in order, or the core subscribes again.
    Event(Arc<Envelope>),
    /// Who sees what has changed; in order with the events of its realm.
    View {
        realm: Id<Realm>,
        change: ViewChange,
    },
    /// The process is leaving: send RECONNECT to every session, spread over a time, then close.
    Drain {
        over: Duration,
    },
}

/// A socket, and its place among those of this process and of its address.
#[derive(Debug)]
pub struct Accepted {
    pub socket: std::net::TcpStream,
    pub pass: Pass,
}

/// A connection on its way to the core that has its session.
#[derive(Debug)]
pub struct Handover {
    pub socket: Accepted,
    /// In which HELLO was sent on it.
    pub format: crate::format::Format,
    /// What it has sent so far counts there, too.
    pub life: Lifecycle,
    pub resume: Resume,
    /// What was read from the socket after the RESUME and not used yet.
    pub unread: Vec<u8>,
}

/// Why a client cannot go on with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotResumed {
    /// The token is nobody's.
    UnknownToken,
    /// The session is over, or what the client missed cannot be told.
    Gone,
    /// The client says that it has what was never sent.
    InvalidSeq,
}

/// A client wants to go on with a session that may be on another core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Comes back with the answer.
    pub number: u64,
    pub session: SessionId,
    pub token: TokenHash,
    /// Newest dispatch that the client has.
    pub s: u64,
}

/// What became of a [`Claim`].
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// It is no longer here.
    Session(Box<Travelling>),
    /// It was not here.
    Unknown,
    /// It is here, and stays: it is another token's.
    OtherToken,
    /// It is here, and stays: it never got that far.
    InvalidSeq,
    /// It is here, and of no use: what the client missed is gone.
    Gone,
}

/// A subscription stands.
#[derive(Debug, Clone)]
pub struct Subscribed {
    pub realm: Id<Realm>,
    /// Events after this one follow.
    pub position: Position,
    /// The realm as local users of this core see it.
    pub view: ViewChange,
    /// `view` is of all of them and replaces what the core knew; else of those who came just
    /// now, and adds to it.
    pub complete: bool,
    /// Durable events after the position that was asked for, dense: up to `position`, or as far as
    /// one answer takes.
    pub replay: Vec<Arc<Envelope>>,
    /// `replay` could not be made complete (era changed, events gone) and is empty: who stands before
    /// this position needs a fresh snapshot, and who does not is to ask again.
    pub lost: Option<Position>,
    /// `d` of GUILD_CREATE per session that asked.
    pub snapshots: Vec<(SessionKey, Bytes)>,
}

/// Channels whose visibility is equal form a class; a class is named by a number that is
/// good until the next full view of its realm.
pub type ClassId = u16;

/// What changed in who sees what, for the local users of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// The class of these channels, `None` for one that is gone.
    pub channels: Vec<(Id<Channel>, Option<ClassId>)>,
    /// All classes these users see now; `None`: no longer in the realm.
    pub users: Vec<(Id<User>, Option<Vec<ClassId>>)>,
}

/// The sending side of a core's inbox; shared by everyone who talks to that core.
#[derive(Debug, Clone)]
pub struct CoreHandle {
    inbox: Sender<ToCore>,
    bell: Arc<Bell>,
}

/// Rings a core's loop awake, but only when it sleeps.
#[derive(Debug, Default)]
pub struct Bell {
    sleeping: AtomicBool,
    notify: Notify,
    /// Connections of the core, for the accept path.
    pub connections: AtomicU64,
    /// Parts per thousand of the last second that its thread was busy.
    pub busy_permille: AtomicU16,
    /// Sessions that were to be told, when the inbox was full, what they had not asked for.
    untold: Mutex<BTreeSet<SessionKey>>,
}

/// The core's own side of its inbox.
#[derive(Debug)]
pub struct Inbox {
    pub messages: Receiver<ToCore>,
    pub bell: Arc<Bell>,
}

/// A bounded inbox for one core.
pub fn inbox() -> (CoreHandle, Inbox) {
    let (sender, messages) = crossbeam_channel::bounded(INBOX_MESSAGES_MAX);
    let bell = Arc::new(Bell::default());
    (
        CoreHandle {
            inbox: sender,
            bell: bell.clone(),
        },
        Inbox { messages, bell },
    )
}

impl CoreHandle {
    /// Puts a message into the inbox; gives it back if the inbox is full or the core is gone.
    pub fn send(&self, message: ToCore) -> Result<(), ToCore> {
        match self.inbox.try_send(message) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(message)) => {
                if let ToCore::Tell {
                    session,
                    answers: None,
                    ..
                } = message
                {
                    self.bell.untold().insert(session);
                }
                Err(message)
            }
            Err(TrySendError::Disconnected(message)) => Err(message),
        }
    }

    /// Connections this core holds.
    pub fn connections(&self) -> u64 {
        self.bell.connections.load(Ordering::Relaxed)
    }

    /// Parts per thousand of the last second that this core's thread was busy.
    pub fn busy_permille(&self) -> u16 {
        self.bell.busy_permille.load(Ordering::Relaxed)
    }
}

impl Bell {
    pub(crate) fn ring(&self) {
        // The other half of what `Inbox::wait` does: one of the two sees what the other has stored.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// The next session that was not told something, if there is one; it is told of once.
    pub(crate) fn next_untold(&self) -> Option<SessionKey> {
        self.untold().pop_first()
    }

    fn untold(&self) -> MutexGuard<'_, BTreeSet<SessionKey>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Waits until there may be messages, or the core has rung its own bell.
    pub async fn wait(&self) {
        if !self.messages.is_empty() {
            return;
        }
        self.bell.sleeping.store(true, Ordering::Release);
        // A message put in before the store above rang no bell.
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.messages.is_empty() {
            self.bell.sleeping.store(false, Ordering::Release);
            return;
        }
        self.bell.notify.notified().await;
    }
}
