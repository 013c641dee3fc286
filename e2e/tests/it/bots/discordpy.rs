//! discord.py with the members intent: it asks for all members at start-up and is ready only
//! when the last part has come.

use e2e::{
    cluster::Cluster,
    proxy::Proxy,
    world::{Account, Guild, human},
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{CLUSTER, installed::from_pip, script::said};
use crate::crowd;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/discordpy");
/// Bytes of the answer to the upgrade, HELLO and a heartbeat's answer, but not of READY.
const BEFORE_READY: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn discord_py_chunks_its_guild_and_finds_members() {
    let cluster = CLUSTER.cluster().await;
    let scene = Scene::new(&cluster).await;
    let walkers = crowd::add(&cluster, &scene.guild.id, 2500).await;
    // Not by the proxy, which other bots have cut: a request lost with a connection is lost.
    let gateway = cluster.gateways[0].direct_url.clone();
    let said = scene.run(&cluster, &gateway, &walkers[41]).await;
    let ready = json!({"event": "ready", "chunked": true, "members": 2502, "count": 2502});
    assert_eq!(said[0], ready);
    assert_eq!(said[1], json!({"event": "by id", "ids": [walkers[41]]}));
    // As many as a search finds at most.
    let found = said[2]["names"].as_array().unwrap();
    assert_eq!(found.len(), 100);
    let named = |name: &Value| {
        name.as_str()
            .is_some_and(|name| name.starts_with("walker 12"))
    };
    assert!(found.iter().all(named));
}

/// It then sends RESUME without having had a session, until it is told that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn discord_py_whose_connection_breaks_before_ready_comes_again() {
    let cluster = CLUSTER.cluster().await;
    let scene = Scene::new(&cluster).await;
    let proxy = Proxy::start(cluster.gateways[0].addr).unwrap();
    proxy.cut_next_after(BEFORE_READY);
    let gateway = format!("ws://{}", proxy.addr());
    let said = scene.run(&cluster, &gateway, &scene.owner.id).await;
    let ready = json!({"event": "ready", "chunked": true, "members": 2, "count": 2});
    assert_eq!(said[0], ready);
    assert!(proxy.accepted() > 1, "the connection did not break");
}

/// A bot in a guild of its own.
struct Scene {
    owner: Account,
    bot: Account,
    guild: Guild,
}

impl Scene {
    async fn new(cluster: &Cluster) -> Self {
        let owner = human(cluster, "owner").await;
        let bot = owner.make_bot("chunker").await;
        let guild = owner.make_guild("crowded").await;
        owner.add_bot(&guild, &bot).await;
        Self { owner, bot, guild }
    }

    /// What the script said, which looks for this user among others.
    async fn run(&self, cluster: &Cluster, gateway: &str, wanted: &str) -> Vec<Value> {
        let python = from_pip(FOLDER).await;
        let mut script = Command::new(python);
        script
            .arg("members.py")
            .current_dir(FOLDER)
            .env("API_ORIGIN", &cluster.origins()[0])
            .env("GATEWAY_URL", gateway)
            .env("BOT_TOKEN", &self.bot.token)
            .env("WANTED_USER", wanted);
        let (said, all) = said(&mut script).await;
        assert_eq!(said.len(), 3, "{all}");
        said
    }
}
