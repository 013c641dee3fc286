//! A Redis that loses, forgets and goes away as it is told to. It knows the commands that gateways
//! use for RESUME, events and who is online, and no others.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use guildhall_redis::simulated::{Asked, Pushed, Server, Way, Words};
use guildhall_shared::{keys, shard::ShardId};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::world::{travel, unix_ms};
use crate::node::travel::holders as scripts;

/// Entries of a shard's stream, at most.
const STREAM_LENGTH_MAX: usize = 2_000;
/// Commands between looks for keys that have come to their end.
const PURGE_EVERY: u64 = 200_000;

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redis(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    keys: FxHashMap<Vec<u8>, Key>,
    /// As a replica has them that is behind.
    replica: Option<FxHashMap<Vec<u8>, Key>>,
    lines: BTreeMap<u64, Pushed>,
    subscribed: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    last_line: u64,
    /// Rises with each start and fail-over.
    run: u64,
    flushes: u64,
    away_until: Option<Instant>,
    last_entry: (u64, u64),
    commands: u64,
}

#[derive(Clone)]
struct Key {
    value: Kept,
    /// Unix milliseconds.
    until: Option<u64>,
}

#[derive(Clone)]
enum Kept {
    Text(Vec<u8>),
    Stream(VecDeque<Entry>),
}

#[derive(Clone)]
struct Entry {
    id: (u64, u64),
    fields: Vec<Vec<u8>>,
}

impl Redis {
    /// The way there, for a client.
    pub(crate) fn way(&self) -> Way {
        Way(self.0.clone())
    }

    /// Everything is deleted.
    pub fn flush(&self) {
        let mut state = self.0.state();
        state.keys.clear();
        state.flushes += 1;
    }

    /// It starts anew, empty.
    pub fn restart(&self) {
        let mut state = self.0.state();
        state.keys.clear();
        state.flushes = 0;
        state.begin_anew();
    }

    /// A replica has all there is now, and gets nothing more.
    pub fn remember(&self) {
        let mut state = self.0.state();
        state.replica = Some(state.keys.clone());
    }

    /// The replica takes its place.
    pub fn fail_over(&self) {
        let mut state = self.0.state();
        if let Some(keys) = state.replica.take() {
            state.keys = keys;
            state.begin_anew();
        }
    }

    /// It answers nobody until then, and has all it had afterwards.
    pub fn go_away(&self, until: Instant) {
        let mut state = self.0.state();
        state.away_until = state.away_until.max(Some(until));
        state.disconnect();
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        !self.0.state().is_away()
    }

    /// An event for a shard's stream.
    pub fn append(&self, shard: ShardId, envelope: Bytes) {
        let mut state = self.0.state();
        if state.is_away() {
            return;
        }
        let key = keys::shard_events(shard).into_bytes();
        let fields = vec![keys::STREAM_FIELD.as_bytes().to_vec(), envelope.to_vec()];
        state.add(key.clone(), fields);
        if let Some(Key {
            value: Kept::Stream(entries),
            ..
        }) = state.keys.get_mut(&key)
        {
            let excess = entries.len().saturating_sub(STREAM_LENGTH_MAX);
            entries.drain(..excess);
        }
    }

    /// The same for those who listen to its channel.
    pub fn publish(&self, shard: ShardId, envelope: &Bytes) {
        let state = self.0.state();
        if state.is_away() {
            return;
        }
        let channel = keys::shard_events(shard).into_bytes();
        let lines = state.subscribed.get(&channel).into_iter().flatten();
        for pushed in lines.filter_map(|line| state.lines.get(line)) {
            pushed(PushInfo {
                kind: PushKind::SMessage,
                data: vec![
                    Value::BulkString(channel.clone()),
                    Value::BulkString(envelope.to_vec()),
                ],
            });
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server for Shared {
    fn ask<'a>(
        self: Arc<Self>,
        line: Option<u64>,
        commands: Vec<Words<'a>>,
    ) -> Asked<'a, Vec<Value>> {
        Box::pin(async move {
            travel().await;
            let answers = {
                let mut state = self.state();
                if state.is_away() {
                    Err(away())
                } else {
                    commands
                        .iter()
                        .map(|words| state.command(line, words))
                        .collect()
                }
            };
            travel().await;
            answers
        })
    }

    fn let_in(self: Arc<Self>, pushed: Pushed) -> Asked<'static, u64> {
        Box::pin(async move {
            travel().await;
            let mut state = self.state();
            if state.is_away() {
                return Err(away());
            }
            state.last_line += 1;
            let line = state.last_line;
            state.lines.insert(line, pushed);
            Ok(line)
        })
    }

    fn left(&self, line: u64) {
        let pushed = {
            let mut state = self.state();
            for lines in state.subscribed.values_mut() {
                lines.remove(&line);
            }
            state.lines.remove(&line)
        };
        drop(pushed);
    }
}

impl State {
    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }

    fn begin_anew(&mut self) {
        self.run += 1;
        self.disconnect();
    }

    fn disconnect(&mut self) {
        self.subscribed.clear();
        for pushed in std::mem::take(&mut self.lines).into_values() {
            pushed(PushInfo {
                kind: PushKind::Disconnection,
                data: Vec::new(),
            });
        }
    }

    /// As the script that asks for it.
    fn life(&self) -> String {
        format!("{:016x}:{}:0", self.run, self.flushes)
    }

    fn command(&mut self, line: Option<u64>, words: &[&[u8]]) -> RedisResult<Value> {
        self.commands += 1;
        if self.commands.is_multiple_of(PURGE_EVERY) {
            let now = unix_ms().unwrap_or_default();
            self.keys
                .retain(|_, key| key.until.is_none_or(|until| now < until));
        }
        let (name, rest) = words.split_first().ok_or_else(unknown)?;
        match (&name[..], rest) {
            (b"GET", [key]) => Ok(self.text(key).map_or(Value::Nil, Value::BulkString)),
            (b"SET", [key, value, options @ ..]) => {
                let before = self.text(key);
                let has = |option: &[u8]| options.contains(&option);
                let ttl = options.iter().position(|word| word == b"PX");
                let ttl = ttl.and_then(|at| number(options.get(at + 1)?));
                self.set(key, value.to_vec(), ttl);
                Ok(match (has(b"GET"), before) {
                    (false, _) => Value::Okay,
                    (true, before) => before.map_or(Value::Nil, Value::BulkString),
                })
            }
            (b"DEL", keys) => {
                let deleted = keys.iter().filter(|key| self.keys.remove(**key).is_some());
                Ok(Value::Int(deleted.count() as i64))
            }
            (b"PEXPIRE", [key, ttl, ..]) => {
                let until = number(ttl).map(|ttl| unix_ms().unwrap_or_default() + ttl);
                let found = self.found(key).map(|key| key.until = until);
                Ok(Value::Int(i64::from(found.is_some())))
            }
            (b"XADD", [key, rest @ ..]) => Ok(self.xadd(key, rest)),
            (b"XRANGE", [key, from, _, rest @ ..]) => Ok(self.xrange(key, from, rest)),
            (b"EVAL", [script, ..]) if script.ends_with(b"return life()") => {
                Ok(Value::BulkString(self.life().into_bytes()))
            }
            // Of who is online: nothing is deleted before its time.
            (b"EVAL", _) => Ok(Value::Int(0)),
            (b"EVALSHA", [hash, _, key, arguments @ ..]) => self.script(hash, key, arguments),
            (b"PING", _) => Ok(Value::SimpleString("PONG".to_owned())),
            (b"SSUBSCRIBE" | b"SUBSCRIBE", [channel]) => {
                // One that was disconnected meanwhile gets nothing.
                if let Some(line) = line.filter(|line| self.lines.contains_key(line)) {
                    let lines = self.subscribed.entry(channel.to_vec()).or_default();
                    lines.insert(line);
                    Ok(Value::Okay)
                } else {
                    Err(away())
                }
            }
            (b"SUNSUBSCRIBE", [channel]) => {
                if let (Some(line), Some(lines)) = (line, self.subscribed.get_mut(*channel)) {
                    lines.remove(&line);
                }
                Ok(Value::Okay)
            }
            _ => Err(unknown()),
        }
    }

    fn found(&mut self, key: &[u8]) -> Option<&mut Key> {
        let now = unix_ms().unwrap_or_default();
        let found = self.keys.get_mut(key)?;
        found.until.is_none_or(|until| now < until).then_some(found)
    }

    fn text(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        match &self.found(key)?.value {
            Kept::Text(text) => Some(text.clone()),
            Kept::Stream(_) => None,
        }
    }

    fn set(&mut self, key: &[u8], text: Vec<u8>, ttl: Option<u64>) {
        let key_until = ttl.map(|ttl| unix_ms().unwrap_or_default() + ttl);
        let kept = Key {
            value: Kept::Text(text),
            until: key_until,
        };
        self.keys.insert(key.to_vec(), kept);
    }

    fn add(&mut self, key: Vec<u8>, fields: Vec<Vec<u8>>) -> (u64, u64) {
        let now = unix_ms().unwrap_or_default();
        let (ms, number) = self.last_entry;
        let id = if now > ms { (now, 0) } else { (ms, number + 1) };
        self.last_entry = id;
        if self.found(&key).is_none() {
            self.keys.remove(&key);
        }
        let kept = self.keys.entry(key).or_insert_with(|| Key {
            value: Kept::Stream(VecDeque::new()),
            until: None,
        });
        if let Kept::Stream(entries) = &mut kept.value {
            entries.push_back(Entry { id, fields });
        }
        id
    }

    /// `[NOMKSTREAM] [MINID ~ id] * field value …`
    fn xadd(&mut self, key: &[u8], words: &[&[u8]]) -> Value {
        let mut words = words;
        let mut oldest = 0;
        loop {
            match words {
                [word, rest @ ..] if word == b"NOMKSTREAM" => {
                    if self.found(key).is_none() {
                        return Value::Nil;
                    }
                    words = rest;
                }
                [word, _, id, rest @ ..] if word == b"MINID" => {
                    oldest = number(id).unwrap_or_default();
                    words = rest;
                }
                [_, rest @ ..] => {
                    words = rest;
                    break;
                }
                [] => return Value::Nil,
            }
        }
        let fields = words.iter().map(|word| word.to_vec());
        let (ms, sequence) = self.add(key.to_vec(), fields.collect());
        if let Some(Key {
            value: Kept::Stream(entries),
            ..
        }) = self.keys.get_mut(key)
        {
            while entries.front().is_some_and(|entry| entry.id.0 < oldest) {
                entries.pop_front();
            }
        }
        Value::BulkString(format!("{ms}-{sequence}").into_bytes())
    }

    fn xrange(&mut self, key: &[u8], from: &[u8], rest: &[&[u8]]) -> Value {
        let (after, from) = match from {
            [b'(', id @ ..] => (true, id),
            id => (false, id),
        };
        let from = match from {
            b"-" => (0, 0),
            id => {
                let mut parts = id.split(|&byte| byte == b'-');
                let mut next = || parts.next().and_then(number).unwrap_or_default();
                (next(), next())
            }
        };
        let count = match rest {
            [_, count] => number(count).unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        let Some(Key {
            value: Kept::Stream(entries),
            ..
        }) = self.found(key)
        else {
            return Value::Array(Vec::new());
        };
        let begin = entries.partition_point(|entry| match after {
            true => entry.id <= from,
            false => entry.id < from,
        });
        let found = entries.range(begin..).take(count as usize);
        Value::Array(found.map(Entry::told).collect())
    }

    /// What the scripts of `travel::holders` do.
    fn script(&mut self, hash: &[u8], key: &[u8], arguments: &[&[u8]]) -> RedisResult<Value> {
        let is = |script: &redis::Script| script.get_hash().as_bytes() == hash;
        let text = |value: String| Value::BulkString(value.into_bytes());
        let stored = self.text(key);
        let had = || Value::BulkString(stored.clone().unwrap_or_default());
        if is(&scripts::OF) {
            return Ok(Value::Array(vec![had(), text(self.life())]));
        }
        if is(&scripts::TAKE) {
            let [generation, to, ttl, life] = arguments else {
                return Err(unknown());
            };
            let is_same = Some(generation_of(stored.as_deref())) == number(generation);
            if !is_same || *life != self.life().into_bytes() {
                return Ok(Value::Int(0));
            }
            self.set(key, to.to_vec(), number(ttl));
            return Ok(Value::Int(1));
        }
        if is(&scripts::RENEW) {
            return Ok(self.keep(key, arguments));
        }
        if is(&scripts::STAY) {
            let life = self.life();
            let known = arguments.get(4).copied().unwrap_or_default();
            let known = std::str::from_utf8(known).unwrap_or_default();
            if !known.contains(&format!(" {life} ")) {
                let nobody = Value::BulkString(Vec::new());
                return Ok(Value::Array(vec![Value::Int(-1), text(life), nobody]));
            }
            let kept = self.keep(key, arguments);
            return Ok(Value::Array(vec![kept, text(life), had()]));
        }
        Err(unknown())
    }

    /// The function `keep()` of these scripts.
    fn keep(&mut self, key: &[u8], arguments: &[&[u8]]) -> Value {
        let [generation, from, to, ttl, ..] = arguments else {
            return Value::Nil;
        };
        if let Some(stored) = self.text(key)
            && stored != *from
            && Some(generation_of(Some(&stored))) >= number(generation)
        {
            return Value::Int(0);
        }
        self.set(key, to.to_vec(), number(ttl));
        Value::Int(1)
    }
}

impl Entry {
    fn told(&self) -> Value {
        let (ms, number) = self.id;
        let fields = self.fields.iter().cloned().map(Value::BulkString);
        Value::Array(vec![
            Value::BulkString(format!("{ms}-{number}").into_bytes()),
            Value::Array(fields.collect()),
        ])
    }
}

/// The first word of who has a session.
fn generation_of(stored: Option<&[u8]>) -> u64 {
    let first = stored.and_then(|stored| stored.split(|&byte| byte == b' ').next());
    first.and_then(number).unwrap_or_default()
}

fn number(word: impl AsRef<[u8]>) -> Option<u64> {
    std::str::from_utf8(word.as_ref()).ok()?.parse().ok()
}

fn away() -> RedisError {
    (ErrorKind::Io, "it does not answer").into()
}

fn unknown() -> RedisError {
    (ErrorKind::Client, "it does not know this command").into()
}
