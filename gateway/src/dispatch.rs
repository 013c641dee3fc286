//! Dispatches, and how they are laid out as WebSocket frames.
//!
//! A body is serialised once for the whole cluster. A core lays a batch of dispatches out
//! once, and for each session overwrites only the digits of `s`: of a send, nearly all is
//! the kernel's work, so copying the body into one buffer beats gathering it.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use guildhall_shared::gateway::EventKind;

/// Digits of `s`, padded with blanks behind its comma: frames of one dispatch are equally
/// long for every session. The padding follows the comma because twilight reads `s` out of
/// the text up to there.
const S_WIDTH: usize = 10;

/// One dispatch of one core, shared by all sessions that get it.
#[derive(Debug)]
pub struct Dispatch {
    pub kind: EventKind,
    /// JSON of `d`. Exactly its own memory, as it stays in replay buffers.
    pub body: Bytes,
    /// When this core got it.
    pub at: Instant,
}

impl Dispatch {
    pub fn new(kind: EventKind, body: &[u8], at: Instant) -> Rc<Self> {
        Rc::new(Self {
            kind,
            body: Bytes::copy_from_slice(body),
            at,
        })
    }

    /// Length of its text message, the same for every session.
    pub fn text_len(&self) -> usize {
        HEAD.len()
            + self.kind.name().len()
            + AFTER_NAME.len()
            + S_WIDTH
            + 1
            + AFTER_S.len()
            + self.body.len()
            + 1
    }
}

const HEAD: &[u8] = br#"{"t":""#;
const AFTER_NAME: &[u8] = br#"","s":"#;
const AFTER_S: &[u8] = br#""op":0,"d":"#;

/// Frames of consecutive dispatches, ready but for their `s`.
#[derive(Debug, Default)]
pub struct Layout {
    dispatches: Vec<Rc<Dispatch>>,
    bytes: Vec<u8>,
    /// Where the `s` of each dispatch starts in `bytes`.
    s_at: Vec<usize>,
}

impl Layout {
    pub fn of<'a>(dispatches: impl Iterator<Item = &'a Rc<Dispatch>>) -> Self {
        let mut layout = Self::default();
        for dispatch in dispatches {
            layout.push(dispatch);
        }
        layout
    }

    pub fn push(&mut self, dispatch: &Rc<Dispatch>) {
        put_frame_header(&mut self.bytes, Frame::Text, dispatch.text_len());
        self.bytes.extend_from_slice(HEAD);
        self.bytes
            .extend_from_slice(dispatch.kind.name().as_bytes());
        self.bytes.extend_from_slice(AFTER_NAME);
        self.s_at.push(self.bytes.len());
        self.bytes.extend_from_slice(&[b' '; S_WIDTH + 1]);
        self.bytes.extend_from_slice(AFTER_S);
        self.bytes.extend_from_slice(&dispatch.body);
        self.bytes.push(b'}');
        self.dispatches.push(dispatch.clone());
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether this is the layout of exactly these dispatches.
    pub fn is_of<'a>(&self, dispatches: impl ExactSizeIterator<Item = &'a Rc<Dispatch>>) -> bool {
        dispatches.len() == self.dispatches.len()
            && dispatches
                .zip(&self.dispatches)
                .all(|(a, b)| Rc::ptr_eq(a, b))
    }

    /// The frames, numbered `first_s`, `first_s + 1`, …
    pub fn numbered(&mut self, first_s: u64) -> &[u8] {
        for (s, &at) in (first_s..).zip(&self.s_at) {
            put_s(&mut self.bytes[at..=at + S_WIDTH], s);
        }
        &self.bytes
    }
}

/// Writes `s`, a comma, and blanks up to the end of `field`.
fn put_s(field: &mut [u8], s: u64) {
    let digits = s.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut rest = s;
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    field[digits] = b',';
    field[digits + 1..].fill(b' ');
}

/// The kinds of frame we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    Text,
    Close,
    Pong,
}

/// Appends the header of an unfragmented, unmasked frame.
pub fn put_frame_header(out: &mut Vec<u8>, frame: Frame, len: usize) {
    let opcode = match frame {
        Frame::Text => 0x1,
        Frame::Close => 0x8,
        Frame::Pong => 0xA,
    };
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(len as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// A whole frame.
pub fn frame(kind: Frame, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    put_frame_header(&mut out, kind, payload.len());
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sessions_frames_differ_in_s_alone() {
        let now = Instant::now();
        let one = Dispatch::new(EventKind::MessageCreate, br#"{"id":"1"}"#, now);
        let two = Dispatch::new(
            EventKind::TypingStart,
            format!("\"{}\"", "x".repeat(70_000)).as_bytes(),
            now,
        );
        let mut layout = Layout::of([&one, &two].into_iter());
        assert!(layout.is_of([&one, &two].into_iter()));
        assert!(!layout.is_of([&two, &one].into_iter()));
        assert!(!layout.is_of([&one].into_iter()));

        for first_s in [1, 9, 99, 123, 9_999_999_998] {
            let bytes = layout.numbered(first_s).to_vec();
            assert_eq!(bytes.len(), layout.len());
            assert_eq!(bytes[0], 0x81);
            let text = std::str::from_utf8(&bytes[2..2 + one.text_len()]).unwrap();
            assert_eq!(usize::from(bytes[1]), text.len());
            assert!(
                text.starts_with(&format!(r#"{{"t":"MESSAGE_CREATE","s":{first_s},"#)),
                "{text}"
            );
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(
                json,
                serde_json::json!({"t": "MESSAGE_CREATE", "s": first_s, "op": 0, "d": {"id": "1"}})
            );
            let rest = &bytes[2 + one.text_len()..];
            assert_eq!(rest[..2], [0x81, 127]);
            let json: serde_json::Value = serde_json::from_slice(&rest[10..]).unwrap();
            assert_eq!(json["s"], first_s + 1);
            assert_eq!(rest.len() - 10, two.text_len());
            assert!(
                rest[10..].starts_with(
                    format!(r#"{{"t":"TYPING_START","s":{},"#, first_s + 1).as_bytes()
                )
            );
        }
    }
}
