//! What deleted guilds have left: collected in small batches, each a short transaction.

use guildhall_shared::{Id, id::marker::Guild};
use sqlx::{PgPool, PgTransaction};

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
        match collect(db, Id::from_db(guild), &mut statements).await {
            Ok(true) => {}
            Ok(false) => break,
            // Behind the others, so that it holds up none of them.
            Err(error) => {
                tracing::warn!(?error, guild, "what a guild left was not collected");
                sqlx::query!(
                    "update deleted_guild set at = now() where guild_id = $1",
                    guild
                )
                .execute(db)
                .await?;
            }
        }
    }
    Ok(())
}

/// A transaction that has the guild for itself: who deletes rows that another process is deleting
/// sees nothing left and is not to believe it. `None`: another one is at it, or it is done.
async fn begin(db: &PgPool, guild: i64) -> Result<Option<PgTransaction<'static>>> {
    let mut tx = db.begin().await?;
    let entry = sqlx::query_scalar!(
        "select guild_id from deleted_guild where guild_id = $1 for update skip locked",
        guild,
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(entry.map(|_| tx))
}

/// False once the round has no statements left.
async fn collect(db: &PgPool, guild: Id<Guild>, statements: &mut usize) -> Result<bool> {
    let guild = guild.to_db();
    macro_rules! empty {
        ($batch:expr, $($statement:tt)+) => {
            loop {
                let Some(left) = statements.checked_sub(1) else {
                    return Ok(false);
                };
                *statements = left;
                let Some(mut tx) = begin(db, guild).await? else {
                    return Ok(true);
                };
                let deleted = sqlx::query!($($statement)+, guild, $batch)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                if deleted.rows_affected() < $batch as u64 {
                    break;
                }
            }
        };
    }
    /// Rows that name the guild themselves.
    macro_rules! empty_table {
        ($table:literal) => {
            empty!(
                BATCH,
                "delete from "
                    + $table
                    + " where ctid in (select ctid from "
                    + $table
                    + " where guild_id = $1 limit $2)"
            )
        };
    }
    empty_table!("member");
    empty_table!("silenced_leaver");
    empty_table!("ban");
    empty_table!("ban_purge");
    empty_table!("role");
    empty_table!("voice_state");
    empty_table!("stage_instance");
    empty!(
        BATCH,
        "delete from scheduled_event_user where ctid in (
           select u.ctid from scheduled_event_user u join scheduled_event e using (event_id)
           where e.guild_id = $1 limit $2)"
    );
    empty_table!("scheduled_event");
    empty_table!("integration");
    empty!(
        BATCH,
        "delete from invite_target_user where ctid in (
           select t.ctid from invite_target_user t join invite i using (code)
           where i.guild_id = $1 limit $2)"
    );
    empty_table!("invite");
    empty_table!("automod_rule");
    empty_table!("deleted_role");
    empty_table!("audit_entry");
    empty!(
        BATCH_CHANNELS,
        "delete from channel where ctid in (select ctid from channel where guild_id = $1 limit $2)"
    );
    let Some(mut tx) = begin(db, guild).await? else {
        return Ok(true);
    };
    /// What there is one of per guild, or nearly.
    macro_rules! delete {
        ($table:literal) => {
            sqlx::query!("delete from " + $table + " where guild_id = $1", guild)
                .execute(&mut *tx)
                .await?
        };
    }
    delete!("guild_template");
    delete!("welcome_screen");
    delete!("onboarding");
    delete!("vanity_url");
    delete!("deleted_guild");
    tx.commit().await?;
    Ok(true)
}
