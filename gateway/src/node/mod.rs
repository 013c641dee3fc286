//! The node: the one thread of a gateway that talks to Postgres, Redis and other gateways.
//!
//! It serves realms (owner role), subscribes its cores to realms wherever they are served
//! (edge role) and checks IDENTIFYs. It never touches a client's socket. One thread, one
//! runtime, no locks: state is in `Rc<RefCell<_>>`, never borrowed across an await.

mod batches;
mod cut_off;
mod database;
mod drain;
mod edge;
pub(crate) mod fuzz;
mod heartbeat;
mod identify;
mod identities;
mod map;
mod metrics;
mod moving;
mod owner;
mod redis;
mod relay;
mod start_limits;
mod temporary;
mod travel;
mod voice;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use guildhall_shared::voice::VoiceSettings;
use guildhall_store::pool;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::{LocalSet, spawn_local},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    cut_off::CutOff,
    drain::Drain,
    edge::{Edge, Server},
    heartbeat::Heartbeat,
    identify::Identifier,
    map::MapWatch,
    metrics::Metrics,
    owner::{Owner, check, feed::Feed},
    relay::{
        link::{LinkEvent, Links},
        server,
    },
    start_limits::StartLimits,
    travel::{
        Finder, Own,
        claims::Claims,
        holders::Holders,
        log::DeliveryLog,
        losses::{self, Losses},
    },
    voice::Voice,
};
use crate::{
    bus::{CoreHandle, CoreId, NotResumed, SessionKey, ToCore, ToNode},
    codec::Resume,
    config::{RateLimits, ResumeLog},
    session::SessionId,
};

pub use self::{owner::view::Classes, relay::auth::ClusterKey};

/// Time a core has to make room in its inbox for an answer that nobody repeats.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to put it there.
const ANSWER_PAUSE: Duration = Duration::from_millis(5);
/// Requests of cores that may wait for the node; a core waits for room.
pub const REQUESTS_MAX: usize = 65_536;

/// What the node needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_id: String,
    /// New on every start of the process; part of its sessions' ids.
    pub boot: u32,
    pub resume: ResumeLog,
    pub database_url: String,
    pub redis_url: String,
    /// Where other gateways are let in; port 0 takes any free one.
    pub relay_listen: SocketAddr,
    /// `host:port` others reach it at; `None`: the bound address.
    pub relay_advertise: Option<String>,
    /// Whether `relay_listen` may be an address the world can reach.
    pub relay_public: bool,
    /// URL clients reach this node at directly.
    pub gateway_url: String,
    pub cluster_key: ClusterKey,
    /// Shards of the cluster.
    pub shards: u16,
    /// Buckets of identify concurrency (`max_concurrency`).
    pub identify_concurrency: u16,
    /// Whether people have a bucket, too.
    pub rate_limits: RateLimits,
    pub db_connections_max: u32,
    /// Where voice is handed to.
    pub voice: VoiceSettings,
    pub status: Arc<Status>,
    /// Where the node's metrics are registered.
    pub registry: prometheus::Registry,
}

/// What the cores and the node tell each other and the admin endpoint of how they are.
#[derive(Debug, Default)]
pub struct Status {
    sessions: AtomicU64,
    dispatches_per_s: AtomicU64,
    leaving: AtomicBool,
    stopping: Notify,
    draining: AtomicBool,
    database: AtomicBool,
    relay_addr: OnceLock<SocketAddr>,
}

impl Status {
    /// From the cores: identified sessions, connected or resumable.
    pub fn set_sessions(&self, sessions: u64) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// From the cores: dispatches sent in the last second.
    pub fn set_dispatches_per_s(&self, dispatches: u64) {
        self.dispatches_per_s.store(dispatches, Ordering::Relaxed);
    }

    pub fn dispatches_per_s(&self) -> u64 {
        self.dispatches_per_s.load(Ordering::Relaxed)
    }

    /// The process is leaving: the next heartbeat, sent at once, says so, and shards move
    /// away while this node still serves them.
    pub fn stop(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.stopping.notify_one();
    }

    pub fn is_stopping(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether clients should come: the database answers, and neither does the process leave nor
    /// are its sessions sent away.
    pub fn is_ready(&self) -> bool {
        self.database()
            && self.relay_addr.get().is_some()
            && !self.is_stopping()
            && !self.draining.load(Ordering::Relaxed)
    }

    /// Where the relay listens, once it does.
    pub fn relay_addr(&self) -> Option<SocketAddr> {
        self.relay_addr.get().copied()
    }

    fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether the database answered when it was asked last.
    fn database(&self) -> bool {
        self.database.load(Ordering::Relaxed)
    }

    fn set_database(&self, answers: bool) {
        self.database.store(answers, Ordering::Relaxed);
    }
}

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
    mut requests: mpsc::Receiver<ToNode>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    if server::is_public(config.relay_listen.ip()) && !config.relay_public {
        return Err(Error::PublicRelay(config.relay_listen));
    }
    let metrics = Metrics::register(&config.registry)?;
    let postgres: PgConnectOptions = config.database_url.parse().map_err(Error::Database)?;
    let connections_max = config.db_connections_max.max(1);
    let db = pool::open(postgres, connections_max, database::PATIENCE);
    let client = redis::client(&config.redis_url).map_err(Error::Redis)?;
    let commands = client.connection().map_err(Error::Redis)?;
    let listen = |source| Error::Listen {
        address: config.relay_listen,
        source,
    };
    let listener = TcpListener::bind(config.relay_listen)
        .await
        .map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;

    let map = Rc::new(MapWatch::new(config.shards));
    // Logs are long: what they take to read keeps nobody else waiting.
    let logs = redis::client(&config.redis_url).map_err(Error::Redis)?;
    let log = DeliveryLog::new(
        logs.connection().map_err(Error::Redis)?,
        config.boot,
        config.resume,
        cores.clone().into(),
    );
    let feed = Feed::new(client, commands.clone(), metrics.clone());
    let owner = Owner::new(db.clone(), feed.clone(), metrics.clone(), config.shards);
    let links = Links::new(
        config.node_id.clone(),
        config.cluster_key.clone(),
        map.clone(),
        metrics.clone(),
    );
    let edge = Edge::new(
        config.node_id.clone(),
        config.shards,
        cores.clone(),
        map.clone(),
        owner.clone(),
        links.clone(),
        metrics.clone(),
    );
    let holders = Holders::new(config.boot, commands.clone(), cores.clone().into());
    let losses = Losses::new(losses::Parts {
        boot: config.boot,
        commands: commands.clone(),
        map: map.clone(),
        log: log.clone(),
        cores: cores.clone().into(),
    });
    let claims = Claims::new(config.boot, holders.clone(), losses.clone(), cores.clone());
    let (listening, answered) = (Rc::downgrade(&edge), claims.clone());
    links.listen(move |node, event| {
        if let Some(edge) = listening.upgrade() {
            match event {
                LinkEvent::From(message) => edge.receive(&Server::Node(node.clone()), message),
                LinkEvent::Claimed(number, result) => answered.answer(number, result),
                LinkEvent::Down => {
                    answered.link_down(node);
                    edge.link_down(node);
                }
            }
        }
    });
    let relay = Rc::new(server::Server {
        node: config.node_id.clone(),
        key: config.cluster_key.clone(),
        owner: owner.clone(),
        claims: claims.clone(),
        metrics: metrics.clone(),
    });
    let heartbeat = Rc::new(Heartbeat {
        id: config.node_id.clone(),
        boot: config.boot,
        relay_addr: config
            .relay_advertise
            .clone()
            .unwrap_or_else(|| bound.to_string()),
        gateway_url: config.gateway_url.clone(),
        status: config.status.clone(),
        map: map.clone(),
        owner: owner.clone(),
        edge: edge.clone(),
        feed: feed.clone(),
        links: links.clone(),
        cores: cores.clone(),
        metrics: metrics.clone(),
        commands: commands.clone(),
    });

    spawn_local(metrics.clone().watch_lag());
    spawn_local(feed.clone().run(owner.clone()));
    spawn_local(check::run(owner.clone(), config.status.clone()));
    spawn_local(owner.clone().announce());
    spawn_local(owner.clone().keep_online());
    spawn_local(owner.clone().tell_people());
    spawn_local(owner.sweep());
    spawn_local(edge.clone().tend());
    spawn_local(relay.run(listener));
    spawn_local(temporary::run(db.clone(), edge.clone()));
    let cut_off = CutOff::new(config.node_id.clone(), cores.clone());
    spawn_local(cut_off.run(config.status.clone(), feed.clone(), map.clone()));
    spawn_local({
        let (edge, commands, map) = (edge.clone(), commands.clone(), map.clone());
        let links = links.clone();
        let drain = Drain::new(&config, cores.clone());
        async move {
            let changed = || {
                links.forget_gone();
                edge.rebalance();
                drain.follow(&map.current(), Instant::now());
            };
            map.run(commands, &feed.map_changed, changed).await;
        }
    });
    spawn_local({
        let heartbeat = heartbeat.clone();
        async move { heartbeat.run().await }
    });
    // Set when this thread is the first to start; a second node of the process has its own.
    let _ = config.status.relay_addr.set(bound);
    tracing::info!(node.id = %config.node_id, relay = %bound, "node runs");

    let cores: Rc<[CoreHandle]> = cores.into();
    let voice = Voice::new(
        db.clone(),
        commands.clone(),
        config.shards,
        config.voice.clone(),
        cores.clone(),
    );
    spawn_local(voice.clone().keep_alive());
    let limits = StartLimits::new(
        commands.clone(),
        config.identify_concurrency,
        config.rate_limits,
    );
    spawn_local(limits.clone().keep_seats());
    let finder = Finder::new(travel::Parts {
        boot: config.boot,
        commands: commands.clone(),
        links,
        holders: holders.clone(),
        claims: claims.clone(),
        log: log.clone(),
        losses: losses.clone(),
        limits: limits.clone(),
        voice: voice.clone(),
        cores: cores.clone(),
    });
    spawn_local(log.clone().run());
    spawn_local(losses.clone().tick());
    spawn_local(losses.watch());
    spawn_local(holders.clone().renew(log.clone()));
    spawn_local(holders.clone().watch_taken());
    spawn_local(finder.clone().sweep());
    let identifier = Rc::new(Identifier::new(
        db,
        commands,
        limits.clone(),
        cores.clone(),
        metrics,
    ));
    spawn_local(identifier.clone().sweep());
    let mut stopped = pin!(shutdown.cancelled());
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            () = &mut stopped => None,
        };
        let Some(request) = request else { break };
        match request {
            ToNode::Subscribe {
                core,
                subscriptions,
            } => edge.subscribe(core, subscriptions),
            ToNode::Presence {
                core,
                user,
                realms,
                sessions,
            } => edge.presence(core, user, realms, sessions),
            ToNode::Watch(change) => edge.watch(*change),
            ToNode::Ask(ask) => edge.pass_on(*ask),
            ToNode::Left { person, seat } => {
                let limits = limits.clone();
                spawn_local(async move { limits.leave_seat(person, seat).await });
            }
            ToNode::Voice { core, request } => voice.request(core, request),
            ToNode::Unsubscribe { core, realm, users } => edge.unsubscribe(core, realm, &users),
            ToNode::Identify {
                core,
                session,
                request,
            } => identifier.identify(core, session, &request),
            ToNode::Missed {
                core,
                session,
                spans,
            } => {
                let (identifier, cores) = (identifier.clone(), cores.clone());
                spawn_local(async move {
                    let messages = identifier.messages_between(&spans).await;
                    let _ = answer(&cores, core, ToCore::Missed { session, messages }).await;
                });
            }
            ToNode::CheckToken {
                core,
                session,
                token,
            } => {
                let (identifier, cores) = (identifier.clone(), cores.clone());
                spawn_local(async move {
                    let why = identifier.why_not(&token).await;
                    let connection = session;
                    let _ = answer(&cores, core, ToCore::NotResumed { connection, why }).await;
                });
            }
            ToNode::Stay {
                core,
                connection,
                resume,
            } => {
                let (finder, identifier) = (finder.clone(), identifier.clone());
                let cores = cores.clone();
                spawn_local(async move {
                    let message = match finder.own(core, &resume).await {
                        Own::Stays => ToCore::Stays { connection, resume },
                        Own::Unsure => ToCore::NotResumed {
                            connection,
                            why: NotResumed::Gone,
                        },
                        Own::Copy => {
                            let find =
                                find(&finder, &identifier, &cores, core, connection, &resume);
                            return find.await;
                        }
                    };
                    let _ = answer(&cores, core, message).await;
                });
            }
            ToNode::Find {
                core,
                connection,
                resume,
            } => {
                let (finder, identifier) = (finder.clone(), identifier.clone());
                let cores = cores.clone();
                spawn_local(async move {
                    find(&finder, &identifier, &cores, core, connection, &resume).await;
                });
            }
            ToNode::Claimed { number, result } => claims.answer(number, Some(result)),
            ToNode::Moved {
                session_id,
                seat,
                overtaken,
            } => {
                let Some(session) = SessionId::parse(&session_id) else {
                    continue;
                };
                // What came back with it is not the copy's to end.
                if overtaken && holders.generation(session) > 0 {
                    continue;
                }
                voice.let_go(&session_id);
                if let Some((person, seat)) = seat {
                    limits.let_go(person, seat);
                }
                holders.gone(session);
            }
            ToNode::Ended(session) => holders.gone(session),
            ToNode::Delivered {
                core,
                number,
                chunk,
                loss,
            } => log.add(core, number, chunk, loss),
        }
    }
    config.status.stop();
    log.ship().await;
    heartbeat.farewell().await;
    tracing::info!(node.id = %config.node_id, "node stopped");
    Ok(())
}

/// Brings a session to the core whose client resumes it, or says why not.
async fn find(
    finder: &Finder,
    identifier: &Identifier,
    cores: &[CoreHandle],
    core: CoreId,
    connection: SessionKey,
    resume: &Resume,
) {
    let why = match finder.find(core, resume).await {
        Ok(session) => return finder.bring(core, connection, session).await,
        Err(Some(why)) => why,
        Err(None) => identifier.why_not(&resume.token).await,
    };
    let _ = answer(cores, core, ToCore::NotResumed { connection, why }).await;
}

/// Answers a core, waiting for room; after [`ANSWER_TIMEOUT`] the client has to try again and the
/// answer comes back.
async fn answer(cores: &[CoreHandle], core: CoreId, message: ToCore) -> Result<(), ToCore> {
    let Some(core) = cores.get(usize::from(core)) else {
        return Err(message);
    };
    let mut message = message;
    let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
    while let Err(back) = core.send(message) {
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!("a core takes no answers");
            return Err(back);
        }
        message = back;
        sleep(ANSWER_PAUSE).await;
    }
    Ok(())
}
