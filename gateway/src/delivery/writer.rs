//! A core's side: appends records to the chunk in the making.

use bytes::Bytes;
use guildhall_shared::{
    Id,
    id::marker::{Guild, Realm},
    shard::Position,
};

use super::record::{Numbered, VERSION, kind};
use crate::{
    names::SessionSlot,
    session::{Arrival, record::SessionRecord},
};

/// See the module. Holds memory only while there is something to hand over.
#[derive(Debug, Default)]
pub struct Writer {
    /// Number of the chunk in the making.
    number: u64,
    chunk: Vec<u8>,
    /// Whom the last event of this chunk reached: most events of a moment reach the same.
    last: Vec<SessionSlot>,
    /// Where those who get the present event are gathered.
    reached: Vec<SessionSlot>,
}

impl Writer {
    /// A session got the event that is being delivered.
    pub fn reach(&mut self, slot: SessionSlot) {
        self.reached.push(slot);
    }

    /// An event was delivered to all that were [reached](Self::reach); `at`: `None` if it is
    /// ephemeral.
    pub fn event(&mut self, realm: Id<Realm>, at: Option<Position>) {
        if self.reached.is_empty() {
            return;
        }
        self.begin(kind::EVENT);
        self.put(realm.get());
        let Position { era, seq } = at.unwrap_or(Position { era: 0, seq: 0 });
        self.put(u64::from(era));
        self.put(seq);
        if self.reached == self.last {
            self.put(0);
        } else {
            self.put(self.reached.len() as u64);
            let mut before = 0;
            for place in 0..self.reached.len() {
                let slot = i64::from(self.reached[place]);
                self.put(zigzag(slot - before));
                before = slot;
            }
            std::mem::swap(&mut self.last, &mut self.reached);
        }
        self.reached.clear();
    }

    /// A session got a dispatch that is no realm's.
    pub fn own(&mut self, slot: SessionSlot) {
        self.begin(kind::OWN);
        self.put(u64::from(slot));
    }

    /// All of a session that has dispatched up to `s`.
    pub fn state(&mut self, slot: SessionSlot, s: u64, record: &SessionRecord) {
        let Ok(bytes) = postcard::to_allocvec(record) else {
            tracing::error!("a session cannot be recorded");
            return;
        };
        self.begin(kind::STATE);
        self.put(u64::from(slot));
        self.put(s);
        self.put(bytes.len() as u64);
        self.chunk.extend_from_slice(&bytes);
    }

    /// A session has a guild at a position; numbered: GUILD_CREATE told it so.
    pub fn joined(
        &mut self,
        slot: SessionSlot,
        numbered: Numbered,
        guild: Id<Guild>,
        at: Position,
    ) {
        self.of_guild(kind::JOINED, slot, numbered, guild);
        self.put(u64::from(at.era));
        self.put(at.seq);
    }

    /// A session is no longer in a guild; numbered: GUILD_DELETE told it so.
    pub fn left(&mut self, slot: SessionSlot, numbered: Numbered, guild: Id<Guild>) {
        self.of_guild(kind::LEFT, slot, numbered, guild);
    }

    /// A session waits for a guild; numbered: GUILD_DELETE told it that it is unavailable.
    pub fn waits(
        &mut self,
        slot: SessionSlot,
        numbered: Numbered,
        guild: Id<Guild>,
        arrival: Arrival,
    ) {
        self.of_guild(kind::WAITS, slot, numbered, guild);
        self.put(match arrival {
            Arrival::Initial => 0,
            Arrival::Joined => 1,
            Arrival::Restored => 2,
        });
    }

    /// An event of the session's own realm was acted on without a dispatch.
    pub fn home(&mut self, slot: SessionSlot, at: Position) {
        self.begin(kind::HOME);
        self.put(u64::from(slot));
        self.put(u64::from(at.era));
        self.put(at.seq);
    }

    /// What a session knows of a guild's channels may be wrong from here on.
    pub fn blurred(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        self.begin(kind::BLURRED);
        self.put(u64::from(slot));
        self.put(guild.get());
    }

    /// It is right again.
    pub fn sharp(&mut self, slot: SessionSlot, guild: Id<Guild>) {
        self.begin(kind::SHARP);
        self.put(u64::from(slot));
        self.put(guild.get());
    }

    /// A session is over, or has gone to another core.
    pub fn end(&mut self, slot: SessionSlot) {
        self.begin(kind::END);
        self.put(u64::from(slot));
    }

    /// Number of the chunk that tells what is written now.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What was written since the last time.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.chunk.is_empty() {
            return None;
        }
        self.number += 1;
        self.last.clear();
        Some(std::mem::take(&mut self.chunk).into())
    }

    fn of_guild(&mut self, kind: u8, slot: SessionSlot, numbered: Numbered, guild: Id<Guild>) {
        self.begin(kind);
        self.put(u64::from(slot));
        self.put(u64::from(numbered == Numbered::Yes));
        self.put(guild.get());
    }

    fn begin(&mut self, kind: u8) {
        if self.chunk.is_empty() {
            self.chunk.push(VERSION);
            self.put(self.number);
        }
        self.chunk.push(kind);
    }

    /// Seven bits a byte, the low ones first, the top bit says that more follow.
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.chunk.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.chunk.push(value as u8);
    }
}

/// Small differences of either sign as small numbers.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
