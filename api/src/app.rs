//! What handlers share.

use std::{ops::Deref, sync::Arc, time::Duration};

use guildhall_redis::{Client, Connection, Patience};
use guildhall_shared::{Id, cluster_key::BadClusterKey, id::marker};
use guildhall_store::pool;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::AccessCache,
    automod::Rules,
    collect,
    config::Config,
    error::Result,
    events::Publisher,
    housekeeping,
    keys::Keys,
    mail::Mailer,
    media::{self, Media},
    message_writer::MessageWriter,
    outgoing::Outgoing,
    passwords::Passwords,
    pictures::Pictures,
    rate_limit::Limiter,
    routes, second_factor,
    seen::Seen,
    snowflakes::Snowflakes,
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
/// Work that requests have left behind gets so long at the end of the process.
pub const WORK_GRACE: Duration = Duration::from_secs(5);

/// The state of one API process; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// What [`App`] points to.
pub struct Shared {
    pub config: Config,
    pub(crate) keys: Keys,
    /// What clients know this cluster by; the same for good.
    pub(crate) instance_id: Id<marker::Any>,
    pub(crate) db: PgPool,
    pub(crate) redis: Connection,
    pub(crate) snowflakes: Snowflakes,
    pub(crate) publisher: Publisher,
    pub(crate) message_writer: MessageWriter,
    pub(crate) access: AccessCache,
    pub(crate) metrics: Metrics,
    pub(crate) limiter: Limiter,
    pub(crate) tokens: Arc<TokenCache>,
    pub(crate) passwords: Passwords,
    pub(crate) seen: Seen,
    pub(crate) automod: Rules,
    pub(crate) outgoing: Outgoing,
    pub(crate) pictures: Pictures,
    pub(crate) mailer: Mailer,
    /// Turns of those who work on forgotten passwords.
    pub(crate) forgotten: Arc<Semaphore>,
    pub(crate) media: Media,
    /// Background work that ends when the process does.
    pub(crate) tasks: TaskTracker,
    /// What requests have begun and did not wait for: it needs `tasks`, so it ends first.
    pub(crate) work: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

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
    Request(#[from] crate::error::Error),
    #[error("TLS for requests to others: {0}")]
    Outgoing(reqwest::Error),
    #[error("{0}")]
    Mail(#[from] crate::mail::BadMailSetting),
    #[error("MEDIA_DIR, MEDIA_S3_*: {0}")]
    Media(#[from] object_store::Error),
    #[error("{0}")]
    StickerPack(#[from] crate::sticker_packs::PackError),
    #[error("API_LISTEN: {0}")]
    Listen(std::io::Error),
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
        let app = Self(Arc::new(Shared {
            snowflakes: Snowflakes::lease(&db).await?,
            limiter: Limiter::new(config.rate_limits, redis.clone(), metrics.clone()),
            tokens: TokenCache::start(client, redis.clone(), &tasks, &stop),
            passwords: Passwords::new(),
            seen: Seen::default(),
            automod: Rules::default(),
            outgoing: Outgoing::new(config.outgoing_http).map_err(StartError::Outgoing)?,
            pictures: Pictures::default(),
            forgotten: routes::auth::forgotten_turns(),
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
        }));
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

    /// Shards of the cluster.
    pub(crate) fn shards(&self) -> u16 {
        self.config.cluster_shards
    }

    /// Removes files that nothing shows any more; housekeeping does it every minute.
    pub async fn collect_files(&self) -> Result<()> {
        media::collect(&self.media).await
    }

    /// Asks the background tasks to end, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Collects what deleted guilds have left, as housekeeping does every minute.
    pub async fn collect_deleted_guilds(&self) -> crate::error::Result<()> {
        collect::deleted_guilds(&self.db).await
    }

    /// Forgets old mentions, as housekeeping does every minute.
    pub async fn forget_mentions(&self) -> crate::error::Result<()> {
        routes::mentions::forget_old(&self.db).await
    }

    /// Starts and ends scheduled events by the clock, as housekeeping does every minute.
    pub async fn move_events_on(&self) -> crate::error::Result<()> {
        routes::scheduled_events::expire::move_on(self).await
    }

    /// Archives threads in which nobody writes, as housekeeping does every minute.
    pub async fn archive_threads(&self) -> crate::error::Result<()> {
        routes::threads::archive_idle(self).await
    }

    /// Ends polls whose time is over, as housekeeping does every minute.
    pub async fn end_polls(&self) -> crate::error::Result<()> {
        routes::polls::end_expired(self).await
    }

    /// Removes temporary members without a session, as housekeeping does every minute.
    pub async fn remove_temporary_members(&self) -> crate::error::Result<()> {
        routes::members::temporary::remove_unseen(self).await
    }

    /// Seals second factors with the renewed key, as housekeeping does every minute.
    pub async fn seal_factors_anew(&self) -> crate::error::Result<()> {
        second_factor::seal_anew(self).await
    }

    /// Waits for what requests left behind.
    pub async fn finish_work(&self) {
        self.work.close();
        // What is cut off goes on in the next process: such work is on a queue or needless.
        let waited = tokio::time::timeout(WORK_GRACE, self.work.wait()).await;
        if waited.is_err() {
            tracing::info!("work of requests is not waited for any longer");
        }
        self.work.reopen();
    }

    /// Ends what requests left behind, then the background tasks; the event queue is emptied.
    /// Call when no request is left.
    pub async fn shut_down(&self) {
        self.finish_work().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Connections with the cut-off times every writer to the event log needs.
pub fn pool(config: &Config) -> Result<PgPool, StartError> {
    let postgres: PgConnectOptions = config.database_url.reveal().parse()?;
    let postgres = postgres.application_name("guildhall-api");
    Ok(pool::open(postgres, config.db_connections_max, POSTGRES))
}
