//! A connection for commands, to whatever `REDIS_URL` names.

use std::fmt;

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager},
};

use crate::cluster::Cluster;

/// Cheap to clone; clones share their connections.
///
/// To a cluster, a pipeline is sent in parts, to each primary at once what is its, in order; the
/// parts of primaries that are away are errors among the answers. A pipeline in a transaction
/// has its keys in one slot, and so has every command.
#[derive(Clone)]
pub enum Connection {
    Single(ConnectionManager),
    Cluster(Cluster),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::Way),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(manager) => manager.req_packed_command(command),
            Self::Cluster(cluster) => Box::pin(cluster.command(command)),
            #[cfg(feature = "simulated")]
            Self::Simulated(way) => way.command(None, command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(manager) => manager.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => Box::pin(cluster.pipeline(pipeline, offset, count)),
            #[cfg(feature = "simulated")]
            Self::Simulated(way) => way.pipeline(None, pipeline),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(manager) => manager.get_db(),
            Self::Cluster(_) => 0,
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => 0,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single",
            Self::Cluster(_) => "Cluster",
            #[cfg(feature = "simulated")]
            Self::Simulated(_) => "Simulated",
        })
    }
}
