//! Random histories of a core, read back: a session found at an `s` is as it was then.

use std::collections::HashMap;

use guildhall_shared::{
    Id,
    id::marker::Guild,
    model::{Platform, Status},
    shard::{self, Position},
    token::TokenHash,
};
use proptest::prelude::*;

use super::{Found, History, Numbered, Writer};
use crate::{
    names::{SessionId, SessionSlot},
    session::{
        Arrival,
        record::{Reached, SessionRecord},
    },
};

fn id<T>(id: u64) -> Id<T> {
    Id::new(id).unwrap()
}

fn guild(number: u64) -> Id<Guild> {
    id(number << 22)
}

fn position(seq: u64) -> Position {
    Position { era: 1, seq }
}

fn session_id(number: u64) -> SessionId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&number.to_be_bytes());
    SessionId::new(7, 0, random)
}

fn record(number: u64) -> SessionRecord {
    SessionRecord {
        id: session_id(number),
        user: id((1000 + number) << 22),
        token: TokenHash([number as u8; 32]),
        bot: true,
        seat: None,
        intents: 3,
        shard: (0, 1),
        large_threshold: 50,
        capabilities: 0,
        compress: false,
        platform: Platform::Web,
        status: Status::Online,
        activities: None,
        voice: Vec::new(),
        watches: Vec::new(),
        home: position(1),
        guilds: vec![(guild(1), Reached::Position(position(10)))],
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An event of a guild (or ephemeral) for some of the sessions.
    Event {
        guild: u64,
        durable: bool,
        whom: u8,
    },
    Own(usize),
    Joined(usize, u64, bool),
    Left(usize, u64, bool),
    Waits(usize, u64, bool),
    Home(usize, bool),
    State(usize),
    Blurred(usize, u64, bool),
    /// A session ends and another one takes its place.
    Replace(usize),
    /// Another node takes a session over, and this one does not know.
    Taken(usize),
    /// The copy ends, and the session comes back.
    Return(usize),
    Chunk,
    /// The chunk in the making never arrives.
    Lose,
    /// It arrives twice.
    Twice,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0usize..SLOTS;
    let one = (slot.clone(), 1u64..4, any::<bool>());
    prop_oneof![
        8 => (1u64..4, any::<bool>(), any::<u8>())
            .prop_map(|(guild, durable, whom)| Step::Event { guild, durable, whom }),
        3 => slot.clone().prop_map(Step::Own),
        2 => one.clone().prop_map(|(slot, guild, numbered)| Step::Joined(slot, guild, numbered)),
        1 => one.clone().prop_map(|(slot, guild, numbered)| Step::Left(slot, guild, numbered)),
        1 => one.clone().prop_map(|(slot, guild, sharp)| Step::Blurred(slot, guild, sharp)),
        1 => one.prop_map(|(slot, guild, numbered)| Step::Waits(slot, guild, numbered)),
        2 => (slot.clone(), any::<bool>()).prop_map(|(slot, seen)| Step::Home(slot, seen)),
        2 => slot.clone().prop_map(Step::State),
        1 => slot.clone().prop_map(Step::Replace),
        1 => slot.clone().prop_map(Step::Taken),
        1 => slot.prop_map(Step::Return),
        4 => Just(Step::Chunk),
        1 => Just(Step::Lose),
        1 => Just(Step::Twice),
    ]
}

const SLOTS: usize = 4;

/// What really happened to one session: how it stood at each `s`, and whether that can still be told.
struct Truth {
    record: SessionRecord,
    s: u64,
    stood: HashMap<u64, Vec<SessionRecord>>,
    recorded: bool,
    /// What the log says of it counts no longer.
    taken: bool,
    /// Not even if it comes back: the reader did not see how its copy began, or ended.
    blind: bool,
}

impl Truth {
    fn new(number: u64) -> Self {
        let record = record(number);
        let stood = HashMap::from([(0, vec![record.clone()])]);
        Self {
            record,
            s: 0,
            stood,
            recorded: false,
            taken: false,
            blind: false,
        }
    }

    fn set(&mut self, guild: Id<Guild>, to: Option<Reached>) {
        let known = self.record.guilds.iter().position(|(id, _)| *id == guild);
        match (known, to) {
            (Some(place), Some(to)) => self.record.guilds[place].1 = to,
            (Some(place), None) => {
                self.record.guilds.remove(place);
            }
            (None, Some(to)) => self.record.guilds.push((guild, to)),
            (None, None) => {}
        }
    }

    fn note(&mut self, numbered: bool) {
        self.s += u64::from(numbered);
        self.stood
            .entry(self.s)
            .or_default()
            .push(self.record.clone());
    }
}

fn numbered(yes: bool) -> Numbered {
    if yes { Numbered::Yes } else { Numbered::No }
}

proptest! {
    #[test]
    fn what_is_found_is_how_it_stood(steps in prop::collection::vec(step(), 1..200)) {
        let (mut writer, mut history) = (Writer::default(), History::default());
        let mut truths: Vec<Truth> = (0..SLOTS as u64).map(Truth::new).collect();
        let mut made = SLOTS as u64;
        let mut seq = 10;
        // A session has come back since the last chunk.
        let mut returned = false;
        for step in steps {
            match step {
                Step::Event { guild: number, durable, whom } => {
                    seq += 1;
                    let at = durable.then(|| position(seq));
                    for (slot, truth) in truths.iter_mut().enumerate() {
                        if whom & (1 << slot) == 0 {
                            continue;
                        }
                        writer.reach(slot as SessionSlot);
                        let known = truth.record.guilds.iter_mut();
                        let mut known = known.filter(|(id, _)| *id == guild(number));
                        if let (
                            Some((_, Reached::Position(have) | Reached::Blurred(have))),
                            Some(at),
                        ) = (known.next(), at)
                        {
                            *have = at;
                        }
                        truth.note(true);
                    }
                    writer.event(shard::realm(guild(number)), at);
                }
                Step::Own(slot) => {
                    writer.own(slot as SessionSlot);
                    truths[slot].note(true);
                }
                Step::Joined(slot, number, yes) => {
                    seq += 1;
                    writer.joined(slot as SessionSlot, numbered(yes), guild(number), position(seq));
                    truths[slot].set(guild(number), Some(Reached::Position(position(seq))));
                    truths[slot].note(yes);
                }
                Step::Left(slot, number, yes) => {
                    writer.left(slot as SessionSlot, numbered(yes), guild(number));
                    truths[slot].set(guild(number), None);
                    truths[slot].note(yes);
                }
                Step::Waits(slot, number, yes) => {
                    let arrival = Arrival::Restored;
                    writer.waits(slot as SessionSlot, numbered(yes), guild(number), arrival);
                    truths[slot].set(guild(number), Some(Reached::Nothing(arrival)));
                    truths[slot].note(yes);
                }
                Step::Blurred(slot, number, sharp) => {
                    match sharp {
                        true => writer.sharp(slot as SessionSlot, guild(number)),
                        false => writer.blurred(slot as SessionSlot, guild(number)),
                    }
                    let known = truths[slot].record.guilds.iter_mut();
                    let mut known = known.filter(|(id, _)| *id == guild(number));
                    if let Some((_, reached)) = known.next()
                        && let Reached::Position(at) | Reached::Blurred(at) = *reached
                    {
                        *reached = match sharp {
                            true => Reached::Position(at),
                            false => Reached::Blurred(at),
                        };
                    }
                    truths[slot].note(false);
                }
                Step::Home(slot, dispatched) => {
                    seq += 1;
                    let realm = shard::realm(truths[slot].record.user);
                    if dispatched {
                        writer.reach(slot as SessionSlot);
                        writer.event(realm, Some(position(seq)));
                    } else {
                        writer.home(slot as SessionSlot, position(seq));
                    }
                    truths[slot].record.home = position(seq);
                    truths[slot].note(dispatched);
                }
                Step::State(slot) => {
                    let truth = &mut truths[slot];
                    writer.state(slot as SessionSlot, truth.s, &truth.record);
                    truth.recorded = !truth.blind;
                }
                Step::Taken(slot) => {
                    // Nobody takes a session over that, as far as they have read, is not there.
                    if let Some(chunk) = returned.then(|| writer.take()).flatten() {
                        history.push(&chunk).unwrap();
                    }
                    returned = false;
                    let truth = &mut truths[slot];
                    truth.blind |= truth.taken
                        || history.at(truth.record.id, u64::MAX) == Found::Unknown;
                    truth.taken = true;
                    history.taken(truth.record.id);
                }
                Step::Return(slot) => {
                    let truth = &mut truths[slot];
                    if !truth.taken {
                        continue;
                    }
                    truth.taken = false;
                    truth.stood = HashMap::from([(truth.s, vec![truth.record.clone()])]);
                    truth.recorded = !truth.blind;
                    writer.end(slot as SessionSlot);
                    writer.state(slot as SessionSlot, truth.s, &truth.record);
                    returned = true;
                }
                Step::Replace(slot) => {
                    writer.end(slot as SessionSlot);
                    truths[slot] = Truth::new(made);
                    made += 1;
                }
                Step::Chunk => {
                    if let Some(chunk) = writer.take() {
                        history.push(&chunk).unwrap();
                    }
                }
                Step::Lose => {
                    if writer.take().is_some() {
                        for truth in &mut truths {
                            truth.recorded = false;
                            truth.blind |= history.is_taken(truth.record.id);
                        }
                    }
                }
                Step::Twice => {
                    if let Some(chunk) = writer.take() {
                        history.push(&chunk).unwrap();
                        history.push(&chunk).unwrap();
                    }
                }
            }
        }
        let last = writer.take();
        if let Some(chunk) = &last {
            history.push(chunk).unwrap();
        }
        for truth in &truths {
            if truth.taken {
                prop_assert_eq!(history.at(truth.record.id, truth.s), Found::Unknown);
                continue;
            }
            for s in 0..=truth.s + 1 {
                match history.at(truth.record.id, s) {
                    Found::At(record) => {
                        let stood = truth.stood.get(&s);
                        prop_assert!(stood.is_some_and(|all| all.contains(&record)), "{s}");
                    }
                    Found::Unknown => prop_assert!(!truth.recorded || last.is_none()),
                    Found::Ahead => prop_assert!(s > truth.s || last.is_none()),
                    Found::Behind => {}
                }
            }
            if truth.recorded && last.is_some() {
                let found = history.at(truth.record.id, truth.s);
                prop_assert!(matches!(found, Found::At(_)), "{found:?}");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(chunks in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..200), 0..8)) {
        let mut history = History::default();
        for mut chunk in chunks {
            if let Some(first) = chunk.first_mut() {
                *first = super::record::VERSION;
            }
            let _ = history.push(&chunk);
        }
    }
}
