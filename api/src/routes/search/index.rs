//! The search index: rows of `message_search`, made when a channel is searched.
//!
//! `message_search_channel` says up to which id a channel is indexed. New messages cost
//! nothing; edits and deletes of messages that are indexed change the row along
//! ([`refresh`], `delete_messages`).

use std::{collections::BTreeMap, time::Duration};

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{Channel, Message as MessageMarker},
    model::Message,
};
use sqlx::{Connection, PgConnection};

use crate::{app::App, error::Result, media::Media, routes::messages, snowflakes::first_id_at};

/// Messages that one request indexes before it says that the index is behind.
const REQUEST_MAX: i64 = 2000;
/// Messages of one transaction.
const BATCH: i64 = 500;
/// Younger messages may have older ones that are not committed yet: a statement takes 3
/// seconds at most.
const SETTLED_AFTER: Duration = Duration::from_secs(4);

pub(super) const LINK: i32 = 1;
pub(super) const EMBED: i32 = 1 << 1;
pub(super) const FILE: i32 = 1 << 2;
pub(super) const IMAGE: i32 = 1 << 3;
pub(super) const VIDEO: i32 = 1 << 4;
pub(super) const SOUND: i32 = 1 << 5;
pub(super) const STICKER: i32 = 1 << 6;
pub(super) const POLL: i32 = 1 << 7;
pub(super) const SNAPSHOT: i32 = 1 << 8;

/// How far the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Ready,
    /// So many messages were indexed now, and more are being indexed.
    Behind {
        indexed: u32,
    },
}

/// Indexes what the channels have that is new, up to a request's share; the rest goes on
/// without the request.
pub(super) async fn catch_up(
    app: &App,
    db: &mut PgConnection,
    channels: &[Id<Channel>],
) -> Result<Progress> {
    let mut left = REQUEST_MAX;
    let behind = behind(db, channels).await?;
    for (position, &channel) in behind.iter().enumerate() {
        while left > 0 {
            let (indexed, more) = index_batch(&app.media, db, channel, left.min(BATCH)).await?;
            left -= indexed;
            if !more {
                break;
            }
        }
        if left <= 0 {
            let rest = behind[position..].to_vec();
            let worker = app.clone();
            app.work.spawn(async move {
                if let Err(error) = finish(&worker, &rest).await {
                    tracing::warn!(
                        ?error,
                        "the search index is behind; the next search goes on"
                    );
                }
            });
            return Ok(Progress::Behind {
                indexed: (REQUEST_MAX - left) as u32,
            });
        }
    }
    Ok(Progress::Ready)
}

async fn finish(app: &App, channels: &[Id<Channel>]) -> Result<()> {
    for &channel in channels {
        while !app.stop.is_cancelled() {
            let mut db = app.db.acquire().await?;
            let (_, more) = index_batch(&app.media, &mut db, channel, BATCH).await?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

/// The largest id of a message that no older one can come before any more.
fn settled() -> i64 {
    first_id_at(Timestamp::now().0 - SETTLED_AFTER)
}

/// Those of the channels that have settled messages without a row.
async fn behind(db: &mut PgConnection, channels: &[Id<Channel>]) -> Result<Vec<Id<Channel>>> {
    let channels: Vec<i64> = channels.iter().map(|channel| channel.to_db()).collect();
    let behind = sqlx::query_scalar!(
        r#"select w.channel_id as "channel_id!"
           from unnest($1::bigint[]) as w (channel_id)
           left join message_search_channel i using (channel_id)
           where exists (
             select from message m
             where m.channel_id = w.channel_id and m.message_id <= $2
               and m.message_id > coalesce(i.indexed_to, 0))"#,
        &channels,
        settled(),
    )
    .fetch_all(db)
    .await?;
    Ok(guildhall_store::ids_from_db(behind))
}

/// Indexes the next messages of a channel: how many, and whether there may be more.
async fn index_batch(
    media: &Media,
    db: &mut PgConnection,
    channel: Id<Channel>,
    limit: i64,
) -> Result<(i64, bool)> {
    let mut tx = db.begin().await?;
    // A channel that is going stays until the commit: who collects its messages has locked them, and
    // would wait for the row below.
    let channel_row = sqlx::query!(
        "select from channel where channel_id = $1 for key share",
        channel.to_db(),
    );
    if channel_row.fetch_optional(&mut *tx).await?.is_none() {
        return Ok((0, false));
    }
    sqlx::query!(
        "insert into message_search_channel (channel_id) values ($1) on conflict do nothing",
        channel.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    // One indexer at a time.
    let from = sqlx::query_scalar!(
        "select indexed_to from message_search_channel where channel_id = $1 for update",
        channel.to_db(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let read = sqlx::query!(
        r#"select message_id, xmin::text as "version!" from message
           where channel_id = $1 and message_id > $2 and message_id <= $3
           order by message_id limit $4"#,
        channel.to_db(),
        from,
        settled(),
        limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<i64> = read.iter().map(|row| row.message_id).collect();
    let Some(&last) = ids.last() else {
        tx.commit().await?;
        return Ok((0, false));
    };
    index(media, &mut tx, channel, &ids).await?;
    // Locked when nearly all is done, as whoever edits or deletes one of them holds its guild's head.
    // What was changed since it was read is read again; who comes later waits, and finds its row.
    let locked = sqlx::query!(
        r#"select message_id, xmin::text as "version!" from message
           where channel_id = $1 and message_id = any($2)
           order by message_id for share"#,
        channel.to_db(),
        &ids,
    )
    .fetch_all(&mut *tx)
    .await?;
    let locked: BTreeMap<i64, String> = locked
        .into_iter()
        .map(|row| (row.message_id, row.version))
        .collect();
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for row in &read {
        match locked.get(&row.message_id) {
            Some(version) if *version == row.version => {}
            Some(_) => changed.push(row.message_id),
            None => gone.push(row.message_id),
        }
    }
    if !changed.is_empty() {
        index(media, &mut tx, channel, &changed).await?;
    }
    if !gone.is_empty() {
        sqlx::query!(
            "delete from message_search where channel_id = $1 and message_id = any($2)",
            channel.to_db(),
            &gone,
        )
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query!(
        "update message_search_channel set indexed_to = $2 where channel_id = $1",
        channel.to_db(),
        last,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((ids.len() as i64, ids.len() as i64 == limit))
}

/// Writes the rows of messages as they are; of those that are gone there are none.
async fn index(
    media: &Media,
    db: &mut PgConnection,
    channel: Id<Channel>,
    ids: &[i64],
) -> Result<()> {
    let places: Vec<_> = ids.iter().map(|&id| (channel, Id::from_db(id))).collect();
    // Nobody's eyes: what a viewer sees of reactions is not indexed.
    let nobody = channel.cast();
    let messages = messages::load::messages_at(media, &mut *db, nobody, &places).await?;
    write(db, &messages).await
}

/// Brings the row of an edited message up to date, if it has one; in the edit's transaction.
pub(crate) async fn refresh(db: &mut PgConnection, message: &Message) -> Result<()> {
    let indexed = sqlx::query!(
        "select from message_search where channel_id = $1 and message_id = $2",
        message.channel_id.to_db(),
        message.id.to_db(),
    )
    .fetch_optional(&mut *db)
    .await?;
    if indexed.is_some() {
        write(db, std::slice::from_ref(message)).await?;
    }
    Ok(())
}

/// What a search can ask of a message.
#[derive(Debug, Default, PartialEq)]
struct Document {
    text: String,
    has: i32,
    hosts: Vec<String>,
    filenames: Vec<String>,
}

impl Document {
    fn of(message: &Message) -> Self {
        let mut document = Self::default();
        if !message.embeds.is_empty() {
            document.has |= EMBED;
        }
        if !message.message_snapshots.is_empty() {
            document.has |= SNAPSHOT;
        }
        if message.poll.is_some() {
            document.has |= POLL;
        }
        if !message.sticker_items.is_empty() {
            document.has |= STICKER;
        }
        for attachment in &message.attachments {
            document.has |= FILE;
            let kind = attachment["content_type"].as_str().unwrap_or_default();
            document.has |= match kind.split('/').next() {
                Some("image") => IMAGE,
                Some("video") => VIDEO,
                Some("audio") => SOUND,
                _ => 0,
            };
            let name = attachment["filename"].as_str().unwrap_or_default();
            document.filenames.push(name.to_lowercase());
        }
        document.hosts = hosts(&message.content);
        if !document.hosts.is_empty() {
            document.has |= LINK;
        }
        document.text = messages::all_texts(message).join("\n");
        document
    }
}

/// Hosts of the web addresses in a text, lower case, each once.
fn hosts(text: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    for start in ["https://", "http://"] {
        for rest in text.split(start).skip(1) {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "-._".contains(c)));
            let host = rest[..end.unwrap_or(rest.len())]
                .trim_end_matches('.')
                .to_lowercase();
            if !host.is_empty() && host.len() <= 256 && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    hosts
}

async fn write(db: &mut PgConnection, messages: &[Message]) -> Result<()> {
    fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
        let items: Vec<String> = items
            .into_iter()
            .map(|item| {
                let escaped = item.to_string().replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{escaped}\"")
            })
            .collect();
        // An array of arrays would have to be a rectangle: lists go as text.
        format!("{{{}}}", items.join(","))
    }
    let documents: Vec<Document> = messages.iter().map(Document::of).collect();
    let column = |of: &dyn Fn(&Message) -> i64| messages.iter().map(of).collect::<Vec<i64>>();
    let kinds: Vec<i16> = messages
        .iter()
        .map(|message| match (message.webhook_id, message.author.bot) {
            (Some(_), _) => 2,
            (None, true) => 1,
            (None, false) => 0,
        })
        .collect();
    let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
    let has: Vec<i32> = documents.iter().map(|document| document.has).collect();
    let everyone: Vec<bool> = messages.iter().map(|m| m.mention_everyone).collect();
    let mentions: Vec<String> = messages
        .iter()
        .map(|message| list(message.mentions.iter().map(|user| user.id)))
        .collect();
    let roles: Vec<String> = messages
        .iter()
        .map(|message| list(&message.mention_roles))
        .collect();
    let replied: Vec<Option<i64>> = messages
        .iter()
        .map(|message| {
            let reference = message.message_reference.as_ref()?;
            let answers = reference.kind == 0 && message.kind.is_written();
            reference
                .message_id
                .filter(|_| answers)
                .map(Id::<MessageMarker>::to_db)
        })
        .collect();
    let hosts: Vec<String> = documents.iter().map(|d| list(&d.hosts)).collect();
    let filenames: Vec<String> = documents.iter().map(|d| list(&d.filenames)).collect();
    sqlx::query!(
        "insert into message_search (channel_id, message_id, author_id, author_kind, words, has,
                                     mention_everyone, mentions, mention_roles, replied_to,
                                     hosts, filenames)
         select channel_id, message_id, author_id, author_kind, to_tsvector('simple', words), has,
                everyone, mentions::bigint[], roles::bigint[], replied_to, hosts::text[],
                filenames::text[]
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::text[],
                     $6::int[], $7::bool[], $8::text[], $9::text[], $10::bigint[], $11::text[],
                     $12::text[])
           as r (channel_id, message_id, author_id, author_kind, words, has, everyone, mentions,
                 roles, replied_to, hosts, filenames)
         on conflict (channel_id, message_id) do update
         set words = excluded.words, has = excluded.has,
             mention_everyone = excluded.mention_everyone, mentions = excluded.mentions,
             mention_roles = excluded.mention_roles, hosts = excluded.hosts,
             filenames = excluded.filenames",
        &column(&|message| message.channel_id.to_db()),
        &column(&|message| message.id.to_db()),
        &column(&|message| message.author.id.to_db()),
        &kinds,
        texts.as_slice() as &[&str],
        &has,
        &everyone,
        &mentions,
        &roles,
        replied.as_slice() as &[Option<i64>],
        &hosts,
        &filenames,
    )
    .execute(db)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_addresses() {
        let text = "see https://Example.org/a?b, http://x.y:8080 and https://example.org. ftp://z";
        assert_eq!(hosts(text), ["example.org", "x.y"]);
        assert!(hosts("https:// http://").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            hosts(&text);
        }
    }
}
