//! Sessions go on at other gateways: asked of the one that has them while it lives, from its
//! delivery log when it does not. What each client has in the end is compared with the database:
//! all of it, once and in order, with `s` growing by one (I3, I4, I5), or op 9.

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use e2e::{
    cluster::{Cluster, Options, Use},
    ledger::{self, Writers},
    session::Session,
    wait,
    world::{self, Account, Guild, INTENTS},
};
use serde_json::json;
use xtask::process::Signal;

/// Messages between two faults.
const SOME: usize = 40;
/// Sessions of each kind that lose their gateway under load.
const CROWD: usize = 12;

/// A guild that each gateway serves; a human and a bot in all of them, and writers.
struct Stage {
    guilds: Vec<Guild>,
    human: Account,
    bot: Account,
    writers: Vec<(Account, String)>,
}

impl Stage {
    async fn new(cluster: &Cluster) -> Self {
        let human = world::human(cluster, "human").await;
        let writer = world::human(cluster, "writer").await;
        let bot = human.make_bot("bot").await;
        let (mut guilds, mut writers) = (Vec::new(), Vec::new());
        for gateway in 0..cluster.gateways.len() {
            let guild = human.make_guild_on(cluster, gateway, "resume").await;
            human.invite(&guild, &writer).await;
            human.add_bot(&guild, &bot).await;
            writers.push((writer.clone(), guild.channel.clone()));
            writers.push((human.clone(), guild.channel.clone()));
            guilds.push(guild);
        }
        Self {
            guilds,
            human,
            bot,
            writers,
        }
    }

    /// With two sessions at the second gateway, of which its delivery log tells.
    async fn logged(cluster: &Cluster) -> (Self, [Session; 2]) {
        let stage = Self::new(cluster).await;
        let sessions = stage.sessions(cluster, 1).await;
        stage.settle(&sessions).await;
        let ids: Vec<String> = sessions.iter().map(Session::session_id).collect();
        logged(cluster, &ids).await;
        (stage, sessions)
    }

    /// A human's and a bot's session, at this gateway first.
    async fn sessions(&self, cluster: &Cluster, gateway: usize) -> [Session; 2] {
        let urls = cluster.urls(gateway);
        let human = Session::start(self.human.login(urls.clone(), INTENTS)).await;
        let bot = Session::start(self.bot.login(urls, INTENTS)).await;
        [human, bot]
    }

    /// Sessions of the human at the second gateway.
    async fn crowd(&self, cluster: &Cluster) -> Vec<Session> {
        let mut sessions = Vec::new();
        for _ in 0..CROWD {
            let login = self.human.login(cluster.urls(1), INTENTS);
            sessions.push(Session::start(login).await);
        }
        sessions
    }

    async fn settle(&self, sessions: &[Session]) {
        ledger::settle(&self.human, &self.guilds, sessions.iter()).await;
    }

    /// What the database holds per channel, from the first confirmed message on.
    async fn stored(
        &self,
        cluster: &Cluster,
        writers: Writers,
    ) -> BTreeMap<String, Vec<(u64, String)>> {
        let confirmed = writers.finish().await;
        let db = cluster.db().await.unwrap();
        let stored = ledger::stored_since_confirmed(&db, &self.guilds, &confirmed).await;
        stored.unwrap()
    }
}

async fn resumed(session: &Session, times: usize) {
    session
        .wait("RESUMED", |log| (log.resumed >= times).then_some(()))
        .await;
    let log = session.log();
    assert_eq!((log.lives, log.refused), (1, 0), "it had to identify anew");
}

async fn all_resumed(sessions: &[Session], times: usize) {
    for session in sessions {
        resumed(session, times).await;
    }
}

/// Each session has everything, but for what it missed between two lives.
async fn assert_all(sessions: &[Session], stored: &BTreeMap<String, Vec<(u64, String)>>) {
    for (number, session) in sessions.iter().enumerate() {
        let (name, whole) = (format!("session {number}"), session.log().lives == 1);
        for (channel, messages) in stored {
            ledger::assert_received(&name, session, channel, messages, whole).await;
        }
    }
}

/// The client's socket breaks, and its next one leads to another gateway: while the first one lives, it
/// gives the session up, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_between_living_gateways_and_back() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    let sessions = stage.sessions(&cluster, 0).await;
    stage.settle(&sessions).await;
    let writers = Writers::start(&stage.writers, &cluster.origins());
    for turn in 0..6 {
        writers.more(SOME / 2).await;
        // Whoever is at this gateway finds it closed and goes to the other.
        let here = turn % 2;
        let proxy = &cluster.gateways[here].proxy;
        proxy.shut();
        all_resumed(&sessions, turn + 1).await;
        proxy.accept();
    }
    writers.more(SOME).await;
    let stored = stage.stored(&cluster, writers).await;
    assert_all(&sessions, &stored).await;
}

/// Nobody is told anything in the gateway's last moments: then its log is complete, and every session
/// goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateways_sessions_resume_at_another() {
    let cluster = Use::own(Options::DEFAULT).await;
    let (stage, sessions) = Stage::logged(&cluster).await;

    cluster.gateways[1].server.kill();
    let mut said = Vec::new();
    for number in 0..SOME {
        let guild = &stage.guilds[number % stage.guilds.len()];
        let content = format!("while away {number}");
        stage.human.say(&guild.channel, &content).await;
        said.push(content);
    }
    for session in &sessions {
        resumed(session, 1).await;
        for content in &said {
            session.message(content).await;
        }
        let log = session.log();
        let got = log.named("MESSAGE_CREATE");
        let got = got.filter(|of| {
            of.d()["content"]
                .as_str()
                .is_some_and(|c| c.starts_with("while"))
        });
        assert_eq!(got.count(), said.len(), "repeated");
        assert_eq!(log.named("READY").count(), 1);
        assert_eq!(
            log.named("GUILD_CREATE").count(),
            if log
                .named("READY")
                .next()
                .is_some_and(|ready| ready.d()["user"]["bot"] == true)
            {
                stage.guilds.len()
            } else {
                0
            }
        );
    }
    for session in &sessions {
        session.assert_clean();
    }
}

/// Waits until a whole batch of the delivery log has gone by after what the sessions got.
async fn logged(cluster: &Cluster, sessions: &[String]) {
    let boot = &sessions[0][..8];
    let redis = cluster.redis().await.unwrap();
    let before = Cell::new(0u64);
    wait::until("a delivery log that stands still", async || {
        let mut redis = redis.clone();
        let mut entries = 0;
        for core in 0..2 {
            let length: u64 = redis::cmd("XLEN")
                .arg(format!("dl:{{{boot}.{core}}}"))
                .query_async(&mut redis)
                .await
                .ok()?;
            entries += length;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let still = entries > 0 && before.replace(entries) == entries;
        still.then_some(())
    })
    .await;
}

/// kill -9 in mid-stream: a session that was told something in the last milliseconds may get op 9, all
/// others go on; nobody misses or repeats anything within a life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_under_load_loses_and_repeats_nothing() {
    let exact = killed_under_load("async").await;
    println!("resumed exactly: {exact} of {CROWD}");
}

/// With a log that is written before clients are told, all of them go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_synchronous_log_every_session_of_a_killed_gateway_resumes() {
    assert_eq!(killed_under_load("sync").await, CROWD);
}

/// How many sessions went on in their first life.
async fn killed_under_load(resume: &'static str) -> usize {
    let options = Options {
        resume,
        ..Options::DEFAULT
    };
    let cluster = Use::own(options).await;
    let stage = Stage::new(&cluster).await;
    let sessions = stage.crowd(&cluster).await;
    stage.settle(&sessions).await;
    let writers = Writers::start(&stage.writers, &cluster.origins());
    writers.more(SOME).await;
    cluster.gateways[1].server.kill();
    writers.more(SOME).await;
    for session in &sessions {
        session
            .wait("RESUMED or READY at another gateway", |log| {
                (log.resumed > 0 || log.lives == 2 && log.has_its_guilds()).then_some(())
            })
            .await;
    }
    writers.more(SOME).await;
    let stored = stage.stored(&cluster, writers).await;
    assert_all(&sessions, &stored).await;
    let first_life = |session: &&Session| session.log().lives == 1;
    sessions.iter().filter(first_life).count()
}

/// SIGTERM: clients are asked to reconnect, and go on elsewhere, all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_stopped_hands_all_its_sessions_on() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    let mut sessions = stage.crowd(&cluster).await;
    sessions.push(Session::start(stage.bot.login(cluster.urls(1), INTENTS)).await);
    stage.settle(&sessions).await;
    let writers = Writers::start(&stage.writers, &cluster.origins());
    writers.more(SOME).await;
    cluster.gateways[1].server.signal(Signal::TERM);
    all_resumed(&sessions, 1).await;
    writers.more(SOME).await;
    let stored = stage.stored(&cluster, writers).await;
    assert_all(&sessions, &stored).await;
}

/// A gateway that hangs is dead for its clients. When it goes on, its copies of their sessions have
/// ended: their user is in the guild once, and what it still says reaches nobody (I13).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_wakes_up_finds_its_sessions_taken() {
    let cluster = Use::own(Options::DEFAULT).await;
    let (stage, sessions) = Stage::logged(&cluster).await;

    let hung = &cluster.gateways[1];
    hung.server.signal(Signal::STOP);
    hung.proxy.shut();
    all_resumed(&sessions, 1).await;
    stage.settle(&sessions).await;
    hung.server.signal(Signal::CONT);
    hung.proxy.accept();
    wait::until("no session at the gateway that hung", async || {
        let metrics = hung.server.metrics().await.ok()?;
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with("gateway_sessions "))?;
        line.ends_with(" 0").then_some(())
    })
    .await;
    stage.settle(&sessions).await;

    // And back: it takes them again.
    cluster.gateways[0].proxy.shut();
    all_resumed(&sessions, 2).await;
    stage.settle(&sessions).await;
    for session in &sessions {
        session.assert_clean();
        assert_eq!(session.log().named("GUILD_DELETE").count(), 0);
    }
}

/// Redis forgets who has the sessions, and who has them dies. The gateway that hung meanwhile has copies of
/// them that went on otherwise: nobody is given one (I13).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_is_nobodys_when_redis_forgot_who_has_the_session() {
    let cluster = Use::own(Options::DEFAULT).await;
    let (stage, sessions) = Stage::logged(&cluster).await;

    let (holds, hung) = (&cluster.gateways[0], &cluster.gateways[1]);
    hung.server.signal(Signal::STOP);
    hung.proxy.shut();
    all_resumed(&sessions, 1).await;
    stage.settle(&sessions).await;
    cluster.kill_redis().await.unwrap();
    holds.server.kill();
    cluster.restart_redis().await.unwrap();
    hung.server.signal(Signal::CONT);
    cluster.map_of(1).await;
    // The copies count these from where the clients were when the gateway hung.
    let writers = Writers::start(&stage.writers, &cluster.origins());
    writers.more(SOME).await;
    hung.proxy.accept();
    for session in &sessions {
        session
            .wait("READY", |log| (log.lives > 1).then_some(()))
            .await;
        let log = session.log();
        assert_eq!((log.resumed, log.refused), (1, 1), "it was given a copy");
    }
    writers.more(SOME).await;
    let stored = stage.stored(&cluster, writers).await;
    assert_all(&sessions, &stored).await;
}

/// What happened to the account meanwhile holds: a kick is told, a revoked token closes with 4004.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_a_session_was_away_is_told() {
    let cluster = Use::own(Options::DEFAULT).await;
    let (stage, sessions) = Stage::logged(&cluster).await;
    cluster.gateways[1].server.signal(Signal::STOP);
    cluster.gateways[1].proxy.shut();

    let (kept, left) = (&stage.guilds[0], &stage.guilds[1]);
    let member = format!("/guilds/{}/members/{}", left.id, stage.bot.id);
    stage.human.rest.delete(&member).await;
    resumed(&sessions[1], 1).await;
    sessions[1]
        .dispatch("GUILD_DELETE", |d| d["id"] == left.id.as_str())
        .await;
    stage.human.say(&kept.channel, "still here").await;
    sessions[1].message("still here").await;
    let told = sessions[1].log().named("GUILD_DELETE").count();
    assert_eq!(told, 1);
    let application = stage.bot.application.clone().unwrap();
    let reset = format!("/applications/{application}/bot/reset");
    stage.human.rest.post(&reset, &json!({})).await.ok();
    wait::until("4004", async || {
        (sessions[1].log().fatal == Some(4004)).then_some(())
    })
    .await;
    cluster.gateways[1].server.signal(Signal::CONT);
}
