//! Processes die, Redis forgets, Postgres restarts, all in mid-stream. Afterwards the database
//! says what was written; every session that stayed or resumed must have exactly that, once and
//! in order, and every confirmed message must be in it (I1 to I6, I8, I11, I15).

use std::time::Duration;

use bytes::BytesMut;
use e2e::{
    cluster::{Cluster, Options, Use},
    ledger::{self, Writers},
    session::Session,
    world::{self, Account, Guild, INTENTS},
};
use guildhall_shared::{
    envelope::Visibility,
    gateway::{EventKind, Intents},
    id::{Id, marker::Channel},
    shard::ShardId,
};
use serde_json::json;
use xtask::process::Signal;

/// Messages between two faults.
const SOME: usize = 40;

/// Guilds of each gateway, with two channels each; writers in all of them, and sessions of a human
/// and a bot on both gateways that see everything.
pub(crate) struct Stage {
    pub(crate) guilds: Vec<Guild>,
    /// (account, channel) per writer.
    writers: Vec<(Account, String)>,
    /// Per gateway: human and bot.
    pub(crate) sessions: Vec<[Session; 2]>,
    pub(crate) human: Account,
}

impl Stage {
    async fn new(cluster: &Cluster) -> Self {
        Self::of(cluster, 1).await
    }

    /// So many guilds of each gateway.
    pub(crate) async fn of(cluster: &Cluster, guilds_per_gateway: usize) -> Self {
        let human = world::human(cluster, "human").await;
        let writer = world::human(cluster, "writer").await;
        let bot = human.make_bot("bot").await;
        let (mut guilds, mut writers) = (Vec::new(), Vec::new());
        for number in 0..cluster.gateways.len() * guilds_per_gateway {
            let gateway = number % cluster.gateways.len();
            let guild = human.make_guild_on(cluster, gateway, "stage").await;
            human.invite(&guild, &writer).await;
            human.add_bot(&guild, &bot).await;
            let second = human.make_channel(&guild.id, "second", json!([])).await;
            writers.push((human.clone(), guild.channel.clone()));
            writers.push((writer.clone(), guild.channel.clone()));
            writers.push((writer.clone(), second));
            guilds.push(guild);
        }
        let mut sessions = Vec::new();
        for gateway in 0..cluster.gateways.len() {
            let urls = cluster.urls(gateway);
            sessions.push([
                Session::start(human.login(urls.clone(), INTENTS)).await,
                Session::start(bot.login(urls, INTENTS)).await,
            ]);
        }
        let stage = Self {
            guilds,
            writers,
            sessions,
            human,
        };
        stage.settle().await;
        stage
    }

    /// Waits until every session has both guilds: what comes from now on, each must get.
    pub(crate) async fn settle(&self) {
        ledger::settle(&self.human, &self.guilds, self.sessions.iter().flatten()).await;
    }

    pub(crate) fn start_writers(&self, cluster: &Cluster) -> Writers {
        Writers::start(&self.writers, &cluster.origins())
    }

    /// Ends the writers: what was confirmed is in the database, and what is there since the first
    /// confirmed message every session has. `whole`: the gateways whose sessions never lost their
    /// life.
    pub(crate) async fn assert_nothing_lost(
        &self,
        cluster: &Cluster,
        writers: Writers,
        whole: &[usize],
    ) {
        let confirmed = writers.finish().await;
        let db = cluster.db().await.unwrap();
        let stored = ledger::stored_since_confirmed(&db, &self.guilds, &confirmed).await;
        let stored = stored.unwrap();
        for (gateway, pair) in self.sessions.iter().enumerate() {
            for (session, name) in pair.iter().zip(["human", "bot"]) {
                for (channel, messages) in &stored {
                    let name = format!("{name} at gateway {gateway}, channel {channel}");
                    let whole = whole.contains(&gateway);
                    ledger::assert_received(&name, session, channel, messages, whole).await;
                }
            }
        }
    }

    /// Waits until the sessions of a gateway that was killed go on at another one: they resume,
    /// but for those that were told something in its last moments, who identify anew.
    pub(crate) async fn moved_away(&self, gateway: usize) {
        for session in &self.sessions[gateway] {
            session
                .wait("RESUMED or READY at another gateway", |log| {
                    let anew = log.lives == 2 && log.has_its_guilds();
                    (anew || log.resumed > 0).then_some(())
                })
                .await;
            let log = session.log();
            assert_eq!(log.lives, 1 + log.refused, "READY without op 9");
        }
    }

    /// No session's socket has ended.
    pub(crate) fn assert_sockets_stayed(&self) {
        for session in self.sessions.iter().flatten() {
            let log = session.log();
            assert!(
                log.ends.is_empty() && log.sockets == 1,
                "a socket ended: {:?}",
                log.ends
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_api_and_gateway_lose_no_confirmed_message() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    let writers = stage.start_writers(&cluster);
    writers.more(SOME).await;

    cluster.apis[0].server.kill();
    writers.more(SOME).await;
    assert!(writers.retries() > 0, "nobody noticed that an API died");

    // A session of the gateway that stays breaks and resumes while the other gateway dies.
    cluster.gateways[0].proxy.cut();
    cluster.gateways[1].server.kill();
    writers.more(SOME).await;
    stage.moved_away(1).await;
    for session in &stage.sessions[0] {
        session
            .wait("RESUMED", |log| (log.resumed > 0).then_some(()))
            .await;
    }
    cluster.map_of(1).await;
    writers.more(SOME).await;

    cluster.apis[0].server.restart().await.unwrap();
    cluster.gateways[1].server.restart().await.unwrap();
    cluster.map_of(2).await;
    writers.more(SOME).await;
    stage.assert_nothing_lost(&cluster, writers, &[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_redis_loses_nothing() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    let writers = stage.start_writers(&cluster);
    for _ in 0..3 {
        writers.more(SOME).await;
        cluster.flush_redis().await.unwrap();
    }
    writers.more(SOME).await;
    cluster.map_of(2).await;
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_redis_loses_nothing() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    let writers = stage.start_writers(&cluster);
    writers.more(SOME).await;
    cluster.kill_redis().await.unwrap();
    writers.more(SOME).await;
    stage.settle().await; // delivery goes on without Redis
    cluster.restart_redis().await.unwrap();
    writers.more(SOME).await;
    cluster.map_of(2).await;
    cluster.kill_redis().await.unwrap();
    cluster.restart_redis().await.unwrap();
    writers.more(SOME).await;
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_coordinator_login_delivery_and_failover_work() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;
    cluster.coordinator.kill();
    let writers = stage.start_writers(&cluster);
    writers.more(SOME).await;

    let mut late = Vec::new();
    for gateway in 0..2 {
        let login = stage.human.login(cluster.urls(gateway), INTENTS);
        late.push(Session::start(login).await);
    }
    stage.settle().await;
    stage.assert_sockets_stayed();

    cluster.gateways[1].server.kill();
    writers.more(SOME).await;
    stage.moved_away(1).await;
    stage.settle().await; // the guild of the dead gateway is served by its standby

    cluster.coordinator.restart().await.unwrap();
    cluster.map_of(1).await;
    cluster.gateways[1].server.restart().await.unwrap();
    cluster.map_of(2).await;
    writers.more(SOME).await;
    stage.assert_nothing_lost(&cluster, writers, &[0]).await;
    for session in late {
        session.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_dies_between_commit_and_publish_loses_nothing() {
    let cluster = Use::own(Options::DEFAULT).await;
    let stage = Stage::new(&cluster).await;

    // What an API does that dies right after its commit: stored, numbered, never published.
    let db = cluster.db().await.unwrap();
    for guild in &stage.guilds {
        let content = format!("unpublished {}", world::random_word());
        store_unpublished(&db, &cluster, guild, &content, &stage.human).await;
        for session in stage.sessions.iter().flatten() {
            session.message(&content).await;
        }
    }

    let writers = stage.start_writers(&cluster);
    for round in 0..4 {
        writers.more(SOME / 2).await;
        let api = &cluster.apis[round % 2].server;
        api.signal(Signal::STOP);
        api.kill();
        writers.more(SOME / 2).await;
        api.restart().await.unwrap();
    }
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
}

/// A message event as the API appends it (`realm_head`, then `realm_event`), and no more.
async fn store_unpublished(
    db: &sqlx::PgPool,
    cluster: &Cluster,
    guild: &Guild,
    content: &str,
    author: &Account,
) {
    let guild_id: i64 = guild.id.parse().unwrap();
    let channel: Id<Channel> = guild.channel.parse().unwrap();
    let message_id = author.say(&guild.channel, "a pattern").await;
    let pattern = ledger::events(db, &guild.id).await.unwrap();
    let (_, _, mut body) = pattern
        .into_iter()
        .rev()
        .find(|(_, _, d)| d["id"] == message_id.as_str())
        .unwrap();
    // An id of its own, just after the pattern's.
    let id: u64 = message_id.parse().unwrap();
    body["id"] = json!((id + 1).to_string());
    body["content"] = json!(content);
    let mut vis = BytesMut::new();
    Visibility::channel(channel, Intents::GUILD_MESSAGES).encode(&mut vis);
    let shard = ShardId::of(channel_guild(guild), cluster.shards());

    let mut tx = db.begin().await.unwrap();
    let (era, seq): (i32, i64) = sqlx::query_as(
        "update realm_head set seq = seq + 1 where realm_id = $1 returning era, seq",
    )
    .bind(guild_id)
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "insert into realm_event (realm_id, seq, shard, era, kind, vis, body)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(guild_id)
    .bind(seq)
    .bind(i32::from(shard.0))
    .bind(era)
    .bind(EventKind::MessageCreate.number() as i16)
    .bind(vis.to_vec())
    .bind(body.to_string().into_bytes())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

fn channel_guild(guild: &Guild) -> Id<guildhall_shared::id::marker::Guild> {
    guild.id.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_postgres_loses_no_confirmed_message() {
    let cluster = Use::own(Options {
        own_postgres: true,
        ..Options::DEFAULT
    })
    .await;
    let stage = Stage::new(&cluster).await;
    let writers = stage.start_writers(&cluster);
    for hard in [false, true] {
        writers.more(SOME).await;
        cluster
            .restart_postgres(hard, Duration::from_secs(1))
            .await
            .unwrap();
        writers.more(SOME).await;
    }
    stage.assert_nothing_lost(&cluster, writers, &[0, 1]).await;
    stage.assert_sockets_stayed();
    for session in stage.sessions.iter().flatten() {
        let beats = session.log().heartbeats_acked;
        session
            .wait("another heartbeat answered", |log| {
                (log.heartbeats_acked > beats).then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_reaches_no_store_sends_its_clients_away_and_they_come_back() {
    let cluster = Use::own(Options {
        own_postgres: true,
        ..Options::DEFAULT
    })
    .await;
    let stage = Stage::new(&cluster).await;
    cluster.kill_redis().await.unwrap();
    let sent_away = async {
        for session in stage.sessions.iter().flatten() {
            let asked = session.wait("op 7", |log| (log.reconnects > 0).then_some(()));
            asked.await;
        }
    };
    // Longer than gateways wait, and than their clients take to leave.
    let outage = cluster.restart_postgres(false, Duration::from_secs(30));
    let (restarted, ()) = tokio::join!(outage, sent_away);
    restarted.unwrap();
    cluster.restart_redis().await.unwrap();
    for session in stage.sessions.iter().flatten() {
        session
            .wait("RESUMED or READY", |log| {
                let anew = log.lives > 1 && log.has_its_guilds();
                (anew || log.resumed > 0).then_some(())
            })
            .await;
    }
    cluster.map_of(2).await;
    for api in &cluster.apis {
        api.server.ready().await.unwrap();
    }
    stage.settle().await;
    for session in stage.sessions.iter().flatten() {
        session.assert_clean();
    }
}
