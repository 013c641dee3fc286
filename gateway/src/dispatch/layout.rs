//! Frames of dispatches, laid out once for all sessions that want them alike.

use std::{collections::VecDeque, ops::Range, rc::Rc};

use super::{
    Dispatch, Frame,
    head::{Head, is_wide, put_etf_s, put_json_s},
    put_frame_header,
};
use crate::{
    compress::{
        Compressors,
        zlib::{self, Adler},
        zstd,
    },
    format::{Compression, Encoding, Format},
};

/// Layouts of one flush that are kept to be found again.
const LAYOUTS_KEPT: usize = 8;
/// Dispatches at least this long are worth a stream of their own, for who asked for
/// compressed payloads. Bytes of the body.
const PAYLOAD_BYTES_MIN: usize = 2048;

/// In what sessions may differ that get the same dispatches.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    format: Format,
    /// Room for any `s`.
    wide: bool,
    /// What the client's stream ends with, if the first dispatch may be compressed with it.
    after: Option<&'a Rc<Dispatch>>,
}

impl<'a> Shape<'a> {
    /// `last_s`: of the last dispatch. `after`: the one that was last written, if nothing
    /// else was written to the stream since.
    pub fn new(format: Format, last_s: u64, after: Option<&'a Rc<Dispatch>>) -> Self {
        let wide = is_wide(last_s);
        let chains = format.encoding == Encoding::Json
            && matches!(format.compression, Compression::Zlib | Compression::Zstd)
            && !wide;
        Self {
            format,
            wide,
            after: after.filter(|_| chains),
        }
    }

    /// Uncompressed JSON.
    pub fn plain() -> Self {
        Self::new(Format::default(), 0, None)
    }
}

/// The layouts of a flush, and what makes them.
#[derive(Debug, Default)]
pub struct Layouts {
    kept: VecDeque<Layout>,
    compressors: Compressors,
}

impl Layouts {
    /// The layout of these dispatches, made unless there is one.
    pub fn of<'a>(
        &mut self,
        shape: Shape<'_>,
        dispatches: impl ExactSizeIterator<Item = &'a Rc<Dispatch>> + Clone,
    ) -> &mut Layout {
        let known = self
            .kept
            .iter()
            .position(|layout| layout.is_of(shape, dispatches.clone()));
        match known {
            Some(known) => &mut self.kept[known],
            None => {
                if self.kept.len() == LAYOUTS_KEPT {
                    self.kept.pop_back();
                }
                let layout = Layout::shaped(shape, dispatches, &mut self.compressors);
                self.kept.push_front(layout);
                &mut self.kept[0]
            }
        }
    }

    pub fn compressors(&mut self) -> &mut Compressors {
        &mut self.compressors
    }

    /// Lets go of the dispatches that layouts hold.
    pub fn clear(&mut self) {
        self.kept.clear();
    }
}

/// Frames of consecutive dispatches, ready but for their `s`.
#[derive(Debug)]
pub struct Layout {
    format: Format,
    wide: bool,
    after: Option<Rc<Dispatch>>,
    dispatches: Vec<Rc<Dispatch>>,
    bytes: Vec<u8>,
    /// Where the `s` of each dispatch starts in `bytes`.
    s_at: Vec<usize>,
    sums: Vec<Sum>,
}

/// A checksum over an `s`.
#[derive(Debug)]
struct Sum {
    head: Range<usize>,
    /// Of what follows the head.
    rest: Adler,
    /// Where it belongs.
    at: usize,
}

impl Layout {
    pub fn new(shape: Shape<'_>) -> Self {
        Self {
            format: shape.format,
            wide: shape.wide,
            after: shape.after.cloned(),
            dispatches: Vec::new(),
            bytes: Vec::new(),
            s_at: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// In uncompressed JSON.
    pub fn of<'a>(dispatches: impl Iterator<Item = &'a Rc<Dispatch>>) -> Self {
        Self::shaped(Shape::plain(), dispatches, &mut Compressors::default())
    }

    pub fn shaped<'a>(
        shape: Shape<'_>,
        dispatches: impl Iterator<Item = &'a Rc<Dispatch>>,
        compressors: &mut Compressors,
    ) -> Self {
        let mut layout = Self::new(shape);
        for dispatch in dispatches {
            layout.push(dispatch, compressors);
        }
        layout
    }

    pub fn push(&mut self, dispatch: &Rc<Dispatch>, compressors: &mut Compressors) {
        let Format {
            encoding,
            compression,
        } = self.format;
        let head = Head {
            encoding,
            name: dispatch.kind.name(),
            wide: self.wide,
            padded: compression == Compression::Zstd,
        };
        match compression {
            Compression::None => self.push_plain(dispatch, head),
            Compression::Payload if dispatch.body.len() < PAYLOAD_BYTES_MIN => {
                self.push_plain(dispatch, head);
            }
            Compression::Payload => self.push_payload(dispatch, head, compressors),
            Compression::Zlib | Compression::Zstd => {
                let after = match (encoding, self.wide) {
                    (Encoding::Json, false) => self.dispatches.last().or(self.after.as_ref()),
                    _ => None,
                };
                let piece = Dispatch::compressed(dispatch, head, compression, after, compressors);
                match (piece.s_at, compression) {
                    (Some(s_at), _) => self.push_whole(&piece.bytes, s_at),
                    (None, Compression::Zlib) => self.push_zlib(head, &piece.bytes),
                    (None, _) => self.push_zstd(head, &piece.bytes),
                }
            }
        }
        self.dispatches.push(dispatch.clone());
    }

    fn push_plain(&mut self, dispatch: &Dispatch, head: Head) {
        let frame = match head.encoding {
            Encoding::Json => Frame::Text,
            Encoding::Etf => Frame::Binary,
        };
        let body = dispatch.encoded(head.encoding);
        let tail = super::tail(head.encoding);
        put_frame_header(&mut self.bytes, frame, head.len() + body.len() + tail.len());
        self.put_head(head);
        self.bytes.extend_from_slice(body);
        self.bytes.extend_from_slice(tail);
    }

    /// Head and body in one, with room for `s`.
    fn push_whole(&mut self, piece: &[u8], s_at: usize) {
        put_frame_header(&mut self.bytes, Frame::Binary, piece.len());
        self.s_at.push(self.bytes.len() + s_at);
        self.bytes.extend_from_slice(piece);
    }

    /// The head in a stored block, then the body.
    fn push_zlib(&mut self, head: Head, body: &[u8]) {
        let len = zlib::STORED_HEADER + head.len() + body.len();
        put_frame_header(&mut self.bytes, Frame::Binary, len);
        zlib::put_stored_header(&mut self.bytes, head.len() as u16);
        self.put_head(head);
        self.bytes.extend_from_slice(body);
    }

    /// The head in a block that sets the repeat offsets, then the body.
    fn push_zstd(&mut self, head: Head, body: &[u8]) {
        let len = zstd::HEAD_BYTES + head.len() + body.len();
        put_frame_header(&mut self.bytes, Frame::Binary, len);
        let s_at = &mut self.s_at;
        zstd::put_head(&mut self.bytes, head.lead_len(), head.len(), |out| {
            s_at.push(head.put(out));
        });
        self.bytes.extend_from_slice(body);
    }

    /// A zlib stream of its own.
    fn push_payload(&mut self, dispatch: &Dispatch, head: Head, compressors: &mut Compressors) {
        let body = dispatch.alone(head.encoding, Compression::Zlib, compressors);
        let sum_len = size_of::<u32>();
        let len = zlib::STREAM_HEADER.len()
            + zlib::STORED_HEADER
            + head.len()
            + body.len()
            + zlib::LAST_BLOCK.len()
            + sum_len;
        put_frame_header(&mut self.bytes, Frame::Binary, len);
        self.bytes.extend_from_slice(&zlib::STREAM_HEADER);
        zlib::put_stored_header(&mut self.bytes, head.len() as u16);
        let start = self.bytes.len();
        self.put_head(head);
        self.bytes.extend_from_slice(&body);
        self.bytes.extend_from_slice(&zlib::LAST_BLOCK);
        let at = self.bytes.len();
        let text = Adler::of(dispatch.encoded(head.encoding));
        self.sums.push(Sum {
            head: start..start + head.len(),
            rest: text.then(Adler::of(super::tail(head.encoding))),
            at,
        });
        self.bytes.resize(at + sum_len, 0);
    }

    fn put_head(&mut self, head: Head) {
        self.s_at.push(head.put(&mut self.bytes));
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether this is the layout of exactly these dispatches in this shape.
    pub fn is_of<'a>(
        &self,
        shape: Shape<'_>,
        dispatches: impl ExactSizeIterator<Item = &'a Rc<Dispatch>>,
    ) -> bool {
        dispatches.len() == self.dispatches.len()
            && self.format == shape.format
            && self.wide == shape.wide
            && self.after.as_ref().map(Rc::as_ptr) == shape.after.map(Rc::as_ptr)
            && dispatches
                .zip(&self.dispatches)
                .all(|(a, b)| Rc::ptr_eq(a, b))
    }

    /// The frames, numbered `first_s`, `first_s + 1`, …
    pub fn numbered(&mut self, first_s: u64) -> &[u8] {
        let head = Head {
            encoding: self.format.encoding,
            name: "",
            wide: self.wide,
            padded: false,
        };
        let len = head.s_len();
        let fields = (first_s..).zip(self.s_at.iter().map(|&at| at..at + len));
        match head.encoding {
            Encoding::Json => fields.for_each(|(s, at)| put_json_s(&mut self.bytes[at], s)),
            Encoding::Etf => fields.for_each(|(s, at)| put_etf_s(&mut self.bytes[at], s)),
        }
        for sum in &self.sums {
            let adler = Adler::of(&self.bytes[sum.head.clone()]).then(sum.rest);
            self.bytes[sum.at..sum.at + size_of::<u32>()].copy_from_slice(&adler.to_be_bytes());
        }
        &self.bytes
    }
}
