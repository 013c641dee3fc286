//! Another node's side: reads a core's chunks in order and says where a session stood at an `s`.

use std::collections::{HashMap, HashSet};

use guildhall_shared::{
    Id,
    id::marker::{Guild, Realm},
    shard::{self, Position},
};
use rustc_hash::FxBuildHasher;

use super::record::{Numbered, VERSION, kind};
use crate::{
    names::{SessionId, SessionSlot},
    session::{
        Arrival,
        record::{Reached, SessionRecord},
    },
};

/// Sessions that one event of a log may reach; a longer list is no list.
const REACHED_MAX: u64 = 1 << 24;

/// The bytes are no chunk of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad delivery log: {0}")]
pub struct BadLog(&'static str);

/// What the log says of a session.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// Nothing, or that it is over.
    Unknown,
    /// It had not got that far where the log ends; perhaps more is on its way.
    Ahead,
    /// The log does not reach back so far.
    Behind,
    /// So it stood at that `s`.
    At(Box<SessionRecord>),
}

/// All of a core's log that was read.
#[derive(Debug, Default)]
pub struct History {
    /// Number of the next chunk, once there was one.
    next: Option<u64>,
    slots: HashMap<SessionSlot, SessionId, FxBuildHasher>,
    trails: HashMap<SessionId, Trail, FxBuildHasher>,
    /// Sessions that others have taken over. What the core, which may not know, goes on to say of
    /// one counts no longer, until the core has said that its copy is over.
    taken: HashSet<SessionId, FxBuildHasher>,
    /// Where those copies are, if that is known.
    copies: HashMap<SessionSlot, SessionId, FxBuildHasher>,
}

/// One session: its states, and what came after each.
#[derive(Debug)]
struct Trail {
    slot: SessionSlot,
    states: Vec<State>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct State {
    s: u64,
    /// Steps before it.
    after: usize,
    record: Box<SessionRecord>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The next `s`.
    Event(Id<Realm>, Position),
    /// The next `s`, of no realm.
    Own,
    Joined(Numbered, Id<Guild>, Position),
    Left(Numbered, Id<Guild>),
    Waits(Numbered, Id<Guild>, Arrival),
    Home(Position),
    Blurred(Id<Guild>),
    Sharp(Id<Guild>),
}

impl History {
    /// Takes the next chunk; one that was taken before is ignored.
    ///
    /// Errors: it is none. Nothing of before counts any more then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), BadLog> {
        let taken = self.take(chunk);
        if taken.is_err() {
            self.forget();
            self.next = None;
        }
        taken
    }

    /// Another node has taken a session over.
    pub fn taken(&mut self, session: SessionId) {
        self.taken.insert(session);
        if let Some(trail) = self.trails.remove(&session) {
            self.slots.remove(&trail.slot);
            self.copies.insert(trail.slot, session);
        }
    }

    #[cfg(test)]
    pub(super) fn is_taken(&self, session: SessionId) -> bool {
        self.taken.contains(&session)
    }

    /// Where a session stood when its client had every dispatch up to `s`.
    pub fn at(&self, session: SessionId, s: u64) -> Found {
        let Some(trail) = self.trails.get(&session) else {
            return Found::Unknown;
        };
        let Some(state) = trail.states.iter().rev().find(|state| state.s <= s) else {
            return Found::Behind;
        };
        let mut record = state.record.clone();
        let mut at = state.s;
        for step in &trail.steps[state.after..] {
            if at == s {
                break;
            }
            step.apply(&mut record);
            at += u64::from(step.is_numbered());
        }
        if at == s {
            Found::At(record)
        } else {
            Found::Ahead
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), BadLog> {
        let mut reader = Reader(chunk);
        if reader.byte()? != VERSION {
            return Err(BadLog("version"));
        }
        let number = reader.number()?;
        match self.next {
            Some(next) if number < next => return Ok(()),
            Some(next) if number > next => self.forget(),
            _ => {}
        }
        self.next = Some(number.checked_add(1).ok_or(BadLog("number"))?);
        let mut reached: Vec<SessionSlot> = Vec::new();
        while !reader.0.is_empty() {
            self.record(&mut reader, &mut reached)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        reader: &mut Reader<'_>,
        reached: &mut Vec<SessionSlot>,
    ) -> Result<(), BadLog> {
        match reader.byte()? {
            kind::EVENT => {
                let realm = reader.id()?;
                let at = reader.position()?;
                let count = reader.number()?;
                if count > REACHED_MAX {
                    return Err(BadLog("sessions"));
                }
                if count > 0 {
                    reached.clear();
                    let mut slot = 0i64;
                    for _ in 0..count {
                        slot = slot
                            .checked_add(unzigzag(reader.number()?))
                            .ok_or(BadLog("slot"))?;
                        reached.push(u32::try_from(slot).map_err(|_| BadLog("slot"))?);
                    }
                }
                for &slot in reached.iter() {
                    self.step(slot, Step::Event(realm, at));
                }
            }
            kind::OWN => {
                let slot = reader.slot()?;
                self.step(slot, Step::Own);
            }
            kind::STATE => {
                let (slot, s) = (reader.slot()?, reader.number()?);
                let bytes = reader.bytes()?;
                let record: SessionRecord =
                    postcard::from_bytes(bytes).map_err(|_| BadLog("state"))?;
                self.state(slot, s, record);
            }
            kind::JOINED => {
                let (slot, numbered, guild) = reader.of_guild()?;
                let at = reader.position()?;
                self.step(slot, Step::Joined(numbered, guild, at));
            }
            kind::LEFT => {
                let (slot, numbered, guild) = reader.of_guild()?;
                self.step(slot, Step::Left(numbered, guild));
            }
            kind::WAITS => {
                let (slot, numbered, guild) = reader.of_guild()?;
                let arrival = match reader.number()? {
                    0 => Arrival::Initial,
                    1 => Arrival::Joined,
                    2 => Arrival::Restored,
                    _ => return Err(BadLog("arrival")),
                };
                self.step(slot, Step::Waits(numbered, guild, arrival));
            }
            kind::HOME => {
                let slot = reader.slot()?;
                let at = reader.position()?;
                self.step(slot, Step::Home(at));
            }
            kind::BLURRED => {
                let (slot, guild) = (reader.slot()?, reader.id()?);
                self.step(slot, Step::Blurred(guild));
            }
            kind::SHARP => {
                let (slot, guild) = (reader.slot()?, reader.id()?);
                self.step(slot, Step::Sharp(guild));
            }
            kind::END => {
                let slot = reader.slot()?;
                self.end(slot);
            }
            _ => return Err(BadLog("kind")),
        }
        Ok(())
    }

    fn state(&mut self, slot: SessionSlot, s: u64, record: SessionRecord) {
        let id = record.id;
        if self.copies.get(&slot).is_some_and(|copy| *copy != id) {
            self.copy_ends(slot);
        }
        if self.taken.contains(&id) {
            return;
        }
        if let Some(before) = self.slots.insert(slot, id)
            && before != id
        {
            self.trails.remove(&before);
        }
        let trail = self.trails.entry(id).or_insert_with(|| Trail {
            slot,
            states: Vec::new(),
            steps: Vec::new(),
        });
        trail.slot = slot;
        trail.states.push(State {
            s,
            after: trail.steps.len(),
            record: Box::new(record),
        });
    }

    /// Of sessions whose state has not been read nothing is known.
    fn step(&mut self, slot: SessionSlot, step: Step) {
        if let Some(id) = self.slots.get(&slot)
            && let Some(trail) = self.trails.get_mut(id)
        {
            trail.steps.push(step);
        }
    }

    fn copy_ends(&mut self, slot: SessionSlot) {
        if let Some(session) = self.copies.remove(&slot) {
            self.taken.remove(&session);
        }
    }

    fn end(&mut self, slot: SessionSlot) {
        self.copy_ends(slot);
        if let Some(id) = self.slots.remove(&slot) {
            self.trails.remove(&id);
        }
    }

    fn forget(&mut self) {
        self.slots.clear();
        self.trails.clear();
    }
}

impl Step {
    fn is_numbered(self) -> bool {
        match self {
            Self::Event(..) | Self::Own => true,
            Self::Joined(numbered, ..) | Self::Left(numbered, _) | Self::Waits(numbered, ..) => {
                numbered == Numbered::Yes
            }
            Self::Home(_) | Self::Blurred(_) | Self::Sharp(_) => false,
        }
    }

    fn apply(self, record: &mut SessionRecord) {
        match self {
            Self::Event(realm, at) => {
                if at.seq == 0 {
                    return; // ephemeral
                }
                if realm == shard::realm(record.user) {
                    record.home = record.home.max(at);
                } else if let Some(Reached::Position(have) | Reached::Blurred(have)) =
                    reached(record, realm.cast())
                {
                    *have = (*have).max(at);
                }
            }
            Self::Own => {}
            Self::Joined(_, guild, at) => set(record, guild, Reached::Position(at)),
            Self::Left(_, guild) => record.guilds.retain(|(known, _)| *known != guild),
            Self::Waits(_, guild, arrival) => set(record, guild, Reached::Nothing(arrival)),
            Self::Home(at) => record.home = record.home.max(at),
            Self::Blurred(guild) => {
                if let Some(known) = reached(record, guild)
                    && let Reached::Position(at) = *known
                {
                    *known = Reached::Blurred(at);
                }
            }
            Self::Sharp(guild) => {
                if let Some(known) = reached(record, guild)
                    && let Reached::Blurred(at) = *known
                {
                    *known = Reached::Position(at);
                }
            }
        }
    }
}

fn reached(record: &mut SessionRecord, guild: Id<Guild>) -> Option<&mut Reached> {
    let known = record.guilds.iter_mut().find(|(known, _)| *known == guild);
    known.map(|(_, reached)| reached)
}

fn set(record: &mut SessionRecord, guild: Id<Guild>, to: Reached) {
    match reached(record, guild) {
        Some(known) => *known = to,
        None => record.guilds.push((guild, to)),
    }
}

/// What is left of a chunk.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, BadLog> {
        let (&byte, rest) = self.0.split_first().ok_or(BadLog("short"))?;
        self.0 = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, BadLog> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadLog("number"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], BadLog> {
        let length = usize::try_from(self.number()?).map_err(|_| BadLog("length"))?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BadLog("short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn slot(&mut self) -> Result<SessionSlot, BadLog> {
        u32::try_from(self.number()?).map_err(|_| BadLog("slot"))
    }

    fn id<T>(&mut self) -> Result<Id<T>, BadLog> {
        Id::new(self.number()?).ok_or(BadLog("id"))
    }

    fn position(&mut self) -> Result<Position, BadLog> {
        let era = u32::try_from(self.number()?).map_err(|_| BadLog("era"))?;
        let seq = self.number()?;
        Ok(Position { era, seq })
    }

    fn of_guild(&mut self) -> Result<(SessionSlot, Numbered, Id<Guild>), BadLog> {
        let slot = self.slot()?;
        let numbered = match self.number()? {
            0 => Numbered::No,
            1 => Numbered::Yes,
            _ => return Err(BadLog("numbered")),
        };
        Ok((slot, numbered, self.id()?))
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
