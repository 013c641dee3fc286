//! A gateway process: its threads, from start to drain.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::Registry;
use rand::RngExt;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    bus::{self, CoreHandle, ToCore},
    config::Config,
    core::{self, CoreConfig},
    gate::Gate,
    listener,
    names::CoreId,
    node::{self, ClusterKey},
    status::Status,
    telemetry::CoreMetrics,
    wire,
};

/// Between saying so in the heartbeat and sending clients away, so that shards can move first.
pub const LEAVING_NOTICE: Duration = Duration::from_millis(500);
/// Clients are sent away over so long, unless `GATEWAY_STOP_OVER_MS` says otherwise.
pub const STOP_OVER: Duration = Duration::from_secs(4);
/// Connections that do not go by themselves are cut so long after the last was to go.
pub const STAY_MAX: Duration = Duration::from_secs(6);

/// Why the gateway could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("threads: {0}")]
    Threads(#[from] io::Error),
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error("the node thread ended: {0}")]
    NodePanicked(&'static str),
    #[error("a thread that serves clients ended; see the log")]
    CoreEnded,
}

/// Runs a gateway until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// A setting that cannot work, an address that is taken, or public where it must not be.
pub fn run(config: Config) -> Result<(), Error> {
    config.check_listen().map_err(Error::Config)?;
    let registry = Registry::new();
    let metrics = Arc::new(CoreMetrics::new(&registry)?);
    let status = Arc::new(Status::default());
    let shutdown = CancellationToken::new();
    let boot: u32 = rand::rng().random();

    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..config.threads()).map(|_| bus::inbox()).unzip();
    let cores: Arc<[CoreHandle]> = handles.into();
    let (to_node, requests) = mpsc::channel(node::REQUESTS_MAX);

    let node = start_node(
        &config,
        boot,
        &status,
        &registry,
        &cores,
        requests,
        shutdown.clone(),
    )?;
    let pins = core_affinity::get_core_ids().unwrap_or_default();
    let mut threads = Vec::new();
    for (place, inbox) in inboxes.into_iter().enumerate() {
        let core = CoreConfig {
            id: place as CoreId,
            boot,
            resume_url: config.resume_url().into(),
            peers: cores.clone(),
            metrics: metrics.clone(),
            resume: config.resume,
            message_bytes_max: wire::MESSAGE_BYTES_MAX,
            own_bytes_max: config.own_bytes_max(),
            #[cfg(feature = "echo")]
            echo: false,
        };
        let to_node = to_node.clone();
        // With fewer processors than cores, pinning would make them wait for each other.
        let pin = (pins.len() >= config.threads()).then(|| pins[place]);
        threads.push(
            thread::Builder::new()
                .name(format!("core-{place}"))
                .spawn(move || {
                    if let Some(pin) = pin {
                        // Not allowed in some containers; the scheduler then decides.
                        let _ = core_affinity::set_for_current(pin);
                    }
                    core::run(core, inbox, to_node)
                        .inspect_err(|error| tracing::error!(%error, "a core has no runtime"))
                })?,
        );
    }
    drop(to_node);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = || {
        if threads.iter().any(JoinHandle::is_finished) {
            return Some(Err(Error::CoreEnded));
        }
        node.is_finished().then_some(Ok(()))
    };
    let served = runtime.block_on(serve(&config, &cores, &metrics, &status, &registry, ended));
    status.stop();
    let over = match &served {
        Ok(()) if !node.is_finished() => config.stop_over(),
        // Clients get nothing new here, or not all of them do.
        _ => config.stop_over().min(STOP_OVER),
    };
    // Operators are answered meanwhile.
    runtime.block_on(async {
        if served.is_ok() {
            let over_ms = over.as_millis() as u64;
            tracing::info!(over_ms, "leaving: clients are asked to reconnect");
            sleep(LEAVING_NOTICE).await;
        }
        drain(&cores, threads, over).await;
    });
    shutdown.cancel();
    let ended = node
        .join()
        .map_err(|_| Error::NodePanicked("see the log"))?;
    served.and(ended.map_err(Error::from))
}

fn start_node(
    config: &Config,
    boot: u32,
    status: &Arc<Status>,
    registry: &Registry,
    cores: &Arc<[CoreHandle]>,
    requests: mpsc::Receiver<bus::ToNode>,
    shutdown: CancellationToken,
) -> Result<JoinHandle<Result<(), node::Error>>, Error> {
    let node = node::Config {
        node_id: config.node_id.clone(),
        boot,
        resume: config.resume,
        database_url: config.database_url.clone(),
        redis_url: config.redis_url.clone(),
        relay_listen: config.relay_listen,
        relay_advertise: config.relay_advertise.clone(),
        relay_public: config.relay_public,
        gateway_url: config.public_url.clone(),
        cluster_key: relay_key(config)?,
        shards: config.shards,
        identify_concurrency: config.identify_concurrency,
        rate_limits: config.rate_limits,
        db_connections_max: config.db_connections_max,
        voice: config.voice().map_err(Error::Config)?,
        status: status.clone(),
        registry: registry.clone(),
    };
    let cores = cores.to_vec();
    let thread = thread::Builder::new().name("node".to_owned());
    Ok(thread.spawn(move || node::run(node, cores, requests, shutdown))?)
}

/// The key of the relay's links, with those accepted beside it.
fn relay_key(config: &Config) -> Result<ClusterKey, Error> {
    let keys = config.cluster_keys().map_err(Error::Config)?;
    let unusable = || Error::Config("CLUSTER_KEY: cannot be used".to_owned());
    ClusterKey::of_keys(keys).ok_or_else(unusable)
}

/// Accepts clients and answers operators until told to leave, or until `ended` says that a thread
/// has: clients that its core is given would not be served.
async fn serve(
    config: &Config,
    cores: &Arc<[CoreHandle]>,
    metrics: &CoreMetrics,
    status: &Arc<Status>,
    registry: &Registry,
    ended: impl Fn() -> Option<Result<(), Error>>,
) -> Result<(), Error> {
    let admin = TcpListener::bind(config.admin_listen).await;
    let admin = admin.map_err(|source| Error::Listen {
        address: config.admin_listen,
        source,
    })?;
    tokio::spawn(admin::serve(admin, status.clone(), registry.clone()));
    let mut accepting = Vec::new();
    let gate = Arc::new(Gate::new(config.connections_per_address_max));
    for &address in &config.listen {
        let listener =
            listener::bind(address).map_err(|source| Error::Listen { address, source })?;
        tracing::info!(%address, "listening for clients");
        accepting.push(tokio::spawn(listener::accept(
            listener,
            cores.clone(),
            gate.clone(),
            config.connections_max,
        )));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut before = metrics.dispatches.get();
    let left = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = seconds.tick() => {
                let now = metrics.dispatches.get();
                status.set_dispatches_per_s(now - before);
                status.set_sessions(metrics.sessions());
                before = now;
                if let Some(ended) = ended() {
                    break ended;
                }
            }
        }
    };
    for task in accepting {
        task.abort();
    }
    left
}

/// Sends every client away, spread over a time, and waits for the cores to end.
async fn drain(cores: &[CoreHandle], threads: Vec<JoinHandle<io::Result<()>>>, over: Duration) {
    let deadline = Instant::now() + over + STAY_MAX;
    for (core, thread) in cores.iter().zip(&threads) {
        let mut message = ToCore::Drain { over };
        // A full inbox empties, unless its core hangs, or has ended.
        while let Err(back) = core.send(message)
            && !thread.is_finished()
            && Instant::now() < deadline
        {
            message = back;
            sleep(Duration::from_millis(10)).await;
        }
    }
    while !threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cores_that_live_are_drained_though_one_has_ended() {
        let ((first, gone), (second, inbox)) = (bus::inbox(), bus::inbox());
        drop(gone);
        let ended = thread::spawn(|| Ok(()));
        while !ended.is_finished() {
            thread::yield_now();
        }
        let (told, tells) = std::sync::mpsc::channel();
        let lives = thread::spawn(move || {
            let message = inbox.messages.recv();
            let over = match message {
                Ok(ToCore::Drain { over }) => Some(over),
                _ => None,
            };
            let _ = told.send(over);
            Ok(())
        });
        let over = Duration::from_millis(700);
        drain(&[first, second], vec![ended, lives], over).await;
        assert_eq!(tells.recv(), Ok(Some(over)));
    }
}
