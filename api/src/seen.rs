//! On which day an account last used the API: what prune goes by.
//!
//! Requests only note who they are from; housekeeping stores it. A process that dies forgets
//! at most what it noted since the round before. Whoever only listens at a gateway is not
//! seen: every client makes requests too (it logs in, it marks what was read).

use std::sync::{Mutex, PoisonError};

use guildhall_shared::{Id, id::marker::User};
use rustc_hash::FxHashSet;
use sqlx::PgPool;
use time::{Date, OffsetDateTime};

use crate::error::Result;

/// Accounts remembered as seen today; more are stored again, which does no harm.
const KNOWN_MAX: usize = 200_000;
/// Accounts stored by one statement.
const STORE_MAX: usize = 5000;

/// Who was seen today.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Today>);

#[derive(Debug, Default)]
struct Today {
    day: Option<Date>,
    /// Noted, stored or not.
    known: FxHashSet<Id<User>>,
    /// Noted, not stored yet.
    fresh: Vec<Id<User>>,
}

impl Seen {
    /// Cheap: called for every request.
    pub(crate) fn note(&self, user: Id<User>) {
        let day = OffsetDateTime::now_utc().date();
        let mut today = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != Some(day) || today.known.len() >= KNOWN_MAX {
            today.day = Some(day);
            today.known.clear();
        }
        if today.known.insert(user) {
            today.fresh.push(user);
        }
    }

    fn take(&self) -> Vec<Id<User>> {
        let mut today = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut today.fresh)
    }

    /// Housekeeping. Of who has deleted their account since, nothing is stored.
    pub(crate) async fn store(&self, db: &PgPool) -> Result<()> {
        let fresh = self.take();
        for some in fresh.chunks(STORE_MAX) {
            let mut ids: Vec<i64> = some.iter().map(|user| user.to_db()).collect();
            ids.sort_unstable();
            ids.dedup();
            sqlx::query!(
                "insert into account_seen (user_id, seen_on)
                 select s.user_id, (now() at time zone 'utc')::date
                 from unnest($1::bigint[]) as s (user_id)
                 where not exists (
                   select from account a where a.user_id = s.user_id and a.state = 3)
                 on conflict (user_id) do update set seen_on = excluded.seen_on
                 where account_seen.seen_on < excluded.seen_on",
                &ids,
            )
            .execute(db)
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrations = "../migrations")]
    async fn an_account_is_stored_once_a_day(db: PgPool) {
        let seen = Seen::default();
        for id in [1, 2, 1] {
            seen.note(Id::from_db(id));
        }
        seen.store(&db).await.unwrap();
        seen.note(Id::from_db(2));
        assert!(seen.take().is_empty());
        let stored = sqlx::query_scalar!("select user_id from account_seen order by user_id");
        assert_eq!(stored.fetch_all(&db).await.unwrap(), [1, 2]);
    }
}
