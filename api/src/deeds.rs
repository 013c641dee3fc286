//! What operators did, in `cluster_audit`: beside the deeds of the coordinators, whose history
//! shows both. Rows are only ever added here; housekeeping deletes those past their time.
//!
//! Details are ids and words of ours: never a token, or a text or name that people chose.

use serde_json::Value;
use sqlx::PgConnection;

use crate::{auth::Operator, error::Result};

/// Writes a row, in the transaction of what it tells of. No map has a part in it, so it bears none.
pub(crate) async fn record(
    db: &mut PgConnection,
    operator: &Operator,
    action: &str,
    detail: Value,
) -> Result<()> {
    sqlx::query!(
        "insert into cluster_audit (who, action, detail, term, version)
         values ($1, $2, $3, 0, 0)",
        operator.name,
        action,
        detail,
    )
    .execute(db)
    .await?;
    Ok(())
}
