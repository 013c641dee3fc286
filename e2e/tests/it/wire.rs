//! The shape of what the gateway says. That every frame of every test has the documented layout
//! and parses with twilight is checked in `e2e::session`; here is what single events must hold.

use e2e::{
    client::{self, Client},
    cluster::{Options, Shared},
    session::Session,
    world::{self, INTENTS},
};
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::new(Options {
    gateways: 2,
    ..Options::SMALL
});

fn has(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "{key} is missing in {value}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_gets_ready_and_then_its_guilds() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let mut guilds = Vec::new();
    for gateway in 0..2 {
        let guild = owner.make_guild_on(&cluster, gateway, "house").await;
        owner.add_bot(&guild, &bot).await;
        guilds.push(guild);
    }
    let gateway = &cluster.gateways[0];
    let mut client = Client::open(&gateway.url()).await.unwrap();
    client.expect_op(10).await;
    // As several libraries do: with the prefix, and with a shard.
    let token = format!("Bot {}", bot.token);
    client.send(&client::identify(&token, Some(INTENTS), Some([0, 1])));
    let frame = client.expect_dispatch("READY").await;
    assert_eq!(frame.s, Some(1));
    let ready = &frame.d;
    assert_eq!(ready["v"], 10);
    assert_eq!(ready["resume_gateway_url"], gateway.url());
    assert_eq!(ready["shard"], json!([0, 1]));
    assert!(!ready["session_id"].as_str().unwrap().is_empty());
    has(&ready["application"], &["id", "flags"]);
    assert_eq!(
        ready["application"]["id"],
        bot.application.as_deref().unwrap()
    );
    let user = &ready["user"];
    has(
        user,
        &[
            "username",
            "discriminator",
            "avatar",
            "mfa_enabled",
            "verified",
            "flags",
            "email",
        ],
    );
    assert_eq!((&user["id"], &user["bot"]), (&json!(bot.id), &json!(true)));
    assert!(user["discriminator"].is_string());
    let mut listed: Vec<Value> = ready["guilds"].as_array().unwrap().clone();
    listed.sort_by_key(|guild| guild["id"].as_str().map(str::to_owned));
    let mut wanted: Vec<Value> = guilds
        .iter()
        .map(|guild| json!({"id": guild.id, "unavailable": true}))
        .collect();
    wanted.sort_by_key(|guild| guild["id"].as_str().map(str::to_owned));
    assert_eq!(listed, wanted);

    for s in [2, 3] {
        let frame = client.expect_dispatch("GUILD_CREATE").await;
        assert_eq!(frame.s, Some(s));
        let guild = &frame.d;
        assert_eq!(guild["unavailable"], json!(false), "known from READY");
        has(
            guild,
            &[
                "name",
                "owner_id",
                "joined_at",
                "large",
                "member_count",
                "voice_states",
                "members",
                "channels",
                "threads",
                "presences",
                "stage_instances",
                "guild_scheduled_events",
                "roles",
                "emojis",
                "features",
            ],
        );
        let members = guild["members"].as_array().unwrap();
        let me = members
            .iter()
            .find(|member| member["user"]["id"] == bot.id.as_str());
        has(
            me.expect("the bot's own member"),
            &["roles", "joined_at", "deaf", "mute", "flags"],
        );
        let everyone = guild["roles"].as_array().unwrap();
        assert!(everyone.iter().any(|role| role["id"] == guild["id"]));
    }

    // Joined while it looks on: the key is absent.
    let guild = owner.make_guild_on(&cluster, 1, "late").await;
    owner.add_bot(&guild, &bot).await;
    let frame = client.expect_dispatch("GUILD_CREATE").await;
    assert_eq!(frame.d["id"], guild.id.as_str());
    assert!(frame.d.get("unavailable").is_none(), "newly joined");
    assert_eq!(client.faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_human_gets_everything_in_ready() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild_on(&cluster, 1, "house").await;
    let mut client = Client::open(&cluster.gateways[0].url()).await.unwrap();
    client.identify(&owner.token, None).await;
    let frame = client.expect_dispatch("READY").await;
    assert_eq!(frame.s, Some(1));
    let ready = &frame.d;
    has(
        ready,
        &[
            "v",
            "session_id",
            "resume_gateway_url",
            "private_channels",
            "relationships",
            "users",
        ],
    );
    has(&ready["user"], &["id", "email", "verified", "username"]);
    let guilds = ready["guilds"].as_array().unwrap();
    assert_eq!(guilds.len(), 1);
    assert_eq!(guilds[0]["id"], guild.id.as_str());
    let channels = guilds[0]["channels"].as_array().unwrap();
    assert!(
        channels
            .iter()
            .any(|channel| channel["id"] == guild.channel.as_str())
    );
    // A guild made while it looks on comes whole, and can be used at once.
    let guild = owner.make_guild_on(&cluster, 0, "second").await;
    loop {
        let frame = client.expect_dispatch("GUILD_CREATE").await;
        if frame.d["id"] == guild.id.as_str() {
            has(&frame.d, &["channels", "members", "roles", "joined_at"]);
            break;
        }
    }
    owner.say(&guild.channel, "hello").await;
    let message = client.expect_dispatch("MESSAGE_CREATE").await;
    assert_eq!(message.d["content"], "hello");
    assert_eq!(client.faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_carries_what_libraries_need() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let guild = owner.make_guild_on(&cluster, 1, "house").await;
    owner.add_bot(&guild, &bot).await;
    let session = Session::start(bot.login(vec![cluster.gateways[0].url()], INTENTS)).await;
    session
        .dispatch("GUILD_CREATE", |d| d["id"] == guild.id.as_str())
        .await;
    let path = format!("/channels/{}/messages", guild.channel);
    let content = format!("“quoted” \\ \u{1F980} <@{}> \u{0007}", bot.id);
    let form = json!({"content": content, "nonce": "12345"});
    let reply = owner.rest.post(&path, &form).await.ok();
    let d = session
        .dispatch("MESSAGE_CREATE", |d| d["id"] == reply["id"])
        .await;
    has(
        &d,
        &[
            "id",
            "channel_id",
            "guild_id",
            "author",
            "member",
            "content",
            "timestamp",
            "edited_timestamp",
            "tts",
            "mention_everyone",
            "mentions",
            "mention_roles",
            "attachments",
            "embeds",
            "components",
            "pinned",
            "type",
            "flags",
            "nonce",
        ],
    );
    assert_eq!(d["content"], reply["content"]);
    assert_eq!(d["nonce"], "12345");
    assert_eq!(d["mentions"][0]["id"], bot.id.as_str());
    let timestamp = d["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with("+00:00"), "{timestamp}");
    assert!(d["member"].get("user").is_none());

    // Edited, typed, deleted, and the structure around it changed: all of it parses.
    let id = world::text(&reply["id"]);
    let message = format!("{path}/{id}");
    owner
        .rest
        .patch(&message, &json!({"content": "edited"}))
        .await
        .ok();
    let d = session
        .dispatch("MESSAGE_UPDATE", |d| d["id"] == id.as_str())
        .await;
    has(
        &d,
        &[
            "author",
            "content",
            "guild_id",
            "edited_timestamp",
            "mentions",
        ],
    );
    assert!(d["edited_timestamp"].is_string());
    let typing = format!("/channels/{}/typing", guild.channel);
    owner.rest.post_empty(&typing).await.ok();
    let d = session.dispatch("TYPING_START", |_| true).await;
    has(
        &d,
        &["channel_id", "guild_id", "user_id", "timestamp", "member"],
    );
    assert!(d["timestamp"].is_u64());
    owner.rest.delete(&message).await.ok();
    let d = session
        .dispatch("MESSAGE_DELETE", |d| d["id"] == id.as_str())
        .await;
    has(&d, &["channel_id", "guild_id"]);

    let channel = owner.make_channel(&guild.id, "fresh", json!([])).await;
    let d = session
        .dispatch("CHANNEL_CREATE", |d| d["id"] == channel.as_str())
        .await;
    has(
        &d,
        &[
            "guild_id",
            "position",
            "permission_overwrites",
            "type",
            "name",
        ],
    );
    let path = format!("/channels/{channel}");
    owner
        .rest
        .patch(&path, &json!({"name": "renamed"}))
        .await
        .ok();
    let d = session
        .dispatch("CHANNEL_UPDATE", |d| d["id"] == channel.as_str())
        .await;
    assert_eq!(d["name"], "renamed");
    owner.rest.delete(&path).await.ok();
    session
        .dispatch("CHANNEL_DELETE", |d| d["id"] == channel.as_str())
        .await;
    let guest = world::human(&cluster, "guest").await;
    owner.invite(&guild, &guest).await;
    let d = session
        .dispatch("GUILD_MEMBER_ADD", |d| d["user"]["id"] == guest.id.as_str())
        .await;
    has(
        &d,
        &["guild_id", "joined_at", "roles", "flags", "deaf", "mute"],
    );
    let path = format!("/guilds/{}", guild.id);
    owner
        .rest
        .patch(&path, &json!({"name": "new name"}))
        .await
        .ok();
    let d = session.dispatch("GUILD_UPDATE", |_| true).await;
    assert_eq!(d["name"], "new name");
    owner.rest.delete(&path).await;
    let d = session
        .dispatch("GUILD_DELETE", |d| d["id"] == guild.id.as_str())
        .await;
    assert!(d.get("unavailable").is_none());
    session.assert_clean();
}

/// A gateway that is asked to stop sends its clients away; their sessions are not lost quietly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_gateway_sends_reconnect() {
    let cluster = e2e::cluster::Use::own(Options {
        gateways: 2,
        ..Options::SMALL
    })
    .await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild_on(&cluster, 1, "house").await;
    let urls = vec![cluster.gateways[1].url(), cluster.gateways[0].url()];
    let session = Session::start(owner.login(urls, INTENTS)).await;
    assert!(cluster.gateways[1].server.stop().await, "stops by itself");
    session
        .wait("op 7", |log| (log.reconnects == 1).then_some(()))
        .await;
    session
        .wait("RESUMED at the other gateway", |log| {
            (log.resumed == 1).then_some(())
        })
        .await;
    assert_eq!(session.log().lives, 1);
    owner.say(&guild.channel, "still here").await;
    session.message("still here").await;
    session.assert_clean();
}
