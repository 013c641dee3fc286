//! zstd (RFC 8878) in pieces: blocks of one frame that lasts as long as its connection.
//!
//! A compressed block may refer to what earlier blocks left behind in the decoder: entropy
//! tables and the three *repeat offsets*. Tables are of no concern, as the first block of
//! a piece is compressed as the first of a frame and brings its own. The compressor takes
//! repeat offsets to be 1, 4 and 8 there, which in the middle of a stream they are not.
//! So the head in front of a compressed body, which is a block of our own making, sets them:
//! it copies padding from 8, then 4, then 1 byte before.

use std::sync::LazyLock;

use zstd_safe::{CCtx, CParameter, compress_bound};

use super::LARGE_BYTES;

/// Starts the frame: magic number, no checksum, a window of 1 MB.
pub const STREAM_HEADER: [u8; 6] = [0x28, 0xB5, 0x2F, 0xFD, 0x00, (WINDOW_LOG as u8 - 10) << 3];
/// How far back anything points, as a power of two: what every decoder must hold ready.
const WINDOW_LOG: u32 = 20;
const LEVEL: i32 = 3;
const LEVEL_LARGE: i32 = 1;
/// Longest block.
const BLOCK_BYTES_MAX: usize = 128 * 1024;
const BLOCK_HEADER: usize = 3;

/// Equal bytes that a head's literals have where the repeat offsets are set.
pub const PADDING: usize = 8;
/// Further such bytes that the client reads there.
pub const COPIED: usize = COPIES * COPY_BYTES;
const COPIES: usize = 3;
/// Long enough for the block to be shorter than its text, as the format demands.
const COPY_BYTES: usize = 8;
/// Code of a match of [`COPY_BYTES`].
const COPY_CODE: u8 = COPY_BYTES as u8 - 3;

/// Makes pieces; one per core.
#[derive(Default)]
pub struct Zstd(Option<CCtx<'static>>);

impl Zstd {
    /// `text` as blocks that point at nothing before them but `dictionary`, which whoever unpacks
    /// them must have had just before, and that need repeat offsets of 1, 4 and 8.
    pub fn compress(&mut self, dictionary: &[u8], text: &[u8]) -> Vec<u8> {
        self.blocks(dictionary, text).unwrap_or_else(|| raw(text))
    }

    fn blocks(&mut self, dictionary: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(context()?),
        };
        let level = match text.len() > LARGE_BYTES {
            true => LEVEL_LARGE,
            false => LEVEL,
        };
        context
            .set_parameter(CParameter::CompressionLevel(level))
            .ok()?;
        // No dictionary where it is empty.
        context.load_dictionary(dictionary).ok()?;
        let mut frame = Vec::with_capacity(compress_bound(text.len()));
        context.compress2(&mut frame, text).ok()?;
        strip(frame)
    }
}

fn context() -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    let parameters = [
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
        CParameter::WindowLog(WINDOW_LOG),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).ok()?;
    }
    Some(context)
}

/// The blocks of a whole frame without checksum, none of them marked as the last.
fn strip(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let descriptor = *frame.get(4)?;
    let single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!single_segment);
    let dictionary_id = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        log => 1 << log,
    };
    frame.drain(..(5 + window + dictionary_id + content_size).min(frame.len()));
    let mut at = 0;
    loop {
        let header = frame.get(at..at + BLOCK_HEADER)?;
        let (first, size) = (
            header[0],
            u32::from_le_bytes([header[0], header[1], header[2], 0]) >> 3,
        );
        let is_rle = first >> 1 & 3 == 1;
        if first & 1 != 0 {
            frame[at] &= !1;
            return Some(frame);
        }
        at += BLOCK_HEADER + if is_rle { 1 } else { size as usize };
    }
}

/// `text` as it is, which needs nothing and changes nothing.
pub fn raw(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + BLOCK_HEADER);
    for part in text.chunks(BLOCK_BYTES_MAX) {
        put_block_header(&mut out, 0, part.len());
        out.extend_from_slice(part);
    }
    out
}

fn put_block_header(out: &mut Vec<u8>, kind: u32, size: usize) {
    let header = (size as u32) << 3 | kind << 1;
    out.extend_from_slice(&header.to_le_bytes()[..BLOCK_HEADER]);
}

/// Length of [`put_head`]'s block beside its literals.
pub const HEAD_BYTES: usize = BLOCK_HEADER + LITERALS_HEADER + SEQUENCES_BYTES;
const LITERALS_HEADER: usize = 2;
/// Their number, their modes, the one code of their lengths, and a bit stream.
const SEQUENCES_BYTES: usize = 3 + BITS_BYTES;
const BITS_BYTES: usize = 6;
/// Where a head may be split: lengths whose codes make that many bytes.
pub const SPLITS: std::ops::Range<usize> = 32..128;

/// Appends a block that sets the repeat offsets to 1, 4 and 8.
///
/// `literals` is `len` bytes, of which the [`PADDING`] before `split` (in [`SPLITS`]) are equal;
/// the client reads [`COPIED`] more of them there.
pub fn put_head(out: &mut Vec<u8>, split: usize, len: usize, literals: impl FnOnce(&mut Vec<u8>)) {
    const COMPRESSED: u32 = 2;
    put_block_header(out, COMPRESSED, HEAD_BYTES - BLOCK_HEADER + len);
    // Raw literals with a size of 12 bits.
    const RAW_12: u16 = 1 << 2;
    out.extend_from_slice(&((len as u16) << 4 | RAW_12).to_le_bytes());
    literals(out);
    // Lengths of literals and offsets by the format's own tables, all matches of one length.
    const MODES: u8 = 1 << 2;
    out.extend_from_slice(&[COPIES as u8, MODES, COPY_CODE]);
    out.extend_from_slice(&sequences(split as u32));
}

/// The bit stream of three matches of offsets 8, 4 and 1, the first behind `literals` literals.
fn sequences(literals: u32) -> [u8; BITS_BYTES] {
    /// Codes of the offsets: the power of two in offset + 3; the rest follows in as many bits.
    /// 8 is 2^3 + 3 that way, 4 is 2^2 + 3, and 1 is 2^2 + 0.
    const OFFSET_CODES: [u8; COPIES] = [3, 2, 2];
    const OFFSET_EXTRA: [u32; COPIES] = [3, 3, 0];
    let (code, extra, extra_bits) = literals_code(literals);
    let lengths = LENGTHS.states([code, 0, 0]);
    let offsets = OFFSETS.states(OFFSET_CODES);

    // In the order in which they are read: the decoder starts at the end.
    let mut fields = [(0, 0); 12];
    let mut used = 0;
    let mut put = |value: u32, bits: u32| {
        fields[used] = (value, bits);
        used += 1;
    };
    put(lengths[0].state, LENGTHS.log);
    put(offsets[0].state, OFFSETS.log);
    for n in 0..COPIES {
        put(OFFSET_EXTRA[n], u32::from(OFFSET_CODES[n]));
        if n == 0 {
            put(extra, extra_bits);
        }
        if n + 1 < COPIES {
            put(lengths[n].next, lengths[n].bits);
            put(offsets[n].next, offsets[n].bits);
        }
    }
    let (mut stream, mut at) = (0u64, 0);
    for &(value, bits) in fields[..used].iter().rev() {
        stream |= u64::from(value) << at;
        at += bits;
    }
    // The highest bit marks the end; what fills up the last byte is above it.
    stream |= 1 << at;
    debug_assert!(
        at >= 8 * (BITS_BYTES as u32 - 1) && at < 8 * BITS_BYTES as u32,
        "{at}"
    );
    let mut bytes = [0; BITS_BYTES];
    bytes.copy_from_slice(&stream.to_le_bytes()[..BITS_BYTES]);
    bytes
}

/// Code, rest and bits of the rest of a length of literals, in [`SPLITS`].
fn literals_code(literals: u32) -> (u8, u32, u32) {
    match literals {
        0..40 => (22, literals & 7, 3),
        40..48 => (23, literals - 40, 3),
        48..64 => (24, literals - 48, 4),
        _ => (25, literals & 63, 6),
    }
}

/// A table of tANS states, as the decoder builds it.
struct Table {
    log: u32,
    /// Symbol, bits to read for the next state, and what to add to them.
    states: Vec<(u8, u32, u32)>,
}

/// Where the decoder is with one symbol, and how it comes to the next.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    state: u32,
    bits: u32,
    next: u32,
}

static LENGTHS: LazyLock<Table> = LazyLock::new(|| {
    let counts = [
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1,
        1, 1, -1, -1, -1, -1,
    ];
    Table::new(6, &counts)
});
static OFFSETS: LazyLock<Table> = LazyLock::new(|| {
    let counts = [
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ];
    Table::new(5, &counts)
});

impl Table {
    /// Of a distribution over `1 << log` states; -1 is a symbol of less than one.
    /// Spec: RFC 8878, 4.1.1.
    fn new(log: u32, counts: &[i32]) -> Self {
        let size = 1usize << log;
        let mut symbols = vec![0u8; size];
        let mut top = size;
        for (symbol, _) in (0..).zip(counts).filter(|(_, count)| **count == -1) {
            top -= 1;
            symbols[top] = symbol;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (symbol, &count) in (0..).zip(counts) {
            for _ in 0..count.max(0) {
                symbols[at] = symbol;
                at = (at + step) % size;
                while at >= top {
                    at = (at + step) % size;
                }
            }
        }
        let mut next: Vec<u32> = counts.iter().map(|count| count.unsigned_abs()).collect();
        let states = symbols.iter().map(|&symbol| {
            let n = &mut next[usize::from(symbol)];
            let bits = log - n.ilog2();
            let base = (*n << bits) - size as u32;
            *n += 1;
            (symbol, bits, base)
        });
        Self {
            log,
            states: states.collect(),
        }
    }

    /// States that read these symbols one after another.
    fn states(&self, symbols: [u8; COPIES]) -> [Step; COPIES] {
        let mut steps = [Step::default(); COPIES];
        // Any state of the last symbol will do; the ones before must lead there.
        let mut wanted = None;
        for (symbol, step) in symbols.iter().zip(&mut steps).rev() {
            let found = (0..).zip(&self.states).find(|(_, (of, bits, base))| {
                let leads = |next: u32| next >= *base && next < base + (1 << bits);
                of == symbol && wanted.is_none_or(leads)
            });
            if let Some((state, &(_, bits, base))) = found {
                let next = wanted.map_or(0, |wanted| wanted - base);
                *step = Step { state, bits, next };
                wanted = Some(state);
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use guildhall_spec::encodings::unzstd;
    use proptest::prelude::*;
    use zstd_safe::DCtx;

    use super::*;

    fn stream() -> DCtx<'static> {
        let mut decoder = DCtx::create();
        assert_eq!(unzstd(&mut decoder, &STREAM_HEADER), Ok(Vec::new()));
        decoder
    }

    /// A head of `len` bytes around the padding, and how it reads.
    fn head(len: usize) -> (Vec<u8>, Vec<u8>) {
        let lead: Vec<u8> = (b'a'..=b'z').cycle().take(len).collect();
        let literals = [&lead, &[b' '; PADDING][..], b"\"d\":"].concat();
        let text = [&lead, &[b' '; PADDING + COPIED][..], b"\"d\":"].concat();
        let mut block = Vec::new();
        put_head(&mut block, len + PADDING, literals.len(), |out| {
            out.extend_from_slice(&literals);
        });
        assert_eq!(block.len(), HEAD_BYTES + literals.len());
        assert!(block.len() - BLOCK_HEADER < text.len());
        (block, text)
    }

    #[test]
    fn heads_read_as_their_text() {
        let mut decoder = stream();
        for len in SPLITS.map(|split| split - PADDING) {
            let (block, text) = head(len);
            assert_eq!(unzstd(&mut decoder, &block), Ok(text), "{len}");
        }
    }

    /// A block of an ordinary frame, which leaves repeat offsets of its own behind.
    fn foreign(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; compress_bound(text.len())];
        let len = zstd_safe::compress(&mut frame[..], text, 3).unwrap();
        frame.truncate(len);
        strip(frame).unwrap()
    }

    fn words() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just("\"id\":\"11".to_owned()),
            Just("aaaaaaaaa".to_owned()),
            Just("null,".to_owned()),
            "[a-z]{1,9}",
        ];
        prop::collection::vec(word, 1..80).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn pieces_fit_together_in_any_order(texts in prop::collection::vec((words(), 0u8..4), 1..12)) {
            let (mut zstd, mut decoder) = (Zstd::default(), stream());
            let mut before: Vec<u8> = Vec::new();
            for (text, how) in &texts {
                match how {
                    0 => prop_assert_eq!(unzstd(&mut decoder, &raw(text)), Ok(text.clone())),
                    // What this reads depends on what was before; only what it leaves behind matters.
                    1 => drop(unzstd(&mut decoder, &foreign(text))),
                    _ => {
                        let (block, head) = head(40);
                        // The head as nothing in a text can match it.
                        let dictionary = [&before[..], &vec![0; head.len()]].concat();
                        let dictionary = match how {
                            2 => &[][..],
                            _ => &dictionary,
                        };
                        let piece = [block, zstd.compress(dictionary, text)].concat();
                        prop_assert_eq!(unzstd(&mut decoder, &piece), Ok([head, text.clone()].concat()));
                    }
                }
                before = match how {
                    1 => Vec::new(),
                    _ => text.clone(),
                };
            }
        }
    }

    #[test]
    fn without_its_head_a_piece_may_read_wrong() {
        // What the heads are for: were this to fail, they could go.
        let text = b"<aaaaaaaaaaaaaaaaaaaaaaaa>{bbbbbbbbbbbbbbbbbbb}0123456789".repeat(3);
        let piece = Zstd::default().compress(b"", &text);
        let mut decoder = stream();
        assert_eq!(unzstd(&mut decoder, &piece), Ok(text.clone()));
        drop(unzstd(
            &mut decoder,
            &foreign(&b"0123456789abcdefghijk".repeat(9)),
        ));
        assert_ne!(unzstd(&mut decoder, &piece), Ok(text));
    }

    #[test]
    fn large_texts_are_whole() {
        let text: Vec<u8> = (0..400_000u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> (n % 24)).to_le_bytes())
            .collect();
        let (block, head) = head(50);
        let mut decoder = stream();
        for _ in 0..2 {
            let piece = [&block[..], &Zstd::default().compress(b"", &text)].concat();
            assert!(unzstd(&mut decoder, &piece).unwrap() == [&head[..], &text].concat());
        }
        assert!(unzstd(&mut decoder, &raw(&text)).unwrap() == text);
    }
}
