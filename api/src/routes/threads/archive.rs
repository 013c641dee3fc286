//! Threads that fall asleep and wake up.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{Channel, Guild},
    model::ThreadMember,
};
use guildhall_store::thread::{self, Whose};
use serde::Serialize;
use sqlx::PgConnection;

use super::{load, only, require_room, tell_thread};
use crate::{
    access::{self, Audience},
    app::App,
    error::Result,
    events,
    rows::Rows,
};

/// Threads archived by one round of housekeeping.
const IDLE_MAX: i64 = 500;

/// THREAD_MEMBER_UPDATE.
#[derive(Serialize)]
pub(super) struct MemberUpdate<'a> {
    #[serde(flatten)]
    pub(super) member: &'a ThreadMember,
    pub(super) guild_id: Id<Guild>,
}

/// Wakes an archived thread; its members hear of their membership anew. The guild's head is
/// locked.
///
/// Errors: 160006, 160007 as in [`require_room`].
pub(super) async fn revive(db: &mut PgConnection, id: Id<Channel>) -> Result<Vec<Envelope>> {
    let was = load(&mut *db, id).await?;
    require_room(&mut *db, was.guild_id, was.kind).await?;
    sqlx::query!(
        "update thread set archived = false, archive_at = now(), active_at = now()
         where thread_id = $1",
        id.to_db(),
    )
    .execute(&mut *db)
    .await?;
    let thread = load(db, id).await?;
    let mut told = tell_thread(db, EventKind::ThreadUpdate, &thread).await?;
    told.extend(remind(db, thread.guild_id, id).await?);
    Ok(told)
}

/// [`revive`]s a place before a message of somebody who is no member (a webhook, an interaction)
/// comes into it, if it is a thread that is archived and not locked.
pub(crate) async fn wake(db: &mut PgConnection, place: &Audience) -> Result<Vec<Envelope>> {
    if !place.kind.is_thread() {
        return Ok(Vec::new());
    }
    let was = load(db, place.channel).await?.thread_metadata;
    match was.archived && !was.locked {
        true => revive(db, place.channel).await,
        false => Ok(Vec::new()),
    }
}

/// Before a message is edited by somebody who is no member. The place is locked.
///
/// Errors: 50083 in an archived thread.
pub(crate) async fn require_awake(db: &mut PgConnection, place: &Audience) -> Result<()> {
    if place.kind.is_thread() && load(db, place.channel).await?.thread_metadata.archived {
        return Err(ErrorCode::ThreadArchived.into());
    }
    Ok(())
}

/// Tells every member of a woken thread that they are in it: who listens forgot archived ones.
pub(super) async fn remind(
    db: &mut PgConnection,
    guild: Id<Guild>,
    id: Id<Channel>,
) -> Result<Vec<Envelope>> {
    let mut reminders = Vec::new();
    for member in thread::members(&mut *db, &[id], Whose::Everybodys).await? {
        let Some(user) = member.user_id else { continue };
        let body = MemberUpdate {
            member: &member,
            guild_id: guild,
        };
        reminders.push((only(user), Bytes::from(serde_json::to_vec(&body)?)));
    }
    events::append_many(db, guild, EventKind::ThreadMemberUpdate, reminders).await
}

/// Archives threads in which nothing happened for as long as they allow. For housekeeping.
pub(crate) async fn archive_idle(app: &App) -> Result<()> {
    let idle = sqlx::query!(
        "select thread_id, guild_id from thread
         where not archived and active_at < now() - auto_archive_minutes * interval '1 minute'
         order by active_at limit $1",
        IDLE_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for row in idle {
        let (id, guild) = (Id::from_db(row.thread_id), Id::from_db(row.guild_id));
        rows.done(archive_one(app, id, guild).await)?;
    }
    Ok(())
}

async fn archive_one(app: &App, id: Id<Channel>, guild: Id<Guild>) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast()]).await?;
    let done = sqlx::query!(
        "update thread set archived = true, archive_at = now()
         where thread_id = $1 and not archived
           and active_at < now() - auto_archive_minutes * interval '1 minute'",
        id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    // Somebody wrote there meanwhile, or another process was quicker.
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let thread = load(&mut tx, id).await?;
    let told = tell_thread(&mut tx, EventKind::ThreadUpdate, &thread).await?;
    tx.commit().await?;
    app.publisher.publish(told);
    Ok(())
}
