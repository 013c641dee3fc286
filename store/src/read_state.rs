//! What a person has read of each channel, and how often they were called since.
//!
//! Messages that call somebody are not counted when they are sent: who reads counts them,
//! from the newest message that was acknowledged on. So a call of everyone costs nothing per
//! member, and an edit of roles or a deleted message needs no correction.

use std::collections::BTreeMap;

use guildhall_shared::{
    Timestamp,
    id::{Id, marker},
    shard::Position,
};
use sqlx::PgExecutor;

use crate::Result;

/// Calls counted per channel; who has more is shown this many.
const CALLS_PER_CHANNEL_MAX: i64 = 100;
/// Mentions by name that are looked at, newest first.
const NAMED_MAX: i64 = 1000;

/// One channel as its reader left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    pub channel: Id<marker::Channel>,
    /// `None` for private channels, whose participants read them.
    pub place: Option<Place>,
    /// The newest message acknowledged; `None` if none ever was.
    pub last_message: Option<Id<marker::Message>>,
    pub mentions: u32,
    pub last_pin: Option<Timestamp>,
    /// Days since 2015-01-01.
    pub last_viewed: Option<i32>,
}

/// Where a guild's channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub guild: Id<marker::Guild>,
    /// Who sees this channel sees the place: itself, or a thread's parent.
    pub seen_by: Id<marker::Channel>,
}

/// All read states of a person, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadStates {
    /// Ascending by channel. Those of channels that the person may not see any more are among
    /// them: who shows them leaves these out.
    pub states: Vec<ReadState>,
    /// Calls by messages of a guild are counted up to this position.
    pub guilds: BTreeMap<Id<marker::Guild>, Position>,
}

/// What a row of the one query below is about.
const GUILD: i32 = 0;
const STORED: i32 = 1;
const CALLS: i32 = 2;

/// What `user` has read, in the caller's snapshot.
///
/// In guilds a message calls its reader by name, by one of their roles or with everyone
/// (unless their settings suppress the latter two), in a private channel every one does
/// that came after their own newest. Messages of the blocked, and those from before the
/// reader joined, call nobody. Of threads only active ones count that the reader is in.
pub async fn of_user(db: impl PgExecutor<'_>, user: Id<marker::User>) -> Result<ReadStates> {
    let rows = sqlx::query!(
        r#"with mine as materialized (
             select m.guild_id, m.roles,
                    ((extract(epoch from m.joined_at) * 1000)::bigint - 1420070400000) << 22
                      as joined,
                    coalesce((g.settings ->> 'suppress_everyone')::boolean, false) as no_everyone,
                    coalesce((g.settings ->> 'suppress_roles')::boolean, false) as no_roles
             from member m join guild using (guild_id)
             left join user_guild_settings g on g.user_id = m.user_id and g.guild_id = m.guild_id
             where m.user_id = $1
           ), private as materialized (
             select channel_id, closed from private_recipient where user_id = $1
           ), joined as materialized (
             select t.thread_id, t.guild_id, t.parent_id
             from thread_member w join thread t using (thread_id)
             where w.user_id = $1 and not t.archived
           ), stored as materialized (
             select * from read_state where user_id = $1
           ), place as materialized (
             select c.channel_id, m.guild_id, c.channel_id as seen_by
             from mine m join channel c on c.guild_id = m.guild_id and c.kind not in (10, 11, 12)
             union all
             select j.thread_id, j.guild_id, j.parent_id from joined j
           ), since as materialized (
             select p.channel_id, p.guild_id, p.seen_by, m.roles, m.no_everyone, m.no_roles,
                    greatest(s.last_message_id, s.counted_to, m.joined) as floor, s.named_to
             from place p
             join mine m using (guild_id)
             left join stored s using (channel_id)
           ), named as materialized (
             select channel_id, message_id from user_mention
             where user_id = $1 order by message_id desc limit $3
           ), call as (
             select s.channel_id, m.message_id, m.author_id
             from since s
             cross join lateral (
               select m.message_id, m.author_id, m.mention_everyone, m.mention_roles
               from message m
               where m.channel_id = s.channel_id and m.message_id > s.floor
                 and (m.mention_everyone or m.mention_roles <> '{}')
               order by m.message_id desc limit $2
             ) m
             where m.mention_everyone and not s.no_everyone
                or m.mention_roles && s.roles and not s.no_roles
             union
             select s.channel_id, n.message_id, m.author_id
             from named n
             join since s using (channel_id)
             cross join lateral (
               select author_id from message
               where channel_id = n.channel_id and message_id = n.message_id limit 1
             ) m
             where n.message_id > greatest(s.floor, s.named_to)
           )
           select 0 as "what!", m.guild_id as "channel_id!", null::bigint as guild_id,
                  null::bigint as seen_by, h.era::bigint as "first!", h.seq as "second!",
                  null::timestamptz as last_pin_at, null::int as last_viewed
           from mine m join realm_head h on h.realm_id = m.guild_id
           union all
           select 1, s.channel_id, c.guild_id, coalesce(t.parent_id, c.channel_id),
                  s.last_message_id, s.mention_count, s.last_pin_at, s.last_viewed
           from stored s
           join channel c using (channel_id)
           left join thread t on t.thread_id = c.channel_id
           where case
             when c.guild_id is null then c.channel_id in (select channel_id from private)
             when t.thread_id is null then c.guild_id in (select guild_id from mine)
             else not t.archived and c.guild_id in (select guild_id from mine)
               and (c.kind <> 12 or t.thread_id in (select thread_id from joined))
           end
           union all
           select 2, c.channel_id, s.guild_id, s.seen_by, count(*), 0, null, null
           from call c
           join since s using (channel_id)
           where c.author_id <> $1 and not exists (
             select from relationship r
             where r.user_id = $1 and r.other_id = c.author_id and r.kind = 2)
           group by c.channel_id, s.guild_id, s.seen_by
           union all
           select 2, p.channel_id, null, null, n.unread, 0, null, null
           from private p
           left join stored s using (channel_id)
           cross join lateral (
             select count(*) as unread
             from (
               select bool_or(m.author_id = $1) over (order by m.message_id desc) as answered
               from (
                 select message_id, author_id from message
                 where channel_id = p.channel_id
                   and message_id > coalesce(greatest(s.last_message_id, s.counted_to), 0)
                 order by message_id desc limit $2
               ) m
             ) newest
             where not newest.answered
           ) n
           where not p.closed and n.unread > 0"#,
        user.to_db(),
        CALLS_PER_CHANNEL_MAX,
        NAMED_MAX,
    )
    .fetch_all(db)
    .await?;
    let mut guilds = BTreeMap::new();
    let mut states: BTreeMap<Id<marker::Channel>, ReadState> = BTreeMap::new();
    for row in rows {
        if row.what == GUILD {
            let position = Position {
                era: row.first as u32,
                seq: row.second as u64,
            };
            guilds.insert(Id::from_db(row.channel_id), position);
            continue;
        }
        let channel = Id::from_db(row.channel_id);
        let place = row.guild_id.zip(row.seen_by).map(|(guild, seen_by)| Place {
            guild: Id::from_db(guild),
            seen_by: Id::from_db(seen_by),
        });
        let state = states
            .entry(channel)
            .or_insert_with(|| ReadState::unread(channel, place));
        match row.what {
            STORED => {
                state.last_message = u64::try_from(row.first).ok().and_then(Id::new);
                state.mentions += row.second as u32;
                state.last_pin = row.last_pin_at.map(Timestamp);
                state.last_viewed = row.last_viewed;
            }
            CALLS => state.mentions += row.first as u32,
            _ => {}
        }
    }
    Ok(ReadStates {
        states: states.into_values().collect(),
        guilds,
    })
}

impl ReadState {
    /// Of a channel that was never read.
    pub fn unread(channel: Id<marker::Channel>, place: Option<Place>) -> Self {
        Self {
            channel,
            place,
            last_message: None,
            mentions: 0,
            last_pin: None,
            last_viewed: None,
        }
    }
}
