//! What can happen, and how often.

use std::time::Duration;

use proptest::prelude::*;

/// Everything that can happen.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The next event, and how it goes on its way.
    Publish {
        kind: Kind,
        pad: usize,
        way: Way,
    },
    /// So many events at once that a stalled reader is too far behind.
    Flood,
    /// The core takes its inbox and writes.
    Deliver,
    /// The node answers what it was asked.
    Answer,
    /// The socket takes this many bytes more.
    Room(usize),
    /// The client reads.
    Read,
    Heartbeat,
    Ping,
    /// The connection breaks; what the client did not read is lost.
    Break,
    /// The client has no connection and makes one, which takes this many bytes.
    Connect(usize),
    /// The connection breaks, and the next one leads to a core of another node.
    Elsewhere(Fate),
    /// The connection breaks, and the next one leads to the node of before, if it lives.
    Back(Fate),
    /// Redis loses all that it was told.
    Forget,
    /// The guild is deleted. Not among the others: nothing more happens in it.
    Delete,
    Wait(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Seen,
    HiddenChannel,
    OtherIntent,
    /// The hidden channel is shown, or hidden again.
    Toggle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Straight,
    Lost,
    Twice,
    /// Behind the next one.
    Late,
}

/// What becomes of the node that a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It gives its sessions up when it is asked.
    Lives,
    /// It cannot be asked; what it did is in its log.
    CutOff,
    /// It died, with the part of its log that was not sent yet.
    Killed,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![Just(Fate::Lives), Just(Fate::CutOff), Just(Fate::Killed)];
    let kind = prop_oneof![
        4 => Just(Kind::Seen),
        1 => Just(Kind::HiddenChannel),
        1 => Just(Kind::OtherIntent),
        1 => Just(Kind::Toggle),
    ];
    let way = prop_oneof![
        12 => Just(Way::Straight),
        1 => Just(Way::Lost),
        1 => Just(Way::Twice),
        1 => Just(Way::Late),
    ];
    prop_oneof![
        60 => (kind, prop_oneof![Just(0usize), 0..3000usize], way)
            .prop_map(|(kind, pad, way)| Step::Publish { kind, pad, way }),
        1 => Just(Step::Flood),
        25 => Just(Step::Deliver),
        20 => Just(Step::Answer),
        15 => prop_oneof![0..200usize, 0..20_000usize].prop_map(Step::Room),
        20 => Just(Step::Read),
        4 => Just(Step::Heartbeat),
        2 => Just(Step::Ping),
        5 => Just(Step::Break),
        15 => prop_oneof![Just(usize::MAX), 0..3000usize].prop_map(Step::Connect),
        3 => fate.clone().prop_map(Step::Elsewhere),
        2 => fate.prop_map(Step::Back),
        1 => Just(Step::Forget),
        3 => (0..25u64).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
        1 => (100..200u64).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
    ]
}
