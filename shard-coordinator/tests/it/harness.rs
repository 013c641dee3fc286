//! A cluster to test on: coordinators in this process, gateways that only send heartbeats.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{ClusterMap, MapVersion, NodeStatus};
use guildhall_shared::keys;
use redis::aio::MultiplexedConnection;
use shard_coordinator::{Config, LogFormat, Result};
use sqlx::{ConnectOptions, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SHARDS: u16 = 256;
/// A heartbeat's life here; shorter than a real one's, so that tests are.
const TTL_MS: u64 = 1_500;

pub(crate) struct TestCluster {
    pub(crate) db: PgPool,
    pub(crate) redis: MultiplexedConnection,
    redis_url: String,
}

impl TestCluster {
    /// `redis_db` belongs to the calling test alone and is emptied.
    pub(crate) async fn new(db: PgPool, redis_db: u8) -> Self {
        let server = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis to test on");
        let (scheme, rest) = server.split_once("://").unwrap();
        let host = rest.split('/').next().unwrap();
        let redis_url = format!("{scheme}://{host}/{redis_db}");
        let client = redis::Client::open(redis_url.as_str()).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut cluster = Self {
            db,
            redis,
            redis_url,
        };
        cluster.flush().await;
        cluster
    }

    pub(crate) async fn flush(&mut self) {
        let () = redis::cmd("FLUSHDB")
            .query_async(&mut self.redis)
            .await
            .unwrap();
    }

    pub(crate) fn config(&self, id: &str) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Config {
            database_url: self.db.connect_options().to_url_lossy().to_string().into(),
            redis_url: self.redis_url.clone().into(),
            listen: listener.local_addr().unwrap(),
            id: id.to_owned(),
            shards: SHARDS,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
        }
    }

    pub(crate) fn start_coordinator(&self, id: &str) -> TestCoordinator {
        let config = self.config(id);
        let (listen, stop) = (config.listen, CancellationToken::new());
        let task = tokio::spawn(shard_coordinator::serve(config, stop.clone()));
        TestCoordinator { listen, stop, task }
    }

    /// A gateway that sends heartbeats until dropped.
    pub(crate) fn start_gateway(&self, id: &str, relay_addr: &str) -> TestGateway {
        let status = NodeStatus {
            id: id.to_owned(),
            boot_id: relay_addr.to_owned(),
            relay_addr: relay_addr.to_owned(),
            gateway_url: "ws://127.0.0.1:1".to_owned(),
            stopping: false,
            map: MapVersion::default(),
            sessions: 42,
            realms_owned: 0,
            dispatches_per_s: 0,
            at_ms: 0,
            realms_moving: 0,
            feed_lag_ms: 0,
            cores_busy: Vec::new(),
            shards: Vec::new(),
            guilds: Vec::new(),
        };
        let (mut redis, key) = (self.redis.clone(), keys::node(id));
        let beat = async move {
            let status = serde_json::to_string(&status).unwrap();
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(&status).arg("PX").arg(TTL_MS);
            let mut tick = tokio::time::interval(Duration::from_millis(TTL_MS / 5));
            loop {
                tick.tick().await;
                let () = set.query_async(&mut redis).await.unwrap();
            }
        };
        TestGateway(tokio::spawn(beat))
    }

    pub(crate) async fn map(&mut self) -> Option<ClusterMap> {
        let get = redis::cmd("GET").arg(keys::MAP).to_owned();
        let map: Option<String> = get.query_async(&mut self.redis).await.unwrap();
        map.map(|map| serde_json::from_str(&map).unwrap())
    }

    /// Waits for a map of which this is true.
    pub(crate) async fn map_with(
        &mut self,
        within: Duration,
        what: &str,
        accept: impl Fn(&ClusterMap) -> bool,
    ) -> ClusterMap {
        let start = Instant::now();
        loop {
            let map = self.map().await;
            if let Some(map) = map.as_ref().filter(|map| accept(map)) {
                return map.clone();
            }
            let version = map.map(|map| map.version);
            assert!(
                start.elapsed() < within,
                "{what}: not within {within:?}, {version:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn term(&self) -> i64 {
        let term = sqlx::query_scalar("select term from cluster_term");
        term.fetch_one(&self.db).await.unwrap()
    }

    /// Runs the binary as an operator would.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shard-coordinator"))
            .args(arguments)
            .env(
                "DATABASE_URL",
                self.db.connect_options().to_url_lossy().as_str(),
            )
            .env("REDIS_URL", &self.redis_url)
            .env("CLUSTER_SHARDS", SHARDS.to_string())
            .output()
            .unwrap()
    }
}

pub(crate) struct TestCoordinator {
    listen: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl TestCoordinator {
    /// As kill -9 does: nothing is said to anybody.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn leads(&self) -> bool {
        let metrics = self.get("/metrics").await;
        metrics.lines().any(|line| line == "coordinator_leading 1")
    }

    /// Waits for a line of `/metrics`.
    pub(crate) async fn metric(&self, line: &str, within: Duration) {
        let start = Instant::now();
        while !self
            .get("/metrics")
            .await
            .lines()
            .any(|found| found == line)
        {
            assert!(start.elapsed() < within, "{line}: not within {within:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The whole reply; empty while the coordinator is not listening yet.
    pub(crate) async fn get(&self, path: &str) -> String {
        let (listen, path) = (self.listen, path.to_owned());
        let ask = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(listen)?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let reply = tokio::task::spawn_blocking(ask).await.unwrap();
        reply.unwrap_or_default()
    }
}

pub(crate) struct TestGateway(JoinHandle<()>);

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.0.abort();
    }
}
