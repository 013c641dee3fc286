//! Connections of a core: opening, commands, closing, and what a slow socket is behind with.

use std::{
    io,
    net::Shutdown,
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_shared::{
    gateway::{Capabilities, CloseCode},
    model::Platform,
};

use super::{
    Core, clock,
    outbound::{Outbound, Wrote},
};
use crate::{
    bus::{Handover, ToCore, ToNode},
    codec::{self, Command, Identify, PresenceCommand, Resume},
    connection,
    dispatch::{self, Frame},
    format::Format,
    identity::IdentifyRequest,
    names::{CoreId, SessionId, SessionKey, SessionSlot},
    session::{
        Session,
        lifecycle::{Input, Lifecycle, Output},
    },
    socket::Socket,
    telemetry::Resumed,
    wire::{Fragments, Inbound, PERSON_MESSAGE_BYTES_MAX},
};

/// A closed connection whose client does not go is cut after this long.
const LINGER: Duration = Duration::from_secs(5);
/// A socket that takes nothing for this long is cut; the session may be resumed.
const WRITE_STALL_MAX: Duration = Duration::from_secs(20);
/// A core that is to end sends its clients away in steps so long apart.
const DRAIN_PAUSE: Duration = Duration::from_millis(100);
/// So many clients take all of the time that they have; fewer go as fast, and are through sooner.
const DRAIN_FEW: usize = 2560;

/// One WebSocket connection.
pub(super) struct Connection {
    stream: Rc<Socket>,
    generation: u32,
    pub(super) life: Lifecycle,
    /// What a RESUME of a session of this core is, by how the connection came here.
    came: Resumed,
    /// Slot of its session, once there is one.
    pub(super) session: Option<SessionSlot>,
    pub(super) pending: Option<Box<Pending>>,
    out: Outbound,
    closing_since: Option<Instant>,
    /// Its client closed it in a way that ends a session.
    left: bool,
}

impl Connection {
    /// `s` up to which its session's dispatches are written.
    pub(super) fn sent_s(&self) -> u64 {
        self.out.sent_s()
    }
}

/// What is remembered of a command while the node checks it.
pub(super) struct Pending {
    pub(super) shard: Option<(u32, u32)>,
    pub(super) large_threshold: Option<u16>,
    pub(super) capabilities: Capabilities,
    pub(super) compress: bool,
    pub(super) platform: Platform,
    pub(super) presence: Option<Box<PresenceCommand>>,
}

/// What the reader does after a frame.
pub(crate) enum Next {
    Go,
    /// The connection belongs to another core.
    Move(Box<Resume>),
}

impl Core {
    /// A new connection: says HELLO.
    pub(crate) fn connection_opened(&mut self, stream: Rc<Socket>, format: Format) -> SessionKey {
        let outbound = Outbound::new(format, false);
        let life = Lifecycle::new(clock::now());
        let key = self.insert_connection(stream, outbound, life, Resumed::SameCore);
        #[cfg(feature = "echo")]
        if self.config.echo {
            return key;
        }
        self.send_payload(key.slot, codec::HELLO);
        if self.draining {
            self.send_away(key.slot);
        }
        key
    }

    /// A connection that another core said HELLO to, with the RESUME it sent. It begins no new life:
    /// a client that goes from core to core has no more commands, and no more time, than others.
    pub(crate) fn connection_resumes(
        &mut self,
        stream: Rc<Socket>,
        format: Format,
        life: Lifecycle,
        resume: Resume,
    ) -> SessionKey {
        let outbound = Outbound::new(format, true);
        let key = self.insert_connection(stream, outbound, life, Resumed::SameNode);
        if self.draining {
            // Before the session is its own: another node brings it there.
            self.send_away(key.slot);
            return key;
        }
        let command = Input::Command(Ok(Command::Resume(Box::new(resume))));
        self.life(key, command);
        self.flush();
        key
    }

    fn insert_connection(
        &mut self,
        stream: Rc<Socket>,
        out: Outbound,
        life: Lifecycle,
        came: Resumed,
    ) -> SessionKey {
        self.now = clock::now();
        let generation = self.next_generation();
        let slot = self.connections.insert(Connection {
            stream,
            generation,
            life,
            came,
            session: None,
            pending: None,
            out,
            closing_since: None,
            left: false,
        });
        SessionKey {
            slot: slot as SessionSlot,
            generation,
        }
    }

    /// What a RESUME over this connection is, if its session is one of this core.
    pub(super) fn came(&self, slot: SessionSlot) -> Resumed {
        let connection = self.connections.get(slot as usize);
        connection.map_or(Resumed::SameCore, |connection| connection.came)
    }

    /// The reader is done: the socket broke, or its client has gone after a close.
    pub(crate) fn connection_ended(&mut self, key: SessionKey) {
        if self.connection(key).is_none() {
            return;
        }
        self.now = clock::now();
        let connection = self.connections.remove(key.slot as usize);
        if let Some(session) = connection.session {
            self.detach_session(session);
        }
        self.flush();
    }

    /// The connection goes to another core, and its life with it.
    pub(crate) fn connection_moved(&mut self, key: SessionKey) -> Option<Lifecycle> {
        self.connection(key)?;
        Some(self.connections.remove(key.slot as usize).life)
    }

    /// Sends a moved connection to the core that its session id names.
    pub(crate) fn hand_over(&self, handover: Handover) {
        let core = SessionId::parse(&handover.resume.session_id).map(SessionId::core);
        let Some(peer) = core.and_then(|core| self.config.peers.get(usize::from(core))) else {
            return;
        };
        // A full inbox drops the connection; the client resumes again.
        let _ = peer.send(ToCore::Handover(Box::new(handover)));
    }

    pub(crate) fn read_some(&mut self, stream: &Socket, into: &mut Vec<u8>) -> io::Result<usize> {
        let read = stream.try_read(&mut self.scratch)?;
        into.extend_from_slice(&self.scratch[..read]);
        Ok(read)
    }

    pub(crate) fn frame_len(
        &self,
        key: SessionKey,
        bytes: &[u8],
    ) -> Result<Option<usize>, CloseCode> {
        self.parser.frame_len(bytes, self.message_bytes_max(key))
    }

    pub(crate) fn parse(
        &mut self,
        key: SessionKey,
        frame: &[u8],
        fragments: &mut Option<Box<Fragments>>,
    ) -> Result<Inbound, CloseCode> {
        let bytes_max = self.message_bytes_max(key);
        self.parser.parse(frame, fragments, bytes_max)
    }

    /// Of a connection's messages: more once it is known to be a person's.
    fn message_bytes_max(&self, key: SessionKey) -> usize {
        let session = self.connection(key).and_then(|one| one.session);
        let session = session.and_then(|slot| self.sessions.get(slot as usize));
        match session {
            Some(session) if !session.bot => {
                PERSON_MESSAGE_BYTES_MAX.max(self.config.message_bytes_max)
            }
            _ => self.config.message_bytes_max,
        }
    }

    /// Acts on a frame of a client.
    pub(crate) fn received(&mut self, key: SessionKey, inbound: Inbound) -> Next {
        self.now = clock::now();
        #[cfg(feature = "echo")]
        let Some(inbound) = self.echo(key, inbound) else {
            return Next::Go;
        };
        let input = match inbound {
            Inbound::Text(mut message) | Inbound::Binary(mut message) => {
                let Some(connection) = self.connection(key) else {
                    return Next::Go;
                };
                let command = codec::read(connection.out.format().encoding, &mut message);
                if let Ok(Command::Resume(resume)) = &command
                    && self.is_elsewhere(key, resume)
                {
                    return Next::Move(resume.clone());
                }
                Input::Command(command)
            }
            Inbound::Ping(payload) => {
                self.send(key.slot, |now, stream, out| out.pong(now, stream, &payload));
                Input::Frame
            }
            Inbound::Pong(payload) => {
                self.answers_doubt(key, &payload);
                Input::Frame
            }
            Inbound::Partial => Input::Frame,
            Inbound::Close(_) => return Next::Go,
        };
        self.life(key, input);
        Next::Go
    }

    /// Whether a RESUME names a session of another core of this start of the node.
    fn is_elsewhere(&self, key: SessionKey, resume: &Resume) -> bool {
        let fresh = self
            .connection(key)
            .is_some_and(|connection| connection.life.is_fresh());
        fresh
            && SessionId::parse(&resume.session_id).is_some_and(|id| {
                id.boot() == self.config.boot
                    && id.core() != self.config.id
                    && usize::from(id.core()) < self.config.peers.len()
            })
    }

    /// Feeds a connection's life and does what it says.
    pub(super) fn life(&mut self, key: SessionKey, input: Input) {
        let now = self.now;
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        match connection.life.handle(now, input) {
            None => {}
            Some(Output::HeartbeatAck(seq)) => {
                self.acknowledged(key.slot, seq);
                self.send_payload(key.slot, codec::HEARTBEAT_ACK);
            }
            Some(Output::InvalidSession) => {
                self.send_payload(key.slot, &codec::invalid_session(false));
            }
            Some(Output::Identify(identify)) => self.ask_identify(key, *identify),
            Some(Output::Resume(resume)) => self.resume(key, *resume),
            Some(Output::Command(command)) => self.command(key, command),
            Some(Output::Close(code)) => self.close(key, code),
        }
    }

    fn ask_identify(&mut self, key: SessionKey, identify: Identify) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        let Identify {
            token,
            intents,
            shard,
            unfit,
            large_threshold,
            capabilities,
            compress,
            platform,
            presence,
        } = identify;
        connection.pending = Some(Box::new(Pending {
            shard,
            large_threshold,
            capabilities,
            compress,
            platform,
            presence,
        }));
        let request = IdentifyRequest {
            token,
            intents,
            shard: shard.unwrap_or((0, 1)),
            unfit,
        };
        self.outbox.push_back(ToNode::Identify {
            core: self.config.id,
            session: key,
            request,
        });
    }

    pub(super) fn connection(&self, key: SessionKey) -> Option<&Connection> {
        let connection = self.connections.get(key.slot as usize)?;
        (connection.generation == key.generation).then_some(connection)
    }

    pub(super) fn connection_mut(&mut self, key: SessionKey) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(key.slot as usize)?;
        (connection.generation == key.generation).then_some(connection)
    }

    /// The key of the connection in a slot.
    pub(super) fn connection_key(&self, slot: SessionSlot) -> Option<SessionKey> {
        let connection = self.connections.get(slot as usize)?;
        Some(SessionKey {
            slot,
            generation: connection.generation,
        })
    }

    pub(crate) fn is_closing(&self, key: SessionKey) -> bool {
        self.connection(key)
            .is_none_or(|connection| connection.closing_since.is_some())
    }

    /// Whether its client has closed it in a way that ends the session, whichever it is to have.
    pub(super) fn has_left(&self, key: SessionKey) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.left)
    }

    /// Closes a connection with a code; its session stays for a RESUME if the code allows.
    pub(crate) fn close(&mut self, key: SessionKey, code: CloseCode) {
        let now = self.now;
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        if connection.closing_since.is_some() {
            return;
        }
        connection.closing_since = Some(now);
        let session = connection.session.take();
        if !connection.out.is_mid_frame() {
            let mut payload = code.code().to_be_bytes().to_vec();
            payload.extend_from_slice(code.reason().as_bytes());
            // A socket without room gets no close frame: its client sees the connection end.
            let _ = connection
                .stream
                .try_write(&dispatch::frame(Frame::Close, &payload));
            connection.stream.shutdown(Shutdown::Write);
        } else {
            // A frame is half written; nothing can follow it.
            connection.stream.shutdown(Shutdown::Both);
        }
        self.config
            .metrics
            .closes
            .with_label_values(&[&code.code().to_string()])
            .inc();
        if let Some(session) = session {
            if code.is_resumable() {
                self.detach_session(session);
            } else {
                self.end_session(session);
            }
        }
    }

    /// Answers a client's close frame. The socket is read until its client goes, too: with
    /// bytes unread in it, the kernel would break the connection and the answer might be lost.
    pub(crate) fn echo_close(&mut self, key: SessionKey, code: Option<u16>) {
        self.now = clock::now();
        let now = self.now;
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        if connection.closing_since.replace(now).is_some() {
            return;
        }
        // Anything else may be resumed.
        connection.left = matches!(code, Some(1000 | 1001));
        let left = connection.left;
        let session = connection.session.take();
        if !connection.out.is_mid_frame() {
            let payload = code.map(u16::to_be_bytes);
            let payload = payload.as_ref().map_or(&[][..], |code| &code[..]);
            let _ = connection
                .stream
                .try_write(&dispatch::frame(Frame::Close, payload));
        }
        connection.stream.shutdown(Shutdown::Write);
        if let Some(session) = session {
            if left {
                self.end_session(session);
            } else {
                self.detach_session(session);
            }
        }
        self.flush();
    }

    /// Cuts a session's connection without a word, as the session moves to another one.
    pub(super) fn cut(&mut self, slot: SessionSlot) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            connection.session = None;
            connection.closing_since = Some(self.now);
            connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// A session writes to this connection from now on; its client has everything up to `sent_s`.
    /// False if what follows is gone.
    pub(super) fn bind(&mut self, slot: SessionSlot, session: SessionSlot, sent_s: u64) -> bool {
        let Self {
            sessions,
            connections,
            snapshots,
            ..
        } = self;
        let known = sessions.get(session as usize);
        let (Some(known), Some(connection)) = (known, connections.get_mut(slot as usize)) else {
            return false;
        };
        if !connection.out.bind(&known.replay, sent_s) {
            return false;
        }
        if known.compress {
            connection.out.compress_payloads();
        }
        connection.session = Some(session);
        snapshots.wake(known.key(session));
        true
    }

    /// What a session was dispatched last, of so many bytes, may wait for a slow socket whatever the
    /// limits are.
    pub(super) fn allow(&mut self, slot: SessionSlot, bytes: usize) {
        let session = self.sessions.get(slot as usize);
        if let Some(at) = session.and_then(|session| session.connection)
            && let Some(connection) = self.connections.get_mut(at as usize)
        {
            connection.out.allow(bytes as u64);
        }
    }

    /// Sends a payload that is no dispatch.
    pub(super) fn send_payload(&mut self, slot: SessionSlot, json: &str) {
        self.send(slot, |now, stream, out| out.payload(now, stream, json));
    }

    pub(super) fn send(
        &mut self,
        slot: SessionSlot,
        write: impl FnOnce(Instant, &Socket, &mut Outbound) -> Wrote,
    ) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if connection.closing_since.is_some() {
            return;
        }
        match write(now, &connection.stream, &mut connection.out) {
            Wrote::All | Wrote::Waits => {}
            Wrote::Stalled => self.wait_for_room(slot),
            Wrote::Behind => {
                if let Some(key) = self.connection_key(slot) {
                    self.close(key, CloseCode::UnknownError);
                }
            }
            Wrote::Broken => connection.stream.shutdown(Shutdown::Both),
        }
    }

    /// Writes a session's dispatches that its connection did not get yet.
    pub(super) fn flush_session(&mut self, slot: SessionSlot) {
        let Self {
            sessions,
            connections,
            layouts,
            dispatched,
            now,
            ..
        } = self;
        let Some(session) = sessions.get_mut(slot as usize) else {
            return;
        };
        session.dirty = false;
        let Some(at) = session.connection else { return };
        let Some(connection) = connections.get_mut(at as usize) else {
            return;
        };
        let (out, stream) = (&mut connection.out, &*connection.stream);
        let sent_s = out.sent_s();
        let unsent_bytes_max = session.unsent_bytes_max() as u64;
        let wrote = out.flush(*now, stream, &session.replay, unsent_bytes_max, layouts);
        *dispatched += out.sent_s() - sent_s;
        let waiting = out.waiting_bytes(&session.replay);
        match wrote {
            // The delivery log is behind: what waits for it is bounded, too.
            Wrote::All if waiting > session.replay_bytes_max() as u64 => self.fall_behind(at),
            Wrote::All | Wrote::Waits => {}
            Wrote::Stalled => self.wait_for_room(at),
            Wrote::Behind => self.fall_behind(at),
            // The reader sees the end of the connection and takes it away.
            Wrote::Broken => stream.shutdown(Shutdown::Both),
        }
    }

    /// A client reads too slowly: its connection ends, its session may be resumed from the replay.
    pub(super) fn fall_behind(&mut self, slot: SessionSlot) {
        self.config.metrics.slow_readers.inc();
        if let Some(key) = self.connection_key(slot) {
            self.close(key, CloseCode::UnknownError);
        }
    }

    fn wait_for_room(&mut self, slot: SessionSlot) {
        let Some(key) = self.connection_key(slot) else {
            return;
        };
        if let Some(connection) = self.connection(key) {
            let stream = connection.stream.clone();
            self.spawn(|core| connection::write(core, key, stream));
        }
    }

    /// The socket of a connection that is behind has room. True while it stays behind.
    pub(crate) fn write_more(&mut self, key: SessionKey) -> bool {
        let now = clock::now();
        let Self {
            sessions,
            connections,
            layouts,
            dispatched,
            ..
        } = self;
        let Some(connection) = connections
            .get_mut(key.slot as usize)
            .filter(|known| known.generation == key.generation)
        else {
            return false;
        };
        if connection.closing_since.is_some() {
            return false;
        }
        let session = connection
            .session
            .and_then(|slot| sessions.get(slot as usize));
        let replay = session.map(|session| &session.replay);
        let out = &mut connection.out;
        let sent_s = out.sent_s();
        let wrote = out.write_more(now, &*connection.stream, replay, layouts);
        *dispatched += out.sent_s() - sent_s;
        match wrote {
            Wrote::All => {
                if let Some(slot) = connection.session {
                    self.ask_on(slot);
                }
            }
            Wrote::Stalled | Wrote::Waits => return true,
            Wrote::Behind => self.fall_behind(key.slot),
            Wrote::Broken => connection.stream.shutdown(Shutdown::Both),
        }
        false
    }

    /// Whether something waits for room in a connection's socket.
    pub(super) fn is_stalled(&self, slot: SessionSlot) -> bool {
        let connection = self.connections.get(slot as usize);
        connection.is_some_and(|connection| connection.out.stalled_since().is_some())
    }

    /// Bytes of a session's dispatches that its connection has not laid out for its socket.
    pub(super) fn unsent_bytes(&self, connection: SessionSlot, session: &Session) -> u64 {
        let sent = self.connections.get(connection as usize);
        let sent = sent.map_or(0, |connection| connection.out.sent_bytes());
        session.replay.pushed_bytes().saturating_sub(sent)
    }

    /// `s` up to which a session's dispatches are written.
    pub(super) fn sent_s(&self, slot: SessionSlot) -> u64 {
        self.connections
            .get(slot as usize)
            .map_or(u64::MAX, Connection::sent_s)
    }

    /// Bytes of all bodies that a connection's session was written; all for one that is gone.
    pub(super) fn sent_bytes(&self, slot: SessionSlot) -> u64 {
        self.connections
            .get(slot as usize)
            .map_or(u64::MAX, |connection| connection.out.sent_bytes())
    }

    pub(super) fn tick_connections(&mut self) {
        let now = self.now;
        let mut timed_out = Vec::new();
        for (slot, connection) in &mut self.connections {
            if connection
                .closing_since
                .is_some_and(|since| now.duration_since(since) > LINGER)
                || connection
                    .out
                    .stalled_since()
                    .is_some_and(|since| now.duration_since(since) > WRITE_STALL_MAX)
            {
                connection.stream.shutdown(Shutdown::Both);
            }
            if connection.closing_since.is_none() && connection.life.is_due(now) {
                timed_out.push(SessionKey {
                    slot: slot as SessionSlot,
                    generation: connection.generation,
                });
            }
        }
        for key in timed_out {
            self.life(key, Input::Timeout);
        }
    }

    /// Asks every client to reconnect, spread over a time, then closes.
    pub(super) fn drain(&mut self, over: Duration) {
        self.draining = true;
        self.now = clock::now();
        let slots: Vec<SessionSlot> = self
            .connections
            .iter()
            .map(|(slot, _)| slot as SessionSlot)
            .collect();
        // All at once would come back all at once, to the nodes that stay.
        let step = drain_step(slots.len(), over);
        let (now, later) = slots.split_at(slots.len().min(step));
        now.iter().for_each(|&slot| self.send_away(slot));
        if !later.is_empty() {
            let later = later.to_vec();
            self.spawn(move |core| async move {
                for slots in later.chunks(step) {
                    tokio::time::sleep(DRAIN_PAUSE).await;
                    let mut core = core.borrow_mut();
                    core.now = clock::now();
                    slots.iter().for_each(|&slot| core.send_away(slot));
                }
            });
        }
    }

    /// Asks a client to reconnect, and closes. A slot that has another client by now has one
    /// that was asked already.
    pub(super) fn send_away(&mut self, slot: SessionSlot) {
        self.flush_session_of(slot);
        self.send_payload(slot, codec::RECONNECT);
        if let Some(key) = self.connection_key(slot) {
            self.close(key, CloseCode::UnknownError);
        }
    }

    /// Writes what the session of a connection has waiting.
    fn flush_session_of(&mut self, slot: SessionSlot) {
        let connection = self.connections.get(slot as usize);
        if let Some(session) = connection.and_then(|connection| connection.session) {
            self.flush_session(session);
        }
    }

    /// A client says that it has every dispatch up to `seq`: it will resume from there or later.
    /// READY and GUILD_CREATE, which are each session's own, need not be kept for long this way.
    fn acknowledged(&mut self, slot: SessionSlot, seq: Option<u64>) {
        if let Some(seq) = seq
            && let Some(connection) = self.connections.get(slot as usize)
            // Else it speaks of a session that it had before, as some do until READY comes.
            && seq <= connection.out.sent_s()
            && let Some(session) = connection.session
            && let Some(session) = self.sessions.get_mut(session as usize)
        {
            session.replay.acknowledge(seq);
        }
    }

    pub(super) fn core_id(&self) -> CoreId {
        self.config.id
    }
}

/// How many of its clients a core that is to end sends away in one step.
fn drain_step(clients: usize, over: Duration) -> usize {
    let steps = (over.as_millis() / DRAIN_PAUSE.as_millis()).max(1) as usize;
    clients.div_ceil(steps).max(DRAIN_FEW / steps).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_away_over_the_time_that_is_set_and_few_of_them_sooner() {
        for (clients, over_ms, step) in [
            (10, 4_000, 64),
            (2_560, 4_000, 64),
            (10_000, 4_000, 250),
            (10, 60_000, 4),
            (2_700, 60_000, 5),
            (60_000, 60_000, 100),
            (10, 600_000, 1),
            (10_000, 0, 10_000),
            (10_000, 100, 10_000),
            (0, 4_000, 64),
        ] {
            let over = Duration::from_millis(over_ms);
            assert_eq!(drain_step(clients, over), step, "{clients} over {over:?}");
        }
    }
}
