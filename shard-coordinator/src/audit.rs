//! Who did what: `cluster_audit`. Rows are only ever added here; the API's housekeeping deletes
//! those past their time.

use guildhall_shared::cluster_map::MapVersion;
use guildhall_shared::operator::{AuditEntry, History};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::error::Result;

/// A row to be.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    pub(crate) who: &'a str,
    pub(crate) action: &'a str,
    pub(crate) detail: Value,
    /// Of the map in use.
    pub(crate) version: MapVersion,
}

/// Writes a row, in the transaction of what it tells of; its id.
pub(crate) async fn record(db: &mut PgConnection, deed: Deed<'_>) -> Result<i64> {
    let id = sqlx::query_scalar!(
        "insert into cluster_audit (who, action, detail, term, version)
         values ($1, $2, $3, $4, $5) returning audit_id",
        deed.who,
        deed.action,
        deed.detail,
        signed(deed.version.term),
        signed(deed.version.version),
    )
    .fetch_one(db)
    .await?;
    Ok(id)
}

/// The newest rows below `before`.
pub(crate) async fn history(db: &PgPool, before: Option<i64>, limit: u32) -> Result<History> {
    let rows = sqlx::query!(
        r#"select audit_id, (extract(epoch from at) * 1000)::bigint as "at_ms!",
             who, action, detail, term, version
           from cluster_audit where audit_id < $1 order by audit_id desc limit $2"#,
        before.unwrap_or(i64::MAX),
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    let full = rows.len() == limit as usize;
    let entries: Vec<AuditEntry> = rows
        .into_iter()
        .map(|row| AuditEntry {
            id: row.audit_id,
            at_ms: row.at_ms.unsigned_abs(),
            who: row.who,
            action: row.action,
            detail: row.detail,
            version: version(row.term, row.version),
        })
        .collect();
    let last = entries.last().map(|entry| entry.id);
    Ok(History {
        next_before: last.filter(|_| full),
        entries,
    })
}

/// As Postgres stores it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn version(term: i64, version: i64) -> MapVersion {
    MapVersion {
        term: term.unsigned_abs(),
        version: version.unsigned_abs(),
    }
}
