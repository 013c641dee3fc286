//! Scheduled events with their exceptions.

use std::collections::HashMap;

use guildhall_shared::{
    Timestamp,
    id::{Id, marker},
    model::{
        EventEntity, EventException, EventMetadata, EventStatus, RecurrenceRule, ScheduledEvent,
    },
};
use sqlx::{PgConnection, types::Json};

use crate::{Result, ids_to_db, user::creator_of};

/// Which events of a guild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Scheduled or active ones.
    Open,
    One(Id<marker::ScheduledEvent>),
    /// Those of these that are there.
    Any(&'a [Id<marker::ScheduledEvent>]),
}

/// Events of a guild by id, each with its creator.
pub async fn scheduled_events(
    db: &mut PgConnection,
    guild: Id<marker::Guild>,
    which: Which<'_>,
    with_user_count: bool,
) -> Result<Vec<ScheduledEvent>> {
    let named = match which {
        Which::Open => None,
        Which::One(id) => Some(vec![id.to_db()]),
        Which::Any(ids) => Some(ids_to_db(ids)),
    };
    let rows = sqlx::query!(
        r#"select e.event_id, e.guild_id, e.channel_id, e.creator_id, e.name, e.description,
                  e.image, e.starts_at, e.ends_at, e.privacy_level, e.status, e.entity_type,
                  e.entity_id, e.location,
                  e.recurrence_rule as "recurrence_rule: Json<RecurrenceRule>",
                  case when $3 then (select count(*) from scheduled_event_user u
                                     where u.event_id = e.event_id and u.exception_id = 0)
                  end as user_count,
                  a.user_id as "user_id?", a.username as "username?",
                  a.discriminator as "discriminator?", a.global_name, a.avatar, a.banner,
                  a.accent_color, a.bot as "bot?", a.public_flags as "public_flags?"
           from scheduled_event e left join account a on a.user_id = e.creator_id
           where e.guild_id = $1 and case when $2::bigint[] is null then e.status in (1, 2)
                                          else e.event_id = any($2) end
           order by e.event_id"#,
        guild.to_db(),
        named.as_deref(),
        with_user_count,
    )
    .fetch_all(&mut *db)
    .await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.event_id).collect();
    let mut exceptions: HashMap<i64, Vec<EventException>> = HashMap::new();
    if rows.iter().any(|row| row.recurrence_rule.is_some()) {
        let found = sqlx::query!(
            "select exception_id, event_id, starts_at, ends_at, canceled
             from scheduled_event_exception where event_id = any($1) order by exception_id",
            &ids,
        )
        .fetch_all(db)
        .await?;
        for row in found {
            let exception = EventException {
                event_id: Id::from_db(row.event_id),
                event_exception_id: Id::from_db(row.exception_id),
                scheduled_start_time: row.starts_at.map(Timestamp),
                scheduled_end_time: row.ends_at.map(Timestamp),
                is_canceled: row.canceled,
            };
            exceptions.entry(row.event_id).or_default().push(exception);
        }
    }
    let events = rows.into_iter().map(|row| ScheduledEvent {
        id: Id::from_db(row.event_id),
        guild_id: Id::from_db(row.guild_id),
        channel_id: row.channel_id.map(Id::from_db),
        creator_id: Some(Id::from_db(row.creator_id)),
        creator: creator_of!(row),
        name: row.name,
        description: row.description,
        image: row.image,
        scheduled_start_time: Timestamp(row.starts_at),
        scheduled_end_time: row.ends_at.map(Timestamp),
        privacy_level: row.privacy_level as u8,
        status: EventStatus(row.status as u8),
        entity_type: EventEntity(row.entity_type as u8),
        entity_id: row.entity_id.map(Id::from_db),
        entity_metadata: row.location.map(|location| EventMetadata { location }),
        recurrence_rule: row.recurrence_rule.map(|rule| rule.0),
        guild_scheduled_event_exceptions: exceptions.remove(&row.event_id).unwrap_or_default(),
        user_count: row.user_count.map(|count| count as u32),
    });
    Ok(events.collect())
}
