//! Coordinator processes and the row in Postgres that says who leads.

use std::time::{Duration, Instant};

use shard_coordinator::simulated::{LEASE, MARGIN, Pilot, Proposal};

/// `cluster_term`. Times are virtual milliseconds.
#[derive(Debug, Default)]
pub(crate) struct TermRow {
    term: u64,
    holder: Option<(usize, u32)>,
    until: u64,
}

/// One process.
pub(crate) struct Coordinator {
    /// `None` while it is down.
    pub(crate) pilot: Option<Pilot>,
    /// Rises with each start, and makes what is left of the run before void.
    pub(crate) run: u32,
    lease: Option<Lease>,
    term_seen: u64,
    /// On its way to Redis.
    pub(crate) writing: Option<Box<Proposal>>,
    /// When the next round is due; glances may bring it forward.
    pub(crate) round_due: u64,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    term: u64,
    acts_until: u64,
}

impl Coordinator {
    pub(crate) fn down() -> Self {
        Self {
            pilot: None,
            run: 0,
            lease: None,
            term_seen: 0,
            writing: None,
            round_due: 0,
        }
    }

    pub(crate) fn start(&mut self, now: Instant, shards: u16, per_node_max: usize) {
        *self = Self {
            pilot: Some(Pilot::new(now, shards, per_node_max)),
            run: self.run + 1,
            ..Self::down()
        };
    }

    pub(crate) fn crash(&mut self) {
        *self = Self {
            run: self.run,
            ..Self::down()
        };
    }

    /// The term, if it may act now.
    pub(crate) fn term(&self, now: u64) -> Option<u64> {
        let lease = self.lease.filter(|lease| now < lease.acts_until)?;
        Some(lease.term)
    }

    pub(crate) fn saw_term(&mut self, term: u64) {
        self.term_seen = self.term_seen.max(term);
    }

    /// Takes or renews the lead, as `leader` does by its statements.
    pub(crate) fn attempt(&mut self, now: u64, place: usize, row: &mut TermRow) {
        let own = Some((place, self.run));
        let lasts = millis(LEASE);
        if let Some(lease) = self.lease {
            let holds = row.holder == own && row.term == lease.term;
            if self.term_seen > lease.term {
                if holds {
                    row.until = now;
                }
                self.lease = None;
            } else if holds {
                row.until = now + lasts;
                self.lease = Some(Lease::new(lease.term, now));
            } else {
                self.lease = None;
            }
        } else if row.until < now {
            row.term = row.term.max(self.term_seen) + 1;
            row.holder = own;
            row.until = now + lasts;
            self.lease = Some(Lease::new(row.term, now));
        }
    }
}

impl Lease {
    fn new(term: u64, asked: u64) -> Self {
        Self {
            term,
            acts_until: asked + millis(LEASE - MARGIN),
        }
    }
}

/// Of the constants here, which are far below the limit.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
