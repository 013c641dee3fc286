//! Which faults come when. Pure: the same seed gives the same schedule, on whatever machine.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Between the beginnings of two faults, in milliseconds; faults last longer, so they overlap.
const GAP_MS: (u64, u64) = (1_000, 5_400);
/// A fault's target is left alone for as long after it.
const REST: Duration = Duration::from_secs(4);
/// Picks before a fault is one that every target takes at any time.
const ATTEMPTS_MAX: usize = 40;

/// How many of what there is to break.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    pub gateways: usize,
    pub apis: usize,
    pub coordinators: usize,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Member {
    Gateway(usize),
    Api(usize),
    Coordinator(usize),
}

/// A way between two processes, seen from one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Line {
    /// From clients.
    Public,
    /// From other gateways.
    Relay,
    Redis,
    Postgres,
    /// All of a process.
    Everything,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9, and started again at the end.
    Kill(Member),
    /// SIGTERM, and started again at the end.
    Stop(usize),
    /// SIGSTOP, SIGCONT at the end.
    Pause(Member),
    /// Nothing passes and nobody is told.
    Cut(Member, Line),
    /// Connections are reset; new ones work.
    Reset(Member, Line),
    Lossy(Member),
    /// Few bytes per second.
    Slow(Member, Line),
    /// Each coordinator is stopped past its lease and comes back believing that it leads.
    Duel,
    FlushRedis,
    PauseRedis,
    /// Killed, and started again empty.
    EmptyRedis,
    /// A replica that lags takes over.
    FailOverRedis,
    /// Killed, and started with what it knew some time ago.
    OldRedis,
    /// Fast shutdown, and started again.
    RestartPostgres,
    KillPostgres,
    /// A gateway's shards and sessions go elsewhere, and may come back at the end.
    Drain(usize),
    /// Shards are pinned to a gateway, until the end.
    Pin(usize),
    /// Shards go to a gateway, as many as do until the end.
    Move(usize),
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Since the first.
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// What cannot have two faults at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Process(Member),
    Wire(Member),
    Redis,
    Postgres,
    Placement,
}

impl Fault {
    fn target(self) -> Target {
        match self {
            Self::Kill(member) | Self::Pause(member) => Target::Process(member),
            Self::Stop(gateway) => Target::Process(Member::Gateway(gateway)),
            Self::Cut(member, _)
            | Self::Reset(member, _)
            | Self::Lossy(member)
            | Self::Slow(member, _) => Target::Wire(member),
            Self::Duel => Target::Process(Member::Coordinator(0)),
            Self::FlushRedis
            | Self::PauseRedis
            | Self::EmptyRedis
            | Self::FailOverRedis
            | Self::OldRedis => Target::Redis,
            Self::RestartPostgres | Self::KillPostgres => Target::Postgres,
            Self::Drain(_) | Self::Pin(_) | Self::Move(_) => Target::Placement,
        }
    }
}

/// `count` faults.
pub(super) fn schedule(seed: u64, count: usize, targets: Targets) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut busy: HashMap<Target, Duration> = HashMap::new();
    let mut at = Duration::ZERO;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        at += Duration::from_millis(rng.random_range(GAP_MS.0..=GAP_MS.1));
        let (fault, lasts) = pick(&mut rng, targets, |fault| {
            busy.get(&fault.target()).is_none_or(|until| *until <= at)
                && (!matches!(fault, Fault::Duel)
                    || (0..targets.coordinators).all(|number| {
                        let target = Target::Process(Member::Coordinator(number));
                        busy.get(&target).is_none_or(|until| *until <= at)
                    }))
        });
        busy.insert(fault.target(), at + lasts + REST);
        if fault == Fault::Duel {
            for number in 0..targets.coordinators {
                let target = Target::Process(Member::Coordinator(number));
                busy.insert(target, at + lasts + REST);
            }
        }
        all.push(Planned { at, lasts, fault });
    }
    all
}

fn pick(rng: &mut StdRng, targets: Targets, is_free: impl Fn(Fault) -> bool) -> (Fault, Duration) {
    for _ in 0..ATTEMPTS_MAX {
        let (fault, lasts) = draw(rng, targets);
        if is_free(fault) {
            return (fault, lasts);
        }
    }
    let gateway = Member::Gateway(rng.random_range(0..targets.gateways));
    (Fault::Reset(gateway, Line::Public), Duration::ZERO)
}

fn draw(rng: &mut StdRng, targets: Targets) -> (Fault, Duration) {
    let gateway = rng.random_range(0..targets.gateways);
    let member = match rng.random_range(0..10) {
        0..6 => Member::Gateway(gateway),
        6..8 => Member::Api(rng.random_range(0..targets.apis)),
        _ => Member::Coordinator(rng.random_range(0..targets.coordinators)),
    };
    let line = match (member, rng.random_range(0..5)) {
        (Member::Gateway(_), 0) => Line::Relay,
        (Member::Gateway(_) | Member::Api(_), 1) => Line::Public,
        (_, 2) => Line::Redis,
        (_, 3) => Line::Postgres,
        _ => Line::Everything,
    };
    let mut ms = |least: u64, most: u64| Duration::from_millis(rng.random_range(least..=most));
    let (short, long) = (ms(500, 4_000), ms(1_000, 20_000));
    let middling = ms(1_500, 12_000);
    match rng.random_range(0..110) {
        0..16 => (Fault::Kill(member), short),
        16..30 => (Fault::Pause(member), long),
        30..46 => (Fault::Cut(member, line), middling),
        46..56 => (Fault::Reset(member, line), Duration::ZERO),
        56..62 => (Fault::Lossy(member), middling),
        62..68 => (Fault::Slow(member, line), middling),
        68..73 => (Fault::Stop(gateway), short),
        73..79 => (Fault::FlushRedis, Duration::ZERO),
        79..82 => (Fault::PauseRedis, short),
        82..87 => (Fault::EmptyRedis, short),
        87..92 => (Fault::FailOverRedis, short),
        92..96 => (Fault::OldRedis, short),
        96..99 => (Fault::RestartPostgres, short / 2),
        99..101 => (Fault::KillPostgres, short / 2),
        101..104 => (Fault::Drain(gateway), middling),
        104 => (Fault::Pin(gateway), middling),
        105..107 => (Fault::Move(gateway), middling),
        _ => (Fault::Duel, Duration::from_secs(15)),
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(number) => write!(f, "gateway {number}"),
            Self::Api(number) => write!(f, "API {number}"),
            Self::Coordinator(number) => write!(f, "coordinator {number}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "clients",
            Self::Relay => "other gateways",
            Self::Redis => "Redis",
            Self::Postgres => "Postgres",
            Self::Everything => "everything",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(member) => write!(f, "kill -9 of {member}"),
            Self::Stop(gateway) => write!(f, "SIGTERM to gateway {gateway}"),
            Self::Pause(member) => write!(f, "SIGSTOP of {member}"),
            Self::Cut(member, line) => write!(f, "silent cut between {member} and {line}"),
            Self::Reset(member, line) => write!(f, "reset between {member} and {line}"),
            Self::Lossy(member) => write!(f, "packets of {member} lost"),
            Self::Slow(member, line) => write!(f, "throttled between {member} and {line}"),
            Self::Duel => f.write_str("coordinators fight for the term"),
            Self::FlushRedis => f.write_str("FLUSHALL"),
            Self::PauseRedis => f.write_str("SIGSTOP of Redis"),
            Self::EmptyRedis => f.write_str("Redis killed, back empty"),
            Self::FailOverRedis => f.write_str("Redis fails over with loss"),
            Self::OldRedis => f.write_str("Redis back from an old snapshot"),
            Self::RestartPostgres => f.write_str("Postgres restarted"),
            Self::KillPostgres => f.write_str("kill -9 of Postgres"),
            Self::Drain(gateway) => write!(f, "drain of gateway {gateway}"),
            Self::Pin(gateway) => write!(f, "shards pinned to gateway {gateway}"),
            Self::Move(gateway) => write!(f, "shards moved to gateway {gateway}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets {
        gateways: 3,
        apis: 2,
        coordinators: 2,
    };

    #[test]
    fn a_seed_is_a_schedule() {
        let planned = schedule(7, 300, TARGETS);
        assert_eq!(planned, schedule(7, 300, TARGETS));
        assert_ne!(planned, schedule(8, 300, TARGETS));
        assert_eq!(planned[..40], schedule(7, 40, TARGETS)[..]);
    }

    #[test]
    fn a_hundred_and_fifty_take_less_than_ten_minutes() {
        for seed in 0..50 {
            let planned = schedule(seed, 150, TARGETS);
            let end = planned.iter().map(|one| one.at + one.lasts).max();
            assert!(
                end.is_some_and(|end| end < Duration::from_secs(560)),
                "{end:?}"
            );
        }
    }

    #[test]
    fn a_target_has_one_fault_at_a_time() {
        let planned = schedule(3, 2_000, TARGETS);
        for (place, one) in planned.iter().enumerate() {
            let before = planned[..place].iter().rev().take(40);
            for other in before.filter(|other| other.fault.target() == one.fault.target()) {
                let is_reset = matches!(one.fault, Fault::Reset(..));
                assert!(
                    is_reset || other.at + other.lasts <= one.at,
                    "{other:?} {one:?}"
                );
            }
        }
    }
}
