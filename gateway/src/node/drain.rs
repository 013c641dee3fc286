//! An operator drains this node: its sessions are sent away, spread over the time that the map
//! says, as long as another node would have them. The process stays, and takes whoever comes all
//! the same; they are sent away later.
//!
//! When a drain began is told by Postgres' clock, which this machine's may be ahead of by more than
//! the drain lasts. Who sees it begin counts from there by the steady clock alone.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::cluster_map::{ClusterMap, Drain as Order};

use super::config::Config;
use crate::{
    bus::{CoreHandle, ToCore},
    clock,
    status::Status,
};

/// Those who came meanwhile are sent away over so long,
const LATE_OVER: Duration = Duration::from_secs(30);
/// and nobody is for so long before that: a client that is led here again and again, whatever
/// `/ready` says, reconnects about once a minute.
const LATE_PAUSE: Duration = Duration::from_secs(30);

pub(crate) struct Drain {
    node: String,
    status: Arc<Status>,
    cores: Vec<CoreHandle>,
    /// What is being followed,
    order: Cell<Option<Order>>,
    /// and over which time.
    course: Cell<Option<Course>>,
    /// Whether a map has named this node since the process began: what is new then begins now.
    named: Cell<bool>,
    /// Whether every core knows of it.
    told: Cell<bool>,
    /// Whether it waits for a node that clients may go to.
    waits: Cell<bool>,
    /// When those who came meanwhile are sent away.
    late_at: Cell<Option<Instant>>,
}

impl Drain {
    pub(crate) fn new(config: &Config, cores: Vec<CoreHandle>) -> Self {
        Self {
            node: config.node_id.clone(),
            status: config.status.clone(),
            cores,
            order: Cell::new(None),
            course: Cell::new(None),
            named: Cell::new(false),
            told: Cell::new(true),
            waits: Cell::new(false),
            late_at: Cell::new(None),
        }
    }

    /// Does what a map says of this node; run after each look at it.
    pub(crate) fn follow(&self, map: &ClusterMap, now: Instant) {
        // The coordinator has not heard of this node lately: that ends no drain.
        if !map.nodes.contains(&self.node) {
            return;
        }
        let order = map.drains.get(&self.node).copied();
        self.status.set_draining(order.is_some());
        let was_named = self.named.replace(true);
        if order != self.order.replace(order) {
            let course = order.map(|order| match was_named {
                true => Course::new(order, now),
                false => Course::begun(order, now),
            });
            self.course.set(course);
        } else if self.told.get() {
            return self.send_late_away(map, now);
        }
        if order.is_some() && !another_takes(map, &self.node) {
            self.told.set(false);
            self.late_at.set(None);
            if !self.waits.replace(true) {
                tracing::info!("drained: clients stay until another gateway would have them");
            }
            return;
        }
        self.waits.set(false);
        let over = self.course.get().map(|course| course.left(now));
        let late_at = over.and_then(|over| now.checked_add(over + LATE_PAUSE));
        self.late_at.set(late_at);
        match over {
            Some(over) => {
                let over_ms = over.as_millis() as u64;
                tracing::info!(over_ms, "drained: clients are asked to reconnect");
            }
            None => tracing::info!("no longer drained: the clients that are left stay"),
        }
        let mut told = true;
        for core in &self.cores {
            let message = match over {
                Some(over) => ToCore::SendAway { over },
                None => ToCore::KeepClients,
            };
            if core.send(message).is_err() {
                tracing::warn!("a core is too busy to hear whether its clients leave");
                told = false; // with the next look
            }
        }
        self.told.set(told);
    }

    /// Sends those away who have come since the last time, unless they could only come back.
    fn send_late_away(&self, map: &ClusterMap, now: Instant) {
        let is_due = self.late_at.get().is_some_and(|at| at <= now);
        if !is_due || !another_takes(map, &self.node) {
            return;
        }
        self.late_at.set(Some(now + LATE_OVER + LATE_PAUSE));
        for core in &self.cores {
            // One that is too busy to hear it does so the next time.
            let _ = core.send(ToCore::SendAway { over: LATE_OVER });
        }
    }
}

/// Whether a map has a node besides this one that its clients may go to.
pub(super) fn another_takes(map: &ClusterMap, node: &str) -> bool {
    let leaves = |other: &String| map.drains.contains_key(other) || map.stopping.contains(other);
    let takes = |other: &String| other != node && !leaves(other);
    map.nodes.iter().any(takes)
}

/// The time over which sessions leave.
#[derive(Debug, Clone, Copy)]
struct Course {
    from: Instant,
    over: Duration,
    /// Whoever is told late, since nobody would have taken them before, or a core was too busy:
    /// not all at once, unless that was said.
    least: Duration,
}

impl Course {
    /// Of a drain that begins.
    fn new(order: Order, now: Instant) -> Self {
        let said = Duration::from_millis(order.over_ms);
        Self {
            from: now,
            over: said,
            least: said.min(LATE_OVER),
        }
    }

    /// Of one that began before this process, as far as clocks can tell.
    fn begun(order: Order, now: Instant) -> Self {
        let until_ms = order.since_ms.saturating_add(order.over_ms);
        // Never longer than was said, whatever they tell.
        let left_ms = until_ms.saturating_sub(clock::unix_ms()).min(order.over_ms);
        Self {
            over: Duration::from_millis(left_ms),
            ..Self::new(order, now)
        }
    }

    /// The rest of it.
    fn left(self, now: Instant) -> Duration {
        let gone = now.saturating_duration_since(self.from);
        self.over.saturating_sub(gone).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{self, Inbox};

    const HERE: &str = "gateway-1";

    fn drain() -> (Drain, CoreHandle, Inbox) {
        let (core, inbox) = bus::inbox();
        let drain = Drain {
            node: HERE.to_owned(),
            status: Arc::default(),
            cores: vec![core.clone()],
            order: Cell::new(None),
            course: Cell::new(None),
            named: Cell::new(false),
            told: Cell::new(true),
            waits: Cell::new(false),
            late_at: Cell::new(None),
        };
        (drain, core, inbox)
    }

    /// Of a node and one that takes clients.
    fn map(node: &str, drained: bool) -> ClusterMap {
        let order = Order {
            since_ms: u64::MAX / 2,
            over_ms: 60_000,
        };
        ClusterMap {
            nodes: vec![node.to_owned(), "gateway-9".to_owned()],
            drains: drained
                .then(|| (node.to_owned(), order))
                .into_iter()
                .collect(),
            ..ClusterMap::default()
        }
    }

    /// Of a drain whose time is over: with the other node, and without it.
    fn long_over() -> (ClusterMap, ClusterMap) {
        let mut both = map(HERE, true);
        let order = Order {
            since_ms: 0,
            over_ms: 60_000,
        };
        both.drains.insert(HERE.to_owned(), order);
        let mut alone = both.clone();
        alone.nodes.retain(|node| node == HERE);
        (both, alone)
    }

    /// What a core was told: over how long its clients leave, or that they stay.
    fn told(inbox: &Inbox) -> Vec<Option<Duration>> {
        let messages = inbox.messages.try_iter();
        messages
            .map(|message| match message {
                ToCore::SendAway { over } => Some(over),
                ToCore::KeepClients => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn cores_are_told_once_when_a_drain_begins_and_when_it_is_undone() {
        let (drain, _core, inbox) = drain();
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        for (map, expected) in [
            (ClusterMap::default(), vec![]),
            (map(HERE, false), vec![]),
            (map(HERE, true), vec![Some(minute)]),
            (map(HERE, true), vec![]),
            (map("gateway-2", false), vec![]),
            (map(HERE, true), vec![]),
            (map(HERE, false), vec![None]),
            (map(HERE, false), vec![]),
        ] {
            drain.follow(&map, now);
            assert_eq!(told(&inbox), expected, "{map:?}");
        }
    }

    #[test]
    fn a_core_that_was_too_busy_is_told_at_the_next_look() {
        let (drain, core, inbox) = drain();
        let now = Instant::now();
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&map(HERE, true), now);
        assert!(told(&inbox).iter().all(Option::is_none));
        drain.follow(&map(HERE, true), now);
        assert_eq!(told(&inbox).len(), 1);
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&map(HERE, false), now);
        told(&inbox);
        drain.follow(&map(HERE, false), now);
        assert_eq!(told(&inbox), [None::<Duration>]);
    }

    #[test]
    fn who_came_meanwhile_is_sent_away_once_a_minute_while_another_node_would_have_them() {
        let (drain, _core, inbox) = drain();
        let start = Instant::now();
        let both = map(HERE, true);
        let mut alone = both.clone();
        alone.nodes.retain(|node| node == HERE);
        let mut both_drained = both.clone();
        let order = both.drains[HERE];
        both_drained.drains.insert("gateway-9".to_owned(), order);
        let mut other_stops = both.clone();
        other_stops.stopping.insert("gateway-9".to_owned());
        let mut undone = both.clone();
        undone.drains.clear();
        let away = |seconds| vec![Some(Duration::from_secs(seconds))];
        for (second, map, expected) in [
            (0, &both, away(60)),
            (89, &both, vec![]),
            (90, &alone, vec![]),
            (91, &both_drained, vec![]),
            (91, &other_stops, vec![]),
            (92, &both, away(30)),
            (94, &both, vec![]),
            (151, &both, vec![]),
            (152, &both, away(30)),
            (154, &undone, vec![None]),
            (500, &undone, vec![]),
        ] {
            drain.follow(map, start + Duration::from_secs(second));
            assert_eq!(told(&inbox), expected, "after {second} s");
        }
    }

    #[test]
    fn clients_stay_until_another_node_would_have_them() {
        let (drain, _core, inbox) = drain();
        let start = Instant::now();
        let (both, alone) = long_over();
        let mut both_drained = both.clone();
        let order = both.drains[HERE];
        both_drained.drains.insert("gateway-9".to_owned(), order);
        let mut other_stops = both.clone();
        other_stops.stopping.insert("gateway-9".to_owned());
        let mut undone = alone.clone();
        undone.drains.clear();
        for (second, map, expected) in [
            (0, &alone, vec![]),
            (1, &both_drained, vec![]),
            (2, &other_stops, vec![]),
            (100, &alone, vec![]),
            (101, &both, vec![Some(LATE_OVER)]),
            (102, &both, vec![]),
            (103, &undone, vec![None]),
            (104, &alone, vec![]),
            (105, &undone, vec![None]),
            // As it was said, where nobody had to wait.
            (106, &both, vec![Some(Duration::from_secs(60))]),
        ] {
            drain.follow(map, start + Duration::from_secs(second));
            assert_eq!(told(&inbox), expected, "after {second} s");
            let draining = drain.status.is_draining();
            assert_eq!(draining, !map.drains.is_empty());
        }
    }

    /// As [`long_over`] with the other node, of a drain over so long.
    fn over_s(seconds: u64) -> ClusterMap {
        let (mut both, _) = long_over();
        let order = Order {
            since_ms: seconds,
            over_ms: seconds * 1_000,
        };
        both.drains.insert(HERE.to_owned(), order);
        both
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_drain_shorter_that_begins_here() {
        let (drain, _core, inbox) = drain();
        let start = Instant::now();
        let at_rest = map(HERE, false);
        let over = |seconds| vec![Some(Duration::from_secs(seconds))];
        for (second, map, expected) in [
            (0, &at_rest, vec![]),
            (1, &over_s(60), over(60)),
            (2, &over_s(60), vec![]),
            // Another one in its place, and one that begins again, are new as well.
            (3, &over_s(300), over(300)),
            (4, &at_rest, vec![None]),
            (5, &over_s(300), over(300)),
            (6, &over_s(0), over(0)),
        ] {
            drain.follow(map, start + Duration::from_secs(second));
            assert_eq!(told(&inbox), expected, "after {second} s");
        }
    }

    #[test]
    fn a_process_that_begins_in_a_drain_that_is_over_sends_nobody_away_all_at_once() {
        for (seconds, expected) in [(300, 30), (10, 10), (0, 0)] {
            let (drain, _core, inbox) = drain();
            let now = Instant::now();
            drain.follow(&ClusterMap::default(), now);
            drain.follow(&over_s(seconds), now);
            assert_eq!(told(&inbox), [Some(Duration::from_secs(expected))]);
        }
    }

    #[test]
    fn a_core_that_was_too_busy_hears_of_the_time_that_is_left() {
        let (drain, core, inbox) = drain();
        let start = Instant::now();
        drain.follow(&map(HERE, false), start);
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&over_s(60), start);
        assert!(told(&inbox).iter().all(Option::is_none));
        drain.follow(&over_s(60), start + Duration::from_secs(20));
        assert_eq!(told(&inbox), [Some(Duration::from_secs(40))]);
    }

    #[test]
    fn a_core_that_is_told_late_after_waiting_sends_nobody_away_all_at_once() {
        let (drain, core, inbox) = drain();
        let start = Instant::now();
        let (both, alone) = long_over();
        drain.follow(&alone, start);
        while core.send(ToCore::KeepClients).is_ok() {}
        drain.follow(&both, start + Duration::from_secs(1));
        assert!(told(&inbox).iter().all(Option::is_none));
        drain.follow(&both, start + Duration::from_secs(2));
        assert_eq!(told(&inbox), [Some(LATE_OVER)]);
        drain.follow(&both, start + Duration::from_secs(3));
        assert!(told(&inbox).is_empty());
    }
}
