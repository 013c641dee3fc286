//! Sessions that come from other cores, go to them, or are to go on there some day: the delivery
//! log is told of them.

use std::{collections::VecDeque, time::Duration};

use guildhall_shared::{
    gateway::{CloseCode, EventKind},
    shard,
};

use super::{Core, TICK, clock};
use crate::{
    bus::{Claim, Claimed, NotResumed, ToNode},
    codec::Resume,
    dispatch::Dispatch,
    names::{SessionId, SessionKey, SessionSlot},
    session::{
        GuildPhase,
        lifecycle::Input,
        record::{Reached, SessionRecord, Travelling},
        replay::Replay,
    },
    telemetry::Resumed,
};

/// Bytes of dispatches that go with a session to another core: half of what a link takes at once, and
/// more than any client that keeps up has not got.
pub(super) const TRAVELLING_BYTES_MAX: usize = 32 << 20;
/// A session's whole state stands in the delivery log this often. Between that and the resume window
/// the log has to be kept.
pub(super) const RECORD_PERIOD: Duration = Duration::from_secs(60);
/// Ticks over which the states of all sessions are told to a log that begins anew.
const STATES_TICKS: u32 = 4;
/// Time between the steps in which clients are sent away.
const WAVE_PERIOD: Duration = Duration::from_millis(100);

/// Sessions whose dispatches wait for the delivery log: with `GATEWAY_RESUME=sync` nothing is
/// written to a client before the log tells of it.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Since the last chunk was taken.
    fresh: Vec<SessionSlot>,
    /// By the number of the chunk that tells of them.
    chunks: VecDeque<(u64, Vec<SessionSlot>)>,
}

impl Held {
    /// A session has something that the chunk in the making tells of.
    pub(super) fn wait(&mut self, slot: SessionSlot) {
        self.fresh.push(slot);
    }

    /// That chunk is on its way.
    pub(super) fn sent(&mut self, chunk: u64) {
        self.chunks
            .push_back((chunk, std::mem::take(&mut self.fresh)));
    }

    /// Who waited for chunks up to this one.
    fn stored(&mut self, chunk: u64) -> Vec<SessionSlot> {
        let mut slots = Vec::new();
        while let Some((_, of)) = self.chunks.pop_front_if(|(number, _)| *number <= chunk) {
            slots.extend(of);
        }
        slots
    }
}

impl Core {
    /// Chunks of the delivery log up to this one are stored, or never will be: what they tell of may
    /// be written.
    pub(super) fn stored(&mut self, chunk: u64) {
        let Some(held) = &mut self.held else { return };
        for slot in held.stored(chunk) {
            let Some(session) = self.sessions.get_mut(slot as usize) else {
                continue;
            };
            session.replay.release(chunk);
            self.snapshots.wake(session.key(slot));
            if session.connection.is_some() && !session.dirty {
                session.dirty = true;
                self.dirty.push_back(slot);
            }
        }
    }

    /// The delivery log begins anew: all sessions are recorded within a few ticks.
    pub(super) fn tell_states_again(&mut self) {
        let due = self.now.checked_sub(RECORD_PERIOD);
        for (slot, session) in &mut self.sessions {
            let later = TICK * (slot as u32 % STATES_TICKS);
            session.recorded_at = due.map(|due| due + later);
        }
    }

    /// Tells the delivery log all of a session that has READY.
    pub(super) fn record(&mut self, slot: SessionSlot) {
        let Some(record) = self.record_of(slot) else {
            return;
        };
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.recorded_at = Some(now);
            self.log.state(slot, session.replay.last_s(), &record);
        }
    }

    /// A session as it is now; `None` before READY.
    fn record_of(&self, slot: SessionSlot) -> Option<SessionRecord> {
        let session = self.sessions.get(slot as usize)?;
        if session.assembling.is_some() || session.doubted {
            return None;
        }
        let reached = |realm| {
            let hub = self.hub.get(realm)?;
            hub.reached(session.user, slot).or(hub.position())
        };
        let home = session
            .home
            .or_else(|| reached(shard::realm(session.user)))?;
        let guilds = session.guilds.iter().filter_map(|&(guild, phase)| {
            let realm = shard::realm(guild);
            let at = match phase {
                GuildPhase::Waiting(arrival) => return Some((guild, Reached::Nothing(arrival))),
                GuildPhase::Returning(at) => at,
                GuildPhase::Present => reached(realm)?,
            };
            let (key, user) = (session.key(slot), session.user);
            let blurred = self.blurred.has(realm, key) || self.unsettled.has(realm, user);
            let at = if blurred {
                Reached::Blurred(at)
            } else {
                Reached::Position(at)
            };
            Some((guild, at))
        });
        Some(SessionRecord::new(session, home, guilds.collect()))
    }

    /// A client resumes a session that is not of this core: the node looks for it.
    pub(super) fn send_for(&mut self, connection: SessionKey, resume: Resume) {
        let core = self.core_id();
        self.outbox.push_back(ToNode::Find {
            core,
            connection,
            resume: Box::new(resume),
        });
    }

    /// Somebody else was faster with a session. A client that has gone may have come to them: its
    /// attempt here is over.
    pub(super) fn overtaken(&mut self, connection: SessionKey, resume: Resume) {
        if !self.is_closing(connection) {
            self.resume(connection, resume);
        }
    }

    /// The session was not found, or not for this client.
    pub(super) fn not_resumed(&mut self, connection: SessionKey, why: NotResumed) {
        let input = match why {
            NotResumed::Gone => {
                self.config.metrics.resumed(Resumed::Refused);
                Input::Invalid
            }
            NotResumed::UnknownToken => Input::Refused(CloseCode::AuthenticationFailed),
            NotResumed::InvalidSeq => Input::Refused(CloseCode::InvalidSeq),
        };
        self.life(connection, input);
    }

    /// Another core has the client of a session that may be here: it goes there.
    pub(super) fn claimed(&mut self, claim: Claim) {
        let number = claim.number;
        let result = self.give_up(claim);
        self.outbox.push_back(ToNode::Claimed {
            number,
            result: Box::new(result),
        });
        self.flush();
    }

    fn give_up(&mut self, claim: Claim) -> Claimed {
        let Some(&slot) = self.by_id.get(&claim.session) else {
            return Claimed::Unknown;
        };
        let Some(session) = self.sessions.get(slot as usize) else {
            return Claimed::Unknown;
        };
        if session.token != claim.token {
            return Claimed::OtherToken;
        }
        if session.doubted {
            return Claimed::Gone;
        }
        if claim.s > session.replay.last_s() {
            return Claimed::InvalidSeq;
        }
        let (Some(rest), Some(record)) = (session.replay.after(claim.s), self.record_of(slot))
        else {
            return Claimed::Gone;
        };
        let bytes: usize = rest.clone().map(|dispatch| dispatch.body.len()).sum();
        if bytes > TRAVELLING_BYTES_MAX {
            return Claimed::Gone;
        }
        let dispatches = rest.map(|dispatch| (dispatch.kind, dispatch.body.clone()));
        let session = Travelling {
            record,
            s: claim.s,
            dispatches: dispatches.collect(),
        };
        self.let_go(slot, false);
        Claimed::Session(Box::new(session))
    }

    /// A session is another node's: its copy here ends without a word to anybody.
    pub(super) fn taken(&mut self, session: SessionId) {
        if let Some(&slot) = self.by_id.get(&session) {
            self.let_go(slot, true);
            self.flush();
        }
    }

    /// Forgets a session that goes on elsewhere. `overtaken`: this is a copy from before it did.
    fn let_go(&mut self, slot: SessionSlot, overtaken: bool) {
        let Some(session) = self.take_out(slot) else {
            return;
        };
        if let Some(connection) = session.connection {
            self.cut(connection);
        }
        self.outbox.push_back(ToNode::Moved {
            session_id: session.id.to_string(),
            seat: session.seat.map(|seat| (session.user, seat)),
            overtaken,
        });
        self.leave_realms(slot, &session);
    }

    /// A session comes from elsewhere, for a client that waits for it (or has gone meanwhile, and
    /// may come again, unless it left for good).
    pub(super) fn arrived(&mut self, connection: SessionKey, session: Travelling, how: Resumed) {
        let Travelling {
            record,
            s,
            dispatches,
        } = session;
        let (id, user, home) = (record.id, record.user, record.home);
        if let Some(&older) = self.by_id.get(&id) {
            self.let_go(older, true);
        }
        let guilds = record.guilds.clone();
        let generation = self.next_generation();
        let mut session = record.open(generation, self.now, Replay::starting_after(s));
        let bytes_max = session.replay_bytes_max();
        let mut is_held = false;
        for (kind, body) in dispatches {
            // With others it was perhaps shared where it comes from, here it is not.
            let dispatch = Dispatch::own(kind, &body, self.now, &self.budget.tally);
            session.replay.push(dispatch, bytes_max, || s);
            // This core's log knows nothing of the session before it tells its state.
            is_held |= self.held.is_some() && session.replay.hold(self.log.number());
        }
        let slot = self.sessions.insert(session) as SessionSlot;
        let key = SessionKey { slot, generation };
        if let Some(held) = self.held.as_mut().filter(|_| is_held) {
            held.wait(slot);
        }
        self.by_id.insert(id, slot);
        let mut from = vec![(shard::realm(user), home)];
        for (guild, reached) in guilds {
            match reached {
                Reached::Nothing(arrival) => self.want_guild(slot, guild, arrival),
                Reached::Position(at) | Reached::Blurred(at) => {
                    if let Reached::Blurred(_) = reached {
                        self.blurred.add(shard::realm(guild), key);
                    }
                    if let Some(session) = self.sessions.get_mut(slot as usize) {
                        session.set_guild_phase(guild, GuildPhase::Returning(at));
                    }
                    from.push((shard::realm(guild), at));
                }
            }
        }
        for (realm, at) in from {
            self.hub.join(realm, user, slot);
            self.ask_from(realm, user, at);
        }
        self.record(slot);
        if self.has_left(connection) {
            return self.end_session(slot);
        }
        if self.is_closing(connection) {
            return;
        }
        self.life(connection, Input::Accepted);
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            session.connection = Some(connection.slot);
            session.detached_at = None;
        }
        self.bind(connection.slot, slot, s);
        self.config.metrics.resumed(how);
        self.dispatch_body(slot, EventKind::Resumed, b"{}");
    }

    /// Asks the clients that are here now to reconnect, evenly spread over a time, unless they are
    /// to stay meanwhile; who comes later is for the next time.
    pub(super) fn send_away_over(&mut self, over: Duration) {
        self.away_order += 1;
        let order = self.away_order;
        let keys: Vec<SessionKey> = self
            .connections
            .iter()
            .filter_map(|(slot, _)| self.connection_key(slot as SessionSlot))
            .collect();
        let waves = (over.as_millis() / WAVE_PERIOD.as_millis()).max(1) as usize;
        let wave = keys.len().div_ceil(waves).max(1);
        self.spawn(move |core| async move {
            // A few clients are spread over all of the time, too.
            let pause = over / (keys.len().div_ceil(wave).max(1) as u32);
            for keys in keys.chunks(wave) {
                tokio::time::sleep(pause).await;
                let mut core = core.borrow_mut();
                if core.away_order != order {
                    return;
                }
                core.now = clock::now();
                for key in keys {
                    if core.connection(*key).is_some() {
                        core.send_away(key.slot);
                    }
                }
                core.flush();
            }
        });
    }
    /// Those that were not asked to reconnect yet are not asked any more.
    pub(super) fn keep_clients(&mut self) {
        self.away_order += 1;
    }
}
