//! Other libraries than those of the rest of these tests, unmodified and told nothing but the
//! address: one day of a bot, the same for all. It starts up, sets a command, sends a message with
//! an embed and a file, reacts to it, edits it, begins a thread, reads the channel, deletes the
//! message.

use e2e::world::human;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    CLUSTER,
    installed::{from_npm, from_pip},
    script::said,
};

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/libraries/node");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/libraries/python");
/// Apart from the others, as nextcord brings a module of the same name.
const PY_CORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/libraries/py-cord");

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_hikari() {
    passes(python(PYTHON, "hikari_bot.py", "hikari").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_disnake() {
    passes(python(PYTHON, "fork_bot.py", "disnake").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_nextcord() {
    passes(python(PYTHON, "fork_bot.py", "nextcord").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_py_cord() {
    passes(python(PY_CORD, "fork_bot.py", "discord").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_oceanic() {
    passes(node("oceanic_bot.js").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_interactions_py() {
    passes(python(PYTHON, "interactions_bot.py", "interactions").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_discordeno() {
    passes(node("discordeno_bot.mjs").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_eris() {
    passes(node("eris_bot.js").await).await;
}

/// `installed`: the folder whose requirements are the library.
pub(super) async fn python(installed: &str, script: &str, library: &str) -> Command {
    let mut command = Command::new(from_pip(installed).await);
    command
        .arg(script)
        .current_dir(PYTHON)
        .env("LIBRARY", library);
    command
}

pub(super) async fn node(script: &str) -> Command {
    from_npm(NODE).await;
    let mut command = Command::new("node");
    command.arg(script).current_dir(NODE);
    command
}

/// Lets the bot live its day in a guild of its own.
async fn passes(mut script: Command) {
    let cluster = CLUSTER.cluster().await;
    let owner = human(&cluster, "owner").await;
    let bot = owner.make_bot("diarist").await;
    let guild = owner.make_guild("hall").await;
    owner.add_bot(&guild, &bot).await;
    script
        .env("API_ORIGIN", &cluster.origins()[0])
        .env("BOT_TOKEN", &bot.token)
        .env("CHANNEL_ID", &guild.channel);
    let (said, all) = said(&mut script).await;
    let wanted = [
        json!({"event": "command", "name": "ping"}),
        json!({"event": "message", "content": "hello", "embeds": ["Hall"], "files": ["a.txt"]}),
        json!({"event": "reaction", "emoji": "👍"}),
        json!({"event": "edit", "content": "hello again"}),
        json!({"event": "thread", "name": "About it"}),
        json!({"event": "history", "reactions": ["👍 1"]}),
        json!({"event": "delete"}),
    ];
    // Guilds come before the command or beside it.
    let (guilds, said): (Vec<Value>, Vec<Value>) =
        said.into_iter().partition(|one| one["event"] == "guild");
    assert_eq!(guilds.len(), 1, "{all}");
    assert!(guilds[0]["channels"].as_u64() > Some(0), "{guilds:?}");
    assert_eq!(said, wanted, "{all}");
}
