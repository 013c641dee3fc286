//! Requests that this server sends to addresses users chose (interactions endpoints,
//! pictures of webhooks).
//!
//! One client with a guard: only public addresses are reached, unless a setting allows others;
//! nothing is redirected, waited for long or read without end. Never follows what an answer says.

use std::{
    error::Error,
    io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use rustc_hash::FxHashMap;
use tokio::sync::Semaphore;

use crate::{config::OutgoingHttp, form::Fault};

/// Connecting takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers to what is posted are read up to here; a longer one counts as none. They may bring
/// files; with [`REQUESTS_MAX`] of them this is what memory is spent at worst.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Requests that post something, under way; more fail at once.
const REQUESTS_MAX: usize = 256;
/// The same of those that only read: pictures take no places from interactions.
const READS_MAX: usize = 64;
/// Requests of either kind under way to one host: one that does not answer takes no places from others.
const HOST_REQUESTS_MAX: usize = 32;
/// Names looked up at once; more fail at once.
const LOOKUPS_MAX: usize = 64;
/// Longest URL.
const URL_BYTES_MAX: usize = 2048;

/// Sends requests to where users said.
#[derive(Debug)]
pub(crate) struct Outgoing {
    client: Client,
    reach: OutgoingHttp,
    posting: Semaphore,
    reading: Semaphore,
    /// How many are under way to each host.
    hosts: Mutex<FxHashMap<String, usize>>,
}

/// One of the requests under way to a host.
struct PlaceAt<'a> {
    outgoing: &'a Outgoing,
    host: String,
}

impl Drop for PlaceAt<'_> {
    fn drop(&mut self) {
        let hosts = self.outgoing.hosts.lock();
        let mut hosts = hosts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = hosts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

/// Why nothing usable came back. Says nothing of what is inside the server's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("the address is not allowed")]
    Forbidden,
    #[error("no answer")]
    NoAnswer,
    #[error("the answer is too long")]
    TooLong,
    #[error("too many requests are under way")]
    Busy,
}

impl Outgoing {
    /// Errors: only if TLS cannot be set up.
    pub(crate) fn new(reach: OutgoingHttp) -> Result<Self, reqwest::Error> {
        Self::behind(Guard::new(reach))
    }

    fn behind(guard: Guard) -> Result<Self, reqwest::Error> {
        let reach = guard.reach;
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false)
            .https_only(reach == OutgoingHttp::Public)
            .user_agent(concat!("Guildhall/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard)
            .build()?;
        Ok(Self {
            client,
            reach,
            posting: Semaphore::new(REQUESTS_MAX),
            reading: Semaphore::new(READS_MAX),
            hosts: Mutex::default(),
        })
    }

    /// An URL this server may send to. An address written as a number is judged here, a
    /// name when it is looked up.
    pub(crate) fn parse(&self, text: &str) -> Result<Url, Fault> {
        let malformed = || Fault::Other("URL_TYPE_INVALID_URL", "Not a well formed URL.".into());
        if text.len() > URL_BYTES_MAX {
            return Err(Fault::BadLength {
                min: 0,
                max: URL_BYTES_MAX,
            });
        }
        let url = Url::parse(text).map_err(|_| malformed())?;
        let is_supported = match self.reach {
            OutgoingHttp::Public => url.scheme() == "https",
            OutgoingHttp::Any => matches!(url.scheme(), "http" | "https"),
        };
        if !is_supported {
            let message = format!(
                "Scheme \"{}\" is not supported. Scheme must be one of ('https',).",
                url.scheme()
            );
            return Err(Fault::Other("URL_TYPE_INVALID_SCHEME", message.into()));
        }
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        if has_credentials || !self.may_reach(&url) {
            return Err(malformed());
        }
        Ok(url)
    }

    fn may_reach(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) => self.reach.allows(address),
            Err(_) => true,
        }
    }

    /// Posts `body` and reads the whole answer within `timeout`.
    pub(crate) async fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, Unreachable> {
        let request = self.client.post(url.clone()).headers(headers).body(body);
        let _place = self.posting.try_acquire().map_err(|_| Unreachable::Busy)?;
        self.send(&url, request, timeout, ANSWER_BYTES_MAX).await
    }

    /// Reads what is at an address, `bytes_max` at most, within `timeout`.
    pub(crate) async fn get(
        &self,
        url: Url,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Answer, Unreachable> {
        let request = self.client.get(url.clone());
        let _place = self.reading.try_acquire().map_err(|_| Unreachable::Busy)?;
        self.send(&url, request, timeout, bytes_max).await
    }

    /// Errors: [`Unreachable::Busy`] while too many are under way to its host.
    fn place_at(&self, url: &Url) -> Result<PlaceAt<'_>, Unreachable> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_end_matches('.').to_owned();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = hosts.entry(host.clone()).or_default();
        if *count >= HOST_REQUESTS_MAX {
            return Err(Unreachable::Busy);
        }
        *count += 1;
        let outgoing = self;
        Ok(PlaceAt { outgoing, host })
    }

    async fn send(
        &self,
        url: &Url,
        request: RequestBuilder,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Answer, Unreachable> {
        if !self.may_reach(url) {
            return Err(Unreachable::Forbidden);
        }
        let _place = self.place_at(url)?;
        let exchange = async {
            let mut response = request.send().await.map_err(|error| unsent(&error))?;
            let status = response.status();
            let content_type = response.headers().get(CONTENT_TYPE).cloned();
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(|_| Unreachable::NoAnswer)? {
                if body.len() + chunk.len() > bytes_max {
                    return Err(Unreachable::TooLong);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer {
                status,
                content_type,
                body: body.freeze(),
            })
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(Unreachable::NoAnswer))
    }
}

/// Why a request got no answer. Of a name's lookup it is told only that there was no place for it:
/// what was found stays here.
fn unsent(error: &reqwest::Error) -> Unreachable {
    let mut causes = iter::successors(error.source(), |&cause| cause.source());
    let busy = Some(&Unreachable::Busy);
    match causes.any(|cause| cause.downcast_ref::<Unreachable>() == busy) {
        true => Unreachable::Busy,
        false => Unreachable::NoAnswer,
    }
}

/// Looks names up and hands out only addresses that may be reached: the connection goes to
/// the very address that was judged.
struct Guard {
    reach: OutgoingHttp,
    lookups: Arc<Semaphore>,
}

impl Guard {
    fn new(reach: OutgoingHttp) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Self { reach, lookups }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, lookups) = (self.reach, Arc::clone(&self.lookups));
        Box::pin(async move {
            let place = lookups.try_acquire_owned().map_err(|_| Unreachable::Busy)?;
            // The place is the lookup's own: the system goes on with one that nobody waits for, on
            // a thread that passwords, images and files need too.
            let look_up = move || {
                let _place = place;
                let found = (name.as_str(), 0).to_socket_addrs()?;
                Ok::<Vec<SocketAddr>, io::Error>(found.collect())
            };
            let mut allowed = tokio::task::spawn_blocking(look_up).await??;
            allowed.retain(|address| reach.allows(address.ip()));
            if allowed.is_empty() {
                return Err(Unreachable::Forbidden.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl OutgoingHttp {
    fn allows(self, address: IpAddr) -> bool {
        self == Self::Any || is_public(address)
    }
}

/// Whether an address is anybody's: not this machine, a private network or reserved.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(embedded(high, low)),
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Teredo, benchmarking, ORCHID and their neighbours; documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        // Documentation.
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Only global unicast is handed out to anybody.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "2002:0101:0101::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn urls_lead_outside_and_to_https_only() {
        let outgoing = Outgoing::new(OutgoingHttp::Public).unwrap();
        assert!(outgoing.parse("https://example.org/interactions").is_ok());
        for bad in [
            "http://example.org",
            "ftp://example.org",
            "https://127.0.0.1/",
            "https://[::1]:4/",
            "https://2130706433/",
            "https://a:b@example.org/",
            "nowhere",
            "https://0x7f.1/",
        ] {
            assert!(outgoing.parse(bad).is_err(), "{bad}");
        }
        let any = Outgoing::new(OutgoingHttp::Any).unwrap();
        assert!(any.parse("http://127.0.0.1:8080/").is_ok());
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_reached() {
        let outgoing = Outgoing::new(OutgoingHttp::Public).unwrap();
        let url = outgoing.parse("https://localhost:1/").unwrap();
        let sent = outgoing
            .post(url, HeaderMap::new(), Bytes::new(), Duration::from_secs(5))
            .await;
        assert_eq!(sent.unwrap_err(), Unreachable::NoAnswer);
    }

    #[tokio::test]
    async fn a_lookup_needs_a_place() {
        let guard = Guard::new(OutgoingHttp::Any);
        let name = || "localhost".parse::<Name>().unwrap();
        let places = guard.lookups.try_acquire_many(LOOKUPS_MAX as u32).unwrap();
        let refused = guard.resolve(name()).await.err().unwrap();
        assert_eq!(
            refused.downcast_ref::<Unreachable>(),
            Some(&Unreachable::Busy)
        );
        drop(places);
        assert!(guard.resolve(name()).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_without_a_place_for_its_lookup_is_told_so() {
        let guard = Guard::new(OutgoingHttp::Any);
        let lookups = Arc::clone(&guard.lookups);
        let outgoing = Outgoing::behind(guard).unwrap();
        let url = outgoing.parse("http://localhost:1/").unwrap();
        let ask = || outgoing.get(url.clone(), Duration::from_secs(10), 1);
        let places = lookups.try_acquire_many(LOOKUPS_MAX as u32).unwrap();
        assert_eq!(ask().await.unwrap_err(), Unreachable::Busy);
        drop(places);
        assert_eq!(ask().await.unwrap_err(), Unreachable::NoAnswer);
    }

    #[test]
    fn a_lookup_that_nobody_waits_for_has_its_place_until_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let guard = Guard::new(OutgoingHttp::Any);
            let (end, until) = std::sync::mpsc::channel::<()>();
            // The only thread for such work has some.
            let other = tokio::task::spawn_blocking(move || until.recv());
            let asked = guard.resolve("localhost".parse().unwrap());
            assert!(asked.now_or_never().is_none());
            assert_eq!(guard.lookups.available_permits(), LOOKUPS_MAX - 1);
            end.send(()).unwrap();
            assert!(other.await.unwrap().is_ok());
            let all = guard.lookups.acquire_many(LOOKUPS_MAX as u32);
            assert!(all.await.is_ok());
        });
    }

    #[test]
    fn a_host_takes_its_share_of_places_and_gives_it_back() {
        let outgoing = Outgoing::new(OutgoingHttp::Any).unwrap();
        let url = |text| outgoing.parse(text).unwrap();
        let slow = url("http://slow.example/a");
        let places: Vec<_> = (0..HOST_REQUESTS_MAX)
            .map(|_| outgoing.place_at(&slow).unwrap())
            .collect();
        let same = url("https://SLOW.example.:8443/b");
        assert_eq!(outgoing.place_at(&same).err(), Some(Unreachable::Busy));
        assert!(outgoing.place_at(&url("http://other.example/")).is_ok());
        drop(places);
        assert!(outgoing.place_at(&same).is_ok());
        assert!(outgoing.hosts.lock().unwrap().is_empty());
    }
}
