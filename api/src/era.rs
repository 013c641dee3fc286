//! What follows a restore from a back-up: commits may be lost, and with them events that
//! clients have seen. A new era tells every reader to start from a snapshot.

use sqlx::PgPool;

use crate::{config::RaiseEraConfig, start::StartError};

/// Realms of one transaction.
const BATCH_MAX: i64 = 5_000;

/// Raises the era of every realm by one; how many there are. If it breaks off, it is begun
/// again: an era that was raised twice does no harm.
///
/// # Errors
/// The database cannot be reached or fails.
pub async fn raise(config: &RaiseEraConfig) -> Result<u64, StartError> {
    let db = PgPool::connect(config.database_url.reveal()).await?;
    let raised = raise_all(&db, BATCH_MAX).await?;
    db.close().await;
    Ok(raised)
}

/// The same, with so many realms at a time.
///
/// # Errors
/// The database fails.
pub async fn raise_all(db: &PgPool, batch_max: i64) -> sqlx::Result<u64> {
    let (mut raised, mut after) = (0, i64::MIN);
    loop {
        let batch = sqlx::query!(
            r#"with batch as (
                 select realm_id from realm_head where realm_id > $1 order by realm_id limit $2
               ), raised as (
                 update realm_head set era = era + 1
                 from batch where realm_head.realm_id = batch.realm_id
                 returning realm_head.realm_id
               )
               select count(*) as "count!", max(realm_id) as last from raised"#,
            after,
            batch_max,
        )
        .fetch_one(db)
        .await?;
        let Some(last) = batch.last else {
            return Ok(raised);
        };
        raised += batch.count as u64;
        after = last;
        tracing::info!(raised, "eras raised");
    }
}
