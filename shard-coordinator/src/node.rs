//! A node's standing, and when a silent node counts as gone. Pure: `now` is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{Drain, NodeState, NodeStatus, Nodes};
use guildhall_shared::keys;
use serde::{Deserialize, Serialize};

/// How long placement stands still after too many nodes fell silent at once.
pub const FREEZE: Duration = Duration::from_secs(15);
/// Every live node has been heard once within this time: a heartbeat and some slack.
pub(crate) const HEARD: Duration = Duration::from_millis(keys::NODE_HEARTBEAT_MS + 500);
/// Silences this close together count as "at once": the spread of heartbeats, and a round.
const AT_ONCE: Duration = Duration::from_millis(keys::NODE_HEARTBEAT_MS + 1_000);

/// Share of the shards a node is to carry, in thousandths of a normal node; between
/// [`Weight::MIN`] and [`Weight::MAX`]. An integer, so that a plan never depends on rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight(u32);

impl Weight {
    pub const MIN: Self = Self(16);
    pub const NORMAL: Self = Self(1_000);
    pub const MAX: Self = Self(16_000);

    /// From the operator's number: clamped, and normal if it is none.
    pub fn new(weight: f32) -> Self {
        if !weight.is_finite() {
            return Self::NORMAL;
        }
        let milli = (f64::from(weight) * 1_000.0).round();
        // In range after the clamp, so the cast loses nothing.
        Self(milli.clamp(f64::from(Self::MIN.0), f64::from(Self::MAX.0)) as u32)
    }

    pub fn milli(self) -> u32 {
        self.0
    }

    /// As operators write it.
    pub fn number(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

/// What placement may do with a live node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Takes shards.
    Accepting,
    /// Keeps its shards, gets no new ones.
    Cordoned,
    /// Gives all its shards away, in steps.
    Draining,
    /// Its process is leaving: gives all its shards away at once.
    Stopping,
}

impl Standing {
    /// What operators set, unless the node itself is on its way out.
    pub fn of(state: NodeState, stopping: bool) -> Self {
        match state {
            _ if stopping => Self::Stopping,
            NodeState::Active => Self::Accepting,
            NodeState::Cordoned => Self::Cordoned,
            NodeState::Draining => Self::Draining,
        }
    }

    /// True if no shard is to stay.
    pub fn is_leaving(self) -> bool {
        matches!(self, Self::Draining | Self::Stopping)
    }
}

/// A live node, as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// `host:port` of its relay.
    pub relay_addr: String,
    pub weight: Weight,
    pub standing: Standing,
    /// How its sessions leave, if they are to.
    pub drain: Option<Drain>,
}

/// What operators set for a node; the default is what a node without a row gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeSetting {
    pub(crate) weight: Weight,
    pub(crate) state: NodeState,
    /// Only of a node that drains.
    pub(crate) drain: Option<Drain>,
}

impl Default for NodeSetting {
    fn default() -> Self {
        Self {
            weight: Weight::NORMAL,
            state: NodeState::Active,
            drain: None,
        }
    }
}

/// The nodes placement works with, by id: live ones with what operators set for them.
pub(crate) fn nodes(live: &Nodes, settings: &BTreeMap<String, NodeSetting>) -> Vec<Node> {
    let node = |status: &NodeStatus| {
        let setting = settings.get(&status.id).copied().unwrap_or_default();
        Node {
            id: status.id.clone(),
            relay_addr: status.relay_addr.clone(),
            weight: setting.weight,
            standing: Standing::of(setting.state, status.stopping),
            drain: setting.drain,
        }
    };
    live.values().map(node).collect()
}

/// Decides which nodes count as live, round by round.
///
/// A single silent node is gone at once. If over a third of the nodes (and more than one)
/// fall silent together, or Redis lost the map, it is Redis or the network, not the nodes:
/// for [`FREEZE`], or until all are heard again, those known before count as live and no
/// other node joins.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// Nodes that counted as live in the last round.
    known: Nodes,
    /// When which nodes fell silent lately, oldest first.
    silent: VecDeque<(Instant, String)>,
    frozen: Option<Frozen>,
    /// Redis has forgotten the map and holds none yet.
    map_lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frozen {
    until: Instant,
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// This process could not see; who is silent afterwards is yet to be judged.
    Blind,
    /// The silence itself; who is still silent afterwards is gone.
    Silence,
}

impl Liveness {
    /// Starts frozen for [`HEARD`]: a process that just began to look has not yet seen all.
    pub(crate) fn new(now: Instant) -> Self {
        let mut new = Self {
            known: Nodes::new(),
            silent: VecDeque::new(),
            frozen: None,
            map_lost: false,
        };
        new.blind(now);
        new
    }

    /// A round that could not look. The nodes may have been unable to write as well, so they
    /// get the time of a heartbeat once Redis answers again.
    pub(crate) fn blind(&mut self, now: Instant) {
        self.freeze(now + HEARD, Cause::Blind);
    }

    /// Redis forgot its data, heartbeats included. Called in each round until it holds a map
    /// again; counts once, or a cluster that knows no node would stand still for ever.
    pub(crate) fn flushed(&mut self, now: Instant) {
        if std::mem::replace(&mut self.map_lost, true) {
            return;
        }
        if self.known.is_empty() {
            self.blind(now); // there is nothing to hold on to but who comes next
        } else {
            self.freeze(now + FREEZE, Cause::Silence);
        }
    }

    /// Redis holds a map.
    pub(crate) fn map_shown(&mut self) {
        self.map_lost = false;
    }

    /// Takes in the nodes Redis shows, and returns those to place shards on; `None` while
    /// nothing is known yet.
    pub(crate) fn admit(&mut self, now: Instant, live: Nodes) -> Option<&Nodes> {
        let newly_silent: Vec<String> = self
            .known
            .iter()
            .filter(|(id, status)| !live.contains_key(*id) && !status.stopping)
            .map(|(id, _)| id.clone())
            .collect();

        if self.is_frozen(now) {
            if newly_silent.is_empty() && !self.known.is_empty() {
                self.frozen = None;
            }
        } else {
            let judged = self
                .frozen
                .take()
                .is_some_and(|frozen| frozen.cause == Cause::Silence);
            if !judged {
                self.judge(now, newly_silent, &live);
            }
        }

        if !self.is_frozen(now) {
            self.known = live;
            return Some(&self.known);
        }
        for (id, status) in live {
            if let Some(known) = self.known.get_mut(&id) {
                *known = status;
            }
        }
        (!self.known.is_empty()).then_some(&self.known)
    }

    /// Nodes that counted as live in the last round.
    pub(crate) fn known(&self) -> &Nodes {
        &self.known
    }

    /// Whether these are all of them, but for those that leave: who looks between rounds judges
    /// nobody, and Redis may have lost some.
    pub(crate) fn are_all(&self, live: &Nodes) -> bool {
        let mut known = self.known.iter();
        known.all(|(id, status)| status.stopping || live.contains_key(id))
    }

    pub(crate) fn is_frozen(&self, now: Instant) -> bool {
        self.frozen.is_some_and(|frozen| now < frozen.until)
    }

    /// Freezes if too many fell silent at once.
    fn judge(&mut self, now: Instant, newly_silent: Vec<String>, live: &Nodes) {
        self.silent
            .retain(|(at, id)| now - *at <= AT_ONCE && !live.contains_key(id));
        let at_once = newly_silent.len() + self.silent.len();
        let before = self.known.len() + self.silent.len();
        if !newly_silent.is_empty() && at_once > 1 && at_once * 3 > before {
            self.freeze(now + FREEZE, Cause::Silence);
        } else {
            let silent = newly_silent.into_iter().map(|id| (now, id));
            self.silent.extend(silent);
        }
    }

    /// The later end wins, and with it its cause.
    fn freeze(&mut self, until: Instant, cause: Cause) {
        if self.frozen.is_none_or(|frozen| frozen.until < until) {
            self.frozen = Some(Frozen { until, cause });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(1);

    fn live(ids: &[&str]) -> Nodes {
        ids.iter()
            .map(|id| ((*id).to_owned(), status(id, false)))
            .collect()
    }

    fn status(id: &str, stopping: bool) -> NodeStatus {
        NodeStatus {
            id: id.to_owned(),
            boot_id: "1".to_owned(),
            relay_addr: format!("{id}:1"),
            gateway_url: String::new(),
            stopping,
            map: Default::default(),
            sessions: 0,
            realms_owned: 0,
            dispatches_per_s: 0,
            at_ms: 0,
            realms_moving: 0,
            feed_lag_ms: 0,
            cores_busy: Vec::new(),
            shards: Vec::new(),
            guilds: Vec::new(),
            shards_open: None,
        }
    }

    fn ids(nodes: Option<&Nodes>) -> Vec<&str> {
        nodes.map_or(Vec::new(), |nodes| {
            nodes.keys().map(String::as_str).collect()
        })
    }

    /// A liveness that has seen these nodes, and the time after it did.
    fn seen(nodes: &[&str]) -> (Liveness, Instant) {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let now = start + HEARD;
        assert_eq!(ids(liveness.admit(now, live(nodes))), nodes);
        (liveness, now + ROUND)
    }

    #[test]
    fn nothing_is_known_before_every_node_had_time_for_a_heartbeat() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.admit(start + ROUND, live(&["a"])), None);
        assert_eq!(
            ids(liveness.admit(start + HEARD, live(&["a", "b"]))),
            ["a", "b"]
        );
    }

    #[test]
    fn one_silent_node_is_gone_at_once_even_of_two() {
        let (mut liveness, now) = seen(&["a", "b"]);
        assert_eq!(ids(liveness.admit(now, live(&["b"]))), ["b"]);
        assert!(!liveness.is_frozen(now));
    }

    #[test]
    fn a_third_of_the_nodes_may_go() {
        let (mut liveness, now) = seen(&["a", "b", "c", "d", "e", "f"]);
        let left = ["c", "d", "e", "f"];
        assert_eq!(ids(liveness.admit(now, live(&left))), left);
    }

    #[test]
    fn more_than_a_third_at_once_freezes_placement_for_15_s() {
        let all = ["a", "b", "c", "d", "e"];
        let left = ["c", "d", "e"];
        let (mut liveness, now) = seen(&all);
        assert_eq!(ids(liveness.admit(now, live(&left))), all);
        let joined = ["c", "d", "e", "f"];
        let almost = now + FREEZE - Duration::from_millis(1);
        assert_eq!(
            ids(liveness.admit(almost, live(&joined))),
            all,
            "nobody joins either"
        );
        assert_eq!(ids(liveness.admit(now + FREEZE, live(&joined))), joined);
        assert!(!liveness.is_frozen(now + FREEZE));
    }

    #[test]
    fn silences_in_consecutive_rounds_count_together() {
        let (mut liveness, now) = seen(&["a", "b", "c", "d", "e"]);
        let four = ["b", "c", "d", "e"];
        assert_eq!(ids(liveness.admit(now, live(&four))), four);
        let later = now + ROUND;
        assert_eq!(ids(liveness.admit(later, live(&["c", "d", "e"]))), four);
        assert!(liveness.is_frozen(later));
    }

    #[test]
    fn silences_far_apart_do_not_count_together() {
        let (mut liveness, now) = seen(&["a", "b", "c", "d", "e"]);
        liveness.admit(now, live(&["b", "c", "d", "e"]));
        let later = now + AT_ONCE + ROUND;
        let left = ["c", "d", "e"];
        assert_eq!(ids(liveness.admit(later, live(&left))), left);
    }

    #[test]
    fn the_freeze_ends_when_all_are_heard_again() {
        let all = ["a", "b", "c"];
        let (mut liveness, now) = seen(&all);
        assert_eq!(ids(liveness.admit(now, Nodes::new())), all);
        assert!(liveness.is_frozen(now));
        let more = ["a", "b", "c", "d"];
        assert_eq!(ids(liveness.admit(now + ROUND, live(&more))), more);
    }

    #[test]
    fn a_frozen_node_that_restarts_shows_its_new_address() {
        let (mut liveness, now) = seen(&["a", "b", "c"]);
        liveness.admit(now, Nodes::new());
        let mut again = live(&["a"]);
        again
            .entry("a".to_owned())
            .and_modify(|a| a.relay_addr = "a:2".to_owned());
        let nodes = liveness.admit(now + ROUND, again);
        assert_eq!(
            nodes.map(|nodes| nodes["a"].relay_addr.as_str()),
            Some("a:2")
        );
    }

    #[test]
    fn nodes_that_said_they_would_stop_do_not_freeze_placement() {
        let (mut liveness, now) = seen(&["a", "b", "c"]);
        let mut stopping = live(&["a", "b", "c"]);
        for status in stopping.values_mut().take(2) {
            status.stopping = true;
        }
        liveness.admit(now, stopping);
        assert_eq!(ids(liveness.admit(now + ROUND, live(&["c"]))), ["c"]);
    }

    #[test]
    fn a_flush_while_no_node_is_known_does_not_keep_nodes_out_for_ever() {
        let (mut liveness, now) = seen(&["a"]);
        assert_eq!(ids(liveness.admit(now, Nodes::new())), [""; 0]);
        let mut round = now;
        for _ in 0..4 {
            round += ROUND;
            liveness.flushed(round);
            liveness.admit(round, live(&["a"]));
        }
        assert_eq!(ids(liveness.admit(round, live(&["a"]))), ["a"]);
    }

    #[test]
    fn a_flush_of_redis_does_not_kill_even_a_single_node() {
        let (mut liveness, now) = seen(&["a"]);
        liveness.flushed(now);
        assert_eq!(ids(liveness.admit(now, Nodes::new())), ["a"]);
        let later = now + ROUND * 2;
        assert_eq!(ids(liveness.admit(later, live(&["a"]))), ["a"]);
        assert!(!liveness.is_frozen(later));
    }

    #[test]
    fn who_looks_between_rounds_knows_whether_anybody_is_missing() {
        let (mut liveness, now) = seen(&["a", "b"]);
        assert!(liveness.are_all(&live(&["a", "b"])));
        assert!(!liveness.are_all(&live(&["a"])));
        assert!(!liveness.are_all(&Nodes::new()));
        let mut stopping = live(&["a", "b"]);
        stopping.insert("b".to_owned(), status("b", true));
        liveness.admit(now, stopping);
        assert!(liveness.are_all(&live(&["a"])));
    }

    #[test]
    fn after_a_blind_round_nodes_have_time_to_be_heard() {
        let (mut liveness, now) = seen(&["a", "b", "c"]);
        liveness.blind(now);
        assert_eq!(
            ids(liveness.admit(now + ROUND, live(&["a", "b"]))),
            ["a", "b", "c"]
        );
        assert_eq!(
            ids(liveness.admit(now + HEARD, live(&["a", "b"]))),
            ["a", "b"]
        );
    }

    #[test]
    fn mass_silence_after_blindness_still_freezes() {
        let all = ["a", "b", "c"];
        let (mut liveness, now) = seen(&all);
        liveness.blind(now);
        assert_eq!(ids(liveness.admit(now + HEARD, live(&["a"]))), all);
        let end = now + HEARD + FREEZE;
        assert_eq!(ids(liveness.admit(end, live(&["a"]))), ["a"]);
    }

    #[test]
    fn a_weight_is_clamped_and_never_nonsense() {
        assert_eq!(Weight::new(1.0), Weight::NORMAL);
        assert_eq!(Weight::new(0.5).milli(), 500);
        assert_eq!(Weight::new(0.0), Weight::MIN);
        assert_eq!(Weight::new(1e30), Weight::MAX);
        assert_eq!(Weight::new(f32::NAN), Weight::NORMAL);
        assert_eq!(Weight::new(f32::INFINITY), Weight::NORMAL);
    }

    #[test]
    fn a_stopping_node_gives_its_shards_away_whatever_operators_set() {
        for state in [NodeState::Active, NodeState::Cordoned, NodeState::Draining] {
            assert_eq!(Standing::of(state, true), Standing::Stopping);
        }
    }
}
