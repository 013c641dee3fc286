//! The node of a simulated gateway: the same parts, started as `serve` starts them, without what
//! touches neither events nor sessions (heartbeats, drains by the map, start limits, voice,
//! people's friends, temporary members).

use std::{rc::Rc, time::Duration};

use guildhall_redis::{Client, Connection};
use guildhall_shared::{cluster_map::ClusterMap, keys, voice::VoiceSettings};
use guildhall_store::pool;
use prometheus::Registry;
use sqlx::postgres::PgConnectOptions;
use tokio::{io::split, sync::mpsc, task::spawn_local, time::sleep};

use super::{
    config::Config,
    database::PATIENCE,
    desk::{self, Desk},
    metrics::Metrics,
    parts::{Parts, Ways},
    relay::auth::ClusterKey,
    start_limits::StartLimits,
    stored::Stored,
    voice::Voice,
};
use crate::{
    bus::{CoreHandle, ToNode},
    config::RateLimits,
    simulated::{net::Stream, setup::Setup, store::Accounts},
    status::Status,
};

/// See the module.
pub(crate) struct Node {
    config: Config,
    parts: Parts,
    accounts: Accounts,
    cores: Rc<[CoreHandle]>,
    commands: Connection,
}

impl Node {
    pub(crate) fn new(setup: &Setup, core: CoreHandle) -> Self {
        let config = Config {
            node_id: setup.id.clone(),
            boot: setup.boot,
            resume: setup.resume,
            database_url: String::new().into(),
            redis_url: String::new().into(),
            relay_listen: ([127, 0, 0, 1], 0).into(),
            relay_advertise: None,
            relay_public: false,
            gateway_url: String::new(),
            cluster_key: ClusterKey::new("simulated").expect("it is not empty"),
            shards: setup.shards,
            identify_concurrency: 1,
            rate_limits: RateLimits::Off,
            db_connections_max: 1,
            voice: VoiceSettings::default(),
            status: Status::default().into(),
            registry: Registry::new(),
        };
        let client = Client::simulated(setup.redis.way()).expect("its address is one");
        let commands = client.connection().expect("there is nothing to connect");
        let cores: Rc<[CoreHandle]> = Rc::new([core]);
        let ways = Ways {
            stored: Stored::Simulated(setup.store.clone()),
            client,
            commands: commands.clone(),
            logs: commands.clone(),
        };
        let metrics = Metrics::register(&config.registry).expect("a registry of its own");
        Self {
            parts: Parts::new(&config, ways, &cores, metrics),
            accounts: Accounts {
                store: setup.store.clone(),
                cores: cores.clone(),
            },
            config,
            cores,
            commands,
        }
    }

    /// Starts its tasks. `links`: what other nodes make to this one.
    pub(crate) fn start(
        self: &Rc<Self>,
        mut requests: mpsc::Receiver<ToNode>,
        mut links: mpsc::UnboundedReceiver<Stream>,
    ) {
        self.parts.start(self.config.status.clone());
        let relay = self.parts.relay(&self.config);
        spawn_local(async move {
            while let Some(stream) = links.recv().await {
                let (relay, (reader, writer)) = (relay.clone(), split(stream));
                spawn_local(async move {
                    if let Err(error) = relay.speak(reader, writer).await {
                        tracing::debug!(%error, "link of an edge ended");
                    }
                });
            }
        });
        spawn_local(self.clone().say_boot());
        let this = self.clone();
        spawn_local(async move {
            let desk = this.desk();
            while let Some(request) = requests.recv().await {
                desk.take(request);
            }
        });
    }

    fn desk(&self) -> Desk {
        let accounts = desk::Accounts::Simulated(self.accounts.clone());
        let limits = StartLimits::new(self.commands.clone(), 1, RateLimits::Off);
        // Nobody is in voice: it is never connected.
        let nowhere: PgConnectOptions = PgConnectOptions::new_without_pgpass();
        let voice = Voice::new(
            pool::open(nowhere, 1, PATIENCE),
            self.commands.clone(),
            self.config.shards,
            self.config.voice.clone(),
            self.cores.clone(),
        );
        let cores = self.cores.clone();
        Desk::new(&self.config, &self.parts, accounts, limits, voice, cores)
    }

    /// What else a heartbeat writes is the coordinator's, which is simulated elsewhere.
    async fn say_boot(self: Rc<Self>) {
        loop {
            let mut commands = self.commands.clone();
            let said = redis::cmd("SET")
                .arg(keys::boot(self.config.boot))
                .arg(&self.config.node_id)
                .arg("PX")
                .arg(keys::NODE_TTL_MS)
                .query_async::<()>(&mut commands)
                .await;
            if let Err(error) = said {
                tracing::debug!(%error, "heartbeat not written");
            }
            sleep(Duration::from_millis(keys::NODE_HEARTBEAT_MS)).await;
        }
    }

    pub(crate) fn read_map(&self, map: Rc<ClusterMap>) {
        self.parts.map.offer(map);
        self.parts.map_looked_at();
    }

    pub(crate) fn realms_moving(&self) -> usize {
        self.parts.edge.moving().count()
    }

    /// What there is of the delivery log.
    pub(crate) async fn ship(&self) {
        self.parts.log.ship().await;
    }
}
