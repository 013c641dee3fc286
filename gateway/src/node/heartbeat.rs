//! Tells the coordinator that this node lives, and how it is.

use std::{rc::Rc, sync::Arc, time::Duration};

use guildhall_redis::Connection;
use guildhall_shared::{cluster_map::NodeStatus, keys, shard::ShardId};
use redis::RedisResult;
use tokio::time::{sleep, timeout};

use super::{
    edge::Edge,
    map::MapWatch,
    metrics::Metrics,
    owner::{Owner, feed::Feed},
    relay::link::Links,
};
use crate::{bus::CoreHandle, clock, status::Status};

/// Longest time the last words may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct Heartbeat {
    pub(crate) id: String,
    pub(crate) boot: u32,
    pub(crate) relay_addr: String,
    pub(crate) gateway_url: String,
    pub(crate) status: Arc<Status>,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) owner: Rc<Owner>,
    pub(crate) edge: Rc<Edge>,
    pub(crate) feed: Rc<Feed>,
    pub(crate) links: Rc<Links>,
    pub(crate) cores: Vec<CoreHandle>,
    pub(crate) metrics: Metrics,
    pub(crate) commands: Connection,
}

impl Heartbeat {
    /// Beats as long as the task lives, and at once when the coordinator waits for the news.
    pub(crate) async fn run(&self) {
        loop {
            if let Err(error) = self.beat(self.status.is_stopping()).await {
                tracing::warn!(%error, "heartbeat not written");
            }
            tokio::select! {
                () = sleep(Duration::from_millis(keys::NODE_HEARTBEAT_MS)) => {}
                () = self.status.stopping() => {}
                () = self.map.changed() => {}
                () = self.edge.moving().settled() => {}
            }
        }
    }

    /// Says that the node leaves, then takes it off the list.
    pub(crate) async fn farewell(&self) {
        let words = async {
            self.beat(true).await?;
            let mut commands = self.commands.clone();
            redis::cmd("DEL")
                .arg(keys::node(&self.id))
                .arg(keys::boot(self.boot))
                .query_async::<()>(&mut commands)
                .await
        };
        match timeout(FAREWELL_TIMEOUT, words).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "node not taken off the list"),
            Err(_) => tracing::warn!("node not taken off the list in time"),
        }
    }

    async fn beat(&self, stopping: bool) -> RedisResult<()> {
        let status = self.look(stopping);
        let json = serde_json::to_string(&status).expect("a status has string keys");
        let mut commands = self.commands.clone();
        redis::pipe()
            .cmd("SET")
            .arg(keys::node(&self.id))
            .arg(json)
            .arg("PX")
            .arg(keys::NODE_TTL_MS)
            .ignore()
            .cmd("SET")
            .arg(keys::boot(self.boot))
            .arg(&self.id)
            .arg("PX")
            .arg(keys::NODE_TTL_MS)
            .ignore()
            .query_async(&mut commands)
            .await
    }

    /// How this node is; the gauges are set to the same.
    fn look(&self, stopping: bool) -> NodeStatus {
        let map = self.map.current();
        let is_owned = |shard: ShardId| map.owner(shard) == Some(self.id.as_str());
        self.owner.loads().fade(clock::now());
        let status = NodeStatus {
            id: self.id.clone(),
            boot_id: format!("{:08x}", self.boot),
            relay_addr: self.relay_addr.clone(),
            gateway_url: self.gateway_url.clone(),
            stopping,
            map: map.version,
            sessions: self.status.sessions(),
            realms_owned: self.owner.realms_open() as u64,
            dispatches_per_s: self.status.dispatches_per_s(),
            at_ms: clock::unix_ms(),
            realms_moving: self.edge.moving().count() as u64,
            feed_lag_ms: self.feed.take_lag_max_ms(),
            cores_busy: self.cores.iter().map(CoreHandle::busy_permille).collect(),
            shards: self.owner.loads().shards(is_owned),
            guilds: self.owner.busy_guilds(is_owned),
            shards_open: Some(self.owner.open_shards().into_iter().collect()),
        };
        let metrics = &self.metrics;
        metrics.map_term.set(map.version.term as i64);
        metrics.map_version.set(map.version.version as i64);
        metrics.map_read_at_s.set(self.map.read_at_s() as i64);
        metrics.realms_moving.set(status.realms_moving as i64);
        let queued = self.owner.queued_bytes() + self.links.queued_bytes();
        metrics.link_queue_bytes.set(queued as i64);
        metrics.postgres_up.set(i64::from(self.status.database()));
        metrics.redis_up.set(i64::from(self.feed.is_up()));
        status
    }
}
