//! The node: the one thread of a gateway that talks to Postgres, Redis and other gateways.
//!
//! It serves realms (owner role), subscribes its cores to realms wherever they are served
//! (edge role) and checks IDENTIFYs. It never touches a client's socket. One thread, one
//! runtime, no locks: state is in `Rc<RefCell<_>>`, never borrowed across an await.

mod batches;
mod config;
mod cut_off;
pub(crate) mod database;
mod desk;
mod drain;
mod edge;
pub(crate) mod fuzz;
mod heartbeat;
mod identify;
mod identities;
mod map;
pub(crate) mod metrics;
mod moving;
mod owner;
mod parts;
mod redis;
mod relay;
#[cfg(feature = "simulated")]
pub(crate) mod simulated;
mod start_limits;
mod stored;
mod temporary;
pub(crate) mod to_core;
pub(crate) mod travel;
mod voice;

use std::{cell::RefCell, io, net::SocketAddr, pin::pin, rc::Rc};

use guildhall_shared::listen::is_public;
use guildhall_store::pool;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{LocalSet, spawn_local},
};
use tokio_util::sync::CancellationToken;

use self::{
    cut_off::CutOff,
    desk::{Accounts, Desk},
    drain::Drain,
    heartbeat::Heartbeat,
    identify::Identifier,
    metrics::Metrics,
    parts::{Parts, Ways},
    start_limits::StartLimits,
    stored::Stored,
    voice::Voice,
};
use crate::{
    bus::{CoreHandle, ToNode},
    clock,
};

pub use self::{config::Config, owner::view::Classes, relay::auth::ClusterKey};

/// Requests of cores that may wait for the node; a core waits for room.
pub const REQUESTS_MAX: usize = 65_536;

/// Why the node could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("DATABASE_URL: {0}")]
    Database(#[source] sqlx::Error),
    #[error("REDIS_URL: {0}")]
    Redis(#[source] ::redis::RedisError),
    #[error("RELAY_LISTEN {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "RELAY_LISTEN {0} can be reached by everybody; allow it with RELAY_PUBLIC or choose a private address"
    )]
    PublicRelay(SocketAddr),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs the node on this thread until `shutdown`, or until no core is left.
///
/// Postgres and Redis may be away, now or later: the node waits for them. Errors: a setting
/// that cannot work, or an address that is taken.
pub fn run(
    config: Config,
    cores: Vec<CoreHandle>,
    requests: mpsc::Receiver<ToNode>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    LocalSet::new().block_on(&runtime, serve(config, cores, requests, shutdown))
}

async fn serve(
    config: Config,
    cores: Vec<CoreHandle>,
    requests: mpsc::Receiver<ToNode>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    if is_public(config.relay_listen.ip()) && !config.relay_public {
        return Err(Error::PublicRelay(config.relay_listen));
    }
    let metrics = Metrics::register(&config.registry)?;
    let postgres: PgConnectOptions = config
        .database_url
        .reveal()
        .parse()
        .map_err(Error::Database)?;
    let connections_max = config.db_connections_max.max(1);
    let db = pool::open(postgres, connections_max, database::PATIENCE);
    let client = redis::client(config.redis_url.reveal()).map_err(Error::Redis)?;
    let commands = client.connection().map_err(Error::Redis)?;
    let listen = |source| Error::Listen {
        address: config.relay_listen,
        source,
    };
    let listener = TcpListener::bind(config.relay_listen)
        .await
        .map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;

    // Logs are long: what they take to read keeps nobody else waiting.
    let logs = redis::client(config.redis_url.reveal()).map_err(Error::Redis)?;
    let logs = logs.connection().map_err(Error::Redis)?;
    let ways = Ways {
        stored: Stored::Postgres(db.clone()),
        client,
        commands: commands.clone(),
        logs,
    };
    let parts = Parts::new(&config, ways, &cores, metrics.clone());
    let heartbeat = Rc::new(Heartbeat {
        id: config.node_id.clone(),
        boot: config.boot,
        relay_addr: config
            .relay_advertise
            .clone()
            .unwrap_or_else(|| bound.to_string()),
        gateway_url: config.gateway_url.clone(),
        status: config.status.clone(),
        map: parts.map.clone(),
        owner: parts.owner.clone(),
        edge: parts.edge.clone(),
        feed: parts.feed.clone(),
        links: parts.links.clone(),
        cores: cores.clone(),
        metrics: metrics.clone(),
        commands: commands.clone(),
        namesake: RefCell::default(),
    });

    spawn_local(metrics.clone().watch_lag());
    parts.start(config.status.clone());
    spawn_local(parts.owner.clone().tell_people());
    spawn_local(parts.relay(&config).run(listener));
    spawn_local(temporary::run(db.clone(), parts.edge.clone()));
    let cut_off = CutOff::new(config.node_id.clone(), cores.clone());
    spawn_local(cut_off.run(config.status.clone(), parts.feed.clone(), parts.map.clone()));
    spawn_local({
        let (parts, commands) = (parts.clone(), commands.clone());
        let drain = Drain::new(&config, cores.clone());
        async move {
            let changed = || {
                parts.map_looked_at();
                drain.follow(&parts.map.current(), clock::now());
            };
            let published = &parts.feed.map_changed;
            parts.map.run(commands, published, changed).await;
        }
    });
    spawn_local({
        let heartbeat = heartbeat.clone();
        async move { heartbeat.run().await }
    });
    config.status.set_relay_addr(bound);
    tracing::info!(node.id = %config.node_id, relay = %bound, "node runs");

    let voice = Voice::new(
        db.clone(),
        commands.clone(),
        config.shards,
        config.voice.clone(),
        cores.clone().into(),
    );
    spawn_local(voice.clone().keep_alive());
    let limits = StartLimits::new(
        commands.clone(),
        config.identify_concurrency,
        config.rate_limits,
    );
    spawn_local(limits.clone().keep_seats());
    let identifier = Rc::new(Identifier::new(
        db,
        commands,
        limits.clone(),
        cores.clone().into(),
        metrics,
    ));
    spawn_local(identifier.clone().sweep());
    let log = parts.log.clone();
    let accounts = Accounts::Postgres(identifier);
    let desk = Desk::new(&config, &parts, accounts, limits, voice, cores.into());
    attend(requests, shutdown.cancelled(), |request| desk.take(request)).await;
    config.status.stop();
    log.ship().await;
    heartbeat.farewell().await;
    tracing::info!(node.id = %config.node_id, "node stopped");
    Ok(())
}

/// Takes what cores ask until it is to stop, and what they have left behind then: the end of the
/// delivery log is among it.
async fn attend(
    mut requests: mpsc::Receiver<ToNode>,
    stopped: impl Future<Output = ()>,
    mut take: impl FnMut(ToNode),
) {
    let mut stopped = pin!(stopped);
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            () = &mut stopped => None,
        };
        let Some(request) = request else { break };
        take(request);
    }
    while let Ok(request) = requests.try_recv() {
        take(request);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn what_cores_have_left_behind_is_seen_to_before_a_node_stops() {
        const CHUNKS: u64 = 60;
        let (cores, requests) = mpsc::channel(REQUESTS_MAX);
        for number in 0..CHUNKS {
            let delivered = ToNode::Delivered {
                core: 0,
                number,
                chunk: Default::default(),
                loss: 0,
            };
            cores.try_send(delivered).unwrap();
        }
        let mut taken = Vec::new();
        let take = |request| match request {
            ToNode::Delivered { number, .. } => taken.push(number),
            other => panic!("{other:?}"),
        };
        attend(requests, ready(()), take).await;
        assert_eq!(taken, (0..CHUNKS).collect::<Vec<_>>());
    }
}
