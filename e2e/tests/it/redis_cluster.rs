//! A Redis Cluster of three primaries instead of one server: everything as before, and one primary
//! that is away costs nothing but time, and that only to what is its (I1 to I6, I8).

use e2e::{
    cluster::{Options, Shared, Use},
    session::Session,
    wait::until,
    world::{self, INTENTS},
};
use serde_json::json;

use crate::{
    faults::Stage,
    limits::{identify, session_starts},
};

/// Messages between two faults.
const SOME: usize = 40;
/// Guilds of each gateway; their shards are spread over the primaries.
const GUILDS: usize = 4;
/// The primaries.
const PRIMARIES: usize = 3;

const OPTIONS: Options = Options {
    redis_primaries: PRIMARIES,
    ..Options::DEFAULT
};

static LIMITED: Shared = Shared::new(Options {
    rate_limits: "on",
    ..OPTIONS
});

/// Per primary, whether some guild's events go through it.
async fn used(cluster: &Use, stage: &Stage) -> [bool; PRIMARIES] {
    let mut used = [false; PRIMARIES];
    for guild in &stage.guilds {
        used[cluster.primary_of(&guild.id).await.unwrap()] = true;
    }
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_and_sessions_resume_elsewhere() {
    let cluster = Use::own(OPTIONS).await;
    let stage = Stage::of(&cluster, GUILDS).await;
    let used = used(&cluster, &stage).await;
    assert!(used.iter().filter(|used| **used).count() > 1, "{used:?}");
    let writers = stage.start_writers(&cluster);
    writers.more(SOME).await;

    // Sessions go on at the other gateway, first of one that lives, then of one that does not.
    let proxy = &cluster.gateways[0].proxy;
    proxy.shut();
    for session in &stage.sessions[0] {
        let resumed = session.wait("RESUMED", |log| (log.resumed > 0).then_some(()));
        resumed.await;
    }
    proxy.accept();
    writers.more(SOME).await;
    cluster.gateways[1].server.kill();
    writers.more(SOME).await;
    stage.moved_away(1).await;
    cluster.map_of(1).await;
    cluster.gateways[1].server.restart().await.unwrap();
    cluster.map_of(2).await;
    writers.more(SOME).await;
    stage.assert_nothing_lost(&cluster, writers, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_that_comes_back_empty_loses_nothing() {
    let cluster = Use::own(OPTIONS).await;
    let stage = Stage::of(&cluster, GUILDS).await;
    let writers = stage.start_writers(&cluster);
    for primary in 0..PRIMARIES {
        writers.more(SOME).await;
        cluster.kill_primary(primary).await.unwrap();
        writers.more(SOME).await;
        stage.settle().await; // delivery goes on without it
        // Whoever comes now gets in.
        let urls = vec![cluster.gateways[primary % 2].url()];
        Session::start(stage.human.login(urls, INTENTS)).await;
        cluster.restart_primary(primary).await.unwrap();
        writers.more(SOME).await;
        cluster.map_of(2).await;
    }
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

/// Replication is behind: what the primary had said and its replica had not got is found in Postgres.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_loses_nothing() {
    let cluster = Use::own(Options {
        redis_replicas: true,
        ..OPTIONS
    })
    .await;
    let stage = Stage::of(&cluster, GUILDS).await;
    let writers = stage.start_writers(&cluster);
    let mut killed = Vec::new();
    for guild in &stage.guilds {
        let primary = cluster.primary_of(&guild.id).await.unwrap();
        if killed.contains(&(primary % PRIMARIES)) {
            continue;
        }
        killed.push(primary);
        writers.more(SOME).await;
        cluster.kill_primary(primary).await.unwrap();
        writers.more(SOME).await;
        stage.settle().await;
        let replica = PRIMARIES + primary;
        until("a replica that took over", async || {
            let now = cluster.primary_of(&guild.id).await.ok()?;
            (now == replica).then_some(())
        })
        .await;
        writers.more(SOME).await;
        stage.settle().await;
        let urls = vec![cluster.gateways[primary % 2].url()];
        Session::start(stage.human.login(urls, INTENTS)).await;
        // It follows its replica from now on.
        cluster.restart_primary(primary).await.unwrap();
        writers.more(SOME).await;
        cluster.map_of(2).await;
        assert_eq!(cluster.primary_of(&guild.id).await.unwrap(), replica);
    }
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_lose_nothing() {
    let cluster = Use::own(OPTIONS).await;
    let stage = Stage::of(&cluster, GUILDS).await;
    let writers = stage.start_writers(&cluster);
    for guild in &stage.guilds {
        writers.more(SOME / 4).await;
        let from = cluster.primary_of(&guild.id).await.unwrap();
        let to = (from + 1) % PRIMARIES;
        cluster.move_slot_of(&guild.id, to).await.unwrap();
        writers.more(SOME / 4).await;
        assert_eq!(cluster.primary_of(&guild.id).await.unwrap(), to);
    }
    stage.settle().await;
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_starts_are_counted_over_all_gateways_and_apis() {
    let cluster = LIMITED.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let url = |number: usize| cluster.gateways[number % 2].url();
    for number in 0..3 {
        let shard = Some([number, 3]);
        identify(&url(number as usize), &bot, shard).await.unwrap();
    }
    for api in 0..2 {
        let limit = session_starts(&cluster, api, &bot).await;
        assert_eq!(limit["remaining"], 997);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_are_counted_over_all_apis() {
    let cluster = LIMITED.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild("house").await;
    let path = format!("/channels/{}/messages", guild.channel);
    let apis = cluster.origins();
    let (mut said, mut refused) = (0, 0);
    for number in 0..8 {
        let rest = owner.rest.at(&apis[number % apis.len()]);
        let reply = rest.post(&path, &json!({"content": "hello"})).await;
        match reply.status {
            200 => said += 1,
            429 => refused += 1,
            status => panic!("{status}"),
        }
    }
    // Five in five seconds, whoever is asked; alone each would allow five.
    assert_eq!((said, refused), (5, 3));
}
