//! What operators are shown, from what is seen. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_shared::Id;
use guildhall_shared::cluster_map::{ClusterMap, GuildLoad, NodeStatus};
use guildhall_shared::id::marker::Guild;
use guildhall_shared::operator::{
    GuildInfo, LastMove, MapInfo, NodeFigures, NodeInfo, ShardInfo, Why,
};
use guildhall_shared::shard::ShardId;

use crate::loads::{Balance, Loads};
use crate::observe::Shown;
use crate::settings::Settings;

/// Everything at one moment.
pub(crate) struct View<'a> {
    shown: &'a Shown,
    ages: &'a BTreeMap<String, Duration>,
    settings: &'a Settings,
    loads: Loads,
}

/// Shards of a node.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    owned: u32,
    standby: u32,
    load: u64,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        shards: u16,
        shown: &'a Shown,
        ages: &'a BTreeMap<String, Duration>,
        settings: &'a Settings,
    ) -> Self {
        Self {
            shown,
            ages,
            settings,
            loads: Loads::reported(shards, &shown.live, shown.map.as_ref()),
        }
    }

    /// Nodes that are live, set up, or in the map; by id.
    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        let mut held: BTreeMap<&str, Held> = BTreeMap::new();
        held.extend(self.shown.live.keys().map(|id| (&**id, Held::default())));
        held.extend(
            self.settings
                .nodes
                .keys()
                .map(|id| (&**id, Held::default())),
        );
        if let Some(map) = &self.shown.map {
            held.extend(map.nodes.iter().map(|id| (&**id, Held::default())));
            for shard in shards(map) {
                if let Some(node) = map.owner(shard).and_then(|id| held.get_mut(id)) {
                    node.owned += 1;
                    node.load += u64::from(self.load(shard).unwrap_or(0));
                }
                if let Some(node) = map.standby(shard).and_then(|id| held.get_mut(id)) {
                    node.standby += 1;
                }
            }
        }
        held.into_iter()
            .map(|(id, held)| self.node(id, held))
            .collect()
    }

    fn node(&self, id: &str, held: Held) -> NodeInfo {
        let setting = self.settings.nodes.get(id).copied().unwrap_or_default();
        let age = self.ages.get(id);
        NodeInfo {
            id: id.to_owned(),
            state: setting.state,
            weight: setting.weight.number(),
            drain: setting.drain,
            shards_owned: held.owned,
            shards_standby: held.standby,
            load: held.load,
            heartbeat_age_ms: age.map(|age| age.as_millis().try_into().unwrap_or(u64::MAX)),
            status: self.shown.live.get(id).map(figures),
        }
    }

    /// `None` before the first map.
    pub(crate) fn map(&self) -> Option<MapInfo> {
        let map = self.shown.map.as_ref()?;
        let balance = Balance::of(map, &self.settings.nodes, self.loads.by_shard());
        Some(MapInfo {
            version: map.version,
            shards: number(map.shards.len()),
            nodes: number(map.nodes.len()),
            unowned: number(map.unowned()),
            imbalance_milli: balance.shards_milli,
            load_imbalance_milli: balance.load_milli,
            drains: map.drains.clone(),
            assignments: None,
        })
    }

    /// Every shard of the map.
    pub(crate) fn shards(&self) -> Vec<ShardInfo> {
        let map = self.shown.map.as_ref();
        map.map_or(Vec::new(), |map| {
            shards(map).map(|shard| self.shard(map, shard)).collect()
        })
    }

    /// The shards with the highest loads that are reported.
    pub(crate) fn hottest(&self, count: usize) -> Vec<ShardInfo> {
        let Some(map) = &self.shown.map else {
            return Vec::new();
        };
        let mut hot: Vec<(u32, ShardId)> = shards(map)
            .filter_map(|shard| Some((self.load(shard)?, shard)))
            .collect();
        hot.sort_unstable_by_key(|(load, shard)| (std::cmp::Reverse(*load), *shard));
        hot.truncate(count);
        hot.into_iter()
            .map(|(_, shard)| self.shard(map, shard))
            .collect()
    }

    /// The guilds with the highest loads, as the owners of their shards report them.
    pub(crate) fn hottest_guilds(&self, count: usize) -> Vec<GuildInfo> {
        let Some(map) = &self.shown.map else {
            return Vec::new();
        };
        let mut hot = Vec::new();
        for (id, status) in &self.shown.live {
            let owned = status.guilds.iter().filter_map(|load| {
                let shard = shard_of(map, load.guild);
                (map.owner(shard) == Some(id)).then(|| GuildInfo {
                    guild: load.guild,
                    shard,
                    owner: id.clone(),
                    load: load.load,
                    online: load.online,
                })
            });
            hot.extend(owned);
        }
        hot.sort_unstable_by_key(|guild| (std::cmp::Reverse(guild.load), guild.guild));
        hot.truncate(count);
        hot
    }

    fn shard(&self, map: &ClusterMap, shard: ShardId) -> ShardInfo {
        ShardInfo {
            shard,
            owner: map.owner(shard).map(str::to_owned),
            standby: map.standby(shard).map(str::to_owned),
            pin: self.settings.pins.get(&shard).cloned(),
            load: self.load(shard),
        }
    }

    fn load(&self, shard: ShardId) -> Option<u32> {
        let load = self.loads.by_shard().get(usize::from(shard.0)).copied();
        load.filter(|&load| load > 0)
    }

    /// Where a guild is; `None` before the first map.
    pub(crate) fn why(&self, guild: Id<Guild>, last_move: Option<LastMove>) -> Option<Why> {
        let map = self.shown.map.as_ref()?;
        let shard = self.shard(map, shard_of(map, guild));
        let owner = shard.owner.as_deref();
        let reported = owner.and_then(|owner| self.shown.live.get(owner));
        let of_guild = |load: &&GuildLoad| load.guild == guild;
        let load = reported.and_then(|status| status.guilds.iter().find(of_guild));
        let node = owner.and_then(|owner| self.nodes().into_iter().find(|node| node.id == owner));
        Some(Why {
            guild,
            load: load.map(|load| load.load),
            online: load.map(|load| load.online),
            edges: load.map_or(Vec::new(), |load| load.edges.clone()),
            edges_total: load.map_or(0, |load| load.edges_total),
            last_move,
            node,
            map: map.version,
            shard,
        })
    }
}

/// The shard of a guild in a map, which has at least one.
pub(crate) fn shard_of(map: &ClusterMap, guild: Id<Guild>) -> ShardId {
    let shards = u16::try_from(map.shards.len()).unwrap_or(u16::MAX);
    ShardId::of(guild, shards.max(1))
}

fn shards(map: &ClusterMap) -> impl Iterator<Item = ShardId> {
    (0..=u16::MAX).map(ShardId).take(map.shards.len())
}

fn figures(status: &NodeStatus) -> NodeFigures {
    NodeFigures {
        boot_id: status.boot_id.clone(),
        relay_addr: status.relay_addr.clone(),
        gateway_url: status.gateway_url.clone(),
        stopping: status.stopping,
        map: status.map,
        sessions: status.sessions,
        realms_owned: status.realms_owned,
        realms_moving: status.realms_moving,
        dispatches_per_s: status.dispatches_per_s,
        feed_lag_ms: status.feed_lag_ms,
        cores_busy: status.cores_busy.clone(),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
