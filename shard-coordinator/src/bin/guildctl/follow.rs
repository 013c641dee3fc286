//! Waiting for a drain or a plan to end, with its progress on stderr.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::NodeState;
use guildhall_shared::operator::{
    Change, Moves, NodeInfo, NodesAnswer, PlanInfo, PlanState, ProblemCode,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::{Ask, Client};
use crate::error::{Error, Result};
use crate::plan::NO_LEADER;
use crate::print::count;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Coordinators may be away for so long (a restart, a take-over) before waiting gives up.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// A node that is not live for so long is gone. Redis may have lost its heartbeat, and the map, for
/// a moment: what the node has left is not known then.
const GONE_AFTER: Duration = Duration::from_secs(15);

/// Until nothing is left on the node, or it is gone.
///
/// Errors: the drain was undone.
pub(crate) async fn drain(client: &Client, node: &str) -> Result<()> {
    let mut shown = Shown::new();
    // Shards and sessions at the start: what the bar counts down from.
    let mut at_first = None;
    let mut presence = Presence::default();
    loop {
        let nodes: NodesAnswer = patiently(client, &Ask::get(["nodes"])).await?;
        let Some(info) = nodes.nodes.iter().find(|info| info.id == node) else {
            shown.end();
            return Ok(());
        };
        if info.state != NodeState::Draining {
            shown.end();
            return Err(Error::Failed(format!("{node} does not drain any more")));
        }
        match presence.look(Instant::now(), info.status.is_some()) {
            Seen::Live => {}
            Seen::Silent => {
                let all = at_first.map_or(0, |all: Left| all.sum());
                shown.show(all, 0, &format!("{node}: no heartbeat"));
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Seen::Gone => {
                shown.end();
                return Ok(());
            }
        }
        let Some(left) = Left::of(info, &nodes.nodes) else {
            let all = at_first.map_or(0, |all: Left| all.sum());
            shown.show(all, 0, &format!("{node}: there is no map"));
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let all = *at_first.get_or_insert(left);
        if left == Left::default() {
            shown.end();
            return Ok(());
        }
        let done = all.sum().saturating_sub(left.sum());
        let moves: Moves = patiently(client, &Ask::get(["moves"])).await?;
        let mut text = format!(
            "{node}: {} and {} left{}",
            count(left.shards, "shard"),
            count(left.sessions, "session"),
            held_up(&moves),
        );
        if left.shards > 0 && !another_takes(node, &nodes.nodes) {
            text += ", no other node takes shards";
        }
        shown.show(all.sum(), done, &text);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether a node is there, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Live,
    /// Not live for less than [`GONE_AFTER`].
    Silent,
    Gone,
}

/// Since when a node has not been live.
#[derive(Debug, Default)]
struct Presence {
    silent_since: Option<Instant>,
}

impl Presence {
    fn look(&mut self, now: Instant, is_live: bool) -> Seen {
        if is_live {
            self.silent_since = None;
            return Seen::Live;
        }
        let since = *self.silent_since.get_or_insert(now);
        match now.saturating_duration_since(since) >= GONE_AFTER {
            true => Seen::Gone,
            false => Seen::Silent,
        }
    }
}

/// What a node still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Left {
    shards: u64,
    sessions: u64,
}

impl Left {
    /// Of one of all nodes; `None` if none of them has a shard: Redis has lost the map, for a
    /// moment, and what the node has left is not known.
    fn of(node: &NodeInfo, all: &[NodeInfo]) -> Option<Self> {
        let is_known = all.iter().any(|node| node.shards_owned > 0);
        is_known.then(|| Self {
            shards: u64::from(node.shards_owned),
            sessions: node.status.as_ref().map_or(0, |status| status.sessions),
        })
    }

    fn sum(self) -> u64 {
        self.shards + self.sessions
    }
}

/// Why nothing moves, where that is known.
fn held_up(moves: &Moves) -> String {
    let mut text = String::new();
    if !moves.led {
        text += &format!(", {NO_LEADER}");
    }
    if moves.paused.is_some() {
        text += ", paused";
    }
    text
}

/// Whether shards of this node have somewhere to go.
fn another_takes(node: &str, all: &[NodeInfo]) -> bool {
    let takes = |other: &NodeInfo| {
        let is_live = other.status.as_ref().is_some_and(|status| !status.stopping);
        is_live && other.state == NodeState::Active
    };
    all.iter().any(|other| other.id != node && takes(other))
}

/// Until the plan is done; its last state.
///
/// Errors: it was aborted.
pub(crate) async fn plan(client: &Client, mut plan: PlanInfo) -> Result<PlanInfo> {
    let mut shown = Shown::new();
    let id = plan.id;
    let all = u64::try_from(plan.outcome.moves.len()).unwrap_or(u64::MAX);
    loop {
        match plan.state {
            PlanState::Done => {
                shown.end();
                return Ok(plan);
            }
            PlanState::Aborted => {
                shown.end();
                return Err(Error::Failed(format!("plan {id} was aborted")));
            }
            PlanState::Draft | PlanState::Applying => {}
        }
        let moves: Moves = patiently(client, &Ask::get(["moves"])).await?;
        let (done, all, text) = match &moves.progress {
            Some(progress) => {
                let moving = u64::try_from(progress.in_motion.len()).unwrap_or(u64::MAX);
                let (done, left) = (u64::from(progress.done), u64::from(progress.left));
                let text = format!("step {}, {}", progress.step, count(moving, "shard"));
                (
                    done,
                    done + moving + left,
                    format!("{text} in motion, {left} left"),
                )
            }
            // Before the first step, or with nowhere to go.
            None => (0, all, "no shard in motion".to_owned()),
        };
        let mut text = format!("plan {id}: {text}{}", held_up(&moves));
        if moves.progress.is_none() && plan.outcome.stuck > 0 {
            text += ", no other node takes shards";
        }
        if plan.changes.iter().any(|change| drained(change).is_some()) {
            let nodes: NodesAnswer = patiently(client, &Ask::get(["nodes"])).await?;
            let left = count(sessions_left(&plan, &nodes.nodes), "session");
            text += &format!(", {left} left on what drains");
        }
        shown.show(all, done, &text);
        tokio::time::sleep(LOOK_EVERY).await;
        plan = patiently(client, &Ask::get(["plan".to_owned(), id.to_string()])).await?;
    }
}

/// The node that a change drains.
fn drained(change: &Change) -> Option<&str> {
    match change {
        Change::Drain { node, .. } => Some(node),
        _ => None,
    }
}

/// Sessions of the nodes that a plan drains.
fn sessions_left(plan: &PlanInfo, all: &[NodeInfo]) -> u64 {
    let drains = |info: &&NodeInfo| {
        let mut drained = plan.changes.iter().filter_map(drained);
        drained.any(|node| node == info.id)
    };
    let of_node = |info: &NodeInfo| info.status.as_ref().map_or(0, |status| status.sessions);
    all.iter().filter(drains).map(of_node).sum()
}

/// Whether it may go by: a coordinator that restarts, a database that fails over.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) | Error::Unanswered { .. } => true,
        Error::Refused(problem) => {
            matches!(problem.code, ProblemCode::NoRedis | ProblemCode::NoPostgres)
        }
        // A proxy before a coordinator that is away.
        Error::NotACoordinator { status, .. } => (502..=504).contains(status),
        _ => false,
    }
}

/// Asks again while no coordinator can answer, up to [`AWAY_MAX`].
async fn patiently<T: serde::de::DeserializeOwned>(client: &Client, ask: &Ask) -> Result<T> {
    let start = Instant::now();
    loop {
        match client.ask(ask).await {
            Err(error) if may_pass(&error) && start.elapsed() < AWAY_MAX => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            answer => return answer,
        }
    }
}

/// A bar on a terminal; elsewhere a line whenever something changed.
struct Shown {
    bar: Option<ProgressBar>,
    last: String,
}

impl Shown {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
        let bar = match style {
            Ok(style) if io::stderr().is_terminal() => {
                Some(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
            }
            _ => None,
        };
        Self {
            bar,
            last: String::new(),
        }
    }

    fn show(&mut self, all: u64, done: u64, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None if self.last != text => {
                eprintln!("{text}");
                self.last = text.to_owned();
            }
            None => {}
        }
    }

    fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::operator::Problem;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_holds_a_drain_up_is_said() {
        let moves = |led: bool, paused: bool| -> Moves {
            let pause = paused.then(|| json!({ "since_ms": 0, "by": "alice" }));
            let moves = json!({
                "led": led, "paused": pause, "plan": null, "requested": [], "progress": null,
            });
            serde_json::from_value(moves).unwrap()
        };
        assert_eq!(held_up(&moves(true, false)), "");
        assert_eq!(held_up(&moves(true, true)), ", paused");
        assert_eq!(held_up(&moves(false, false)), ", no coordinator leads");

        let node = |id: &str, state: &str, stopping: Option<bool>| -> NodeInfo {
            let status = stopping.map(|stopping| {
                json!({
                    "boot_id": "b", "relay_addr": "h:1", "gateway_url": "", "stopping": stopping,
                    "map": { "term": 1, "version": 1 }, "sessions": 0, "realms_owned": 0,
                    "realms_moving": 0, "dispatches_per_s": 0, "feed_lag_ms": 0, "cores_busy": [],
                })
            });
            let info = json!({
                "id": id, "state": state, "weight": 1.0, "drain": null, "shards_owned": 0,
                "shards_standby": 0, "load": 0, "heartbeat_age_ms": null, "status": status,
            });
            serde_json::from_value(info).unwrap()
        };
        let own = || node("a", "active", Some(false));
        for (other, takes) in [
            (node("b", "active", Some(false)), true),
            (node("b", "active", Some(true)), false),
            (node("b", "active", None), false),
            (node("b", "cordoned", Some(false)), false),
            (node("b", "draining", Some(false)), false),
        ] {
            assert_eq!(another_takes("a", &[own(), other]), takes);
        }
        assert!(!another_takes("a", &[own()]));
    }

    #[test]
    fn without_a_map_nobody_knows_what_a_node_has_left() {
        let node = |id: &str, shards: u32| -> NodeInfo {
            let info = json!({
                "id": id, "state": "draining", "weight": 1.0, "drain": null,
                "shards_owned": shards, "shards_standby": 0, "load": 0,
                "heartbeat_age_ms": null, "status": null,
            });
            serde_json::from_value(info).unwrap()
        };
        let lost = [node("a", 0), node("b", 0)];
        assert_eq!(Left::of(&lost[0], &lost), None);
        let shown = [node("a", 0), node("b", 256)];
        assert_eq!(Left::of(&shown[0], &shown), Some(Left::default()));
    }

    #[test]
    fn what_goes_by_is_waited_for() {
        let refused = |code| {
            let message = String::new();
            Error::Refused(Problem { code, message })
        };
        let proxied = |status| {
            let url = String::new();
            Error::NotACoordinator { url, status }
        };
        for error in [
            Error::Unreachable(Vec::new()),
            refused(ProblemCode::NoPostgres),
            refused(ProblemCode::NoRedis),
            proxied(502),
        ] {
            assert!(may_pass(&error), "{error}");
        }
        for error in [refused(ProblemCode::Unauthorized), proxied(404)] {
            assert!(!may_pass(&error), "{error}");
        }
    }

    #[test]
    fn a_node_whose_heartbeat_is_lost_for_a_moment_is_not_gone() {
        let start = Instant::now();
        let mut presence = Presence::default();
        let almost = GONE_AFTER - Duration::from_millis(1);
        for (after, is_live, seen) in [
            (Duration::ZERO, true, Seen::Live),
            (Duration::ZERO, false, Seen::Silent),
            (almost, false, Seen::Silent),
            (almost, true, Seen::Live),
            (GONE_AFTER, false, Seen::Silent),
            (GONE_AFTER + almost, false, Seen::Silent),
            (GONE_AFTER + GONE_AFTER, false, Seen::Gone),
        ] {
            assert_eq!(presence.look(start + after, is_live), seen, "{after:?}");
        }
    }
}
