//! The map (shard → owner and standby) and what nodes report of themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Id, marker::Guild};
use crate::shard::{ShardId, ShardSet};

/// Which map is newer: the higher term, then the higher version within it (I9).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct MapVersion {
    /// Rises with every take-over of the coordinator's lead.
    pub term: u64,
    /// Rises with every map of one term.
    pub version: u64,
}

/// One version of the map, for the whole cluster. JSON in Redis under `keys::MAP`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterMap {
    #[serde(flatten)]
    pub version: MapVersion,
    /// Node ids, ascending as coordinators write them; `shards` refers to them by place.
    pub nodes: Vec<String>,
    /// Relay address (`host:port`) per node, same order as `nodes`.
    pub relay_addrs: Vec<String>,
    /// Per shard: places of owner and standby in `nodes`.
    pub shards: Vec<Assignment>,
    /// Nodes that send their sessions away, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drains: BTreeMap<String, Drain>,
    /// Nodes whose processes are leaving, by id: they keep no client.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stopping: BTreeSet<String>,
}

/// A node's sessions leave by RECONNECT, evenly spread over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    pub over_ms: u64,
}

/// Who serves a shard. Both absent while no node accepts shards and none that may keep them has
/// this one: each gateway serves its realms to its own clients then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(rename = "o")]
    pub owner: Option<u16>,
    #[serde(rename = "s")]
    pub standby: Option<u16>,
}

impl ClusterMap {
    pub fn owner(&self, shard: ShardId) -> Option<&str> {
        self.node(self.shards.get(usize::from(shard.0))?.owner)
    }

    pub fn standby(&self, shard: ShardId) -> Option<&str> {
        self.node(self.shards.get(usize::from(shard.0))?.standby)
    }

    /// Shards without an owner.
    pub fn unowned(&self) -> usize {
        let unowned = self.shards.iter().filter(|shard| shard.owner.is_none());
        unowned.count()
    }

    /// Relay address of a node of this map.
    pub fn relay_addr(&self, node: &str) -> Option<&str> {
        self.relay_addrs.get(self.place(node)?).map(String::as_str)
    }

    /// Finds a node in any order, in that of coordinators without a look at all of them.
    fn place(&self, node: &str) -> Option<usize> {
        let found = self.nodes.binary_search_by(|id| id.as_str().cmp(node));
        found
            .ok()
            .or_else(|| self.nodes.iter().position(|id| id == node))
    }

    fn node(&self, place: Option<u16>) -> Option<&str> {
        self.nodes.get(usize::from(place?)).map(String::as_str)
    }
}

/// Whether a node takes shards, as operators set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    #[default]
    Active,
    /// Keeps what it has, gets nothing new.
    Cordoned,
    /// Gives everything away.
    Draining,
}

/// What a gateway writes of itself to Redis every `keys::NODE_HEARTBEAT_MS`: one JSON
/// value under `keys::node(id)`, expiring after `keys::NODE_TTL_MS`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub id: String,
    /// New on every start of the process.
    pub boot_id: String,
    /// `host:port` other gateways reach its relay at.
    pub relay_addr: String,
    /// URL clients reach it at directly, for operators.
    pub gateway_url: String,
    /// True once the process is leaving: it gets no shards any more.
    pub stopping: bool,
    pub map: MapVersion,
    pub sessions: u64,
    pub realms_owned: u64,
    /// Dispatches sent in the last second.
    pub dispatches_per_s: u64,
    /// Milliseconds since the Unix epoch at the node.
    pub at_ms: u64,
    /// Realms with sessions here that another node serves than the one its map names: moves
    /// that are not over.
    #[serde(default)]
    pub realms_moving: u64,
    /// Milliseconds from an event's storing to its arrival here: the longest since the last heartbeat.
    #[serde(default)]
    pub feed_lag_ms: u64,
    /// Parts per thousand of the last second that each core was busy.
    #[serde(default)]
    pub cores_busy: Vec<u16>,
    /// Load of the shards owned here: the busiest [`Self::SHARDS_MAX`].
    #[serde(default)]
    pub shards: Vec<ShardLoad>,
    /// The busiest [`Self::GUILDS_MAX`] guilds owned here.
    #[serde(default)]
    pub guilds: Vec<GuildLoad>,
    /// Shards owned here of which any realm is open: moving one of the others moves nothing.
    /// Absent if the node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards_open: Option<ShardSet>,
}

impl NodeStatus {
    /// Shards a status names.
    pub const SHARDS_MAX: usize = 512;
    /// Guilds a status names.
    pub const GUILDS_MAX: usize = 32;
}

/// What a shard costs its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLoad {
    pub shard: ShardId,
    /// Events times subscribed nodes, per minute.
    pub load: u32,
}

/// What a guild costs its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuildLoad {
    pub guild: Id<Guild>,
    /// Events times subscribed nodes, per minute.
    pub load: u32,
    /// Members subscribed to it, over all nodes.
    pub online: u32,
    /// Nodes with members subscribed to it, by name: the first [`Self::EDGES_MAX`].
    #[serde(default)]
    pub edges: Vec<String>,
    /// All such nodes; 0 if the owner does not say.
    #[serde(default)]
    pub edges_total: u32,
}

impl GuildLoad {
    /// Edges that are named, so that a heartbeat stays short.
    pub const EDGES_MAX: usize = 16;
}

/// Live nodes by id.
pub type Nodes = BTreeMap<String, NodeStatus>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_term_beats_a_higher_version() {
        let old = MapVersion {
            term: 3,
            version: 900,
        };
        let new = MapVersion {
            term: 4,
            version: 1,
        };
        assert!(new > old);
    }

    #[test]
    fn the_map_survives_json() {
        let map = ClusterMap {
            version: MapVersion {
                term: 1,
                version: 2,
            },
            nodes: vec!["a".into(), "b".into()],
            relay_addrs: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
            shards: vec![
                Assignment {
                    owner: Some(1),
                    standby: Some(0),
                },
                Assignment::default(),
            ],
            drains: BTreeMap::new(),
            stopping: BTreeSet::from(["a".into()]),
        };
        let again: ClusterMap =
            serde_json::from_str(&serde_json::to_string(&map).unwrap()).unwrap();
        assert_eq!(again, map);
        assert_eq!(again.owner(ShardId(0)), Some("b"));
        assert_eq!(again.owner(ShardId(1)), None);
        assert_eq!(again.unowned(), 1);
        assert_eq!(again.relay_addr("b"), Some("127.0.0.1:2"));
    }

    #[test]
    fn maps_of_other_releases_are_read() {
        let older = r#"{"term":1,"version":2,"nodes":[],"relay_addrs":[],"shards":[]}"#;
        let map: ClusterMap = serde_json::from_str(older).unwrap();
        assert!(map.drains.is_empty() && map.stopping.is_empty());
        assert_eq!(serde_json::to_string(&map).unwrap(), older);
        let newer = older.replace("}", r#","unheard_of":["a"]}"#);
        assert_eq!(serde_json::from_str::<ClusterMap>(&newer).unwrap(), map);
    }

    #[test]
    fn a_node_is_found_by_its_name_in_any_order() {
        let ascending: Vec<String> = (0..9).map(|nth| format!("node-{nth}")).collect();
        let mut mixed = ascending.clone();
        mixed.rotate_left(4);
        mixed.swap(1, 7);
        for nodes in [ascending, mixed] {
            let map = ClusterMap {
                relay_addrs: nodes.iter().map(|id| format!("{id}:1")).collect(),
                nodes,
                ..ClusterMap::default()
            };
            for id in &map.nodes {
                assert_eq!(map.relay_addr(id), Some(&*format!("{id}:1")));
            }
            for unknown in ["", "node-", "node-4x", "node-9"] {
                assert_eq!(map.relay_addr(unknown), None, "{unknown}");
            }
        }
    }

    #[test]
    fn a_node_without_an_address_has_none() {
        let map = ClusterMap {
            nodes: vec!["a".into(), "b".into()],
            relay_addrs: vec!["127.0.0.1:1".into()],
            ..ClusterMap::default()
        };
        assert_eq!(map.relay_addr("a"), Some("127.0.0.1:1"));
        assert_eq!(map.relay_addr("b"), None);
    }
}
