//! WebSocket frames from clients. fastwebsockets parses, unmasks and checks them; this file
//! only cuts the byte stream into whole frames first, so that one parser serves all
//! connections of a core and an idle connection holds no read buffer, and puts the
//! fragments of a message together: its own collector takes a message that ends within a
//! character, or that begins within another one.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use fastwebsockets::{OpCode, Role, WebSocketError, WebSocketRead, after_handshake_split};
use futures_util::FutureExt;
use guildhall_shared::gateway::CloseCode;
use tokio::io::{AsyncRead, ReadBuf};

/// Longest payload of a client's message, over all its fragments, of bots and before IDENTIFY.
/// Spec: gateway.md › Rate limits and size.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// The same of a person's session: such clients name all their guilds in one op 37.
pub const PERSON_MESSAGE_BYTES_MAX: usize = 15 * 1024;

/// Longest payload of a ping, pong or close. Spec: RFC 6455, 5.5.
const CONTROL_BYTES_MAX: u8 = 125;

/// A message or control frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A message of valid UTF-8, whole.
    Text(Vec<u8>),
    /// A binary message, whole.
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
    /// A fragment; its message is not complete.
    Partial,
}

/// One per core.
pub struct Parser {
    /// Of any connection; each may have less.
    message_bytes_max: usize,
    feed: Feed,
    reader: WebSocketRead<Feed>,
}

/// The fragments of one connection's unfinished message.
#[derive(Debug)]
pub struct Fragments {
    is_text: bool,
    payload: Vec<u8>,
    /// Of a text, `payload` is known to be UTF-8 up to here.
    checked: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(PERSON_MESSAGE_BYTES_MAX)
    }
}

impl Parser {
    /// A parser of messages of up to this many bytes, whoever sends them.
    pub fn new(message_bytes_max: usize) -> Self {
        let feed = Feed::default();
        let (mut reader, _) = after_handshake_split(feed.clone(), tokio::io::sink(), Role::Server);
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        reader.set_max_message_size(message_bytes_max + 1);
        Self {
            message_bytes_max,
            feed,
            reader,
        }
    }

    /// Length of the frame that `bytes` starts with; `None` if its header is not complete.
    /// `bytes_max`: of a message of this connection.
    ///
    /// Errors: 1002 for a frame without mask and for a long control frame, of which
    /// fastwebsockets minds pings only; 4002 for a payload that is too long.
    pub fn frame_len(&self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, CloseCode> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let is_long_control = first & 0x08 != 0 && second & 0x7F > CONTROL_BYTES_MAX;
        if second & 0x80 == 0 || is_long_control {
            return Err(CloseCode::Protocol);
        }
        let (extra, payload) = match (second & 0x7F, rest) {
            (126, &[a, b, ..]) => (2, u64::from(u16::from_be_bytes([a, b]))),
            (127, &[a, b, c, d, e, f, g, h, ..]) => {
                (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            (126 | 127, _) => return Ok(None),
            (len, _) => (0, u64::from(len)),
        };
        if payload > bytes_max.min(self.message_bytes_max) as u64 {
            return Err(CloseCode::DecodeError);
        }
        Ok(Some(2 + extra + 4 + payload as usize))
    }

    /// Parses one whole frame, as cut by [`Self::frame_len`]. `fragments` is the connection's own.
    ///
    /// Errors: 1002, 1007 and 4002, as for [`Self::frame_len`].
    pub fn parse(
        &mut self,
        frame: &[u8],
        fragments: &mut Option<Box<Fragments>>,
        bytes_max: usize,
    ) -> Result<Inbound, CloseCode> {
        self.feed.put(frame);
        let parsed = self
            .reader
            .read_frame::<_, std::convert::Infallible>(&mut |_| async { Ok(()) })
            .now_or_never();
        let parsed = match parsed {
            Some(Ok(frame)) => Ok(frame),
            // A frame that was cut right never leaves the parser waiting for more.
            Some(Err(error)) => Err(close_code(&error)),
            None => Err(CloseCode::Protocol),
        };
        match parsed {
            Ok(frame) => {
                let payload = &frame.payload;
                match frame.opcode {
                    OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                        message(frame.opcode, frame.fin, payload, fragments, bytes_max)
                    }
                    OpCode::Ping => Ok(Inbound::Ping(payload.to_vec())),
                    OpCode::Pong => Ok(Inbound::Pong(payload.to_vec())),
                    OpCode::Close => close(payload),
                }
            }
            Err(code) => {
                // Whatever the bad frame left behind.
                *self = Self::new(self.message_bytes_max);
                Err(code)
            }
        }
    }
}

/// A message, or a part of one.
fn message(
    opcode: OpCode,
    fin: bool,
    payload: &[u8],
    fragments: &mut Option<Box<Fragments>>,
    bytes_max: usize,
) -> Result<Inbound, CloseCode> {
    let continues = opcode == OpCode::Continuation;
    if continues != fragments.is_some() {
        return Err(CloseCode::Protocol);
    }
    if fin && !continues {
        let payload = payload.to_vec();
        return Ok(if opcode == OpCode::Text {
            Inbound::Text(payload)
        } else {
            Inbound::Binary(payload)
        });
    }
    let started = fragments.get_or_insert_with(|| {
        Box::new(Fragments {
            is_text: opcode == OpCode::Text,
            payload: Vec::new(),
            checked: 0,
        })
    });
    if started.payload.len() + payload.len() > bytes_max {
        return Err(CloseCode::DecodeError);
    }
    started.payload.extend_from_slice(payload);
    if started.is_text {
        started.check(fin)?;
    }
    if !fin {
        return Ok(Inbound::Partial);
    }
    let Some(whole) = fragments.take() else {
        return Err(CloseCode::Protocol);
    };
    Ok(if whole.is_text {
        Inbound::Text(whole.payload)
    } else {
        Inbound::Binary(whole.payload)
    })
}

impl Fragments {
    /// Only the last character may be incomplete, and only while the message is.
    fn check(&mut self, fin: bool) -> Result<(), CloseCode> {
        match std::str::from_utf8(&self.payload[self.checked..]) {
            Ok(_) => self.checked = self.payload.len(),
            Err(error) if error.error_len().is_none() && !fin => {
                self.checked += error.valid_up_to();
            }
            Err(_) => return Err(CloseCode::InvalidUtf8),
        }
        Ok(())
    }
}

fn close(payload: &[u8]) -> Result<Inbound, CloseCode> {
    match *payload {
        [] => Ok(Inbound::Close(None)),
        [_] => Err(CloseCode::Protocol),
        [a, b, ref reason @ ..] => {
            let code = u16::from_be_bytes([a, b]);
            if !matches!(code, 1000..=1003 | 1007..=1011 | 3000..=4999) {
                Err(CloseCode::Protocol)
            } else if std::str::from_utf8(reason).is_err() {
                Err(CloseCode::InvalidUtf8)
            } else {
                Ok(Inbound::Close(Some(code)))
            }
        }
    }
}

fn close_code(error: &WebSocketError) -> CloseCode {
    match error {
        WebSocketError::InvalidUTF8 => CloseCode::InvalidUtf8,
        WebSocketError::FrameTooLarge => CloseCode::DecodeError,
        _ => CloseCode::Protocol,
    }
}

/// Bytes put in on one side come out on the other; at their end the stream ends.
#[derive(Clone, Default)]
struct Feed(Rc<RefCell<(Vec<u8>, usize)>>);

impl Feed {
    fn put(&self, bytes: &[u8]) {
        let (buffer, read) = &mut *self.0.borrow_mut();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        *read = 0;
    }
}

impl AsyncRead for Feed {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (buffer, read) = &mut *self.0.borrow_mut();
        let len = out.remaining().min(buffer.len() - *read);
        out.put_slice(&buffer[*read..*read + len]);
        *read += len;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..=125 => out.push(0x80 | len as u8),
            len => {
                out.push(0x80 | 126);
                out.extend((len as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend(mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        out
    }

    fn read_all(bytes: &[u8]) -> (Vec<Inbound>, Option<CloseCode>) {
        read_up_to(MESSAGE_BYTES_MAX, bytes)
    }

    fn read_up_to(max: usize, mut bytes: &[u8]) -> (Vec<Inbound>, Option<CloseCode>) {
        let (mut parser, mut fragments, mut all) = (Parser::default(), None, Vec::new());
        loop {
            match parser.frame_len(bytes, max) {
                Err(code) => return (all, Some(code)),
                Ok(Some(len)) if len <= bytes.len() => {
                    match parser.parse(&bytes[..len], &mut fragments, max) {
                        Ok(Inbound::Partial) => {}
                        Ok(inbound) => all.push(inbound),
                        Err(code) => return (all, Some(code)),
                    }
                    bytes = &bytes[len..];
                }
                Ok(_) => return (all, None),
            }
        }
    }

    #[test]
    fn messages_whole_and_in_pieces() {
        let mut bytes = masked(0x81, b"whole");
        bytes.extend(masked(0x01, b"in "));
        bytes.extend(masked(0x89, b"ping"));
        bytes.extend(masked(0x00, b"three "));
        bytes.extend(masked(0x80, b"pieces"));
        bytes.extend(masked(0x82, &[b'x'; MESSAGE_BYTES_MAX]));
        bytes.extend(masked(0x88, &1000u16.to_be_bytes()));
        let (all, fault) = read_all(&bytes);
        assert_eq!(fault, None);
        assert!(
            matches!(&all[0], Inbound::Text(text) if text == b"whole"),
            "{all:?}"
        );
        assert!(matches!(&all[1], Inbound::Ping(text) if text == b"ping"));
        assert!(matches!(&all[2], Inbound::Text(text) if text == b"in three pieces"));
        assert!(matches!(&all[3], Inbound::Binary(bytes) if bytes.len() == MESSAGE_BYTES_MAX));
        assert!(matches!(all[4], Inbound::Close(Some(1000))));
    }

    #[test]
    fn faults_have_their_codes() {
        let unmasked = [0x81, 0x02, b'h', b'i'];
        assert_eq!(read_all(&unmasked).1, Some(CloseCode::Protocol));
        assert_eq!(
            read_all(&masked(0x81, &[0xFF, 0xFE])).1,
            Some(CloseCode::InvalidUtf8)
        );
        assert_eq!(
            read_all(&masked(0x81, &[b'x'; MESSAGE_BYTES_MAX + 1])).1,
            Some(CloseCode::DecodeError)
        );
        assert_eq!(
            read_all(&masked(0xC1, b"reserved bit")).1,
            Some(CloseCode::Protocol)
        );
        assert_eq!(
            read_all(&masked(0x83, b"opcode 3")).1,
            Some(CloseCode::Protocol)
        );
        assert_eq!(
            read_all(&masked(0x80, b"nothing to continue")).1,
            Some(CloseCode::Protocol)
        );
        assert_eq!(read_all(&masked(0x88, &[1])).1, Some(CloseCode::Protocol));
        for first in [0x88, 0x89, 0x8A] {
            let long = masked(first, &[b'x'; 126]);
            assert_eq!(read_all(&long).1, Some(CloseCode::Protocol));
        }
        assert_eq!(
            read_all(&masked(0x88, &1005u16.to_be_bytes())).1,
            Some(CloseCode::Protocol)
        );
        for second in [0x01, 0x81, 0x02, 0x82] {
            let mut within = masked(0x01, b"one message");
            within.extend(masked(second, b"within another"));
            assert_eq!(read_all(&within).1, Some(CloseCode::Protocol));
        }
        for (first, last) in [
            (&b"\xC3"[..], &b""[..]),
            (&b""[..], &b"\xF0\x9F"[..]),
            (&b"\xC3"[..], &b"x"[..]),
        ] {
            let mut cut = masked(0x01, first);
            cut.extend(masked(0x80, last));
            assert_eq!(read_all(&cut).1, Some(CloseCode::InvalidUtf8));
        }
        let mut endless = masked(0x01, &[b'x'; 3000]);
        endless.extend(masked(0x00, &[b'x'; 3000]));
        assert_eq!(read_all(&endless).1, Some(CloseCode::DecodeError));
    }

    #[test]
    fn a_person_says_more_at_once() {
        let max = PERSON_MESSAGE_BYTES_MAX;
        let whole = masked(0x81, &vec![b'x'; max]);
        let (all, fault) = read_up_to(max, &whole);
        assert_eq!(fault, None);
        assert!(matches!(&all[..], [Inbound::Text(text)] if text.len() == max));
        let mut pieces = masked(0x01, &vec![b'x'; max - 5000]);
        pieces.extend(masked(0x80, &[b'x'; 5000]));
        let (all, fault) = read_up_to(max, &pieces);
        assert_eq!(fault, None);
        assert!(matches!(&all[..], [Inbound::Text(text)] if text.len() == max));
        let long = masked(0x81, &vec![b'x'; max + 1]);
        assert_eq!(read_up_to(max, &long).1, Some(CloseCode::DecodeError));
        pieces.extend(masked(0x01, &vec![b'x'; max]));
        pieces.extend(masked(0x80, b"x"));
        assert_eq!(read_up_to(max, &pieces).1, Some(CloseCode::DecodeError));
    }

    #[test]
    fn the_parser_recovers_after_another_connections_fault() {
        let mut parser = Parser::default();
        let mut parse = |frame: &[u8]| parser.parse(frame, &mut None, MESSAGE_BYTES_MAX);
        assert!(parse(&masked(0xC1, b"bad")).is_err());
        assert!(
            matches!(parse(&masked(0x81, b"good")), Ok(Inbound::Text(text)) if text == b"good")
        );
    }

    proptest! {
        /// However a text is cut, within characters too, it comes out whole; bytes that are no
        /// text are refused, at the latest with their last fragment.
        #[test]
        fn fragments_make_the_message(
            text in prop_oneof!["\\PC{0,60}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..60)],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            is_text in any::<bool>(),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let edges: Vec<usize> = [0].into_iter().chain(cuts).chain([text.len()]).collect();
            let mut bytes = Vec::new();
            for (at, edge) in edges.windows(2).enumerate() {
                let opcode = if at > 0 { 0 } else if is_text { 1 } else { 2 };
                let fin = if at + 2 == edges.len() { 0x80 } else { 0 };
                bytes.extend(masked(fin | opcode, &text[edge[0]..edge[1]]));
                bytes.extend(masked(0x8A, b"pong"));
            }
            let (all, fault) = read_all(&bytes);
            let messages: Vec<_> = all.into_iter().filter(|inbound| !matches!(inbound, Inbound::Pong(_))).collect();
            if is_text && std::str::from_utf8(&text).is_err() {
                prop_assert_eq!(fault, Some(CloseCode::InvalidUtf8));
                prop_assert!(messages.is_empty());
            } else {
                prop_assert_eq!(fault, None);
                let whole = if is_text { Inbound::Text(text) } else { Inbound::Binary(text) };
                prop_assert_eq!(messages, vec![whole]);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn frames_of_any_kind_never_panic(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20)) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| masked(*first, payload)).collect();
            let _ = read_all(&bytes);
        }
    }
}
