//! Tells the coordinator that this node lives, and how it is.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use guildhall_shared::{cluster_map::NodeStatus, keys};
use redis::{RedisResult, aio::ConnectionManager};
use tokio::time::{sleep, timeout};

use super::{Status, map::MapWatch, owner::Owner};

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
    pub(crate) commands: ConnectionManager,
}

impl Heartbeat {
    /// Beats as long as the task lives.
    pub(crate) async fn run(&self) {
        loop {
            if let Err(error) = self.beat(self.status.is_stopping()).await {
                tracing::warn!(%error, "heartbeat not written");
            }
            tokio::select! {
                () = sleep(Duration::from_millis(keys::NODE_HEARTBEAT_MS)) => {}
                () = self.status.stopping.notified() => {}
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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let status = NodeStatus {
            id: self.id.clone(),
            boot_id: format!("{:08x}", self.boot),
            relay_addr: self.relay_addr.clone(),
            gateway_url: self.gateway_url.clone(),
            stopping,
            map: self.map.version(),
            sessions: self.status.sessions(),
            realms_owned: self.owner.realms_open() as u64,
            dispatches_per_s: self.status.dispatches_per_s(),
            at_ms: now.as_millis() as u64,
            realms_moving: 0,
            feed_lag_ms: 0,
            cores_busy: Vec::new(),
            shards: Vec::new(),
            guilds: Vec::new(),
        };
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
}
