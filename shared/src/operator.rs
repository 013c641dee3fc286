//! The coordinator's API for operators, under [`PREFIX`]: what is asked and answered, as JSON.
//!
//! | method and path | asks | answers |
//! |---|---|---|
//! | `GET nodes` | | [`NodesAnswer`] |
//! | `GET map?shards=all` | | [`MapInfo`] |
//! | `GET shards?hot=N` | N in 1..=[`HOT_MAX`], default 20 | [`ShardsAnswer`] |
//! | `GET guilds?hot=N` | N as above | [`GuildsAnswer`] |
//! | `GET why/{guild}` | | [`Why`] |
//! | `GET history?before=&limit=` | limit in 1..=[`HISTORY_MAX`], default 50 | [`History`] |
//! | `GET moves` | | [`Moves`] |
//! | `GET plan/{id}` | | [`PlanInfo`] |
//! | `GET events` | | server-sent events named `state`: [`Snapshot`], or `problem`: [`Problem`] |
//! | `GET me` | | [`Me`] |
//! | `POST login`, `POST logout` | [`Login`], nothing | [`Me`], nothing (204) |
//! | `POST nodes/{id}/cordon`, `…/uncordon`, `…/undrain` | nothing | [`Accepted`] |
//! | `POST nodes/{id}/drain` | [`DrainRequest`] or nothing | [`Accepted`] |
//! | `PUT nodes/{id}/weight` | [`WeightRequest`] | [`Accepted`] |
//! | `PUT pins/{shard}`, `DELETE pins/{shard}` | [`PinRequest`], nothing | [`Accepted`] |
//! | `POST moves` | [`MoveRequest`] | [`Accepted`] |
//! | `POST plan` | [`PlanRequest`] | [`PlanInfo`] (201) |
//! | `POST plan/{id}/apply` | nothing | [`PlanInfo`] |
//! | `POST pause`, `POST resume`, `POST abort` | nothing | [`Accepted`] |
//!
//! Every error is a [`Problem`]. Times are Unix milliseconds. Reads need [`Scope::Read`],
//! everything else [`Scope::Operate`] (but `login`, `logout`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster_map::{Drain, MapVersion, NodeState};
use crate::id::{Id, marker::Guild};
use crate::shard::ShardId;

/// What every path starts with.
pub const PREFIX: &str = "/admin/v1";
/// `aud` of an operator's token.
pub const AUDIENCE: &str = "guildhall-admin";
/// Longest life of an operator's token.
pub const TOKEN_LIFETIME_MAX_S: u64 = 12 * 60 * 60;
/// Cookie that holds the token after `POST login`.
pub const COOKIE: &str = "guildhall_admin";
/// A request with the cookie that changes anything, and `login` and `logout`, must bear this header
/// with the value `1`: pages of other sites cannot set it.
pub const HEADER: &str = "x-guildhall";
/// Most shards `GET shards` names, and guilds `GET guilds`.
pub const HOT_MAX: usize = 1_000;
/// Most rows of one page of `GET history`.
pub const HISTORY_MAX: u32 = 500;
/// Seconds a drain takes unless told.
pub const DRAIN_OVER_S_DEFAULT: u32 = 60;
/// Longest drain: a day.
pub const DRAIN_OVER_S_MAX: u32 = 86_400;
/// Bounds of a node's weight.
pub const WEIGHT: std::ops::RangeInclusive<f64> = 0.016..=16.0;
/// Most changes of one plan.
pub const CHANGES_MAX: usize = 256;
/// Longest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What a token allows; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See everything.
    Read,
    /// Change everything.
    Operate,
}

/// What an operator's token says (JWT, HS256).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The operator's name, as it appears in the history.
    pub sub: String,
    pub scope: Scope,
    /// [`AUDIENCE`].
    pub aud: String,
    /// Unix seconds; at most [`TOKEN_LIFETIME_MAX_S`] ahead.
    pub exp: u64,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    pub name: String,
    pub scope: Scope,
    pub expires_at_ms: u64,
}

/// Body of `POST login`: the token goes into a cookie.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub token: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(***)")
    }
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: ProblemCode,
    /// A sentence for people.
    pub message: String,
}

/// The word programs look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// 400: a body, parameter or path that cannot be read, or a value out of bounds.
    BadRequest,
    /// 401: no token, or none that is valid here and now.
    Unauthorized,
    /// 403: the token allows less than that.
    ScopeTooSmall,
    /// 403: a change by cookie, or of the cookie, without [`HEADER`].
    HeaderMissing,
    /// 404.
    UnknownPath,
    /// 404: neither live nor set up.
    UnknownNode,
    /// 404: the cluster has fewer shards.
    UnknownShard,
    /// 404: or one that is forgotten.
    UnknownPlan,
    /// 404: no coordinator has published a map yet.
    NoMap,
    /// 405.
    MethodNotAllowed,
    /// 409: settings change only by the plan that runs; `abort` ends it.
    PlanRunning,
    /// 409: what the plan was made from has changed since; make a new one.
    PlanStale,
    /// 409: the plan was applied before, or ended.
    PlanNotDraft,
    /// 409: no plan runs and no move is requested, or not any more.
    NothingToAbort,
    /// 409: the node is not live, or takes no shards.
    NodeNotAccepting,
    /// 409: a pin says where the shard is.
    ShardPinned,
    /// 413: longer than [`BODY_BYTES_MAX`].
    BodyTooLong,
    /// 429: as many streams of events as there may be.
    TooManyStreams,
    /// 500.
    Internal,
    /// 503: the coordinator has no `CLUSTER_KEY`.
    AdminDisabled,
    /// 503: Redis does not answer.
    NoRedis,
    /// 503: Postgres does not answer.
    NoPostgres,
    /// A word of a newer coordinator.
    #[serde(other)]
    Other,
}

impl ProblemCode {
    /// The HTTP status it comes with.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::ScopeTooSmall | Self::HeaderMissing => 403,
            Self::UnknownPath
            | Self::UnknownNode
            | Self::UnknownShard
            | Self::UnknownPlan
            | Self::NoMap => 404,
            Self::MethodNotAllowed => 405,
            Self::PlanRunning
            | Self::PlanStale
            | Self::PlanNotDraft
            | Self::NothingToAbort
            | Self::NodeNotAccepting
            | Self::ShardPinned => 409,
            Self::BodyTooLong => 413,
            Self::TooManyStreams => 429,
            Self::Internal | Self::Other => 500,
            Self::AdminDisabled | Self::NoRedis | Self::NoPostgres => 503,
        }
    }
}

/// A change is stored. The leader acts on it in its next round, within a second or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its row in the history.
    pub audit_id: i64,
    /// False while no coordinator leads: it is acted on once one does.
    #[serde(default = "unless_told")]
    pub led: bool,
}

/// What a coordinator that does not know the question is taken to answer.
fn unless_told() -> bool {
    true
}

/// Answer of `GET nodes`, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodesAnswer {
    pub nodes: Vec<NodeInfo>,
}

/// A gateway: what is set for it, what it holds, what it reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: String,
    pub state: NodeState,
    /// Share of the shards it is to carry against other nodes; 1 unless set.
    pub weight: f64,
    /// How its sessions leave, while it drains.
    pub drain: Option<Drain>,
    /// In the map in use.
    pub shards_owned: u32,
    pub shards_standby: u32,
    /// Sum of the loads of its shards: events times subscribed nodes, per minute.
    pub load: u64,
    /// By Redis' clock; absent if its heartbeat has expired.
    pub heartbeat_age_ms: Option<u64>,
    /// Absent if it is not live.
    pub status: Option<NodeFigures>,
}

/// What a live node reports of itself, see `cluster_map::NodeStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFigures {
    pub boot_id: String,
    pub relay_addr: String,
    pub gateway_url: String,
    /// Its process is leaving.
    pub stopping: bool,
    pub map: MapVersion,
    pub sessions: u64,
    pub realms_owned: u64,
    pub realms_moving: u64,
    pub dispatches_per_s: u64,
    pub feed_lag_ms: u64,
    /// Parts per thousand of the last second, per core.
    pub cores_busy: Vec<u16>,
}

/// The map in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapInfo {
    pub version: MapVersion,
    pub shards: u32,
    pub nodes: u32,
    /// Shards without an owner.
    pub unowned: u32,
    /// Fullest node by shards against its weighted share, in thousandths: 1000 is even.
    pub imbalance_milli: u32,
    /// The same by load; absent while no node reports any.
    pub load_imbalance_milli: Option<u32>,
    #[serde(default)]
    pub drains: BTreeMap<String, Drain>,
    /// Every shard, if asked for by `?shards=all`.
    pub assignments: Option<Vec<ShardInfo>>,
}

/// Answer of `GET shards`, hottest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsAnswer {
    pub shards: Vec<ShardInfo>,
}

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    pub shard: ShardId,
    pub owner: Option<String>,
    pub standby: Option<String>,
    /// Node an operator tied it to.
    pub pin: Option<String>,
    /// Events times subscribed nodes, per minute; absent unless its owner reports it.
    pub load: Option<u32>,
}

/// Answer of `GET guilds`, hottest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuildsAnswer {
    pub guilds: Vec<GuildInfo>,
}

/// A guild among the busiest of its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuildInfo {
    pub guild: Id<Guild>,
    pub shard: ShardId,
    /// The node that reports it.
    pub owner: String,
    /// Events times subscribed nodes, per minute.
    pub load: u32,
    /// Members subscribed over all nodes.
    pub online: u32,
}

/// Answer of `GET why/{guild}`: where a guild is served and why there. Not a proof that
/// there is such a guild: the coordinator knows shards alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub guild: Id<Guild>,
    pub shard: ShardInfo,
    /// The guild's own load, as a shard's; absent unless it is among the owner's busiest.
    pub load: Option<u32>,
    /// Members subscribed over all nodes; absent as `load`.
    pub online: Option<u32>,
    /// Nodes with subscribed members, by name: the first `GuildLoad::EDGES_MAX`; none as `load`.
    #[serde(default)]
    pub edges: Vec<String>,
    /// All such nodes; 0 if that is not known.
    #[serde(default)]
    pub edges_total: u32,
    /// How the shard came to its owner; absent if that is not recorded.
    pub last_move: Option<LastMove>,
    /// The owner; its `feed_lag_ms` is how late the guild's events reach it.
    pub node: Option<NodeInfo>,
    pub map: MapVersion,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMove {
    pub at_ms: u64,
    /// Absent if it had no owner.
    pub from: Option<String>,
    pub to: Option<String>,
    pub cause: Cause,
    /// The map that moved it.
    pub version: MapVersion,
}

/// Why a shard moves; those before go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It had no owner.
    Unowned,
    /// Its owner is no longer live.
    OwnerLost,
    /// Its owner's process is leaving.
    OwnerStopping,
    Pin,
    /// An operator's single move.
    Move,
    /// Its owner drains.
    Drain,
    /// Its owner held more shards than its share.
    Share,
    /// Its owner carried more load than others.
    Load,
}

/// A shard and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub shard: ShardId,
    pub from: Option<String>,
    pub to: Option<String>,
    pub cause: Cause,
}

/// Answer of `GET history`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub entries: Vec<AuditEntry>,
    /// `before` of the next page; absent on the last one.
    pub next_before: Option<i64>,
}

/// What somebody did or was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub id: i64,
    pub at_ms: u64,
    /// An operator's name, or `coordinator/<id>`.
    pub who: String,
    /// A word: that of the path (`login`, `cordon`, `plan_apply` …), `refused`, or what the coordinator
    /// did (`lead_taken`, `node_lost`, `node_joined`, `freeze`, `thaw`, `step`,
    /// `step_timed_out`, `plan_done`, `move_dropped`). Of deeds at the API: `registration`,
    /// `account_lock`, `account_unlock`, `password_reset`, `second_factor_remove`,
    /// `message_delete`, `guild_read`, `guild_delete`.
    pub action: String,
    /// What was asked for, as in [`Change`]; of a single change of a setting with `was`: what it
    /// replaced. Of what was refused `code`, `method` and `path`, and at the API `status`. Of deeds at
    /// the API the ids of what they were done to.
    pub detail: serde_json::Value,
    /// Of the map in use then; 0 before the first, and of deeds at the API.
    pub version: MapVersion,
}

/// Answer of `GET moves`: what is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    /// False while no coordinator leads: nothing moves then.
    #[serde(default = "unless_told")]
    pub led: bool,
    /// While set, only shards without a serving owner move.
    pub paused: Option<Pause>,
    /// The plan that runs.
    pub plan: Option<PlanInfo>,
    /// Single moves that are not over.
    pub requested: Vec<RequestedMove>,
    /// Absent while every shard is where it is to be.
    pub progress: Option<Progress>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since_ms: u64,
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedMove {
    pub shard: ShardId,
    pub to: String,
}

/// How far the moves are that wait for each other. Written by the leader, by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When the first step was made.
    pub started_at_ms: u64,
    /// Steps made; the last one is under way while `in_motion` is not empty.
    pub step: u32,
    pub step_started_at_ms: u64,
    /// The map of the last step.
    pub version: MapVersion,
    pub in_motion: Vec<Move>,
    /// Shards that have moved, without those in motion.
    pub done: u32,
    /// Shards that are yet to move, without those in motion.
    pub left: u32,
    /// Steps that did not settle in time.
    pub timed_out: u32,
}

/// Body of `POST nodes/{id}/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Seconds its sessions leave over; 0 sends all away at once.
    #[serde(default = "drain_over_s_default")]
    pub over_s: u32,
}

impl Default for DrainRequest {
    fn default() -> Self {
        Self {
            over_s: DRAIN_OVER_S_DEFAULT,
        }
    }
}

fn drain_over_s_default() -> u32 {
    DRAIN_OVER_S_DEFAULT
}

/// Body of `PUT nodes/{id}/weight`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Within [`WEIGHT`].
    pub weight: f64,
}

/// Body of `PUT pins/{shard}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    pub node: String,
}

/// Body of `POST moves`: shards, or the shard of a guild, once to a node. Afterwards they
/// stay there as any shard stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    #[serde(default)]
    pub shards: Vec<ShardId>,
    #[serde(default)]
    pub guild: Option<Id<Guild>>,
    pub to: String,
}

/// Body of `POST plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// At least one, at most [`CHANGES_MAX`]; later ones see those before.
    pub changes: Vec<Change>,
}

/// One change of what operators set, as in `{"change": "drain", "node": "gateway-1"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    Cordon {
        node: String,
    },
    Uncordon {
        node: String,
    },
    Drain {
        node: String,
        #[serde(default = "drain_over_s_default")]
        over_s: u32,
    },
    Undrain {
        node: String,
    },
    Weight {
        node: String,
        weight: f64,
    },
    Pin {
        shard: ShardId,
        node: String,
    },
    Unpin {
        shard: ShardId,
    },
    Move {
        #[serde(default)]
        shards: Vec<ShardId>,
        #[serde(default)]
        guild: Option<Id<Guild>>,
        to: String,
    },
}

/// A plan: changes, and what they would lead to when it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanInfo {
    pub id: i64,
    pub state: PlanState,
    pub changes: Vec<Change>,
    pub made_at_ms: u64,
    pub made_by: String,
    pub applied_at_ms: Option<u64>,
    pub applied_by: Option<String>,
    pub ended_at_ms: Option<u64>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// Changes nothing until it is applied.
    Draft,
    /// Until its shards have moved, and the sessions have left the nodes that it drains or the time
    /// for that is over.
    Applying,
    Done,
    Aborted,
}

/// What a plan leads to, as far as one can tell beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Every shard that changes its owner, by shard.
    pub moves: Vec<Move>,
    pub imbalance_before_milli: u32,
    pub imbalance_after_milli: u32,
    /// Absent while no node reports any load.
    pub load_imbalance_before_milli: Option<u32>,
    pub load_imbalance_after_milli: Option<u32>,
    /// Sessions that are sent to other nodes: those of nodes that drain, and none if no node is left
    /// that does not. A shard that moves breaks none.
    pub sessions: u64,
    /// Shards that are to leave their node and have nowhere to go, for no other node takes any.
    /// They stay, and the plan runs, until one does.
    #[serde(default)]
    pub stuck: u32,
    /// Of the shards that move: copies of events (events times subscribed nodes) per second.
    pub events_per_s: u64,
    /// Steps the moves take; shards in which nothing is open move beside them.
    pub steps: u32,
    /// Estimate: steps, and the longest drain.
    pub seconds: u32,
}

/// The state of the cluster at once: one event of `GET events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub at_ms: u64,
    /// Id of the coordinator that answers.
    pub coordinator: String,
    /// Absent while none leads.
    pub leader: Option<Leader>,
    /// Absent before the first.
    pub map: Option<MapInfo>,
    pub nodes: Vec<NodeInfo>,
    pub moves: Moves,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The coordinator's id and a number of its process.
    pub holder: String,
    pub term: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_is_and_a_drain_has_a_default() {
        let text = r#"{"changes":[{"change":"drain","node":"a"},{"change":"unpin","shard":7}]}"#;
        let request: PlanRequest = serde_json::from_str(text).unwrap();
        let expected = [
            Change::Drain {
                node: "a".to_owned(),
                over_s: DRAIN_OVER_S_DEFAULT,
            },
            Change::Unpin { shard: ShardId(7) },
        ];
        assert_eq!(request.changes, expected);
        assert!(serde_json::from_str::<Change>(r#"{"change":"explode"}"#).is_err());
    }

    #[test]
    fn a_code_of_a_newer_coordinator_is_still_a_problem() {
        let text = r#"{"code":"out_of_tea","message":"…"}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!(problem.code, ProblemCode::Other);
        let json = serde_json::to_string(&ProblemCode::PlanStale).unwrap();
        assert_eq!(json, r#""plan_stale""#);
    }

    #[test]
    fn what_an_older_coordinator_does_not_say_is_nothing_to_worry_about() {
        let accepted: Accepted = serde_json::from_str(r#"{"audit_id":7}"#).unwrap();
        assert!(accepted.led);
        let text = r#"{"paused":null,"plan":null,"requested":[],"progress":null}"#;
        assert!(serde_json::from_str::<Moves>(text).unwrap().led);
    }

    #[test]
    fn a_token_is_not_printed() {
        let login = Login {
            token: "secret".to_owned(),
        };
        assert_eq!(format!("{login:?}"), "Login(***)");
    }

    #[test]
    fn operating_includes_reading() {
        assert!(Scope::Operate > Scope::Read);
    }
}
