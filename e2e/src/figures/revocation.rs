//! Views of channels are taken and given back while messages are written to them: nobody is told
//! what has a later number than the end of their view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::crowd::{Crowd, Watched, client};
use super::table::{Op9, Row};
use super::town::pause;
use crate::chaos::checker::Write;
use crate::chaos::world::{Place, Size, World, intents_of};
use crate::chaos::writers::say;
use crate::cluster::Cluster;
use crate::rest::Rest;
use crate::world::{Account, permission::VIEW_CHANNEL, random_word};

const SIZE: Size = Size {
    guilds: 3,
    humans: 16,
    bots: 8,
    sessions_of_human: 5,
    sessions_of_bot: 1,
};
const DELIVERIES: u64 = 100_000;
/// What clients write down until the writers end; some of it is no message.
const FILED: usize = 150_000;
/// The writers end at the latest after this.
const WRITING_MAX: Duration = Duration::from_secs(60);
/// Per guild.
const WRITERS: usize = 4;
const MESSAGE_PACE_MS: (u64, u64) = (40, 80);
/// Who takes views, per guild.
const TAKERS: usize = 2;
/// How long a view is taken, and how long until the next.
const VIEW_PACE_MS: (u64, u64) = (30, 150);

pub(super) async fn run(cluster: &Cluster) -> Result<Vec<Row>> {
    let world = World::make(&cluster.rest(0), SIZE).await;
    let id = |account: &Account| account.id.parse::<u64>().unwrap_or_default();
    let watched: Vec<Watched<'_>> = world
        .places
        .iter()
        .map(|place| Watched {
            id: &place.id,
            owner: &place.owner,
            members: place.members.iter().chain([&place.owner]).map(id).collect(),
        })
        .collect();
    let mut clients = Vec::new();
    for (place, account) in world.accounts.iter().enumerate() {
        let count = match account.application {
            Some(_) => SIZE.sessions_of_bot,
            None => SIZE.sessions_of_human,
        };
        for number in 0..count {
            let intents = intents_of(account, place + number);
            let gateway = (place + number) % cluster.gateways.len();
            clients.push(client(cluster, account, number, intents, gateway));
        }
    }
    let crowd = Crowd::gather(cluster, &watched, clients).await?;

    let (stop, taken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut writers: Vec<JoinHandle<Vec<Write>>> = Vec::new();
    let mut takers: Vec<JoinHandle<Result<()>>> = Vec::new();
    for place in &world.places {
        for number in 0..WRITERS {
            let (place, stop) = (place.clone(), Arc::clone(&stop));
            writers.push(tokio::spawn(write(place, cluster.origins(), number, stop)));
        }
        for _ in 0..TAKERS {
            let (place, stop) = (place.clone(), Arc::clone(&stop));
            takers.push(tokio::spawn(take(place, stop, Arc::clone(&taken))));
        }
    }
    let began = Instant::now();
    while crowd.filed() < FILED && began.elapsed() < WRITING_MAX {
        sleep(Duration::from_millis(250)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut writes = Vec::new();
    for writer in writers {
        writes.extend(writer.await.context("a writer ended")?);
    }
    for taker in takers {
        taker.await.context("a taker ended")??;
    }
    // Everybody sees this one: when they have it, all that came before has come.
    for place in &world.places {
        let content = format!("{} last words", random_word());
        let id = say(&cluster.origins(), &place.owner, &place.general, &content).await;
        writes.push(Write::Created { id, content });
    }
    let messages = writes.len();
    let checked = crowd.finish(writes, Op9::MustNotBe).await?;
    let taken = taken.load(Ordering::Relaxed);
    let (leaked, deliveries) = (checked.leaked, checked.deliveries);
    Ok(vec![Row {
        figure: "revocation",
        what: format!(
            "{taken} views taken while {messages} messages were written: told to somebody who \
             may not see it"
        ),
        measured: format!("{leaked} of {deliveries} deliveries, in {seconds:.0} s"),
        numbers: BTreeMap::from([
            ("leaked", leaked as f64),
            ("deliveries", deliveries as f64),
            ("taken", taken as f64),
            ("messages", messages as f64),
        ]),
        aim: "0 of 100,000",
        is_met: leaked == 0 && deliveries >= DELIVERIES,
        wrong: checked.wrong,
    }])
}

/// Messages to any room, until it stops.
async fn write(
    place: Place,
    origins: Vec<String>,
    number: usize,
    stop: Arc<AtomicBool>,
) -> Vec<Write> {
    let run = random_word();
    let mut written = Vec::new();
    for count in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        pause(MESSAGE_PACE_MS).await;
        let room = &place.rooms[rand::random_range(0..place.rooms.len())];
        let content = format!("{run} {number} {count}");
        let id = say(&origins, &place.owner, room, &content).await;
        if id > 0 {
            written.push(Write::Created { id, content });
        }
    }
    written
}

/// One view after the other is taken and given back.
async fn take(place: Place, stop: Arc<AtomicBool>, taken: Arc<AtomicU64>) -> Result<()> {
    let rest = &place.owner.rest;
    let bit = VIEW_CHANNEL.to_string();
    while !stop.load(Ordering::Relaxed) {
        let room = &place.rooms[rand::random_range(0..place.rooms.len())];
        let role = &place.roles[rand::random_range(0..place.roles.len())];
        let member = &place.members[rand::random_range(0..place.members.len())];
        let (path, hide, show) = match rand::random_range(0..4) {
            // A member's own overwrite.
            0 => (
                format!("/channels/{room}/permissions/{}", member.id),
                (Method::PUT, json!({"type": 1, "allow": "0", "deny": bit})),
                (Method::DELETE, Value::Null),
            ),
            // That of a role.
            1 => (
                format!("/channels/{room}/permissions/{role}"),
                (Method::PUT, json!({"type": 0, "allow": "0", "deny": bit})),
                (Method::PUT, json!({"type": 0, "allow": bit, "deny": "0"})),
            ),
            // That of everybody.
            2 => (
                format!("/channels/{}/permissions/{}", place.rooms[0], place.id),
                (Method::PUT, json!({"type": 0, "allow": "0", "deny": bit})),
                (Method::DELETE, Value::Null),
            ),
            // A role is taken from a member.
            _ => (
                format!("/guilds/{}/members/{}/roles/{role}", place.id, member.id),
                (Method::DELETE, Value::Null),
                (Method::PUT, Value::Null),
            ),
        };
        call(rest, &path, hide).await?;
        taken.fetch_add(1, Ordering::Relaxed);
        pause(VIEW_PACE_MS).await;
        call(rest, &path, show).await?;
        pause(VIEW_PACE_MS).await;
    }
    Ok(())
}

/// Errors: no answer. What two takers do to each other is none.
async fn call(rest: &Rest, path: &str, (method, form): (Method, Value)) -> Result<()> {
    let form = Some(&form).filter(|form| !form.is_null());
    rest.try_call(method, path, form).await?;
    Ok(())
}
