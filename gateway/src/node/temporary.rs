//! Says which temporary members have sessions here, so that the API removes the others.
//!
//! Kept in Postgres: whoever dies, a member who is seen nowhere any more is found there.

use std::{rc::Rc, time::Duration};

use guildhall_shared::shard;
use guildhall_store::temporary;
use sqlx::PgPool;
use tokio::time::sleep;

use super::{database, edge::Edge};

/// The API waits for several of these before it removes somebody
/// (`api/src/routes/members/temporary.rs`).
const INTERVAL: Duration = Duration::from_secs(15);
/// Users looked at by one query.
const USERS_MAX: i64 = 5000;

/// Runs as long as the task lives.
pub(crate) async fn run(db: PgPool, edge: Rc<Edge>) {
    loop {
        sleep(INTERVAL).await;
        if let Err(error) = look(&db, &edge).await {
            tracing::warn!(%error, "temporary members not looked at");
        }
    }
}

async fn look(db: &PgPool, edge: &Edge) -> Result<(), database::Error> {
    let mut after = None;
    loop {
        let users = database::limited(temporary::users(db, after, USERS_MAX)).await?;
        let Some(&last) = users.last() else {
            return Ok(());
        };
        // Whoever has a session listens to their own realm.
        let here: Vec<_> = users
            .into_iter()
            .filter(|&user| edge.wants(shard::realm(user)))
            .collect();
        if !here.is_empty() {
            database::limited(temporary::seen(db, &here)).await?;
        }
        after = Some(last);
    }
}
