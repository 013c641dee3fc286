//! What may cost sessions, and which: those that began before it was over.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Gateways look for what Redis has lost each half a second, and doubt all sessions that they have
/// then until their clients answer: also those that began since. The rest is for the ways.
const NOTICED_WITHIN: Duration = Duration::from_millis(600);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Redis answers nobody before then. Who resumes meanwhile, wherever it is, may be told op 9.
    redis_away_until: Option<Instant>,
    /// All gateways know by then what Redis has lost.
    noticed_by: Option<Instant>,
    /// When it last happened to each of them.
    nodes: BTreeMap<usize, Instant>,
}

impl Losses {
    /// Redis answers nobody until then.
    pub(super) fn redis_is_away(&mut self, now: Instant, until: Instant) {
        self.redis_away_until = self.redis_away_until.max(Some(until));
        if self.noticed_by > Some(now) {
            self.redis_forgot(now);
        }
    }

    /// Redis has lost something. Nobody notices while it is away.
    pub(super) fn redis_forgot(&mut self, now: Instant) {
        let answers = self.redis_away_until.max(Some(now));
        self.noticed_by = answers.map(|at| at + NOTICED_WITHIN);
    }

    pub(super) fn node(&mut self, node: usize, now: Instant) {
        self.nodes.insert(node, now);
    }

    /// Whether something may have cost a session of these nodes that began then.
    pub(super) fn excuse(&self, nodes: &[usize], began: Instant) -> bool {
        let nodes = nodes.iter().filter_map(|node| self.nodes.get(node));
        let stores = [&self.redis_away_until, &self.noticed_by];
        let mut lost = stores.into_iter().flatten().chain(nodes);
        lost.any(|&over| over >= began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: usize = 3;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_that_begins_while_redis_is_away_may_be_lost() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        assert!(!losses.excuse(&[NODE], now));
        losses.redis_is_away(now, now + seconds(8));
        assert!(losses.excuse(&[NODE], now + seconds(4)));
        // A shorter time besides does not bring it back.
        losses.redis_is_away(now + seconds(5), now + seconds(6));
        assert!(losses.excuse(&[NODE], now + seconds(7)));
        assert!(!losses.excuse(&[NODE], now + seconds(8) + NOTICED_WITHIN / 2));
    }

    #[test]
    fn a_session_that_begins_before_gateways_know_what_redis_lost_may_be_lost() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.redis_forgot(now);
        assert!(losses.excuse(&[NODE], now + NOTICED_WITHIN / 2));
        assert!(!losses.excuse(&[NODE], now + 2 * NOTICED_WITHIN));
    }

    #[test]
    fn what_redis_lost_is_noticed_when_it_answers_again() {
        let now = Instant::now();
        let (until, soon) = (now + seconds(8), now + NOTICED_WITHIN / 2);
        let mut before = Losses::default();
        before.redis_forgot(now);
        before.redis_is_away(soon, until);
        let mut meanwhile = Losses::default();
        meanwhile.redis_is_away(now, until);
        meanwhile.redis_forgot(soon);
        for losses in [before, meanwhile] {
            assert!(losses.excuse(&[NODE], until + NOTICED_WITHIN / 2));
            assert!(!losses.excuse(&[NODE], until + 2 * NOTICED_WITHIN));
        }
    }

    #[test]
    fn what_happened_to_a_node_costs_sessions_that_were_there() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.node(NODE, now + seconds(1));
        assert!(losses.excuse(&[NODE + 1, NODE], now));
        assert!(!losses.excuse(&[NODE + 1], now));
        assert!(!losses.excuse(&[NODE], now + seconds(2)));
    }
}
