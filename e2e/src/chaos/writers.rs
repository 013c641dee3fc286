//! Everybody who changes something during a run, and what they were promised.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::checker::{Write, number};
use super::world::Place;
use crate::cluster::lock;
use crate::rest::{Reply, Rest};
use crate::world::{Account, random_word};

/// Between two messages of one writer.
const MESSAGE_PACE_MS: (u64, u64) = (150, 650);
/// Between two changes of roles, channels and members of one guild.
const CHANGE_PACE_MS: (u64, u64) = (500, 1_500);
/// Before a call that failed is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(150);
/// Writers of messages per guild.
const WRITERS: usize = 2;
const VIEW_CHANNEL: u64 = 1 << 10;

/// What all writers share.
#[derive(Debug)]
struct Desk {
    origins: Vec<String>,
    stop: AtomicBool,
    writes: Mutex<Vec<Write>>,
    retries: AtomicU64,
    /// Answers that are neither a success nor a reason to try again.
    refused: Mutex<Vec<String>>,
}

/// Running writers.
#[derive(Debug)]
pub(super) struct Writers {
    desk: Arc<Desk>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(super) fn start(places: &[Place], origins: Vec<String>) -> Self {
        let desk = Arc::new(Desk {
            origins,
            stop: AtomicBool::new(false),
            writes: Mutex::default(),
            retries: AtomicU64::new(0),
            refused: Mutex::default(),
        });
        let mut tasks = Vec::new();
        for place in places {
            for number in 0..WRITERS {
                let (desk, place) = (Arc::clone(&desk), place.clone());
                tasks.push(tokio::spawn(desk.messages(place, number)));
            }
            let (one, other) = (Arc::clone(&desk), Arc::clone(&desk));
            tasks.push(tokio::spawn(one.views(place.clone())));
            tasks.push(tokio::spawn(other.members(place.clone())));
        }
        Self { desk, tasks }
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.desk.writes).len()
    }

    pub(super) fn retries(&self) -> u64 {
        self.desk.retries.load(Ordering::Relaxed)
    }

    /// Lets everybody finish what they are at.
    pub(super) async fn finish(self) -> (Vec<Write>, Vec<String>) {
        self.desk.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            if let Err(error) = task.await {
                lock(&self.desk.refused).push(format!("a writer ended: {error}"));
            }
        }
        let writes = std::mem::take(&mut *lock(&self.desk.writes));
        let refused = std::mem::take(&mut *lock(&self.desk.refused));
        (writes, refused)
    }
}

/// Writes a message with an enforced nonce and repeats it until it got a 2xx; its id.
pub(crate) async fn say(origins: &[String], author: &Account, channel: &str, content: &str) -> u64 {
    let desk = Desk {
        origins: origins.to_vec(),
        stop: AtomicBool::new(false),
        writes: Mutex::default(),
        retries: AtomicU64::new(0),
        refused: Mutex::default(),
    };
    let said = desk.say(&author.rest, channel, content).await;
    said.map_or(0, |reply| number(&reply.body["id"]))
}

impl Desk {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn promise(&self, write: Write) {
        lock(&self.writes).push(write);
    }

    /// Repeats a call at one API after the other until it is answered. `None`: refused.
    async fn call(
        &self,
        rest: &Rest,
        method: Method,
        path: &str,
        form: Option<&Value>,
    ) -> Option<Reply> {
        const GIVEN_UP: Duration = Duration::from_secs(180);
        let end = Instant::now() + GIVEN_UP;
        let mut api: usize = rand::random_range(0..self.origins.len());
        while Instant::now() < end {
            let rest = rest.at(&self.origins[api % self.origins.len()]);
            match rest.try_call(method.clone(), path, form).await {
                Ok(reply) if reply.status < 300 => return Some(reply),
                Ok(reply) if reply.status < 500 && reply.status != 429 => {
                    // A repeated deletion finds nothing; a kicked one may not.
                    if !matches!(reply.status, 403 | 404) {
                        let text = format!("{method} {path}: {} {}", reply.status, reply.body);
                        lock(&self.refused).push(text);
                    }
                    return None;
                }
                Ok(_) | Err(_) => {}
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            api += 1;
            sleep(RETRY_PAUSE).await;
        }
        lock(&self.refused).push(format!("{method} {path}: never answered"));
        None
    }

    async fn say(&self, rest: &Rest, channel: &str, content: &str) -> Option<Reply> {
        let path = format!("/channels/{channel}/messages");
        let nonce: String = content.chars().take(25).collect();
        let form = json!({"content": content, "nonce": nonce, "enforce_nonce": true});
        self.call(rest, Method::POST, &path, Some(&form)).await
    }

    /// Messages, with an edit and a deletion now and then.
    async fn messages(self: Arc<Self>, place: Place, writer: usize) {
        let run = random_word();
        let rest = &place.owner.rest;
        let mut mine: VecDeque<(String, u64)> = VecDeque::new();
        let mut count: u32 = 0;
        while self.goes_on() {
            pause(MESSAGE_PACE_MS).await;
            count += 1;
            let room = rand::random_range(0..=place.rooms.len());
            let channel = place.rooms.get(room).unwrap_or(&place.general);
            // The nonce is its beginning.
            let content = format!("{run}{writer} {count} for {}", place.id);
            if let Some(reply) = self.say(rest, channel, &content).await {
                let id = number(&reply.body["id"]);
                mine.push_back((channel.clone(), id));
                self.promise(Write::Created { id, content });
            }
            if count.is_multiple_of(6)
                && let Some((channel, id)) = mine.back()
            {
                let content = format!("{run}{writer} {count} edited");
                let path = format!("/channels/{channel}/messages/{id}");
                let form = json!({"content": content});
                let id = *id;
                let edited = self.call(rest, Method::PATCH, &path, Some(&form)).await;
                if edited.is_some() {
                    self.promise(Write::Edited { id, content });
                }
            }
            // Never the newest of a channel: a snapshot's position is found by that.
            if count.is_multiple_of(9)
                && mine.len() > 40
                && let Some((channel, id)) = mine.pop_front()
                && mine.iter().filter(|(other, _)| *other == channel).count() > 2
            {
                let path = format!("/channels/{channel}/messages/{id}");
                if self.call(rest, Method::DELETE, &path, None).await.is_some() {
                    self.promise(Write::Deleted { id });
                }
            }
        }
    }

    /// Overwrites, roles and channels: who sees what changes.
    async fn views(self: Arc<Self>, place: Place) {
        let rest = &place.owner.rest;
        while self.goes_on() {
            pause(CHANGE_PACE_MS).await;
            let room = &place.rooms[rand::random_range(0..place.rooms.len())];
            let role = &place.roles[rand::random_range(0..place.roles.len())];
            let member = &place.members[rand::random_range(0..place.members.len())];
            let mark = random_word();
            match rand::random_range(0..10) {
                0..4 => {
                    let (target, kind) = match rand::random_range(0..3) {
                        0 => (&place.id, 0),
                        1 => (role, 0),
                        _ => (&member.id, 1),
                    };
                    let path = format!("/channels/{room}/permissions/{target}");
                    let bit = VIEW_CHANNEL.to_string();
                    let form = match rand::random_range(0..3) {
                        0 => Some(json!({"type": kind, "allow": bit, "deny": "0"})),
                        1 => Some(json!({"type": kind, "allow": "0", "deny": bit})),
                        _ => None,
                    };
                    let method = if form.is_some() {
                        Method::PUT
                    } else {
                        Method::DELETE
                    };
                    self.call(rest, method, &path, form.as_ref()).await;
                }
                4..6 => {
                    let form = json!({"topic": mark});
                    let path = format!("/channels/{room}");
                    let done = self.call(rest, Method::PATCH, &path, Some(&form)).await;
                    if done.is_some() {
                        let kind = "CHANNEL_UPDATE";
                        self.promise(Write::Marked { kind, mark });
                    }
                }
                6..8 => {
                    let permissions = if rand::random() { VIEW_CHANNEL } else { 0 };
                    let form = json!({"name": mark, "permissions": permissions.to_string()});
                    let path = format!("/guilds/{}/roles/{role}", place.id);
                    let done = self.call(rest, Method::PATCH, &path, Some(&form)).await;
                    if done.is_some() {
                        let kind = "GUILD_ROLE_UPDATE";
                        self.promise(Write::Marked { kind, mark });
                    }
                }
                8 => {
                    let path = format!("/guilds/{}/members/{}/roles/{role}", place.id, member.id);
                    let method = if rand::random() {
                        Method::PUT
                    } else {
                        Method::DELETE
                    };
                    self.call(rest, method, &path, None).await;
                }
                _ => {
                    let form = json!({"name": mark, "type": 0});
                    let path = format!("/guilds/{}/channels", place.id);
                    let made = self.call(rest, Method::POST, &path, Some(&form)).await;
                    let Some(made) = made else { continue };
                    let kind = "CHANNEL_CREATE";
                    self.promise(Write::Marked { kind, mark });
                    pause(CHANGE_PACE_MS).await;
                    let id = number(&made.body["id"]);
                    let path = format!("/channels/{id}");
                    if self.call(rest, Method::DELETE, &path, None).await.is_some() {
                        let (kind, mark) = ("CHANNEL_DELETE", id.to_string());
                        self.promise(Write::Marked { kind, mark });
                    }
                }
            }
        }
    }

    /// Nicks, and humans that are kicked and come back.
    async fn members(self: Arc<Self>, place: Place) {
        let rest = &place.owner.rest;
        let humans: Vec<&Account> = place
            .members
            .iter()
            .filter(|member| member.application.is_none())
            .collect();
        while self.goes_on() {
            pause(CHANGE_PACE_MS).await;
            let member = humans[rand::random_range(0..humans.len())];
            let path = format!("/guilds/{}/members/{}", place.id, member.id);
            if rand::random_range(0..4) > 0 {
                let mark = random_word();
                let form = json!({"nick": mark});
                let done = self.call(rest, Method::PATCH, &path, Some(&form)).await;
                if done.is_some() {
                    let kind = "GUILD_MEMBER_UPDATE";
                    self.promise(Write::Marked { kind, mark });
                }
                continue;
            }
            if self.call(rest, Method::DELETE, &path, None).await.is_some() {
                let (kind, mark) = ("GUILD_MEMBER_REMOVE", member.id.clone());
                self.promise(Write::Marked { kind, mark });
            }
            pause(CHANGE_PACE_MS).await;
            let path = format!("/invites/{}", place.invite);
            let form = json!({});
            let back = self
                .call(&member.rest, Method::POST, &path, Some(&form))
                .await;
            if back.is_some() {
                let (kind, mark) = ("GUILD_MEMBER_ADD", member.id.clone());
                self.promise(Write::Marked { kind, mark });
            }
        }
    }
}

async fn pause((least, most): (u64, u64)) {
    let ms = rand::random_range(least..=most);
    sleep(Duration::from_millis(ms)).await;
}
