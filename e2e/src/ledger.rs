//! Writers that number their messages and keep what was confirmed, and the comparison of what
//! the database holds with what sessions received.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use guildhall_shared::gateway::EventKind;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use tokio::task::JoinHandle;

use crate::{
    session::Session,
    wait::NEVER,
    world::{Account, Guild, each, random_word},
};

/// Between two messages of one writer: the stream shall last, not load the machine.
const PACE: Duration = Duration::from_millis(15);
/// Before a failed call is repeated at the next API.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A message that got a 2xx.
#[derive(Debug, Clone)]
pub struct Confirmed {
    pub channel: String,
    pub id: u64,
    /// Unique in the test.
    pub content: String,
}

/// Several accounts writing at once, each to its channel, one message after the other.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicUsize>,
    retries: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Vec<Confirmed>>>,
}

impl Writers {
    /// Starts one writer per (account, channel). A writer repeats a message with the same
    /// enforced nonce at the next API until it gets a 2xx.
    pub fn start(writers: &[(Account, String)], origins: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let confirmed = Arc::new(AtomicUsize::new(0));
        let retries = Arc::new(AtomicUsize::new(0));
        let run = random_word();
        let tasks = writers
            .iter()
            .cloned()
            .enumerate()
            .map(|(number, (account, channel))| {
                let writer = Writer {
                    run: run.clone(),
                    number,
                    account,
                    channel,
                    origins: origins.to_vec(),
                    stop: Arc::clone(&stop),
                    confirmed: Arc::clone(&confirmed),
                    retries: Arc::clone(&retries),
                };
                tokio::spawn(writer.run())
            })
            .collect();
        Self {
            stop,
            confirmed,
            retries,
            tasks,
        }
    }

    /// Messages confirmed so far.
    pub fn confirmed(&self) -> usize {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Calls that had to be repeated so far.
    pub fn retries(&self) -> usize {
        self.retries.load(Ordering::Relaxed)
    }

    /// Waits until this many more messages are confirmed.
    ///
    /// # Panics
    /// If that never happens.
    pub async fn more(&self, count: usize) {
        let goal = self.confirmed() + count;
        crate::wait::until(&format!("{count} more messages"), async || {
            (self.confirmed() >= goal).then_some(())
        })
        .await;
    }

    /// Lets every writer finish its message; all that were confirmed come back.
    ///
    /// # Panics
    /// If a writer never got its message through.
    pub async fn finish(self) -> Vec<Confirmed> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            match task.await {
                Ok(confirmed) => all.extend(confirmed),
                Err(error) => panic!("a writer failed: {error}"),
            }
        }
        all
    }
}

struct Writer {
    /// Tells the writers of one start from those of another: no nonce comes twice.
    run: String,
    number: usize,
    account: Account,
    channel: String,
    origins: Vec<String>,
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicUsize>,
    retries: Arc<AtomicUsize>,
}

impl Writer {
    async fn run(self) -> Vec<Confirmed> {
        let mut confirmed = Vec::new();
        let path = format!("/channels/{}/messages", self.channel);
        let mut api = self.number;
        for count in 0_u32.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let content = format!("{} writer {} message {count}", self.run, self.number);
            let nonce = format!("{}-{}-{count}", self.run, self.number);
            let form = json!({"content": content, "nonce": nonce, "enforce_nonce": true});
            let end = Instant::now() + NEVER;
            let id = loop {
                let origin = &self.origins[api % self.origins.len()];
                let rest = self.account.rest.at(origin);
                match rest.try_call(Method::POST, &path, Some(&form)).await {
                    Ok(reply) if reply.status < 300 => break reply.body["id"].clone(),
                    Ok(reply) if reply.status < 500 && reply.status != 429 => {
                        panic!("{content} refused: {} {}", reply.status, reply.body)
                    }
                    Ok(_) | Err(_) => {}
                }
                assert!(Instant::now() < end, "{content} never got through");
                self.retries.fetch_add(1, Ordering::Relaxed);
                api += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            };
            confirmed.push(Confirmed {
                channel: self.channel.clone(),
                id: id
                    .as_str()
                    .and_then(|id| id.parse().ok())
                    .unwrap_or_default(),
                content,
            });
            self.confirmed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PACE).await;
        }
        confirmed
    }
}

/// The events of a realm as the database numbered them: (seq, kind, `d`).
pub async fn events(db: &PgPool, realm: &str) -> Result<Vec<(u64, u16, Value)>> {
    let realm: i64 = realm.parse().context("realm id")?;
    let rows =
        sqlx::query("select seq, kind, body from realm_event where realm_id = $1 order by seq")
            .bind(realm)
            .fetch_all(db)
            .await?;
    rows.into_iter()
        .map(|row| {
            let body: Vec<u8> = row.try_get("body")?;
            Ok((
                row.try_get::<i64, _>("seq")? as u64,
                row.try_get::<i16, _>("kind")? as u16,
                serde_json::from_slice(&body)?,
            ))
        })
        .collect()
}

/// Per channel, the (id, content) of every stored MESSAGE_CREATE in the order of its number.
///
/// # Panics
/// If the numbers of the realm are not 1, 2, 3 … (I1).
pub async fn stored(db: &PgPool, guild: &str) -> Result<BTreeMap<String, Vec<(u64, String)>>> {
    let mut channels: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for (place, (seq, kind, d)) in events(db, guild).await?.into_iter().enumerate() {
        assert_eq!(seq, place as u64 + 1, "a gap in the numbers of {guild}");
        if kind == EventKind::MessageCreate.number() {
            let id = d["id"].as_str().and_then(|id| id.parse().ok());
            let content = d["content"].as_str().unwrap_or_default().to_owned();
            channels
                .entry(d["channel_id"].as_str().unwrap_or_default().to_owned())
                .or_default()
                .push((id.context("message id")?, content));
        }
    }
    Ok(channels)
}

/// [`stored`] of several guilds from the first confirmed message on, after
/// [`assert_stored_once`].
///
/// # Panics
/// As both of them.
pub async fn stored_since_confirmed(
    db: &PgPool,
    guilds: &[Guild],
    confirmed: &[Confirmed],
) -> Result<BTreeMap<String, Vec<(u64, String)>>> {
    let mut all = BTreeMap::new();
    for guild in guilds {
        all.extend(stored(db, &guild.id).await?);
    }
    assert_stored_once(&all, confirmed);
    let confirmed: BTreeSet<u64> = confirmed.iter().map(|message| message.id).collect();
    for messages in all.values_mut() {
        let first = messages.iter().position(|(id, _)| confirmed.contains(id));
        messages.drain(..first.unwrap_or(messages.len()));
    }
    Ok(all)
}

/// Says something in every guild and waits until every session has it: what comes from then on,
/// each must get.
///
/// # Panics
/// If it never comes.
pub async fn settle<'a>(
    speaker: &Account,
    guilds: &[Guild],
    sessions: impl IntoIterator<Item = &'a Session>,
) {
    let sessions: Vec<&Session> = sessions.into_iter().collect();
    for guild in guilds {
        let content = format!("settled {}", random_word());
        speaker.say(&guild.channel, &content).await;
        for session in &sessions {
            session.message(&content).await;
        }
    }
}

/// Every confirmed message is stored, and stored once; nothing is stored twice under two ids (I2, I15).
///
/// # Panics
/// If not.
pub fn assert_stored_once(stored: &BTreeMap<String, Vec<(u64, String)>>, confirmed: &[Confirmed]) {
    for (channel, messages) in stored {
        let mut contents = BTreeSet::new();
        for (_, content) in messages {
            // Empty: a system message.
            assert!(
                content.is_empty() || contents.insert(content),
                "stored twice in {channel}: {content}"
            );
        }
    }
    for message in confirmed {
        let found = stored
            .get(&message.channel)
            .is_some_and(|stored| stored.contains(&(message.id, message.content.clone())));
        assert!(found, "confirmed, but not stored: {message:?}");
    }
}

/// Waits until a session has the last stored message of a channel, then compares.
///
/// `stored` starts with a message that the session was there for; what it got before that one is
/// not looked at. Within one life (from READY on, RESUMEs included) it must have received a run of
/// the stored messages without a gap, a repeat or a swap; its first life starts with the first of
/// them, its last one ends with the last. `whole`: it never lost its life, so it has them all.
///
/// # Panics
/// With the first difference.
pub async fn assert_received(
    name: &str,
    session: &Session,
    channel: &str,
    stored: &[(u64, String)],
    whole: bool,
) {
    let Some((last, _)) = stored.last() else {
        return;
    };
    let last = last.to_string();
    // A life may begin after it.
    let has_it = |guild: &Value| {
        each(&guild["channels"])
            .any(|known| known["id"] == channel && known["last_message_id"] == last.as_str())
    };
    session
        .wait(&format!("{name}: the last message {last}"), |log| {
            let is_got = log
                .named("MESSAGE_CREATE")
                .rev()
                .any(|dispatch| dispatch.d()["id"] == last.as_str());
            let mut snapshots = log.named("GUILD_CREATE").rev();
            let is_got = is_got || !whole && snapshots.any(|dispatch| has_it(dispatch.d()));
            is_got.then_some(())
        })
        .await;
    let ids: Vec<u64> = stored.iter().map(|(id, _)| *id).collect();
    let mut lives: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let received = session.messages(channel).into_iter();
    for (id, _, life) in received.skip_while(|(id, ..)| !ids.contains(id)) {
        lives.entry(life).or_default().push(id);
    }
    if whole {
        assert_eq!(lives.len(), 1, "{name}: more than one life: {lives:?}");
    }
    for (life, got) in &lives {
        let start = if whole || *life == 1 {
            0
        } else {
            let place = ids.iter().position(|id| Some(id) == got.first());
            place.unwrap_or_else(|| panic!("{name}: got a message that is not stored"))
        };
        let run = ids.get(start..start + got.len()).unwrap_or_default();
        if run != got {
            let place = run.iter().zip(got).position(|(a, b)| a != b);
            panic!(
                "{name}, life {life}: differs at place {place:?} of {}: stored {:?}, got {:?}",
                got.len(),
                &run[place.unwrap_or(0)..],
                &got[place.unwrap_or(0)..],
            );
        }
    }
    if whole {
        let received = lives.values().map(Vec::len).sum::<usize>();
        assert_eq!(received, ids.len(), "{name}: not all");
    }
    session.assert_clean();
}
