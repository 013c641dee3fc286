//! The event log (I1): written, and read back: what a realm's newest number is, and what came
//! after another.

use std::time::Duration;

use bytes::Bytes;
use guildhall_shared::{
    envelope::{Alt, Durability, Envelope, Visibility},
    gateway::EventKind,
    id::{Id, marker::Realm},
    shard::{self, Position, ShardId},
};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

use crate::{Error, Result};

/// A realm's newest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub realm: Id<Realm>,
    pub position: Position,
}

/// Events of a realm after a position, up to a number of the same era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub realm: Id<Realm>,
    pub after: Position,
    pub up_to: u64,
}

/// Numbers and stores one event of a realm (a guild or a user), as the last step of the
/// transaction that makes the change. `body` is the JSON of the dispatch's `d`.
///
/// From here to the commit the realm's head row is locked: of several realms, append to
/// the smaller id first.
pub async fn append<T>(
    db: &mut PgConnection,
    realm: Id<T>,
    kind: EventKind,
    vis: Visibility,
    body: Bytes,
    alt: Option<Alt>,
    trace: u128,
) -> Result<Envelope> {
    let mut vis_bytes = Vec::new();
    vis.encode(&mut vis_bytes);
    let alt_bytes = alt.as_ref().map(|alt| {
        let mut bytes = Vec::new();
        alt.encode(&body, &mut bytes);
        bytes
    });
    let row = sqlx::query!(
        r#"with head as (
             update realm_head
             set seq = seq + 1, state_seq = case when $2 then seq + 1 else state_seq end
             where realm_id = $1
             returning shard, era, seq
           )
           insert into realm_event (realm_id, seq, shard, era, kind, vis, body, alt)
           select $1, seq, shard, era, $3, $4, $5, $6 from head
           returning era, seq, at"#,
        realm.to_db(),
        kind.changes_access(),
        kind.number() as i16,
        vis_bytes,
        &body[..],
        alt_bytes,
    )
    .fetch_one(db)
    .await?;
    Ok(Envelope {
        realm: shard::realm(realm),
        durability: Durability::Durable(position(row.era, row.seq)),
        kind,
        vis,
        at_ms: (row.at.unix_timestamp_nanos() / 1_000_000) as u64,
        trace,
        body,
        alt,
    })
}

/// The heads of these realms, in no order; a realm that does not exist is left out.
pub async fn heads(db: impl PgExecutor<'_>, realms: &[Id<Realm>]) -> Result<Vec<Head>> {
    let rows = sqlx::query!(
        "select realm_id, era, seq from realm_head where realm_id = any($1)",
        &crate::ids_to_db(realms),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Head {
            realm: Id::from_db(row.realm_id),
            position: position(row.era, row.seq),
        })
        .collect())
}

/// A realm's events after `after`, oldest first, at most `limit`.
///
/// Only events of `after`'s era: a reader whose era has passed gets none, sees it by
/// the head's era, and starts from a snapshot. Events older than the log's retention
/// are gone: the first one returned is then not `after.seq + 1`.
pub async fn since(
    db: impl PgExecutor<'_>,
    realm: Id<Realm>,
    after: Position,
    limit: u32,
) -> Result<Vec<Envelope>> {
    let rows = sqlx::query_as!(
        EventRow,
        "select realm_id, seq, era, at, kind, vis, body, alt from realm_event
         where realm_id = $1 and seq > $2 and era = $3
         order by seq limit $4",
        realm.to_db(),
        // A seq beyond i64 is after everything.
        i64::try_from(after.seq).unwrap_or(i64::MAX),
        i32::try_from(after.era).unwrap_or(i32::MAX),
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Envelope::try_from).collect()
}

/// The MESSAGE_CREATEs of realms between two positions of one era, the second included; at
/// most `limit`, in no order.
pub async fn messages_between(
    db: impl PgExecutor<'_>,
    spans: &[Span],
    limit: u32,
) -> Result<Vec<Envelope>> {
    let column = |value: fn(&Span) -> i64| spans.iter().map(value).collect::<Vec<_>>();
    let rows = sqlx::query_as!(
        EventRow,
        "select e.realm_id, e.seq, e.era, e.at, e.kind, e.vis, e.body, e.alt
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
                as span (realm_id, era, after, up_to)
         join realm_event e on e.realm_id = span.realm_id and e.era = span.era
                           and e.seq > span.after and e.seq <= span.up_to
         where e.kind = $5
         limit $6",
        &column(|span| span.realm.to_db()),
        &column(|span| i64::from(span.after.era)),
        &column(|span| span.after.seq as i64),
        &column(|span| span.up_to as i64),
        EventKind::MessageCreate.number() as i16,
        i64::from(limit),
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Envelope::try_from).collect()
}

/// The heads of the realms of `shards` that got an event within `window` before now, by
/// the database's clock. A transaction may commit a while after its events' time (3 s at
/// most), so windows of calls must overlap by more than that.
pub async fn newer_in_shards(
    db: impl PgExecutor<'_>,
    shards: &[ShardId],
    window: Duration,
) -> Result<Vec<Head>> {
    let shards: Vec<i32> = shards.iter().map(|shard| i32::from(shard.0)).collect();
    let rows = sqlx::query!(
        "select h.realm_id, h.era, h.seq
         from (select distinct realm_id from realm_event
               where shard = any($1) and at > now() - make_interval(secs => $2)) e
         join realm_head h using (realm_id)",
        &shards,
        window.as_secs_f64(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Head {
            realm: Id::from_db(row.realm_id),
            position: position(row.era, row.seq),
        })
        .collect())
}

struct EventRow {
    realm_id: i64,
    seq: i64,
    era: i32,
    at: OffsetDateTime,
    kind: i16,
    vis: Vec<u8>,
    body: Vec<u8>,
    alt: Option<Vec<u8>>,
}

impl TryFrom<EventRow> for Envelope {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self> {
        let realm = Id::from_db(row.realm_id);
        let malformed = |source| Error::Event {
            realm,
            seq: row.seq,
            source,
        };
        let kind = EventKind::from_number(row.kind as u16).ok_or(Error::EventKind {
            realm,
            seq: row.seq,
            kind: row.kind,
        })?;
        let alt = row
            .alt
            .map(|alt| Alt::decode(&row.body, &mut alt.into()).map_err(malformed))
            .transpose()?;
        Ok(Self {
            realm,
            durability: Durability::Durable(position(row.era, row.seq)),
            kind,
            vis: Visibility::decode(&mut row.vis.as_slice()).map_err(malformed)?,
            at_ms: (row.at.unix_timestamp_nanos() / 1_000_000) as u64,
            trace: 0,
            body: row.body.into(),
            alt,
        })
    }
}

fn position(era: i32, seq: i64) -> Position {
    Position {
        era: era as u32,
        seq: seq as u64,
    }
}
