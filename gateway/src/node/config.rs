//! What a node is started with.

use std::{net::SocketAddr, sync::Arc};

use guildhall_shared::{secret::Secret, voice::VoiceSettings};

use super::relay::auth::ClusterKey;
use crate::{
    config::{RateLimits, ResumeLog},
    status::Status,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_id: String,
    /// New on every start of the process; part of its sessions' ids.
    pub boot: u32,
    pub resume: ResumeLog,
    pub database_url: Secret,
    pub redis_url: Secret,
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
