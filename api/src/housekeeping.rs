//! Periodic work on the database: partitions of the event log, expired rows.
//!
//! Every API process runs it. Each step is a short transaction of its own, because
//! dropping a partition locks out whoever writes an event.

use std::{collections::HashSet, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use guildhall_shared::{
    Id, Permissions,
    envelope::{Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
};
use serde_json::json;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use time::{OffsetDateTime, macros::format_description};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    access,
    app::App,
    audit, collect,
    error::Result,
    events, media,
    routes::{
        account_work, applications, bans, interactions, members, mentions, messages, oauth2, polls,
        roles, scheduled_events, stages, threads, voice, webhooks,
    },
    rows::Rows,
    second_factor, tickets,
};

const INTERVAL: Duration = Duration::from_secs(60);
/// A step that takes longer waits for what never comes: the network may swallow a connection.
const STEP_MAX: Duration = Duration::from_secs(600);
/// Length of one partition of `realm_event`.
const PARTITION_SECONDS: i64 = 600;
/// Partitions exist at least this far ahead, so that the log outlives two hours without housekeeping.
const AHEAD_SECONDS: i64 = 2 * 3600 + PARTITION_SECONDS;
/// Events are kept this long after their partition has ended.
const KEEP_SECONDS: i64 = 1800;
/// An enforced nonce is remembered this long.
const NONCE_SECONDS: f64 = 600.0;
/// Expired invites of one round.
const INVITES_MAX: i64 = 500;
/// Expired tickets of one round.
const TICKETS_MAX: i64 = 5000;
/// Oldest rows of `cluster_audit` that one round looks at.
const DEEDS_MAX: i64 = 5000;
/// Key of the advisory lock of those who change partitions.
const LOCK: i64 = i64::from_be_bytes(*b"guildhal");

/// Runs until `stop`.
pub(crate) async fn run(app: &App, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(INTERVAL))
        .await
        .is_some()
    {
        round(app).await;
    }
}

/// Steps by themselves, for tests that do not wait for the next minute.
impl App {
    /// Removes files that nothing shows any more.
    pub async fn collect_files(&self) -> Result<()> {
        media::collect(&self.media).await
    }

    /// Collects what deleted channels have left.
    pub async fn collect_channels(&self) -> Result<()> {
        collect::run(&self.db).await
    }

    /// Collects what deleted guilds have left.
    pub async fn collect_deleted_guilds(&self) -> Result<()> {
        collect::deleted_guilds(&self.db).await
    }

    /// Goes on to delete what banned people wrote.
    pub fn resume_purges(&self) {
        bans::resume_purges(self);
    }

    /// Forgets old mentions.
    pub async fn forget_mentions(&self) -> Result<()> {
        mentions::forget_old(&self.db).await
    }

    /// Starts and ends scheduled events by the clock.
    pub async fn move_events_on(&self) -> Result<()> {
        scheduled_events::expire::move_on(self).await
    }

    /// Closes stages on which nobody speaks.
    pub async fn close_silent_stages(&self) -> Result<()> {
        stages::close_silent(self).await
    }

    /// Archives threads in which nobody writes.
    pub async fn archive_threads(&self) -> Result<()> {
        threads::archive_idle(self).await
    }

    /// Ends polls whose time is over.
    pub async fn end_polls(&self) -> Result<()> {
        polls::end_expired(self).await
    }

    /// Removes temporary members without a session.
    pub async fn remove_temporary_members(&self) -> Result<()> {
        members::temporary::remove_unseen(self).await
    }

    /// Seals second factors with the renewed key.
    pub async fn seal_factors_anew(&self) -> Result<()> {
        second_factor::seal_anew(self).await
    }
}

/// Tries every step, whatever became of the others.
async fn round(app: &App) {
    let db = &app.db;
    let mut now = None;
    step("read the time", async {
        now = Some(database_time(db).await?);
        Ok(())
    })
    .await;
    if let Some(now) = now {
        step("create partitions", create_partitions_from(db, now)).await;
        step("drop partitions", drop_partitions(db, now)).await;
    }
    step("forget nonces", forget_nonces(db)).await;
    step("forget tickets", forget_tickets(db)).await;
    let deeds = forget_deeds(db, app.config.cluster_audit_days);
    step("forget what operators did", deeds).await;
    step("work on accounts", account_work::work(app)).await;
    bans::resume_purges(app);
    step("expire invites", expire_invites(app)).await;
    step("forget invites to groups", forget_group_invites(db)).await;
    step("take deleted roles", roles::take_deleted(app)).await;
    step("collect files", media::collect(&app.media)).await;
    step("store who was seen", app.seen.store(db)).await;
    step("end stale voice", voice::end_stale(app)).await;
    step("move events on", scheduled_events::expire::move_on(app)).await;
    step("close silent stages", stages::close_silent(app)).await;
    step("forget audit entries", audit::forget_old(db)).await;
    step("forget mentions", mentions::forget_old(db)).await;
    let removed = members::temporary::remove_unseen(app);
    step("remove temporary members", removed).await;
    step("forget timeouts", members::forget_timeouts(db)).await;
    step("end polls", polls::end_expired(app)).await;
    step("archive threads", threads::archive_idle(app)).await;
    step("collect channels", collect::run(db)).await;
    step("collect guilds", collect::deleted_guilds(db)).await;
    let published = webhooks::deliver_crossposts(app);
    step("publish announcements", published).await;
    step("delete leftovers", messages::delete_leftovers(app)).await;
    step("end interactions", interactions::clean_up(app)).await;
    step("forget OAuth2 tokens", oauth2::forget_expired(db)).await;
    let deleted = applications::finish_deletions(app);
    step("delete applications", deleted).await;
    step("seal second factors anew", second_factor::seal_anew(app)).await;
}

/// Does one step. What some row makes fail, panic or wait, stays with this step.
async fn step(name: &str, work: impl Future<Output = Result<()>>) {
    let done = timeout(STEP_MAX, AssertUnwindSafe(work).catch_unwind());
    match done.await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(
            ?error,
            step = name,
            "housekeeping failed; the next round tries again"
        ),
        // The panic has told of itself.
        Ok(Err(_)) => tracing::error!(
            step = name,
            "housekeeping panicked; the next round tries again"
        ),
        Err(_) => tracing::error!(
            step = name,
            "housekeeping took too long; the next round tries again"
        ),
    }
}

/// Creates the partitions from the present one to those well ahead.
pub(crate) async fn create_partitions(db: &PgPool) -> Result<()> {
    create_partitions_from(db, database_time(db).await?).await
}

/// Now, by the clock that events bear the time of. This machine's may be wrong, and a wrong one would
/// drop the partition that everybody writes to.
async fn database_time(db: &PgPool) -> Result<OffsetDateTime> {
    let now = sqlx::query_scalar!(r#"select now() as "now!""#);
    Ok(now.fetch_one(db).await?)
}

async fn create_partitions_from(db: &PgPool, now: OffsetDateTime) -> Result<()> {
    let now = now.unix_timestamp();
    let existing = partitions(&mut *db.acquire().await?).await?;
    let mut start = now - now.rem_euclid(PARTITION_SECONDS);
    while start < now + AHEAD_SECONDS {
        let name = partition_name(start);
        if !existing.contains(&name) {
            create_partition(db, &name, start).await?;
        }
        start += PARTITION_SECONDS;
    }
    Ok(())
}

/// `partition of` would lock out writers, and wait for a back-up that reads the table; an attached one does not.
async fn create_partition(db: &PgPool, name: &str, start: i64) -> Result<()> {
    let mut tx = change_partitions(db).await?;
    // Another process may have made it since.
    if partitions(&mut tx).await?.contains(name) {
        return Ok(());
    }
    // Names and bounds cannot be parameters; both are made of digits only.
    let end = start + PARTITION_SECONDS;
    let statements = format!(
        "create table {name} (like realm_event including all);
         alter table realm_event attach partition {name}
         for values from (to_timestamp({start})) to (to_timestamp({end}))"
    );
    apply(tx, statements).await
}

/// Drops partitions whose events nobody can ask for any more.
async fn drop_partitions(db: &PgPool, now: OffsetDateTime) -> Result<()> {
    let existing = partitions(&mut *db.acquire().await?).await?;
    for name in existing {
        let is_old = partition_start(&name)
            .is_some_and(|start| start + PARTITION_SECONDS + KEEP_SECONDS < now.unix_timestamp());
        if is_old {
            let tx = change_partitions(db).await?;
            apply(tx, format!("drop table if exists {name}")).await?;
        }
    }
    Ok(())
}

/// One change at a time in the whole cluster. Writers of events wait for a drop, so it gives up
/// soon if it would have to wait for them; the next round is soon enough.
async fn change_partitions(db: &PgPool) -> Result<Transaction<'_, Postgres>> {
    let mut tx = db.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock($1)", LOCK)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query!("set local lock_timeout = '500ms'")
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

/// The end of a change of partitions.
async fn apply(mut tx: Transaction<'_, Postgres>, statements: String) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn partitions(db: &mut PgConnection) -> Result<HashSet<String>> {
    let names = sqlx::query_scalar!(
        r#"select c.relname::text as "name!"
           from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'realm_event'::regclass"#,
    )
    .fetch_all(db)
    .await?;
    Ok(names.into_iter().collect())
}

/// `realm_event_202611231510`: the UTC minute it starts at.
fn partition_name(start: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(start).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = at.format(format_description!("[year][month][day][hour][minute]"));
    let text = text.expect("a date has all parts of the format");
    format!("realm_event_{text}")
}

fn partition_start(name: &str) -> Option<i64> {
    let text = name.strip_prefix("realm_event_")?;
    let format = format_description!("[year][month][day][hour][minute]");
    let at = time::PrimitiveDateTime::parse(text, format).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

async fn forget_nonces(db: &PgPool) -> Result<()> {
    sqlx::query!(
        "delete from message_nonce where at < now() - $1::float8 * interval '1 second'",
        NONCE_SECONDS,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn forget_tickets(db: &PgPool) -> Result<()> {
    tickets::forget_expired(&mut *db.acquire().await?, TICKETS_MAX).await
}

/// Deletes what operators did more than `days` ago, the oldest first; nothing for 0.
async fn forget_deeds(db: &PgPool, days: u16) -> Result<()> {
    if days == 0 {
        return Ok(());
    }
    sqlx::query!(
        "delete from cluster_audit where audit_id in (
           select audit_id from (
             select audit_id, at from cluster_audit order by audit_id limit $2) oldest
           where at < now() - $1::float8 * interval '1 day')",
        f64::from(days),
        DEEDS_MAX,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes expired invites to guilds, each with its INVITE_DELETE.
async fn expire_invites(app: &App) -> Result<()> {
    let expired = sqlx::query!(
        "select code, guild_id from invite where expires_at < now() limit $1",
        INVITES_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for invite in expired {
        let expired = expire_invite(app, &invite.code, Id::from_db(invite.guild_id));
        rows.done(expired.await)?;
    }
    Ok(())
}

/// Deletes expired invites to group DMs, of which no event tells.
async fn forget_group_invites(db: &PgPool) -> Result<()> {
    sqlx::query!(
        "delete from group_invite where code in (
           select code from group_invite where expires_at < now() order by expires_at limit $1)",
        INVITES_MAX,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn expire_invite(app: &App, code: &str, guild: Id<marker::Guild>) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast()]).await?;
    let channel = sqlx::query_scalar!(
        "delete from invite where code = $1 and expires_at < now() returning channel_id",
        code,
    )
    .fetch_optional(&mut *tx)
    .await?;
    // Another process was quicker.
    let Some(channel) = channel else {
        return Ok(());
    };
    let channel: Id<marker::Channel> = Id::from_db(channel);
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_CHANNELS,
        channel: Some(channel),
    };
    let vis = Visibility::of(scope, Intents::GUILD_INVITES);
    let body = json!({ "channel_id": channel, "guild_id": guild, "code": code });
    let event = events::append(&mut tx, guild, EventKind::InviteDelete, vis, &body, None).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_by_its_start() {
        let start = 1_795_446_600;
        assert_eq!(partition_start(&partition_name(start)), Some(start));
        assert_eq!(partition_start("realm_event_default"), None);
    }

    /// As a back-up holds its locks, and writers theirs.
    #[sqlx::test(migrations = "../migrations")]
    async fn partitions_are_made_while_others_read_and_write(db: PgPool) {
        create_partitions(&db).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let locks = "lock table realm_event in access share mode;
                     lock table realm_event in row exclusive mode";
        sqlx::raw_sql(locks).execute(&mut *tx).await.unwrap();
        let later = database_time(&db).await.unwrap() + time::Duration::hours(1);
        create_partitions_from(&db, later).await.unwrap();
        tx.rollback().await.unwrap();

        let names = partitions(&mut db.acquire().await.unwrap()).await.unwrap();
        let last = names.iter().filter_map(|name| partition_start(name)).max();
        assert!(last.unwrap() + PARTITION_SECONDS >= later.unix_timestamp() + AHEAD_SECONDS);
        let indexes: Vec<i64> = sqlx::query_scalar(
            "select count(*) from pg_inherits i join pg_index x on x.indrelid = i.inhrelid
             where i.inhparent = 'realm_event'::regclass group by x.indrelid",
        )
        .fetch_all(&db)
        .await
        .unwrap();
        assert_eq!(indexes, vec![2; names.len()]);
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn partitions_come_ahead_of_time_and_go_after_it(db: PgPool) {
        let now = database_time(&db).await.unwrap().unix_timestamp();
        let present = now - now.rem_euclid(PARTITION_SECONDS);
        let start = OffsetDateTime::from_unix_timestamp(present - 3600 + 5).unwrap();
        create_partitions_from(&db, start).await.unwrap();
        create_partitions_from(&db, start).await.unwrap();
        let all = async || partitions(&mut db.acquire().await.unwrap()).await.unwrap();
        let names = all().await;
        assert_eq!(names.len() as i64, AHEAD_SECONDS / PARTITION_SECONDS + 1);

        // From here on what time it is is Postgres's to say.
        create_partitions(&db).await.unwrap();
        let last = all()
            .await
            .iter()
            .filter_map(|name| partition_start(name))
            .max();
        assert!(last.unwrap() + PARTITION_SECONDS >= now + 2 * 3600);
        let now = database_time(&db).await.unwrap();
        drop_partitions(&db, now).await.unwrap();
        let left = all().await;
        assert!(!left.contains(&partition_name(present - 3600)));
        assert!(left.contains(&partition_name(present)));
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn what_operators_did_is_kept_as_long_as_they_say(db: PgPool) {
        for days in [399, 401] {
            sqlx::query(
                "insert into cluster_audit (at, who, action, detail, term, version)
                 values (now() - $1 * interval '1 day', 'ada', 'cordon', '{}', 1, 1)",
            )
            .bind(days)
            .execute(&db)
            .await
            .unwrap();
        }
        let count = "select count(*) from cluster_audit";
        for (days, left) in [(0, 2), (400, 1), (300, 0)] {
            forget_deeds(&db, days).await.unwrap();
            let kept: i64 = sqlx::query_scalar(count).fetch_one(&db).await.unwrap();
            assert_eq!(kept, left, "{days}");
        }
    }

    #[derive(clap::Parser)]
    struct Settings {
        #[command(flatten)]
        config: crate::config::Config,
    }

    async fn app(db: PgPool) -> App {
        let redis_url = std::env::var("REDIS_URL").unwrap();
        let settings: Settings = clap::Parser::parse_from([
            "test",
            "--database-url=unused",
            &format!("--redis-url={redis_url}"),
            "--gateway-url=ws://127.0.0.1:1",
            "--cluster-key=a cluster key for tests, long enough",
        ]);
        App::start(settings.config, db).await.unwrap()
    }

    async fn panic_at_a_row() -> Result<()> {
        panic!("this row is more than the code can bear")
    }

    #[tokio::test]
    async fn a_step_that_panics_ends_alone() {
        step("panic", panic_at_a_row()).await;
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn an_event_with_a_far_end_is_moved_on_like_others(db: PgPool) {
        let app = app(db.clone()).await;
        sqlx::raw_sql(
            r#"insert into account (user_id, username) values (1, 'alice');
               insert into guild (guild_id, name, owner_id) values (2, 'home', 1);
               insert into realm_head (realm_id, shard) values (2, 0);
               insert into channel (channel_id, guild_id, kind) values (3, 2, 2);
               insert into scheduled_event (event_id, guild_id, channel_id, creator_id, name,
                                            starts_at, ends_at, entity_type, recurrence_rule)
               values (4, 2, 3, 1, 'for ever', '2020-01-01T00:00:00Z', '9999-12-31T23:00:00Z', 2,
                       '{ "start": "2020-01-01T00:00:00Z", "frequency": 3, "interval": 1 }')"#,
        )
        .execute(&db)
        .await
        .unwrap();

        round(&app).await;

        let event: (OffsetDateTime, Option<OffsetDateTime>, i16) =
            sqlx::query_as("select starts_at, ends_at, status from scheduled_event")
                .fetch_one(&db)
                .await
                .unwrap();
        let next = time::macros::datetime!(2020-01-02 00:00 UTC);
        assert_eq!(event, (next, None, 1));
        app.shut_down().await;
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn expired_invites_and_old_nonces_go(db: PgPool) {
        let app = app(db.clone()).await;
        sqlx::raw_sql(
            "insert into account (user_id, username) values (1, 'alice');
             insert into guild (guild_id, name, owner_id) values (2, 'home', 1);
             insert into realm_head (realm_id, shard) values (2, 0);
             insert into channel (channel_id, guild_id, kind) values (3, 2, 0);
             insert into invite (code, guild_id, channel_id, max_age, max_uses, expires_at)
             values ('old', 2, 3, 1, 0, now() - interval '1 second'),
                    ('new', 2, 3, 1, 0, now() + interval '1 hour'),
                    ('ever', 2, 3, 0, 0, null);
             insert into channel (channel_id, kind) values (4, 3);
             insert into group_invite (channel_id, code, inviter_id, max_age, expires_at)
             values (4, 'past', 1, 1, now() - interval '1 second'),
                    (4, 'to come', 1, 1, now() + interval '1 hour');
             insert into message_nonce (channel_id, author_id, nonce, message_id, at)
             values (3, 1, 'old', 4, now() - interval '11 minutes'), (3, 1, 'new', 5, now());",
        )
        .execute(&db)
        .await
        .unwrap();

        expire_invites(&app).await.unwrap();
        expire_invites(&app).await.unwrap();
        forget_group_invites(&db).await.unwrap();
        forget_nonces(&db).await.unwrap();

        let codes = sqlx::query_scalar!("select code from invite order by code");
        assert_eq!(codes.fetch_all(&db).await.unwrap(), ["ever", "new"]);
        let codes = sqlx::query_scalar!("select code from group_invite");
        assert_eq!(codes.fetch_all(&db).await.unwrap(), ["to come"]);
        let nonces = sqlx::query_scalar!("select nonce from message_nonce");
        assert_eq!(nonces.fetch_all(&db).await.unwrap(), ["new"]);
        let kinds = sqlx::query_scalar!("select kind from realm_event where realm_id = 2");
        let kinds = kinds.fetch_all(&db).await.unwrap();
        assert_eq!(kinds, [EventKind::InviteDelete.number() as i16]);
        app.shut_down().await;
    }
}
