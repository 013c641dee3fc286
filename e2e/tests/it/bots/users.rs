//! Libraries of people's accounts, unmodified and told nothing but the addresses: one day of somebody
//! whom a friend has asked. They start up, read who asks, write to the friend, send a message with a
//! file, react to it, edit it, begin a thread, read the channel, delete the message.

use e2e::{
    cluster::Use,
    world::{Account, Guild, human},
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    CLUSTER,
    libraries::{node, python},
    script::said,
};

/// Apart from the others: its module has the same name as theirs.
const DISCORD_PY_SELF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/libraries/discord.py-self");

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_discord_py_self() {
    let scene = Scene::new().await;
    let script = python(DISCORD_PY_SELF, "self_user.py", "discord").await;
    let (said, all) = scene.lived_through(script).await;
    let (friend, mut members) = (&scene.friend.id, vec![&scene.friend.id, &scene.person.id]);
    members.sort();
    let wanted = [
        json!({"event": "guild", "name": "hall", "me": scene.person.id}),
        json!({"event": "request", "type": "incoming_request", "of": friend}),
        json!({"event": "relationship", "type": "friend"}),
        json!({"event": "profile", "mutual": ["hall"]}),
        json!({"event": "private", "with": friend}),
        json!({"event": "message", "content": "hello", "files": ["a.txt"]}),
        json!({"event": "reaction", "emoji": "👍"}),
        json!({"event": "edit", "content": "hello again"}),
        json!({"event": "thread", "name": "About it"}),
        json!({"event": "history", "reactions": ["👍 1"]}),
        json!({"event": "members", "ids": members}),
        json!({"event": "delete"}),
    ];
    assert_eq!(said, wanted, "{all}");
    let path = "/users/@me/relationships";
    let friends = scene.friend.rest.get(path).await.ok();
    assert_eq!(friends[0]["id"], scene.person.id.as_str());
    assert_eq!(friends[0]["type"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_discord_js_selfbot_v13() {
    let scene = Scene::new().await;
    let script = node("selfbot_user.js").await;
    let (said, all) = scene.lived_through(script).await;
    if said == [json!({"event": "old Node.js"})] {
        return;
    }
    let friend = &scene.friend.id;
    let wanted = [
        json!({"event": "guild", "name": "hall", "me": scene.person.id}),
        json!({"event": "request", "of": [friend]}),
        json!({"event": "settings", "theme": "light"}),
        json!({"event": "profile", "mutual": ["hall"]}),
        json!({"event": "private", "with": friend}),
        json!({"event": "message", "content": "hello", "files": ["a.txt"]}),
        json!({"event": "reaction", "emoji": "👍"}),
        json!({"event": "edit", "content": "hello again"}),
        json!({"event": "thread", "name": "About it"}),
        json!({"event": "history", "reactions": ["👍 1"]}),
        json!({"event": "delete"}),
    ];
    assert_eq!(said, wanted, "{all}");
}

/// Somebody in a friend's guild, who wants to be one.
struct Scene {
    cluster: Use,
    friend: Account,
    person: Account,
    guild: Guild,
}

impl Scene {
    async fn new() -> Self {
        let cluster = CLUSTER.cluster().await;
        let friend = human(&cluster, "friend").await;
        let person = human(&cluster, "person").await;
        let guild = friend.make_guild("hall").await;
        friend.invite(&guild, &person).await;
        let path = format!("/users/@me/relationships/{}", person.id);
        friend.rest.put(&path, &json!({})).await.ok();
        Self {
            cluster,
            friend,
            person,
            guild,
        }
    }

    async fn lived_through(&self, mut script: Command) -> (Vec<Value>, String) {
        // Not by the proxy, which other tests cut: what a client asks for meanwhile is lost.
        let gateway = &self.cluster.gateways[0].direct_url;
        script
            .env("API_ORIGIN", &self.cluster.origins()[0])
            .env("GATEWAY_URL", gateway)
            .env("TOKEN", &self.person.token)
            .env("CHANNEL_ID", &self.guild.channel)
            .env("FRIEND_ID", &self.friend.id);
        said(&mut script).await
    }
}
