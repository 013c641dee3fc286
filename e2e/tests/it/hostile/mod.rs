//! Clients that break every rule: the documented errors, no panic, and the process lives on and
//! serves everybody else.

mod api;
mod flood;
mod protocol;
mod raw;
mod sockets;
mod stalled;

use e2e::{
    client::{Client, End},
    cluster::{Cluster, Options, Shared},
    ledger,
    session::Session,
    world::{self, Account, Guild, INTENTS},
};
use reqwest::Method;
use serde_json::json;

static CLUSTER: Shared = Shared::new(Options::SMALL);

/// A session that looks on while others misbehave, and must not notice.
struct Witness {
    owner: Account,
    guild: Guild,
    session: Session,
    pids: [Option<u32>; 2],
}

impl Witness {
    async fn new(cluster: &Cluster) -> Self {
        let owner = world::human(cluster, "witness").await;
        let guild = owner.make_guild("calm").await;
        let urls = vec![cluster.gateways[0].direct_url.clone()];
        let session = Session::start(owner.login(urls, INTENTS)).await;
        Self {
            owner,
            guild,
            session,
            pids: pids(cluster),
        }
    }

    /// So many writers at once send so many messages of 8 KB each: all are stored, and the session
    /// gets them all.
    async fn is_flooded(&self, cluster: &Cluster, writers: usize, each: usize) {
        let channel = &self.guild.channel;
        let path = format!("/channels/{channel}/messages");
        // Four bytes per character.
        let flood = "🦀".repeat(1990);
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (rest, path, flood) = (self.owner.rest.clone(), path.clone(), flood.clone());
                tokio::spawn(async move {
                    for number in 0..each {
                        let form = json!({"content": format!("{writer}.{number} {flood}")});
                        let reply = rest.try_call(Method::POST, &path, Some(&form)).await;
                        reply.unwrap().ok();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let db = cluster.db().await.unwrap();
        let stored = ledger::stored(&db, &self.guild.id).await.unwrap();
        let stored = &stored[channel];
        assert_eq!(stored.len(), writers * each);
        ledger::assert_received("witness", &self.session, channel, stored, true).await;
    }

    /// The processes live, never panicked, and the session still gets its messages.
    async fn is_served(&self, cluster: &Cluster) {
        assert_eq!(pids(cluster), self.pids, "a process died");
        for server in [&cluster.gateways[0].server, &cluster.apis[0].server] {
            assert!(!server.log_text().contains("panicked"), "a panic");
            server.ready().await.unwrap();
        }
        let content = format!("calm {}", world::random_word());
        self.owner.say(&self.guild.channel, &content).await;
        self.session.message(&content).await;
        let log = self.session.log();
        assert!(log.ends.is_empty(), "the witness lost its socket");
        drop(log);
        self.session.assert_clean();
    }
}

fn pids(cluster: &Cluster) -> [Option<u32>; 2] {
    [
        cluster.gateways[0].server.pid(),
        cluster.apis[0].server.pid(),
    ]
}

async fn open(cluster: &Cluster) -> Client {
    Client::open(&cluster.gateways[0].direct_url).await.unwrap()
}

/// Opens a socket, sends these frames, and tells how it ended.
async fn end_after(cluster: &Cluster, frames: &[&str]) -> End {
    let mut client = open(cluster).await;
    client.expect_op(10).await;
    for frame in frames {
        client.send_text(*frame);
    }
    client.ended().await
}
