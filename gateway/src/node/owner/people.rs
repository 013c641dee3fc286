//! Presence among friends and partners of DMs, who may share no guild: the owner of a
//! person's own realm tells theirs, by ephemeral events as typing is told, and keeps a key in
//! Redis from which their READY is made.
//!
//! Best effort: without Redis friends do not see each other come and go until it is back. What was
//! told last is what the key says, so a new owner tells nothing twice. It says too who wrote it: an
//! owner that another one has followed tells of nobody that they are gone. Who was told of lately is
//! in a set: a node whose feed was away looks there for what it has missed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    envelope::{Durability, Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker::{Realm as RealmMarker, User},
    keys,
    model::{Presence, PresenceUser, SessionState},
    shard::{self, ShardId},
};
use redis::{RedisResult, Value};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{interval, sleep},
};

use super::{Owner, realm::Realm};
use crate::clock::{self, select};

/// People told of with one query and one pipeline.
const BATCH_MAX: usize = 256;
/// Time between renewals of the keys: a third of their life.
const RENEW_INTERVAL: Duration = Duration::from_millis(keys::PERSON_TTL_MS / 3);
/// Pause after a query that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Attempts to read of whom friends were told.
const ATTEMPTS: u32 = 20;
/// People of whom is told again after a feed was away, the last ones first.
const TOLD_AGAIN_MAX: usize = 10_000;
/// Deletes a key unless somebody has written it since it was read.
const FORGET: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1]) end return 0";

/// What a server says of a person's key.
type Note = RedisResult<Option<Vec<u8>>>;

/// What Redis keeps of a person who is connected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) presence: Presence,
    pub(crate) sessions: Vec<SessionState>,
    /// The number of the owner that wrote it; `None`: one of an earlier version.
    #[serde(default)]
    writer: Option<u32>,
}

/// People whose presence or sessions have changed: each once, so there are at most as many
/// as realms are open.
#[derive(Default)]
pub(crate) struct People {
    waiting: RefCell<BTreeMap<Id<User>, Waiting>>,
    /// Of whom a server did not take everything, as one of several is away or has no room: told of
    /// again with the next renewal, whatever the others' keys say.
    late: RefCell<BTreeMap<Id<User>, Waiting>>,
    /// Who is connected here, as far as this owner has written. If another one has written
    /// their keys since, they are there.
    written: RefCell<FxHashSet<Id<User>>>,
    filled: Notify,
}

struct Waiting {
    person: Person,
    /// Somebody has to hear of it who did not before, though nothing has changed.
    again: bool,
}

impl People {
    /// A person's own realm has changed.
    pub(super) fn put(&self, user: Id<User>, realm: &Realm, again: bool) {
        let person = Person {
            presence: realm.presences.of(user),
            sessions: realm.presences.sessions().cloned().collect(),
            writer: None,
        };
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.get(&user).is_some_and(|waiting| waiting.again);
        // This is newer, and for those who missed that.
        let late = self.late.borrow_mut().remove(&user);
        let again = again || before || late.is_some_and(|late| late.again);
        waiting.insert(user, Waiting { person, again });
        self.filled.notify_one();
    }

    /// Another owner serves a person's own realm now: the key is its to write.
    pub(super) fn hand_over(&self, user: Id<User>) {
        self.waiting.borrow_mut().remove(&user);
        self.late.borrow_mut().remove(&user);
        self.written.borrow_mut().remove(&user);
    }

    /// What could not be told yet; what has changed again since stays as it is.
    fn put_back(&self, batch: BTreeMap<Id<User>, Waiting>) {
        let mut waiting = self.waiting.borrow_mut();
        for (user, old) in batch {
            let again = old.again;
            waiting.entry(user).or_insert(old).again |= again;
        }
    }

    /// Keeps of a batch for later those of whom something was not taken, by the commands' answers.
    fn put_off(
        &self,
        mut batch: BTreeMap<Id<User>, Waiting>,
        about: &[About],
        answers: &[RedisResult<Value>],
    ) {
        let failed = about
            .iter()
            .zip(answers)
            .filter(|(_, answer)| answer.is_err());
        let mut untold: FxHashSet<Id<User>> = FxHashSet::default();
        for (about, _) in failed {
            match about {
                About::One(user) => {
                    untold.insert(*user);
                }
                About::News => {
                    let news = batch.iter().filter(|(_, waiting)| waiting.again);
                    untold.extend(news.map(|(&user, _)| user));
                }
            }
        }
        batch.retain(|user, _| untold.contains(user));
        self.note_left(&batch);
        // Whoever has changed meanwhile is told of anyway, to those who missed this.
        let mut waiting = self.waiting.borrow_mut();
        let mut late = self.late.borrow_mut();
        for (user, old) in batch {
            match waiting.get_mut(&user) {
                Some(newer) => newer.again |= old.again,
                None => {
                    late.insert(user, old);
                }
            }
        }
    }

    /// Whoever has left and is told of later, is there if another owner has written their key by then.
    fn note_left(&self, batch: &BTreeMap<Id<User>, Waiting>) {
        let left = batch.iter().filter(|(_, waiting)| waiting.has_left());
        let mut written = self.written.borrow_mut();
        written.extend(left.map(|(&user, _)| user));
    }

    /// Has those told of again who were put off.
    fn tell_late(&self) {
        let late = std::mem::take(&mut *self.late.borrow_mut());
        if !late.is_empty() {
            self.put_back(late);
            self.filled.notify_one();
        }
    }

    fn take(&self) -> BTreeMap<Id<User>, Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.keys().nth(BATCH_MAX).copied() {
            Some(next) => {
                let rest = waiting.split_off(&next);
                std::mem::replace(&mut *waiting, rest)
            }
            None => std::mem::take(&mut *waiting),
        }
    }
}

/// What a command of a batch is about.
enum About {
    One(Id<User>),
    /// All of whom something is new.
    News,
}

impl Waiting {
    /// The last session is gone.
    fn has_left(&self) -> bool {
        self.person.sessions.is_empty()
    }
}

impl Owner {
    /// Tells friends and partners, and renews the keys, as long as the task lives.
    pub(crate) async fn tell_people(self: Rc<Self>) {
        let mut renew = interval(RENEW_INTERVAL);
        loop {
            select! {
                () = self.people.filled.notified() => {}
                _ = renew.tick() => {
                    self.people.tell_late();
                    self.renew_people().await;
                }
            }
            loop {
                let batch = self.people.take();
                if batch.is_empty() {
                    break;
                }
                self.tell_batch(batch).await;
            }
        }
    }

    async fn tell_batch(&self, mut batch: BTreeMap<Id<User>, Waiting>) {
        let users: Vec<Id<User>> = batch.keys().copied().collect();
        let mut commands = self.feed.commands();
        // Without Redis nobody can be told, and no friend's READY can show it.
        let Ok(notes) = notes(&mut commands, &users).await else {
            return self.tell_later(batch).await;
        };
        let known = read(&notes);
        // Whoever has left this owner is with the one that has written since, if there is one.
        batch.retain(|user, waiting| {
            let writer = known.get(user).and_then(|person| person.writer);
            let is_anothers = writer.is_some_and(|writer| writer != self.number);
            let is_elsewhere =
                waiting.has_left() && is_anothers && self.people.written.borrow_mut().remove(user);
            !is_elsewhere
        });
        let told = |user: &Id<User>| match known.get(user) {
            Some(person) => person.presence.clone(),
            None => Presence::default(),
        };
        let news = batch
            .iter()
            .filter(|(user, waiting)| waiting.again || told(user) != waiting.person.presence);
        let news: Vec<Id<User>> = news.map(|(&user, _)| user).collect();
        let friends = match news.is_empty() {
            true => Vec::new(),
            false => match self.stored.companions(&news).await {
                Ok(friends) => friends,
                Err(error) => {
                    tracing::warn!(%error, "friends were not read");
                    return self.tell_later(batch).await;
                }
            },
        };
        if let Err(error) = delete_left(&mut commands, &notes, &mut batch).await {
            tracing::debug!(%error, "presences of friends were not deleted");
            return self.tell_later(batch).await;
        }
        self.note_written(&mut batch);
        // What of it fails is told again, whatever their keys say by then.
        for user in &news {
            if let Some(waiting) = batch.get_mut(user) {
                waiting.again = true;
            }
        }
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors(); // of a server that is away, where there are several
        let mut about = Vec::new();
        for (&user, waiting) in batch.iter().filter(|(_, waiting)| !waiting.has_left()) {
            let person = Person {
                writer: Some(self.number),
                ..waiting.person.clone()
            };
            if let Ok(json) = serde_json::to_string(&person) {
                let command = pipeline.cmd("SET").arg(keys::person(user)).arg(json);
                command.arg("PX").arg(keys::PERSON_TTL_MS);
                about.push(About::One(user));
            }
        }
        if !news.is_empty() {
            // Before they are published: whoever subscribes after that finds them here.
            let now = clock::unix_ms();
            let old = now.saturating_sub(keys::PEOPLE_TOLD_MS);
            let command = pipeline.cmd("ZREMRANGEBYSCORE").arg(keys::PEOPLE_TOLD);
            command.arg("-inf").arg(old);
            let command = pipeline.cmd("ZADD").arg(keys::PEOPLE_TOLD);
            for user in &news {
                command.arg(now).arg(user.get());
            }
            let command = pipeline.cmd("PEXPIRE").arg(keys::PEOPLE_TOLD);
            command.arg(keys::PEOPLE_TOLD_MS);
            about.extend([About::News, About::News, About::News]);
        }
        for (user, friend) in friends {
            let Some(Waiting { person, .. }) = batch.get(&user) else {
                continue;
            };
            let Some(event) = update(user, friend, &person.presence) else {
                continue;
            };
            let channel = keys::shard_events(ShardId::of(friend, self.shards));
            let command = pipeline.cmd("SPUBLISH").arg(channel);
            command.arg(&event.encode()[..]);
            about.push(About::One(user));
        }
        if pipeline.is_empty() {
            return;
        }
        let answers: RedisResult<Vec<RedisResult<Value>>> =
            pipeline.query_async(&mut commands).await;
        match answers {
            Ok(answers) => {
                let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
                if let Some(error) = errors.next() {
                    tracing::debug!(%error, "some presences of friends were not published");
                    self.metrics.friends_untold.inc();
                }
                self.people.put_off(batch, &about, &answers);
            }
            Err(error) => {
                tracing::debug!(%error, "presences of friends were not published");
                self.people.note_left(&batch);
                self.tell_later(batch).await;
            }
        }
    }

    async fn tell_later(&self, batch: BTreeMap<Id<User>, Waiting>) {
        self.people.put_back(batch);
        self.metrics.friends_untold.inc();
        sleep(RETRY_AFTER).await;
    }

    /// Tells people of these shards again what friends show of whom was told since then: this node
    /// may not have heard of it.
    pub(super) async fn tell_of_friends(self: &Rc<Self>, shards: &[ShardId], since_ms: u64) {
        if shards.is_empty() {
            return;
        }
        let mut commands = self.feed.commands();
        let told = told_since(&mut commands, since_ms).await;
        let shards: FxHashSet<ShardId> = shards.iter().copied().collect();
        for users in told.chunks(BATCH_MAX) {
            let friends = match self.stored.companions(users).await {
                Ok(friends) => friends,
                Err(error) => {
                    tracing::warn!(%error, "friends were not read");
                    return;
                }
            };
            let here: Vec<(Id<User>, Id<User>)> = {
                let state = self.state.borrow();
                let is_here = |(_, friend): &(Id<User>, Id<User>)| {
                    let entry = state.realms.get(&friend.cast());
                    entry
                        .is_some_and(|entry| entry.realm.is_some() && shards.contains(&entry.shard))
                };
                friends.into_iter().filter(is_here).collect()
            };
            let users: BTreeSet<Id<User>> = here.iter().map(|&(user, _)| user).collect();
            let users: Vec<Id<User>> = users.into_iter().collect();
            let Ok(notes) = ask(&mut commands, &users).await else {
                return;
            };
            let shown: BTreeMap<Id<User>, Presence> = notes
                .into_iter()
                .filter_map(|(user, note)| Some((user, shown(note)?)))
                .collect();
            for (user, friend) in here {
                let presence = shown.get(&user);
                if let Some(event) = presence.and_then(|shown| update(user, friend, shown)) {
                    self.ingest(event);
                }
            }
        }
    }

    /// Before the keys are written: whoever has moved or left meanwhile is not written as connected.
    fn note_written(&self, batch: &mut BTreeMap<Id<User>, Waiting>) {
        let state = self.state.borrow();
        let mut written = self.people.written.borrow_mut();
        batch.retain(|user, waiting| {
            if waiting.has_left() {
                written.remove(user);
                return true;
            }
            let entry = state.realms.get(&user.cast());
            let realm = entry.and_then(|entry| entry.realm.as_ref());
            let is_here = realm.is_some_and(|realm| realm.presences.has_sessions());
            if is_here {
                written.insert(*user);
            }
            is_here
        });
    }

    /// Somebody new may see a person's presence.
    pub(super) fn tell_again(&self, id: Id<RealmMarker>) {
        let state = self.state.borrow();
        let realm = state.realms.get(&id).and_then(|entry| entry.realm.as_ref());
        if let Some(realm) = realm.filter(|realm| realm.presences.has_sessions()) {
            self.people.put(id.cast(), realm, true);
        }
    }

    async fn renew_people(&self) {
        let people: Vec<Id<User>> = {
            let state = self.state.borrow();
            let open = state.realms.iter();
            let open = open.filter_map(|(&id, entry)| Some((id, entry.realm.as_ref()?)));
            let people = open.filter(|(_, realm)| realm.presences.has_sessions());
            people.map(|(id, _)| id.cast()).collect()
        };
        for people in people.chunks(BATCH_MAX) {
            let mut pipeline = redis::pipe();
            pipeline.ignore_errors(); // of a server that is away, where there are several
            for &user in people {
                let command = pipeline.cmd("PEXPIRE").arg(keys::person(user));
                command.arg(keys::PERSON_TTL_MS);
            }
            let mut commands = self.feed.commands();
            let renewed: RedisResult<Vec<RedisResult<bool>>> =
                pipeline.query_async(&mut commands).await;
            let Ok(renewed) = renewed else { return };
            let lost = people.iter().zip(renewed);
            let lost = lost.filter(|(_, renewed)| matches!(renewed, Ok(false)));
            for (&user, _) in lost {
                let state = self.state.borrow();
                let entry = state.realms.get(&user.cast());
                if let Some(realm) = entry.and_then(|entry| entry.realm.as_ref()) {
                    self.people.put(user, realm, false);
                }
            }
        }
    }
}

/// What Redis has of these people; whoever is not connected is not there, nor is whom a server
/// has that is away. Errors: all of Redis is.
pub(crate) async fn people(
    commands: &mut Connection,
    users: &[Id<User>],
) -> RedisResult<BTreeMap<Id<User>, Person>> {
    Ok(read(&notes(commands, users).await?))
}

/// The same as it is written.
async fn notes(
    commands: &mut Connection,
    users: &[Id<User>],
) -> RedisResult<BTreeMap<Id<User>, Vec<u8>>> {
    let notes = ask(commands, users).await?.into_iter();
    let found = notes.filter_map(|(user, note)| Some((user, note.ok().flatten()?)));
    Ok(found.collect())
}

/// The same, also of those of whom nothing is written or known.
async fn ask(commands: &mut Connection, users: &[Id<User>]) -> RedisResult<Vec<(Id<User>, Note)>> {
    let mut all = Vec::with_capacity(users.len());
    for users in users.chunks(BATCH_MAX) {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for &user in users {
            pipeline.cmd("GET").arg(keys::person(user));
        }
        let notes: Vec<Note> = pipeline.query_async(commands).await?;
        all.extend(users.iter().copied().zip(notes));
    }
    Ok(all)
}

/// Of whom friends were told since then; of nobody if Redis does not say. Commands may be without
/// it for longer than the feed.
async fn told_since(commands: &mut Connection, since_ms: u64) -> Vec<Id<User>> {
    for _ in 0..ATTEMPTS {
        let told: RedisResult<Vec<u64>> = redis::cmd("ZREVRANGEBYSCORE")
            .arg(keys::PEOPLE_TOLD)
            .arg("+inf")
            .arg(since_ms)
            .arg("LIMIT")
            .arg(0)
            .arg(TOLD_AGAIN_MAX)
            .query_async(commands)
            .await;
        match told {
            Ok(told) => return told.into_iter().filter_map(Id::new).collect(),
            Err(error) => {
                tracing::debug!(%error, "whom friends were told of is not known yet");
                sleep(RETRY_AFTER).await;
            }
        }
    }
    Vec::new()
}

/// What others see of a person, if that is known.
fn shown(note: Note) -> Option<Presence> {
    match note.ok()? {
        Some(json) => {
            let person: Person = serde_json::from_slice(&json).ok()?;
            Some(person.presence)
        }
        None => Some(Presence::default()),
    }
}

/// What a friend is told of a person.
fn update(user: Id<User>, friend: Id<User>, presence: &Presence) -> Option<Envelope> {
    let view = presence.view(PresenceUser::Id { id: user }, None);
    Some(Envelope {
        realm: shard::realm(friend),
        durability: Durability::Ephemeral,
        kind: EventKind::PresenceUpdate,
        vis: Visibility::realm(Intents::empty()),
        at_ms: clock::unix_ms(),
        trace: 0,
        body: serde_json::to_vec(&view).ok()?.into(),
        alt: None,
    })
}

fn read(notes: &BTreeMap<Id<User>, Vec<u8>>) -> BTreeMap<Id<User>, Person> {
    let parse = |note: &[u8]| serde_json::from_slice::<Person>(note).ok();
    let people = notes.iter();
    let people = people.filter_map(|(&user, note)| Some((user, parse(note)?)));
    people.collect()
}

/// Deletes the keys of those who have left. Whoever has come to another owner since the keys were
/// read has not: they are taken out of the batch.
async fn delete_left(
    commands: &mut Connection,
    notes: &BTreeMap<Id<User>, Vec<u8>>,
    batch: &mut BTreeMap<Id<User>, Waiting>,
) -> RedisResult<()> {
    let left = batch.iter().filter(|(_, waiting)| waiting.has_left());
    let left = left.filter_map(|(&user, _)| Some((user, notes.get(&user)?)));
    let left: Vec<(Id<User>, &Vec<u8>)> = left.collect();
    if left.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors(); // of a server that is away, where there are several
    for (user, note) in &left {
        let command = pipeline.cmd("EVAL").arg(FORGET).arg(1);
        command.arg(keys::person(*user)).arg(&note[..]);
    }
    let deleted: Vec<RedisResult<bool>> = pipeline.query_async(commands).await?;
    for ((user, _), deleted) in left.iter().zip(deleted) {
        if matches!(deleted, Ok(false)) {
            batch.remove(user);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use guildhall_shared::shard::Position;

    use super::*;

    #[test]
    fn that_somebody_has_to_hear_of_a_person_is_not_forgotten_with_what_could_not_be_told() {
        let user: Id<User> = Id::new(5).unwrap();
        let realm = Realm::user(user.cast(), Position { era: 1, seq: 0 });
        let people = People::default();
        people.put(user, &realm, true);
        let untold = people.take();
        people.put(user, &realm, false);
        people.put_back(untold);
        assert!(people.take()[&user].again);
    }

    #[test]
    fn of_whom_a_server_did_not_take_everything_is_told_again_with_the_next_renewal() {
        let [a, b, c]: [Id<User>; 3] = [5, 6, 7].map(|id| Id::new(id).unwrap());
        let people = People::default();
        let put = |user: Id<User>, again| {
            let realm = Realm::user(user.cast(), Position { era: 1, seq: 0 });
            people.put(user, &realm, again);
        };
        let failed = || -> RedisResult<Value> { Err((redis::ErrorKind::Io, "away").into()) };
        let told = |batch: BTreeMap<Id<User>, Waiting>| -> Vec<(Id<User>, bool)> {
            let told = batch.into_iter();
            told.map(|(user, waiting)| (user, waiting.again)).collect()
        };
        let about = [About::One(a), About::One(b), About::One(c), About::One(c)];
        let answers = [failed(), Ok(Value::Okay), Ok(Value::Okay), failed()];
        for user in [a, b, c] {
            put(user, user != a);
        }
        people.put_off(people.take(), &about, &answers);
        assert!(people.take().is_empty());
        people.tell_late();
        assert_eq!(told(people.take()), [(a, false), (c, true)]);
        people.tell_late();
        assert!(people.take().is_empty());

        // What is newer takes its place, whenever it comes, and goes to those who missed the old.
        for user in [a, c] {
            put(user, true);
        }
        let batch = people.take();
        put(a, false);
        people.put_off(batch, &about, &answers);
        put(c, false);
        assert_eq!(told(people.take()), [(a, true), (c, true)]);
        people.tell_late();
        assert!(people.take().is_empty());

        // Where nothing says who was told of lately, nobody with news was told.
        for user in [a, b] {
            put(user, user == b);
        }
        people.put_off(people.take(), &[About::News], &[failed()]);
        people.hand_over(a);
        people.tell_late();
        assert_eq!(told(people.take()), [(b, true)]);
    }

    #[test]
    fn a_note_without_a_writer_is_read() {
        let person = Person {
            writer: Some(u32::MAX),
            ..Person::default()
        };
        let mut note = serde_json::to_value(&person).unwrap();
        let again: Person = serde_json::from_str(&note.to_string()).unwrap();
        assert_eq!(again, person);
        note.as_object_mut().unwrap().remove("writer");
        let old: Person = serde_json::from_str(&note.to_string()).unwrap();
        assert_eq!(old, Person::default());
    }
}
