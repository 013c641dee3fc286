//! Many small guilds, each of two people, and people who write in them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, stream};
use guildhall_shared::cluster_map::ClusterMap;
use guildhall_shared::id::{Id, marker};
use guildhall_shared::shard::ShardId;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::ear::Ear;
use crate::chaos::checker::Write;
use crate::chaos::writers::say;
use crate::cluster::Cluster;
use crate::world::{Account, Guild, human_at, random_word};

/// Calls under way while a town is made.
const AT_ONCE: usize = 6;

/// A guild that its two members see whole.
pub(super) struct Small {
    pub(super) id: u64,
    pub(super) shard: ShardId,
    /// Its only text channel is the one that is written to.
    pub(super) channel: String,
    /// Places in [`Town::people`]; the first is the owner.
    pub(super) members: [usize; 2],
}

pub(super) struct Town {
    pub(super) people: Vec<Account>,
    pub(super) guilds: Vec<Small>,
}

impl Town {
    /// Everybody owns `each` guilds, and the next one is in them too.
    pub(super) async fn make(cluster: &Cluster, people: usize, each: usize) -> Result<Self> {
        let people: Vec<Account> = stream::iter(0..people)
            .map(|number| async move {
                human_at(&cluster.rest(number), &format!("person{number}")).await
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let neighbours = |owner: usize| (owner + 1) % people.len();
        let people_ref = &people;
        let made: Vec<Vec<Guild>> = stream::iter(0..people.len())
            .map(|owner| {
                let neighbour = neighbours(owner);
                async move {
                    let (owner, neighbour) = (&people_ref[owner], &people_ref[neighbour]);
                    let mut made = Vec::new();
                    for _ in 0..each {
                        let guild = owner.make_guild("small").await;
                        owner.invite(&guild, neighbour).await;
                        made.push(guild);
                    }
                    made
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut guilds = Vec::new();
        for (owner, made) in made.into_iter().enumerate() {
            for guild in made {
                let id: Id<marker::Guild> = guild
                    .id
                    .parse()
                    .map_err(|_| anyhow!("not an id: {}", guild.id))?;
                guilds.push(Small {
                    id: id.get(),
                    shard: ShardId::of(id, cluster.shards()),
                    channel: guild.channel,
                    members: [owner, neighbours(owner)],
                });
            }
        }
        Ok(Self { people, guilds })
    }

    pub(super) fn owner(&self, guild: &Small) -> &Account {
        &self.people[guild.members[0]]
    }

    /// Guilds that a node owns.
    pub(super) fn owned(&self, map: &ClusterMap, node: &str) -> BTreeSet<u64> {
        let owned = |guild: &&Small| map.owner(guild.shard) == Some(node);
        self.guilds
            .iter()
            .filter(owned)
            .map(|guild| guild.id)
            .collect()
    }

    /// A client of each, at the gateway that `gateway` names; all are logged in.
    pub(super) async fn listen(
        &self,
        cluster: &Cluster,
        gateway: impl Fn(usize) -> usize,
    ) -> Result<Vec<Ear>> {
        let mut ears = Vec::new();
        for (person, account) in self.people.iter().enumerate() {
            let url = cluster.gateways[gateway(person)].direct_url.clone();
            ears.push(Ear::open(person, url, account.token.clone()));
        }
        for ear in &ears {
            ear.is_up().await?;
        }
        Ok(ears)
    }
}

/// People who write to their guilds through the APIs, each guild at a pace of its own.
pub(super) struct Talk {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Write>>>,
}

impl Talk {
    /// `pace_ms`: least and most between two messages of one guild.
    pub(super) fn start(town: &Town, cluster: &Cluster, pace_ms: (u64, u64)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = random_word();
        let mut tasks = Vec::new();
        for (number, guild) in town.guilds.iter().enumerate() {
            let (author, channel) = (town.owner(guild).clone(), guild.channel.clone());
            let (origins, stop) = (cluster.origins(), Arc::clone(&stop));
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                let mut written = Vec::new();
                // So that not all begin at once.
                pause((0, pace_ms.1)).await;
                for count in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let content = format!("{run} {number} {count}"); // no longer than a nonce
                    let id = say(&origins, &author, &channel, &content).await;
                    if id > 0 {
                        written.push(Write::Created { id, content });
                    }
                    pause(pace_ms).await;
                }
                written
            }));
        }
        Self { stop, tasks }
    }

    /// Lets everybody finish; what got a 2xx.
    pub(super) async fn finish(self) -> Result<Vec<Write>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.context("a writer ended")?);
        }
        Ok(all)
    }
}

pub(super) async fn pause((least, most): (u64, u64)) {
    let ms = rand::random_range(least..=most);
    sleep(Duration::from_millis(ms)).await;
}
