//! The processes of a run, each with proxies on every way to and from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::{Instant, sleep};
use xtask::ports;
use xtask::process::Launch;
use xtask::servers::random_secret;

use super::network::{Cable, Network, Place};
use super::plan::{Line, Member, Targets};
use super::stores::{RedisPair, local};
use crate::cluster::{OwnPostgres, Server, bin_dir, lock, on_launcher, run_to_end, scratch_folder};
use crate::proxy::Proxy;
use crate::rest::Rest;

/// For a process to be ready again after a fault, others being broken at the time.
const RECOVERY_MAX: Duration = Duration::from_secs(120);
const RECOVERY_PAUSE: Duration = Duration::from_millis(300);
const PLACEMENT_ATTEMPTS: usize = 200;
const PLACEMENT_PAUSE: Duration = Duration::from_millis(200);
/// Slices of realms.
pub(super) const SHARDS: u16 = 64;

/// Sessions of a gateway that is drained leave over so long.
const DRAIN_OVER: Duration = Duration::from_secs(4);

/// What an operator says about placement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Placement {
    /// A gateway's shards and sessions leave.
    Drained(usize),
    /// Nothing is set for a gateway.
    Undrained(usize),
    /// Every third shard is pinned to a gateway.
    Pinned(usize),
    NothingPinned,
    /// Every third shard is to go to a gateway once.
    Moved(usize),
    /// What has not moved by now stays.
    NoMoves,
}

/// One process and its ways.
pub(super) struct Actor {
    pub(super) server: Server,
    public: Option<Proxy>,
    relay: Option<Proxy>,
    redis: Proxy,
    postgres: Proxy,
    place: Place,
}

impl Actor {
    /// The proxies of a line; none if it has no such line.
    pub(super) fn ways(&self, line: Line) -> Vec<&Proxy> {
        match line {
            Line::Public => self.public.iter().collect(),
            Line::Relay => self.relay.iter().collect(),
            Line::Redis => vec![&self.redis],
            Line::Postgres => vec![&self.postgres],
            Line::Everything => {
                let outward = self.public.iter().chain(&self.relay);
                outward.chain([&self.redis, &self.postgres]).collect()
            }
        }
    }

    /// Starts it until it stays: what it needs may be broken now.
    pub(super) async fn restart(&self) -> Result<()> {
        let end = Instant::now() + RECOVERY_MAX;
        loop {
            match self.server.restart().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => sleep(RECOVERY_PAUSE).await,
            }
        }
    }

    /// Changes its cable; false if it has none.
    pub(super) fn set_cable(&self, state: Cable) -> Result<bool> {
        self.place.set_cable(state)
    }

    /// Where clients reach it.
    pub(super) fn public_addr(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(Proxy::addr)
    }
}

/// Everything that runs. Fields are dropped in their order: processes before what they need.
pub(super) struct Stage {
    pub(super) gateways: Vec<Actor>,
    pub(super) apis: Vec<Actor>,
    pub(super) coordinators: Vec<Actor>,
    pub(super) redis: Arc<Mutex<RedisPair>>,
    pub(super) postgres: Arc<Mutex<OwnPostgres>>,
    /// Past all proxies.
    pub(super) db: PgPool,
    pub(super) network: Network,
    pub(super) folder: PathBuf,
}

/// Makes the actors of a stage.
struct Builder<'a> {
    network: &'a Network,
    folder: PathBuf,
    redis: SocketAddr,
    redis_password: String,
    postgres: SocketAddr,
    postgres_url: String,
    cluster_key: String,
    /// Sessions have their gateway broken in this way; see the feature `broken` of the gateway.
    broken: Option<String>,
}

impl Stage {
    /// Starts everything and waits until it is ready.
    pub(super) async fn start(targets: Targets, broken: Option<String>) -> Result<Self> {
        let network = Network::choose();
        let folder = scratch_folder("chaos")?;
        let (redis_folder, started) = (folder.clone(), on_launcher(|| OwnPostgres::start(true)));
        let postgres = started.await?;
        let redis = on_launcher(move || RedisPair::start(&redis_folder)).await?;
        let direct = postgres.server.url("guildhall");
        let builder = Builder {
            network: &network,
            folder: folder.clone(),
            redis: redis.addr(),
            redis_password: redis.password.clone(),
            postgres: local(postgres.server.port()),
            postgres_url: direct.clone(),
            cluster_key: random_secret()?,
            broken,
        };
        builder.migrate(&direct).await?;
        let count = |count: usize| 0..count;
        let gateways: Vec<Actor> = count(targets.gateways)
            .map(|number| builder.gateway(number))
            .collect::<Result<_>>()?;
        let entry = gateways.first().and_then(Actor::public_addr);
        let entry = entry.context("no gateway")?;
        let apis = count(targets.apis)
            .map(|number| builder.api(number, entry))
            .collect::<Result<_>>()?;
        let coordinators = count(targets.coordinators)
            .map(|number| builder.coordinator(number))
            .collect::<Result<_>>()?;
        let db = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy(&direct)?;
        let stage = Self {
            gateways,
            apis,
            coordinators,
            redis: Arc::new(Mutex::new(redis)),
            postgres: Arc::new(Mutex::new(postgres)),
            db,
            folder,
            network,
        };
        for actor in stage.actors() {
            actor.server.start().await?;
        }
        stage.ready().await?;
        Ok(stage)
    }

    /// Waits until every process says that it is ready; one that has ended is started again.
    pub(super) async fn ready(&self) -> Result<()> {
        for actor in self.actors() {
            if actor.server.ready().await.is_err() {
                actor.restart().await?;
            }
        }
        Ok(())
    }

    pub(super) fn actors(&self) -> impl Iterator<Item = &Actor> {
        let all = self.coordinators.iter().chain(&self.gateways);
        all.chain(&self.apis)
    }

    pub(super) fn actor(&self, member: Member) -> &Actor {
        match member {
            Member::Gateway(number) => &self.gateways[number],
            Member::Api(number) => &self.apis[number],
            Member::Coordinator(number) => &self.coordinators[number],
        }
    }

    /// `ws://…` of each gateway, through its proxy.
    pub(super) fn gateway_urls(&self) -> Vec<String> {
        let addrs = self.gateways.iter().filter_map(Actor::public_addr);
        addrs.map(|addr| format!("ws://{addr}")).collect()
    }

    /// `http://…` of each API, through its proxy.
    pub(super) fn origins(&self) -> Vec<String> {
        let addrs = self.apis.iter().filter_map(Actor::public_addr);
        addrs.map(|addr| format!("http://{addr}")).collect()
    }

    pub(super) fn nobody(&self) -> Rest {
        Rest::new(&self.origins()[0])
    }

    /// Sends all new connections to the Redis that is the primary now.
    pub(super) fn point_to_redis(&self, addr: SocketAddr) {
        for actor in self.actors() {
            actor.redis.retarget(addr);
        }
    }

    /// Changes placement as an operator does, by the rows that the operators' API writes: a
    /// coordinator that is broken now could not be asked. Repeats it while Postgres is away.
    pub(super) async fn place(&self, change: Placement) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..PLACEMENT_ATTEMPTS {
            last = self.try_place(change).await;
            if last.is_ok() {
                break;
            }
            sleep(PLACEMENT_PAUSE).await;
        }
        last
    }

    async fn try_place(&self, change: Placement) -> Result<()> {
        match change {
            Placement::Drained(gateway) => sqlx::query(
                "insert into cluster_node (node_id, state, drain_since, drain_over_ms)
                 values ($1, 'draining', now(), $2)
                 on conflict (node_id) do update
                 set state = excluded.state, drain_since = excluded.drain_since,
                     drain_over_ms = excluded.drain_over_ms",
            )
            .bind(node_id(gateway))
            .bind(DRAIN_OVER.as_millis() as i64),
            Placement::Undrained(gateway) => {
                sqlx::query("delete from cluster_node where node_id = $1").bind(node_id(gateway))
            }
            Placement::Pinned(gateway) => sqlx::query(
                "insert into cluster_pin (shard, node_id)
                 select shard, $1 from generate_series(0, $2, 3) shard
                 on conflict (shard) do update set node_id = excluded.node_id",
            )
            .bind(node_id(gateway))
            .bind(i32::from(SHARDS) - 1),
            Placement::NothingPinned => sqlx::query("delete from cluster_pin"),
            Placement::Moved(gateway) => sqlx::query(
                "insert into cluster_move (shard, node_id)
                 select shard, $1 from generate_series(1, $2, 3) shard
                 on conflict (shard) do update set node_id = excluded.node_id",
            )
            .bind(node_id(gateway))
            .bind(i32::from(SHARDS) - 1),
            Placement::NoMoves => sqlx::query("delete from cluster_move"),
        }
        .execute(&self.db)
        .await?;
        Ok(())
    }

    /// Stops everything. `keep`: the folder stays for whoever looks at the logs.
    pub(super) fn stop(&self, keep: bool) {
        for actor in self.actors() {
            actor.server.kill();
        }
        if !keep {
            let _ = fs::remove_dir_all(&self.folder); // xtask sweeps what stays
        }
    }
}

/// `NODE_ID` of a gateway.
fn node_id(gateway: usize) -> String {
    format!("gw-{gateway}")
}

impl Builder<'_> {
    async fn migrate(&self, direct: &str) -> Result<()> {
        let mut migrate = self.launch("migrate", "guildhall-api")?;
        migrate.arguments = vec!["migrate".into()];
        let redis = format!("redis://:{}@{}/", self.redis_password, self.redis);
        self.set(
            &mut migrate,
            &[("DATABASE_URL", direct.to_owned()), ("REDIS_URL", redis)],
        );
        run_to_end(migrate).await
    }

    fn launch(&self, name: &str, program: &str) -> Result<Launch> {
        let log = self.folder.join(format!("{name}.log"));
        let mut launch = Launch::new(name, bin_dir()?.join(program), log);
        launch.dies_with_parent = true;
        let log_filter = env::var("E2E_LOG").unwrap_or_else(|_| "info".to_owned());
        let media = self.folder.join("media").display().to_string();
        let common = [
            ("CLUSTER_KEY", self.cluster_key.clone()),
            ("CLUSTER_SHARDS", SHARDS.to_string()),
            ("MEDIA_DIR", media),
            ("RUST_LOG", log_filter),
            ("NO_COLOR", "1".to_owned()),
        ];
        self.set(&mut launch, &common);
        Ok(launch)
    }

    fn set(&self, launch: &mut Launch, settings: &[(&str, String)]) {
        let settings = settings.iter().cloned();
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        launch.environment.extend(settings);
    }

    fn actor(
        &self,
        mut launch: Launch,
        place: Place,
        http: SocketAddr,
        (public, relay): (Option<Proxy>, Option<Proxy>),
        settings: &[(&str, String)],
    ) -> Result<Actor> {
        let redis = Proxy::start_at(self.network.addr(), self.redis)?;
        let postgres = Proxy::start_at(self.network.addr(), self.postgres)?;
        let direct = self.postgres.to_string();
        let url = self
            .postgres_url
            .replace(&direct, &postgres.addr().to_string());
        let redis_url = format!("redis://:{}@{}/", self.redis_password, redis.addr());
        self.set(&mut launch, settings);
        self.set(
            &mut launch,
            &[("DATABASE_URL", url), ("REDIS_URL", redis_url)],
        );
        place.settle(&mut launch);
        Ok(Actor {
            server: Server::new(launch, http),
            public,
            relay,
            redis,
            postgres,
            place,
        })
    }

    fn addr(&self, place: &Place) -> Result<SocketAddr> {
        Ok(SocketAddr::from((place.addr(), ports::free()?)))
    }

    fn gateway(&self, number: usize) -> Result<Actor> {
        let place = self.network.place()?;
        let (own, admin, relay) = (self.addr(&place)?, self.addr(&place)?, self.addr(&place)?);
        let public = Proxy::start_at(self.network.addr(), own)?;
        let relay_proxy = Proxy::start_at(self.network.addr(), relay)?;
        let program = match self.broken {
            Some(_) => "guildhall-gateway-broken",
            None => "guildhall-gateway",
        };
        let mut settings = vec![
            ("NODE_ID", node_id(number)),
            ("GATEWAY_LISTEN", own.to_string()),
            ("GATEWAY_PUBLIC_URL", format!("ws://{}", public.addr())),
            ("GATEWAY_ADMIN_LISTEN", admin.to_string()),
            ("GATEWAY_CONNECTIONS_PER_ADDRESS_MAX", "0".to_owned()),
            ("RELAY_LISTEN", relay.to_string()),
            ("RELAY_ADVERTISE", relay_proxy.addr().to_string()),
            ("GATEWAY_CORES", "2".to_owned()),
            ("IDENTIFY_CONCURRENCY", "16".to_owned()),
            ("RATE_LIMITS", "off".to_owned()),
        ];
        settings.extend(self.broken.clone().map(|word| ("GUILDHALL_BROKEN", word)));
        let launch = self.launch(&node_id(number), program)?;
        let ways = (Some(public), Some(relay_proxy));
        self.actor(launch, place, admin, ways, &settings)
    }

    fn api(&self, number: usize, gateway: SocketAddr) -> Result<Actor> {
        let place = self.network.place()?;
        let own = self.addr(&place)?;
        let public = Proxy::start_at(self.network.addr(), own)?;
        let settings = [
            ("API_LISTEN", own.to_string()),
            ("API_PUBLIC_URL", format!("http://{}", public.addr())),
            ("GATEWAY_URL", format!("ws://{gateway}")),
            ("API_DB_CONNECTIONS_MAX", "8".to_owned()),
            ("RATE_LIMITS", "off".to_owned()),
            ("REGISTRATION", "open".to_owned()),
        ];
        let launch = self.launch(&format!("api-{number}"), "guildhall-api")?;
        self.actor(launch, place, own, (Some(public), None), &settings)
    }

    fn coordinator(&self, number: usize) -> Result<Actor> {
        let place = self.network.place()?;
        let own = self.addr(&place)?;
        let name = format!("coordinator-{number}");
        let settings = [
            ("COORDINATOR_LISTEN", own.to_string()),
            ("COORDINATOR_ID", name.clone()),
        ];
        let mut launch = self.launch(&name, "shard-coordinator")?;
        launch.arguments = Vec::new();
        self.actor(launch, place, own, (None, None), &settings)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for actor in self.actors() {
            actor.server.kill();
        }
    }
}

/// A blocking call that starts processes: they end with the thread that started them.
pub(super) async fn start_with<T: Send + 'static, R: Send + 'static>(
    of: &Arc<Mutex<T>>,
    job: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
) -> Result<R> {
    let of = Arc::clone(of);
    on_launcher(move || job(&mut lock(&of))).await
}

/// A blocking call that starts none.
pub(super) async fn with<T: Send + 'static, R: Send + 'static>(
    of: &Arc<Mutex<T>>,
    job: impl FnOnce(&mut T) -> R + Send + 'static,
) -> Result<R> {
    let of = Arc::clone(of);
    Ok(tokio::task::spawn_blocking(move || job(&mut lock(&of))).await?)
}
