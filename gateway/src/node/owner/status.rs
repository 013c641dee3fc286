//! How an owner is, for heartbeats and metrics.

use std::collections::BTreeSet;

use guildhall_shared::{
    cluster_map::{GuildLoad, NodeStatus},
    shard::ShardId,
};

use super::{Owner, loads::Loads, to_edge::Peer};

impl Owner {
    /// What realms and shards cost, since lately.
    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// The guilds with the highest loads in these shards, highest first.
    pub(crate) fn busy_guilds(&self, among: impl Fn(ShardId) -> bool) -> Vec<GuildLoad> {
        let realms = self.loads.realms();
        let (state, names) = (self.state.borrow(), self.names.borrow());
        let guilds = realms.into_iter().filter_map(|(id, load)| {
            let entry = state.realms.get(&id).filter(|entry| among(entry.shard))?;
            let realm = entry.realm.as_ref()?;
            realm.guild_state()?;
            let edges = realm.edges();
            let mut edges: Vec<String> =
                edges.filter_map(|edge| names.get(&edge).cloned()).collect();
            edges.sort_unstable();
            edges.dedup(); // a link that was made anew before the old one's end was noticed
            let edges_total = edges.len() as u32;
            edges.truncate(GuildLoad::EDGES_MAX);
            Some(GuildLoad {
                guild: id.cast(),
                load,
                online: realm.subscribers() as u32,
                edges,
                edges_total,
            })
        });
        guilds.take(NodeStatus::GUILDS_MAX).collect()
    }

    /// Bytes that wait for the links to edges of other nodes.
    pub(crate) fn queued_bytes(&self) -> usize {
        let queued = |peer: &Peer| match peer {
            Peer::Local(_) => 0,
            Peer::Remote(outbox) => outbox.bytes(),
        };
        self.peers.borrow().values().map(queued).sum()
    }

    pub(crate) fn realms_open(&self) -> usize {
        self.state.borrow().realms.len()
    }

    /// Shards with an open realm.
    pub(crate) fn open_shards(&self) -> Vec<ShardId> {
        let shards: BTreeSet<ShardId> = self
            .state
            .borrow()
            .realms
            .values()
            .map(|entry| entry.shard)
            .collect();
        shards.into_iter().collect()
    }
}
