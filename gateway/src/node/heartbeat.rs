//! Tells the coordinator that this node lives, and how it is.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{cluster_map::NodeStatus, keys, shard::ShardId};
use redis::{RedisResult, Script};
use serde::Deserialize;
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

/// Removes the heartbeat of a start of a node, unless another process has written its own since, and
/// what says that this start lives.
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local ok, status = pcall(cjson.decode, redis.call('GET', KEYS[1]))
        if ok and type(status) == 'table' and status.boot_id == ARGV[1] then
            redis.call('DEL', KEYS[1])
        end
        redis.call('DEL', KEYS[2])
        return 1
        ",
    )
});

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
    pub(crate) namesake: RefCell<Namesake>,
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
            let mut remove = REMOVE.key(keys::node(&self.id));
            remove.key(keys::boot(self.boot)).arg(self.boot_id());
            let mut commands = self.commands.clone();
            remove.invoke_async::<()>(&mut commands).await
        };
        match timeout(FAREWELL_TIMEOUT, words).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "node not taken off the list"),
            Err(_) => tracing::warn!("node not taken off the list in time"),
        }
    }

    async fn beat(&self, stopping: bool) -> RedisResult<()> {
        let status = self.look(stopping);
        let mut commands = self.commands.clone();
        let mut pipeline = redis::pipe();
        if stopping && self.namesake.borrow().lives(clock::now()) {
            // The other process stays: nobody is to hear that the node leaves.
            pipeline.cmd("GET").arg(keys::node(&self.id));
        } else {
            let json = serde_json::to_string(&status).expect("a status has string keys");
            pipeline
                .cmd("SET")
                .arg(keys::node(&self.id))
                .arg(json)
                .arg("PX")
                .arg(keys::NODE_TTL_MS)
                .arg("GET");
        }
        let (before,): (Option<Vec<u8>>,) = pipeline
            .cmd("SET")
            .arg(keys::boot(self.boot))
            .arg(&self.id)
            .arg("PX")
            .arg(keys::NODE_TTL_MS)
            .ignore()
            .query_async(&mut commands)
            .await?;
        self.compare(before.as_deref());
        Ok(())
    }

    /// Looks whose heartbeat was in Redis.
    fn compare(&self, before: Option<&[u8]>) {
        let found = before.and_then(|json| serde_json::from_slice::<Found>(json).ok());
        let Some(found) = found else { return };
        let (now, relay) = (clock::now(), found.relay_addr.clone());
        let mut namesake = self.namesake.borrow_mut();
        let was_known = namesake.lives(now);
        if !namesake.finds(&self.boot_id(), found, now) {
            return;
        }
        self.metrics.id_shared.inc();
        if !was_known {
            tracing::error!(
                node.id = %self.id, %relay,
                "another gateway runs under this NODE_ID, with the relay at this address: \
                 give one of the two a name of its own"
            );
        }
    }

    fn boot_id(&self) -> String {
        format!("{:08x}", self.boot)
    }

    /// How this node is; the gauges are set to the same.
    fn look(&self, stopping: bool) -> NodeStatus {
        let map = self.map.current();
        let is_owned = |shard: ShardId| map.owner(shard) == Some(self.id.as_str());
        self.owner.loads().fade(clock::now());
        let status = NodeStatus {
            id: self.id.clone(),
            boot_id: self.boot_id(),
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

/// Of a heartbeat that was in Redis: whose it is.
#[derive(Debug, Deserialize)]
struct Found {
    boot_id: String,
    relay_addr: String,
    at_ms: u64,
    stopping: bool,
}

/// Another process that writes heartbeats under this node's name.
///
/// The last heartbeat of one that has ended may be left over, and may come back with a Redis that
/// lost what followed; but only one that lives writes a later one.
#[derive(Debug, Default)]
pub(crate) struct Namesake {
    /// The latest heartbeat of another process.
    last: Option<Found>,
    lives_at: Option<Instant>,
}

impl Namesake {
    /// Whether a heartbeat that was found shows that its process lives beside this one, which is
    /// the start `own`, and stays.
    fn finds(&mut self, own: &str, found: Found, now: Instant) -> bool {
        if found.boot_id == own {
            return false;
        }
        if found.stopping {
            *self = Self::default();
            return false;
        }
        let same = self.last.as_ref();
        let same = same.filter(|last| last.boot_id == found.boot_id);
        let is_later = same.map(|last| last.at_ms < found.at_ms);
        if is_later != Some(false) {
            self.last = Some(found);
        }
        if is_later != Some(true) {
            return false;
        }
        self.lives_at = Some(now);
        true
    }

    /// Whether it was found to live so lately that it counts as living.
    fn lives(&self, now: Instant) -> bool {
        let since = self.lives_at.map(|at| now.duration_since(at));
        since.is_some_and(|since| since < Duration::from_millis(keys::NODE_TTL_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "00000001";

    fn found(boot_id: &str, at_ms: u64) -> Found {
        Found {
            boot_id: boot_id.to_owned(),
            relay_addr: "127.0.0.1:1".to_owned(),
            at_ms,
            stopping: false,
        }
    }

    #[test]
    fn only_a_process_that_goes_on_writing_is_another_of_the_same_name() {
        let now = Instant::now();
        let mut namesake = Namesake::default();
        let mut finds = |boot_id, at_ms| namesake.finds(OWN, found(boot_id, at_ms), now);
        // Left over by the start before; then by Redis, which had lost some.
        assert!(!finds("a", 20));
        assert!(!finds(OWN, 21));
        assert!(!finds("a", 20));
        assert!(!finds("a", 18));
        assert!(!finds("a", 20));
        // The start after it was replaced as well.
        assert!(!finds("b", 30));
        assert!(!finds(OWN, 31));
        assert!(finds("b", 32));
        assert!(finds("b", 34));
    }

    #[test]
    fn one_that_is_not_found_any_more_or_leaves_does_not_count() {
        let start = Instant::now();
        let ttl = Duration::from_millis(keys::NODE_TTL_MS);
        let mut namesake = Namesake::default();
        assert!(!namesake.lives(start));
        for at_ms in [1, 2] {
            namesake.finds(OWN, found("a", at_ms), start);
        }
        assert!(namesake.lives(start));
        assert!(!namesake.lives(start + ttl));
        let leaves = Found {
            stopping: true,
            ..found("a", 3)
        };
        assert!(!namesake.finds(OWN, leaves, start));
        assert!(!namesake.lives(start));
    }
}
