//! A realm's events in order: drops repeats, keeps what came too early, says what is lacking.
//!
//! Pure: whoever holds it fetches, and passes the time in.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::{envelope::Envelope, shard::Position};

use super::replay::bytes_of;
use crate::broken::{self, Broken};

/// Events of one realm kept while an earlier one is lacking; further ones are dropped
/// and fetched with the gap.
pub(crate) const PENDING_MAX: usize = 1024;
/// Bytes of them: the one that exceeds these is the last. All are handed out in one step.
pub(crate) const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a lacking event may still arrive by itself.
pub(crate) const GAP_WAIT: Duration = Duration::from_millis(50);

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was the next one.
    Next,
    /// An earlier one is lacking; it waits, or comes back with the gap.
    Early,
    Repeat,
    /// The realm was restored since: only a snapshot helps.
    NewEra,
}

/// Where one realm stands, and what it waits for.
#[derive(Debug)]
pub(crate) struct Intake {
    position: Position,
    early: BTreeMap<u64, Arc<Envelope>>,
    early_bytes: usize,
    /// Highest number known to exist.
    head: u64,
    /// When the gap is fetched; `None` while nothing is lacking.
    due: Option<Instant>,
}

impl Intake {
    pub(crate) fn new(position: Position) -> Self {
        Self {
            position,
            early: BTreeMap::new(),
            early_bytes: 0,
            head: position.seq,
            due: None,
        }
    }

    /// Everything up to here has been handed out.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Takes one durable event in; what is now next in order is appended to `out`.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        at: Position,
        event: Arc<Envelope>,
        out: &mut Vec<Arc<Envelope>>,
    ) -> Taken {
        if at.era > self.position.era {
            return Taken::NewEra;
        }
        if at.era < self.position.era || at.seq <= self.position.seq {
            if broken::is(Broken::Repeats) {
                out.push(event);
                return Taken::Next;
            }
            return Taken::Repeat;
        }
        if at.seq > self.position.seq + 1 {
            let lacked = self.is_lacking();
            self.head = self.head.max(at.seq);
            if self.early.len() >= PENDING_MAX || self.early_bytes >= PENDING_BYTES_MAX {
                self.due = Some(now);
            } else {
                self.early_bytes += bytes_of(&event);
                if let Some(before) = self.early.insert(at.seq, event) {
                    self.early_bytes -= bytes_of(&before);
                    return Taken::Repeat;
                }
            }
            if !lacked {
                self.due = Some(now + GAP_WAIT);
            }
            return Taken::Early;
        }
        self.advance(event, out);
        while let Some(next) = self.early.first_entry() {
            if *next.key() != self.position.seq + 1 {
                break;
            }
            let event = next.remove();
            self.early_bytes -= bytes_of(&event);
            self.advance(event, out);
        }
        self.head = self.head.max(self.position.seq);
        self.due = self.is_lacking().then(|| now + GAP_WAIT);
        Taken::Next
    }

    /// Somebody saw this number: if it is not here yet, it is lacking.
    pub(crate) fn know(&mut self, now: Instant, head: Position) -> Taken {
        if head.era > self.position.era {
            return Taken::NewEra;
        }
        if head.era < self.position.era || head.seq <= self.position.seq {
            return Taken::Repeat;
        }
        if !self.is_lacking() {
            self.due = Some(now + GAP_WAIT);
        }
        self.head = self.head.max(head.seq);
        Taken::Early
    }

    /// What seemed to be lacking does not exist.
    pub(crate) fn forget(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
        self.head = self.position.seq;
        self.due = None;
    }

    /// Whether an event is known to exist that has not come.
    pub(crate) fn is_lacking(&self) -> bool {
        self.head > self.position.seq
    }

    /// When to fetch what is lacking.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn advance(&mut self, event: Arc<Envelope>, out: &mut Vec<Arc<Envelope>>) {
        self.position.seq += 1;
        out.push(event);
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{
        Id,
        envelope::{Durability, Visibility},
        gateway::{EventKind, Intents},
    };
    use proptest::prelude::*;

    use super::*;

    fn at(seq: u64) -> Position {
        Position { era: 1, seq }
    }

    fn event(position: Position) -> Arc<Envelope> {
        Arc::new(Envelope {
            realm: Id::new(1).unwrap(),
            durability: Durability::Durable(position),
            kind: EventKind::MessageCreate,
            vis: Visibility::realm(Intents::empty()),
            at_ms: 0,
            trace: 0,
            body: "{}".into(),
            alt: None,
        })
    }

    fn seqs(events: &[Arc<Envelope>]) -> Vec<u64> {
        events
            .iter()
            .filter_map(|event| event.position())
            .map(|at| at.seq)
            .collect()
    }

    #[test]
    fn a_late_event_releases_those_behind_it() {
        let now = Instant::now();
        let (mut intake, mut out) = (Intake::new(at(4)), Vec::new());
        assert_eq!(
            intake.offer(now, at(6), event(at(6)), &mut out),
            Taken::Early
        );
        assert_eq!(intake.due(), Some(now + GAP_WAIT));
        assert_eq!(
            intake.offer(now, at(5), event(at(5)), &mut out),
            Taken::Next
        );
        assert_eq!(seqs(&out), [5, 6]);
        assert_eq!(intake.due(), None);
    }

    #[test]
    fn an_older_era_is_a_repeat_and_a_newer_one_is_not_mixed_in() {
        let now = Instant::now();
        let (mut intake, mut out) = (Intake::new(Position { era: 2, seq: 4 }), Vec::new());
        for (position, taken) in [
            (Position { era: 1, seq: 5 }, Taken::Repeat),
            (Position { era: 3, seq: 5 }, Taken::NewEra),
        ] {
            assert_eq!(
                intake.offer(now, position, event(position), &mut out),
                taken
            );
        }
        assert!(out.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_fetched_at_once() {
        let now = Instant::now();
        let (mut intake, mut out) = (Intake::new(at(0)), Vec::new());
        for seq in 0..=PENDING_MAX as u64 {
            intake.offer(now, at(seq + 2), event(at(seq + 2)), &mut out);
        }
        assert_eq!(intake.due(), Some(now));
        assert!(intake.is_lacking());
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        const EVENTS: u64 = 40;
        let large = |seq| {
            let event = Envelope::clone(&event(at(seq)));
            let body = vec![b'x'; PENDING_BYTES_MAX / 8].into();
            Arc::new(Envelope { body, ..event })
        };
        let now = Instant::now();
        let (mut intake, mut out) = (Intake::new(at(0)), Vec::new());
        let mut next = 1;
        while next <= EVENTS {
            // Twice: what comes again takes no more room.
            for seq in (next + 1..=EVENTS).flat_map(|seq| [seq, seq]) {
                intake.offer(now, at(seq), large(seq), &mut out);
            }
            out.clear();
            intake.offer(now, at(next), large(next), &mut out);
            let last = EVENTS.min(next + 8);
            assert_eq!(seqs(&out), (next..=last).collect::<Vec<_>>());
            next = last + 1;
        }
        assert!(!intake.is_lacking());
    }

    proptest! {
        /// The channel loses, repeats and reorders; now and then the head is looked up and
        /// what is due is read from the table, as the owner does.
        #[test]
        fn each_event_comes_out_once_and_in_order(
            start in 0u64..5,
            count in 1u64..60,
            channel in prop::collection::vec((1u64..65, any::<bool>()), 0..200),
        ) {
            let mut now = Instant::now();
            let last = start + count;
            let (mut intake, mut out) = (Intake::new(at(start)), Vec::new());
            let fetch = |intake: &mut Intake, now, out: &mut Vec<_>| {
                for seq in intake.position().seq + 1..=last {
                    intake.offer(now, at(seq), event(at(seq)), out);
                }
            };
            for (seq, tick) in channel {
                if seq <= last {
                    intake.offer(now, at(seq), event(at(seq)), &mut out);
                }
                if tick {
                    now += GAP_WAIT;
                    if intake.due().is_some_and(|due| due <= now) {
                        fetch(&mut intake, now, &mut out);
                    }
                }
            }
            intake.know(now, at(last));
            if intake.is_lacking() {
                prop_assert!(intake.due().is_some());
                fetch(&mut intake, now, &mut out);
            }
            prop_assert_eq!(seqs(&out), (start + 1..=last).collect::<Vec<_>>());
            prop_assert!(!intake.is_lacking());
            prop_assert_eq!(intake.due(), None);
        }
    }
}
