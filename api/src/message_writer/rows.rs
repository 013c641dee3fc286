//! What a batch stores: messages, their nonces and mentions, events, heads, counts of threads.

use std::fmt::Write;

use guildhall_shared::{Id, gateway::EventKind};
use rustc_hash::FxHashMap;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{NewMessage, numbers::Numbered};

/// One row per event; the first of a message brings the message.
type Stored<'a> = [(&'a NewMessage, Numbered)];

/// Stores a batch whose heads are locked. `at` is the time of its events.
pub(super) async fn insert(
    db: &mut PgConnection,
    stored: &Stored<'_>,
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    insert_messages_and_events(db, stored, at).await?;
    remember_nonces(db, stored).await?;
    note_mentions(db, stored).await?;
    count_in_threads(db, stored).await
}

fn messages<'a>(stored: &'a Stored<'_>) -> impl Iterator<Item = &'a NewMessage> {
    stored
        .iter()
        .filter_map(|(message, at)| at.first.then_some(*message))
}

/// Messages, their events, and the heads, which say the newest numbers.
///
/// One statement: three take a batch of one message half as long again.
async fn insert_messages_and_events(
    db: &mut PgConnection,
    stored: &Stored<'_>,
    time: OffsetDateTime,
) -> sqlx::Result<()> {
    let new: Vec<&NewMessage> = messages(stored).collect();
    let channels: Vec<i64> = new.iter().map(|m| m.channel.to_db()).collect();
    let ids: Vec<i64> = new.iter().map(|m| m.id.to_db()).collect();
    let authors: Vec<i64> = new.iter().map(|m| m.author.to_db()).collect();
    let kinds: Vec<i16> = new.iter().map(|m| m.kind.into()).collect();
    let flags: Vec<i64> = new.iter().map(|m| m.flags as i64).collect();
    let contents: Vec<&str> = new.iter().map(|m| m.content.as_str()).collect();
    let tts: Vec<bool> = new.iter().map(|m| m.tts).collect();
    let everyone: Vec<bool> = new.iter().map(|m| m.mention_everyone).collect();
    // Rows of arrays would have to be of one length, so each array is a text.
    let mentions: Vec<String> = new.iter().map(|m| array(&m.mentions)).collect();
    let roles: Vec<String> = new.iter().map(|m| array(&m.mention_roles)).collect();
    let extras: Vec<Option<&str>> = new.iter().map(|m| m.extra.as_deref()).collect();

    let realms: Vec<i64> = stored.iter().map(|(_, at)| at.realm.to_db()).collect();
    let seqs: Vec<i64> = stored.iter().map(|(_, at)| at.seq).collect();
    let shards: Vec<i32> = stored.iter().map(|(_, at)| at.shard).collect();
    let eras: Vec<i32> = stored.iter().map(|(_, at)| at.era).collect();
    let (mut vis, mut alts) = (Vec::new(), Vec::new());
    for (message, _) in stored {
        let mut bytes = Vec::new();
        message.vis.encode(&mut bytes);
        vis.push(bytes);
        alts.push(message.alt.as_ref().map(|alt| {
            let mut bytes = Vec::new();
            alt.encode(&message.body, &mut bytes);
            bytes
        }));
    }
    let bodies: Vec<&[u8]> = stored.iter().map(|(m, _)| m.body.as_ref()).collect();

    // Numbers only rise in a batch: the last one stays.
    let newest = stored.iter().map(|(_, at)| (at.realm.to_db(), at.seq));
    let newest: FxHashMap<i64, i64> = newest.collect();
    let (heads, newest): (Vec<i64>, Vec<i64>) = newest.into_iter().unzip();
    sqlx::query!(
        "with messages as (
           insert into message (channel_id, message_id, author_id, kind, flags, content, tts,
                                mention_everyone, mentions, mention_roles, extra)
           select channel_id, message_id, author_id, kind, flags, content, tts,
                  mention_everyone, mentions::bigint[], mention_roles::bigint[], extra::jsonb
           from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bigint[],
                       $6::text[], $7::bool[], $8::bool[], $9::text[], $10::text[], $11::text[])
                as new (channel_id, message_id, author_id, kind, flags, content, tts,
                        mention_everyone, mentions, mention_roles, extra)
         ), events as (
           insert into realm_event (realm_id, seq, shard, era, at, kind, vis, body, alt)
           select realm_id, seq, shard, era, $19, $20, vis, body, alt
           from unnest($12::bigint[], $13::bigint[], $14::int[], $15::int[], $16::bytea[],
                       $17::bytea[], $18::bytea[])
                as new (realm_id, seq, shard, era, vis, body, alt)
         )
         update realm_head h set seq = newest.seq
         from unnest($21::bigint[], $22::bigint[]) as newest (realm_id, seq)
         where h.realm_id = newest.realm_id",
        &channels,
        &ids,
        &authors,
        &kinds,
        &flags,
        contents.as_slice() as &[&str],
        &tts,
        &everyone,
        &mentions,
        &roles,
        extras.as_slice() as &[Option<&str>],
        &realms,
        &seqs,
        &shards,
        &eras,
        &vis,
        bodies.as_slice() as &[&[u8]],
        alts.as_slice() as &[Option<Vec<u8>>],
        time,
        EventKind::MessageCreate.number() as i16,
        &heads,
        &newest,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A `bigint[]` as text.
fn array<T>(ids: &[Id<T>]) -> String {
    let mut text = String::from("{");
    for (place, id) in ids.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{}", id.to_db());
    }
    text.push('}');
    text
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
