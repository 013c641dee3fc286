//! Temporary members: who they are, and which of them gateways see.

use guildhall_shared::id::{Id, marker::User};
use sqlx::PgExecutor;

use crate::Result;

/// Users that are a temporary member somewhere, after `after`, ascending, at most `limit`.
pub async fn users(
    db: impl PgExecutor<'_>,
    after: Option<Id<User>>,
    limit: i64,
) -> Result<Vec<Id<User>>> {
    let ids = sqlx::query_scalar!(
        "select distinct user_id from temporary_member where user_id > $1 order by user_id limit $2",
        after.map_or(0, Id::to_db),
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(crate::ids_from_db(ids))
}

/// Notes that these users have sessions now.
pub async fn seen(db: impl PgExecutor<'_>, users: &[Id<User>]) -> Result<()> {
    sqlx::query!(
        "update temporary_member set seen_at = now() where user_id = any($1)",
        &crate::ids_to_db(users),
    )
    .execute(db)
    .await?;
    Ok(())
}
