//! The parts of a node that deliver events and hand sessions on, put together. They are the same
//! over Postgres, Redis and TCP, and in a simulation.

use std::{rc::Rc, sync::Arc};

use guildhall_redis::{Client, Connection};
use tokio::task::spawn_local;

use super::{
    config::Config,
    edge::{Edge, Server},
    map::MapWatch,
    metrics::Metrics,
    owner::{Owner, check, feed::Feed},
    relay::{
        link::{LinkEvent, Links},
        server,
    },
    stored::Stored,
    travel::{
        claims::Claims,
        holders::Holders,
        log::DeliveryLog,
        losses::{self, Losses},
    },
};
use crate::{bus::CoreHandle, clock, status::Status};

/// How a node reaches Postgres and Redis.
pub(crate) struct Ways {
    pub(crate) stored: Stored,
    pub(crate) client: Client,
    pub(crate) commands: Connection,
    /// For delivery logs.
    pub(crate) logs: Connection,
}

/// See the module. Clones share all of it.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) commands: Connection,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) log: Rc<DeliveryLog>,
    pub(crate) feed: Rc<Feed>,
    pub(crate) owner: Rc<Owner>,
    pub(crate) links: Rc<Links>,
    pub(crate) edge: Rc<Edge>,
    pub(crate) holders: Rc<Holders>,
    pub(crate) losses: Rc<Losses>,
    pub(crate) claims: Rc<Claims>,
    metrics: Metrics,
}

impl Parts {
    pub(crate) fn new(config: &Config, ways: Ways, cores: &[CoreHandle], metrics: Metrics) -> Self {
        let Ways {
            stored,
            client,
            commands,
            logs,
        } = ways;
        let map = Rc::new(MapWatch::new(config.shards));
        let log = DeliveryLog::new(logs, config.boot, config.resume, cores.into());
        let feed = Feed::new(client, commands.clone(), metrics.clone());
        let owner = Owner::new(stored, feed.clone(), metrics.clone(), config.shards);
        let links = Links::new(
            config.node_id.clone(),
            config.cluster_key.clone(),
            map.clone(),
            metrics.clone(),
        );
        let edge = Edge::new(
            config.node_id.clone(),
            config.shards,
            cores.to_vec(),
            map.clone(),
            owner.clone(),
            links.clone(),
            metrics.clone(),
        );
        let holders = Holders::new(config.boot, commands.clone(), cores.into());
        let losses = Losses::new(losses::Parts {
            boot: config.boot,
            commands: commands.clone(),
            map: map.clone(),
            log: log.clone(),
            cores: cores.into(),
        });
        let claims = Claims::new(config.boot, holders.clone(), losses.clone(), cores.to_vec());
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
        Self {
            commands,
            map,
            log,
            feed,
            owner,
            links,
            edge,
            holders,
            losses,
            claims,
            metrics,
        }
    }

    /// Its side of the links that other nodes make.
    pub(crate) fn relay(&self, config: &Config) -> Rc<server::Server> {
        Rc::new(server::Server {
            node: config.node_id.clone(),
            key: config.cluster_key.clone(),
            owner: self.owner.clone(),
            claims: self.claims.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Starts the tasks that all of it needs. `status` learns whether the database answers.
    pub(crate) fn start(&self, status: Arc<Status>) {
        let Self {
            log,
            feed,
            owner,
            edge,
            holders,
            losses,
            ..
        } = self.clone();
        spawn_local(feed.run(owner.clone()));
        spawn_local(check::run(owner.clone(), status));
        spawn_local(owner.clone().announce());
        spawn_local(owner.clone().answer_watches());
        spawn_local(owner.clone().keep_online());
        spawn_local(owner.sweep());
        spawn_local(edge.tend());
        spawn_local(log.clone().run());
        spawn_local(losses.clone().tick());
        spawn_local(losses.watch());
        spawn_local(holders.clone().renew(log));
        spawn_local(holders.watch_taken());
    }

    /// After every look at the map, whether or not it is another one.
    pub(crate) fn map_looked_at(&self) {
        self.links.forget_gone();
        self.links
            .close_unused(clock::now(), || self.edge.servers());
        self.edge.rebalance();
    }
}
