//! Periodic work on the database: partitions of the event log, expired rows.
//!
//! Every API process runs it; an advisory lock lets one at a time do it.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::{OffsetDateTime, macros::format_description};
use tokio_util::sync::CancellationToken;

use crate::error::Result;

const INTERVAL: Duration = Duration::from_secs(60);
/// Length of one partition of `realm_event`.
const PARTITION_SECONDS: i64 = 600;
/// Partitions exist at least this far ahead, so that the log outlives a night without housekeeping.
const AHEAD_SECONDS: i64 = 2 * 3600 + PARTITION_SECONDS;
/// Events are kept this long after their partition has ended.
const KEEP_SECONDS: i64 = 1800;
/// An enforced nonce is remembered this long.
const NONCE_SECONDS: f64 = 600.0;
/// Key of the advisory lock (`"guildhal"` as a number).
const LOCK: i64 = i64::from_be_bytes(*b"guildhal");

/// Runs until `stop`.
pub(crate) async fn run(db: &PgPool, stop: CancellationToken) {
    loop {
        if let Err(error) = run_once(db).await {
            tracing::warn!(?error, "housekeeping failed; the next round starts afresh");
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(INTERVAL))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// One round; nothing if another process is at it.
pub async fn run_once(db: &PgPool) -> Result<()> {
    let mut tx = db.begin().await?;
    let locked = sqlx::query_scalar!("select pg_try_advisory_xact_lock($1)", LOCK)
        .fetch_one(&mut *tx)
        .await?;
    if locked != Some(true) {
        return Ok(());
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    create_partitions(&mut tx, now).await?;
    drop_partitions(&mut tx, now).await?;
    sqlx::query!(
        "delete from message_nonce where at < now() - $1::float8 * interval '1 second'",
        NONCE_SECONDS,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Creates the partitions from the one of `now` (Unix seconds) to those well ahead.
async fn create_partitions(db: &mut PgConnection, now: i64) -> Result<()> {
    let existing = partitions(db).await?;
    let first = now - now.rem_euclid(PARTITION_SECONDS);
    let mut start = first;
    while start < now + AHEAD_SECONDS {
        let name = partition_name(start);
        if !existing.contains(&name) {
            // Identifiers and bounds cannot be parameters; both are made of numbers only.
            let statement = format!(
                "create table if not exists {name} partition of realm_event
                 for values from (to_timestamp({start})) to (to_timestamp({}))",
                start + PARTITION_SECONDS,
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut *db)
                .await?;
        }
        start += PARTITION_SECONDS;
    }
    Ok(())
}

/// Drops partitions whose events nobody can ask for any more.
async fn drop_partitions(db: &mut PgConnection, now: i64) -> Result<()> {
    for name in partitions(db).await? {
        let Some(start) = partition_start(&name) else {
            continue;
        };
        if start + PARTITION_SECONDS + KEEP_SECONDS < now {
            let statement = format!("drop table {name}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut *db)
                .await?;
        }
    }
    Ok(())
}

async fn partitions(db: &mut PgConnection) -> Result<Vec<String>> {
    let names = sqlx::query_scalar!(
        r#"select c.relname::text as "name!"
           from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'realm_event'::regclass"#,
    )
    .fetch_all(db)
    .await?;
    Ok(names)
}

/// `realm_event_202611231510`: the UTC minute it starts at.
fn partition_name(start: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(start).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = at.format(format_description!("[year][month][day][hour][minute]"));
    format!(
        "realm_event_{}",
        text.expect("a date has all parts of the format")
    )
}

fn partition_start(name: &str) -> Option<i64> {
    let text = name.strip_prefix("realm_event_")?;
    let format = format_description!("[year][month][day][hour][minute]");
    let at = time::PrimitiveDateTime::parse(text, format).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_by_its_start() {
        let start = 1_795_446_600;
        assert_eq!(partition_start(&partition_name(start)), Some(start));
        assert_eq!(partition_start("realm_event_default"), None);
    }
}
