//! What deleted guilds have left: collected in small batches, each a short transaction.

use guildhall_shared::{Id, id::marker::Guild};
use sqlx::PgPool;

use crate::error::Result;

/// Rows deleted by one statement.
const BATCH: i64 = 1000;
/// Channels take whatever refers to them along.
const BATCH_CHANNELS: i64 = 50;
/// Statements of one round of housekeeping.
const STATEMENTS_MAX: usize = 500;

/// Deletes rows of guilds that are gone, as far as one round of housekeeping gets.
pub(crate) async fn deleted_guilds(db: &PgPool) -> Result<()> {
    let guilds = sqlx::query_scalar!("select guild_id from deleted_guild order by at limit 100")
        .fetch_all(db)
        .await?;
    let mut statements = STATEMENTS_MAX;
    for guild in guilds {
        if !collect(db, Id::from_db(guild), &mut statements).await? {
            break;
        }
    }
    Ok(())
}

/// True once nothing is left of the guild.
async fn collect(db: &PgPool, guild: Id<Guild>, statements: &mut usize) -> Result<bool> {
    let guild = guild.to_db();
    macro_rules! empty {
        ($batch:expr, $statement:literal) => {
            loop {
                let Some(left) = statements.checked_sub(1) else {
                    return Ok(false);
                };
                *statements = left;
                let deleted = sqlx::query!($statement, guild, $batch).execute(db).await?;
                if deleted.rows_affected() < $batch as u64 {
                    break;
                }
            }
        };
    }
    empty!(
        BATCH,
        "delete from member where ctid in (select ctid from member where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from ban where ctid in (select ctid from ban where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from role where ctid in (select ctid from role where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from voice_state
         where ctid in (select ctid from voice_state where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from stage_instance
         where ctid in (select ctid from stage_instance where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from scheduled_event_user where ctid in (
           select u.ctid from scheduled_event_user u join scheduled_event e using (event_id)
           where e.guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from scheduled_event
         where ctid in (select ctid from scheduled_event where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from integration
         where ctid in (select ctid from integration where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from invite_target_user where ctid in (
           select t.ctid from invite_target_user t join invite i using (code)
           where i.guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from invite where ctid in (select ctid from invite where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from automod_rule
         where ctid in (select ctid from automod_rule where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from deleted_role
         where ctid in (select ctid from deleted_role where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH,
        "delete from audit_entry
         where ctid in (select ctid from audit_entry where guild_id = $1 limit $2)"
    );
    empty!(
        BATCH_CHANNELS,
        "delete from channel where ctid in (select ctid from channel where guild_id = $1 limit $2)"
    );
    let mut tx = db.begin().await?;
    sqlx::query!("delete from guild_template where guild_id = $1", guild)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from welcome_screen where guild_id = $1", guild)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from onboarding where guild_id = $1", guild)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from vanity_url where guild_id = $1", guild)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from deleted_guild where guild_id = $1", guild)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}
