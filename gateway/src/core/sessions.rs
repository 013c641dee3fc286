//! Sessions of a core: IDENTIFY, RESUME, their end.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{Capabilities, CloseCode, EventKind, Intents},
    id::marker::{Guild, User},
    model::{Platform, Status},
    shard,
};
use guildhall_store::events::Span;

use super::{
    Core, clock,
    connections::{Connection, Pending},
    ready,
    travel::{Held, RECORD_PERIOD},
};
use crate::{
    bus::{ToNode, VoiceRequest},
    codec::{Resume, VoiceCommand},
    delivery::Numbered,
    dispatch::Dispatch,
    hub,
    identity::{Identity, Refused},
    names::{Seat, SessionId, SessionKey, SessionSlot},
    session::{
        Arrival, Assembling, GuildPhase, Missed, Session, lifecycle::Input, replay::RESUME_WINDOW,
    },
    telemetry::Resumed,
};

/// A user's READY goes without the guilds that did not come within this time.
const ASSEMBLE_MAX: Duration = Duration::from_secs(10);
/// Sessions whose resume window is over that end at one tick: each leaves the lists of its guilds,
/// and after a storm there are thousands. The others end a tick later.
const EXPIRED_MAX: usize = 500;
/// `large_threshold` when IDENTIFY has none.
const LARGE_THRESHOLD_BOT: u16 = 50;
const LARGE_THRESHOLD_USER: u16 = 250;

impl Core {
    /// The node checked an IDENTIFY.
    pub(super) fn identified(&mut self, key: SessionKey, result: Result<Box<Identity>, Refused>) {
        let is_closing = self.is_closing(key);
        let pending = self.connection_mut(key).and_then(|of| of.pending.take());
        let Some(pending) = pending.filter(|_| !is_closing) else {
            // The client is gone, or going.
            if let Ok(identity) = result {
                self.leave(None, identity.user.user.id, identity.seat);
            }
            return;
        };
        let identity = match result {
            Ok(identity) => identity,
            Err(Refused::Close(code)) => return self.life(key, Input::Refused(code)),
            Err(Refused::TryLater) => return self.life(key, Input::Invalid),
        };
        self.life(key, Input::Accepted);
        let slot = self.open_session(key.slot, &identity, &pending);
        let id = self.sessions[slot as usize].id;
        let user = identity.user.user.id;
        let realm = shard::realm(user);
        self.hub.join(realm, user, slot);
        self.ask_from(realm, user, identity.position);
        let guilds = if identity.user.user.bot {
            let body = ready::for_bot(&identity, id, &self.config.resume_url, pending.shard);
            self.dispatch_ready(slot, EventKind::Ready, &body);
            identity.guilds
        } else {
            let guilds = identity.guilds.clone();
            self.sessions[slot as usize].assembling = Some(Box::new(Assembling {
                identity,
                shard: pending.shard,
                since: self.now,
                guilds: Vec::new(),
                missed: Missed::Unknown,
                later: Vec::new(),
            }));
            guilds
        };
        for guild in guilds {
            self.want_guild(slot, guild, Arrival::Initial);
        }
        self.record(slot);
        self.assemble(slot);
    }

    fn open_session(
        &mut self,
        connection: SessionSlot,
        identity: &Identity,
        pending: &Pending,
    ) -> SessionSlot {
        let id = SessionId::new(self.config.boot, self.core_id(), clock::random());
        let bot = identity.user.user.bot;
        let generation = self.next_generation();
        let slot = self.sessions.insert(Session {
            id,
            generation,
            user: identity.user.user.id,
            token: identity.token,
            bot,
            seat: identity.seat,
            intents: if bot {
                identity.intents
            } else {
                hub::user_intents()
            },
            shard: pending.shard.unwrap_or((0, 1)),
            large_threshold: pending.large_threshold.unwrap_or(if bot {
                LARGE_THRESHOLD_BOT
            } else {
                LARGE_THRESHOLD_USER
            }),
            capabilities: if bot {
                Capabilities::empty()
            } else {
                pending.capabilities
            },
            compress: pending.compress,
            platform: if bot { Platform::Web } else { pending.platform },
            status: Status::Online,
            doing: None,
            watches: Vec::new(),
            looks: None,
            connection: Some(connection),
            detached_at: None,
            resumed: false,
            doubted: false,
            replay: Default::default(),
            dirty: false,
            recorded_at: None,
            home: Some(identity.position),
            guilds: Vec::with_capacity(identity.guilds.len()),
            voice: Vec::new(),
            assembling: None,
        }) as SessionSlot;
        let settings = identity.personal.as_ref().map(|own| own.settings.status);
        let (now, now_ms) = (self.now, clock::now_ms());
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            let given = pending.presence.as_deref();
            session.begin_presence(now, now_ms, given, settings.unwrap_or_default());
        }
        self.by_id.insert(id, slot);
        self.bind(connection, slot, 0);
        self.config.metrics.identifies.inc();
        slot
    }

    /// Sends a user's READY once nothing of it is missing.
    pub(super) fn assemble(&mut self, slot: SessionSlot) {
        let core = self.core_id();
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let key = session.key(slot);
        let Some(assembling) = &mut session.assembling else {
            return;
        };
        let in_time = self.now.duration_since(assembling.since) < ASSEMBLE_MAX;
        let waits = session
            .guilds
            .iter()
            .any(|(_, phase)| *phase == GuildPhase::Waiting(Arrival::Initial));
        if waits && in_time {
            return;
        }
        if let Missed::Unknown = assembling.missed {
            let spans = missed_spans(assembling);
            if !spans.is_empty() {
                assembling.missed = Missed::Asked;
                self.outbox.push_back(ToNode::Missed {
                    core,
                    session: key,
                    spans,
                });
            }
        }
        if matches!(assembling.missed, Missed::Asked) && in_time {
            return;
        }
        self.send_ready(slot);
    }

    /// What [`Core::assemble`] asked for.
    pub(super) fn missed(&mut self, key: SessionKey, messages: Vec<Envelope>) {
        let Some(session) = self.sessions.get_mut(key.slot as usize) else {
            return;
        };
        if session.generation != key.generation {
            return;
        }
        if let Some(assembling) = &mut session.assembling {
            assembling.missed = Missed::Known(messages);
            self.assemble(key.slot);
        }
    }

    /// Sends a user's READY as it is now, and what came meanwhile.
    fn send_ready(&mut self, slot: SessionSlot) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        let Some(assembling) = session.assembling.take() else {
            return;
        };
        let user = session.user;
        let missed = match &assembling.missed {
            Missed::Known(messages) => messages.as_slice(),
            Missed::Unknown | Missed::Asked => &[],
        };
        let own = session.state();
        let person = ready::Person {
            identity: &assembling.identity,
            session: session.id,
            own: &own,
            resume_url: &self.config.resume_url,
            shard: assembling.shard,
            capabilities: session.capabilities,
            guilds: &assembling.guilds,
            missed,
        };
        let hub = &self.hub;
        let bodies = person.bodies(|guild, channel| {
            let realm = hub.get(shard::realm(guild));
            realm.is_some_and(|realm| realm.sees(user, channel))
        });
        let bodies = match bodies {
            Ok(bodies) => bodies,
            Err(error) => {
                tracing::error!(%error, "a guild of ours cannot be read");
                return self.close_session(slot, CloseCode::UnknownError);
            }
        };
        self.dispatch_ready(slot, EventKind::Ready, &bodies.ready);
        if let Some(supplemental) = bodies.supplemental {
            self.dispatch_ready(slot, EventKind::ReadySupplemental, &supplemental);
        }
        for dispatch in assembling.later {
            self.dispatch(slot, &dispatch);
        }
        self.record(slot);
    }

    /// Dispatches READY, or its supplement: however large it is, a slow client gets it.
    fn dispatch_ready(&mut self, slot: SessionSlot, kind: EventKind, body: &[u8]) {
        self.dispatch_body(slot, kind, body);
        self.allow(slot, body.len());
    }

    /// A client asks to go on with a session. What this core has may be a copy of what has gone on
    /// elsewhere: the node finds out.
    pub(super) fn resume(&mut self, key: SessionKey, resume: Resume) {
        if self.own_copy(key, &resume).is_some() {
            let core = self.core_id();
            self.outbox.push_back(ToNode::Stay {
                core,
                connection: key,
                resume: Box::new(resume),
            });
        }
    }

    /// A client may go on with a session of this core, if what it has not got can be told.
    pub(super) fn stays(&mut self, key: SessionKey, resume: Resume) {
        let has_left = self.has_left(key);
        if self.is_closing(key) && !has_left {
            return;
        }
        let Some(slot) = self.own_copy(key, &resume) else {
            return;
        };
        let session = &mut self.sessions[slot as usize];
        if resume.seq > session.replay.last_s() {
            return self.life(key, Input::Refused(CloseCode::InvalidSeq));
        }
        if session.assembling.is_some() || session.replay.after(resume.seq).is_none() {
            self.config.metrics.resumed(Resumed::Refused);
            return self.life(key, Input::Invalid);
        }
        let old = session.connection.replace(key.slot);
        session.detached_at = None;
        session.resumed = true;
        self.life(key, Input::Accepted);
        if let Some(old) = old {
            // Its client lost it and the server did not notice yet.
            self.cut(old);
        }
        if has_left {
            return self.end_session(slot);
        }
        self.bind(key.slot, slot, resume.seq);
        let came = self.came(key.slot);
        self.config.metrics.resumed(came);
        self.dispatch_body(slot, EventKind::Resumed, b"{}");
    }

    /// The session that a client asks to go on with, if it is here and the client's. Otherwise it
    /// is looked for elsewhere.
    fn own_copy(&mut self, key: SessionKey, resume: &Resume) -> Option<SessionSlot> {
        let slot = SessionId::parse(&resume.session_id).and_then(|id| self.by_id.get(&id).copied());
        let session = slot.and_then(|slot| Some((slot, self.sessions.get(slot as usize)?)));
        let Some((slot, session)) = session else {
            self.send_for(key, resume.clone());
            return None;
        };
        if session.token != resume.token.hash() {
            // Whether it is 4004 or op 9 is the token's matter.
            let core = self.core_id();
            self.outbox.push_back(ToNode::CheckToken {
                core,
                session: key,
                token: resume.token.clone(),
            });
            return None;
        }
        if session.doubted {
            self.config.metrics.resumed(Resumed::Refused);
            self.life(key, Input::Invalid);
            return None;
        }
        Some(slot)
    }

    /// Dispatches something made for one session alone.
    pub(super) fn dispatch_body(&mut self, slot: SessionSlot, kind: EventKind, body: &[u8]) {
        let dispatch = Dispatch::own(kind, body, self.now, &self.budget.tally);
        self.dispatch(slot, &dispatch);
    }

    /// Numbers a dispatch for a session and queues it; it is written at the next flush.
    pub(super) fn dispatch(&mut self, slot: SessionSlot, dispatch: &Rc<Dispatch>) {
        if self.number(slot, dispatch) == Numbered::Yes {
            self.log.own(slot);
        }
    }

    /// As [`Self::dispatch`], where the delivery log is told by the caller.
    fn number(&mut self, slot: SessionSlot, dispatch: &Rc<Dispatch>) -> Numbered {
        let held = self.held.as_mut().map(|held| (held, self.log.number()));
        let (sessions, connections) = (&mut self.sessions, &self.connections);
        match dispatch_to(sessions, connections, &mut self.dirty, held, slot, dispatch) {
            true => Numbered::Yes,
            false => Numbered::No,
        }
    }

    /// As [`Self::dispatch_body`], of what the delivery log is told in words of its own.
    pub(super) fn dispatch_told(
        &mut self,
        slot: SessionSlot,
        kind: EventKind,
        body: &[u8],
    ) -> Numbered {
        let dispatch = Dispatch::own(kind, body, self.now, &self.budget.tally);
        self.number(slot, &dispatch)
    }

    /// Dispatches GUILD_DELETE to a session, if its intents let it know of guilds. `comes_back`: the
    /// guild is only unavailable, and the session waits for it.
    pub(super) fn dispatch_guild_delete(
        &mut self,
        slot: SessionSlot,
        guild: Id<Guild>,
        comes_back: bool,
    ) {
        let Some(session) = self.sessions.get(slot as usize) else {
            return;
        };
        let mut numbered = Numbered::No;
        if session.intents.contains(Intents::GUILDS) {
            let body = if comes_back {
                format!(r#"{{"id":"{guild}","unavailable":true}}"#)
            } else {
                format!(r#"{{"id":"{guild}"}}"#)
            };
            numbered = self.dispatch_told(slot, EventKind::GuildDelete, body.as_bytes());
        }
        if comes_back {
            self.log.waits(slot, numbered, guild, Arrival::Restored);
        } else {
            self.log.left(slot, numbered, guild);
        }
    }

    /// A session lost its connection; it waits to be resumed.
    pub(super) fn detach_session(&mut self, slot: SessionSlot) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        session.connection = None;
        session.detached_at = Some(now);
        if session.assembling.is_some() {
            // It never got READY: there is nothing to resume.
            self.end_session(slot);
        }
    }

    /// A session is over.
    pub(super) fn end_session(&mut self, slot: SessionSlot) {
        let Some(session) = self.take_out(slot) else {
            return;
        };
        self.leave(Some(session.id), session.user, session.seat);
        let core = self.core_id();
        if session.resumed {
            let session = session.id;
            self.outbox.push_back(ToNode::Ended { core, session });
        }
        for &guild in &session.voice {
            let request = VoiceRequest {
                session: session.key(slot),
                session_id: session.id.to_string(),
                user: session.user,
                command: VoiceCommand {
                    guild,
                    channel: None,
                    self_mute: false,
                    self_deaf: false,
                    self_video: false,
                },
                ended: true,
            };
            self.outbox.push_back(ToNode::Voice { core, request });
        }
        self.leave_realms(slot, &session);
    }

    /// Takes a session out of the list: it looks at nothing, asks nothing and is known by its name no
    /// longer. Its realms still have it.
    pub(super) fn take_out(&mut self, slot: SessionSlot) -> Option<Session> {
        let session = self.sessions.get(slot as usize)?;
        let watched: Vec<_> = session.watches.iter().map(|&(guild, _)| guild).collect();
        for guild in watched {
            self.stop_watching(slot, guild);
        }
        let session = self.sessions.try_remove(slot as usize)?;
        self.log.end(slot);
        self.by_id.remove(&session.id);
        self.forget_asks(session.key(slot));
        self.snapshots.forget(session.key(slot));
        Some(session)
    }

    /// A session that was taken out of the list is in no realm any more.
    pub(super) fn leave_realms(&mut self, slot: SessionSlot, session: &Session) {
        let own = shard::realm(session.user);
        let realms = session
            .guilds
            .iter()
            .map(|&(guild, _)| shard::realm(guild))
            .chain([own]);
        let mut still = Vec::new();
        for realm in realms {
            self.blurred.remove(realm, session.key(slot));
            if self.hub.leave(realm, session.user, slot) {
                self.unsubscribe(realm, session.user);
            } else {
                still.push(realm);
            }
        }
        // The user's other sessions here show less than before.
        self.tell_presence(session.user, still);
    }

    /// A session that was counted is over, or never came to be.
    fn leave(&mut self, session: Option<SessionId>, person: Id<User>, seat: Option<Seat>) {
        let core = self.core_id();
        if let Some(seat) = seat {
            self.outbox.push_back(ToNode::Left {
                core,
                session,
                person,
                seat,
            });
        }
    }

    /// Ends a session and its connection with a code, after what it has still to be told.
    pub(super) fn close_session(&mut self, slot: SessionSlot, code: CloseCode) {
        self.flush_session(slot);
        let connection = self
            .sessions
            .get(slot as usize)
            .and_then(|session| session.connection);
        match connection.and_then(|connection| self.connection_key(connection)) {
            Some(key) => self.close(key, code),
            None => self.end_session(slot),
        }
    }

    /// Tells a client that its session is gone: op 9, and another IDENTIFY on this connection.
    pub(super) fn invalidate_session(&mut self, slot: SessionSlot) {
        let connection = self
            .sessions
            .get(slot as usize)
            .and_then(|session| session.connection);
        self.flush_session(slot);
        self.end_session(slot);
        if let Some(key) = connection.and_then(|connection| self.connection_key(connection)) {
            if let Some(connection) = self.connection_mut(key) {
                connection.session = None;
            }
            self.life(key, Input::Invalid);
        }
    }

    pub(super) fn tick_sessions(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        let mut assembling = Vec::new();
        let mut due = Vec::new();
        for (slot, session) in &self.sessions {
            if expired.len() < EXPIRED_MAX
                && session
                    .detached_at
                    .is_some_and(|at| now.duration_since(at) > RESUME_WINDOW)
            {
                expired.push(slot as SessionSlot);
            }
            if session.assembling.is_some() {
                assembling.push(slot as SessionSlot);
            } else if session
                .recorded_at
                .is_none_or(|at| now.duration_since(at) > RECORD_PERIOD)
            {
                due.push(slot as SessionSlot);
            }
        }
        for slot in due {
            self.record(slot);
        }
        for slot in expired {
            self.end_session(slot);
        }
        for slot in assembling {
            self.assemble(slot);
        }
        let written: Vec<(usize, u64)> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.replay.bytes() > 0)
            .map(|(slot, session)| {
                (
                    slot,
                    session
                        .connection
                        .map_or(u64::MAX, |connection| self.sent_s(connection)),
                )
            })
            .collect();
        for (slot, sent_s) in written {
            self.sessions[slot].replay.sweep(now, sent_s);
        }
    }
}

/// Where a READY's guilds are ahead of its read states.
fn missed_spans(assembling: &Assembling) -> Vec<Span> {
    let Some(personal) = &assembling.identity.personal else {
        return Vec::new();
    };
    let read_at = &personal.read_states.guilds;
    let guilds = assembling.guilds.iter();
    guilds
        .filter_map(|guild| {
            let after = *read_at.get(&guild.id)?;
            (after.era == guild.position.era && after.seq < guild.position.seq).then(|| Span {
                realm: shard::realm(guild.id),
                after,
                up_to: guild.position.seq,
            })
        })
        .collect()
}

/// As [`Core::dispatch`], where the core is borrowed in parts; whether it was numbered, which the
/// delivery log is then to be told.
pub(super) fn dispatch_to(
    sessions: &mut slab::Slab<Session>,
    connections: &slab::Slab<Connection>,
    dirty: &mut VecDeque<SessionSlot>,
    held: Option<(&mut Held, u64)>,
    slot: SessionSlot,
    dispatch: &Rc<Dispatch>,
) -> bool {
    let Some(session) = sessions.get_mut(slot as usize) else {
        return false;
    };
    if let Some(assembling) = &mut session.assembling {
        assembling.later.push(dispatch.clone());
        return false;
    }
    let (bytes_max, at) = (session.replay_bytes_max(), session.connection);
    session.replay.push(dispatch.clone(), bytes_max, || {
        let connection = at.and_then(|at| connections.get(at as usize));
        connection.map_or(u64::MAX, Connection::sent_s)
    });
    if let Some((held, chunk)) = held
        && session.replay.hold(chunk)
    {
        held.wait(slot);
    }
    if session.connection.is_some() && !session.dirty {
        session.dirty = true;
        dirty.push_back(slot);
    }
    true
}
