//! Threads and who is in them.

use std::collections::HashMap;

use guildhall_shared::{
    Timestamp,
    id::{Id, marker},
    model::{ChannelKind, ChannelSettings, Thread, ThreadMember, ThreadMetadata},
};
use serde_json::Value;
use sqlx::{PgExecutor, types::Json};
use time::OffsetDateTime;

use crate::{Result, ids_to_db};

/// Members counted on the wire.
const MEMBERS_COUNTED_MAX: i64 = 50;

/// Columns of `channel` and `thread` that make a [`Thread`], its counts among them.
struct ThreadRow {
    channel_id: i64,
    kind: i16,
    guild_id: i64,
    parent_id: i64,
    owner_id: i64,
    name: String,
    settings: Json<ChannelSettings>,
    archived: bool,
    locked: bool,
    invitable: Option<bool>,
    auto_archive_minutes: i32,
    archive_at: OffsetDateTime,
    message_count: i32,
    total_message_sent: i32,
    applied_tags: Vec<i64>,
    member_count: i64,
    last_message_id: Option<i64>,
}

impl From<ThreadRow> for Thread {
    fn from(row: ThreadRow) -> Self {
        let id: Id<marker::Channel> = Id::from_db(row.channel_id);
        let settings = row.settings.0;
        Self {
            id,
            kind: ChannelKind(row.kind as u8),
            guild_id: Id::from_db(row.guild_id),
            parent_id: Id::from_db(row.parent_id),
            owner_id: Id::from_db(row.owner_id),
            name: row.name,
            last_message_id: row.last_message_id.map(Id::from_db),
            last_pin_timestamp: settings.last_pin_timestamp.flatten(),
            flags: settings.flags,
            rate_limit_per_user: settings.rate_limit_per_user.unwrap_or_default(),
            message_count: row.message_count as u32,
            member_count: row.member_count as u32,
            total_message_sent: row.total_message_sent as u32,
            thread_metadata: ThreadMetadata {
                archived: row.archived,
                auto_archive_duration: row.auto_archive_minutes as u32,
                archive_timestamp: Timestamp(row.archive_at),
                locked: row.locked,
                invitable: row.invitable,
                create_timestamp: Some(Timestamp::from_unix_ms(id.created_ms())),
            },
            applied_tags: crate::ids_from_db(row.applied_tags),
            member: None,
        }
    }
}

/// These threads, in the order of `ids`; those that do not exist are left out.
pub async fn by_ids(db: impl PgExecutor<'_>, ids: &[Id<marker::Channel>]) -> Result<Vec<Thread>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        ThreadRow,
        r#"select t.thread_id as channel_id, t.kind, t.guild_id, t.parent_id, t.owner_id,
                  coalesce(t.name, '') as "name!",
                  t.settings as "settings: Json<ChannelSettings>", t.archived, t.locked,
                  t.invitable, t.auto_archive_minutes, t.archive_at, t.message_count,
                  t.total_message_sent, t.applied_tags,
                  (select count(*) from (select from thread_member m
                     where m.thread_id = t.thread_id limit $2) counted) as "member_count!",
                  (select m.message_id from message m where m.channel_id = t.thread_id
                   order by m.message_id desc limit 1) as last_message_id
           from unnest($1::bigint[]) with ordinality as wanted (id, place)
           -- By its key each, however small the planner thinks the tables are.
           cross join lateral (
             select t.*, c.kind, c.name, c.settings
             from thread t join channel c on c.channel_id = t.thread_id
             where t.thread_id = wanted.id limit 1
           ) t
           order by wanted.place"#,
        &ids_to_db(ids),
        MEMBERS_COUNTED_MAX,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Thread::from).collect())
}

/// A guild's threads that are not archived, newest first.
pub async fn active_ids(
    db: impl PgExecutor<'_>,
    guild: Id<marker::Guild>,
) -> Result<Vec<Id<marker::Channel>>> {
    let ids = sqlx::query_scalar!(
        "select thread_id from thread where guild_id = $1 and not archived order by thread_id desc",
        guild.to_db(),
    )
    .fetch_all(db)
    .await?;
    Ok(crate::ids_from_db(ids))
}

/// Which memberships [`members`] reads.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    Everybodys,
    Own(Id<marker::User>),
}

/// Memberships of these threads, each with both ids, by thread and user.
pub async fn members(
    db: impl PgExecutor<'_>,
    threads: &[Id<marker::Channel>],
    whose: Whose,
) -> Result<Vec<ThreadMember>> {
    if threads.is_empty() {
        return Ok(Vec::new());
    }
    let own = match whose {
        Whose::Everybodys => None,
        Whose::Own(user) => Some(user.to_db()),
    };
    // A plan that is kept for all values has no use for the index if the user may be anybody.
    macro_rules! select {
        ($place:literal) => {
            sqlx::query!(
                r#"select thread_id, user_id, joined_at, flags, muted,
                          mute_config as "mute_config: Value"
                   from thread_member
                   where "#
                    + $place
                    + " and ($2::bigint is null or user_id = $2)
                   order by thread_id, user_id",
                &ids_to_db(threads),
                own,
            )
            .fetch_all(db)
            .await?
            .into_iter()
            .map(|row| ThreadMember {
                id: Some(Id::from_db(row.thread_id)),
                user_id: Some(Id::from_db(row.user_id)),
                join_timestamp: Timestamp(row.joined_at),
                flags: row.flags as u64,
                // Nobody else's business.
                muted: own.map(|_| row.muted),
                mute_config: own.map(|_| row.mute_config),
                member: None,
            })
            .collect()
        };
    }
    Ok(match own {
        Some(_) => select!("thread_id = any($1) and user_id = $2"),
        None => select!("thread_id = any($1)"),
    })
}

/// Gives each thread the membership that is about it.
pub fn attach(threads: &mut [Thread], members: &[ThreadMember]) {
    let by_thread: HashMap<_, _> = members
        .iter()
        .filter_map(|member| Some((member.id?, member)))
        .collect();
    for thread in threads {
        thread.member = by_thread.get(&thread.id).map(|&member| member.clone());
    }
}
