//! What a request says before anybody looks at who calls: its path, and where it comes from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap},
};

/// A path without `/api/v10`, `/api/v9` or `/api`.
pub(crate) fn without_version(path: &str) -> &str {
    ["/api/v10", "/api/v9", "/api"]
        .iter()
        .find_map(|prefix| {
            path.strip_prefix(prefix)
                .filter(|rest| rest.starts_with('/'))
        })
        .unwrap_or(path)
}

/// The address a request comes from, `proxies` places from the right of `X-Forwarded-For`.
pub(crate) fn client_address(extensions: &Extensions, headers: &HeaderMap, proxies: u8) -> IpAddr {
    let peer = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let Some(skip) = proxies.checked_sub(1) else {
        return peer;
    };
    let forwarded = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let places: Vec<&str> = forwarded
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    places
        .iter()
        .rev()
        .nth(skip.into())
        .and_then(|place| place.parse().ok())
        .unwrap_or(peer)
}

/// Whom an address stands for in limits: of IPv6 everybody has a whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_version_only() {
        assert_eq!(without_version("/api/v10/users/@me"), "/users/@me");
        assert_eq!(without_version("/api/users/@me"), "/users/@me");
        assert_eq!(without_version("/apis"), "/apis");
        assert_eq!(without_version("/health"), "/health");
    }

    #[test]
    fn the_client_is_counted_from_the_right() {
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 5))));
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-forwarded-for",
            "6.6.6.6, 1.2.3.4, 10.0.0.9".parse().unwrap(),
        );
        let address = |proxies| client_address(&extensions, &headers, proxies).to_string();
        assert_eq!(address(0), "10.0.0.1");
        assert_eq!(address(1), "10.0.0.9");
        assert_eq!(address(2), "1.2.3.4");
        assert_eq!(address(9), "10.0.0.1");
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let counted = |address: &str| network(address.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("2001:db8:1:2::"), counted("2001:db8:1:2:ffff::1"));
        assert_ne!(counted("2001:db8:1:2::1"), counted("2001:db8:1:3::1"));
        // A socket for both kinds shows IPv4 like this.
        assert_eq!(counted("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(counted("192.0.2.1"), "192.0.2.1");
    }
}
