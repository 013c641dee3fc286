//! The way to Redis that all programs share: to a single server, or to Redis Cluster.
//!
//! A single server is spoken to by the `redis` crate's own connection, with nothing in between.
//! Of Redis Cluster this keeps one connection per primary and says which primary has a key; a
//! primary that is away costs its own keys and no others. Nothing here waits for long or tries
//! for long: whoever asks lives without Redis (design: failure table).

mod address;
mod cluster;
mod connection;
mod layout;
mod line;
mod node;
#[cfg(feature = "simulated")]
pub mod simulated;
mod slot;
mod tls;

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::watch;

use self::{address::Address, cluster::Cluster};
pub use self::{
    connection::Connection,
    layout::{Layout, Primary},
    line::Line,
};

/// How long Redis is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To connect, and to answer one command.
    pub answer: Duration,
    /// Attempts to connect again before a command fails. A primary of a cluster is tried
    /// again and again beside the commands, which fail meanwhile.
    pub retries: usize,
    /// Longest pause between them; `None`: the crate's.
    pub pause_max: Option<Duration>,
}

/// What `REDIS_URL` names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Single {
        client: Arc<redis::Client>,
        patience: Patience,
        /// Never changes.
        layout: Arc<watch::Sender<Arc<Layout>>>,
    },
    Cluster(Cluster),
    #[cfg(feature = "simulated")]
    Simulated {
        way: simulated::Way,
        layout: Arc<watch::Sender<Arc<Layout>>>,
    },
}

impl Client {
    /// A way to the Redis at `url`, RESP3 without Nagle's delay. Nothing is connected yet; a
    /// cluster's primaries are from now on, as long as a clone lives. To be called in a runtime.
    ///
    /// One address is a server; several, separated by commas, or one with `?cluster=true`, are
    /// where to ask for the primaries of a Redis Cluster. `rediss://` is with TLS, and
    /// `?sslrootcert=` names the file (PEM) of the certificates that count in place of the public
    /// ones. Errors: an address that is none; a file that is not read.
    pub fn open(url: &str, patience: Patience) -> RedisResult<Self> {
        let address = address::parse(url)?;
        if address.is_tls() {
            tls::choose_provider();
        }
        Ok(Self(match address {
            Address::Server(info) => {
                let client = redis::Client::open(*info)?;
                let layout = Layout::single(client.clone());
                let layout = Arc::new(watch::Sender::new(Arc::new(layout)));
                Kind::Single {
                    client: Arc::new(client),
                    patience,
                    layout,
                }
            }
            Address::Cluster(seeds) => Kind::Cluster(Cluster::start(seeds, patience)),
        }))
    }

    /// The way to a server of a simulation.
    #[cfg(feature = "simulated")]
    pub fn simulated(way: simulated::Way) -> RedisResult<Self> {
        let nowhere = redis::Client::open("redis://simulated")?;
        let layout = Layout::simulated(nowhere, way.clone());
        let layout = Arc::new(watch::Sender::new(Arc::new(layout)));
        Ok(Self(Kind::Simulated { way, layout }))
    }

    /// A connection for commands, made on first use and again after every failure; commands
    /// fail fast meanwhile. Those of one client to a cluster are one.
    pub fn connection(&self) -> RedisResult<Connection> {
        Ok(match &self.0 {
            Kind::Single {
                client, patience, ..
            } => {
                let mut config = ConnectionManagerConfig::new()
                    .set_number_of_retries(patience.retries)
                    .set_connection_timeout(Some(patience.answer))
                    .set_response_timeout(Some(patience.answer));
                if let Some(pause) = patience.pause_max {
                    config = config.set_max_delay(pause);
                }
                let client = redis::Client::clone(client);
                let manager = ConnectionManager::new_lazy_with_config(client, config)?;
                Connection::Single(manager)
            }
            Kind::Cluster(cluster) => Connection::Cluster(cluster.clone()),
            #[cfg(feature = "simulated")]
            Kind::Simulated { way, .. } => Connection::Simulated(way.clone()),
        })
    }

    /// Which server has which keys; of a cluster it changes, and is empty at first.
    pub fn layout(&self) -> watch::Receiver<Arc<Layout>> {
        match &self.0 {
            Kind::Single { layout, .. } => layout.subscribe(),
            Kind::Cluster(cluster) => cluster.layout_changes(),
            #[cfg(feature = "simulated")]
            Kind::Simulated { layout, .. } => layout.subscribe(),
        }
    }

    /// The server that has a key or carries a channel. Errors: it is not known.
    pub async fn home(&self, key: &str) -> RedisResult<redis::Client> {
        match &self.0 {
            Kind::Single { client, .. } => Ok(redis::Client::clone(client)),
            Kind::Cluster(cluster) => cluster.home(key).await,
            #[cfg(feature = "simulated")]
            Kind::Simulated { layout, .. } => {
                let nowhere = || (redis::ErrorKind::Client, "there is no server").into();
                let home = layout.borrow().home(key.as_bytes()).cloned();
                home.map(|home| home.client.clone()).ok_or_else(nowhere)
            }
        }
    }

    /// Somebody saw that the layout is another one now: asks for it.
    pub fn doubt_layout(&self) {
        if let Kind::Cluster(cluster) = &self.0 {
            cluster.doubt_layout();
        }
    }
}

impl Patience {
    fn config(self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.answer))
            .set_response_timeout(Some(self.answer))
    }
}
