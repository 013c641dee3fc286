//! What ears heard against what Postgres numbered: each message of their guilds once, in order,
//! nothing else; and how late each was.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use guildhall_shared::gateway::EventKind;
use serde::Deserialize;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::ear::Ear;
use super::table::Wrong;
use super::town::Town;
use crate::wait::LOOK;

/// For the last messages to come.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// A MESSAGE_CREATE of the log. Times are microseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) guild: u64,
    id: u64,
    /// When it was stored, just before its commit.
    pub(super) at_us: i64,
    /// From then on, per client that it reached.
    pub(super) delays_us: Vec<i64>,
}

impl Posted {
    pub(super) fn is(&self, id: u64) -> bool {
        self.id == id
    }

    /// Until everybody had it.
    pub(super) fn delay_us(&self) -> Option<i64> {
        self.delays_us.iter().copied().max()
    }
}

/// The comparison.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By guild, in the order of their numbers.
    pub(super) posted: Vec<Posted>,
    pub(super) wrong: Wrong,
}

impl Told {
    /// Delays of all deliveries of the messages that `counts`.
    pub(super) fn delays(&self, counts: impl Fn(&Posted) -> bool) -> Vec<i64> {
        let counted = self.posted.iter().filter(|one| counts(one));
        counted
            .flat_map(|one| one.delays_us.iter().copied())
            .collect()
    }
}

/// Waits until the ears have what was posted since `since_us`, when all were up and nobody wrote,
/// and compares. Whoever writes has ended.
pub(super) async fn compare(
    db: &PgPool,
    town: &Town,
    since_us: i64,
    ears: Vec<Ear>,
) -> Result<Told> {
    let mut told = Told {
        posted: posted(db, town, since_us).await?,
        wrong: Wrong::default(),
    };
    let mut places = HashMap::new();
    let mut per_guild: HashMap<u64, Vec<usize>> = HashMap::new();
    for (place, one) in told.posted.iter().enumerate() {
        places.insert((one.guild, one.id), place);
        per_guild.entry(one.guild).or_default().push(place);
    }
    let due = |ear: &Ear| -> Vec<usize> {
        let mine = town
            .guilds
            .iter()
            .filter(|guild| guild.members.contains(&ear.person));
        mine.filter_map(|guild| per_guild.get(&guild.id))
            .flatten()
            .copied()
            .collect()
    };
    let due: Vec<Vec<usize>> = ears.iter().map(due).collect();
    let end = Instant::now() + ARRIVAL_MAX;
    while ears
        .iter()
        .zip(&due)
        .any(|(ear, due)| ear.count() < due.len())
        && Instant::now() < end
    {
        sleep(LOOK).await;
    }
    for (ear, due) in ears.iter().zip(due) {
        take(&mut told, &places, ear, due);
    }
    Ok(told)
}

/// One client's part.
fn take(told: &mut Told, places: &HashMap<(u64, u64), usize>, ear: &Ear, due: Vec<usize>) {
    let Told { posted, wrong } = told;
    let heard = ear.finish();
    let person = ear.person;
    for fault in heard.faults {
        wrong.find(format!("person {person}: {fault}"));
    }
    let mut due: HashSet<usize> = due.into_iter().collect();
    let mut newest: HashMap<u64, usize> = HashMap::new();
    for came in heard.messages {
        let name = format!("person {person}: message {} of {}", came.id, came.guild);
        let Some(&place) = places.get(&(came.guild, came.id)) else {
            wrong.find(format!("{name} is not in the log"));
            continue;
        };
        if !due.remove(&place) {
            wrong.find(format!("{name} came twice, or to somebody it is not for"));
            continue;
        }
        let newest = newest.entry(came.guild).or_default();
        if place < *newest {
            wrong.find(format!("{name} came after a later one"));
        }
        *newest = place.max(*newest);
        let one = &mut posted[place];
        one.delays_us.push(came.at_us - one.at_us);
    }
    for place in due {
        let Posted {
            guild, id, at_us, ..
        } = posted[place];
        wrong.find(format!(
            "person {person}: message {id} of {guild}, stored at {at_us}, never came"
        ));
    }
}

#[derive(Deserialize)]
struct Created<'a> {
    id: &'a str,
}

async fn posted(db: &PgPool, town: &Town, since_us: i64) -> Result<Vec<Posted>> {
    let guilds: Vec<i64> = town.guilds.iter().map(|guild| guild.id as i64).collect();
    let rows: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
        "select realm_id, (extract(epoch from at) * 1000000)::bigint, body from realm_event
         where realm_id = any($1) and kind = $2
           and at >= to_timestamp($3::float8 / 1000000)
         order by realm_id, seq",
    )
    .bind(guilds)
    .bind(EventKind::MessageCreate.number() as i16)
    .bind(since_us as f64)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(guild, at_us, body)| {
            let created: Created<'_> = serde_json::from_slice(&body)?;
            Ok(Posted {
                guild: guild as u64,
                id: created.id.parse()?,
                at_us,
                delays_us: Vec::new(),
            })
        })
        .collect()
}
