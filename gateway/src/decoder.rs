//! For tests: a client's side of a connection.

use guildhall_spec::encodings::{Big, Stream, from_etf, inflate_whole};
use serde_json::Value;

use crate::{
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
    stream: Stream,
}

impl Decoder {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            stream: Stream::default(),
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
            (Compression::Payload, _) => inflate_whole(payload),
            (Compression::Zlib, _) => {
                assert_eq!(kind, Frame::Binary);
                self.stream.zlib(payload)
            }
            (Compression::Zstd, _) => {
                assert_eq!(kind, Frame::Binary);
                self.stream.zstd(payload)
            }
        };
        match self.format.encoding {
            Encoding::Json => serde_json::from_slice(&text).unwrap(),
            Encoding::Etf => from_etf(&text, Big::Numbers),
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
