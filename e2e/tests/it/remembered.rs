//! Bots that a gateway remembers from a moment ago: what happened since follows their READY. And what it
//! forgets: dispatches that heartbeats have acknowledged.

use e2e::{
    client::{self, Client, End},
    cluster::{Cluster, Options, Shared},
    world::{self, Account},
};
use serde_json::json;

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

const GUILDS: u32 = 1;

async fn identify(cluster: &Cluster, bot: &Account, shard: [u32; 2]) -> Client {
    let mut client = Client::open(&cluster.gateways[0].direct_url).await.unwrap();
    client.expect_op(10).await;
    client.send(&client::identify(&bot.token, Some(GUILDS), Some(shard)));
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guild_joined_meanwhile_follows_ready() {
    let cluster = CLUSTER.cluster().await;
    let human = world::human(&cluster, "human").await;
    let bot = human.make_bot("bot").await;
    let guild = human.make_guild("hall").await;
    let theirs = (guild.id.parse::<u64>().unwrap() >> 22) as u32 % 2;

    // On the bot shard without the guild, so that the other one's identify limit is free.
    let mut first = identify(&cluster, &bot, [1 - theirs, 2]).await;
    first.expect_dispatch("READY").await;
    human.add_bot(&guild, &bot).await;
    let mut second = identify(&cluster, &bot, [theirs, 2]).await;
    let ready = second.expect_dispatch("READY").await;
    assert_eq!(ready.d["guilds"], json!([]), "the bot was not remembered");
    let created = second.expect_dispatch("GUILD_CREATE").await;
    assert_eq!(created.d["id"], guild.id.as_str());
    assert!(created.d.get("unavailable").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_revoked_meanwhile_closes_at_once() {
    let cluster = CLUSTER.cluster().await;
    let human = world::human(&cluster, "human").await;
    let bot = human.make_bot("bot").await;
    let mut first = identify(&cluster, &bot, [0, 2]).await;
    first.expect_dispatch("READY").await;
    let application = bot.application.as_deref().unwrap();
    let path = format!("/applications/{application}/bot/reset");
    human.rest.post(&path, &json!({})).await.ok();
    assert_eq!(first.ended().await, End::Closed(4004));
    let mut second = identify(&cluster, &bot, [1, 2]).await;
    assert_eq!(second.ended().await, End::Closed(4004));
    assert!(second.frames().iter().all(|frame| frame.t.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_has_said_twice_that_it_has_is_let_go_and_the_rest_is_replayed() {
    let cluster = CLUSTER.cluster().await;
    let human = world::human(&cluster, "human").await;
    let guild = human.make_guild("hall").await;
    let bot = human.make_bot("bot").await;
    human.add_bot(&guild, &bot).await;
    let mut first = identify(&cluster, &bot, [0, 1]).await;
    let ready = first.expect_dispatch("READY").await;
    let session = ready.d["session_id"].as_str().unwrap().to_owned();
    let created = first.expect_dispatch("GUILD_CREATE").await;
    let have = created.s.unwrap();
    for _ in 0..2 {
        first.send(&json!({"op": 1, "d": have}));
        first.expect_op(11).await;
    }
    drop(first);
    let channel = human.make_channel(&guild.id, "new", json!([])).await;

    // From before what it said it had: gone. On the same socket it may identify, or resume rightly.
    let mut second = Client::open(&cluster.gateways[0].direct_url).await.unwrap();
    second.expect_op(10).await;
    second.send(&client::resume(&bot.token, &session, have - 1));
    assert_eq!(second.expect_op(9).await.d, json!(false));
    second.send(&client::resume(&bot.token, &session, have));
    let (mut created, mut resumed, mut s) = (false, false, have);
    while !created || !resumed {
        let frame = second.next().await.unwrap();
        let Some(name) = frame.t.as_deref() else {
            continue;
        };
        s += 1;
        assert_eq!(frame.s, Some(s));
        created |= name == "CHANNEL_CREATE" && frame.d["id"] == channel.as_str();
        resumed |= name == "RESUMED";
    }
}
