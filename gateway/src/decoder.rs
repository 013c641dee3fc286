//! For tests: a client's side of a stream, with the decoders that clients use.

use std::io::Cursor;

use flate2::{Decompress, FlushDecompress};
use serde_json::Value;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::{
    codec::etf,
    dispatch::Frame,
    format::{Compression, Encoding, Format},
};

const fn format(encoding: Encoding, compression: Compression) -> Format {
    Format {
        encoding,
        compression,
    }
}

/// All there are.
pub(crate) const FORMATS: [Format; 7] = [
    format(Encoding::Json, Compression::None),
    format(Encoding::Json, Compression::Payload),
    format(Encoding::Json, Compression::Zlib),
    format(Encoding::Json, Compression::Zstd),
    format(Encoding::Etf, Compression::None),
    format(Encoding::Etf, Compression::Zlib),
    format(Encoding::Etf, Compression::Zstd),
];

pub(crate) struct Decoder {
    format: Format,
    zlib: Decompress,
    zstd: DCtx<'static>,
}

impl Decoder {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            zlib: Decompress::new(true),
            zstd: DCtx::create(),
        }
    }

    /// The payloads of whole frames; control frames are left out.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<Value> {
        let frames = frames(bytes).into_iter();
        frames
            .filter(|(kind, _)| matches!(kind, Frame::Text | Frame::Binary))
            .map(|(kind, payload)| self.payload(kind, &payload))
            .collect()
    }

    fn payload(&mut self, kind: Frame, payload: &[u8]) -> Value {
        let text = match (self.format.compression, kind) {
            (Compression::None, _) | (Compression::Payload, Frame::Text) => payload.to_vec(),
            (Compression::Payload, _) => {
                let mut whole = Decompress::new(true);
                let text = inflate(&mut whole, payload);
                // It is at its end, with the right checksum.
                assert_eq!(whole.total_in(), payload.len() as u64);
                let status =
                    whole.decompress_vec(b"", &mut Vec::with_capacity(1), FlushDecompress::Finish);
                assert_eq!(status.unwrap(), flate2::Status::StreamEnd);
                text
            }
            (Compression::Zlib, _) => {
                assert_eq!(kind, Frame::Binary);
                assert!(payload.ends_with(&[0, 0, 0xFF, 0xFF]), "no flush");
                inflate(&mut self.zlib, payload)
            }
            (Compression::Zstd, _) => {
                assert_eq!(kind, Frame::Binary);
                unzstd(&mut self.zstd, payload)
            }
        };
        match self.format.encoding {
            Encoding::Json => serde_json::from_slice(&text).unwrap(),
            Encoding::Etf => {
                let mut cursor = Cursor::new(&text);
                let term = eetf::Term::decode(&mut cursor).unwrap();
                assert_eq!(cursor.position(), text.len() as u64);
                etf::tests::from_oracle(&term)
            }
        }
    }
}

/// All of what `bytes` hold; of a stream, what came of it so far.
pub(crate) fn inflate(decompress: &mut Decompress, mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    while !bytes.is_empty() || out.len() == out.capacity() {
        out.reserve(4096);
        let before = decompress.total_in();
        decompress
            .decompress_vec(bytes, &mut out, FlushDecompress::Sync)
            .unwrap();
        bytes = &bytes[(decompress.total_in() - before) as usize..];
    }
    out
}

fn unzstd(decoder: &mut DCtx<'_>, bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut room) = (Vec::new(), vec![0; 1 << 17]);
    let mut input = InBuffer::around(bytes);
    loop {
        let mut output = OutBuffer::around(&mut room[..]);
        let read = decoder.decompress_stream(&mut output, &mut input);
        read.map_err(zstd_safe::get_error_name).unwrap();
        out.extend_from_slice(output.as_slice());
        if input.pos() == bytes.len() && output.pos() < 1 << 17 {
            return out;
        }
    }
}

/// Cuts bytes into frames and their payloads.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(Frame, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let kind = match first {
            0x81 => Frame::Text,
            0x82 => Frame::Binary,
            0x88 => Frame::Close,
            0x8A => Frame::Pong,
            other => panic!("a frame of {other:#x}"),
        };
        let (len, rest) = match second {
            126 => (
                usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                &rest[2..],
            ),
            127 => {
                let len = u64::from_be_bytes(rest[..8].try_into().unwrap());
                (len as usize, &rest[8..])
            }
            len => (usize::from(*len), rest),
        };
        frames.push((kind, rest[..len].to_vec()));
        bytes = &rest[len..];
    }
    assert_eq!(bytes, b"", "half a frame");
    frames
}
