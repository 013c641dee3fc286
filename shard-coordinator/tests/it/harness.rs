//! A cluster to test on: coordinators in this process, gateways that only send heartbeats and
//! say that they follow the map.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use guildhall_shared::cluster_map::{ClusterMap, MapVersion, NodeStatus};
use guildhall_shared::keys;
use guildhall_shared::operator::Scope;
use guildhall_shared::shard::{ShardId, ShardSet};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use shard_coordinator::access::AdminKey;
use shard_coordinator::{Config, LogFormat, Result};
use sqlx::{ConnectOptions, PgPool};
use tokio::sync::{Mutex as Turn, MutexGuard as TurnGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SHARDS: u16 = 256;
pub(crate) const CLUSTER_KEY: &str = "a cluster key for tests, long enough";
/// A first map: the lead, and time to hear every node.
pub(crate) const START: Duration = Duration::from_secs(6);
/// Design: the next leader acts within 8 s; its first round follows.
pub(crate) const TAKE_OVER: Duration = Duration::from_secs(10);
/// A heartbeat's life here; shorter than a real one's, so that tests are.
const TTL_MS: u64 = 1_500;
/// Between two looks at something that cannot wake a test.
const LOOK: Duration = Duration::from_millis(20);

/// Whose turn it is at each database of Redis.
static TURNS: [Turn<()>; 16] = [const { Turn::const_new(()) }; 16];

pub(crate) struct TestCluster {
    _turn: TurnGuard<'static, ()>,
    pub(crate) db: PgPool,
    pub(crate) redis: MultiplexedConnection,
    redis_url: String,
}

impl TestCluster {
    /// `redis_db` is emptied, and is the calling test's alone until this is dropped: tests that
    /// name the same one take turns.
    pub(crate) async fn new(db: PgPool, redis_db: u8) -> Self {
        let turn = TURNS[usize::from(redis_db)].lock().await;
        let server = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis to test on");
        let (scheme, rest) = server.split_once("://").unwrap();
        let host = rest.split('/').next().unwrap();
        let redis_url = format!("{scheme}://{host}/{redis_db}");
        let client = redis::Client::open(redis_url.as_str()).unwrap();
        // A machine that builds meanwhile may take its time.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let redis = client.get_multiplexed_async_connection_with_config(&config);
        let redis = redis.await.unwrap();
        let mut cluster = Self {
            _turn: turn,
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
            public: false,
            cluster_key: Some(CLUSTER_KEY.to_owned().into()),
            cluster_key_next: None,
            cluster_key_previous: None,
            moves_per_node_max: 8,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
        }
    }

    pub(crate) fn start_coordinator(&self, id: &str) -> TestCoordinator {
        Self::start(self.config(id))
    }

    pub(crate) fn start(config: Config) -> TestCoordinator {
        let (listen, stop) = (config.listen, CancellationToken::new());
        let task = tokio::spawn(shard_coordinator::serve(config, stop.clone()));
        TestCoordinator { listen, stop, task }
    }

    /// A gateway without a realm that sends heartbeats until dropped.
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
            shards_open: Some(ShardSet::default()),
        };
        let status = Arc::new(Mutex::new(status));
        let (mut redis, key) = (self.redis.clone(), keys::node(id));
        let reported = Arc::clone(&status);
        let sessions_stay = Arc::new(AtomicBool::new(false));
        let stay = Arc::clone(&sessions_stay);
        let beat = async move {
            let mut tick = tokio::time::interval(Duration::from_millis(TTL_MS / 5));
            loop {
                tick.tick().await;
                let map = redis::cmd("GET").arg(keys::MAP).to_owned();
                let map: Option<String> = map.query_async(&mut redis).await.unwrap();
                let map = map.map(|map| serde_json::from_str::<ClusterMap>(&map).unwrap());
                let status = {
                    let mut status = reported.lock().unwrap();
                    let map = map.unwrap_or_default();
                    status.map = status.map.max(map.version); // never an older one
                    let drains = map.drains.contains_key(&status.id);
                    if drains && !stay.load(Ordering::Relaxed) {
                        status.sessions = 0; // they leave at once
                    }
                    serde_json::to_string(&*status).unwrap()
                };
                let mut set = redis::cmd("SET");
                set.arg(&key).arg(&status).arg("PX").arg(TTL_MS);
                let () = set.query_async(&mut redis).await.unwrap();
            }
        };
        TestGateway {
            status,
            sessions_stay,
            beat: tokio::spawn(beat),
        }
    }

    /// `gateway-1` and `gateway-2`.
    pub(crate) fn start_gateways(&self) -> [TestGateway; 2] {
        [1, 2].map(|n| self.start_gateway(&format!("gateway-{n}"), &format!("127.0.0.1:{n}")))
    }

    /// The same two as busy ones.
    pub(crate) fn start_busy_gateways(&self) -> [TestGateway; 2] {
        [1, 2].map(|n| self.start_busy_gateway(&format!("gateway-{n}"), &format!("127.0.0.1:{n}")))
    }

    /// A gateway that has realms open in every shard it may own.
    pub(crate) fn start_busy_gateway(&self, id: &str, relay_addr: &str) -> TestGateway {
        let gateway = self.start_gateway(id, relay_addr);
        let all = (0..SHARDS).map(ShardId).collect();
        gateway.report(|status| status.shards_open = Some(all));
        gateway
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
        until(what, within, async || match self.map().await {
            Some(map) if accept(&map) => Ok(map),
            other => Err(other.map(|map| map.version)),
        })
        .await
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
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

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
        until(line, within, async || {
            let metrics = self.get("/metrics").await;
            let found = metrics.lines().find(|found| *found == line);
            found.map(|_| ()).ok_or("another value")
        })
        .await;
    }

    /// The whole reply; empty while the coordinator is not listening yet.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await
    }

    /// Sends this and reads to the end.
    async fn exchange(&self, request: String) -> String {
        let listen = self.listen;
        let ask = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(listen)?;
            stream.write_all(request.as_bytes())?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let reply = tokio::task::spawn_blocking(ask).await.unwrap();
        reply.unwrap_or_default()
    }

    /// Asks the operators' API; status, head and body (null if it has none).
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<Value>,
    ) -> (u16, String, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let length = body.len();
        let reply = self.exchange(format!(
            "{method} /admin/v1/{path} HTTP/1.1\r\nhost: test\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        ));
        let reply = reply.await;
        let (head, body) = reply.split_once("\r\n\r\n").expect("a whole reply");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = match body {
            "" => Value::Null,
            json => serde_json::from_str(json).unwrap(),
        };
        (status, head.to_owned(), body)
    }

    /// Asks as an operator who may do everything.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let headers = bearer(CLUSTER_KEY, Scope::Operate);
        let body = Some(body).filter(|body| !body.is_null());
        let (status, _, body) = self.request(method, path, &headers, body).await;
        (status, body)
    }

    /// [`Self::ask`], and it is done.
    pub(crate) async fn does(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        answer
    }

    /// [`Self::ask`], and it is refused: the code.
    pub(crate) async fn refuses(&self, method: &str, path: &str, body: Value) -> String {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(status >= 400, "{method} {path}: {answer}");
        format!("{status} {}", answer["code"].as_str().unwrap())
    }

    /// Waits until a read answers so that this is true.
    pub(crate) async fn until(
        &self,
        path: &str,
        within: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> Value {
        until(path, within, async || {
            let (_, answer) = self.ask("GET", path, Value::Null).await;
            match accept(&answer) {
                true => Ok(answer),
                false => Err(answer),
            }
        })
        .await
    }

    /// The first so many bytes of an endless reply.
    pub(crate) async fn stream(&self, path: &str, until: &'static str) -> String {
        let (listen, path) = (self.listen, path.to_owned());
        let headers = bearer(CLUSTER_KEY, Scope::Read);
        let ask = move || {
            let mut stream = TcpStream::connect(listen).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            write!(
                stream,
                "GET /admin/v1/{path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n"
            )
            .unwrap();
            let (mut reply, mut bytes) = (Vec::new(), [0; 4096]);
            while !String::from_utf8_lossy(&reply).contains(until) {
                let read = stream.read(&mut bytes).unwrap();
                assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&reply));
                reply.extend_from_slice(&bytes[..read]);
            }
            String::from_utf8_lossy(&reply).into_owned()
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }
}

/// The one of two that leads, and the other.
pub(crate) async fn leader_first(
    one: TestCoordinator,
    two: TestCoordinator,
) -> (TestCoordinator, TestCoordinator) {
    match (one.leads().await, two.leads().await) {
        (true, false) => (one, two),
        (false, true) => (two, one),
        both => panic!("exactly one leads, not {both:?}"),
    }
}

/// The header of an operator's token.
pub(crate) fn bearer(cluster_key: &str, scope: Scope) -> String {
    format!("authorization: Bearer {}\r\n", token(cluster_key, scope))
}

/// Ann's token.
pub(crate) fn token(cluster_key: &str, scope: Scope) -> String {
    token_of("ann", cluster_key, scope)
}

pub(crate) fn token_of(name: &str, cluster_key: &str, scope: Scope) -> String {
    let key = AdminKey::of_cluster(cluster_key).unwrap();
    let hour = Duration::from_secs(3_600);
    key.sign(name, scope, hour, SystemTime::now()).unwrap()
}

/// Looks until `look` finds what it looks for; its errors tell what is there instead.
pub(crate) async fn until<T, E: Debug>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> std::result::Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(
                start.elapsed() < within,
                "{what}: not within {within:?}, {seen:?}"
            ),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many shards a node has.
pub(crate) fn owned(map: &ClusterMap, node: &str) -> usize {
    let shards = (0..SHARDS).map(ShardId);
    shards
        .filter(|shard| map.owner(*shard) == Some(node))
        .count()
}

/// Both of [`TestCluster::start_gateways`] have shards.
pub(crate) fn both(map: &ClusterMap) -> bool {
    owned(map, "gateway-1") > 0 && owned(map, "gateway-2") > 0
}

pub(crate) struct TestGateway {
    status: Arc<Mutex<NodeStatus>>,
    sessions_stay: Arc<AtomicBool>,
    beat: JoinHandle<()>,
}

impl TestGateway {
    /// Changes what it reports from its next heartbeat on.
    pub(crate) fn report(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().unwrap());
    }

    /// Its sessions stay, drained or not, or leave at once when it drains.
    pub(crate) fn keep_sessions(&self, stay: bool) {
        self.sessions_stay.store(stay, Ordering::Relaxed);
    }

    /// Waits until it has this map.
    pub(crate) async fn has(&self, map: MapVersion, within: Duration) {
        until("the map at the gateway", within, async || {
            let has = self.status.lock().unwrap().map;
            (has >= map).then_some(()).ok_or(has)
        })
        .await;
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.beat.abort();
    }
}
