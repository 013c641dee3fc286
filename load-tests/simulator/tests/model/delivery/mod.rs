//! Events of one realm from Postgres to the sessions of one user: I3, I6, I7, I8.
//!
//! Redis is the set of numbers that were ever published: an owner may hear any of them at any
//! time, or never, which is loss, repeat, reorder and rewind in one. An edge may turn to any
//! owner at any time, which is any map. Links keep their order, as TCP does, and break with
//! either end.

mod check;
mod steps;

/// Numbers fit into a byte, sets of them into the bits of one.
type Seq = u8;
type Seqs = u8;

pub(crate) const OWNERS: usize = 2;

/// What an event is. Everybody in the realm gets all but messages of the hidden channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// In the one channel that not everybody sees.
    Message,
    /// The user sees that channel no longer.
    Revoke,
    /// The user sees it again.
    Grant,
}

/// What keeps the invariants. Each can be taken away, and is then missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// Edges hand on whatever comes, however often.
    RepeatDropping,
    /// Nobody looks into Postgres for what did not come.
    GapFetch,
    /// A number after a gap is taken for the next one.
    GapNotice,
    /// Views travel on a way of their own.
    ViewOrder,
    /// An edge goes on after its core had no room for something.
    StopAtOverflow,
    /// A newcomer takes a snapshot that is older than what went by.
    SnapshotAge,
}

#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) edges: usize,
    pub(crate) events: usize,
    pub(crate) without: Without,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Committed events: the number of each is its place, from 1.
    log: Vec<Kind>,
    published: Seqs,
    owners: [Option<Owner>; OWNERS],
    edges: Vec<Edge>,
}

/// A live owner process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Owner {
    /// `None` before it has read the realm.
    have: Option<Seq>,
    early: Seqs,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Edge {
    serving: Option<usize>,
    pending: Option<Pending>,
    /// Everything its core was given since the last answer has arrived.
    live: bool,
    /// Newest number handed out.
    have: Seq,
    /// Whether the user sees the hidden channel, by the last word of the owner.
    sees: bool,
    /// From each owner, oldest first; the edge is subscribed there while it is `Some`.
    links: [Option<Vec<Word>>; OWNERS],
    /// Views that travel apart, see [`Without::ViewOrder`].
    apart: Vec<(usize, bool)>,
    /// The first was there from the beginning, the second joins by a snapshot.
    sessions: [Session; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pending {
    owner: usize,
    from: Seq,
    snapshot: bool,
    answered: bool,
}

/// What an owner says to an edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Word {
    Event(Seq),
    View(bool),
    Answer { from: Seq, to: Seq, snapshot: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    state: Joined,
    /// By number: `None` not got and not passed over.
    fate: Vec<Fate>,
    /// It got something twice, or after a later one.
    disordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Joined {
    No,
    Waiting,
    /// Its snapshot had everything up to here.
    After(Seq),
}

/// What became of an event at a session, and where the realm stood when that was decided: at
/// the event itself, or at the end of the replay it was part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Open,
    Got(Seq),
    PassedOver(Seq),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Commit(Kind),
    Publish(Seq),
    Hear(usize, Seq),
    Fetch(usize),
    Crash(usize),
    Start(usize),
    Turn(usize, usize),
    Answer(usize),
    GiveUp(usize),
    Pass(usize, usize),
    PassApart(usize),
    /// The core's inbox had no room for the next word of an owner.
    Overflow(usize, usize),
    Join(usize),
}
