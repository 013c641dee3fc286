//! What is measured.

use clap::Args;
use guildhall_shared::shard;

/// A cluster and one gateway of it.
#[derive(Args)]
pub(crate) struct Target {
    /// API that registers accounts; its rate limits must be off.
    #[arg(long, env = "API_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) api_url: String,
    /// The gateway to connect to.
    #[arg(long, env = "GATEWAY_URL", default_value = "ws://127.0.0.1:8081")]
    pub(crate) gateway_url: String,
    /// Its process, on this machine.
    #[arg(long, env = "GATEWAY_PID")]
    pub(crate) gateway_pid: u32,
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, default_value = "")]
    pub(crate) database_url: String,
    /// Shards of the cluster.
    #[arg(long, env = "CLUSTER_SHARDS", default_value_t = shard::SHARDS_DEFAULT)]
    pub(crate) shards: u16,
}
