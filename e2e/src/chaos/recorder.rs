//! Copies the logs of the guilds while they grow: the log forgets what is half an hour old.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use guildhall_shared::{envelope::Alt, gateway::EventKind};
use sqlx::{PgPool, Row};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::checker::{Base, GuildHistory, Logged};
use crate::cluster::lock;

const INTERVAL: Duration = Duration::from_millis(500);
/// Rows of one read.
const ROWS_MAX: i64 = 5_000;

/// A guild whose log is copied.
#[derive(Debug)]
struct Copied {
    id: u64,
    base: Base,
    events: Vec<Logged>,
}

impl Copied {
    fn head(&self) -> u64 {
        self.events.last().map_or(self.base.seq, |event| event.seq)
    }
}

/// A running copy.
pub(crate) struct Recorder {
    db: PgPool,
    guilds: Arc<Mutex<Vec<Copied>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Copies what comes after the bases.
    pub(crate) fn start(db: PgPool, bases: Vec<(u64, Base)>) -> Self {
        let copied = bases.into_iter().map(|(id, base)| Copied {
            id,
            base,
            events: Vec::new(),
        });
        let guilds = Arc::new(Mutex::new(copied.collect()));
        let (copies, pool) = (Arc::clone(&guilds), db.clone());
        let task = tokio::spawn(async move {
            loop {
                let _ = copy(&pool, &copies).await; // Postgres is away: the next round has it
                sleep(INTERVAL).await;
            }
        });
        Self { db, guilds, task }
    }

    /// Copies the rest and ends.
    pub(crate) async fn finish(self) -> Result<Vec<GuildHistory>> {
        self.task.abort();
        copy(&self.db, &self.guilds).await?;
        let guilds = std::mem::take(&mut *lock(&self.guilds));
        let whole = guilds.into_iter().map(|guild| GuildHistory {
            id: guild.id,
            base: guild.base,
            events: guild.events,
        });
        Ok(whole.collect())
    }

    /// Events copied so far.
    pub(super) fn len(&self) -> usize {
        lock(&self.guilds)
            .iter()
            .map(|guild| guild.events.len())
            .sum()
    }
}

/// One round over all guilds.
async fn copy(db: &PgPool, guilds: &Mutex<Vec<Copied>>) -> Result<()> {
    let heads: Vec<(u64, u64)> = lock(guilds)
        .iter()
        .map(|guild| (guild.id, guild.head()))
        .collect();
    for (place, (id, mut head)) in heads.into_iter().enumerate() {
        loop {
            let rows = rows(db, id, head).await?;
            let Some(last) = rows.last() else { break };
            head = last.seq;
            let is_all = rows.len() < ROWS_MAX as usize;
            lock(guilds)[place].events.extend(rows);
            if is_all {
                break;
            }
        }
    }
    Ok(())
}

/// The newest events of a guild.
pub(crate) async fn newest(db: &PgPool, guild: i64) -> Result<Vec<Logged>> {
    const LOOKED_AT: i64 = 50;
    let head: i64 = sqlx::query_scalar("select seq from realm_head where realm_id = $1")
        .bind(guild)
        .fetch_one(db)
        .await?;
    rows(db, guild as u64, (head - LOOKED_AT).max(0) as u64).await
}

async fn rows(db: &PgPool, guild: u64, after: u64) -> Result<Vec<Logged>> {
    let rows = sqlx::query(
        "select seq, kind, body, alt, (extract(epoch from at) * 1000)::bigint as at_ms
         from realm_event where realm_id = $1 and seq > $2 order by seq limit $3",
    )
    .bind(guild as i64)
    .bind(after as i64)
    .bind(ROWS_MAX)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let body: Vec<u8> = row.try_get("body")?;
            let alt: Option<Vec<u8>> = row.try_get("alt")?;
            let alt = alt.map(|alt| Alt::decode(&body, &mut Bytes::from(alt)));
            let alt = alt.transpose()?.map(|alt| text(alt.body.to_vec()));
            let kind = row.try_get::<i16, _>("kind")? as u16;
            Ok(Logged {
                seq: row.try_get::<i64, _>("seq")? as u64,
                at: row.try_get::<i64, _>("at_ms")? as u64,
                kind: EventKind::from_number(kind)
                    .context("a kind nobody knows")?
                    .name(),
                body: text(body)?,
                alt: alt.transpose()?,
            })
        })
        .collect()
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).context("a body that is no text")
}
