//! A private cluster: Postgres, Redis, APIs, gateways, a coordinator, each a real process with
//! its own log file, and a [`Proxy`] before every gateway's public address.
//!
//! Uses the Postgres of `DATABASE_URL` if that is set (a fresh database per cluster), else starts
//! one; Redis is always its own, because the names in it are fixed. The binaries come from
//! `GUILDHALL_BIN_DIR`, else from the folder this test was built into. Everything it started
//! stops when the cluster is dropped, or when the test process dies in whatever way.

mod operator;
mod server;
mod shared;
mod stores;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use guildhall_redis::{Client, Connection, Patience};
use guildhall_shared::{cluster_map::ClusterMap, id::Id, id::marker::Guild, keys, shard::ShardId};
use shard_coordinator::access::AdminKey;
use sqlx::{PgPool, postgres::PgPoolOptions};
use xtask::{
    ports,
    process::Launch,
    servers::{Redis, move_slot, random_secret},
};

use self::stores::{PostgresServer, postgres, redis_url, start_redis};
pub use self::{
    server::Server,
    shared::{Shared, Use},
};
pub(crate) use self::{
    server::{lock, on_launcher, run_to_end},
    stores::{OwnPostgres, scratch_folder},
};
use crate::{proxy::Proxy, rest::Rest, wait};

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub apis: usize,
    pub gateways: usize,
    /// Slices of realms; far below the default of 4096 to start quickly.
    pub shards: u16,
    /// A Postgres of its own, for tests that stop it.
    pub own_postgres: bool,
    /// Mails are printed to the APIs' logs, with the tokens they carry.
    pub mail_to_log: bool,
    /// What is logged, as `RUST_LOG` says it; `None`: as the environment's `E2E_LOG`, or "info".
    pub log: Option<&'static str>,
    /// `GATEWAY_RESUME` of all gateways.
    pub resume: &'static str,
    /// `RATE_LIMITS` of all APIs and gateways.
    pub rate_limits: &'static str,
    /// More than one: a Redis Cluster.
    pub redis_primaries: usize,
    /// Each primary of the Redis Cluster has a replica, which takes over when it dies.
    pub redis_replicas: bool,
}

impl Options {
    /// Two of each, and nothing special.
    pub const DEFAULT: Self = Self {
        apis: 2,
        gateways: 2,
        shards: 128,
        own_postgres: false,
        mail_to_log: false,
        log: None,
        resume: "async",
        rate_limits: "off",
        redis_primaries: 1,
        redis_replicas: false,
    };

    /// One of each, and few shards.
    pub const SMALL: Self = Self {
        apis: 1,
        gateways: 1,
        shards: 32,
        ..Self::DEFAULT
    };
}

/// Where a gateway is reached.
#[derive(Debug)]
pub struct Gateway {
    pub server: Server,
    pub node: String,
    /// `ws://…` of the process itself.
    pub direct_url: String,
    /// Before its public address: `resume_gateway_url` and the APIs' `/gateway` lead through it.
    pub proxy: Proxy,
    pub addr: SocketAddr,
}

impl Gateway {
    /// `ws://…` through the proxy.
    pub fn url(&self) -> String {
        format!("ws://{}", self.proxy.addr())
    }
}

/// Where an API is reached.
#[derive(Debug)]
pub struct Api {
    pub server: Server,
    /// `http://host:port`.
    pub origin: String,
    pub addr: SocketAddr,
}

/// The processes of one cluster.
#[derive(Debug)]
pub struct Cluster {
    pub apis: Vec<Api>,
    pub gateways: Vec<Gateway>,
    pub coordinator: Server,
    redis: Arc<Mutex<Vec<Redis>>>,
    admin: AdminKey,
    redis_url: String,
    postgres: PostgresServer,
    database: String,
    database_url: String,
    shards: u16,
    folder: PathBuf,
    logs_shown: AtomicBool,
    logs_kept: AtomicBool,
}

impl Cluster {
    /// Starts everything and waits until it is ready and the map covers all gateways.
    pub async fn start(options: Options) -> Result<Self> {
        let folder = scratch_folder("e2e")?;
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().replace('-', "_"))
            .context("a folder without a name")?;
        let (redis, postgres) = tokio::try_join!(
            start_redis(
                &folder,
                options.redis_primaries.max(1),
                options.redis_replicas
            ),
            postgres(options.own_postgres)
        )?;
        postgres
            .execute(format!("create database {name}"))
            .await
            .context("cannot make a database")?;
        let database_url = postgres.url(&name)?;
        let redis_url = redis_url(&redis);

        let key = random_secret()?;
        let admin = AdminKey::of_cluster(&key)?;
        let common = [
            ("DATABASE_URL", database_url.clone()),
            ("REDIS_URL", redis_url.clone()),
            ("CLUSTER_KEY", key),
            ("CLUSTER_SHARDS", options.shards.to_string()),
            ("MEDIA_DIR", folder.join("media").display().to_string()),
            ("RUST_LOG", options.log.map_or_else(rust_log, str::to_owned)),
            ("NO_COLOR", "1".to_owned()),
        ];
        let launch = |name: &str, program: &str, settings: &[(&str, String)]| -> Result<Launch> {
            let mut launch = Launch::new(
                name,
                bin_dir()?.join(program),
                folder.join(format!("{name}.log")),
            );
            launch.environment = common
                .iter()
                .chain(settings)
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect();
            launch.dies_with_parent = true;
            Ok(launch)
        };

        let mut migrate = launch("migrate", "guildhall-api", &[])?;
        migrate.arguments = vec!["migrate".into()];
        run_to_end(migrate).await?;
        let mut packs = launch("sticker-packs", "guildhall-api", &[])?;
        let hello = concat!(env!("CARGO_MANIFEST_DIR"), "/../sticker-packs/hello");
        packs.arguments = ["sticker-packs", "import", hello].map(str::to_owned).into();
        run_to_end(packs).await?;

        let mut gateways = Vec::new();
        for (number, letter) in ('a'..='z').take(options.gateways).enumerate() {
            let node = format!("gw-{letter}");
            let (addr, admin) = (free_addr()?, free_addr()?);
            let proxy = Proxy::start(addr)?;
            let settings = [
                ("NODE_ID", node.clone()),
                ("GATEWAY_LISTEN", addr.to_string()),
                ("GATEWAY_PUBLIC_URL", format!("ws://{}", proxy.addr())),
                ("GATEWAY_ADMIN_LISTEN", admin.to_string()),
                ("RELAY_LISTEN", "127.0.0.1:0".to_owned()),
                // One node with a single core, the others with two.
                ("GATEWAY_CORES", (1 + number.min(1)).to_string()),
                ("IDENTIFY_CONCURRENCY", "16".to_owned()),
                ("GATEWAY_RESUME", options.resume.to_owned()),
                ("RATE_LIMITS", options.rate_limits.to_owned()),
            ];
            let launch = launch(&node, "guildhall-gateway", &settings)?;
            gateways.push(Gateway {
                server: Server::new(launch, admin),
                node,
                direct_url: format!("ws://{addr}"),
                proxy,
                addr,
            });
        }
        let mut apis = Vec::new();
        for number in 0..options.apis {
            let addr = free_addr()?;
            let origin = format!("http://{addr}");
            let gateway = &gateways[number % gateways.len()];
            let settings = [
                ("API_LISTEN", addr.to_string()),
                ("API_PUBLIC_URL", origin.clone()),
                ("GATEWAY_URL", gateway.url()),
                ("API_DB_CONNECTIONS_MAX", "8".to_owned()),
                ("RATE_LIMITS", options.rate_limits.to_owned()),
                ("REGISTRATION", "open".to_owned()),
                ("MAIL_TO_LOG", options.mail_to_log.to_string()),
            ];
            let launch = launch(&format!("api-{number}"), "guildhall-api", &settings)?;
            apis.push(Api {
                server: Server::new(launch, addr),
                origin,
                addr,
            });
        }
        let addr = free_addr()?;
        let settings = [
            ("COORDINATOR_LISTEN", addr.to_string()),
            ("COORDINATOR_ID", "coordinator-1".to_owned()),
        ];
        let launch = launch("coordinator", "shard-coordinator", &settings)?;
        let cluster = Self {
            apis,
            gateways,
            coordinator: Server::new(launch, addr),
            redis: Arc::new(Mutex::new(redis)),
            admin,
            redis_url,
            postgres,
            database: name,
            database_url,
            shards: options.shards,
            folder,
            logs_shown: AtomicBool::new(false),
            logs_kept: AtomicBool::new(false),
        };
        for server in cluster.servers() {
            server.start().await?;
        }
        for server in cluster.servers() {
            server.ready().await?;
        }
        cluster.map_of(options.gateways).await;
        Ok(cluster)
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.coordinator)
            .chain(self.gateways.iter().map(|gateway| &gateway.server))
            .chain(self.apis.iter().map(|api| &api.server))
    }

    /// A REST client of an API, without a token. Bound to the runtime of the calling test.
    pub fn rest(&self, api: usize) -> Rest {
        Rest::new(&self.apis[api % self.apis.len()].origin)
    }

    /// Origins of all APIs.
    pub fn origins(&self) -> Vec<String> {
        self.apis.iter().map(|api| api.origin.clone()).collect()
    }

    /// A few connections to the cluster's database, bound to the runtime of the calling test.
    pub async fn db(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new()
            .max_connections(2)
            .connect(&self.database_url)
            .await?)
    }

    /// A connection to the cluster's Redis.
    pub async fn redis(&self) -> Result<Connection> {
        Ok(self.redis_client()?.connection()?)
    }

    fn redis_client(&self) -> Result<Client> {
        let patience = Patience {
            answer: Duration::from_secs(2),
            retries: 1,
            pause_max: None,
        };
        Ok(Client::open(&self.redis_url, patience)?)
    }

    /// The number of the primary that carries a guild's events; replicas that took over are numbered
    /// after the primaries at the start.
    pub async fn primary_of(&self, guild: &str) -> Result<usize> {
        let guild: Id<Guild> = guild.parse().map_err(|_| anyhow!("not an id: {guild}"))?;
        let channel = keys::shard_events(ShardId::of(guild, self.shards));
        let home = self.redis_client()?.home(&channel).await?;
        let url = home.get_connection_info().addr().to_string();
        let servers = lock(&self.redis);
        let mut ports = servers.iter().map(|server| format!(":{}", server.port()));
        let number = ports.position(|port| url.ends_with(&port));
        number.context("a primary nobody knows")
    }

    /// Gives the slot of a guild's events to another primary; what Redis has of them is lost.
    pub async fn move_slot_of(&self, guild: &str, to: usize) -> Result<()> {
        let guild: Id<Guild> = guild.parse().map_err(|_| anyhow!("not an id: {guild}"))?;
        let channel = keys::shard_events(ShardId::of(guild, self.shards));
        let slot: u16 = redis::cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(channel)
            .query_async(&mut self.redis().await?)
            .await?;
        let (redis, from) = (
            Arc::clone(&self.redis),
            self.primary_of(&guild.to_string()).await?,
        );
        tokio::task::spawn_blocking(move || move_slot(&lock(&redis), slot, from, to)).await?
    }

    /// The map in Redis now.
    pub async fn map(&self) -> Result<ClusterMap> {
        let mut connection = self.redis().await?;
        let map: Option<String> = redis::cmd("GET")
            .arg(keys::MAP)
            .query_async(&mut connection)
            .await?;
        Ok(serde_json::from_str(&map.context("no map yet")?)?)
    }

    /// Waits for a map in which exactly `nodes` nodes own all shards.
    pub async fn map_of(&self, nodes: usize) -> ClusterMap {
        let what = format!("a map of {nodes} nodes");
        wait::until(&what, async || {
            let map = self.map().await.ok()?;
            let mut owners: Vec<u16> = Vec::new();
            for shard in &map.shards {
                owners.push(shard.owner?);
            }
            owners.sort_unstable();
            owners.dedup();
            (map.shards.len() == usize::from(self.shards) && owners.len() == nodes).then_some(map)
        })
        .await
    }

    /// Index of the gateway that owns a guild.
    pub async fn owner_of(&self, guild: &str) -> Result<usize> {
        let guild: Id<Guild> = guild.parse().map_err(|_| anyhow!("not an id: {guild}"))?;
        let map = self.map().await?;
        let owner = map
            .owner(ShardId::of(guild, self.shards))
            .context("a shard without owner")?;
        self.gateways
            .iter()
            .position(|gateway| gateway.node == owner)
            .with_context(|| format!("an owner nobody knows: {owner}"))
    }

    /// `ws://…` of all gateways through their proxies: this one first, then those after it.
    pub fn urls(&self, first: usize) -> Vec<String> {
        let count = self.gateways.len();
        (0..count)
            .map(|turn| self.gateways[(first + turn) % count].url())
            .collect()
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// FLUSHALL.
    pub async fn flush_redis(&self) -> Result<()> {
        let redis = Arc::clone(&self.redis);
        tokio::task::spawn_blocking(move || lock(&redis).iter().try_for_each(Redis::flush)).await?
    }

    /// kill -9 of Redis.
    pub async fn kill_redis(&self) -> Result<()> {
        self.kill_primary(0).await
    }

    /// Starts Redis again, empty.
    pub async fn restart_redis(&self) -> Result<()> {
        self.restart_primary(0).await
    }

    /// kill -9 of one primary of a Redis Cluster.
    pub async fn kill_primary(&self, number: usize) -> Result<()> {
        let redis = Arc::clone(&self.redis);
        Ok(tokio::task::spawn_blocking(move || lock(&redis)[number].kill()).await?)
    }

    /// Starts it again, empty, with its slots, unless a replica has them by now.
    pub async fn restart_primary(&self, number: usize) -> Result<()> {
        let redis = Arc::clone(&self.redis);
        on_launcher(move || lock(&redis)[number].start_again()).await
    }

    /// Stops the cluster's own Postgres (SIGKILL if `hard`) and starts it again.
    ///
    /// Errors: the cluster was made without [`Options::own_postgres`].
    pub async fn restart_postgres(&self, hard: bool, pause: Duration) -> Result<()> {
        let PostgresServer::Started(server) = &self.postgres else {
            bail!("this Postgres is not ours to stop");
        };
        let (stopping, server) = (Arc::clone(server), Arc::clone(server));
        tokio::task::spawn_blocking(move || {
            let own = &mut *lock(&stopping);
            if hard {
                own.server.kill();
            } else {
                own.server.stop();
            }
        })
        .await?;
        tokio::time::sleep(pause).await;
        on_launcher(move || lock(&server).server.start_again()).await
    }

    /// Leaves the folder with the logs for whoever wants to see them; where it is.
    pub fn keep_logs(&self) -> &Path {
        self.logs_kept.store(true, Ordering::Relaxed);
        &self.folder
    }

    /// The ends of all logs, once.
    fn show_logs(&self) {
        if self.logs_shown.swap(true, Ordering::Relaxed) {
            return;
        }
        eprintln!("logs in {}", self.folder.display());
        for server in self.servers() {
            eprintln!("=== {}\n{}", server.name(), server.log_tail());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.servers() {
            server.kill();
        }
        let failed = thread::panicking();
        if failed {
            self.show_logs(); // unless its last user has
        }
        let (postgres, database) = (self.postgres.clone(), self.database.clone());
        // A runtime of its own: the test's may be ending.
        let _ = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let drop = format!("drop database if exists {database} with (force)");
                let _ = runtime.block_on(postgres.execute(drop)); // goes with its server anyway
            }
        })
        .join();
        if !failed && !self.logs_kept.load(Ordering::Relaxed) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn free_addr() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)))
}

pub(crate) fn bin_dir() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("GUILDHALL_BIN_DIR") {
        return fs::canonicalize(&folder)
            .with_context(|| format!("GUILDHALL_BIN_DIR: {}", Path::new(&folder).display()));
    }
    // target/debug/deps/<this test>
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("not in a target folder")?;
    ensure!(
        folder.join("guildhall-gateway").is_file(),
        "no servers in {}: cargo build -p guildhall-api -p guildhall-gateway -p shard-coordinator",
        folder.display(),
    );
    Ok(folder.to_owned())
}

fn rust_log() -> String {
    std::env::var("E2E_LOG").unwrap_or_else(|_| "info".to_owned())
}
