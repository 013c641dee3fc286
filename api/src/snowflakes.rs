//! Snowflakes of this process: a worker number leased in Postgres, renewed in the background.
//!
//! Two processes never hold one number: ids stop (503) before the lease can have ended.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use guildhall_shared::{Id, Timestamp, id::DISCORD_EPOCH_MS, snowflake};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

const LEASE: Duration = Duration::from_secs(30);
/// Ids stop this long before the database would give the number away.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
const RENEW_INTERVAL: Duration = Duration::from_secs(8);

/// The least snowflake of a moment, as Postgres keeps it.
pub(crate) fn first_id_at(at: OffsetDateTime) -> i64 {
    let ms = (at.unix_timestamp_nanos() / 1_000_000) as u64;
    (ms.saturating_sub(DISCORD_EPOCH_MS) << 22) as i64
}

/// One moment by two clocks: the steady one stands still while the machine sleeps, the other one may
/// be set.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Instant,
    /// Unix milliseconds.
    wall_ms: u64,
}

impl Moment {
    fn now() -> Self {
        let wall_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
        Self {
            steady: Instant::now(),
            wall_ms: wall_ms as u64,
        }
    }

    fn after(self, time: Duration) -> Self {
        Self {
            steady: self.steady + time,
            wall_ms: self.wall_ms + time.as_millis() as u64,
        }
    }

    /// By both clocks.
    fn is_before(self, other: Self) -> bool {
        self.steady < other.steady && self.wall_ms < other.wall_ms
    }
}

/// Makes ids for as long as the lease holds.
#[derive(Debug)]
pub(crate) struct Snowflakes {
    /// Names this process in `snowflake_worker`.
    holder: String,
    lease: Mutex<Lease>,
}

#[derive(Debug)]
struct Lease {
    worker: u16,
    ids: snowflake::Snowflakes,
    until: Moment,
}

impl Lease {
    fn new(worker: u16, asked_at: Moment) -> Self {
        Self {
            worker,
            ids: snowflake::Snowflakes::new(worker),
            until: Self::end(asked_at),
        }
    }

    fn end(asked_at: Moment) -> Moment {
        asked_at.after(LEASE - LEASE_MARGIN)
    }
}

impl Snowflakes {
    /// Takes a free worker number. Errors: 503 when all 1024 are held.
    pub(crate) async fn lease(db: &PgPool) -> Result<Self> {
        let holder = format!("{:032x}", rand::random::<u128>());
        let asked_at = Moment::now();
        let worker = take_worker(db, &holder).await?;
        let lease = Mutex::new(Lease::new(worker, asked_at));
        Ok(Self { holder, lease })
    }

    /// The next id. Errors: 503 while no lease is held.
    pub(crate) fn next<T>(&self) -> Result<Id<T>> {
        let mut lease = self.lock();
        let now = Moment::now();
        if !now.is_before(lease.until) {
            return Err(Error::Unavailable("the snowflake lease is lost"));
        }
        Ok(lease.ids.next(now.wall_ms))
    }

    /// Whether [`Self::next`] works now.
    pub(crate) fn is_leased(&self) -> bool {
        Moment::now().is_before(self.lock().until)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease until `stop`, then gives the number back.
    pub(crate) async fn keep(&self, db: &PgPool, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(RENEW_INTERVAL))
            .await
            .is_some()
        {
            // On a connection that the network has swallowed it would take for ever.
            match tokio::time::timeout(RENEW_INTERVAL, self.renew(db)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(?error, "the snowflake lease was not renewed; trying again");
                }
                Err(_) => {
                    tracing::warn!("the snowflake lease was not renewed in time; trying again")
                }
            }
        }
        let worker = {
            let mut lease = self.lock();
            lease.until = Moment::now();
            i32::from(lease.worker)
        };
        let released = sqlx::query!(
            "update snowflake_worker set until = now() where worker_id = $1 and holder = $2",
            worker,
            self.holder,
        )
        .execute(db)
        .await;
        if let Err(error) = released {
            tracing::warn!(%error, "the snowflake lease stays until it runs out");
        }
    }

    /// Renews the number that is held, or takes another if it was lost.
    async fn renew(&self, db: &PgPool) -> Result<()> {
        let asked_at = Moment::now();
        let worker = self.lock().worker;
        let renewed = sqlx::query!(
            "update snowflake_worker set until = now() + $3::float8 * interval '1 second'
             where worker_id = $1 and holder = $2",
            i32::from(worker),
            self.holder,
            LEASE.as_secs_f64(),
        )
        .execute(db)
        .await?;
        if renewed.rows_affected() == 1 {
            self.lock().until = Lease::end(asked_at);
            return Ok(());
        }
        let worker = take_worker(db, &self.holder).await?;
        tracing::warn!(
            worker,
            "the snowflake lease was lost; another one is held now"
        );
        *self.lock() = Lease::new(worker, asked_at);
        Ok(())
    }
}

/// Takes a number nobody ever held, else the one free for longest: a clock that is late
/// on this machine then does not repeat ids of the one before.
async fn take_worker(db: &PgPool, holder: &str) -> Result<u16> {
    const ATTEMPTS_MAX: usize = 20;
    for _ in 0..ATTEMPTS_MAX {
        let taken = sqlx::query_scalar!(
            "insert into snowflake_worker (worker_id, holder, until)
             select n, $1, now() + $2::float8 * interval '1 second'
             from generate_series(0, 1023) n
             left join snowflake_worker held on held.worker_id = n
             where held.until is null or held.until < now()
             order by held.until nulls first, random()
             limit 1
             on conflict (worker_id) do update
             set holder = excluded.holder, until = excluded.until
             where snowflake_worker.until < now()
             returning worker_id",
            holder,
            LEASE.as_secs_f64(),
        )
        .fetch_optional(db)
        .await?;
        if let Some(worker) = taken {
            return Ok(worker as u16);
        }
    }
    Err(Error::Unavailable("no snowflake worker number is free"))
}

#[cfg(test)]
mod tests {
    use guildhall_shared::{error_code::ErrorCode, id::marker};

    use super::*;

    fn worker(id: Id<marker::Message>) -> u64 {
        (id.get() >> 12) & 0x3FF
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn no_two_processes_hold_one_number(db: PgPool) {
        let (one, two) = tokio::join!(Snowflakes::lease(&db), Snowflakes::lease(&db));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(worker(one.next().unwrap()), worker(two.next().unwrap()));
        one.renew(&db).await.unwrap();
        assert!(one.is_leased());
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_number_given_to_another_is_replaced(db: PgPool) {
        let ids = Snowflakes::lease(&db).await.unwrap();
        let before = worker(ids.next().unwrap());
        sqlx::query!("update snowflake_worker set holder = 'another'")
            .execute(&db)
            .await
            .unwrap();
        ids.renew(&db).await.unwrap();
        assert_ne!(worker(ids.next().unwrap()), before);
    }

    #[test]
    fn a_lease_ends_by_either_clock() {
        let asked_at = Moment::now();
        let lease = Lease::new(1, asked_at);
        assert!(
            asked_at
                .after(Duration::from_secs(24))
                .is_before(lease.until)
        );
        // The machine slept, or the clock was set back.
        for (steady, wall) in [(1, 60), (60, 0)] {
            let now = Moment {
                steady: asked_at.steady + Duration::from_secs(steady),
                wall_ms: asked_at.wall_ms + wall * 1000,
            };
            assert!(!now.is_before(lease.until), "{steady} {wall}");
        }
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn without_a_lease_there_are_no_ids(db: PgPool) {
        let ids = Snowflakes::lease(&db).await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        ids.keep(&db, stop).await;
        assert!(!ids.is_leased());
        let error = ids.next::<marker::Message>().unwrap_err();
        assert_eq!(error.code(), ErrorCode::ServiceUnavailable);

        sqlx::query!(
            "insert into snowflake_worker select n, 'another', now() + interval '1 minute'
             from generate_series(0, 1023) n
             on conflict (worker_id) do update set until = excluded.until"
        )
        .execute(&db)
        .await
        .unwrap();
        let error = Snowflakes::lease(&db).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ServiceUnavailable);
    }
}
