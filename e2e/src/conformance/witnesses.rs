//! Further sessions of the world's bot, each of which lacks something, and what all sessions
//! together say about who got which event.
//!
//! They do not cause anything: whatever the cases cause between [`Witnesses::begin`] and
//! [`Witnesses::testify`] is compared over all of them.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    events::{EVENTS, Event, EventBook, known_to_serenity},
    world::{ALL_INTENTS, World},
};
use crate::{
    session::{Dispatch, Session},
    wire,
    world::{Account, each, random_word},
};

/// Highest bit of an intent.
const INTENT_BIT_MAX: u32 = 25;
/// What events of a realm may lag behind those of another.
const SETTLE: Duration = Duration::from_secs(10);
/// Dispatches for the one session that asked.
const TO_ONE_SESSION: [&str; 7] = [
    "READY",
    "RESUMED",
    "RATE_LIMITED",
    "GUILD_MEMBERS_CHUNK",
    "SOUNDBOARD_SOUNDS",
    "CHANNEL_INFO",
    "VOICE_SERVER_UPDATE",
];
/// Of clients of people, those that more than one account is told in the same words.
const SHARED_BY_PEOPLE: [&str; 7] = [
    "CHANNEL_RECIPIENT_ADD",
    "CHANNEL_RECIPIENT_REMOVE",
    "CHANNEL_UNREAD_UPDATE",
    "GUILD_APPLICATION_COMMAND_INDEX_UPDATE",
    "GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE",
    "GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE",
    "GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE",
];

/// One of the bot's sessions.
#[derive(Debug)]
struct Witness {
    name: String,
    intents: u32,
    /// Its bot shard of two; `None`: the only one.
    half: Option<u32>,
    session: Session,
}

#[derive(Debug)]
pub(super) struct Witnesses {
    all: Vec<Witness>,
}

/// How often each event came, by what tells it from others.
type Counts = BTreeMap<(String, String), usize>;

impl Witnesses {
    /// Five sessions, of which each lacks about half of the intents so that every intent is lacked
    /// by one and had by another, and one for each of two bot shards.
    pub(super) async fn start(bot: &Account, urls: &[String]) -> Self {
        let lacking = |group: u32| {
            let bits = 0..=INTENT_BIT_MAX;
            let lacked = bits.filter(move |bit| (bit + 1) >> group & 1 == 1);
            ALL_INTENTS & !lacked.fold(0, |mask, bit| mask | 1 << bit)
        };
        let groups = (0..5).map(|group| (format!("group {group}"), lacking(group), None));
        let halves = (0..2).map(|half| (format!("half {half}"), ALL_INTENTS, Some(half)));
        let starting = groups
            .chain(halves)
            .map(|(name, intents, half)| async move {
                let mut login = bot.login(urls.to_vec(), intents);
                login.shard = half.map(|half| [half, 2]);
                let session = Session::start(login).await;
                Witness {
                    name,
                    intents,
                    half,
                    session,
                }
            });
        Self {
            all: futures_util::future::join_all(starting).await,
        }
    }

    /// Waits until every session that can hears the guild; what came before does not count. To be
    /// given to [`Witnesses::testify`].
    pub(super) async fn begin(&self, world: &World) -> String {
        let mut deaf: Vec<&Session> = self.hearing(world).collect();
        // Who has no intent for guilds does not know when its guild has come.
        while !deaf.is_empty() {
            let nick = mark(world).await;
            let end = Instant::now() + Duration::from_secs(1);
            while !deaf.is_empty() && Instant::now() < end {
                sleep(Duration::from_millis(20)).await;
                deaf.retain(|session| since(session, &nick).is_none());
            }
        }
        let nick = mark(world).await;
        self.all_hear(world, &nick).await;
        nick
    }

    /// The bot's sessions that hear the guild.
    fn hearing<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a Session> {
        let home = half_of(&world.guild.id);
        let hearing = self.all.iter();
        let hearing = hearing.filter(move |witness| witness.half.is_none_or(|half| half == home));
        let hearing = hearing.map(|witness| &witness.session);
        hearing.chain([&world.bot.session])
    }

    async fn all_hear(&self, world: &World, nick: &str) {
        for session in self.hearing(world) {
            let own_nick = |d: &Value| d["nick"] == nick;
            session.dispatch("GUILD_MEMBER_UPDATE", own_nick).await;
        }
    }

    /// Compares what came to whom.
    pub(super) async fn testify(&self, world: &World, begun: &str, book: &mut EventBook) {
        let nick = mark(world).await;
        self.all_hear(world, &nick).await;
        for person in world.people() {
            person.catch_up().await;
        }
        let end = Instant::now() + SETTLE;
        while Instant::now() < end && !self.compare(world, begun).1.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        let (compared, faults) = self.compare(world, begun);
        for name in compared {
            note(book, &name, true, String::new);
        }
        for (name, fault) in faults {
            note(book, &name, false, || fault);
        }
        hold_back(world, book);
    }

    /// Of the bot's sessions: the events that were compared, and what was wrong.
    fn compare(&self, world: &World, begun: &str) -> (Vec<String>, Vec<(String, String)>) {
        let home = half_of(&world.guild.id);
        let full = counts(&world.bot.session, world, begun);
        let (mut compared, mut faults) = (Vec::new(), Vec::new());
        for witness in &self.all {
            let seen = counts(&witness.session, world, begun);
            for ((name, key), &count) in &full {
                let d: Value = serde_json::from_str(key).unwrap_or_default();
                let needed = needed(name, &d, &world.bot.id);
                let has = |bit: &u32| witness.intents >> bit & 1 == 1;
                let asked = needed.is_none_or(|bits| bits.iter().any(has));
                let of_guild = d.get("guild_id").is_some() || name == "GUILD_UPDATE";
                let at = if of_guild { home } else { 0 };
                let here = witness.half.is_none_or(|half| half == at);
                let alone = TO_ONE_SESSION.contains(&name.as_str());
                let expected = if asked && here && !alone { count } else { 0 };
                let found = seen.get(&(name.clone(), key.clone()));
                let found = found.copied().unwrap_or_default();
                compared.push(name.clone());
                if found != expected {
                    let (who, what) = (&witness.name, wire::clip(key));
                    let fault = format!("{who} got it {found} times, not {expected}: {what}");
                    faults.push((name.clone(), fault));
                }
            }
        }
        compared.sort_unstable();
        compared.dedup();
        (compared, faults)
    }
}

fn note(book: &mut EventBook, name: &str, fits: bool, what: impl FnOnce() -> String) {
    if let Some(proof) = book.of(name) {
        proof.reaches.note(fits, what);
    }
}

/// Which of two bot shards a guild is on.
fn half_of(guild: &str) -> u32 {
    let id: u64 = guild.parse().unwrap_or_default();
    (id >> 22) as u32 % 2
}

/// Changes the bot's own nick, of which all its sessions hear whatever their intents.
async fn mark(world: &World) -> String {
    let nick = random_word();
    let path = format!("/guilds/{}/members/@me", world.guild.id);
    let form = json!({"nick": nick});
    world.bot.rest.patch(&path, &form).await.ok();
    nick
}

/// Where a session's dispatches after a mark begin, if it has come.
fn since(session: &Session, nick: &str) -> Option<usize> {
    let log = session.log();
    let is_mark =
        |dispatch: &Dispatch| dispatch.t() == "GUILD_MEMBER_UPDATE" && dispatch.d()["nick"] == nick;
    log.dispatches.iter().position(is_mark).map(|at| at + 1)
}

/// What came to a session of the bot since the beginning, as far as it can be compared: of the
/// world's guild and of private channels.
fn counts(session: &Session, world: &World, begun: &str) -> Counts {
    let start = since(session, begun).unwrap_or_default();
    let log = session.log();
    let mut counts = Counts::new();
    for dispatch in log.dispatches.iter().skip(start) {
        let (name, d) = (dispatch.t(), dispatch.d());
        let guild = match name {
            "GUILD_UPDATE" => &d["id"],
            "RATE_LIMITED" => &d["meta"]["guild_id"],
            _ => &d["guild_id"],
        };
        let here = *guild == world.guild.id.as_str();
        let private = guild.is_null() && d.get("channel_id").is_some();
        if here || private {
            *counts.entry((name.to_owned(), key(d))).or_default() += 1;
        }
    }
    counts
}

/// `d` without what depends on the intent for contents.
fn key(d: &Value) -> String {
    let mut d = d.clone();
    if let Some(fields) = d.as_object_mut() {
        for name in [
            "attachments",
            "components",
            "content",
            "embeds",
            "matched_content",
            "matched_keyword",
            "message_snapshots",
            "poll",
            "referenced_message",
        ] {
            fields.remove(name);
        }
    }
    d.to_string()
}

/// Bits of the intents of which a session of the bot needs one to get an event; `None`: it gets
/// it without any.
fn needed(name: &str, d: &Value, bot: &str) -> Option<Vec<u32>> {
    let bits = &Event::find(name)?.intents;
    let of = |key: &str| d[key] == bot;
    let one = |bit: Option<&u32>| bit.map(|bit| vec![*bit]);
    match name {
        "GUILD_MEMBER_UPDATE" if d["user"]["id"] == bot => None,
        "VOICE_STATE_UPDATE" if of("user_id") => None,
        "THREAD_MEMBERS_UPDATE" => {
            let added = each(&d["added_members"]);
            let removed = each(&d["removed_member_ids"]);
            let mut users = added.map(|member| &member["user_id"]).chain(removed);
            // Its own membership comes with either intent, that of others with GUILD_MEMBERS.
            match users.any(|user| user == bot) {
                true => Some(bits.clone()),
                false => one(bits.last()),
            }
        }
        _ if d.get("guild_id").is_some() || name == "GUILD_UPDATE" => one(bits.first()),
        _ => one(bits.last()),
    }
}

/// What must not have come: to the stranger anything of the guild, to the member what is in the
/// hidden channel, to bots what is for clients of people, and to anybody what is another's own.
fn hold_back(world: &World, book: &mut EventBook) {
    let guild = world.guild.id.as_str();
    let secret = world.guild.secret.as_str();
    let of_guild = |d: &Value| d["guild_id"] == guild;
    let hidden = |d: &Value| d["channel_id"] == secret || d["id"] == secret;
    for event in EVENTS.iter() {
        let (name, bot) = (event.name, &world.bot);
        if bot.has(name, of_guild) {
            let leaked = world.stranger.has(name, of_guild);
            note(book, name, !leaked, || "the stranger got it".to_owned());
        }
        if bot.has(name, hidden) {
            let leaked = world.member.has(name, hidden);
            note(book, name, !leaked, || {
                "the member got it from a hidden channel".to_owned()
            });
        }
        let people = [&world.owner, &world.member, &world.stranger];
        let mut came = false;
        if !event.official || name == "USER_UPDATE" {
            for person in people {
                let told: Vec<Value> = person
                    .session
                    .log()
                    .named(name)
                    .map(Dispatch::d)
                    .cloned()
                    .collect();
                came |= !told.is_empty();
                if told.is_empty() || SHARED_BY_PEOPLE.contains(&name) {
                    continue;
                }
                for other in people.iter().filter(|other| other.id != person.id) {
                    let leaked = told.iter().any(|one| other.has(name, |d| d == one));
                    note(book, name, !leaked, || {
                        format!("{} got another's", other.role)
                    });
                }
            }
        }
        if !event.official && came {
            note(book, name, !bot.has(name, |_| true), || {
                "the bot got it".to_owned()
            });
        }
    }
}

/// Every dispatch to the bot, read by the libraries that know it.
pub(super) fn libraries(world: &World, book: &mut EventBook) {
    for dispatch in &world.bot.session.log().dispatches {
        let name = dispatch.t();
        let Some(proof) = book.of(name) else { continue };
        let mut read = |result: Result<(), String>| {
            let fault = result.as_ref().err().cloned().unwrap_or_default();
            proof.typed.note(result.is_ok(), || fault);
        };
        if wire::known_to_twilight(name) {
            read(wire::check_with_twilight(&dispatch.frame, true));
        }
        if known_to_serenity(name) {
            read(wire::check_with_serenity(&dispatch.frame));
        }
    }
}
