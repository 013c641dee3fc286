//! Who leads: one row in `cluster_term`. Knows nothing of maps but their terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::POSTGRES_ANSWER_MAX;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// How long a lease lasts unless it is renewed.
pub const LEASE: Duration = Duration::from_secs(6);
/// Time between renewals, and between attempts of those who wait.
pub const RENEWAL: Duration = Duration::from_secs(2);
/// A leader acts no longer than this before its lease ends. Longer than the slowest write to
/// Redis, so that none is under way when another coordinator takes over.
pub const MARGIN: Duration = Duration::from_millis(1_000);

/// The right to publish maps of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) term: u64,
    acts_until: Instant,
}

impl Lease {
    /// Postgres counts the lease from when it runs the statement, which is after `asked`.
    fn new(term: u64, asked: Instant) -> Self {
        let acts_until = asked + (LEASE - MARGIN);
        Self { term, acts_until }
    }

    pub(crate) fn holds(&self, now: Instant) -> bool {
        now < self.acts_until
    }
}

/// What the rest of the process knows of the lead, and tells of it.
#[derive(Clone)]
pub(crate) struct Lead {
    lease: watch::Receiver<Option<Lease>>,
    /// Highest term of any map seen, or reported.
    term_seen: Arc<AtomicU64>,
}

impl Lead {
    /// The lease, if this process may act now.
    pub(crate) fn current(&self, now: Instant) -> Option<Lease> {
        self.lease.borrow().filter(|lease| lease.holds(now))
    }

    /// A map of this term exists, or a gateway has one. If it is above the own one, the lead is taken again with a
    /// higher term: Postgres may have been restored, and gateways refuse lower terms.
    pub(crate) fn saw_term(&self, term: u64) {
        self.term_seen.fetch_max(term, Ordering::Relaxed);
    }
}

/// Takes and keeps the lead.
pub(crate) struct Leader {
    db: PgPool,
    /// The coordinator's name and a number of this process: two processes of one name are
    /// still two.
    holder: String,
    lease: watch::Sender<Option<Lease>>,
    term_seen: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Leader {
    pub(crate) fn new(db: PgPool, id: &str, metrics: Arc<Metrics>) -> (Self, Lead) {
        let (sender, receiver) = watch::channel(None);
        let term_seen = Arc::new(AtomicU64::new(0));
        let lead = Lead {
            lease: receiver,
            term_seen: Arc::clone(&term_seen),
        };
        let leader = Self {
            db,
            holder: format!("{id}/{:016x}", rand::random::<u64>()),
            lease: sender,
            term_seen,
            metrics,
        };
        (leader, lead)
    }

    /// Runs until `stop`; the lease is kept then, see [`Self::release`].
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut tick = interval(RENEWAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.look().await;
        }
    }

    async fn look(&self) {
        if let Err(error) = self.attempt().await {
            tracing::warn!(%error, "could not take or renew the lead");
            // The lease we have runs out by itself, unless renewed before.
            let lease = *self.lease.borrow();
            let leads = lease.is_some_and(|lease| lease.holds(Instant::now()));
            self.metrics.leading.set(i64::from(leads));
        }
    }

    async fn attempt(&self) -> Result<()> {
        let held = *self.lease.borrow();
        let lease = match held {
            Some(lease) => match self.renew(lease.term).await? {
                Some(lease) => Some(lease),
                None => {
                    tracing::warn!(term = lease.term, "lost the lead");
                    None
                }
            },
            None => self.take().await?,
        };
        if let (None, Some(lease)) = (held, lease) {
            tracing::info!(term = lease.term, "took the lead");
            self.metrics
                .term
                .set(i64::try_from(lease.term).unwrap_or(i64::MAX));
        }
        self.metrics.leading.set(i64::from(lease.is_some()));
        self.lease.send_replace(lease);
        Ok(())
    }

    /// Takes the lead if nobody holds it, with a term above all before.
    async fn take(&self) -> Result<Option<Lease>> {
        let asked = Instant::now();
        let seen = self.term_seen.load(Ordering::Relaxed);
        let taken = sqlx::query_scalar!(
            "update cluster_term
             set term = greatest(term, $2) + 1, holder = $1,
                 until = now() + $3::float8 * interval '1 second'
             where until < now()
             returning term",
            self.holder,
            i64::try_from(seen).unwrap_or(i64::MAX - 1),
            LEASE.as_secs_f64(),
        )
        .fetch_optional(&self.db);
        let term = in_time(taken).await?;
        Ok(term.map(|term| Lease::new(term.unsigned_abs(), asked)))
    }

    /// Prolongs the lease; `None` if another coordinator has taken the lead, or if a map of a
    /// later term exists.
    async fn renew(&self, term: u64) -> Result<Option<Lease>> {
        if self.term_seen.load(Ordering::Relaxed) > term {
            self.give_up(term).await?;
            return Ok(None);
        }
        let asked = Instant::now();
        let renewed = sqlx::query!(
            "update cluster_term set until = now() + $3::float8 * interval '1 second'
             where holder = $1 and term = $2",
            self.holder,
            i64::try_from(term).unwrap_or(i64::MAX),
            LEASE.as_secs_f64(),
        )
        .execute(&self.db);
        let renewed = in_time(renewed).await?.rows_affected() > 0;
        Ok(renewed.then(|| Lease::new(term, asked)))
    }

    /// Ends the lease now, so that another coordinator need not wait for its end.
    pub(crate) async fn release(&self) {
        let Some(lease) = self.lease.send_replace(None) else {
            return;
        };
        self.metrics.leading.set(0);
        match self.give_up(lease.term).await {
            Ok(()) => tracing::info!(term = lease.term, "released the lead"),
            Err(error) => tracing::warn!(%error, "could not release the lead; it runs out"),
        }
    }

    async fn give_up(&self, term: u64) -> Result<()> {
        let given = sqlx::query!(
            "update cluster_term set until = now() where holder = $1 and term = $2",
            self.holder,
            i64::try_from(term).unwrap_or(i64::MAX),
        )
        .execute(&self.db);
        in_time(given).await?;
        Ok(())
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    let answer = timeout(POSTGRES_ANSWER_MAX, answer).await;
    Ok(answer.map_err(|_| Error::Silent("Postgres"))??)
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;
    use crate::config::REDIS_ANSWER_MAX;

    #[tokio::test]
    async fn who_cannot_renew_a_lease_says_that_it_leads_no_longer_than_it_lasts() {
        let nobody = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(50))
            .connect_lazy("postgres://nobody@127.0.0.1:1/none")
            .unwrap();
        let metrics = Arc::new(Metrics::new());
        let (leader, _lead) = Leader::new(nobody, "one", Arc::clone(&metrics));
        let now = Instant::now();
        let over = now.checked_sub(LEASE).unwrap();
        for (asked, leading) in [(now, 1), (over, 0)] {
            metrics.leading.set(1);
            leader.lease.send_replace(Some(Lease::new(1, asked)));
            leader.look().await;
            assert_eq!(metrics.leading.get(), leading);
        }
    }

    #[test]
    fn a_leader_stops_acting_before_its_lease_ends() {
        let asked = Instant::now();
        let lease = Lease::new(1, asked);
        assert!(lease.holds(asked + LEASE - MARGIN - Duration::from_millis(1)));
        assert!(!lease.holds(asked + LEASE - MARGIN));
        assert!(REDIS_ANSWER_MAX < MARGIN);
        assert!(RENEWAL + POSTGRES_ANSWER_MAX < LEASE - MARGIN);
    }
}
