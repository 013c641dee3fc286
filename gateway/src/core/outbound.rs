//! What a connection has still to write, and how it is put on its stream.
//!
//! Knows no connection and no session but by what it is given, so that whatever mixture of
//! writes may happen can be tried without sockets.

use std::{io, rc::Rc, time::Instant};

use bytes::{Buf, Bytes};

use crate::{
    dispatch::{self, Dispatch, Frame, Layout, Layouts, Shape},
    format::Format,
    session::{UNSENT_DISPATCHES_MAX, replay::Replay},
};

/// Bodies laid out at once: a socket that takes the frames in part only leaves a copy of the rest,
/// and there may be thousands of such.
const AT_ONCE_BYTES: u64 = 64 * 1024;
/// Frames laid out at once for a socket that is behind.
const CATCH_UP_BYTES: usize = 64 * 1024;
/// Payloads that are not dispatches and wait for a slow socket; a client that asks for
/// more (heartbeats, pings) without reading is closed.
const CONTROL_FRAMES_MAX: usize = 256;

/// Where bytes go.
pub(super) trait Socket {
    /// Takes what there is room for, without waiting.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Socket for crate::socket::Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    format: Format,
    /// The stream has begun: HELLO was sent, perhaps by another core.
    opened: bool,
    /// The stream ends with dispatch `sent_s`.
    follows: bool,
    /// Rest of a write that the socket took only in part.
    head: Bytes,
    /// Frames that are not dispatches.
    control: Vec<Bytes>,
    /// `s` of the newest dispatch that was written or is in `head`.
    sent_s: u64,
    /// Bytes of all bodies of the session up to `sent_s`.
    sent_bytes: u64,
    /// What may wait beyond the limits: READY, and what a RESUME replays at once.
    allowance: Allowance,
    /// A task waits for room in the socket; since when nothing went in.
    stalled_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Allowance {
    dispatches: u64,
    bytes: u64,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All that there is.
    All,
    /// The socket has no more room: call [`Outbound::write_more`] once it has.
    Stalled,
    /// It still has none.
    Waits,
    /// The client reads too slowly to go on.
    Behind,
    /// The socket is broken.
    Broken,
}

impl Outbound {
    /// `opened`: the client was told HELLO in this format already.
    pub(super) fn new(format: Format, opened: bool) -> Self {
        Self {
            format,
            opened,
            ..Self::default()
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// IDENTIFY asked for compressed payloads.
    pub(super) fn compress_payloads(&mut self) {
        self.format = self.format.with_payload_compression();
    }

    /// `s` up to which dispatches are written.
    pub(super) fn sent_s(&self) -> u64 {
        self.sent_s
    }

    /// Bytes of all bodies of the session up to there.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Since when a waiting socket took nothing.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// Whether a frame is half written, so that nothing can follow it.
    pub(super) fn is_mid_frame(&self) -> bool {
        !self.head.is_empty()
    }

    /// From now on it writes what is in this replay; its client has everything up to `sent_s`.
    /// False if what follows is gone.
    pub(super) fn bind(&mut self, replay: &Replay, sent_s: u64) -> bool {
        let Some(unsent) = replay.after(sent_s) else {
            return false;
        };
        self.allowance = Allowance {
            dispatches: unsent.len() as u64,
            bytes: unsent.map(|dispatch| dispatch.body.len() as u64).sum(),
        };
        self.sent_s = sent_s;
        self.sent_bytes = replay.pushed_bytes() - self.allowance.bytes;
        // What this connection's stream ends with is no dispatch of this session.
        self.follows = false;
        true
    }

    /// The newest dispatch, of so many bytes, may wait whatever the limits are.
    pub(super) fn allow(&mut self, bytes: u64) {
        self.allowance.dispatches += 1;
        self.allowance.bytes += bytes;
    }

    /// Bytes of bodies that wait, but for those that may whatever the limits are.
    pub(super) fn waiting_bytes(&self, replay: &Replay) -> u64 {
        let allowed = self.sent_bytes + self.allowance.bytes;
        replay.pushed_bytes().saturating_sub(allowed)
    }

    /// Sends a payload that is no dispatch.
    pub(super) fn payload(&mut self, now: Instant, socket: &impl Socket, json: &str) -> Wrote {
        let frame = dispatch::payload(self.format, !self.opened, json);
        self.opened = true;
        self.follows = false;
        self.frame(now, socket, frame.into())
    }

    pub(super) fn pong(&mut self, now: Instant, socket: &impl Socket, payload: &[u8]) -> Wrote {
        let frame = dispatch::frame(Frame::Pong, payload);
        self.frame(now, socket, frame.into())
    }

    /// Every client answers it with the same payload, whatever it is busy with.
    pub(super) fn ping(&mut self, now: Instant, socket: &impl Socket, payload: &[u8]) -> Wrote {
        let frame = dispatch::frame(Frame::Ping, payload);
        self.frame(now, socket, frame.into())
    }

    /// A message of a client, back to it.
    #[cfg(feature = "echo")]
    pub(super) fn echo(
        &mut self,
        now: Instant,
        socket: &impl Socket,
        kind: Frame,
        message: &[u8],
    ) -> Wrote {
        self.frame(now, socket, dispatch::frame(kind, message).into())
    }

    fn frame(&mut self, now: Instant, socket: &impl Socket, mut frame: Bytes) -> Wrote {
        if self.stalled_since.is_some() {
            self.control.push(frame);
            return match self.control.len() > CONTROL_FRAMES_MAX {
                true => Wrote::Behind,
                false => Wrote::Waits,
            };
        }
        match socket.try_write(&frame) {
            Ok(written) => frame.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Wrote::Broken,
        }
        if frame.is_empty() {
            return Wrote::All;
        }
        self.head = frame;
        self.stall(now)
    }

    /// Writes the dispatches of the replay that were not written yet: in the common case
    /// one write of a layout that other sessions share.
    ///
    /// `unsent_bytes_max`: how much of bodies may wait.
    pub(super) fn flush(
        &mut self,
        now: Instant,
        socket: &impl Socket,
        replay: &Replay,
        unsent_bytes_max: u64,
        layouts: &mut Layouts,
    ) -> Wrote {
        loop {
            let Some(unsent) = replay.writable_after(self.sent_s) else {
                return Wrote::Behind;
            };
            if unsent.len() == 0 {
                self.caught_up(replay);
                return Wrote::All;
            }
            let waiting = replay.pushed_bytes() - self.sent_bytes;
            if self.stalled_since.is_some() {
                let count = unsent.len() as u64;
                return match self.waiting_bytes(replay) > unsent_bytes_max
                    || count > UNSENT_DISPATCHES_MAX + self.allowance.dispatches
                {
                    true => Wrote::Behind,
                    false => Wrote::Waits,
                };
            }
            let (count, bytes) = match waiting <= AT_ONCE_BYTES
                && self.sent_s + unsent.len() as u64 == replay.last_s()
            {
                true => (unsent.len(), waiting),
                false => first_of(unsent.clone()),
            };
            let layout = layouts.of(self.shape(replay), unsent.take(count));
            let frames = layout.numbered(self.sent_s + 1);
            match socket.try_write(frames) {
                Ok(written) => {
                    self.sent_s += count as u64;
                    self.sent_bytes += bytes;
                    self.follows = true;
                    if written < frames.len() {
                        self.head = Bytes::copy_from_slice(&frames[written..]);
                        return self.stall(now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.stall(now),
                Err(_) => return Wrote::Broken,
            }
        }
    }

    /// Writes what a slow socket has room for; `replay` is its session's, if it has one.
    pub(super) fn write_more(
        &mut self,
        now: Instant,
        socket: &impl Socket,
        replay: Option<&Replay>,
        layouts: &mut Layouts,
    ) -> Wrote {
        loop {
            if self.head.is_empty() && !self.control.is_empty() {
                self.head = self.control.drain(..).flatten().collect();
            } else if self.head.is_empty() {
                match replay.map(|replay| self.catch_up(replay, layouts)) {
                    Some(None) => return Wrote::Behind,
                    Some(Some(bytes)) if !bytes.is_empty() => self.head = bytes,
                    Some(Some(_)) | None => {
                        self.stalled_since = None;
                        self.control = Vec::new();
                        if let Some(replay) = replay {
                            self.caught_up(replay);
                        }
                        return Wrote::All;
                    }
                }
            }
            match socket.try_write(&self.head) {
                Ok(written) => {
                    self.head.advance(written);
                    self.stalled_since = Some(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wrote::Waits,
                Err(_) => return Wrote::Broken,
            }
        }
    }

    /// Where nothing waits any more, not for the delivery log either, the limits alone count.
    fn caught_up(&mut self, replay: &Replay) {
        if self.stalled_since.is_none() && self.sent_s == replay.last_s() {
            self.allowance = Allowance::default();
        }
    }

    /// The next of the unsent dispatches, laid out; `None` if they are gone.
    fn catch_up(&mut self, replay: &Replay, layouts: &mut Layouts) -> Option<Bytes> {
        let unsent = replay.writable_after(self.sent_s)?;
        let mut layout = Layout::new(self.shape(replay));
        let first_s = self.sent_s + 1;
        for dispatch in unsent {
            layout.push(dispatch, layouts.compressors());
            self.sent_s += 1;
            self.sent_bytes += dispatch.body.len() as u64;
            self.follows = true;
            if layout.len() >= CATCH_UP_BYTES {
                break;
            }
        }
        Some(Bytes::copy_from_slice(layout.numbered(first_s)))
    }

    fn shape<'a>(&self, replay: &'a Replay) -> Shape<'a> {
        let after = match self.follows {
            true => replay.at(self.sent_s),
            false => None,
        };
        Shape::new(self.format, replay.last_s(), after)
    }

    fn stall(&mut self, now: Instant) -> Wrote {
        self.stalled_since = Some(now);
        Wrote::Stalled
    }
}

/// How many dispatches to lay out at once, and the bytes of their bodies.
fn first_of<'a>(dispatches: impl Iterator<Item = &'a Rc<Dispatch>>) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for dispatch in dispatches {
        count += 1;
        bytes += dispatch.body.len() as u64;
        if bytes >= AT_ONCE_BYTES {
            break;
        }
    }
    (count, bytes)
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
