//! Connections of a core: opening, commands, closing, and what a slow socket is behind with.

use std::{
    io,
    net::Shutdown,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use guildhall_shared::gateway::{Capabilities, CloseCode};
use tokio::net::TcpStream;

use super::{Core, LAYOUTS_KEPT};
use crate::{
    bus::{CoreId, Handover, IdentifyRequest, SessionKey, SessionSlot, ToCore, ToNode},
    codec::{self, Command, Identify, Resume},
    connection,
    dispatch::{self, Frame, Layout},
    session::{
        SessionId, UNSENT_DISPATCHES_MAX,
        lifecycle::{Input, Lifecycle, Output},
    },
    wire::{Fragments, Inbound},
};

/// A closed connection whose client does not go is cut after this long.
const LINGER: Duration = Duration::from_secs(5);
/// A socket that takes nothing for this long is cut; the session may be resumed.
const WRITE_STALL_MAX: Duration = Duration::from_secs(20);
/// What is laid out at once for a socket that is behind.
const CATCH_UP_BYTES: usize = 64 * 1024;
/// Payloads that are not dispatches and wait for a slow socket; a client that asks for
/// more (heartbeats, pings) without reading is closed.
const CONTROL_FRAMES_MAX: usize = 256;

/// One WebSocket connection.
pub(super) struct Connection {
    stream: Rc<TcpStream>,
    generation: u32,
    pub(super) life: Lifecycle,
    /// Slot of its session, once there is one.
    pub(super) session: Option<SessionSlot>,
    pub(super) pending: Option<Box<Pending>>,
    out: Outbound,
    closing_since: Option<Instant>,
}

/// What is remembered of a command while the node checks it.
pub(super) struct Pending {
    pub(super) shard: Option<(u32, u32)>,
    pub(super) large_threshold: Option<u16>,
    pub(super) capabilities: Capabilities,
}

/// What a connection has still to write, beyond what its session's replay holds.
#[derive(Default)]
struct Outbound {
    /// Rest of a write that the socket took only in part.
    head: Bytes,
    /// Frames that are not dispatches.
    control: Vec<Bytes>,
    /// `s` of the newest dispatch that was written or is in `head`.
    sent_s: u64,
    /// Bytes of all bodies of the session up to `sent_s`.
    sent_bytes: u64,
    /// What may wait beyond the limits: what a RESUME replays at once.
    allowance: Allowance,
    /// A task waits for room in the socket; since when nothing went in.
    stalled_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Allowance {
    dispatches: u64,
    bytes: u64,
}

/// What the reader does after a frame.
pub(crate) enum Next {
    Go,
    /// The connection belongs to another core.
    Move(Box<Resume>),
}

impl Core {
    /// A new connection: says HELLO.
    pub(crate) fn connection_opened(&mut self, stream: Rc<TcpStream>) -> SessionKey {
        let key = self.insert_connection(stream);
        self.send_text(key.slot, codec::HELLO.as_bytes());
        key
    }

    /// A connection that another core said HELLO to, with the RESUME it sent.
    pub(crate) fn connection_resumes(
        &mut self,
        stream: Rc<TcpStream>,
        resume: Resume,
    ) -> SessionKey {
        let key = self.insert_connection(stream);
        let command = Input::Command(Ok(Command::Resume(Box::new(resume))));
        self.life(key, command);
        self.flush();
        key
    }

    fn insert_connection(&mut self, stream: Rc<TcpStream>) -> SessionKey {
        self.now = Instant::now();
        let generation = self.next_generation();
        let slot = self.connections.insert(Connection {
            stream,
            generation,
            life: Lifecycle::new(self.now),
            session: None,
            pending: None,
            out: Outbound::default(),
            closing_since: None,
        });
        if self.draining {
            self.send_text(slot as SessionSlot, codec::RECONNECT.as_bytes());
        }
        SessionKey {
            slot: slot as SessionSlot,
            generation,
        }
    }

    /// The reader is done: the socket broke, or the client closed with a code.
    pub(crate) fn connection_ended(&mut self, key: SessionKey, code: Option<u16>) {
        if self.connection(key).is_none() {
            return;
        }
        self.now = Instant::now();
        let connection = self.connections.remove(key.slot as usize);
        if let Some(session) = connection.session {
            // A client that leaves with 1000 or 1001 ends its session; anything else may be resumed.
            if matches!(code, Some(1000 | 1001)) {
                self.end_session(session);
            } else {
                self.detach_session(session);
            }
        }
        self.flush();
    }

    /// The connection goes to another core.
    pub(crate) fn connection_moved(&mut self, key: SessionKey) {
        if self.connection(key).is_some() {
            self.connections.remove(key.slot as usize);
        }
    }

    /// Sends a moved connection to the core that its session id names.
    pub(crate) fn hand_over(&self, socket: std::net::TcpStream, resume: Resume, unread: Vec<u8>) {
        let core = SessionId::parse(&resume.session_id).map(SessionId::core);
        let Some(peer) = core.and_then(|core| self.config.peers.get(usize::from(core))) else {
            return;
        };
        // A full inbox drops the connection; the client resumes again.
        let _ = peer.send(ToCore::Handover(Box::new(Handover {
            socket,
            resume,
            unread,
        })));
    }

    pub(crate) fn read_some(
        &mut self,
        stream: &TcpStream,
        into: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let read = stream.try_read(&mut self.scratch)?;
        into.extend_from_slice(&self.scratch[..read]);
        Ok(read)
    }

    pub(crate) fn parse(
        &mut self,
        frame: &[u8],
        fragments: &mut Option<Box<Fragments>>,
    ) -> Result<Inbound, CloseCode> {
        self.parser.parse(frame, fragments)
    }

    /// Acts on a frame of a client.
    pub(crate) fn received(&mut self, key: SessionKey, inbound: Inbound) -> Next {
        self.now = Instant::now();
        let input = match inbound {
            Inbound::Message(mut text) => {
                let command = codec::parse(&mut text);
                if let Ok(Command::Resume(resume)) = &command
                    && self.is_elsewhere(key, resume)
                {
                    return Next::Move(resume.clone());
                }
                Input::Command(command)
            }
            Inbound::Ping(payload) => {
                self.send_frame(key.slot, dispatch::frame(Frame::Pong, &payload).into());
                return Next::Go;
            }
            Inbound::Pong | Inbound::Partial | Inbound::Close(_) => return Next::Go,
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
            Some(Output::HeartbeatAck) => self.send_text(key.slot, codec::HEARTBEAT_ACK.as_bytes()),
            Some(Output::InvalidSession) => {
                self.send_text(key.slot, codec::invalid_session(false).as_bytes())
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
            large_threshold,
            capabilities,
        } = identify;
        connection.pending = Some(Box::new(Pending {
            shard,
            large_threshold,
            capabilities,
        }));
        let request = IdentifyRequest {
            token,
            intents,
            shard: shard.unwrap_or((0, 1)),
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
        if connection.out.head.is_empty() {
            let mut payload = code.code().to_be_bytes().to_vec();
            payload.extend_from_slice(code.reason().as_bytes());
            // A socket without room gets no close frame: its client sees the connection end.
            let _ = connection
                .stream
                .try_write(&dispatch::frame(Frame::Close, &payload));
            shutdown(&connection.stream, Shutdown::Write);
        } else {
            // A frame is half written; nothing can follow it.
            shutdown(&connection.stream, Shutdown::Both);
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

    /// Answers a client's close frame.
    pub(crate) fn echo_close(&mut self, key: SessionKey, code: Option<u16>) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        if connection.out.head.is_empty() && connection.closing_since.is_none() {
            let payload = code.map(u16::to_be_bytes);
            let payload = payload.as_ref().map_or(&[][..], |code| &code[..]);
            let _ = connection
                .stream
                .try_write(&dispatch::frame(Frame::Close, payload));
        }
        shutdown(&connection.stream, Shutdown::Write);
    }

    /// Cuts a session's connection without a word, as the session moves to another one.
    pub(super) fn cut(&mut self, slot: SessionSlot) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            connection.session = None;
            connection.closing_since = Some(self.now);
            shutdown(&connection.stream, Shutdown::Both);
        }
    }

    /// A session writes to this connection from now on; its client has everything up to `sent_s`.
    /// False if what follows is gone.
    pub(super) fn bind(&mut self, slot: SessionSlot, session: SessionSlot, sent_s: u64) -> bool {
        let Some(replay) = self
            .sessions
            .get(session as usize)
            .map(|session| &session.replay)
        else {
            return false;
        };
        let Some(unsent) = replay.after(sent_s) else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return false;
        };
        let allowance = Allowance {
            dispatches: unsent.len() as u64,
            bytes: unsent.map(|dispatch| dispatch.body.len() as u64).sum(),
        };
        connection.session = Some(session);
        connection.out.sent_s = sent_s;
        connection.out.sent_bytes = replay.pushed_bytes() - allowance.bytes;
        connection.out.allowance = allowance;
        true
    }

    pub(super) fn send_text(&mut self, slot: SessionSlot, text: &[u8]) {
        self.send_frame(slot, dispatch::frame(Frame::Text, text).into());
    }

    /// Sends a frame that is no dispatch.
    fn send_frame(&mut self, slot: SessionSlot, frame: Bytes) {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if connection.closing_since.is_some() {
            return;
        }
        let out = &mut connection.out;
        if out.stalled_since.is_some() {
            out.control.push(frame);
            if out.control.len() > CONTROL_FRAMES_MAX
                && let Some(key) = self.connection_key(slot)
            {
                self.close(key, CloseCode::UnknownError);
            }
            return;
        }
        let mut rest = frame;
        match connection.stream.try_write(&rest) {
            Ok(written) => rest.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return shutdown(&connection.stream, Shutdown::Both),
        }
        if !rest.is_empty() {
            out.head = rest;
            self.wait_for_room(slot);
        }
    }

    /// Writes a session's dispatches that its connection did not get yet: in the common case
    /// one write of a layout that other sessions share.
    pub(super) fn flush_session(&mut self, slot: SessionSlot) {
        let Self {
            sessions,
            connections,
            layouts,
            dispatched,
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
        let out = &mut connection.out;
        let Some(unsent) = session.replay.after(out.sent_s) else {
            return self.fall_behind(at);
        };
        let count = unsent.len();
        if count == 0 {
            return;
        }
        if out.stalled_since.is_some() {
            let bytes_max = session.unsent_bytes_max() as u64 + out.allowance.bytes;
            if session.replay.pushed_bytes() - out.sent_bytes > bytes_max
                || count as u64 > UNSENT_DISPATCHES_MAX + out.allowance.dispatches
            {
                self.fall_behind(at);
            }
            return;
        }
        let layout = match layouts
            .iter()
            .position(|layout| layout.is_of(unsent.clone()))
        {
            Some(known) => &mut layouts[known],
            None => {
                if layouts.len() == LAYOUTS_KEPT {
                    layouts.pop_back();
                }
                layouts.push_front(Layout::of(unsent));
                &mut layouts[0]
            }
        };
        let bytes = layout.numbered(out.sent_s + 1);
        match connection.stream.try_write(bytes) {
            Ok(written) => {
                out.sent_s += count as u64;
                out.sent_bytes = session.replay.pushed_bytes();
                *dispatched += count as u64;
                if written < bytes.len() {
                    out.head = Bytes::copy_from_slice(&bytes[written..]);
                    self.wait_for_room(at);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_room(at),
            // The reader sees the end of the connection and takes it away.
            Err(_) => shutdown(&connection.stream, Shutdown::Both),
        }
    }

    /// A client reads too slowly: its connection ends, its session may be resumed from the replay.
    fn fall_behind(&mut self, slot: SessionSlot) {
        self.config.metrics.slow_readers.inc();
        if let Some(key) = self.connection_key(slot) {
            self.close(key, CloseCode::UnknownError);
        }
    }

    fn wait_for_room(&mut self, slot: SessionSlot) {
        let Some(key) = self.connection_key(slot) else {
            return;
        };
        let now = self.now;
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if connection.out.stalled_since.replace(now).is_none() {
            let stream = connection.stream.clone();
            self.spawn(|core| connection::write(core, key, stream));
        }
    }

    /// The socket of a connection that is behind has room. True while it stays behind.
    pub(crate) fn write_more(&mut self, key: SessionKey) -> bool {
        let now = Instant::now();
        let Self {
            sessions,
            connections,
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
        let out = &mut connection.out;
        loop {
            if out.head.is_empty() {
                if !out.control.is_empty() {
                    out.head = out.control.drain(..).flatten().collect();
                } else {
                    let session = connection
                        .session
                        .and_then(|slot| sessions.get(slot as usize));
                    let unsent = session.map(|session| session.replay.after(out.sent_s));
                    match unsent {
                        Some(None) => {
                            self.fall_behind(key.slot);
                            return false;
                        }
                        Some(Some(unsent)) if unsent.len() > 0 => {
                            let mut layout = Layout::default();
                            let first_s = out.sent_s + 1;
                            for dispatch in unsent {
                                layout.push(dispatch);
                                out.sent_s += 1;
                                out.sent_bytes += dispatch.body.len() as u64;
                                if layout.len() >= CATCH_UP_BYTES {
                                    break;
                                }
                            }
                            *dispatched += out.sent_s + 1 - first_s;
                            out.head = Bytes::copy_from_slice(layout.numbered(first_s));
                        }
                        Some(Some(_)) | None => {
                            out.stalled_since = None;
                            out.allowance = Allowance::default();
                            out.control = Vec::new();
                            return false;
                        }
                    }
                }
            }
            match connection.stream.try_write(&out.head) {
                Ok(written) => {
                    out.head.advance(written);
                    out.stalled_since = Some(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    shutdown(&connection.stream, Shutdown::Both);
                    return false;
                }
            }
        }
    }

    /// `s` up to which a session's dispatches are written.
    pub(super) fn sent_s(&self, slot: SessionSlot) -> u64 {
        self.connections
            .get(slot as usize)
            .map_or(u64::MAX, |connection| connection.out.sent_s)
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
                    .stalled_since
                    .is_some_and(|since| now.duration_since(since) > WRITE_STALL_MAX)
            {
                shutdown(&connection.stream, Shutdown::Both);
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

    /// Asks every client to reconnect, then closes.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.now = Instant::now();
        self.flush();
        let slots: Vec<SessionSlot> = self
            .connections
            .iter()
            .map(|(slot, _)| slot as SessionSlot)
            .collect();
        for slot in slots {
            self.send_text(slot, codec::RECONNECT.as_bytes());
            if let Some(key) = self.connection_key(slot) {
                self.close(key, CloseCode::UnknownError);
            }
        }
    }

    pub(super) fn core_id(&self) -> CoreId {
        self.config.id
    }
}

fn shutdown(stream: &TcpStream, how: Shutdown) {
    // Fails only if the socket is no longer connected, which is what is wanted.
    let _ = socket2::SockRef::from(stream).shutdown(how);
}
