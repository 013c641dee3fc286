//! Settings of the API server. Read once, in `main`; a bad value stops the start by name.

use std::{net::SocketAddr, path::PathBuf};

use guildhall_shared::{
    cluster_key::{BadClusterKey, ClusterKeys, require_long},
    shard,
    voice::{self, VoiceSettings},
};

pub use guildhall_shared::secret::Secret;

/// Whether replies carry rate limits and requests above them are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RateLimits {
    On,
    /// No limit and no header: clients treat every route as unlimited.
    Off,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Registration {
    /// Anyone.
    Open,
    /// Who has an invite to a guild of this server; it is accepted at once.
    Invite,
    Closed,
}

/// Which addresses the server sends requests to on behalf of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutgoingHttp {
    /// Public addresses, over https.
    Public,
    /// Any address, also over http: for development.
    Any,
}

/// Which people may make something: guilds, applications with their bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MayCreate {
    Everyone,
    /// Who has a verified mail address.
    Verified,
    Nobody,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Settings of `guildhall-api`; every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Postgres, as postgres://user:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,

    /// Redis 7 or later, as redis://host:port, or rediss:// with TLS; several addresses with
    /// commas between are members of a Redis Cluster. The API serves without it; events then
    /// arrive later.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Secret,

    /// Address and port to serve on.
    #[arg(long, env = "API_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Address and port for operators alone: `/metrics` and `/internal` are there, and answered 404
    /// at `API_LISTEN`; health, readiness and version are at both. Without it everything is at
    /// `API_LISTEN`, and the proxy has to keep the first two from the public.
    #[arg(long, env = "API_INTERNAL_LISTEN")]
    pub internal_listen: Option<SocketAddr>,

    /// Lets `API_INTERNAL_LISTEN` be an address that everybody can reach. It is not encrypted.
    #[arg(long, env = "API_INTERNAL_PUBLIC", default_value_t = false)]
    pub internal_public: bool,

    /// Connections this process takes; more wait in the listen queue.
    #[arg(
        long,
        env = "API_CONNECTIONS_MAX",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub connections_max: u32,

    /// Seconds that a connection may be without a request, or take to send the head of one; then
    /// it is closed. A proxy should give up its idle connections earlier.
    #[arg(
        long,
        env = "API_IDLE_SECONDS_MAX",
        default_value_t = 75,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub idle_seconds_max: u16,

    /// Seconds that a client may take nothing of an answer; then its connection is closed.
    #[arg(
        long,
        env = "API_STALL_SECONDS_MAX",
        default_value_t = 30,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub stall_seconds_max: u16,

    /// Where clients reach this API, without a trailing slash.
    #[arg(
        long,
        env = "API_PUBLIC_URL",
        default_value = "http://127.0.0.1:8080",
        value_parser = base_url
    )]
    pub public_url: String,

    /// Where clients reach the gateway; what `GET /gateway` answers.
    #[arg(long, env = "GATEWAY_URL", value_parser = base_url)]
    pub gateway_url: String,

    /// Bot shards of one bot that may identify at once, as `GET /gateway/bot` says; what the
    /// gateways are set to.
    #[arg(
        long,
        env = "IDENTIFY_CONCURRENCY",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub identify_concurrency: u16,

    /// Postgres connections of this replica; the sum stays below `max_connections`.
    #[arg(
        long,
        env = "API_DB_CONNECTIONS_MAX",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(2..)
    )]
    pub db_connections_max: u32,

    /// Shards of the cluster, fixed when it is created.
    #[arg(
        long,
        env = "CLUSTER_SHARDS",
        default_value_t = shard::SHARDS_DEFAULT,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(shard::SHARDS_MAX))
    )]
    pub cluster_shards: u16,

    /// Secret shared by all processes of the cluster, at least 32 characters; signs operator tokens.
    #[arg(long, env = "CLUSTER_KEY", hide_env_values = true)]
    pub cluster_key: Secret,

    /// Key that becomes CLUSTER_KEY: what is made with it is accepted already. Only while it is
    /// renewed.
    #[arg(long, env = "CLUSTER_KEY_NEXT", hide_env_values = true)]
    pub cluster_key_next: Option<Secret>,

    /// Key that was CLUSTER_KEY: what was made with it is still accepted, and second factors that
    /// it sealed are sealed anew. Only while it is renewed.
    #[arg(long, env = "CLUSTER_KEY_PREVIOUS", hide_env_values = true)]
    pub cluster_key_previous: Option<Secret>,

    /// Rate limits for clients.
    #[arg(long, env = "RATE_LIMITS", value_enum, default_value = "on")]
    pub rate_limits: RateLimits,

    /// Days that what operators did (`cluster_audit`) is kept; 0: for ever.
    #[arg(long, env = "CLUSTER_AUDIT_DAYS", default_value_t = 400)]
    pub cluster_audit_days: u16,

    #[command(flatten)]
    pub policies: Policies,

    #[command(flatten)]
    pub mail: MailConfig,

    #[command(flatten)]
    pub voice: VoiceConfig,

    /// Reverse proxies before this server: a client's address is taken that many places
    /// from the right of `X-Forwarded-For`. 0: the peer's address.
    #[arg(long, env = "API_PROXIES", default_value_t = 0)]
    pub proxies: u8,

    /// Where interactions endpoints of applications and pictures of webhooks may be.
    #[arg(long, env = "OUTGOING_HTTP", value_enum, default_value = "public")]
    pub outgoing_http: OutgoingHttp,

    #[command(flatten)]
    pub media: MediaConfig,
}

/// What this instance allows, and how it presents itself (`/policies/instance`).
#[derive(Debug, Clone, clap::Args)]
pub struct Policies {
    /// Who may register an account.
    #[arg(long, env = "REGISTRATION", value_enum, default_value = "open")]
    pub registration: Registration,

    /// Who may make guilds.
    #[arg(long, env = "GUILD_CREATION", value_enum, default_value = "everyone")]
    pub guild_creation: MayCreate,

    /// Who may make applications and their bots.
    #[arg(long, env = "BOT_CREATION", value_enum, default_value = "everyone")]
    pub bot_creation: MayCreate,

    /// Name of this instance, as clients and mails show it.
    #[arg(long, env = "INSTANCE_NAME", default_value = "Guildhall")]
    pub instance_name: String,

    /// What this instance is for.
    #[arg(long, env = "INSTANCE_DESCRIPTION")]
    pub instance_description: Option<String>,

    /// Page that links in mails lead to; without one they lead to API_PUBLIC_URL.
    #[arg(long, env = "FRONT_PAGE_URL", value_parser = base_url)]
    pub front_page_url: Option<String>,

    /// Page with the terms of service.
    #[arg(long, env = "TERMS_URL", value_parser = base_url)]
    pub terms_url: Option<String>,

    /// Whom users may write to.
    #[arg(long, env = "CONTACT_EMAIL")]
    pub contact_email: Option<String>,
}

/// How mails leave. Without a server there are none, and no address can be verified.
#[derive(Debug, Clone, clap::Args)]
pub struct MailConfig {
    /// Mail server: smtps://user:password@host, or smtp://host:25?tls=required.
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<Secret>,

    /// Sender of mails, as "Name <address>".
    #[arg(
        long,
        env = "MAIL_FROM",
        default_value = "Guildhall <guildhall@localhost>"
    )]
    pub mail_from: String,

    /// Prints mails to the log in place of sending them: their secrets too. For development only.
    #[arg(
        long,
        env = "MAIL_TO_LOG",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub mail_to_log: bool,
}

/// The media server that clients in voice are sent to.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct VoiceConfig {
    /// Media server that clients in voice are sent to, as host:port without a scheme. Without one
    /// they are told to wait.
    #[arg(long = "voice-endpoint", env = "VOICE_ENDPOINT", requires = "voice_key", value_parser = voice::endpoint)]
    pub voice_endpoint: Option<String>,

    /// Secret shared with the media server, at least 32 characters; signs the clients' tokens.
    #[arg(long, env = "VOICE_KEY", hide_env_values = true)]
    pub voice_key: Option<Secret>,
}

impl VoiceConfig {
    /// Errors: a key that is too short. What is wrong with a secret is not for clap to print.
    pub(crate) fn check(&self) -> Result<(), BadClusterKey> {
        let key = self.voice_key.as_ref().map(Secret::reveal);
        key.map_or(Ok(()), |key| require_long("VOICE_KEY", key))
    }

    pub(crate) fn settings(&self) -> VoiceSettings {
        let key = self.voice_key.as_ref().map_or("", Secret::reveal);
        VoiceSettings::new(self.voice_endpoint.clone(), key)
    }
}

/// Where files are kept and how large they may be.
#[derive(Debug, Clone, clap::Args)]
pub struct MediaConfig {
    /// Folder of uploaded files; created if it is missing. All API processes need the same one.
    #[arg(
        long = "media-dir",
        env = "MEDIA_DIR",
        default_value = ".guildhall/media"
    )]
    pub dir: PathBuf,

    /// Bucket of an S3 service. When set, files are kept there and not in `MEDIA_DIR`.
    #[arg(long = "media-s3-bucket", env = "MEDIA_S3_BUCKET")]
    pub s3_bucket: Option<String>,

    /// Where the S3 service is, when it is not Amazon's: http:// or https://.
    #[arg(long = "media-s3-endpoint", env = "MEDIA_S3_ENDPOINT", value_parser = base_url)]
    pub s3_endpoint: Option<String>,

    /// Region of the bucket.
    #[arg(
        long = "media-s3-region",
        env = "MEDIA_S3_REGION",
        default_value = "us-east-1"
    )]
    pub s3_region: String,

    /// Access key of the S3 service.
    #[arg(
        long = "media-s3-access-key",
        env = "MEDIA_S3_ACCESS_KEY",
        hide_env_values = true
    )]
    pub s3_access_key: Option<Secret>,

    /// Secret key of the S3 service.
    #[arg(
        long = "media-s3-secret-key",
        env = "MEDIA_S3_SECRET_KEY",
        hide_env_values = true
    )]
    pub s3_secret_key: Option<Secret>,

    /// Where clients fetch files, without a trailing slash; `API_PUBLIC_URL` by default.
    /// Stored in messages with attachments, so an old address should go on working.
    #[arg(long = "cdn-public-url", env = "CDN_PUBLIC_URL", value_parser = base_url)]
    pub cdn_public_url: Option<String>,

    /// Size of one attachment at most, in bytes. A request takes ten of them.
    #[arg(
        long = "attachment-bytes-max",
        env = "ATTACHMENT_BYTES_MAX",
        default_value_t = 25 * 1024 * 1024,
        value_parser = clap::value_parser!(u64).range(1024..=1024 * 1024 * 1024)
    )]
    pub attachment_bytes_max: u64,
}

impl MediaConfig {
    /// The defaults, in this folder.
    pub fn in_folder(dir: PathBuf) -> Self {
        Self {
            dir,
            s3_bucket: None,
            s3_endpoint: None,
            s3_region: "us-east-1".to_owned(),
            s3_access_key: None,
            s3_secret_key: None,
            cdn_public_url: None,
            attachment_bytes_max: 25 * 1024 * 1024,
        }
    }
}

/// Settings of `guildhall-api migrate`.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateConfig {
    /// Postgres, as postgres://user:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,

    /// Shards of the cluster, fixed by the first run.
    #[arg(
        long,
        env = "CLUSTER_SHARDS",
        default_value_t = shard::SHARDS_DEFAULT,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(shard::SHARDS_MAX))
    )]
    pub cluster_shards: u16,
}

/// Settings of `guildhall-api raise-era`.
#[derive(Debug, Clone, clap::Args)]
pub struct RaiseEraConfig {
    /// Postgres, as postgres://user:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,
}

/// Settings of `guildhall-api operator-token`.
#[derive(Debug, Clone, clap::Args)]
pub struct OperatorTokenConfig {
    /// Secret shared by all processes of the cluster.
    #[arg(long, env = "CLUSTER_KEY", hide_env_values = true)]
    pub cluster_key: Secret,

    /// Whose token it is; appears in the log and in the history of what operators did.
    #[arg(long, default_value = "operator")]
    pub name: String,

    /// How long it is valid.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1440))]
    pub minutes: u16,
}

impl OperatorTokenConfig {
    /// The key that signs. Errors: one that is too short.
    pub fn key(&self) -> Result<&Secret, BadClusterKey> {
        ClusterKeys::check(self.cluster_key.reveal(), None, None)?;
        Ok(&self.cluster_key)
    }
}

/// An URL without a trailing slash.
pub(crate) fn base_url(text: &str) -> Result<String, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("http" | "https" | "ws" | "wss")) {
        return Err("must start with http://, https://, ws:// or wss://".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(args: &[&str]) -> Command {
        let args = std::iter::once("guildhall-api").chain(args.iter().copied());
        Cli::try_parse_from(args).unwrap().command
    }

    #[test]
    fn a_short_key_is_refused_by_name_and_is_not_printed() {
        let (short, long) = ("x".repeat(31), "x".repeat(32));
        for (key, fine) in [(&short, false), (&long, true), (&String::new(), false)] {
            let cluster_key = format!("--cluster-key={key}");
            let Command::OperatorToken(config) = parse(&["operator-token", &cluster_key]) else {
                panic!("another command");
            };
            let refused = config.key().err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), fine, "{refused:?}");
            assert!(refused.is_none_or(|text| text.starts_with("CLUSTER_KEY: ")));

            let voice_key = format!("--voice-key={key}");
            let url = ["--database-url=d", "--redis-url=r", "--gateway-url=ws://g"];
            let keys = [cluster_key.as_str(), voice_key.as_str()];
            let args = ["serve"].into_iter().chain(url).chain(keys);
            let Command::Serve(config) = parse(&args.collect::<Vec<_>>()) else {
                panic!("another command");
            };
            let refused = config.voice.check().err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), fine, "{refused:?}");
            assert!(refused.is_none_or(|text| text.starts_with("VOICE_KEY: ")));
        }
        assert!(VoiceConfig::default().check().is_ok());
    }

    #[test]
    fn urls_lose_their_trailing_slash_and_need_a_scheme() {
        assert_eq!(base_url("ws://a:1/"), Ok("ws://a:1".to_owned()));
        assert!(base_url("a:1").is_err());
    }
}
