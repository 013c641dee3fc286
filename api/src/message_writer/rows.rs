//! What a batch stores: messages, their nonces and mentions, events, heads, counts of threads.

use guildhall_shared::gateway::EventKind;
use rustc_hash::FxHashMap;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{NewMessage, copy::Rows, numbers::Numbered};

/// One row per event; the first of a message brings the message.
type Stored<'a> = [(&'a NewMessage, Numbered)];

/// Stores a batch whose heads are locked. `at` is the time of its events.
pub(super) async fn insert(
    db: &mut PgConnection,
    stored: &Stored<'_>,
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    copy_messages(db, stored).await?;
    copy_events(db, stored, at).await?;
    count_events(db, stored).await?;
    remember_nonces(db, stored).await?;
    note_mentions(db, stored).await?;
    count_in_threads(db, stored).await
}

fn messages<'a>(stored: &'a Stored<'_>) -> impl Iterator<Item = &'a NewMessage> {
    stored
        .iter()
        .filter_map(|(message, at)| at.first.then_some(*message))
}

async fn copy_messages(db: &mut PgConnection, stored: &Stored<'_>) -> sqlx::Result<()> {
    let bytes = |message: &NewMessage| {
        let extra = message.extra.as_ref().map_or(0, String::len);
        let mentions = message.mentions.len() + message.mention_roles.len();
        160 + message.content.len() + extra + 12 * mentions
    };
    let mut rows = Rows::new(messages(stored).map(bytes).sum());
    for message in messages(stored) {
        rows.row(11);
        rows.bigint(message.channel.to_db());
        rows.bigint(message.id.to_db());
        rows.bigint(message.author.to_db());
        rows.smallint(message.kind.into());
        rows.bigint(message.flags as i64);
        rows.bytes(message.content.as_bytes());
        rows.boolean(message.tts);
        rows.boolean(message.mention_everyone);
        rows.bigints(message.mentions.iter().map(|id| id.to_db()));
        rows.bigints(message.mention_roles.iter().map(|id| id.to_db()));
        match &message.extra {
            Some(extra) => rows.jsonb(extra),
            None => rows.null(),
        }
    }
    let statement = "copy message (channel_id, message_id, author_id, kind, flags, content, tts,
                                   mention_everyone, mentions, mention_roles, extra)
                     from stdin (format binary)";
    rows.store(db, statement).await
}

async fn copy_events(
    db: &mut PgConnection,
    stored: &Stored<'_>,
    time: OffsetDateTime,
) -> sqlx::Result<()> {
    let bytes = |message: &NewMessage| {
        let alt = message.alt.as_ref();
        // It is told by how it differs.
        let alt = alt.map_or(0, |alt| {
            alt.body.len().saturating_sub(message.body.len()) + 64
        });
        160 + message.body.len() + alt
    };
    let mut rows = Rows::new(stored.iter().map(|row| bytes(row.0)).sum());
    for (message, at) in stored {
        rows.row(9);
        rows.bigint(at.realm.to_db());
        rows.bigint(at.seq);
        rows.integer(at.shard);
        rows.integer(at.era);
        // By default it would be the time of each row, and each would be stored by itself.
        rows.timestamptz(time);
        rows.smallint(EventKind::MessageCreate.number() as i16);
        rows.with(|out| message.vis.encode(out));
        rows.bytes(&message.body);
        match &message.alt {
            Some(alt) => rows.with(|out| alt.encode(&message.body, out)),
            None => rows.null(),
        }
    }
    let statement = "copy realm_event (realm_id, seq, shard, era, at, kind, vis, body, alt)
                     from stdin (format binary)";
    rows.store(db, statement).await
}

/// The heads say the newest numbers.
async fn count_events(db: &mut PgConnection, stored: &Stored<'_>) -> sqlx::Result<()> {
    // Numbers only rise in a batch: the last one stays.
    let newest = stored.iter().map(|(_, at)| (at.realm.to_db(), at.seq));
    let newest: FxHashMap<i64, i64> = newest.collect();
    let (realms, seqs): (Vec<i64>, Vec<i64>) = newest.into_iter().unzip();
    sqlx::query!(
        "update realm_head h set seq = newest.seq
         from unnest($1::bigint[], $2::bigint[]) as newest (realm_id, seq)
         where h.realm_id = newest.realm_id",
        &realms,
        &seqs,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn remember_nonces(db: &mut PgConnection, stored: &Stored<'_>) -> sqlx::Result<()> {
    let enforced: Vec<(&NewMessage, &str)> = messages(stored)
        .filter_map(|message| Some((message, message.nonce.as_deref()?)))
        .collect();
    if enforced.is_empty() {
        return Ok(());
    }
    let channels: Vec<i64> = enforced.iter().map(|(m, _)| m.channel.to_db()).collect();
    let authors: Vec<i64> = enforced.iter().map(|(m, _)| m.author.to_db()).collect();
    let nonces: Vec<&str> = enforced.iter().map(|(_, nonce)| *nonce).collect();
    let ids: Vec<i64> = enforced.iter().map(|(m, _)| m.id.to_db()).collect();
    sqlx::query!(
        "insert into message_nonce (channel_id, author_id, nonce, message_id)
         select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[])",
        &channels,
        &authors,
        nonces.as_slice() as &[&str],
        &ids,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn note_mentions(db: &mut PgConnection, stored: &Stored<'_>) -> sqlx::Result<()> {
    let mentioned = messages(stored).flat_map(|message| {
        let ids = (message.id.to_db(), message.channel.to_db());
        message.mentions.iter().map(move |user| (user.to_db(), ids))
    });
    let (users, places): (Vec<i64>, Vec<(i64, i64)>) = mentioned.unzip();
    if users.is_empty() {
        return Ok(());
    }
    let (ids, channels): (Vec<i64>, Vec<i64>) = places.into_iter().unzip();
    sqlx::query!(
        "insert into user_mention (user_id, message_id, channel_id)
         select * from unnest($1::bigint[], $2::bigint[], $3::bigint[])
         on conflict do nothing",
        &users,
        &ids,
        &channels,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Threads count their messages, and live on with each.
async fn count_in_threads(db: &mut PgConnection, stored: &Stored<'_>) -> sqlx::Result<()> {
    let threads: Vec<i64> = messages(stored)
        .filter(|message| message.in_thread)
        .map(|message| message.channel.to_db())
        .collect();
    if threads.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update thread t
         set message_count = message_count + sent.count,
             total_message_sent = total_message_sent + sent.count, active_at = now()
         from (select thread_id, count(*)::int as count from unnest($1::bigint[]) as s (thread_id)
               group by thread_id) sent
         where t.thread_id = sent.thread_id",
        &threads,
    )
    .execute(db)
    .await?;
    Ok(())
}
