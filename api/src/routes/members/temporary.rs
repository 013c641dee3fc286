//! Temporary members: who came by a temporary invite goes when their last session has ended,
//! unless somebody gave them a role, or the guild.
//!
//! Gateways note whom they see (`gateway/src/node/temporary.rs`); who was not seen for a while
//! has no session any more, also where no gateway is left to tell so.

use guildhall_shared::{
    Id,
    id::marker::{Guild, User},
    shard::realm,
};
use sqlx::PgConnection;

use super::{find, remove};
use crate::{access, app::App, error::Result, rows::Rows};

/// Several looks of a gateway: who is not seen in this time has no session.
const UNSEEN_SECONDS: f64 = 60.0;
/// Who came and was never seen has this long to connect.
const NEVER_SEEN_SECONDS: f64 = 600.0;
/// Members removed in one round.
const AT_ONCE_MAX: i64 = 200;

/// Makes a new member a temporary one.
pub(crate) async fn admit_for_now(
    db: &mut PgConnection,
    guild: Id<Guild>,
    user: Id<User>,
) -> Result<()> {
    sqlx::query!(
        "insert into temporary_member (guild_id, user_id) values ($1, $2) on conflict do nothing",
        guild.to_db(),
        user.to_db(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lets those stay who have a role or own the guild, removes those who have no session any more.
pub(crate) async fn remove_unseen(app: &App) -> Result<()> {
    sqlx::query!(
        "delete from temporary_member t using member m, guild g
         where m.guild_id = t.guild_id and m.user_id = t.user_id and g.guild_id = t.guild_id
           and (m.roles <> '{}' or g.owner_id = t.user_id)",
    )
    .execute(&app.db)
    .await?;
    let unseen = sqlx::query!(
        "select t.guild_id, t.user_id from temporary_member t
         join member m on m.guild_id = t.guild_id and m.user_id = t.user_id
         where t.seen_at < now() - make_interval(secs => $1)
            or t.seen_at is null and m.joined_at < now() - make_interval(secs => $2)
         limit $3",
        UNSEEN_SECONDS,
        NEVER_SEEN_SECONDS,
        AT_ONCE_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for row in unseen {
        let (guild, user) = (Id::from_db(row.guild_id), Id::from_db(row.user_id));
        rows.done(remove_one(app, guild, user).await)?;
    }
    Ok(())
}

async fn remove_one(app: &App, guild: Id<Guild>, user: Id<User>) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [realm(guild), realm(user)]).await?;
    // Again: they may have come back, or been given a role, or have left.
    let still = sqlx::query_scalar!(
        r#"select exists (
             select from temporary_member t
             join member m on m.guild_id = t.guild_id and m.user_id = t.user_id
             where t.guild_id = $1 and t.user_id = $2 and m.roles = '{}'
               and (t.seen_at is null or t.seen_at < now() - make_interval(secs => $3)))
           as "still!""#,
        guild.to_db(),
        user.to_db(),
        UNSEEN_SECONDS,
    )
    .fetch_one(&mut *tx)
    .await?;
    if !still {
        return Ok(());
    }
    let found = guildhall_store::guild::by_id(&mut tx, guild).await?;
    if found.is_some_and(|(found, _)| found.owner_id == user) {
        return Ok(());
    }
    let member = find(&mut tx, guild, user).await?;
    let events = remove(&mut tx, guild, &member).await?;
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(())
}
