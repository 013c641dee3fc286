//! The head of a dispatch: all of the payload that stands before its `d`.
//!
//! It is equally long for every session, so that frames are laid out once and compressed
//! bodies may point across it.

use crate::{
    codec::etf::{self, tag},
    compress::zstd,
    format::Encoding,
};

/// Digits of `s` in JSON, padded with blanks behind the comma, not before: twilight reads
/// `s` out of the text up to there.
const S_WIDTH: usize = 10;
/// The same where `s` may be any number.
const S_WIDTH_WIDE: usize = 20;
/// Largest `s` of ordinary heads: Erlang's integers are signed and have 32 bits.
const S_MAX: u64 = i32::MAX as u64;

const JSON_START: &[u8] = br#"{"t":""#;
const JSON_AFTER_NAME: &[u8] = br#"","s":"#;
const JSON_AFTER_S: &[u8] = br#""op":0,"d":"#;
/// What follows `d`.
pub(super) const JSON_TAIL: &[u8] = b"}";

const ETF_BIG_BYTES: u8 = 8;
/// A key nobody reads: ETF has no blanks to pad with.
const ETF_PADDING_KEY: &[u8] = b"_";
/// Bytes of a binary before its content.
const BINARY_HEADER: usize = 5;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) encoding: Encoding,
    /// `t`.
    pub(super) name: &'static str,
    /// With room for any `s`; see [`is_wide`].
    pub(super) wide: bool,
    /// With the padding that zstd copies.
    pub(super) padded: bool,
}

/// Whether dispatches up to this `s` need wide heads, which happens to one session in a
/// million years.
pub(super) fn is_wide(last_s: u64) -> bool {
    last_s > S_MAX
}

impl Head {
    /// Bytes up to where copied padding belongs.
    pub(super) fn lead_len(self) -> usize {
        let fixed = match self.encoding {
            Encoding::Json => JSON_START.len() + JSON_AFTER_NAME.len(),
            Encoding::Etf => 2 + 4 + BINARY_HEADER + 1 + BINARY_HEADER + BINARY_HEADER + 1,
        };
        let padding = match (self.padded, self.encoding) {
            (false, _) => 0,
            (true, Encoding::Json) => zstd::PADDING,
            (true, Encoding::Etf) => {
                BINARY_HEADER + ETF_PADDING_KEY.len() + BINARY_HEADER + zstd::PADDING
            }
        };
        fixed + self.name.len() + self.s_len() + padding
    }

    /// Bytes behind that.
    pub(super) fn rest_len(self) -> usize {
        match self.encoding {
            Encoding::Json => JSON_AFTER_S.len(),
            Encoding::Etf => BINARY_HEADER + 2 + 2 + BINARY_HEADER + 1,
        }
    }

    pub(super) fn len(self) -> usize {
        self.lead_len() + self.rest_len()
    }

    /// Bytes that a client reads.
    pub(super) fn read_len(self) -> usize {
        self.len() + if self.padded { zstd::COPIED } else { 0 }
    }

    /// Bytes of `s` with all that depends on it.
    pub(super) fn s_len(self) -> usize {
        match (self.encoding, self.wide) {
            (Encoding::Json, false) => S_WIDTH + 1,
            (Encoding::Json, true) => S_WIDTH_WIDE + 1,
            (Encoding::Etf, false) => 1 + 4,
            (Encoding::Etf, true) => 3 + ETF_BIG_BYTES as usize,
        }
    }

    /// Appends the head but for its `s`; where that starts comes back.
    pub(super) fn put(self, out: &mut Vec<u8>) -> usize {
        match self.encoding {
            Encoding::Json => self.put_json(out),
            Encoding::Etf => self.put_etf(out),
        }
    }

    fn put_json(self, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(JSON_START);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(JSON_AFTER_NAME);
        let s_at = out.len();
        let padding = if self.padded { zstd::PADDING } else { 0 };
        out.resize(s_at + self.s_len() + padding, b' ');
        out.extend_from_slice(JSON_AFTER_S);
        s_at
    }

    fn put_etf(self, out: &mut Vec<u8>) -> usize {
        let keys = if self.padded { 5 } else { 4 };
        out.extend_from_slice(&[etf::VERSION, tag::MAP, 0, 0, 0, keys]);
        etf::put_binary(out, b"t");
        etf::put_binary(out, self.name.as_bytes());
        etf::put_binary(out, b"s");
        let s_at = out.len();
        out.resize(s_at + self.s_len(), 0);
        if self.padded {
            etf::put_binary(out, ETF_PADDING_KEY);
            out.push(tag::BINARY);
            let len = (zstd::PADDING + zstd::COPIED) as u32;
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&[b' '; zstd::PADDING]);
        }
        etf::put_binary(out, b"op");
        out.extend_from_slice(&[tag::SMALL_INTEGER, 0]);
        etf::put_binary(out, b"d");
        s_at
    }
}

/// Writes `s` into the field of a JSON head: digits, a comma, and blanks up to the end.
pub(super) fn put_json_s(field: &mut [u8], s: u64) {
    let digits = s.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut rest = s;
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    field[digits] = b',';
    field[digits + 1..].fill(b' ');
}

/// Writes `s` into the field of an ETF head.
pub(super) fn put_etf_s(field: &mut [u8], s: u64) {
    match field {
        [tag, small @ ..] if small.len() == 4 => {
            *tag = tag::INTEGER;
            small.copy_from_slice(&(s as u32).to_be_bytes());
        }
        [tag, len, sign, big @ ..] => {
            (*tag, *len, *sign) = (tag::SMALL_BIG, ETF_BIG_BYTES, 0);
            big.copy_from_slice(&s.to_le_bytes());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::gateway::EventKind;

    use super::*;

    #[test]
    fn heads_are_as_long_as_they_say() {
        for kind in EventKind::ALL {
            for n in 0..8 {
                let head = Head {
                    encoding: [Encoding::Json, Encoding::Etf][n & 1],
                    name: kind.name(),
                    wide: n & 2 != 0,
                    padded: n & 4 != 0,
                };
                let mut out = Vec::new();
                head.put(&mut out);
                assert_eq!(out.len(), head.len(), "{head:?}");
                assert!(
                    !head.padded || zstd::SPLITS.contains(&head.lead_len()),
                    "{head:?}"
                );
            }
        }
    }
}
