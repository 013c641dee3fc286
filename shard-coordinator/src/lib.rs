//! Guildhall's shard coordinator: says which gateway owns which shard.
//!
//! One of several coordinators leads, by a term in Postgres. Each second it looks at the live
//! gateways and what operators set, plans, and publishes the map if it changed. It carries no
//! event and serves no client: while none leads, everything runs and only placement stands
//! still (I11).

pub mod access;
mod apply;
mod audit;
mod cli;
mod config;
mod dashboard;
mod error;
mod http;
mod journal;
mod leader;
mod loads;
pub mod motion;
pub mod node;
mod observe;
pub mod placement;
mod plans;
mod reconcile;
mod refusal;
mod ring;
mod settings;
#[doc(hidden)]
pub mod simulated;
mod telemetry;
mod view;

pub use cli::{Cli, Command, print_map, print_nodes};
pub use config::{Config, LogFormat};
pub use error::{Error, Result};
pub use telemetry::{collectors, log_to_stderr};

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs a coordinator until `stop`, then gives up the lead.
///
/// Fails at the start only: on a bad setting, a listener for everybody that is not wanted, an
/// occupied address, an unreachable Postgres or one without the schema, or a cluster created with
/// another number of shards.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<()> {
    config.check_listen()?;
    let key = config.admin_key()?;
    if key.is_none() {
        tracing::warn!("there is no operators' API: CLUSTER_KEY is not set");
    }
    for setting in config.idle_keys() {
        tracing::warn!(setting, "is not used: CLUSTER_KEY is not set");
    }
    let db = config.connect_postgres()?;
    // Whatever operators wait for, the lead does not.
    let operators_db = config.connect_postgres()?;
    let redis = config.connect_redis()?;
    observe::check_shards(&db, config.shards).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Listen {
            addr: config.listen,
            source,
        })?;

    let metrics = Arc::new(telemetry::Metrics::new());
    let (leader, lead) = leader::Leader::new(db.clone(), &config.id, Arc::clone(&metrics));
    let server = http::Server::new(
        &config,
        key,
        operators_db,
        redis.clone(),
        Arc::clone(&metrics),
    );
    let mut reconciler = reconcile::Reconciler::new(&config, db, redis, lead, metrics);
    tracing::info!(coordinator.id = config.id, listen = %config.listen, "coordinator started");
    tokio::join!(
        leader.run(&stop),
        reconciler.run(&stop),
        server.run(listener, &stop),
    );
    leader.release().await;
    Ok(())
}
