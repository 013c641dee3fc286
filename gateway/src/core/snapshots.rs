//! Snapshots of guilds that sessions wait for, asked for in portions.
//!
//! A session's guilds stand in a line, by their ids as READY has them. Few are under way at once,
//! and the next ones are asked for when its client has taken most of those before, as the parts of
//! long answers are. A guild of the line is in the session's own list as one that it waits for:
//! whoever goes on with the session asks for it, and one that it has left meanwhile is not asked
//! for. What happens in a guild before it is asked for is in its snapshot.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use guildhall_shared::{Id, gateway::Intents, id::marker::Guild, shard};
use rustc_hash::FxHashMap;

use super::Core;
use crate::{
    bus::{SnapshotRequest, Subscriber, Subscription},
    names::{SessionKey, SessionSlot},
    session::{Arrival, GuildPhase, Session},
};

/// Snapshots of one session under way at once. A person's READY waits for all of its guilds: this is
/// eight times what one owner reads from Postgres at once, so hundreds of guilds take a few round
/// trips, or as long as reading them takes.
const UNDER_WAY_MAX: usize = 64;
/// One that takes longer is not counted any more: its owner may be gone, and guilds of others need
/// not wait for it.
const SLOW: Duration = Duration::from_secs(1);

/// What the sessions of a core wait for. Holds memory only while they do.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    lines: FxHashMap<SessionKey, Line>,
    /// Lines of which something may be asked for now.
    ready: Vec<SessionKey>,
}

/// Guilds that one session waits for.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeSet<Id<Guild>>,
    /// Asked for then, and not here yet.
    under_way: FxHashMap<Id<Guild>, Instant>,
    /// Bytes of the largest one that came.
    largest: u64,
}

impl Snapshots {
    fn want(&mut self, key: SessionKey, guild: Id<Guild>) {
        let line = self.lines.entry(key).or_default();
        line.under_way.remove(&guild);
        line.waiting.insert(guild);
        self.wake(key);
    }

    /// More of a session's guilds may be asked for at the next flush; false if it waits for none.
    pub(super) fn wake(&mut self, key: SessionKey) -> bool {
        let waits = self.lines.contains_key(&key);
        if waits && self.ready.last() != Some(&key) {
            self.ready.push(key);
        }
        waits
    }

    /// A snapshot has come, of so many bytes.
    pub(super) fn came(&mut self, key: SessionKey, guild: Id<Guild>, bytes: usize) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.waiting.remove(&guild);
        line.under_way.remove(&guild);
        line.largest = line.largest.max(bytes as u64);
        if line.is_over() {
            self.lines.remove(&key);
        } else {
            self.wake(key);
        }
    }

    /// A session is over.
    pub(super) fn forget(&mut self, key: SessionKey) {
        self.lines.remove(&key);
    }
}

impl Line {
    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// How many more to ask for where there is room for so many bytes.
    fn free(&self, room: u64) -> usize {
        let fit = room / self.largest.max(1);
        (fit.clamp(1, UNDER_WAY_MAX as u64) as usize).saturating_sub(self.under_way.len())
    }
}

impl Core {
    /// Asks for a guild on behalf of a session when it is its turn; GUILD_CREATE follows.
    pub(super) fn want_guild(&mut self, slot: SessionSlot, guild: Id<Guild>, arrival: Arrival) {
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.set_guild_phase(guild, GuildPhase::Waiting(arrival));
            self.snapshots.want(session.key(slot), guild);
        }
    }

    /// Asks for what can be asked for now. Called at every flush.
    pub(super) fn ask_for_guilds(&mut self) {
        self.for_each_ready(|core| &mut core.snapshots.ready, Self::ask_for_next);
    }

    fn ask_for_next(&mut self, key: SessionKey) {
        let session = self.sessions.get(key.slot as usize);
        let Some(session) = session.filter(|session| session.key(key.slot) == key) else {
            return self.snapshots.forget(key);
        };
        let (room, room_max) = self.room(session);
        let Some(line) = self.snapshots.lines.get_mut(&key) else {
            return;
        };
        if room < room_max / 2 {
            return;
        }
        let mut free = line.free(room);
        while free > 0
            && let Some(guild) = line.waiting.pop_first()
        {
            // Otherwise the session has left it since.
            if let Some(GuildPhase::Waiting(arrival)) = session.guild_phase(guild) {
                line.under_way.insert(guild, self.now);
                free -= 1;
                let realm = shard::realm(guild);
                self.hub.join(realm, session.user, key.slot);
                self.subscriptions.push(Subscription {
                    realm,
                    from: None,
                    users: vec![subscriber(session, key, arrival)],
                });
            }
        }
        if line.is_over() {
            self.snapshots.forget(key);
        }
    }

    /// Bytes of guilds that a session takes now, and at most: half of what may wait for a slow
    /// client. While READY waits for them, or if no GUILD_CREATE follows, nothing is written.
    fn room(&self, session: &Session) -> (u64, u64) {
        if session.assembling.is_some() || !session.intents.contains(Intents::GUILDS) {
            return (u64::MAX, u64::MAX);
        }
        let room_max = session.unsent_bytes_max() as u64 / 2;
        (room_max.saturating_sub(self.waiting(session)), room_max)
    }

    /// Bytes that wait for a session's client; without a connection all that is kept.
    fn waiting(&self, session: &Session) -> u64 {
        match session.connection {
            Some(at) => self.unsent_bytes(at, session),
            None => session.replay.bytes() as u64,
        }
    }

    /// Whether a session's client has taken most of what it was told.
    pub(super) fn keeps_up(&mut self, slot: SessionSlot) -> bool {
        // Some of it was perhaps not written yet.
        self.flush_session(slot);
        let session = self.sessions.get(slot as usize);
        let keeps_up = |of: &Session| self.waiting(of) <= of.unsent_bytes_max() as u64 / 4;
        session.is_some_and(keeps_up)
    }

    fn has_room(&self, slot: SessionSlot) -> bool {
        let session = self.sessions.get(slot as usize);
        session.is_some_and(|session| self.room(session).0 > 0)
    }

    /// Whether a session has room for a snapshot that has come. Others that came with it were perhaps
    /// not written yet.
    pub(super) fn takes_snapshot(&mut self, slot: SessionSlot) -> bool {
        if !self.has_room(slot) {
            self.flush_session(slot);
        }
        self.has_room(slot)
    }

    /// Lets the guilds behind slow ones come, and looks after clients that were slow.
    pub(super) fn tick_snapshots(&mut self) {
        let now = self.now;
        let Snapshots { lines, ready } = &mut self.snapshots;
        lines.retain(|&key, line| {
            line.under_way
                .retain(|_, asked| now.duration_since(*asked) < SLOW);
            if !line.waiting.is_empty() {
                ready.push(key);
            }
            !line.is_over()
        });
        if lines.is_empty() {
            self.snapshots = Snapshots::default();
        }
    }
}

/// A session's user, who wants a snapshot for it.
fn subscriber(session: &Session, key: SessionKey, arrival: Arrival) -> Subscriber {
    // Those with GUILD_MEMBERS alone ask for the list (op 8).
    let listed = session.bot && session.intents.contains(Intents::GUILD_PRESENCES);
    let snapshot = SnapshotRequest {
        session: key,
        large_threshold: session.large_threshold,
        members: listed,
        presences: listed,
        unavailable: arrival.unavailable(),
    };
    Subscriber::new(session.user, vec![snapshot])
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
