//! A node that reaches neither Postgres nor Redis hears nothing new and lets nobody in, but its
//! clients may reach nodes that do. After a while it asks them to. `/ready` has said 503, and
//! IDENTIFY has been refused, since Postgres stopped answering.

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::cluster_map::ClusterMap;
use tokio::time::sleep;

use super::{drain, map::MapWatch, owner::feed::Feed};
use crate::{
    bus::{CoreHandle, ToCore},
    clock,
    status::Status,
};

/// How long no store may answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Clients are asked to reconnect over so long.
const OVER: Duration = Duration::from_secs(5);
const LOOK_PERIOD: Duration = Duration::from_secs(1);

pub(crate) struct CutOff {
    node: String,
    cores: Vec<CoreHandle>,
    /// Since when; `None` while a store answers.
    since: Cell<Option<Instant>>,
    /// Every core has been told since then.
    told: Cell<bool>,
}

impl CutOff {
    pub(crate) fn new(node: String, cores: Vec<CoreHandle>) -> Self {
        Self {
            node,
            cores,
            since: Cell::new(None),
            told: Cell::new(false),
        }
    }

    /// Looks as long as the task lives.
    pub(crate) async fn run(self, status: Arc<Status>, feed: Rc<Feed>, map: Rc<MapWatch>) {
        loop {
            let answers = status.database() || feed.is_any_up();
            self.look(answers, &map.current(), clock::now());
            sleep(LOOK_PERIOD).await;
        }
    }

    /// `answers`: any store does.
    fn look(&self, answers: bool, map: &ClusterMap, now: Instant) {
        if answers {
            self.since.set(None);
            self.told.set(false);
            return;
        }
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        let is_due = now.duration_since(since) >= PATIENCE && !self.told.get();
        if !is_due || !drain::another_takes(map, &self.node) {
            return;
        }
        tracing::warn!("no store answers: clients are asked to reconnect elsewhere");
        let mut told = true;
        for core in &self.cores {
            // One that is too busy hears it at the next look.
            told &= core.send(ToCore::SendAway { over: OVER }).is_ok();
        }
        self.told.set(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus;

    const HERE: &str = "gateway-1";

    fn map(nodes: &[&str]) -> ClusterMap {
        ClusterMap {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            ..ClusterMap::default()
        }
    }

    #[test]
    fn clients_are_sent_away_once_when_no_store_has_answered_for_fifteen_seconds() {
        let (core, inbox) = bus::inbox();
        let cut_off = CutOff::new(HERE.to_owned(), vec![core]);
        let (both, alone) = (map(&[HERE, "gateway-2"]), map(&[HERE]));
        let mut other_stops = both.clone();
        other_stops.stopping.insert("gateway-2".to_owned());
        let start = Instant::now();
        for (second, answers, map, sent) in [
            (0, true, &both, 0),
            (1, false, &both, 0),
            (15, false, &both, 0),
            // One answer in between is enough.
            (16, true, &both, 0),
            (17, false, &both, 0),
            (31, false, &both, 0),
            // Nobody else would take them.
            (32, false, &alone, 0),
            (32, false, &other_stops, 0),
            (33, false, &both, 1),
            (34, false, &both, 0),
            (90, false, &both, 0),
            (91, true, &both, 0),
            (92, false, &both, 0),
            (107, false, &both, 1),
        ] {
            cut_off.look(answers, map, start + Duration::from_secs(second));
            let away = inbox.messages.try_iter();
            let away = away.filter(|message| matches!(message, ToCore::SendAway { .. }));
            assert_eq!(away.count(), sent, "after {second} s");
        }
    }

    #[test]
    fn a_core_that_was_too_busy_is_told_at_the_next_look() {
        let (core, inbox) = bus::inbox();
        let cut_off = CutOff::new(HERE.to_owned(), vec![core.clone()]);
        let both = map(&[HERE, "gateway-2"]);
        let start = Instant::now();
        cut_off.look(false, &both, start);
        while core.send(ToCore::KeepClients).is_ok() {}
        cut_off.look(false, &both, start + PATIENCE);
        let told = |message: ToCore| matches!(message, ToCore::SendAway { .. });
        assert!(!inbox.messages.try_iter().any(told));
        cut_off.look(false, &both, start + PATIENCE + LOOK_PERIOD);
        assert!(inbox.messages.try_iter().any(told));
    }
}
