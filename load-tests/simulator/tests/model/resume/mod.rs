//! One session, its client and the nodes it is resumed on: I4, I5, I13.
//!
//! A node hands the session over (`Move`), or its successor counts in the delivery log of a
//! node that is dead. Delivery to a node is taken as right here, see `delivery`: a node has
//! the next event of a realm whenever it looks.
//!
//! Redis has a life, another one after each loss that can be noticed. A node that sees another
//! life than before doubts its copy until the client answers on the connection it has.

mod check;
mod steps;

type Generation = u8;
type Life = u8;

pub(crate) const NODES: usize = 3;
/// A guild and the user's own realm.
const REALMS: usize = 2;
/// The guild's event with this number is not for this session.
const HIDDEN: u8 = 2;

/// Whether dispatches wait for their place in the delivery log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ship {
    Async,
    Sync,
}

/// Who remembers the generation of a session that was resumed from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The session's record in Redis alone.
    Redis,
    /// The log as well: it ends for whoever reads it later.
    Log,
    /// Postgres as well.
    Postgres,
}

/// What a missing record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Nobody knows who has the session: op 9.
    Unknown,
    /// It never moved: it is where it began.
    AtHome,
}

/// The rule that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// The record is set, whatever it is by then.
    Compare,
    /// A node resumes its own copy without a look at the record, also after it was taken for
    /// dead.
    OwnCheck,
    /// A node that resumes its own copy leaves the record as it is.
    OwnRaise,
    /// A node keeps to its copy, whatever Redis has lost.
    DoubtOfCopies,
    /// A node does not look which life Redis is in before it resumes its own copy or hands it
    /// over: it learns of that in its own time.
    Look,
    /// An attempt to RESUME goes on, whatever Redis has lost since it began.
    EndOfAttempts,
    /// A log is read whatever life of Redis it was written for.
    LifeOfLogs,
    /// A log is read whatever generation wrote it.
    LogGeneration,
    /// An `s` beyond the log is taken for the log's end.
    Ahead,
    /// Ephemeral dispatches are not logged.
    EphemeralRecords,
    /// Dispatches leave before the log has them, though `Sync` was asked for.
    Waiting,
    /// Numbers go on from the log's end instead of the client's `s`.
    ClientsNumber,
}

#[derive(Debug, Clone)]
pub(crate) struct Resume {
    pub(crate) ship: Ship,
    pub(crate) fence: Fence,
    pub(crate) absent: Absent,
    pub(crate) without: Without,
    /// At most [`NODES`].
    pub(crate) nodes: usize,
    /// Events of each realm, and ephemeral ones.
    pub(crate) events: [u8; REALMS],
    pub(crate) ephemeral: u8,
    pub(crate) faults: Faults,
}

/// How many of each may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Sockets that break.
    pub(crate) breaks: u8,
    pub(crate) kills: u8,
    /// Nodes that stand still for so long that they count as dead.
    pub(crate) freezes: u8,
    /// Redis forgets the session's record, and nothing else: nobody notices.
    pub(crate) losses: u8,
    /// Redis forgets everything; another life.
    pub(crate) flushes: u8,
    /// The session's record is again what it was before its last change; another life.
    pub(crate) rewinds: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Item {
    Durable(usize, u8),
    Ephemeral,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Committed events of each realm.
    heads: [u8; REALMS],
    ephemeral_left: u8,
    faults: Faults,
    /// Of Redis.
    life: Life,
    nodes: [Node; NODES],
    record: Option<Record>,
    record_before: Option<Record>,
    fence: Option<Holder>,
    logs: Vec<Log>,
    /// Whose logs say that the session went on elsewhere ([`Fence::Log`]).
    ended: Vec<Holder>,
    client: Client,
    /// Highest generation a copy ever had, and whether one was given twice.
    highest: Generation,
    reused: bool,
}

/// What Redis says of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    holder: Holder,
    /// Every RESUME counts, so that one that its client has given up comes too late.
    resumes: u8,
}

impl Record {
    /// Where the session began, before any RESUME.
    const HOME: Self = Self {
        holder: Holder {
            node: 0,
            generation: 1,
        },
        resumes: 0,
    };
}

/// Who has a copy. The generation rises whenever another node takes the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Holder {
    node: usize,
    generation: Generation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Standing {
    Up,
    Down,
    Frozen,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    standing: Standing,
    /// Of Redis, when the node looked last.
    life: Life,
    copy: Option<Held>,
    resuming: Option<Resuming>,
}

/// A session at a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    generation: Generation,
    /// `s` before the first dispatch held, and the positions there.
    base: u8,
    start: [u8; REALMS],
    items: Vec<Item>,
    /// Positions after the last dispatch, and what was passed over since.
    at: [u8; REALMS],
    /// `s` up to which the log has it; `None` if it has nothing of this copy.
    shipped: Option<u8>,
    /// `s` up to which it was written to the socket.
    written: u8,
    /// RESUMEs of the session so far.
    resumes: u8,
    /// Redis has lost something, and the client has not answered here since.
    doubted: bool,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum How {
    Identified,
    Moved,
    Counted,
}

/// What Redis has of a copy's delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Log {
    of: Holder,
    /// The one that the node knew of when it wrote.
    life: Life,
    base: u8,
    start: [u8; REALMS],
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Resuming {
    s: u8,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    /// The record said who has it.
    Ask { from: Holder, seen: Option<Record> },
    /// The session is in hand; the generation is to be raised.
    Raise {
        from: Holder,
        seen: Option<Record>,
        copy: Held,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Client {
    place: Place,
    got: Vec<Item>,
    /// A dispatch was not numbered one above the last.
    jumped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Away,
    Asking(usize),
    Live(usize),
    /// Op 9: it starts afresh.
    Invalid,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Commit(usize),
    Dispatch(usize, usize),
    Ephemeral(usize),
    Ship(usize),
    Receive,
    Break,
    Kill(usize),
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    Look(usize),
    Prove(usize),
    Resume(usize),
    Ask(usize),
    Raise(usize),
    Renew(usize),
    Lose,
    Flush,
    Rewind,
}
