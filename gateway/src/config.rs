//! Settings of a gateway, read once at start.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use guildhall_shared::{
    cluster_key::{ClusterKeys, require_long},
    listen::is_public,
    secret::Secret,
    shard,
    voice::{self, VoiceSettings},
};

use crate::server::STOP_OVER;

/// A thread's share of [`Config::replay_bytes_max`] is no less: more than two bots may have waiting.
const OWN_BYTES_MIN: u64 = 32 << 20;

/// Gateway node of a Guildhall cluster: WebSocket sessions, and the realms of its shards.
#[derive(Debug, Parser)]
#[command(name = "guildhall-gateway", version)]
pub struct Config {
    /// Postgres; the node reads snapshots and missed events from it.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = not_empty)]
    pub database_url: Secret,

    /// Redis or Valkey, 7 or later, as redis://host:port, or rediss:// with TLS; several
    /// addresses with commas between are members of a Redis Cluster.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_parser = not_empty)]
    pub redis_url: Secret,

    /// Name of this node, unique in the cluster and kept over restarts.
    #[arg(long, env = "NODE_ID", value_parser = node_id)]
    pub node_id: String,

    /// Addresses clients connect to. Several gateways of one machine may share one of them:
    /// the kernel then spreads connections over them.
    #[arg(
        long,
        env = "GATEWAY_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8081"
    )]
    pub listen: Vec<SocketAddr>,

    /// URL that reaches the gateways, given to clients as `resume_gateway_url`: a RESUME may
    /// come to any of them. `ws://` or `wss://`, without a trailing slash; GATEWAY_PUBLIC_URL
    /// if not given.
    #[arg(long, env = "GATEWAY_URL", value_parser = gateway_url)]
    pub url: Option<String>,

    /// URL that reaches this very node: `ws://` or `wss://`, without a trailing slash.
    #[arg(long, env = "GATEWAY_PUBLIC_URL", default_value = "ws://127.0.0.1:8081", value_parser = gateway_url)]
    pub public_url: String,

    /// Health, readiness and metrics.
    #[arg(long, env = "GATEWAY_ADMIN_LISTEN", default_value = "127.0.0.1:8091")]
    pub admin_listen: SocketAddr,

    /// Lets GATEWAY_ADMIN_LISTEN be an address that everybody can reach. Nobody has to say who they
    /// are there, and it is not encrypted.
    #[arg(long, env = "GATEWAY_ADMIN_PUBLIC", default_value_t = false)]
    pub admin_public: bool,

    /// Where other gateways connect; port 0 takes any free one.
    #[arg(long, env = "RELAY_LISTEN", default_value = "127.0.0.1:0")]
    pub relay_listen: SocketAddr,

    /// `host:port` other gateways reach the relay at; the bound address if not given.
    #[arg(long, env = "RELAY_ADVERTISE")]
    pub relay_advertise: Option<String>,

    /// Lets the relay listen on an address that everybody can reach. Its links are
    /// authenticated but not encrypted.
    #[arg(long, env = "RELAY_PUBLIC", default_value_t = false)]
    pub relay_public: bool,

    /// Secret shared by all processes of the cluster, at least 32 characters.
    #[arg(long, env = "CLUSTER_KEY", hide_env_values = true, value_parser = not_empty)]
    pub cluster_key: Secret,

    /// Key that becomes CLUSTER_KEY: accepted of others already. Only while it is renewed.
    #[arg(long, env = "CLUSTER_KEY_NEXT", hide_env_values = true)]
    pub cluster_key_next: Option<Secret>,

    /// Key that was CLUSTER_KEY: still accepted of others. Only while it is renewed.
    #[arg(long, env = "CLUSTER_KEY_PREVIOUS", hide_env_values = true)]
    pub cluster_key_previous: Option<Secret>,

    /// Whether clients get events before (async) or after (sync) the delivery log tells of them. Only
    /// with sync every session resumes on another node after kill -9; it adds a round trip to
    /// Redis to every event.
    #[arg(long = "resume", env = "GATEWAY_RESUME", value_enum, default_value_t = ResumeLog::Async)]
    pub resume: ResumeLog,

    /// Threads that serve clients; 0 for one per processor.
    #[arg(long, env = "GATEWAY_CORES", default_value_t = 0)]
    pub cores: u16,

    /// Connections this node takes; more wait in the listen queue.
    #[arg(long, env = "GATEWAY_CONNECTIONS_MAX", default_value_t = 200_000)]
    pub connections_max: u64,

    /// Connections of one address (a /64 of IPv6); further ones are closed at once. 0: no
    /// limit, which is needed behind a proxy, whose address they all come from.
    #[arg(
        long,
        env = "GATEWAY_CONNECTIONS_PER_ADDRESS_MAX",
        default_value_t = 1000
    )]
    pub connections_per_address_max: u32,

    /// Milliseconds over which a gateway that stops sends its clients away. Those that have not gone
    /// 6 s later are cut: what stops it has to wait for so long.
    #[arg(
        long,
        env = "GATEWAY_STOP_OVER_MS",
        default_value_t = STOP_OVER.as_millis() as u32,
        value_parser = clap::value_parser!(u32).range(..=3_600_000)
    )]
    pub stop_over_ms: u32,

    /// Bytes of what was made for one session alone (READY, GUILD_CREATE, answers) that this node
    /// keeps for RESUME; each thread has its share, at least 32 MiB. Above it the accounts that hold
    /// most lose their oldest events: a RESUME from before gets op 9.
    #[arg(long, env = "GATEWAY_REPLAY_BYTES_MAX", default_value_t = 512 << 20)]
    pub replay_bytes_max: u64,

    /// Shards of the cluster; the same everywhere and for ever.
    #[arg(long, env = "CLUSTER_SHARDS", default_value_t = shard::SHARDS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(shard::SHARDS_MAX)))]
    pub shards: u16,

    /// Bot shards of one bot that may identify at once (`max_concurrency`).
    #[arg(long, env = "IDENTIFY_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub identify_concurrency: u16,

    /// Whether a person may identify only once in 5 seconds. Off is for tests; bots are limited
    /// all the same, by IDENTIFY_CONCURRENCY.
    #[arg(long, env = "RATE_LIMITS", value_enum, default_value_t = RateLimits::On)]
    pub rate_limits: RateLimits,

    /// Postgres connections of this node.
    #[arg(long, env = "GATEWAY_DB_CONNECTIONS_MAX", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub db_connections_max: u32,

    /// Media server that clients in voice are sent to, as host:port without a scheme. Without
    /// one they are told to wait.
    #[arg(long, env = "VOICE_ENDPOINT", requires = "voice_key", value_parser = voice::endpoint)]
    pub voice_endpoint: Option<String>,

    /// Secret shared with the media server, at least 32 characters; signs the clients' tokens.
    #[arg(long, env = "VOICE_KEY", hide_env_values = true, value_parser = not_empty)]
    pub voice_key: Option<Secret>,

    /// How logs are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// When clients get what the delivery log is to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResumeLog {
    /// At once. After kill -9 a session that got something in the last milliseconds has to
    /// identify anew.
    Async,
    /// Once the log is stored.
    Sync,
}

/// Whether people who identify too often are asked to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RateLimits {
    On,
    Off,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// What clients are told to resume at.
    pub fn resume_url(&self) -> &str {
        self.url.as_deref().unwrap_or(&self.public_url)
    }

    /// Whether operators may be answered where they are to be.
    ///
    /// # Errors
    /// A listener that everybody could reach without `GATEWAY_ADMIN_PUBLIC`.
    pub fn check_listen(&self) -> Result<(), String> {
        if is_public(self.admin_listen.ip()) && !self.admin_public {
            return Err(format!(
                "GATEWAY_ADMIN_LISTEN {} can be reached by everybody; allow it with \
                 GATEWAY_ADMIN_PUBLIC or choose a private address",
                self.admin_listen
            ));
        }
        Ok(())
    }

    /// The cluster's keys.
    ///
    /// # Errors
    /// If one is too short, or the same as another.
    pub fn cluster_keys(&self) -> Result<ClusterKeys<'_>, String> {
        let next = self.cluster_key_next.as_ref().map(Secret::reveal);
        let previous = self.cluster_key_previous.as_ref().map(Secret::reveal);
        ClusterKeys::check(self.cluster_key.reveal(), next, previous)
            .map_err(|error| error.to_string())
    }

    /// Where voice is handed to.
    ///
    /// # Errors
    /// If the key is too short to be one: what is wrong with a secret is not for clap to print.
    pub fn voice(&self) -> Result<VoiceSettings, String> {
        let key = self.voice_key.as_ref().map(Secret::reveal);
        key.map_or(Ok(()), |key| require_long("VOICE_KEY", key))
            .map_err(|error| error.to_string())?;
        let endpoint = self.voice_endpoint.clone();
        Ok(VoiceSettings::new(endpoint, key.unwrap_or_default()))
    }

    /// Over how long clients are sent away when the process stops.
    pub fn stop_over(&self) -> Duration {
        Duration::from_millis(u64::from(self.stop_over_ms))
    }

    /// Bytes of what was made for one session alone that a thread keeps.
    pub fn own_bytes_max(&self) -> usize {
        let share = self.replay_bytes_max / self.threads() as u64;
        usize::try_from(share.max(OWN_BYTES_MIN)).unwrap_or(usize::MAX)
    }

    /// Threads to start.
    pub fn threads(&self) -> usize {
        match self.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            cores => usize::from(cores),
        }
    }
}

fn not_empty(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    Ok(Secret::from(text.to_owned()))
}

fn node_id(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
        return Err("1 to 64 of the characters A-Z a-z 0-9 . _ -".to_owned());
    }
    Ok(text.to_owned())
}

fn gateway_url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("ws://")
        .or_else(|| text.strip_prefix("wss://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.ends_with('/') && !rest.contains('?') => {
            Ok(text.to_owned())
        }
        _ => Err("ws://host:port or wss://host:port, without a trailing slash or query".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ClusterKey;

    const OLD: &str = "the old key of a cluster, long enough";
    const NEW: &str = "the new key of a cluster, long enough";

    fn try_config(more: &[&str]) -> Result<Config, clap::Error> {
        let key = format!("--cluster-key={OLD}");
        let base = ["test", "--database-url=d", "--redis-url=r", "--node-id=a"];
        Config::try_parse_from(
            base.into_iter()
                .chain([key.as_str()])
                .chain(more.iter().copied()),
        )
    }

    fn config(more: &[&str]) -> Config {
        try_config(more).unwrap()
    }

    fn relay_key(config: &Config) -> Result<ClusterKey, String> {
        let keys = config.cluster_keys()?;
        Ok(ClusterKey::of_keys(keys).unwrap())
    }

    #[test]
    fn a_listener_for_operators_that_everybody_reaches_must_be_wanted() {
        for (listen, refused) in [
            ("127.0.0.1:8091", false),
            ("10.1.2.3:8091", false),
            ("[::1]:8091", false),
            ("0.0.0.0:8091", true),
            ("[::]:8091", true),
            ("203.0.113.5:8091", true),
        ] {
            let listen = format!("--admin-listen={listen}");
            let checked = config(&[&listen]).check_listen();
            assert_eq!(checked.is_err(), refused, "{listen}");
            let names = |error: String| error.starts_with("GATEWAY_ADMIN_LISTEN ");
            assert!(checked.err().is_none_or(names), "{listen}");
            let wanted = config(&[&listen, "--admin-public"]);
            assert_eq!(wanted.check_listen(), Ok(()));
        }
        assert_eq!(config(&[]).check_listen(), Ok(()));
    }

    #[test]
    fn keys_beside_the_current_one_are_accepted_and_an_empty_one_is_none() {
        let own = ClusterKey::new(OLD).unwrap();
        assert_eq!(relay_key(&config(&[])).unwrap(), own);
        let empty = ["--cluster-key-next=", "--cluster-key-previous="];
        assert_eq!(relay_key(&config(&empty)).unwrap(), own);
        let with = own.accepting(NEW).unwrap();
        for setting in ["next", "previous"] {
            let config = config(&[&format!("--cluster-key-{setting}={NEW}")]);
            assert_eq!(relay_key(&config).unwrap(), with);
            assert!(!format!("{config:?}").contains("long enough"));
        }
    }

    #[test]
    fn a_bad_key_is_refused_by_name() {
        for bad in ["short", OLD] {
            for (setting, name) in [
                ("next", "CLUSTER_KEY_NEXT: "),
                ("previous", "CLUSTER_KEY_PREVIOUS: "),
            ] {
                let config = config(&[&format!("--cluster-key-{setting}={bad}")]);
                let error = relay_key(&config).unwrap_err();
                assert!(error.starts_with(name), "{error}");
                assert!(!error.contains(OLD), "{error}");
            }
        }
    }

    #[test]
    fn threads_share_what_is_kept_for_resume_and_have_enough_each() {
        for (bytes, cores, each) in [(1 << 30, 4, 256 << 20), (1 << 20, 1, 32 << 20)] {
            let bytes = format!("--replay-bytes-max={bytes}");
            let config = config(&[&bytes, &format!("--cores={cores}")]);
            assert_eq!(config.own_bytes_max(), each);
        }
    }

    #[test]
    fn what_media_servers_and_the_api_would_not_take_stops_the_start() {
        let (short, long) = ("x".repeat(31), "x".repeat(32));
        for (key, endpoint, fine) in [
            (&long, "voice.example:443", true),
            (&short, "voice.example:443", false),
            (&long, "wss://voice.example", false),
        ] {
            let key = format!("--voice-key={key}");
            let endpoint = format!("--voice-endpoint={endpoint}");
            let voice = try_config(&[&key, &endpoint]).map(|config| config.voice());
            assert_eq!(matches!(voice, Ok(Ok(_))), fine, "{key} {endpoint}");
        }
        assert!(config(&[]).voice().is_ok());
    }
}
