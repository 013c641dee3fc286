//! The node's connection for Redis commands; events have one of their own (`owner/feed.rs`).

use std::time::Duration;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

/// Time to connect, and to answer one command.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// A client that speaks RESP3 without Nagle's delay.
pub(crate) fn client(url: &str) -> RedisResult<Client> {
    let info: ConnectionInfo = url.into_connection_info()?;
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let info = match info.addr() {
        ConnectionAddr::Unix(_) => info,
        ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => {
            info.set_tcp_settings(TcpSettings::default().set_nodelay(true))
        }
        _ => info,
    };
    Client::open(info.set_redis_settings(settings))
}

/// Connects on first use and again after every failure; commands fail fast meanwhile.
pub(crate) fn commands(client: &Client) -> RedisResult<ConnectionManager> {
    ConnectionManager::new_lazy_with_config(
        client.clone(),
        ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT)),
    )
}
