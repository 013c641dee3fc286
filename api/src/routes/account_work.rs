//! Work on accounts that reaches far: their changes told to their guilds, their end, each at once
//! or in steps.
//!
//! Never checks who may change one: `users`, `profile`, `applications` and `farewell` do.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker,
};
use guildhall_store::account as accounts;
use sqlx::PgConnection;

use super::{dms, members, notes, relationships};
use crate::{
    access,
    account::{self, DELETED_USER},
    app::App,
    error::Result,
    events, oauth, tickets,
};

/// Guilds that are told of a change in its own transaction; more are told in steps after it.
const GUILDS_TOLD_AT_ONCE: usize = 200;

/// A change of an account that is under way.
#[derive(Debug)]
pub(crate) struct Change {
    told: Told,
    /// What the account was called.
    name: String,
}

/// How it reaches the guilds.
#[derive(Debug)]
enum Told {
    /// In the transaction of the change, which has locked them.
    Now(Vec<Id<marker::Guild>>),
    Later,
}

/// Locks the realms that a change of an account is told to. Errors: 10013.
pub(crate) async fn lock_for_change(
    db: &mut PgConnection,
    user: Id<marker::User>,
) -> Result<Change> {
    let told = lock_realms(db, user).await?;
    let name = name(db, user).await?;
    Ok(Change { told, name })
}

/// What an account is called where it has no nick. Errors: 10013.
async fn name(db: &mut PgConnection, user: Id<marker::User>) -> Result<String> {
    let name = sqlx::query_scalar!(
        r#"select coalesce(global_name, username) as "name!" from account where user_id = $1"#,
        user.to_db(),
    );
    Ok(name
        .fetch_optional(db)
        .await?
        .ok_or(ErrorCode::UnknownUser)?)
}

async fn lock_realms(db: &mut PgConnection, user: Id<marker::User>) -> Result<Told> {
    let known = accounts::guild_ids(&mut *db, user).await?;
    if known.len() > GUILDS_TOLD_AT_ONCE {
        access::lock_realms(db, [user.cast()]).await?;
        return Ok(Told::Later);
    }
    let realms = known.iter().map(|guild| guild.cast()).chain([user.cast()]);
    access::lock_realms(&mut *db, realms).await?;
    // A guild that they joined before the lock was had is not locked: all are told in steps.
    let guilds = accounts::guild_ids(db, user).await?;
    let are_locked = guilds
        .iter()
        .all(|guild| known.binary_search(guild).is_ok());
    Ok(match are_locked {
        true => Told::Now(guilds),
        false => Told::Later,
    })
}

/// Numbers USER_UPDATE for the user and GUILD_MEMBER_UPDATE for their guilds, whose automod has a
/// say in a new name. After the commit: [`tell_later`].
pub(crate) async fn append_changes(
    app: &App,
    db: &mut PgConnection,
    user: Id<marker::User>,
    change: &Change,
) -> Result<Vec<Envelope>> {
    let mut events = vec![account::append_update(&mut *db, user).await?];
    let job = match name(db, user).await? == change.name {
        true => Job::TellGuilds,
        false => Job::Rename,
    };
    match &change.told {
        Told::Now(guilds) => {
            for &guild in guilds {
                events.extend(tell_guild(app, db, guild, user, job).await?);
            }
        }
        Told::Later => add_job(db, user, job).await?,
    }
    Ok(events)
}

/// Tells the many guilds, after the commit.
pub(crate) fn tell_later(app: &App, change: &Change) {
    if matches!(change.told, Told::Later) {
        work_in_background(app);
    }
}

/// Empties a deleted account, so that nobody can use or find it, and leaves the rest to
/// [`work_in_background`]. Its realm's head is locked.
pub(crate) async fn bury(db: &mut PgConnection, user: Id<marker::User>) -> Result<()> {
    let name = format!("{DELETED_USER}{:x}", user.get());
    sqlx::query!(
        "update account set
           state = 3, username = $2, discriminator = '0', global_name = 'Deleted User',
           avatar = null, banner = null, accent_color = null, bio = '', pronouns = '',
           email = null, password_hash = null, verified = false, locale = 'en-US', flags = 0,
           public_flags = 0, date_of_birth = null
         where user_id = $1",
        user.to_db(),
        name,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!("delete from account_mfa where user_id = $1", user.to_db())
        .execute(&mut *db)
        .await?;
    tickets::void_all(&mut *db, user).await?;
    oauth::withdraw_all(&mut *db, user).await?;
    add_job(db, user, Job::Erase).await
}

/// What is done to an account in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// GUILD_MEMBER_UPDATE in all its guilds.
    TellGuilds = 1,
    /// Out of its guilds and group DMs, and everything that was its alone away.
    Erase = 2,
    /// [`Self::TellGuilds`] of another name.
    Rename = 3,
}

/// Stores a job, or lets one that is there start over. After the commit:
/// [`work_in_background`].
async fn add_job(db: &mut PgConnection, user: Id<marker::User>, job: Job) -> Result<()> {
    sqlx::query!(
        "insert into account_job (user_id, kind) values ($1, $2)
         on conflict (user_id, kind) do update set after_id = 0",
        user.to_db(),
        job as i16,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Guilds of one step; each holds its guild's lock to the end of the step.
const GUILDS_AT_ONCE: i64 = 20;
/// Rows of one step.
const ROWS_AT_ONCE: i64 = 500;
/// Others of one step, each of whom is told.
const OTHERS_AT_ONCE: i64 = 50;
/// Jobs looked at in one round.
const JOBS_AT_ONCE: i64 = 20;

/// Does what is to be done, now; [`work`] is tried again by housekeeping.
pub(crate) fn work_in_background(app: &App) {
    let worker = app.clone();
    app.work.spawn(async move {
        if let Err(error) = work(&worker).await {
            tracing::warn!(
                ?error,
                "work on accounts failed; the next round tries again"
            );
        }
    });
}

/// Goes through the stored jobs to their end. Several processes may: a step that another
/// one did counts for nothing.
pub(crate) async fn work(app: &App) -> Result<()> {
    let jobs = sqlx::query!(
        "select user_id, kind from account_job order by user_id, kind limit $1",
        JOBS_AT_ONCE,
    )
    .fetch_all(&app.db)
    .await?;
    for job in jobs {
        let user = Id::from_db(job.user_id);
        match job.kind {
            1 => while !app.stop.is_cancelled() && tell_some(app, user, Job::TellGuilds).await? {},
            3 => while !app.stop.is_cancelled() && tell_some(app, user, Job::Rename).await? {},
            2 => while !app.stop.is_cancelled() && erase_some(app, user).await? {},
            // Of a later version, which knows what to do.
            _ => {}
        }
    }
    Ok(())
}

/// One step of telling guilds; false when there is none left.
async fn tell_some(app: &App, user: Id<marker::User>, job: Job) -> Result<bool> {
    let mut tx = app.db.begin().await?;
    let after = sqlx::query_scalar!(
        "select after_id from account_job where user_id = $1 and kind = $2",
        user.to_db(),
        job as i16,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(after) = after else { return Ok(false) };
    let guilds = sqlx::query_scalar!(
        "select guild_id from member join guild using (guild_id)
         where user_id = $1 and guild_id > $2 order by guild_id limit $3",
        user.to_db(),
        after,
        GUILDS_AT_ONCE,
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(&last) = guilds.last() else {
        let ended = sqlx::query!(
            "delete from account_job where user_id = $1 and kind = $2 and after_id = $3",
            user.to_db(),
            job as i16,
            after,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        // It started over meanwhile.
        return Ok(ended.rows_affected() == 0);
    };
    let guilds: Vec<Id<marker::Guild>> = guilds.into_iter().map(Id::from_db).collect();
    access::lock_realms(&mut tx, guilds.iter().map(|guild| guild.cast())).await?;
    let mut events = Vec::new();
    for guild in guilds {
        events.extend(tell_guild(app, &mut tx, guild, user, job).await?);
    }
    // Last, because whoever starts it over holds locks of realms too.
    let moved = sqlx::query!(
        "update account_job set after_id = $4
         where user_id = $1 and kind = $2 and after_id = $3",
        user.to_db(),
        job as i16,
        after,
        last,
    )
    .execute(&mut *tx)
    .await?;
    if moved.rows_affected() > 0 {
        tx.commit().await?;
        app.publisher.publish(events);
    }
    Ok(true)
}

/// Tells a guild, whose head is locked, that a user's account has changed, if they are a member.
async fn tell_guild(
    app: &App,
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    user: Id<marker::User>,
    job: Job,
) -> Result<Vec<Envelope>> {
    if job == Job::Rename {
        return members::rename(app, db, guild, user).await;
    }
    let event = append_member_update(db, guild, user).await?;
    Ok(event.into_iter().collect())
}

/// Numbers GUILD_MEMBER_UPDATE of a user in a guild whose head is locked; `None` if they are
/// no member.
async fn append_member_update(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    user: Id<marker::User>,
) -> Result<Option<Envelope>> {
    let Some(member) = guildhall_store::guild::member(&mut *db, guild, user).await? else {
        return Ok(None);
    };
    let mut vis = Visibility::realm(Intents::GUILD_MEMBERS);
    vis.regardless.push(user);
    let mut body = serde_json::to_value(&member)?;
    body["guild_id"] = serde_json::json!(guild);
    let event = events::append(db, guild, EventKind::GuildMemberUpdate, vis, &body, None);
    event.await.map(Some)
}

/// One step; false when there is none left.
///
/// What was theirs alone goes, and what ties others to them: memberships, with the threads and voice
/// channels they were in; group DMs; relationships; notes, their own and those about them;
/// settings; read states and mentions; what events they are interested in; the day they were last
/// seen. Tokens, grants, tickets and the second factor have gone with [`bury`].
///
/// What others read stays, by a deleted user: messages, reactions, votes, threads, DMs of two. So does
/// what is a guild's: bans, timeouts (to their end), invites and whom they are for, what somebody made
/// there (webhooks, emojis, events, rules, …) and the audit log; and applications, whose bots others have.
async fn erase_some(app: &App, user: Id<marker::User>) -> Result<bool> {
    if leave_some_guilds(app, user).await?
        || dms::leave_group(app, user).await?
        || relationships::erase_some(app, user, OTHERS_AT_ONCE).await?
        || notes::erase_some(app, user, OTHERS_AT_ONCE).await?
        || erase_some_rows(app, user).await?
    {
        return Ok(true);
    }
    sqlx::query!(
        "delete from account_job where user_id = $1 and kind = $2",
        user.to_db(),
        Job::Erase as i16,
    )
    .execute(&app.db)
    .await?;
    Ok(false)
}

async fn leave_some_guilds(app: &App, user: Id<marker::User>) -> Result<bool> {
    // A guild that was given to them, by an earlier version, keeps its owner.
    let guilds = sqlx::query_scalar!(
        "select m.guild_id from member m join guild g using (guild_id)
         where m.user_id = $1 and g.owner_id <> $1 order by m.guild_id limit $2",
        user.to_db(),
        GUILDS_AT_ONCE,
    )
    .fetch_all(&app.db)
    .await?;
    if guilds.is_empty() {
        return Ok(false);
    }
    let guilds: Vec<Id<marker::Guild>> = guilds.into_iter().map(Id::from_db).collect();
    let mut tx = app.db.begin().await?;
    let realms = guilds.iter().map(|guild| guild.cast()).chain([user.cast()]);
    access::lock_realms(&mut tx, realms).await?;
    let mut events = Vec::new();
    for guild in guilds {
        if let Some(member) = guildhall_store::guild::member(&mut *tx, guild, user).await? {
            events.extend(members::remove(&mut tx, guild, &member).await?);
        }
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(true)
}

/// What nobody is told of. That they are interested in no event any more follows from their having
/// left the guild.
async fn erase_some_rows(app: &App, user: Id<marker::User>) -> Result<bool> {
    let notes = sqlx::query!(
        "delete from user_note where (user_id, about_id) in (
           select user_id, about_id from user_note where user_id = $1 limit $2)",
        user.to_db(),
        ROWS_AT_ONCE,
    )
    .execute(&app.db)
    .await?;
    let settings = sqlx::query!(
        "delete from user_guild_settings where (user_id, guild_id) in (
           select user_id, guild_id from user_guild_settings where user_id = $1 limit $2)",
        user.to_db(),
        ROWS_AT_ONCE,
    )
    .execute(&app.db)
    .await?;
    let read = sqlx::query!(
        "delete from read_state where (user_id, channel_id) in (
           select user_id, channel_id from read_state where user_id = $1 limit $2)",
        user.to_db(),
        ROWS_AT_ONCE,
    )
    .execute(&app.db)
    .await?;
    let mentions = sqlx::query!(
        "delete from user_mention where (user_id, message_id) in (
           select user_id, message_id from user_mention where user_id = $1 limit $2)",
        user.to_db(),
        ROWS_AT_ONCE,
    )
    .execute(&app.db)
    .await?;
    let interests = sqlx::query!(
        "delete from scheduled_event_user where (event_id, exception_id, user_id) in (
           select event_id, exception_id, user_id from scheduled_event_user
           where user_id = $1 limit $2)",
        user.to_db(),
        ROWS_AT_ONCE,
    )
    .execute(&app.db)
    .await?;
    sqlx::query!(
        "with seen as (delete from account_seen where user_id = $1)
         delete from user_settings where user_id = $1",
        user.to_db(),
    )
    .execute(&app.db)
    .await?;
    let gone = [notes, settings, read, mentions, interests];
    Ok(gone.iter().any(|gone| gone.rows_affected() > 0))
}
