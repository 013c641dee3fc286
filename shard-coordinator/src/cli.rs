//! The command line: `serve`, and `map` and `nodes`, which print what is and change nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use guildhall_shared::cluster_map::{ClusterMap, NodeState, NodeStatus, Nodes};
use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::node::NodeSetting;
use crate::{observe, placement, settings};

/// Says which gateway owns which shard.
#[derive(Debug, clap::Parser)]
#[command(name = "shard-coordinator", version)]
pub struct Cli {
    #[command(flatten)]
    pub config: Config,
    /// serve, if none is given
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Run a coordinator
    Serve,
    /// Print the map's version, the shards of each node and how even they are
    Map {
        /// As JSON, with every shard's owner and standby
        #[arg(long)]
        json: bool,
    },
    /// Print the live gateways
    Nodes {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Prints the map to stdout.
///
/// Errors: [`Error::NoMap`] before the first one.
pub async fn print_map(config: &Config, json: bool) -> Result<()> {
    let mut redis = config.connect_redis()?;
    let map = observe::map(&mut redis).await?.ok_or(Error::NoMap)?;
    let settings = settings::read_from(&config.connect_postgres()?)
        .await?
        .settings;
    let report = MapReport::new(&map, &settings.nodes);
    print(&report, json, MapReport::to_text)
}

/// Prints the live nodes to stdout.
pub async fn print_nodes(config: &Config, json: bool) -> Result<()> {
    let mut redis = config.connect_redis()?;
    let live = observe::live(&mut redis).await?;
    let ages = observe::heartbeat_ages(&mut redis, &live).await?;
    let settings = settings::read_from(&config.connect_postgres()?)
        .await?
        .settings;
    let report = node_reports(&live, &ages, &settings.nodes);
    print(&report, json, |report| nodes_to_text(report))
}

fn print<T: Serialize>(report: &T, json: bool, to_text: impl FnOnce(&T) -> String) -> Result<()> {
    let text = if json {
        serde_json::to_string(report)? + "\n"
    } else {
        to_text(report)
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // as with `| head`
        written => written.map_err(Error::Output),
    }
}

/// What `map` prints.
#[derive(Debug, Serialize)]
struct MapReport<'a> {
    /// Fullest node against its weighted share, see `placement::imbalance`.
    imbalance: f64,
    /// Shards without an owner.
    unowned: usize,
    loads: Vec<NodeLoad<'a>>,
    map: &'a ClusterMap,
}

/// Shards of one node.
#[derive(Debug, Serialize)]
struct NodeLoad<'a> {
    id: &'a str,
    relay_addr: &'a str,
    owner: usize,
    standby: usize,
}

impl<'a> MapReport<'a> {
    fn new(map: &'a ClusterMap, settings: &BTreeMap<String, NodeSetting>) -> Self {
        let mut relay_addrs = map.relay_addrs.iter().map(String::as_str);
        let load = |id: &'a String| NodeLoad {
            id,
            relay_addr: relay_addrs.next().unwrap_or_default(),
            owner: 0,
            standby: 0,
        };
        let mut loads: Vec<NodeLoad<'_>> = map.nodes.iter().map(load).collect();
        let mut unowned = 0;
        for shard in &map.shards {
            match shard
                .owner
                .and_then(|place| loads.get_mut(usize::from(place)))
            {
                Some(node) => node.owner += 1,
                None => unowned += 1,
            }
            if let Some(node) = shard
                .standby
                .and_then(|place| loads.get_mut(usize::from(place)))
            {
                node.standby += 1;
            }
        }
        let weight = |id: &String| {
            let setting = settings.get(id).copied().unwrap_or_default();
            match setting.state {
                NodeState::Draining => 0,
                NodeState::Active | NodeState::Cordoned => setting.weight.milli(),
            }
        };
        let weights: Vec<u32> = map.nodes.iter().map(weight).collect();
        let owners: Vec<usize> = loads.iter().map(|node| node.owner).collect();
        Self {
            imbalance: placement::imbalance(&owners, &weights),
            unowned,
            loads,
            map,
        }
    }

    fn to_text(&self) -> String {
        let version = self.map.version;
        let mut text = format!(
            "map term {} version {}: shards {}, nodes {}, imbalance {:.3}, without owner {}\n",
            version.term,
            version.version,
            self.map.shards.len(),
            self.loads.len(),
            self.imbalance,
            self.unowned,
        );
        let mut rows = vec![["node", "owner", "standby", "relay"].map(str::to_owned)];
        rows.extend(self.loads.iter().map(|node| {
            let (owner, standby) = (node.owner.to_string(), node.standby.to_string());
            [
                node.id.to_owned(),
                owner,
                standby,
                node.relay_addr.to_owned(),
            ]
        }));
        table(&mut text, &rows);
        text
    }
}

/// What `nodes` prints of each node.
#[derive(Debug, Serialize)]
struct NodeReport<'a> {
    state: NodeState,
    weight: f64,
    /// By Redis' clock; absent if it expired meanwhile.
    heartbeat_age_ms: Option<u128>,
    #[serde(flatten)]
    status: &'a NodeStatus,
}

fn node_reports<'a>(
    live: &'a Nodes,
    ages: &BTreeMap<String, Duration>,
    settings: &BTreeMap<String, NodeSetting>,
) -> Vec<NodeReport<'a>> {
    let report = |status: &'a NodeStatus| {
        let setting = settings.get(&status.id).copied().unwrap_or_default();
        NodeReport {
            state: setting.state,
            weight: setting.weight.number(),
            heartbeat_age_ms: ages.get(&status.id).map(Duration::as_millis),
            status,
        }
    };
    live.values().map(report).collect()
}

fn nodes_to_text(nodes: &[NodeReport<'_>]) -> String {
    let head = [
        "node",
        "state",
        "weight",
        "heartbeat",
        "sessions",
        "realms",
        "map",
        "relay",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(nodes.iter().map(|node| {
        let status = node.status;
        let state = match node.state {
            _ if status.stopping => "stopping",
            NodeState::Active => "active",
            NodeState::Cordoned => "cordoned",
            NodeState::Draining => "draining",
        };
        let age = node
            .heartbeat_age_ms
            .map(|ms| format!("{:.1} s", ms as f64 / 1_000.0));
        [
            status.id.clone(),
            state.to_owned(),
            node.weight.to_string(),
            age.unwrap_or_else(|| "gone".to_owned()),
            status.sessions.to_string(),
            status.realms_owned.to_string(),
            format!("{}.{}", status.map.term, status.map.version),
            status.relay_addr.clone(),
        ]
    }));
    let mut text = String::new();
    table(&mut text, &rows);
    text
}

/// Appends rows in columns as wide as their widest cell.
fn table<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::cluster_map::{Assignment, MapVersion};

    use super::*;

    fn map() -> ClusterMap {
        let both = Assignment {
            owner: Some(0),
            standby: Some(1),
        };
        ClusterMap {
            version: MapVersion {
                term: 3,
                version: 7,
            },
            nodes: vec!["gateway-1".to_owned(), "gateway-2".to_owned()],
            relay_addrs: vec!["10.0.0.1:9".to_owned(), "10.0.0.2:9".to_owned()],
            shards: vec![both, both, Assignment::default()],
            drains: Default::default(),
            stopping: Default::default(),
        }
    }

    #[test]
    fn the_map_is_printed_with_its_loads() {
        let map = map();
        let text = MapReport::new(&map, &BTreeMap::new()).to_text();
        let expected = "\
map term 3 version 7: shards 3, nodes 2, imbalance 2.000, without owner 1
node       owner  standby  relay
gateway-1  2      0        10.0.0.1:9
gateway-2  0      2        10.0.0.2:9
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_map_as_json_has_every_shard() {
        let map = map();
        let report = serde_json::to_value(MapReport::new(&map, &BTreeMap::new())).unwrap();
        assert_eq!(report["map"]["version"], 7);
        assert_eq!(report["map"]["shards"][0]["o"], 0);
        assert_eq!(report["loads"][0]["owner"], 2);
        assert_eq!(report["unowned"], 1);
    }

    #[test]
    fn nodes_are_printed_with_the_age_of_their_heartbeat() {
        let status = NodeStatus {
            id: "gateway-1".to_owned(),
            boot_id: "b".to_owned(),
            relay_addr: "10.0.0.1:9".to_owned(),
            gateway_url: "ws://10.0.0.1".to_owned(),
            stopping: false,
            map: MapVersion {
                term: 3,
                version: 7,
            },
            sessions: 12,
            realms_owned: 5,
            dispatches_per_s: 0,
            at_ms: 0,
            realms_moving: 0,
            feed_lag_ms: 0,
            cores_busy: Vec::new(),
            shards: Vec::new(),
            guilds: Vec::new(),
            shards_open: None,
        };
        let live = Nodes::from([(status.id.clone(), status)]);
        let ages = BTreeMap::from([("gateway-1".to_owned(), Duration::from_millis(1_540))]);
        let reports = node_reports(&live, &ages, &BTreeMap::new());
        let expected = "\
node       state   weight  heartbeat  sessions  realms  map  relay
gateway-1  active  1       1.5 s      12        5       3.7  10.0.0.1:9
";
        assert_eq!(nodes_to_text(&reports), expected);
        let json = serde_json::to_value(&reports).unwrap();
        assert_eq!(json[0]["heartbeat_age_ms"], 1540);
        assert_eq!(json[0]["sessions"], 12);
        assert_eq!(json[0]["state"], "active");
    }
}
