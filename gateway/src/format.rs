//! How a connection wants its payloads: encoding and compression. Spec: gateway.md › Encodings.

use guildhall_shared::gateway::CloseCode;

/// What payloads are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    #[default]
    Json,
    /// Erlang's external term format.
    Etf,
}

/// What is done to payloads on their way to the client; clients never compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None,
    /// `compress` of IDENTIFY: a large dispatch is one whole zlib stream.
    Payload,
    /// One zlib stream for the connection, flushed behind each message.
    Zlib,
    /// One zstd frame for the connection, flushed behind each message.
    Zstd,
}

/// Both; of a connection it is fixed but for the `compress` of IDENTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Format {
    pub encoding: Encoding,
    pub compression: Compression,
}

impl Format {
    /// What the query of an upgrade asks for. Spec: gateway.md › Connection.
    ///
    /// Compression is a wish: one that is not known gets uncompressed payloads, which clients
    /// take in any mode.
    ///
    /// Errors: 4012 for a version other than 9 and 10, 4002 for an unknown encoding.
    pub fn from_query(query: Option<&str>) -> Result<Self, CloseCode> {
        let mut format = Self::default();
        let pairs = query.unwrap_or_default().split('&');
        for (key, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            match (key, value) {
                ("v", "9" | "10") => {}
                ("v", _) => return Err(CloseCode::InvalidApiVersion),
                ("encoding", "json") => format.encoding = Encoding::Json,
                ("encoding", "etf") => format.encoding = Encoding::Etf,
                ("encoding", _) => return Err(CloseCode::DecodeError),
                ("compress", "zlib-stream") => format.compression = Compression::Zlib,
                ("compress", "zstd-stream") => format.compression = Compression::Zstd,
                _ => {}
            }
        }
        Ok(format)
    }

    /// As IDENTIFY with `compress` makes it: plain JSON alone knows payload compression.
    #[must_use]
    pub fn with_payload_compression(self) -> Self {
        match self {
            Self {
                encoding: Encoding::Json,
                compression: Compression::None,
            } => Self {
                compression: Compression::Payload,
                ..self
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_may_come_in_any_order() {
        let plain = Format::default();
        let of = |query| Format::from_query(Some(query));
        assert_eq!(Format::from_query(None), Ok(plain));
        let zlib = Format {
            compression: Compression::Zlib,
            ..plain
        };
        assert_eq!(of("compress=zlib-stream&encoding=json&v=10"), Ok(zlib));
        let etf = Format {
            encoding: Encoding::Etf,
            compression: Compression::Zstd,
        };
        assert_eq!(of("v=9&encoding=etf&compress=zstd-stream"), Ok(etf));
        assert_eq!(of("encoding=json&v=9&compress=brotli"), Ok(plain));
        assert_eq!(of("v=11"), Err(CloseCode::InvalidApiVersion));
        assert_eq!(of("v=10&encoding=xml"), Err(CloseCode::DecodeError));
    }

    #[test]
    fn payload_compression_is_for_plain_json_alone() {
        let plain = Format::default();
        let payload = plain.with_payload_compression();
        assert_eq!(payload.compression, Compression::Payload);
        let etf = Format {
            encoding: Encoding::Etf,
            ..plain
        };
        assert_eq!(etf.with_payload_compression(), etf);
        let zlib = Format {
            compression: Compression::Zlib,
            ..plain
        };
        assert_eq!(zlib.with_payload_compression(), zlib);
    }
}
