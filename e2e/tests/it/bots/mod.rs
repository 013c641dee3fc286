//! Unmodified bots against two gateways: serenity with poise on the first, discord.js on the
//! second. Each goes through the same life: login, guilds, `!ping`, edits, deletes, and a broken
//! connection that it must resume by itself. [`commands`] is about bots that work by commands.

mod commands;
pub(crate) mod discordjs;
mod discordpy;
mod installed;
mod libraries;
mod script;
mod serenity_commands;
mod serenity_poise;
mod twilight;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e2e::{
    cluster::{Cluster, Options, Shared},
    ledger::{self, Writers},
    session::Session,
    wait::NEVER,
    world::{self, Account, Guild, INTENTS, each},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

/// What a bot has seen, in one vocabulary for both libraries:
/// `ready`, `resumed`, `guild {guild, name, channels, me}`, `message {id, content, channel, author}`,
/// `edit {id, content}`, `delete {id}`, `error {message}`.
#[derive(Debug, Clone, Default)]
struct Diary(Arc<DiaryInner>);

#[derive(Debug, Default)]
struct DiaryInner {
    entries: Mutex<Vec<Value>>,
    news: Notify,
}

impl Diary {
    fn note(&self, entry: Value) {
        self.entries().push(entry);
        self.0.news.notify_waiters();
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Value>> {
        let entries = self.0.entries.lock();
        entries.unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, event: &str) -> usize {
        let entries = self.entries();
        entries
            .iter()
            .filter(|entry| entry["event"] == event)
            .count()
    }

    /// Waits for an entry with all these fields.
    async fn wait(&self, wanted: Value) -> Value {
        let end = Instant::now() + NEVER;
        let fits = |entry: &Value| {
            wanted
                .as_object()
                .is_some_and(|wanted| wanted.iter().all(|(key, value)| &entry[key] == value))
        };
        loop {
            let bell = self.0.news.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            if let Some(found) = self.entries().iter().find(|entry| fits(entry)) {
                return found.clone();
            }
            if tokio::time::timeout_at(end, bell).await.is_err() {
                panic!("the bot never saw {wanted}: {:#?}", self.entries());
            }
        }
    }

    /// Contents of the messages of a channel, in order of arrival.
    fn messages(&self, channel: &str) -> Vec<(u64, String)> {
        let entries = self.entries();
        entries
            .iter()
            .filter(|entry| entry["event"] == "message" && entry["channel"] == channel)
            .map(|entry| {
                let id = entry["id"].as_str().and_then(|id| id.parse().ok());
                let content = entry["content"].as_str().unwrap_or_default();
                (id.unwrap_or_default(), content.to_owned())
            })
            .collect()
    }
}

/// The people and the guild around one bot.
struct Scene {
    owner: Account,
    bot: Account,
    guild: Guild,
    /// A human who looks at the guild from the other gateway.
    observer: Session,
}

impl Scene {
    /// `home`: the gateway the bot will log in at. Its guild belongs to the other one.
    async fn new(cluster: &Cluster, home: usize) -> Self {
        let other = 1 - home;
        let owner = world::human(cluster, "owner").await;
        let bot = owner.make_bot("bot").await;
        let guild = owner.make_guild_on(cluster, other, "workshop").await;
        owner.add_bot(&guild, &bot).await;
        let urls = vec![cluster.gateways[other].url()];
        let observer = Session::start(owner.login(urls, INTENTS)).await;
        Self {
            owner,
            bot,
            guild,
            observer,
        }
    }

    async fn logs_in(&self, diary: &Diary) {
        diary.wait(json!({"event": "ready"})).await;
        let seen = diary
            .wait(json!({"event": "guild", "guild": self.guild.id}))
            .await;
        assert_eq!(seen["name"], "workshop");
        assert_eq!(seen["me"], self.bot.id.as_str());
        let channels = self
            .owner
            .rest
            .get(&format!("/guilds/{}/channels", self.guild.id))
            .await
            .ok();
        for channel in each(&channels) {
            let cached = each(&seen["channels"]);
            assert!(
                cached.clone().any(|id| id == &channel["id"]),
                "not cached: {channel} in {seen}"
            );
        }
    }

    async fn answers_ping(&self, diary: &Diary) {
        let ping = self.owner.say(&self.guild.channel, "!ping").await;
        diary.wait(json!({"event": "message", "id": ping})).await;
        let pong = self
            .observer
            .dispatch("MESSAGE_CREATE", |d| {
                d["content"] == "pong" && d["author"]["id"] == self.bot.id.as_str()
            })
            .await;
        let path = format!("/channels/{}/messages?limit=10", self.guild.channel);
        let history = self.owner.rest.get(&path).await.ok();
        let stored = each(&history);
        assert!(
            stored
                .clone()
                .any(|message| message["id"] == pong["id"] && message["content"] == "pong"),
            "{history}"
        );
    }

    async fn sees_edits_and_deletes(&self, diary: &Diary) {
        let message = self.owner.say(&self.guild.channel, "frist").await;
        diary.wait(json!({"event": "message", "id": message})).await;
        let path = format!("/channels/{}/messages/{message}", self.guild.channel);
        let edit = json!({"content": "first"});
        self.owner.rest.patch(&path, &edit).await.ok();
        diary
            .wait(json!({"event": "edit", "id": message, "content": "first"}))
            .await;
        self.owner.rest.delete(&path).await.ok();
        diary.wait(json!({"event": "delete", "id": message})).await;
    }

    /// Messages go on while the bot's socket goes silent, breaks, and its next one is slow. The
    /// bot resumes by itself and gets each message once.
    async fn resumes(&self, cluster: &Cluster, diary: &Diary, home: usize) {
        let channel = self
            .owner
            .make_channel(&self.guild.id, "numbers", json!([]))
            .await;
        let proxy = &cluster.gateways[home].proxy;
        let writers = Writers::start(
            &[
                (self.owner.clone(), channel.clone()),
                (self.owner.clone(), channel.clone()),
            ],
            &cluster.origins(),
        );
        for round in 1..=2 {
            writers.more(20).await;
            proxy.stall();
            writers.more(20).await; // on their way into a dead socket
            proxy.cut();
            writers.more(20).await; // while there is none
            proxy.flow();
            let resumed = || async { (diary.count("resumed") >= round).then_some(()) };
            e2e::wait::until(&format!("RESUMED number {round}"), resumed).await;
        }
        writers.more(20).await;
        let confirmed = writers.finish().await;

        let db = cluster.db().await.unwrap();
        let stored = ledger::stored(&db, &self.guild.id).await.unwrap();
        ledger::assert_stored_once(&stored, &confirmed);
        let stored = &stored[&channel];
        let (last, _) = stored.last().unwrap();
        diary
            .wait(json!({"event": "message", "id": last.to_string()}))
            .await;
        // serenity hands every event to a task of its own, so its order says nothing.
        let (mut got, mut wanted) = (diary.messages(&channel), stored.clone());
        if home == 0 {
            got.sort();
            wanted.sort();
        }
        assert_eq!(got, wanted);
        assert_eq!(diary.count("ready"), 1, "a resume is not a new session");
        assert_eq!(diary.count("resumed"), 2);
        ledger::assert_received("observer", &self.observer, &channel, stored, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serenity_with_poise_lives_a_whole_life() {
    let cluster = CLUSTER.cluster().await;
    let scene = Scene::new(&cluster, 0).await;
    let diary = Diary::default();
    let bot = serenity_poise::start(&cluster.apis[0].origin, &scene.bot.token, diary.clone()).await;
    scene.logs_in(&diary).await;
    scene.answers_ping(&diary).await;
    scene.sees_edits_and_deletes(&diary).await;
    scene.resumes(&cluster, &diary, 0).await;
    assert_eq!(diary.count("error"), 0, "{:#?}", diary.entries());
    bot.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discord_js_lives_a_whole_life() {
    let cluster = CLUSTER.cluster().await;
    let scene = Scene::new(&cluster, 1).await;
    let diary = Diary::default();
    let bot = discordjs::start(
        "bot.js",
        &cluster.apis[1].origin,
        &scene.bot.token,
        diary.clone(),
    )
    .await;
    scene.logs_in(&diary).await;
    scene.answers_ping(&diary).await;
    scene.sees_edits_and_deletes(&diary).await;
    scene.resumes(&cluster, &diary, 1).await;
    assert_eq!(diary.count("error"), 0, "{:#?}", diary.entries());
    bot.stop().await;
}

/// Both bots in one guild, which belongs to one of the two gateways: what one does, the other
/// sees, and a guild joined while they run appears at both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bots_on_two_gateways_see_each_other() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let (rusty, noddy) = (owner.make_bot("rusty").await, owner.make_bot("noddy").await);
    let (rusty_diary, noddy_diary) = (Diary::default(), Diary::default());
    let rusty_bot =
        serenity_poise::start(&cluster.apis[0].origin, &rusty.token, rusty_diary.clone()).await;
    let noddy_bot = discordjs::start(
        "bot.js",
        &cluster.apis[1].origin,
        &noddy.token,
        noddy_diary.clone(),
    )
    .await;
    rusty_diary.wait(json!({"event": "ready"})).await;
    noddy_diary.wait(json!({"event": "ready"})).await;

    for gateway in 0..2 {
        let guild = owner.make_guild_on(&cluster, gateway, "meeting").await;
        for (bot, diary) in [(&rusty, &rusty_diary), (&noddy, &noddy_diary)] {
            owner.add_bot(&guild, bot).await;
            diary
                .wait(json!({"event": "guild", "guild": guild.id, "name": "meeting"}))
                .await;
        }
        owner.say(&guild.channel, "!ping").await;
        for author in [&rusty, &noddy] {
            for diary in [&rusty_diary, &noddy_diary] {
                diary
                    .wait(json!({
                        "event": "message",
                        "content": "pong",
                        "channel": guild.channel,
                        "author": author.id,
                    }))
                    .await;
            }
        }
    }
    rusty_bot.stop().await;
    noddy_bot.stop().await;
}
