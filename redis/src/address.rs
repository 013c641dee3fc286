//! What `REDIS_URL` says.

use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError,
    RedisResult, io::tcp::TcpSettings, parse_redis_url,
};

use crate::tls::{self, ROOTS, is_tls};

/// Where Redis is.
#[derive(Debug)]
pub(crate) enum Address {
    Server(Box<ConnectionInfo>),
    /// Members of a cluster, at least one, who know the others. User, password and all but
    /// the address are the first one's, for all.
    Cluster(Vec<ConnectionInfo>),
}

impl Address {
    /// Whether it is reached with TLS; of a cluster all members are, or none.
    pub(crate) fn is_tls(&self) -> bool {
        match self {
            Self::Server(server) => is_tls(server),
            Self::Cluster(seeds) => seeds.iter().any(is_tls),
        }
    }
}

/// Errors: an address that is none; a database or a socket file for a cluster, members with TLS
/// beside others without; certificates that are not to be checked, or cannot be.
pub(crate) fn parse(url: &str) -> RedisResult<Address> {
    let mut parts = url.split(',').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let mut server = info(first)?;
    if let Some(file) = setting(first, ROOTS) {
        server = tls::trusting(server, &file)?;
    }
    let scheme = first
        .split_once("://")
        .map_or("redis", |(scheme, _)| scheme);
    let mut seeds = vec![server.clone()];
    for part in parts.filter(|part| !part.is_empty()) {
        let part = match part.contains("://") {
            true => part.to_owned(),
            false => format!("{scheme}://{part}"),
        };
        let other = info(&part)?;
        if setting(&part, ROOTS).is_some() {
            let late = "sslrootcert= stands behind the first address";
            return Err((ErrorKind::InvalidClientConfig, late).into());
        }
        if is_tls(&other) != is_tls(&server) {
            let mixed = "members of a Redis Cluster are reached with TLS all, or none";
            return Err((ErrorKind::InvalidClientConfig, mixed).into());
        }
        let (host, port) = host_and_port(&other).ok_or_else(socket_file)?;
        seeds.push(at(&server, host, port));
    }
    let says_cluster = setting(first, "cluster").is_some_and(|value| value == "true");
    if seeds.len() == 1 && !says_cluster {
        return Ok(Address::Server(Box::new(server)));
    }
    if server.redis_settings().db() != 0 {
        return Err((
            ErrorKind::InvalidClientConfig,
            "Redis Cluster has no database but 0",
        )
            .into());
    }
    host_and_port(&server).ok_or_else(socket_file)?;
    Ok(Address::Cluster(seeds))
}

fn socket_file() -> RedisError {
    (
        ErrorKind::InvalidClientConfig,
        "Redis Cluster is not reached through a socket file",
    )
        .into()
}

/// What is said behind the `?` of an address.
fn setting(url: &str, name: &str) -> Option<String> {
    let url = parse_redis_url(url)?;
    let mut settings = url.query_pairs();
    let (_, value) = settings.find(|(key, _)| key == name)?;
    Some(value.into_owned())
}

/// RESP3 without Nagle's delay.
fn info(url: &str) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    if let ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
        let insecure = "#insecure is not taken: certificates are checked";
        return Err((ErrorKind::InvalidClientConfig, insecure).into());
    }
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
            "rediss://user:pw@h:1/3",
            "redis://h?cluster=false",
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
        for url in [
            "redis://a/1,b",
            "unix:///a,b",
            "unix:///a?cluster=true",
            "redis://a,unix:///b",
            "redis://a,",
            "redis://a,:b",
        ] {
            let refused = !matches!(parse(url), Ok(Address::Cluster(_)));
            assert!(refused, "{url}");
        }
    }

    #[test]
    fn tls_is_the_same_for_all_members() {
        assert!(!parse("redis://h").unwrap().is_tls());
        assert!(parse("rediss://h").unwrap().is_tls());
        for url in ["rediss://:pw@a:1,b:2", "rediss://:pw@a:1,rediss://b:2"] {
            let Address::Cluster(members) = parse(url).unwrap() else {
                panic!("{url} is no cluster");
            };
            assert!(members.iter().all(is_tls), "{url}");
            assert!(is_tls(&at(&members[1], "c", 3)), "{url}");
            assert_eq!(seeds(url), ["a 1 pw", "b 2 pw"]);
        }
        for url in ["rediss://a,redis://b", "redis://a,rediss://b"] {
            parse(url).unwrap_err();
        }
    }

    #[test]
    fn certificates_are_checked_in_any_case() {
        for url in ["rediss://a#insecure", "rediss://a,rediss://b#insecure"] {
            parse(url).unwrap_err();
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate\n").unwrap();
        let none = folder.path().join("none.pem");
        for file in [empty, none] {
            let url = format!("rediss://a?{ROOTS}={}", file.display());
            let error = parse(&url).unwrap_err().to_string();
            assert!(error.contains(ROOTS), "{error}");
            assert!(error.contains(".pem"), "{error}");
        }
        let error = parse("rediss://a,b:1?sslrootcert=/ca.pem").unwrap_err();
        assert!(error.to_string().contains("first"), "{error}");
        // Without TLS nobody would look at them.
        let error = parse("redis://a?sslrootcert=/ca.pem").unwrap_err();
        assert!(error.to_string().contains("rediss"), "{error}");
    }
}
