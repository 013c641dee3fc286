//! What goes wrong, and when: drawn from the seed before the run.

use crate::chance::Chance;

/// One fault. Lengths are virtual milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node's process ends at once, and is started again later.
    Crash { node: usize, back_after: u64 },
    /// A node is asked to stop, leaves in peace, and is started again.
    Restart { node: usize },
    /// Redis forgets everything.
    Flush,
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

impl Plan {
    /// The faults of a run of `length` ms, with their times.
    pub(crate) fn draw(self, chance: &mut Chance, nodes: usize, length: u64) -> Vec<(u64, Fault)> {
        let mut faults = Vec::new();
        let end = length.saturating_sub((length / 10).max(QUIET_END_MS));
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
                for fault in [
                    Fault::Flush,
                    Fault::Flush,
                    Fault::Outage { lasts: 8_000 },
                    Fault::Silence { lasts: 12_000 },
                ] {
                    faults.push((chance.between(QUIET_MS, end), fault));
                }
            }
            Self::Storm => {
                for _ in 0..(end - QUIET_MS) / 10_000 {
                    let fault = match chance.below(10) {
                        0..3 => Fault::Crash {
                            node: node(chance),
                            back_after: chance.between(100, 20_000),
                        },
                        3..6 => Fault::Restart { node: node(chance) },
                        6 => Fault::Flush,
                        7 => Fault::Outage {
                            lasts: chance.between(500, 15_000),
                        },
                        8 => Fault::LeaderCrash {
                            back_after: chance.between(100, 20_000),
                        },
                        _ => Fault::Silence {
                            lasts: chance.between(2_000, 15_000),
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
