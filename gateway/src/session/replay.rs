//! What a session was sent lately, kept for RESUME and for a socket that is behind.

use std::{
    collections::{VecDeque, vec_deque},
    rc::Rc,
    time::{Duration, Instant},
};

use crate::dispatch::Dispatch;

/// A session may be resumed this long after its socket broke, and dispatches are kept this long.
pub const RESUME_WINDOW: Duration = Duration::from_secs(180);

/// The newest dispatches of a session. Bodies of events are shared with all other sessions; only the
/// references, and what was made for it alone, are the session's own.
#[derive(Debug, Default)]
pub struct Replay {
    dispatches: VecDeque<Rc<Dispatch>>,
    /// Sum of the bodies' lengths.
    bytes: usize,
    /// Sum of what those take that are this session's alone.
    own_bytes: usize,
    /// The same over all bodies ever pushed.
    pushed_bytes: u64,
    /// `s` of the newest dispatch; 0 before the first.
    last_s: u64,
    /// What its client said last that it has.
    acknowledged: u64,
    /// What must not be written yet; `None` where nothing ever is held back.
    held: Option<Box<Held>>,
}

/// Dispatches wait for the chunk of the delivery log that tells of them to be stored.
#[derive(Debug, Default)]
struct Held {
    /// First `s` that a chunk tells of, and the chunk's number.
    from: VecDeque<(u64, u64)>,
}

impl Replay {
    /// Of a session whose client has everything up to `s`, and from elsewhere.
    pub fn starting_after(s: u64) -> Self {
        Self {
            last_s: s,
            ..Self::default()
        }
    }

    /// Numbers a dispatch and keeps it. When more than `bytes_max` of bodies or more than
    /// [`RESUME_WINDOW`] of time are held, the oldest go, but only of those up to `sent_s`: what was
    /// not written to the socket yet stays, however much it is.
    pub fn push(&mut self, dispatch: Rc<Dispatch>, bytes_max: usize, sent_s: impl FnOnce() -> u64) {
        self.last_s += 1;
        self.bytes += dispatch.body.len();
        self.own_bytes += dispatch.own_bytes();
        self.pushed_bytes += dispatch.body.len() as u64;
        let now = dispatch.at;
        self.dispatches.push_back(dispatch);
        if self.holds_too_much(bytes_max, now) {
            let sent_s = sent_s();
            // The newest one stays whatever its size and age.
            while self.dispatches.len() > 1
                && self.first_s() <= sent_s
                && self.holds_too_much(bytes_max, now)
            {
                self.drop_oldest();
            }
        }
    }

    /// Lets go of what is too old to be asked for, but never of dispatches after `keep_after`
    /// (not written to the socket yet). Gives memory back when little is left.
    pub fn sweep(&mut self, now: Instant, keep_after: u64) {
        while self.first_s() <= keep_after && self.front_is_old(now) {
            self.drop_oldest();
        }
        if self.dispatches.capacity() > 64 && self.dispatches.len() < self.dispatches.capacity() / 4
        {
            self.dispatches.shrink_to_fit();
        }
    }

    /// Lets go of the oldest until no more than `own_bytes_max` of what is this session's alone is left,
    /// but never of dispatches after `keep_after` (not written to the socket yet), nor of any that
    /// makes no room.
    pub fn let_go_of_own(&mut self, own_bytes_max: usize, keep_after: u64) {
        while self.own_bytes > own_bytes_max {
            let mut dispatches = self.dispatches.iter();
            let Some(before) = dispatches.position(|dispatch| dispatch.own_bytes() > 0) else {
                return;
            };
            if self.first_s() + before as u64 > keep_after {
                return;
            }
            for _ in 0..=before {
                self.drop_oldest();
            }
        }
    }

    /// Its client says that it has everything up to `s`. Lets go of what it had when it said so
    /// the time before: one that notes its `s` now and then may resume from a little earlier.
    pub fn acknowledge(&mut self, s: u64) {
        let before = std::mem::replace(&mut self.acknowledged, s);
        let had = before.min(s);
        while self.first_s() <= had && !self.dispatches.is_empty() {
            self.drop_oldest();
        }
        if self.dispatches.is_empty() {
            self.dispatches = VecDeque::new();
        }
    }

    /// `s` of the newest dispatch.
    pub fn last_s(&self) -> u64 {
        self.last_s
    }

    /// `s` of the oldest dispatch held; one after the newest if none is.
    pub fn first_s(&self) -> u64 {
        self.last_s + 1 - self.dispatches.len() as u64
    }

    /// Bytes of all bodies ever pushed.
    pub fn pushed_bytes(&self) -> u64 {
        self.pushed_bytes
    }

    /// Bytes of all bodies held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes held that are this session's alone.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// All dispatches after `s`, oldest first; `None` if some of them are gone or `s` was never reached.
    pub fn after(&self, s: u64) -> Option<vec_deque::Iter<'_, Rc<Dispatch>>> {
        if s > self.last_s || s + 1 < self.first_s() {
            return None;
        }
        let skip = (s + 1 - self.first_s()) as usize;
        Some(self.dispatches.range(skip..))
    }

    /// Those of [`Self::after`] that may be written.
    pub fn writable_after(&self, s: u64) -> Option<vec_deque::Iter<'_, Rc<Dispatch>>> {
        let held_from = self.held.as_ref().and_then(|held| held.from.front());
        let Some(&(first_held, _)) = held_from else {
            return self.after(s);
        };
        if s > self.last_s || s + 1 < self.first_s() {
            return None;
        }
        let first = self.first_s();
        let skip = (s + 1 - first) as usize;
        let end = (first_held.max(s + 1) - first) as usize;
        Some(self.dispatches.range(skip..end))
    }

    /// The newest dispatch must wait for this chunk; true if it is the first one that does.
    pub fn hold(&mut self, chunk: u64) -> bool {
        let held = self.held.get_or_insert_default();
        if held.from.back().is_some_and(|&(_, last)| last == chunk) {
            return false;
        }
        held.from.push_back((self.last_s, chunk));
        true
    }

    /// All chunks up to this one are stored, or never will be.
    pub fn release(&mut self, chunk: u64) {
        if let Some(held) = &mut self.held {
            while held.from.front().is_some_and(|&(_, of)| of <= chunk) {
                held.from.pop_front();
            }
        }
    }

    /// The dispatch with this `s`, if it is held.
    pub fn at(&self, s: u64) -> Option<&Rc<Dispatch>> {
        let index = s.checked_sub(self.first_s())?;
        self.dispatches.get(usize::try_from(index).ok()?)
    }

    fn holds_too_much(&self, bytes_max: usize, now: Instant) -> bool {
        self.bytes > bytes_max || self.front_is_old(now)
    }

    fn front_is_old(&self, now: Instant) -> bool {
        self.dispatches
            .front()
            .is_some_and(|oldest| now.duration_since(oldest.at) > RESUME_WINDOW)
    }

    fn drop_oldest(&mut self) {
        if let Some(dispatch) = self.dispatches.pop_front() {
            self.bytes -= dispatch.body.len();
            self.own_bytes -= dispatch.own_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::gateway::EventKind;
    use proptest::prelude::*;

    use super::*;
    use crate::dispatch::Tally;

    /// Of a session that has no connection.
    fn push(replay: &mut Replay, bytes: usize, now: Instant) {
        let dispatch = Dispatch::new(EventKind::MessageCreate, &vec![b'x'; bytes], now);
        replay.push(dispatch, 1000, || u64::MAX);
    }

    proptest! {
        #[test]
        fn what_is_replayed_is_exactly_what_followed(
            sizes in prop::collection::vec((0usize..400, 0u64..30), 1..60),
            bytes_max in 100usize..4000,
            ask in 0u64..70,
        ) {
            let mut now = Instant::now();
            let (mut replay, mut all) = (Replay::default(), Vec::new());
            for (size, seconds) in sizes {
                now += Duration::from_secs(seconds);
                let dispatch = Dispatch::new(EventKind::MessageCreate, &vec![b'x'; size], now);
                all.push(dispatch.clone());
                replay.push(dispatch, bytes_max, || u64::MAX);
                prop_assert!(replay.bytes() <= bytes_max.max(400));
            }
            prop_assert_eq!(replay.last_s(), all.len() as u64);
            match replay.after(ask) {
                Some(rest) => {
                    let expected = &all[ask as usize..];
                    let next = replay.at(ask + 1).map(Rc::as_ptr);
                    prop_assert_eq!(next, expected.first().map(Rc::as_ptr));
                    prop_assert_eq!(rest.len(), expected.len());
                    prop_assert!(rest.zip(expected).all(|(a, b)| Rc::ptr_eq(a, b)));
                }
                None => prop_assert!(ask > replay.last_s() || ask + 1 < replay.first_s()),
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Shared(usize),
        Own(usize),
        /// The socket takes one more.
        Write,
        Acknowledge,
        Wait(u64),
        LetGo(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..400).prop_map(Step::Shared),
            4 => (0usize..400).prop_map(Step::Own),
            6 => Just(Step::Write),
            1 => Just(Step::Acknowledge),
            1 => (0u64..100).prop_map(Step::Wait),
            2 => (0usize..2000).prop_map(Step::LetGo),
        ]
    }

    proptest! {
        /// Whatever a replay lets go of and why, what it has for itself is counted, once, and goes
        /// from its beginning on, as far as it was written.
        #[test]
        fn what_is_a_sessions_own_is_counted_for_as_long_as_it_is_held(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (mut now, mut sent_s) = (Instant::now(), 0);
            let (mut replay, tally) = (Replay::default(), Tally::default());
            for step in steps {
                match step {
                    Step::Shared(bytes) => {
                        let body = vec![b'x'; bytes];
                        let shared = Dispatch::new(EventKind::MessageCreate, &body, now);
                        replay.push(shared, 3000, || sent_s);
                    }
                    Step::Own(bytes) => {
                        let body = vec![b'x'; bytes];
                        let own = Dispatch::own(EventKind::GuildCreate, &body, now, &tally);
                        prop_assert!(own.own_bytes() > bytes);
                        replay.push(own, 3000, || sent_s);
                    }
                    Step::Write => sent_s = replay.last_s().min(sent_s + 1),
                    Step::Acknowledge => replay.acknowledge(sent_s),
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        replay.sweep(now, sent_s);
                    }
                    Step::LetGo(own_bytes_max) => {
                        replay.let_go_of_own(own_bytes_max, sent_s);
                        let written = (sent_s + 1).saturating_sub(replay.first_s());
                        let mut written = replay.dispatches.range(..written as usize);
                        let has_own = written.any(|dispatch| dispatch.own_bytes() > 0);
                        prop_assert!(replay.own_bytes() <= own_bytes_max || !has_own);
                    }
                }
                let held: usize = replay.dispatches.iter().map(|of| of.own_bytes()).sum();
                prop_assert_eq!((replay.own_bytes(), tally.bytes()), (held, held));
                prop_assert!(replay.after(sent_s).is_some(), "what waits for the socket stays");
            }
            drop(replay);
            prop_assert_eq!(tally.bytes(), 0);
        }
    }

    #[test]
    fn no_more_is_let_go_of_than_makes_room() {
        let (now, tally) = (Instant::now(), Tally::default());
        let mut replay = Replay::default();
        let own = || Dispatch::own(EventKind::GuildCreate, &[b'x'; 50], now, &tally);
        let each = own().own_bytes();
        for _ in 0..2 {
            push(&mut replay, 20, now);
            replay.push(own(), 1000, || u64::MAX);
        }
        push(&mut replay, 20, now);
        replay.let_go_of_own(2 * each, u64::MAX);
        assert_eq!(replay.first_s(), 1);
        replay.let_go_of_own(2 * each - 1, u64::MAX);
        assert_eq!((replay.first_s(), replay.own_bytes()), (3, each));
        // The next one was not written, and without it nothing is gained.
        replay.let_go_of_own(0, 3);
        assert_eq!(replay.first_s(), 3);
        replay.let_go_of_own(0, 4);
        assert_eq!((replay.first_s(), replay.own_bytes()), (5, 0));
    }

    #[test]
    fn what_waits_for_its_chunk_is_not_written() {
        let now = Instant::now();
        let mut replay = Replay::default();
        let push_held = |replay: &mut Replay, chunk| {
            push(replay, 2, now);
            replay.hold(chunk)
        };
        assert!(push_held(&mut replay, 5));
        assert!(!push_held(&mut replay, 5));
        assert!(push_held(&mut replay, 6));
        let writable = |replay: &Replay, s| replay.writable_after(s).map(|rest| rest.len());
        assert_eq!(writable(&replay, 0), Some(0));
        replay.release(5);
        assert_eq!(
            (writable(&replay, 0), writable(&replay, 1)),
            (Some(2), Some(1))
        );
        assert_eq!(writable(&replay, 2), Some(0));
        replay.release(6);
        assert_eq!(
            (writable(&replay, 0), writable(&replay, 3)),
            (Some(3), Some(0))
        );
        assert_eq!(writable(&replay, 4), None);
    }

    #[test]
    fn what_the_client_has_said_twice_that_it_has_is_not_kept() {
        let now = Instant::now();
        let mut replay = Replay::default();
        for _ in 0..3 {
            push(&mut replay, 2, now);
        }
        replay.acknowledge(2);
        assert_eq!((replay.first_s(), replay.bytes()), (1, 6));
        replay.acknowledge(3);
        assert_eq!((replay.first_s(), replay.bytes()), (3, 2));
        assert!(replay.after(1).is_none());
        let rest = |replay: &Replay, s| replay.after(s).map(|rest| rest.len());
        assert_eq!(rest(&replay, 2), Some(1));
        replay.acknowledge(3);
        assert_eq!((replay.first_s(), replay.last_s()), (4, 3));
        assert_eq!((rest(&replay, 3), replay.bytes()), (Some(0), 0));
    }

    #[test]
    fn a_client_that_starts_again_from_earlier_keeps_what_follows() {
        let now = Instant::now();
        let mut replay = Replay::default();
        for _ in 0..5 {
            push(&mut replay, 2, now);
        }
        for s in [4, 1, 2] {
            replay.acknowledge(s);
        }
        assert_eq!(replay.first_s(), 2);
    }

    #[test]
    fn old_dispatches_go_but_not_unwritten_ones() {
        let t0 = Instant::now();
        let mut replay = Replay::default();
        for _ in 0..3 {
            push(&mut replay, 2, t0);
        }
        let late = t0 + RESUME_WINDOW * 2;
        replay.sweep(late, 1);
        assert_eq!(replay.first_s(), 2);
        replay.sweep(late, 3);
        assert_eq!(replay.first_s(), 4);
        assert!(replay.after(3).is_some_and(|rest| rest.len() == 0));
        assert!(replay.after(2).is_none());
    }

    #[test]
    fn what_is_not_written_stays_however_much_it_is() {
        let t0 = Instant::now();
        let mut replay = Replay::default();
        let push_at = |replay: &mut Replay, at, sent_s| {
            let dispatch = Dispatch::new(EventKind::MessageCreate, &[b'x'; 600], at);
            replay.push(dispatch, 1000, || sent_s);
        };
        for _ in 0..4 {
            push_at(&mut replay, t0, 0);
        }
        assert_eq!((replay.first_s(), replay.bytes()), (1, 2400));
        push_at(&mut replay, t0 + RESUME_WINDOW * 2, 2);
        assert_eq!((replay.first_s(), replay.bytes()), (3, 1800));
        // Its connection is gone: the limit alone counts.
        push_at(&mut replay, t0 + RESUME_WINDOW * 2, u64::MAX);
        assert_eq!((replay.first_s(), replay.bytes()), (6, 600));
    }
}
