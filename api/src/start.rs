//! The start of a process that serves, and why it may fail.

use std::{net::SocketAddr, time::Duration};

use guildhall_redis::{Client, Patience};
use guildhall_shared::cluster_key::BadClusterKey;
use guildhall_store::pool;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::AccessCache,
    app::{App, Shared},
    automod::Rules,
    config::Config,
    error::Error,
    events::Publisher,
    housekeeping,
    keys::Keys,
    mail::{BadMailSetting, Mailer},
    media::Media,
    message_writer::MessageWriter,
    outgoing::Outgoing,
    passwords::Passwords,
    pictures::Pictures,
    rate_limit::Limiter,
    routes,
    seen::Seen,
    snowflakes::Snowflakes,
    sticker_packs::PackError,
    telemetry::Metrics,
    token_cache::TokenCache,
};

/// A transaction or statement that takes longer is cut off: the owners' periodic look at the
/// event log reaches back further than this (design: path of one event, step 4). A request that
/// waits longer for a connection is answered 503.
const POSTGRES: pool::Patience = pool::Patience {
    connection: Duration::from_secs(3),
    statement: Duration::from_secs(3),
};
/// A request waits no longer for what Redis adds to it.
const REDIS: Patience = Patience {
    answer: Duration::from_millis(500),
    retries: 1,
    pause_max: None,
};

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    ClusterKey(#[from] BadClusterKey),
    #[error("REDIS_URL: {0}")]
    RedisUrl(redis::RedisError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the database has no schema, or an older one: run `guildhall-api migrate` first")]
    NotMigrated,
    #[error("CLUSTER_SHARDS is {own}, but this cluster was created with {cluster}")]
    OtherShards { own: u16, cluster: String },
    #[error("DATABASE_URL: {0}")]
    Database(#[from] sqlx::Error),
    #[error("migrations: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("{0}")]
    Request(#[from] Error),
    #[error("TLS for requests to others: {0}")]
    Outgoing(reqwest::Error),
    #[error("{0}")]
    Mail(#[from] BadMailSetting),
    #[error("MEDIA_DIR, MEDIA_S3_*: {0}")]
    Media(#[from] object_store::Error),
    #[error("{0}")]
    StickerPack(#[from] PackError),
    #[error("API_LISTEN: {0}")]
    Listen(std::io::Error),
    #[error("API_INTERNAL_LISTEN: {0}")]
    InternalListen(std::io::Error),
    #[error(
        "API_INTERNAL_LISTEN: {0} can be reached by everybody; allow it with API_INTERNAL_PUBLIC or choose a private address"
    )]
    PublicInternal(SocketAddr),
}

impl App {
    /// Leases a worker number and starts the background tasks.
    ///
    /// The schema must be there; Redis need not be.
    pub async fn start(config: Config, db: PgPool) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let keys = Keys::new(&config, metrics.previous_key_uses.clone())?;
        config.voice.check()?;
        // Events stored before the first round need their partition.
        housekeeping::create_partitions(&db).await?;
        let instance_id = routes::instance::id(&db, &keys.current).await?;
        let client =
            Client::open(config.redis_url.reveal(), REDIS).map_err(StartError::RedisUrl)?;
        let redis = client.connection().map_err(StartError::RedisUrl)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let publisher = Publisher::start(
            redis.clone(),
            config.cluster_shards,
            metrics.clone(),
            &tasks,
            stop.clone(),
        );
        let app = Self::new(Shared {
            snowflakes: Snowflakes::lease(&db).await?,
            limiter: Limiter::new(config.rate_limits, redis.clone(), metrics.clone()),
            tokens: TokenCache::start(client, redis.clone(), &tasks, &stop),
            passwords: Passwords::new(),
            seen: Seen::default(),
            automod: Rules::default(),
            outgoing: Outgoing::new(config.outgoing_http).map_err(StartError::Outgoing)?,
            pictures: Pictures::default(),
            forgotten: routes::auth::forgotten_turns(),
            purges: routes::bans::purge_turns(),
            mailer: Mailer::start(&config, &tasks, &stop)?,
            message_writer: MessageWriter::start(&db, &publisher, &tasks, &stop),
            access: AccessCache::default(),
            media: Media::open(&config, &keys, db.clone())?,
            config,
            keys,
            instance_id,
            db,
            redis,
            publisher,
            metrics,
            tasks,
            work: TaskTracker::new(),
            stop,
        });
        let keeper = app.clone();
        app.tasks.spawn(async move {
            keeper
                .snowflakes
                .keep(&keeper.db, keeper.stop.clone())
                .await
        });
        let keeper = app.clone();
        app.tasks
            .spawn(async move { housekeeping::run(&keeper, keeper.stop.clone()).await });
        Ok(app)
    }
}

/// Connections with the cut-off times every writer to the event log needs.
pub fn pool(config: &Config) -> Result<PgPool, StartError> {
    let postgres: PgConnectOptions = config.database_url.reveal().parse()?;
    let postgres = postgres.application_name("guildhall-api");
    Ok(pool::open(postgres, config.db_connections_max, POSTGRES))
}
