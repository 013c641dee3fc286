//! Accounts by token, remembered for a second, so that not every request asks Postgres who calls.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use guildhall_redis::{Client, Connection};
use guildhall_shared::{Id, id::marker, keys, token::TokenHash};
use guildhall_store::account::Account;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long an account may be remembered, however healthy the news of changes looks.
const AGE_MAX: Duration = Duration::from_secs(1);
const ENTRIES_MAX: usize = 16_384;
/// Changes waiting to be told to the other processes; more are dropped, and those
/// processes then find out within [`AGE_MAX`].
const CHANGES_MAX: usize = 4096;
/// Pause before Redis is asked again for the news.
const NEWS_PAUSE: Duration = Duration::from_millis(500);
/// Time between two writes of when a token was last used.
pub(crate) const USE_NOTED_EVERY: Duration = Duration::from_secs(5 * 60);

/// Accounts looked up in the last second, by token.
///
/// Whoever changes an account says so over Redis, and all processes forget it at once. A
/// process that does not hear the news (Redis is away) remembers nothing.
#[derive(Debug)]
pub(crate) struct TokenCache {
    entries: Mutex<FxHashMap<TokenHash, (Instant, Arc<Account>)>>,
    /// Rises with everything that is forgotten: what was read before is not kept after.
    generation: AtomicU64,
    hears_news: AtomicBool,
    changes: mpsc::Sender<Id<marker::User>>,
    /// Tokens whose use was noted, and when.
    noted: Mutex<FxHashMap<TokenHash, Instant>>,
}

impl TokenCache {
    /// Starts telling and hearing of changes, until `stop`.
    pub(crate) fn start(
        client: Client,
        redis: Connection,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let (changes, told) = mpsc::channel(CHANGES_MAX);
        let cache = Arc::new(Self {
            entries: Mutex::default(),
            generation: AtomicU64::new(0),
            hears_news: AtomicBool::new(false),
            changes,
            noted: Mutex::default(),
        });
        let stopped = stop.clone();
        tasks.spawn(async move { stopped.run_until_cancelled(tell(told, redis)).await });
        let (hearing, stopped) = (Arc::clone(&cache), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(hearing.hear(client)).await });
        cache
    }

    /// What is read of an account from here on is kept by [`Self::remember`], if nothing is forgotten
    /// meanwhile.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, token: TokenHash) -> Option<Arc<Account>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, account) = entries.get(&token)?;
        (at.elapsed() < AGE_MAX).then(|| Arc::clone(account))
    }

    /// Keeps what was read at `generation`, unless something was forgotten since.
    pub(crate) fn remember(
        &self,
        token: TokenHash,
        account: Account,
        generation: u64,
    ) -> Arc<Account> {
        let account = Arc::new(account);
        if !self.hears_news.load(Ordering::Acquire) {
            return account;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() != generation {
            return account;
        }
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (at, _)| at.elapsed() < AGE_MAX);
            if entries.len() >= ENTRIES_MAX {
                entries.clear();
            }
        }
        entries.insert(token, (Instant::now(), Arc::clone(&account)));
        account
    }

    /// Call after the commit of whatever changed the account or its tokens.
    pub(crate) fn forget(&self, user: Id<marker::User>) {
        self.forget_here(Some(user));
        let _ = self.changes.try_send(user);
    }

    /// `None`: everything.
    fn forget_here(&self, user: Option<Id<marker::User>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        match user {
            Some(user) => entries.retain(|_, (_, account)| account.user.user.id != user),
            None => entries.clear(),
        }
    }

    async fn hear(&self, client: Client) {
        loop {
            // Ends when the connection does.
            let heard = self.hear_once(&client).await;
            self.hears_news.store(false, Ordering::Release);
            self.forget_here(None);
            if let Err(error) = heard {
                tracing::debug!(%error, "no news of changed accounts");
            }
            tokio::time::sleep(NEWS_PAUSE).await;
        }
    }

    async fn hear_once(&self, client: &Client) -> redis::RedisResult<()> {
        let server = client.home(keys::ACCOUNTS_CHANGED).await?;
        let mut connection = server.get_async_pubsub().await?;
        connection.subscribe(keys::ACCOUNTS_CHANGED).await?;
        self.hears_news.store(true, Ordering::Release);
        let mut messages = connection.on_message();
        while let Some(message) = messages.next().await {
            let user = message.get_payload::<String>()?;
            if let Ok(user) = user.parse() {
                self.forget_here(Some(user));
            }
        }
        Ok(())
    }

    /// Whether the use of a token is to be written down now.
    pub(crate) fn is_use_to_be_noted(&self, token: TokenHash) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted
            .get(&token)
            .is_some_and(|at| at.elapsed() < USE_NOTED_EVERY)
        {
            return false;
        }
        if noted.len() >= ENTRIES_MAX {
            noted.clear();
        }
        noted.insert(token, Instant::now());
        true
    }
}

/// Tells the other processes which accounts changed.
async fn tell(mut changes: mpsc::Receiver<Id<marker::User>>, mut redis: Connection) {
    while let Some(user) = changes.recv().await {
        let told: redis::RedisResult<()> = redis::cmd("PUBLISH")
            .arg(keys::ACCOUNTS_CHANGED)
            .arg(user.to_string())
            .query_async(&mut redis)
            .await;
        if let Err(error) = told {
            tracing::debug!(%error, "a changed account was not told to the other processes");
        }
    }
}
