//! Commands of identified sessions, what they ask of owners, and what a session alone is told.
//!
//! A session's questions stand in a line and are asked one at a time, long answers part by
//! part: the next part is asked for when the client has taken most of the one before. So an
//! owner keeps nothing of a question, and whatever is lost on the way (the realm is read
//! again, the owner dies, a queue is full) is asked again from here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guildhall_shared::{
    Id,
    gateway::{CloseCode, EventKind, Opcode},
    id::marker::{Guild, User},
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{CHUNKS_WAITING_MAX, Core};
use crate::{
    ask::{Answers, Ask, Members, Part, Question, Wanted},
    bus::ToNode,
    codec::{Command, MembersCommand},
    names::{Address, SessionKey, SessionSlot},
};

/// Questions of one session that may wait for their turn. One more is answered with
/// RATE_LIMITED if it is of op 8, else not at all.
const WAITING_MAX: usize = 512;
/// A question without an answer is asked again after this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The same when the guild's subscription has just been answered: what was asked before may
/// have found no owner.
const ANSWER_TIMEOUT_RESUBSCRIBED: Duration = Duration::from_millis(100);
/// Bytes that a client may have left to read when more is asked for on its behalf.
const UNREAD_BYTES_MAX: u64 = 1 << 20;
/// All members of a guild are told once in this time. Spec: gateway.md › REQUEST_GUILD_MEMBERS.
const WHOLE_LIST_PERIOD: Duration = Duration::from_secs(30);

/// What the sessions of a core want to know.
#[derive(Debug, Default)]
pub(super) struct Asks {
    lines: FxHashMap<SessionKey, Line>,
    /// Lines that may have something to ask now.
    ready: Vec<SessionKey>,
    /// When all members of a guild were last asked for. At most one for each guild of each
    /// session, forgotten when it no longer matters.
    whole_lists: FxHashMap<(SessionKey, Id<Guild>), Instant>,
    /// Guilds whose threads sessions have asked for: clients say again and again that they want them,
    /// and hear of every change after the first answer.
    threads: FxHashMap<SessionKey, FxHashSet<Id<Guild>>>,
    last_number: u32,
}

/// Questions of one session; the first is being asked.
#[derive(Debug)]
struct Line {
    waiting: VecDeque<(Id<Guild>, Question)>,
    /// Number of the first one, which its answer names.
    number: u32,
    asked_at: Option<Instant>,
    /// Of the first one, if all members are wanted and the first part has come: the last ids
    /// of all parts but the last.
    ends: Vec<Id<User>>,
}

impl Core {
    /// A client whose session is live sent a command.
    pub(super) fn command(&mut self, connection: SessionKey, command: Command) {
        let slot = self
            .connection(connection)
            .and_then(|connection| connection.session);
        let Some(slot) = slot else { return };
        match command {
            Command::Presence(presence) => self.set_presence(slot, &presence),
            Command::Watch(watches) => self.watch(slot, watches),
            Command::Voice(voice) => self.voice(slot, *voice),
            Command::Sounds(guilds) => {
                for guild in guilds {
                    self.ask(slot, guild, Question::Sounds);
                }
            }
            Command::Members(members) => self.ask_members(connection, slot, *members),
            Command::Ask(guild, question) => self.ask(slot, guild, question),
            // The connection's life has seen to these.
            Command::Heartbeat(_)
            | Command::Identify(_)
            | Command::Resume(_)
            | Command::Unfit(_)
            | Command::Malformed(_)
            | Command::Other => {}
        }
    }

    fn ask_members(&mut self, connection: SessionKey, slot: SessionSlot, command: MembersCommand) {
        let bot = self.sessions.get(slot as usize).is_some_and(|of| of.bot);
        if bot && command.guilds.len() != 1 {
            return self.close(connection, CloseCode::DecodeError);
        }
        if bot && matches!(command.wanted, Wanted::Recent { .. }) {
            return;
        }
        for &guild in &command.guilds {
            let question = Question::Members(Box::new(Members {
                wanted: command.wanted.clone(),
                presences: command.presences,
                nonce: command.nonce.clone(),
            }));
            self.ask(slot, guild, question);
        }
    }

    /// Asks the owner of a guild that the session is in, when the session's earlier questions
    /// are answered; of other guilds nothing is told.
    pub(super) fn ask(&mut self, slot: SessionSlot, guild: Id<Guild>, question: Question) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        if session.guild_phase(guild).is_none() {
            return;
        }
        let key = session.key(slot);
        let now = self.now;
        let asks = &mut self.asks;
        let full = asks
            .lines
            .get(&key)
            .is_some_and(|line| line.waiting.len() >= WAITING_MAX);
        if let Question::Members(members) = &question {
            let whole = matches!(members.wanted, Wanted::All(_));
            let before = asks.whole_lists.get(&(key, guild));
            let free = before.filter(|_| whole).map(|at| *at + WHOLE_LIST_PERIOD);
            let retry_after = match free.and_then(|free| free.checked_duration_since(now)) {
                None if full => Some(ANSWER_TIMEOUT),
                None => {
                    if whole {
                        asks.whole_lists.insert((key, guild), now);
                    }
                    None
                }
                wait => wait,
            };
            if let Some(retry_after) = retry_after {
                let nonce = members.nonce.as_deref();
                let body = rate_limited(guild, nonce, retry_after);
                return self.dispatch_body(slot, EventKind::RateLimited, &body);
            }
        }
        if full {
            return;
        }
        let line = asks.lines.entry(key).or_insert_with(|| {
            asks.last_number = asks.last_number.wrapping_add(1);
            Line {
                waiting: VecDeque::new(),
                number: asks.last_number,
                asked_at: None,
                ends: Vec::new(),
            }
        });
        line.waiting.push_back((guild, question));
        asks.ready.push(key);
    }

    /// Asks for the threads of a guild that the session has, unless it has asked before.
    pub(super) fn ask_threads(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        let asked = self.asks.threads.entry(session.key(slot)).or_default();
        if asked.insert(guild) {
            self.ask(slot, guild, Question::Threads);
        }
    }

    /// Asks what can be asked now. Called at every flush.
    pub(super) fn ask_ready(&mut self) {
        self.for_each_ready(|core| &mut core.asks.ready, Self::ask_next);
    }

    /// Sees to the sessions of a list. Those that wait to be written to keep their place: what their
    /// clients have left to read is known after that.
    pub(super) fn for_each_ready(
        &mut self,
        list: impl Fn(&mut Self) -> &mut Vec<SessionKey>,
        see_to: impl Fn(&mut Self, SessionKey),
    ) {
        let mut ready = std::mem::take(list(self));
        ready.retain(|&key| {
            let session = self.sessions.get(key.slot as usize);
            let waits = session.is_some_and(|of| of.dirty && of.key(key.slot) == key);
            if !waits {
                see_to(self, key);
            }
            waits
        });
        *list(self) = ready;
    }

    fn ask_next(&mut self, key: SessionKey) {
        let from = Address {
            core: self.core_id(),
            session: key,
        };
        let now = self.now;
        let session = self.sessions.get(key.slot as usize);
        let Some(session) = session.filter(|session| session.key(key.slot) == key) else {
            self.asks.lines.remove(&key);
            return;
        };
        // A client that is away, or slow, is told more when it has taken what there is.
        let takes_more = session.assembling.is_none()
            && session
                .connection
                .is_some_and(|at| self.unsent_bytes(at, session) <= UNREAD_BYTES_MAX);
        let Some(line) = self.asks.lines.get_mut(&key) else {
            return;
        };
        while let Some((guild, question)) = line.waiting.front() {
            if session.guild_phase(*guild).is_none() {
                // It was told that it left the guild: no answer comes.
                self.asks.last_number = self.asks.last_number.wrapping_add(1);
                line.next(self.asks.last_number);
                continue;
            }
            if line.asked_at.is_some() || !takes_more {
                return;
            }
            line.asked_at = Some(now);
            self.outbox.push_back(ToNode::Ask(Box::new(Ask {
                number: line.number,
                guild: *guild,
                from,
                user: session.user,
                bot: session.bot,
                intents: session.intents.bits(),
                question: question.clone(),
            })));
            return;
        }
        self.asks.lines.remove(&key);
    }

    /// Asks again what has no answer, and looks after clients that were slow.
    pub(super) fn tick_asks(&mut self) {
        let now = self.now;
        // Those of before are perhaps among them.
        let many_wait = self.outbox.len() >= CHUNKS_WAITING_MAX;
        let asks = &mut self.asks;
        asks.whole_lists
            .retain(|_, at| now.duration_since(*at) < WHOLE_LIST_PERIOD);
        for (&key, line) in &mut asks.lines {
            if !many_wait {
                line.forget_if_older(now, ANSWER_TIMEOUT);
            }
            if line.asked_at.is_none() {
                asks.ready.push(key);
            }
        }
    }

    /// The subscription of a guild was answered: there is an owner now.
    pub(super) fn ask_again(&mut self, guild: Id<Guild>) {
        let now = self.now;
        let asks = &mut self.asks;
        for (&key, line) in &mut asks.lines {
            if line.waiting.front().is_some_and(|(of, _)| *of == guild) {
                line.forget_if_older(now, ANSWER_TIMEOUT_RESUBSCRIBED);
                asks.ready.push(key);
            }
        }
    }

    /// A slow client has taken everything.
    pub(super) fn ask_on(&mut self, slot: SessionSlot) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        let key = session.key(slot);
        if self.asks.lines.contains_key(&key) {
            self.ask_next(key);
            self.post();
        }
        if self.snapshots.wake(key) {
            self.tell_node();
        }
    }

    /// A session is over, and with it what it wanted to know.
    pub(super) fn forget_asks(&mut self, key: SessionKey) {
        self.asks.lines.remove(&key);
        self.asks.threads.remove(&key);
    }

    /// Dispatches that the node or an owner made for one session.
    pub(super) fn told(
        &mut self,
        key: SessionKey,
        answers: Option<Answers>,
        dispatches: Vec<(EventKind, Bytes)>,
    ) {
        let known = self
            .sessions
            .get(key.slot as usize)
            .is_some_and(|session| session.key(key.slot) == key);
        if !known || !answers.is_none_or(|answers| self.answered(key, answers)) {
            return;
        }
        for (kind, body) in dispatches {
            self.dispatch_body(key.slot, kind, &body);
        }
    }

    /// Whether something answers the question that a session has asked, which then makes way
    /// for the next one. What was asked twice may be answered twice.
    fn answered(&mut self, key: SessionKey, answers: Answers) -> bool {
        let asks = &mut self.asks;
        let Some(line) = asks.lines.get_mut(&key) else {
            return false;
        };
        if line.number != answers.number || line.waiting.is_empty() {
            return false;
        }
        asks.last_number = asks.last_number.wrapping_add(1);
        line.take(answers, asks.last_number);
        asks.ready.push(key);
        true
    }
}

impl Line {
    /// The first question is answered, as far as it was asked.
    fn take(&mut self, answers: Answers, number: u32) {
        if let Some((_, Question::Members(members))) = self.waiting.front_mut()
            && let Wanted::All(part) = &mut members.wanted
        {
            if part.is_none() {
                self.ends = answers.ends;
            }
            let index = part.map_or(0, |part| part.index) + 1;
            let place = index as usize;
            if let Some(&after) = self.ends.get(place - 1) {
                *part = Some(Part {
                    index,
                    count: self.ends.len() as u32 + 1,
                    after,
                    to: self.ends.get(place).copied(),
                });
                self.number = number;
                self.asked_at = None;
                return;
            }
        }
        self.next(number);
    }

    fn next(&mut self, number: u32) {
        self.waiting.pop_front();
        self.ends = Vec::new();
        self.number = number;
        self.asked_at = None;
    }

    fn forget_if_older(&mut self, now: Instant, than: Duration) {
        if self
            .asked_at
            .is_some_and(|at| now.duration_since(at) > than)
        {
            self.asked_at = None;
        }
    }
}

/// `d` of RATE_LIMITED for an op 8.
fn rate_limited(guild: Id<Guild>, nonce: Option<&str>, retry_after: Duration) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct RateLimited<'a> {
        opcode: u8,
        /// Seconds.
        retry_after: f64,
        meta: Meta<'a>,
    }
    #[derive(serde::Serialize)]
    struct Meta<'a> {
        guild_id: Id<Guild>,
        #[serde(skip_serializing_if = "Option::is_none")]
        nonce: Option<&'a str>,
    }
    let body = RateLimited {
        opcode: Opcode::RequestGuildMembers as u8,
        retry_after: retry_after.as_millis() as f64 / 1000.0,
        meta: Meta {
            guild_id: guild,
            nonce,
        },
    };
    serde_json::to_vec(&body).expect("string keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    fn line(questions: impl IntoIterator<Item = Wanted>) -> Line {
        let members = |wanted| {
            Question::Members(Box::new(Members {
                wanted,
                presences: false,
                nonce: None,
            }))
        };
        Line {
            waiting: questions
                .into_iter()
                .map(|wanted| (id(1), members(wanted)))
                .collect(),
            number: 1,
            asked_at: None,
            ends: Vec::new(),
        }
    }

    fn first(line: &Line) -> Option<&Wanted> {
        match line.waiting.front() {
            Some((_, Question::Members(members))) => Some(&members.wanted),
            _ => None,
        }
    }

    #[test]
    fn all_members_are_asked_for_part_by_part() {
        let mut line = line([Wanted::All(None), Wanted::Ids(Vec::new())]);
        let part = |index, after, to: Option<u64>| {
            Wanted::All(Some(Part {
                index,
                count: 3,
                after: id(after),
                to: to.map(id),
            }))
        };
        let ends = vec![id(10), id(20)];
        line.take(Answers { number: 1, ends }, 2);
        assert_eq!(first(&line), Some(&part(1, 10, Some(20))));
        let none = |number| Answers {
            number,
            ends: Vec::new(),
        };
        line.take(none(2), 3);
        assert_eq!(first(&line), Some(&part(2, 20, None)));
        line.take(none(3), 4);
        assert_eq!(first(&line), Some(&Wanted::Ids(Vec::new())));
        assert_eq!((line.number, line.ends.len()), (4, 0));
        line.take(none(4), 5);
        assert_eq!(first(&line), None);
    }

    #[test]
    fn a_small_guild_is_one_part() {
        let mut line = line([Wanted::All(None)]);
        let ends = Vec::new();
        line.take(Answers { number: 1, ends }, 2);
        assert_eq!(first(&line), None);
    }

    #[test]
    fn a_question_is_asked_again_only_after_its_time() {
        let (mut line, now) = (line([Wanted::All(None)]), Instant::now());
        line.asked_at = Some(now);
        line.forget_if_older(now + ANSWER_TIMEOUT, ANSWER_TIMEOUT);
        assert!(line.asked_at.is_some());
        line.forget_if_older(now + ANSWER_TIMEOUT * 2, ANSWER_TIMEOUT);
        assert!(line.asked_at.is_none());
    }

    #[test]
    fn rate_limited_says_what_to_ask_again_and_when() {
        let body = rate_limited(id(5), Some("n"), Duration::from_millis(1500));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let meta = serde_json::json!({"guild_id": "5", "nonce": "n"});
        assert_eq!(
            body,
            serde_json::json!({"opcode": 8, "retry_after": 1.5, "meta": meta})
        );
    }
}
