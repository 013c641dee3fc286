//! What goes wrong, and when: drawn from the seed before the run.

use crate::chance::Chance;

/// One fault. Lengths are virtual milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node's process ends at once, and is started again later.
    Crash { node: usize, back_after: u64 },
    /// A node is asked to stop, leaves in peace, and is started again.
    Restart { node: usize },
    /// The same with its whole machine: nobody is told that its connections are gone.
    PowerCut { node: usize, back_after: u64 },
    /// A node's process stands still, and goes on as if nothing had been.
    StandStill { node: usize, lasts: u64 },
    /// Two nodes do not reach each other.
    Cut {
        one: usize,
        other: usize,
        lasts: u64,
    },
    /// Redis forgets everything, by a command or because it starts anew.
    Flush { restarts: bool },
    /// A replica of Redis that is so much behind takes its place.
    FailOver { lag: u64 },
    /// Postgres answers no gateway.
    PostgresOutage { lasts: u64 },
    /// Redis answers nobody.
    Outage { lasts: u64 },
    /// Whoever leads ends at once, and is started again later.
    LeaderCrash { back_after: u64 },
    /// Half the heartbeats get lost.
    Silence { lasts: u64 },
}

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every node is restarted once, one after the other; besides, this many crashes, and a few
    /// faults of Redis and of coordinators.
    Rolling { crashes: u64 },
    /// About one fault in 10 s, of any kind, for small clusters.
    Storm,
}

/// Before this time all is quiet: the cluster forms.
pub(crate) const QUIET_MS: u64 = 30_000;

/// At least so long all is quiet at the end: what is broken then stays broken.
const QUIET_END_MS: u64 = 90_000;

/// So long all is quiet at the end of a run of this length.
pub(crate) fn quiet_end_ms(length: u64) -> u64 {
    (length / 10).max(QUIET_END_MS)
}

impl Plan {
    /// The faults of a run of `length` ms, with their times.
    pub(crate) fn draw(self, chance: &mut Chance, nodes: usize, length: u64) -> Vec<(u64, Fault)> {
        let mut faults = Vec::new();
        let end = length.saturating_sub(quiet_end_ms(length));
        if end <= QUIET_MS {
            return faults;
        }
        let node = |chance: &mut Chance| chance.below(nodes as u64) as usize;
        match self {
            Self::Rolling { crashes } => {
                for restarted in 0..nodes {
                    let at = QUIET_MS + (end - QUIET_MS) * restarted as u64 / nodes as u64;
                    faults.push((at, Fault::Restart { node: restarted }));
                }
                for _ in 0..crashes {
                    let crash = Fault::Crash {
                        node: node(chance),
                        back_after: chance.between(5_000, 60_000),
                    };
                    faults.push((chance.between(QUIET_MS, end), crash));
                }
                for _ in 0..6 {
                    let back_after = chance.between(1_000, 30_000);
                    let crash = Fault::LeaderCrash { back_after };
                    faults.push((chance.between(QUIET_MS, end), crash));
                }
                for _ in 0..5 {
                    let fault = Fault::StandStill {
                        node: node(chance),
                        lasts: chance.between(1_000, 30_000),
                    };
                    faults.push((chance.between(QUIET_MS, end), fault));
                }
                for fault in [
                    Fault::Flush { restarts: false },
                    Fault::Flush { restarts: true },
                    Fault::Outage { lasts: 8_000 },
                    Fault::Silence { lasts: 12_000 },
                ] {
                    faults.push((chance.between(QUIET_MS, end), fault));
                }
            }
            Self::Storm => {
                for _ in 0..(end - QUIET_MS) / 10_000 {
                    let fault = match chance.below(16) {
                        0..3 => Fault::Crash {
                            node: node(chance),
                            back_after: chance.between(100, 20_000),
                        },
                        3..6 => Fault::Restart { node: node(chance) },
                        6 => Fault::Flush {
                            restarts: chance.below(2) == 0,
                        },
                        7 => Fault::Outage {
                            lasts: chance.between(500, 15_000),
                        },
                        8 => Fault::LeaderCrash {
                            back_after: chance.between(100, 20_000),
                        },
                        9 => Fault::Silence {
                            lasts: chance.between(2_000, 15_000),
                        },
                        10 => Fault::PowerCut {
                            node: node(chance),
                            back_after: chance.between(100, 20_000),
                        },
                        11..13 => Fault::StandStill {
                            node: node(chance),
                            lasts: chance.between(500, 25_000),
                        },
                        13 => Fault::Cut {
                            one: node(chance),
                            other: node(chance),
                            lasts: chance.between(500, 15_000),
                        },
                        14 => Fault::FailOver {
                            lag: chance.between(1, 2_000),
                        },
                        _ => Fault::PostgresOutage {
                            lasts: chance.between(500, 8_000),
                        },
                    };
                    faults.push((chance.between(QUIET_MS, end), fault));
                }
            }
        }
        faults.sort_unstable();
        faults
    }
}
