//! Faults at random on a cluster of real processes under load, and what they did to sessions.
//!
//! [`run`] starts the processes ([`stage`]), people and bots with their sessions ([`world`],
//! [`listener`]) and writers ([`writers`]), carries out a schedule ([`plan`], [`faults`]), lets
//! everything come to rest, and has the [`checker`] compare what each session was told with what
//! Postgres numbered ([`recorder`]). `docs/chaos.md` says how to read the result.

pub mod checker;
mod faults;
pub(crate) mod listener;
mod network;
mod plan;
pub(crate) mod recorder;
mod stage;
mod stores;
pub(crate) mod world;
pub(crate) mod writers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{PgPool, Row};
use tokio::time::{Instant, sleep};

use self::checker::{History, Touches, Trouble, Verdict, fingerprint, number};
use self::listener::{Bodies, Listener, Listening, now_ms};
use self::network::Network;
use self::plan::Targets;
use self::recorder::Recorder;
use self::stage::{Stage, start_with, with};
use self::world::{Place, Size, World};
use self::writers::Writers;

const TARGETS: Targets = Targets {
    gateways: 3,
    apis: 2,
    coordinators: 2,
};
/// For all sessions to be up, at the start and after the last fault.
const SETTLE_MAX: Duration = Duration::from_secs(180);
/// For what was written last to reach everybody.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// Redis is away for so long while the last messages are written.
const LAST_WORDS: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(250);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub faults: usize,
    pub seed: u64,
    /// About as many.
    pub sessions: usize,
    /// A gateway that is wrong in this way; see its feature `broken`.
    pub broken: Option<String>,
}

/// Runs it all.
///
/// Errors: something that is not under test did not work.
pub async fn run(options: &Options) -> Result<Verdict> {
    let planned = plan::schedule(options.seed, options.faults, TARGETS);
    println!("seed {}, {} faults", options.seed, planned.len());
    let began = Instant::now();
    let stage = Arc::new(Stage::start(TARGETS, options.broken.clone()).await?);
    println!(
        "{}; logs in {}",
        match stage.network {
            Network::Loopback => "on loopback, behind proxies",
            Network::Namespaces { .. } => "each process in a network namespace, behind proxies",
        },
        stage.folder.display()
    );
    let played = play(options, &planned, &stage).await;
    let verdict = played.map(|history| {
        println!("checking, {:.0} s", began.elapsed().as_secs_f64());
        let verdict = checker::check(&history);
        if !verdict.is_clean() {
            let file = stage.folder.join("sessions.txt");
            let _ = std::fs::write(file, checker::trace(&history, &verdict)); // the verdict says it shorter
        }
        verdict
    });
    stage.stop(!verdict.as_ref().is_ok_and(Verdict::is_clean));
    println!("done, {:.0} s", began.elapsed().as_secs_f64());
    verdict
}

async fn play(options: &Options, planned: &[plan::Planned], stage: &Arc<Stage>) -> Result<History> {
    let world = World::make(&stage.nobody(), Size::of(options.sessions)).await;
    let mut bases = Vec::new();
    for place in &world.places {
        let id = world::guild_id(&place.id)?;
        let base = world::base(&place.owner, &place.id, &stage.db).await?;
        bases.push((id as u64, base));
    }
    let recorder = Recorder::start(stage.db.clone(), bases);
    let bodies = Arc::new(Bodies::default());
    let listeners = listen(&world, options.sessions, stage, &bodies);
    settle(&listeners, "at the start").await?;
    println!("{} sessions are up", listeners.len());

    let writers = Writers::start(&world.places, stage.origins());
    let result = faults::carry_out(stage, planned).await;
    println!(
        "faults are over: {} writes, {} calls repeated, {} events",
        writers.count(),
        writers.retries(),
        recorder.len()
    );
    let mut troubles = result?;
    stage.ready().await?;
    let (writes, refused) = writers.finish().await;
    for text in &refused {
        println!("not as a writer expects: {text}");
    }
    settle(&listeners, "after the last fault").await?;
    troubles.push(last_words(stage, &world.places, &listeners).await?);

    let guilds = recorder.finish().await?;
    let places: Vec<i64> = world
        .places
        .iter()
        .map(|place| world::guild_id(&place.id))
        .collect::<Result<_>>()?;
    let stored = stored(&stage.db, &places).await?;
    Ok(History {
        guilds,
        sessions: listeners.into_iter().map(Listener::finish).collect(),
        writes,
        stored,
        troubles,
        bodies: bodies.take(),
    })
}

fn listen(world: &World, sessions: usize, stage: &Stage, bodies: &Arc<Bodies>) -> Vec<Listener> {
    let (urls, size) = (stage.gateway_urls(), Size::of(sessions));
    let mut listeners: Vec<Listener> = Vec::new();
    for (place, account) in world.accounts.iter().enumerate() {
        let count = match account.application {
            Some(_) => size.sessions_of_bot,
            None => size.sessions_of_human,
        };
        for number in 0..count {
            let how = Listening {
                name: format!("{} ({number})", account.name),
                user: account.id.parse().unwrap_or_default(),
                token: account.token.clone(),
                intents: world::intents_of(account, place + number),
                urls: urls.clone(),
                first: (place + number) % urls.len(),
                roams: number % 2 == 1 || place % 2 == 1,
            };
            listeners.push(Listener::start(how, Arc::clone(bodies)));
        }
    }
    listeners
}

/// Waits until every session is up and has its guilds.
pub(crate) async fn settle(listeners: &[Listener], when: &str) -> Result<()> {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let down = listeners
            .iter()
            .filter(|one| !one.is_up() || one.guilds() == 0)
            .count();
        if down == 0 {
            return Ok(());
        }
        if Instant::now() >= end {
            // The checker says what they lack.
            println!("{down} sessions did not come up {when}");
            ensure!(when != "at the start", "nothing to test");
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// The last event of every guild is written while Redis is away: nobody publishes it, and none
/// comes after it that would show the gap. Waits until all have it.
async fn last_words(
    stage: &Arc<Stage>,
    places: &[Place],
    listeners: &[Listener],
) -> Result<Trouble> {
    let from = now_ms();
    with(&stage.redis, |pair| pair.kill()).await?;
    let mut last = Vec::new();
    for place in places {
        let content = format!("last words in {}", place.id);
        let id = writers::say(&stage.origins(), &place.owner, &place.general, &content).await;
        ensure!(id > 0, "the last words were not taken");
        last.push((place, id));
    }
    sleep(LAST_WORDS).await;
    start_with(&stage.redis, |pair| pair.come_back_empty()).await?;
    let trouble = Trouble {
        from,
        to: now_ms(),
        label: "Redis away at the end".to_owned(),
        touches: Touches::Redis,
    };
    let mut expected = Vec::new();
    for (place, id) in last {
        let (full, blank) = said(stage, &place.id, id).await?;
        let members: Vec<u64> = members(stage, &place.id).await?;
        expected.push((members, full, blank));
    }
    let end = Instant::now() + ARRIVAL_MAX;
    loop {
        let waiting = listeners.iter().filter(|one| {
            let mut his = expected
                .iter()
                .filter(|(members, ..)| members.contains(&one.user()));
            !his.all(|(_, full, blank)| one.heard(*full) || one.heard(*blank))
        });
        let count = waiting.count();
        if count == 0 {
            println!("the last words have reached everybody");
            return Ok(trouble);
        }
        if Instant::now() >= end {
            println!("the last words did not reach {count} sessions");
            return Ok(trouble);
        }
        sleep(LOOK).await;
    }
}

/// A message's MESSAGE_CREATE with and without its text.
async fn said(stage: &Stage, guild: &str, id: u64) -> Result<(u64, u64)> {
    let rows = recorder::newest(&stage.db, world::guild_id(guild)?).await?;
    let event = rows
        .into_iter()
        .find(|event| {
            let d: serde_json::Value = serde_json::from_str(&event.body).unwrap_or_default();
            event.kind == "MESSAGE_CREATE" && number(&d["id"]) == id
        })
        .context("the last words have no event")?;
    let full = fingerprint(event.kind, &event.body);
    let blank = event.alt.map_or(full, |alt| fingerprint(event.kind, &alt));
    Ok((full, blank))
}

async fn members(stage: &Stage, guild: &str) -> Result<Vec<u64>> {
    let ids: Vec<i64> = sqlx::query_scalar("select user_id from member where guild_id = $1")
        .bind(world::guild_id(guild)?)
        .fetch_all(&stage.db)
        .await?;
    Ok(ids.into_iter().map(|id| id as u64).collect())
}

/// All messages of the guilds.
pub(crate) async fn stored(
    db: &PgPool,
    guilds: &[i64],
) -> Result<std::collections::BTreeMap<u64, String>> {
    let rows = sqlx::query(
        "select m.message_id, m.content from message m join channel c using (channel_id)
         where c.guild_id = any($1)",
    )
    .bind(guilds)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let id: i64 = row.try_get("message_id")?;
            Ok((id as u64, row.try_get("content")?))
        })
        .collect()
}
