//! Events that start and end by the clock: what takes place elsewhere; what is over because its
//! room is empty; what nobody has started.

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{self, Guild},
    model::{EventEntity, EventStatus},
};
use guildhall_store::scheduled_events::{Which, scheduled_events};

use super::{super::stages, store};
use crate::{access, app::App, error::Result, rows::Rows};

/// Events of one round.
const EVENTS_MAX: i64 = 200;

/// Moves the events on whose time has come, each in a transaction of its own.
pub(crate) async fn move_on(app: &App) -> Result<()> {
    let due = sqlx::query!(
        "select e.event_id, e.guild_id, e.status, e.starts_at from scheduled_event e
         where e.status in (1, 2) and e.starts_at < now() and (
           -- Elsewhere: by the clock.
           e.entity_type = 3 and (e.status = 1 or e.ends_at < now())
           -- Nobody has started it for hours.
           or e.entity_type <> 3 and e.status = 1 and e.starts_at < now() - interval '3 hours'
           -- Its room has emptied.
           or e.entity_type <> 3 and e.status = 2
              and greatest(e.starts_at, coalesce(e.ends_at, e.starts_at))
                  < now() - interval '5 minutes'
              and not exists (select from voice_state v where v.channel_id = e.channel_id))
         order by e.starts_at limit $1",
        EVENTS_MAX,
    )
    .fetch_all(&app.db)
    .await?;
    let mut rows = Rows::default();
    for row in due {
        let was = (EventStatus(row.status as u8), Timestamp(row.starts_at));
        let (guild, id) = (Id::from_db(row.guild_id), Id::from_db(row.event_id));
        rows.done(move_one(app, guild, id, was).await)?;
    }
    Ok(())
}

/// `was`: its status and start when it was due.
async fn move_one(
    app: &App,
    guild: Id<Guild>,
    id: Id<marker::ScheduledEvent>,
    was: (EventStatus, Timestamp),
) -> Result<()> {
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast()]).await?;
    // A deleted guild has no more events.
    let there = sqlx::query_scalar!("select 1 from guild where guild_id = $1", guild.to_db());
    if there.fetch_optional(&mut *tx).await?.is_none() {
        return Ok(());
    }
    let found = scheduled_events(&mut tx, guild, Which::One(id), false).await?;
    let Some(before) = found.into_iter().next() else {
        return Ok(());
    };
    // Somebody, or another process, has moved it on meanwhile: what it is now is not due.
    if (before.status, before.scheduled_start_time) != was {
        return Ok(());
    }
    let mut event = before.clone();
    let external = event.entity_type == EventEntity::EXTERNAL;
    let mut envelopes = Vec::new();
    event = match event.status {
        EventStatus::SCHEDULED if external => {
            event.status = EventStatus::ACTIVE;
            event
        }
        EventStatus::SCHEDULED if event.recurrence_rule.is_some() => event.after_it(),
        EventStatus::SCHEDULED => {
            event.status = EventStatus::CANCELED;
            event
        }
        EventStatus::ACTIVE => {
            if let Some(channel) = event.channel_id {
                envelopes.extend(stages::close(&mut tx, guild, channel).await?);
            }
            event.status = EventStatus::COMPLETED;
            event.after_it()
        }
        _ => return Ok(()),
    };
    envelopes.extend(store(&mut tx, &event).await?);
    tx.commit().await?;
    app.publisher.publish(envelopes);
    Ok(())
}
