//! What `REDIS_URL` says.

use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisResult,
    io::tcp::TcpSettings,
};

/// Where Redis is.
#[derive(Debug)]
pub(crate) enum Address {
    Server(ConnectionInfo),
    /// Members of a cluster, at least one, who know the others. User, password and all but
    /// the address are the first one's, for all.
    Cluster(Vec<ConnectionInfo>),
}

/// Errors: an address that is none; a database or a socket file for a cluster.
pub(crate) fn parse(url: &str) -> RedisResult<Address> {
    let mut parts = url.split(',').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let server = info(first)?;
    let scheme = first
        .split_once("://")
        .map_or("redis", |(scheme, _)| scheme);
    let mut seeds = vec![server.clone()];
    for part in parts.filter(|part| !part.is_empty()) {
        let other = match part.contains("://") {
            true => info(part)?,
            false => info(&format!("{scheme}://{part}"))?,
        };
        seeds.push(server.clone().set_addr(other.addr().clone()));
    }
    if seeds.len() == 1 && !says_cluster(first) {
        return Ok(Address::Server(server));
    }
    if server.redis_settings().db() != 0 {
        return Err((
            ErrorKind::InvalidClientConfig,
            "Redis Cluster has no database but 0",
        )
            .into());
    }
    if seeds.iter().any(|seed| host_and_port(seed).is_none()) {
        return Err((
            ErrorKind::InvalidClientConfig,
            "Redis Cluster is not reached through a socket file",
        )
            .into());
    }
    Ok(Address::Cluster(seeds))
}

fn says_cluster(url: &str) -> bool {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let (query, _) = query.split_once('#').unwrap_or((query, ""));
    query.split('&').any(|setting| setting == "cluster=true")
}

/// RESP3 without Nagle's delay.
fn info(url: &str) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone();
    let settings = settings.set_protocol(ProtocolVersion::RESP3);
    let info = match info.addr() {
        ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } => {
            info.set_tcp_settings(TcpSettings::default().set_nodelay(true))
        }
        _ => info,
    };
    Ok(info.set_redis_settings(settings))
}

/// `None`: a socket file.
pub(crate) fn host_and_port(info: &ConnectionInfo) -> Option<(&str, u16)> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host, *port))
        }
        _ => None,
    }
}

/// The same way to another address.
pub(crate) fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let mut addr = info.addr().clone();
    match &mut addr {
        ConnectionAddr::Tcp(own, own_port)
        | ConnectionAddr::TcpTls {
            host: own,
            port: own_port,
            ..
        } => {
            host.clone_into(own);
            *own_port = port;
        }
        _ => {}
    }
    info.clone().set_addr(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(url: &str) -> Vec<String> {
        match parse(url).unwrap() {
            Address::Server(_) => Vec::new(),
            Address::Cluster(seeds) => seeds
                .iter()
                .map(|seed| {
                    let (host, port) = host_and_port(seed).unwrap();
                    let password = seed.redis_settings().password().unwrap_or("-");
                    format!("{host} {port} {password}")
                })
                .collect(),
        }
    }

    #[test]
    fn one_address_is_a_server() {
        for url in [
            "redis://h",
            "redis://:pw@h:1/3",
            "unix:///run/redis.sock",
            "redis://h:1,",
        ] {
            assert!(matches!(parse(url), Ok(Address::Server(_))), "{url}");
        }
    }

    #[test]
    fn several_addresses_are_a_cluster() {
        let all = ["a 1 pw", "b 2 pw", "c 6379 pw"];
        assert_eq!(seeds("redis://:pw@a:1,b:2,c"), all);
        assert_eq!(seeds("redis://:pw@a:1, redis://b:2, redis://:no@c"), all);
        assert_eq!(seeds("redis://:pw@a:1?cluster=true"), ["a 1 pw"]);
        assert_eq!(seeds("redis://[::1]:1,[::2]:2"), ["::1 1 -", "::2 2 -"]);
    }

    #[test]
    fn what_no_cluster_can_be_is_refused() {
        for url in ["redis://a/1,b", "unix:///a,b", "redis://a,", "redis://a,:b"] {
            let refused = !matches!(parse(url), Ok(Address::Cluster(_)));
            assert!(refused, "{url}");
        }
    }
}
