//! zlib (RFC 1950) and deflate (RFC 1951) in pieces.
//!
//! A piece starts and ends at a byte: stored blocks do by themselves, compressed ones by the
//! empty stored block of a sync flush, whose `00 00 FF FF` is how clients know that a message
//! is complete.

use std::ops::Range;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::LARGE_BYTES;

/// Starts a stream: deflate with a window of 32 KB.
pub const STREAM_HEADER: [u8; 2] = [0x78, 0x9C];
/// The empty stored block of a sync flush.
pub const FLUSH: [u8; 5] = [0x00, 0x00, 0x00, 0xFF, 0xFF];
/// An empty last block, which ends a stream.
pub const LAST_BLOCK: [u8; 2] = [0x03, 0x00];
/// Bytes of a stored block before its content.
pub const STORED_HEADER: usize = 5;
/// Longest stored block.
const STORED_BYTES_MAX: usize = 0xFFFF;
/// Slower levels gain about a percent on what we send.
const LEVEL: u32 = 6;

/// Makes pieces; one per core.
#[derive(Default)]
pub struct Zlib(Option<Box<Compress>>);

impl Zlib {
    /// `text` as blocks that end with a sync flush and point at nothing before them but
    /// `dictionary`, which whoever unpacks them must have had just before.
    pub fn deflate(&mut self, dictionary: &[u8], text: &[u8]) -> Vec<u8> {
        if text.len() > LARGE_BYTES {
            let mut fast = Compress::new(Compression::fast(), false);
            return deflate(&mut fast, text).unwrap_or_else(|| stored(text));
        }
        deflate(self.having_read(dictionary), text).unwrap_or_else(|| stored(text))
    }

    /// `text` as [`Self::deflate`] makes it, but for a gap inside: that is in the piece as it is,
    /// from the index that comes back, and what is written there is what is read. Zeros stand
    /// for it until then, so there must be none elsewhere in `text`.
    ///
    /// `None` if the compressor fails.
    pub fn deflate_around(
        &mut self,
        dictionary: &[u8],
        text: &[u8],
        gap: Range<usize>,
    ) -> Option<(Vec<u8>, usize)> {
        let len = u16::try_from(gap.len()).ok()?;
        let compress = self.having_read(dictionary);
        let mut out = deflate(compress, &text[..gap.start])?;
        // The empty block of the flush becomes that of the gap.
        let start = out.strip_suffix(&FLUSH[1..])?.len();
        out.truncate(start);
        put_stored_len(&mut out, len);
        let gap_at = out.len();
        out.resize(gap_at + gap.len(), 0);
        compress.set_dictionary(&out[gap_at..]).ok()?;
        out.extend_from_slice(&deflate(compress, &text[gap.end..])?);
        Some((out, gap_at))
    }

    /// A compressor behind `dictionary`.
    fn having_read(&mut self, dictionary: &[u8]) -> &mut Compress {
        let compress = self
            .0
            .get_or_insert_with(|| Box::new(Compress::new(Compression::new(LEVEL), false)));
        compress.reset();
        if !dictionary.is_empty() && compress.set_dictionary(dictionary).is_err() {
            compress.reset();
        }
        compress
    }
}

fn deflate(compress: &mut Compress, mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 2 + 64);
    loop {
        let before = compress.total_in();
        let status = compress.compress_vec(text, &mut out, FlushCompress::Sync);
        text = &text[(compress.total_in() - before) as usize..];
        match status {
            Ok(Status::Ok | Status::BufError) => {}
            Ok(Status::StreamEnd) | Err(_) => return None,
        }
        // Room left over is how deflate says that the flush is complete.
        if text.is_empty() && out.len() < out.capacity() {
            return Some(out);
        }
        out.reserve(text.len() / 2 + 64);
    }
}

/// `text` as it is, ended by a sync flush.
pub fn stored(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2 * STORED_HEADER);
    for part in text.chunks(STORED_BYTES_MAX) {
        put_stored_header(&mut out, part.len() as u16);
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&FLUSH);
    out
}

/// Starts a stored block of `len` bytes.
pub fn put_stored_header(out: &mut Vec<u8>, len: u16) {
    out.push(0);
    put_stored_len(out, len);
}

fn put_stored_len(out: &mut Vec<u8>, len: u16) {
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
}

/// Adler-32, which a whole zlib stream ends with, of texts that are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adler {
    a: u32,
    b: u32,
    /// Length of the text so far, modulo [`Self::MODULUS`].
    len: u32,
}

impl Adler {
    const MODULUS: u32 = 65_521;
    /// Bytes after which `b` must be reduced not to overflow.
    const STRIDE: usize = 5_552;

    pub fn of(text: &[u8]) -> Self {
        let (mut a, mut b) = (1, 0);
        for part in text.chunks(Self::STRIDE) {
            for &byte in part {
                a += u32::from(byte);
                b += a;
            }
            a %= Self::MODULUS;
            b %= Self::MODULUS;
        }
        let len = (text.len() % Self::MODULUS as usize) as u32;
        Self { a, b, len }
    }

    /// Of this text and `next` behind it.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        // Each byte of `next` counts this text's `a` again, without the 1 that both start with.
        let modulus = u64::from(Self::MODULUS);
        let carried = u64::from(next.len) * u64::from(self.a + Self::MODULUS - 1);
        let b = (u64::from(self.b) + u64::from(next.b) + carried) % modulus;
        Self {
            a: (self.a + next.a + Self::MODULUS - 1) % Self::MODULUS,
            b: b as u32,
            len: (self.len + next.len) % Self::MODULUS,
        }
    }

    pub fn to_be_bytes(self) -> [u8; 4] {
        (self.b << 16 | self.a).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};
    use guildhall_spec::encodings::inflate;
    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
        let word = prop_oneof![
            Just("\"id\":".to_owned()),
            Just("aaaa".to_owned()),
            "[a-z]{1,9}",
        ];
        let text = prop::collection::vec(word, 0..60).prop_map(|words| words.concat());
        prop::collection::vec((text.prop_map(String::into_bytes), any::<bool>()), 1..12)
    }

    fn long_bytes() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        (bytes, 1usize..400).prop_map(|(bytes, times)| bytes.repeat(times))
    }

    proptest! {
        #[test]
        fn pieces_fit_together_in_any_order(texts in texts()) {
            let mut zlib = Zlib::default();
            let mut decompress = Decompress::new(true);
            prop_assert_eq!(inflate(&mut decompress, &STREAM_HEADER), b"");
            let mut before: &[u8] = b"";
            for (text, as_it_is) in &texts {
                let piece = match as_it_is {
                    true => stored(text),
                    false => zlib.deflate(before, text),
                };
                prop_assert!(piece.ends_with(&[0, 0, 0xFF, 0xFF]));
                prop_assert_eq!(&inflate(&mut decompress, &piece), text);
                before = text;
            }
        }

        #[test]
        fn a_gap_reads_as_what_is_written_there(
            texts in texts(),
            filling in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let mut zlib = Zlib::default();
            let mut decompress = Decompress::new(true);
            prop_assert_eq!(inflate(&mut decompress, &STREAM_HEADER), b"");
            let mut before = Vec::new();
            for (text, leads) in &texts {
                let mut whole = b"lead ".to_vec();
                if *leads {
                    whole.extend_from_slice(text);
                }
                let gap = whole.len()..whole.len() + filling.len();
                whole.resize(gap.end, 0);
                whole.extend_from_slice(text);
                whole.extend_from_slice(b" rest");
                let around = zlib.deflate_around(&before, &whole, gap.clone());
                let (mut piece, at) = around.unwrap();
                prop_assert!(piece.ends_with(&[0, 0, 0xFF, 0xFF]));
                before.clone_from(&whole);
                piece[at..at + filling.len()].copy_from_slice(&filling);
                whole[gap].copy_from_slice(&filling);
                prop_assert_eq!(inflate(&mut decompress, &piece), whole);
            }
        }

        #[test]
        fn sums_are_those_of_the_whole(one in long_bytes(), two in long_bytes()) {
            let whole = [one.clone(), two.clone()].concat();
            prop_assert_eq!(Adler::of(&one).then(Adler::of(&two)), Adler::of(&whole));
            let mut stream = STREAM_HEADER.to_vec();
            stream.extend(stored(&whole));
            stream.extend(LAST_BLOCK);
            stream.extend(Adler::of(&whole).to_be_bytes());
            let mut decompress = Decompress::new(true);
            let mut out = Vec::with_capacity(whole.len() + 1);
            let status = decompress.decompress_vec(&stream, &mut out, FlushDecompress::Finish).unwrap();
            prop_assert_eq!(status, Status::StreamEnd);
            prop_assert_eq!(out, whole);
        }
    }

    #[test]
    fn large_texts_are_whole() {
        let text: Vec<u8> = (0..400_000u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> (n % 24)).to_le_bytes())
            .collect();
        let piece = Zlib::default().deflate(b"", &text);
        assert_eq!(inflate(&mut Decompress::new(false), &piece), text);
        let piece = stored(&text[..200_000]);
        assert_eq!(
            inflate(&mut Decompress::new(false), &piece),
            &text[..200_000]
        );
    }
}
