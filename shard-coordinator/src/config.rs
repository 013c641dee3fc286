//! Settings, read once at the start, and the connections they describe.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use guildhall_redis::{Client, Connection, Patience};
use guildhall_shared::cluster_key::ClusterKeys;
use guildhall_shared::listen::is_public;
use guildhall_shared::secret::Secret;
use guildhall_shared::shard::{SHARDS_DEFAULT, SHARDS_MAX};
use guildhall_store::pool;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::access::AdminKey;
use crate::error::{Error, Result};

/// Longest wait for any answer of Redis. Shorter than `leader::MARGIN`, so that a write
/// begun under a lease does not outlast it.
pub(crate) const REDIS_ANSWER_MAX: Duration = Duration::from_millis(800);
/// Longest wait for any answer of Postgres.
pub(crate) const POSTGRES_ANSWER_MAX: Duration = Duration::from_millis(1_500);
const PATIENCE: pool::Patience = pool::Patience {
    connection: POSTGRES_ANSWER_MAX,
    statement: Duration::from_secs(4),
};
/// For the lease and the rounds, and as many for operators.
const DB_CONNECTIONS_MAX: u32 = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Postgres: terms, node settings and pins
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,

    /// Redis: heartbeats and the map, as redis://host:port, or rediss:// with TLS; several
    /// addresses with commas between are members of a Redis Cluster
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Secret,

    /// Address of /health, /ready, /metrics, /version and the operators' API
    #[arg(long, env = "COORDINATOR_LISTEN", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,

    /// Lets it listen on an address that everybody can reach. It is not encrypted
    #[arg(long, env = "COORDINATOR_PUBLIC", default_value_t = false)]
    pub public: bool,

    /// Secret shared by all processes of the cluster, at least 32 characters; without it
    /// there is no operators' API
    #[arg(long, env = "CLUSTER_KEY", hide_env_values = true)]
    pub cluster_key: Option<Secret>,

    /// Key that becomes CLUSTER_KEY: operators' tokens under it are taken already. Only while it
    /// is renewed
    #[arg(long, env = "CLUSTER_KEY_NEXT", hide_env_values = true)]
    pub cluster_key_next: Option<Secret>,

    /// Key that was CLUSTER_KEY: operators' tokens under it are still taken. Only while it is
    /// renewed
    #[arg(long, env = "CLUSTER_KEY_PREVIOUS", hide_env_values = true)]
    pub cluster_key_previous: Option<Secret>,

    /// Name of this coordinator in logs and in cluster_term
    #[arg(long, env = "COORDINATOR_ID", default_value = "coordinator")]
    pub id: String,

    /// Shards of the cluster, fixed when it is created
    #[arg(long, env = "CLUSTER_SHARDS", default_value_t = SHARDS_DEFAULT,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    pub shards: u16,

    /// Shards with open realms that a gateway may have in motion at once, in and out together
    #[arg(long, env = "MOVES_PER_NODE_MAX", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub moves_per_node_max: u16,

    /// Form of the log lines on stderr
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged, as in info,shard_coordinator=debug
    #[arg(long = "log", env = "RUST_LOG", default_value = "info")]
    pub log_filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// The key of operators' tokens, if they may come at all.
    ///
    /// Errors: a key that is too short, or the same as another.
    pub(crate) fn admin_key(&self) -> Result<Option<AdminKey>> {
        let Some(key) = &self.cluster_key else {
            return Ok(None);
        };
        let next = self.cluster_key_next.as_ref().map(Secret::reveal);
        let previous = self.cluster_key_previous.as_ref().map(Secret::reveal);
        let keys = ClusterKeys::check(key.reveal(), next, previous)
            .map_err(|error| Error::setting(error.setting, error.reason))?;
        Ok(Some(AdminKey::of_keys(keys)))
    }

    /// Names of keys that do nothing: there is no operators' API without `CLUSTER_KEY`.
    pub(crate) fn idle_keys(&self) -> Vec<&'static str> {
        let others = [
            ("CLUSTER_KEY_NEXT", &self.cluster_key_next),
            ("CLUSTER_KEY_PREVIOUS", &self.cluster_key_previous),
        ];
        let is_given =
            |key: &Option<Secret>| key.as_ref().is_some_and(|key| !key.reveal().is_empty());
        let idle = others
            .iter()
            .filter(|(_, key)| self.cluster_key.is_none() && is_given(key));
        idle.map(|(name, _)| *name).collect()
    }

    /// Errors: a listener that everybody could reach without `COORDINATOR_PUBLIC`.
    pub(crate) fn check_listen(&self) -> Result<()> {
        if is_public(self.listen.ip()) && !self.public {
            let reason = format!(
                "{} is reachable by everybody; set COORDINATOR_PUBLIC=true if that is wanted",
                self.listen
            );
            return Err(Error::setting("COORDINATOR_LISTEN", reason));
        }
        Ok(())
    }

    /// A pool that connects on first use.
    ///
    /// Errors: a `DATABASE_URL` that is none.
    pub(crate) fn connect_postgres(&self) -> Result<PgPool> {
        let options = PgConnectOptions::from_str(self.database_url.reveal())
            .map_err(|error| Error::setting("DATABASE_URL", error))?
            .application_name("shard-coordinator");
        Ok(pool::open(options, DB_CONNECTIONS_MAX, PATIENCE))
    }

    /// A connection that is made on first use and again when it broke.
    ///
    /// Errors: a `REDIS_URL` that is none.
    pub(crate) fn connect_redis(&self) -> Result<Connection> {
        let bad = |error| Error::setting("REDIS_URL", error);
        let patience = Patience {
            answer: REDIS_ANSWER_MAX,
            retries: 2, // each round tries again
            pause_max: Some(Duration::from_millis(200)),
        };
        let client = Client::open(self.redis_url.reveal(), patience).map_err(bad)?;
        client.connection().map_err(bad)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    fn parse(more: &[&str]) -> Result<Cli, clap::Error> {
        let base = ["shard-coordinator", "--database-url", "postgres://u:pw@h/d"];
        let redis = ["--redis-url", "redis://:pw@h"];
        Cli::try_parse_from(base.iter().chain(&redis).chain(more))
    }

    #[test]
    fn passwords_are_not_printed() {
        let cli = parse(&[]).unwrap();
        let printed = format!("{:?}", cli.config);
        assert!(!printed.contains("pw"), "{printed}");
        assert!(printed.contains("***"), "{printed}");
    }

    #[test]
    fn a_bad_value_is_refused_by_name() {
        for (flag, value) in [
            ("--shards", "0"),
            ("--shards", "70000"),
            ("--listen", "nowhere"),
            ("--log-format", "xml"),
            ("--moves-per-node-max", "0"),
        ] {
            let error = parse(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_by_name_without_its_password() {
        let mut config = parse(&[]).unwrap().config;
        config.database_url = Secret::from("postgres//u:hunter2@h".to_owned());
        config.redis_url = Secret::from("redis//u:hunter2@h".to_owned());
        let errors = [
            config.connect_postgres().map(drop).unwrap_err().to_string(),
            config.connect_redis().map(drop).unwrap_err().to_string(),
        ];
        assert!(errors[0].starts_with("DATABASE_URL"), "{}", errors[0]);
        assert!(errors[1].starts_with("REDIS_URL"), "{}", errors[1]);
        assert!(errors.iter().all(|error| !error.contains("hunter2")));
    }

    #[test]
    fn a_listener_for_everybody_must_be_wanted() {
        for (listen, refused) in [
            ("127.0.0.1:8090", false),
            ("10.1.2.3:8090", false),
            ("[::1]:8090", false),
            ("0.0.0.0:8090", true),
            ("[::]:8090", true),
            ("203.0.113.5:8090", true),
            ("[::ffff:203.0.113.5]:8090", true),
        ] {
            let config = parse(&["--listen", listen]).unwrap().config;
            assert_eq!(config.check_listen().is_err(), refused, "{listen}");
            let wanted = parse(&["--listen", listen, "--public"]).unwrap().config;
            assert!(wanted.check_listen().is_ok());
        }
    }

    #[test]
    fn a_short_cluster_key_is_refused_and_none_is_fine() {
        let config = |more: &[&str]| parse(more).unwrap().config;
        assert!(config(&["--cluster-key", "short"]).admin_key().is_err());
        let long = ["--cluster-key", "a cluster key for tests, long enough"];
        assert!(config(&long).admin_key().unwrap().is_some());
        assert!(!format!("{:?}", config(&long)).contains("long enough"));
    }

    #[test]
    fn keys_beside_one_that_is_not_given_do_nothing() {
        let next = "--cluster-key-next=another cluster key for tests, as long";
        let idle = |more: &[&str]| parse(more).unwrap().config.idle_keys();
        assert_eq!(idle(&[next]), ["CLUSTER_KEY_NEXT"]);
        assert_eq!(
            idle(&["--cluster-key-next=", "--cluster-key-previous=short"]),
            ["CLUSTER_KEY_PREVIOUS"]
        );
        let key = "--cluster-key=a cluster key for tests, long enough";
        assert!(idle(&[key, next]).is_empty());
        assert!(idle(&[]).is_empty());
    }

    #[test]
    fn a_bad_key_beside_the_current_one_is_refused_by_name() {
        let key = "a cluster key for tests, long enough";
        let with = |setting: &str, value: &str| {
            let other = format!("--cluster-key-{setting}={value}");
            parse(&["--cluster-key", key, &other]).unwrap().config
        };
        for (setting, name) in [
            ("next", "CLUSTER_KEY_NEXT"),
            ("previous", "CLUSTER_KEY_PREVIOUS"),
        ] {
            for bad in ["short", key] {
                let error = with(setting, bad).admin_key().unwrap_err().to_string();
                assert!(error.starts_with(name), "{error}");
                assert!(!error.contains(key), "{error}");
            }
            assert!(with(setting, "").admin_key().unwrap().is_some());
            let good = with(setting, "another cluster key for tests, as long");
            assert!(good.admin_key().unwrap().is_some());
            assert!(!format!("{good:?}").contains("as long"));
        }
    }
}
