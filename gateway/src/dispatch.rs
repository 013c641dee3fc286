//! Dispatches, and how they are laid out as WebSocket frames.
//!
//! A body is serialised once for the whole cluster. A core lays a batch of dispatches out
//! once, and for each session overwrites only the digits of `s`: of a send, nearly all is
//! the kernel's work, so copying the body into one buffer beats gathering it. What is not
//! plain JSON is made of the body once per core, when a session first needs it.

mod head;
mod layout;
mod own;

pub use layout::{Layout, Layouts, Shape};
pub use own::Tally;

use std::{
    cell::{OnceCell, RefCell},
    rc::{Rc, Weak},
    time::Instant,
};

use bytes::Bytes;
use guildhall_shared::gateway::EventKind;

use crate::{
    codec::etf,
    compress::{Compressors, zlib, zstd},
    format::{Compression, Encoding, Format},
};
use head::Head;
use own::Counted;

/// Chained forms of one body, each with its own predecessor: sessions of one guild share
/// one, those in several guilds may see other orders.
const CHAINED_MAX: usize = 2;
/// A chained form is made where at least one in this many sessions may use it.
const CHAINED_SHARE: usize = 4;
/// Longest body that is chained, and what of its predecessor it may point to; far below the
/// window of either stream. Longer bodies gain little.
const CHAINED_BYTES_MAX: usize = 16 * 1024;

/// One dispatch of one core, shared by all sessions that get it, or made for one of them.
#[derive(Debug)]
pub struct Dispatch {
    pub kind: EventKind,
    /// JSON of `d`. Exactly its own memory, as it stays in replay buffers.
    pub body: Bytes,
    /// When this core got it.
    pub at: Instant,
    /// It is one session's alone.
    own: Option<Counted>,
    /// Stays with the body: slow sockets and RESUME need it again. Each form is about as
    /// long as the body at most, and there are few.
    forms: OnceCell<Box<Forms>>,
}

/// What was made of a body.
#[derive(Debug, Default)]
struct Forms {
    etf: OnceCell<Bytes>,
    /// By encoding and kind of stream.
    alone: [[OnceCell<Bytes>; 2]; 2],
    /// Of JSON.
    chained: RefCell<Vec<Chained>>,
}

/// A dispatch compressed with another one before it.
#[derive(Debug)]
struct Chained {
    after: Weak<Dispatch>,
    compression: Compression,
    piece: Piece,
}

/// What of a compressed stream is one dispatch.
#[derive(Debug, Clone)]
struct Piece {
    bytes: Bytes,
    /// Where its `s` belongs; `None` if the head is not in it and belongs before it.
    s_at: Option<usize>,
}

impl Piece {
    /// Without the head.
    fn of_body(bytes: Bytes) -> Self {
        Self { bytes, s_at: None }
    }
}

impl Dispatch {
    pub fn new(kind: EventKind, body: &[u8], at: Instant) -> Rc<Self> {
        Rc::new(Self {
            kind,
            body: Bytes::copy_from_slice(body),
            at,
            own: None,
            forms: OnceCell::new(),
        })
    }

    /// For one session alone, which has all of its memory to itself: `tally` counts it.
    pub fn own(kind: EventKind, body: &[u8], at: Instant, tally: &Tally) -> Rc<Self> {
        Rc::new(Self {
            kind,
            body: Bytes::copy_from_slice(body),
            at,
            own: Some(tally.count(size_of::<Self>() + body.len())),
            forms: OnceCell::new(),
        })
    }

    /// Bytes that one session alone keeps with it; 0 if it may be others', too.
    pub fn own_bytes(&self) -> usize {
        self.own.as_ref().map_or(0, Counted::bytes)
    }

    fn forms(&self) -> &Forms {
        self.forms.get_or_init(Box::default)
    }

    /// `d` in an encoding.
    fn encoded(&self, encoding: Encoding) -> &[u8] {
        match encoding {
            Encoding::Json => &self.body,
            Encoding::Etf => self.forms().etf.get_or_init(|| {
                let mut term = Vec::with_capacity(self.body.len());
                if let Err(error) = etf::put_json(&mut term, &self.body) {
                    // Bodies are made by serialisers; whoever sees this has found a fault of ours.
                    tracing::error!(kind = self.kind.name(), %error, "a dispatch is not JSON");
                    term.clear();
                    term.push(etf::tag::NIL);
                }
                exact(term)
            }),
        }
    }

    /// The body and what follows it, perhaps the head too, compressed: with `after` if that is
    /// what the stream ends with and it is worth it, else alone.
    fn compressed(
        this: &Rc<Self>,
        head: Head,
        compression: Compression,
        after: Option<&Rc<Self>>,
        compressors: &mut Compressors,
    ) -> Piece {
        let chained =
            after.and_then(|after| Self::chained(this, head, compression, after, compressors));
        chained
            .unwrap_or_else(|| Piece::of_body(this.alone(head.encoding, compression, compressors)))
    }

    fn alone(
        &self,
        encoding: Encoding,
        compression: Compression,
        compressors: &mut Compressors,
    ) -> Bytes {
        let form = &self.forms().alone[usize::from(encoding == Encoding::Etf)]
            [usize::from(compression == Compression::Zstd)];
        form.get_or_init(|| {
            let text = [self.encoded(encoding), tail(encoding)].concat();
            exact(match compression {
                Compression::Zstd => compressors.zstd.compress(&[], &text),
                _ => compressors.zlib.deflate(&[], &text),
            })
        })
        .clone()
    }

    fn chained(
        this: &Rc<Self>,
        head: Head,
        compression: Compression,
        after: &Rc<Self>,
        compressors: &mut Compressors,
    ) -> Option<Piece> {
        let mut chained = this.forms().chained.borrow_mut();
        let known = chained.iter().find(|form| {
            form.compression == compression && form.after.as_ptr() == Rc::as_ptr(after)
        });
        if let Some(form) = known {
            return Some(form.piece.clone());
        }
        let count = chained
            .iter()
            .filter(|form| form.compression == compression)
            .count();
        if count == CHAINED_MAX
            || Rc::strong_count(after) * CHAINED_SHARE < Rc::strong_count(this)
            || this.body.len() > CHAINED_BYTES_MAX
            || this.body.contains(&0)
        {
            return None;
        }
        let piece = match compression {
            Compression::Zstd => this.body_after(head, after, compressors),
            _ => this.whole_after(head, after, compressors)?,
        };
        chained.push(Chained {
            after: Rc::downgrade(after),
            compression,
            piece: piece.clone(),
        });
        Some(piece)
    }

    /// For a zlib-stream: the head too, but for its `s`. The ones before `after` and this are
    /// equally long in every session, and so is the distance from one to the other.
    fn whole_after(
        &self,
        head: Head,
        after: &Self,
        compressors: &mut Compressors,
    ) -> Option<Piece> {
        // Deflate does not point at the first byte of a dictionary.
        let mut dictionary = vec![0];
        let cut = after.body.len().saturating_sub(CHAINED_BYTES_MAX);
        if cut == 0 {
            let before = Head {
                name: after.kind.name(),
                ..head
            };
            // Another one in every session. Text is never 0, so nothing is found in zeros.
            let s_at = before.put(&mut dictionary);
            dictionary[s_at..s_at + before.s_len()].fill(0);
        }
        dictionary.extend_from_slice(&after.body[cut..]);
        dictionary.extend_from_slice(head::JSON_TAIL);
        let len = head.len() + self.body.len() + head::JSON_TAIL.len();
        let mut text = Vec::with_capacity(len);
        let s_at = head.put(&mut text);
        text.extend_from_slice(&self.body);
        text.extend_from_slice(head::JSON_TAIL);
        let s = s_at..s_at + head.s_len();
        let (bytes, s_at) = compressors.zlib.deflate_around(&dictionary, &text, s)?;
        Some(Piece {
            bytes: exact(bytes),
            s_at: Some(s_at),
        })
    }

    /// For a zstd-stream: what follows the head, in whose place the dictionary has zeros.
    fn body_after(&self, head: Head, after: &Self, compressors: &mut Compressors) -> Piece {
        let before = &after.body[after.body.len().saturating_sub(CHAINED_BYTES_MAX)..];
        let mut dictionary = Vec::with_capacity(before.len() + 1 + head.read_len());
        dictionary.extend_from_slice(before);
        dictionary.extend_from_slice(head::JSON_TAIL);
        dictionary.resize(dictionary.len() + head.read_len(), 0);
        let text = [&self.body[..], head::JSON_TAIL].concat();
        Piece::of_body(exact(compressors.zstd.compress(&dictionary, &text)))
    }
}

/// In memory of its own length.
fn exact(bytes: Vec<u8>) -> Bytes {
    bytes.into_boxed_slice().into()
}

/// What follows `d`.
fn tail(encoding: Encoding) -> &'static [u8] {
    match encoding {
        Encoding::Json => head::JSON_TAIL,
        Encoding::Etf => b"",
    }
}

/// A frame with a payload that is no dispatch. `opens`: it is the first of its stream.
pub fn payload(format: Format, opens: bool, json: &str) -> Vec<u8> {
    let mut term = Vec::new();
    let text = match format.encoding {
        Encoding::Json => json.as_bytes(),
        Encoding::Etf => {
            term.push(etf::VERSION);
            if let Err(error) = etf::put_json(&mut term, json.as_bytes()) {
                tracing::error!(%error, "a payload is not JSON");
            }
            &term
        }
    };
    let (start, stream): (&[u8], _) = match format.compression {
        Compression::None | Compression::Payload => {
            let kind = match format.encoding {
                Encoding::Json => Frame::Text,
                Encoding::Etf => Frame::Binary,
            };
            return frame(kind, text);
        }
        Compression::Zlib => (&zlib::STREAM_HEADER, zlib::stored(text)),
        Compression::Zstd => (&zstd::STREAM_HEADER, zstd::raw(text)),
    };
    let start = if opens { start } else { b"" };
    let mut out = Vec::with_capacity(start.len() + stream.len() + 10);
    put_frame_header(&mut out, Frame::Binary, start.len() + stream.len());
    out.extend_from_slice(start);
    out.extend_from_slice(&stream);
    out
}

/// The kinds of frame we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// Appends the header of an unfragmented, unmasked frame.
pub fn put_frame_header(out: &mut Vec<u8>, frame: Frame, len: usize) {
    let opcode = match frame {
        Frame::Text => 0x1,
        Frame::Binary => 0x2,
        Frame::Close => 0x8,
        Frame::Ping => 0x9,
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
#[path = "dispatch_tests.rs"]
mod tests;
