//! What handlers share. `start` makes it.

use std::{ops::Deref, sync::Arc, time::Duration};

use guildhall_redis::Connection;
use guildhall_shared::{Id, id::marker};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::AccessCache, automod::Rules, config::Config, events::Publisher, keys::Keys,
    mail::Mailer, media::Media, message_writer::MessageWriter, outgoing::Outgoing,
    passwords::Passwords, pictures::Pictures, rate_limit::Limiter, seen::Seen,
    snowflakes::Snowflakes, telemetry::Metrics, token_cache::TokenCache,
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
    /// Turns of those who delete what banned people wrote.
    pub(crate) purges: Arc<Semaphore>,
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

impl App {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Shards of the cluster.
    pub(crate) fn shards(&self) -> u16 {
        self.config.cluster_shards
    }

    /// Asks the background tasks to end, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
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
