//! WebSocket frames from clients. fastwebsockets parses, unmasks and checks them; this file
//! only cuts the byte stream into whole frames first, so that one parser serves all
//! connections of a core and an idle connection holds no read buffer.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use fastwebsockets::{
    FragmentCollectorRead, OpCode, Payload, Role, WebSocketError, WebSocketRead,
    after_handshake_split,
};
use futures_util::FutureExt;
use guildhall_shared::gateway::CloseCode;
use tokio::io::{AsyncRead, ReadBuf};

/// Longest payload of a client's message, over all its fragments. Spec: gateway.md › Rate limits and size.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Two bytes of header, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// A message or control frame of a client.
#[derive(Debug)]
pub enum Inbound {
    /// A text or binary message, whole.
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
    /// A fragment; its message is not complete.
    Partial,
}

/// One per core.
pub struct Parser {
    feed: Feed,
    reader: WebSocketRead<Feed>,
}

/// The fragments of one connection's unfinished message.
pub struct Fragments {
    feed: Feed,
    reader: FragmentCollectorRead<Feed>,
    bytes: usize,
}

impl std::fmt::Debug for Fragments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fragments")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Length of the frame that `bytes` starts with; `None` if its header is not complete.
///
/// Errors: 1002 for a frame without mask, 4002 for a payload above [`MESSAGE_BYTES_MAX`].
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, CloseCode> {
    let &[_, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(CloseCode::Protocol);
    }
    let (extra, payload) = match (second & 0x7F, rest) {
        (126, &[a, b, ..]) => (2, u64::from(u16::from_be_bytes([a, b]))),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (8, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        (126 | 127, _) => return Ok(None),
        (len, _) => (0, u64::from(len)),
    };
    if payload > MESSAGE_BYTES_MAX as u64 {
        return Err(CloseCode::DecodeError);
    }
    Ok(Some(2 + extra + 4 + payload as usize))
}

impl Default for Parser {
    fn default() -> Self {
        let (feed, reader) = reader();
        Self { feed, reader }
    }
}

impl Parser {
    /// Parses one whole frame, as cut by [`frame_len`]. `fragments` is the connection's own.
    pub fn parse(
        &mut self,
        frame: &[u8],
        fragments: &mut Option<Box<Fragments>>,
    ) -> Result<Inbound, CloseCode> {
        let (fin, opcode) = (frame[0] & 0x80 != 0, frame[0] & 0x0F);
        let is_control = opcode & 0x8 != 0;
        if !is_control && (fragments.is_some() || !fin || opcode == 0) {
            return fragment(frame, fin, fragments);
        }
        self.feed.put(frame);
        let parsed = self
            .reader
            .read_frame::<_, std::convert::Infallible>(&mut |_| async { Ok(()) })
            .now_or_never();
        let parsed = match parsed {
            Some(Ok(frame)) => Ok((frame.opcode, frame.payload)),
            // A frame that was cut right never leaves the parser waiting for more.
            Some(Err(error)) => Err(close_code(&error)),
            None => Err(CloseCode::Protocol),
        };
        match parsed {
            Ok((opcode, payload)) => inbound(opcode, payload),
            Err(code) => {
                *self = Self::default(); // whatever the bad frame left behind
                Err(code)
            }
        }
    }
}

fn fragment(
    frame: &[u8],
    fin: bool,
    fragments: &mut Option<Box<Fragments>>,
) -> Result<Inbound, CloseCode> {
    let collector = fragments.get_or_insert_with(|| {
        let (feed, reader) = reader();
        Box::new(Fragments {
            feed,
            reader: FragmentCollectorRead::new(reader),
            bytes: 0,
        })
    });
    collector.bytes += frame.len().saturating_sub(6);
    if collector.bytes > MESSAGE_BYTES_MAX + HEADER_BYTES_MAX {
        return Err(CloseCode::DecodeError);
    }
    collector.feed.put(frame);
    let parsed = collector
        .reader
        .read_frame::<_, std::convert::Infallible>(&mut |_| async { Ok(()) })
        .now_or_never();
    match parsed {
        Some(Ok(frame)) => {
            let (opcode, payload) = (frame.opcode, frame.payload);
            let message = inbound(opcode, payload);
            *fragments = None;
            message
        }
        // Running out of bytes is how the collector says that the message goes on.
        Some(Err(WebSocketError::UnexpectedEOF)) | None if !fin => Ok(Inbound::Partial),
        Some(Err(error)) => Err(close_code(&error)),
        None => Err(CloseCode::Protocol),
    }
}

fn inbound(opcode: OpCode, payload: Payload<'_>) -> Result<Inbound, CloseCode> {
    match opcode {
        OpCode::Text | OpCode::Binary | OpCode::Continuation => {
            Ok(Inbound::Message(payload.into()))
        }
        OpCode::Ping => Ok(Inbound::Ping(payload.into())),
        OpCode::Pong => Ok(Inbound::Pong),
        OpCode::Close => match *payload {
            [] => Ok(Inbound::Close(None)),
            [a, b, ref reason @ ..] if std::str::from_utf8(reason).is_ok() => {
                let code = u16::from_be_bytes([a, b]);
                match code {
                    1000..=1003 | 1007..=1011 | 3000..=4999 => Ok(Inbound::Close(Some(code))),
                    _ => Err(CloseCode::Protocol),
                }
            }
            [_] => Err(CloseCode::Protocol),
            _ => Err(CloseCode::InvalidUtf8),
        },
    }
}

fn close_code(error: &WebSocketError) -> CloseCode {
    match error {
        WebSocketError::InvalidUTF8 => CloseCode::InvalidUtf8,
        WebSocketError::FrameTooLarge => CloseCode::DecodeError,
        _ => CloseCode::Protocol,
    }
}

fn reader() -> (Feed, WebSocketRead<Feed>) {
    let feed = Feed::default();
    let (mut reader, _) = after_handshake_split(feed.clone(), tokio::io::sink(), Role::Server);
    reader.set_auto_close(false);
    reader.set_auto_pong(false);
    reader.set_max_message_size(MESSAGE_BYTES_MAX + 1);
    (feed, reader)
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

    fn read_all(mut bytes: &[u8]) -> (Vec<Inbound>, Option<CloseCode>) {
        let (mut parser, mut fragments, mut all) = (Parser::default(), None, Vec::new());
        loop {
            match frame_len(bytes) {
                Err(code) => return (all, Some(code)),
                Ok(Some(len)) if len <= bytes.len() => {
                    match parser.parse(&bytes[..len], &mut fragments) {
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
            matches!(&all[0], Inbound::Message(text) if text == b"whole"),
            "{all:?}"
        );
        assert!(matches!(&all[1], Inbound::Ping(text) if text == b"ping"));
        assert!(matches!(&all[2], Inbound::Message(text) if text == b"in three pieces"));
        assert!(matches!(&all[3], Inbound::Message(text) if text.len() == MESSAGE_BYTES_MAX));
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
        assert_eq!(
            read_all(&masked(0x88, &1005u16.to_be_bytes())).1,
            Some(CloseCode::Protocol)
        );
        let mut endless = masked(0x01, &[b'x'; 3000]);
        endless.extend(masked(0x00, &[b'x'; 3000]));
        assert_eq!(read_all(&endless).1, Some(CloseCode::DecodeError));
    }

    #[test]
    fn the_parser_recovers_after_another_connections_fault() {
        let mut parser = Parser::default();
        assert!(parser.parse(&masked(0xC1, b"bad"), &mut None).is_err());
        assert!(
            matches!(parser.parse(&masked(0x81, b"good"), &mut None), Ok(Inbound::Message(text)) if text == b"good")
        );
    }

    proptest! {
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
