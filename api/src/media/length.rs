//! How long a sound plays, from its bytes: frames of MP3, positions of Ogg.
//!
//! Decodes nothing. What is no frame and no page is skipped, as players do it, and what comes after
//! it counts.

use std::{collections::BTreeMap, time::Duration};

/// How long a file of this content type plays; `None` for another type, and where nothing that
/// plays is found.
pub(crate) fn sound_length(content_type: &str, bytes: &[u8]) -> Option<Duration> {
    let seconds = match content_type {
        "audio/mpeg" => mp3_seconds(bytes),
        "audio/ogg" => ogg_seconds(bytes),
        _ => return None,
    };
    let lasts = Duration::try_from_secs_f64(seconds).ok();
    lasts.filter(|lasts| !lasts.is_zero())
}

/// All frames, without the silence that an encoder says it has added.
fn mp3_seconds(bytes: &[u8]) -> f64 {
    let mut rest = bytes;
    while let Some(after) = after_id3(rest) {
        rest = after;
    }
    let (mut seconds, mut added) = (0.0, 0.0);
    let (mut is_first, mut is_in_step) = (true, false);
    while !rest.is_empty() {
        let found = Frame::at(rest).filter(|frame| is_in_step || frame.is_followed(rest));
        is_in_step = found.is_some();
        let Some(frame) = found else {
            rest = &rest[1..];
            continue;
        };
        let (own, after) = rest.split_at(frame.bytes.min(rest.len()));
        match frame.added_samples(own).filter(|_| is_first) {
            Some(samples) => added = frame.seconds(samples),
            None => seconds += frame.seconds(frame.samples),
        }
        is_first = false;
        rest = after;
    }
    f64::max(seconds - added, 0.0)
}

/// What follows a tag at the beginning of an MP3.
fn after_id3(bytes: &[u8]) -> Option<&[u8]> {
    let &[b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = bytes else {
        return None;
    };
    let digits = [a, b, c, d].map(|digit| usize::from(digit & 0x7F));
    let size = digits
        .iter()
        .fold(0_usize, |size, &digit| (size << 7) | digit);
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(bytes.get(10 + size + footer..).unwrap_or_default())
}

/// Thousand bits a second, by the index in a header less one: layers I, II and III of MPEG-1, layer
/// I of MPEG-2 and 2.5, the other layers of those.
const KILOBITS: [[u32; 14]; 5] = [
    [
        32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448,
    ],
    [
        32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
    ],
    [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ],
    [
        32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256,
    ],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];
/// Samples a second, by the index in a header; half of it in MPEG-2, a quarter in 2.5.
const RATES: [u32; 3] = [44_100, 48_000, 32_000];
/// As headers say it.
const MPEG_1: u8 = 3;
const MPEG_2: u8 = 2;
const MPEG_2_5: u8 = 0;

/// A frame of MPEG audio, as its header tells of it.
#[derive(Debug, Clone, Copy)]
struct Frame {
    version: u8,
    layer: u8,
    is_mono: bool,
    /// Samples a second.
    rate: u32,
    samples: u32,
    /// The header among them; never none.
    bytes: usize,
}

impl Frame {
    fn at(bytes: &[u8]) -> Option<Self> {
        let &[0xFF, second, third, fourth, ..] = bytes else {
            return None;
        };
        if second & 0xE0 != 0xE0 {
            return None;
        }
        let version = (second >> 3) & 3;
        let layer = 4 - ((second >> 1) & 3);
        let row = match (version, layer) {
            (MPEG_1, 1) => 0,
            (MPEG_1, 2) => 1,
            (MPEG_1, 3) => 2,
            (MPEG_2 | MPEG_2_5, 1) => 3,
            (MPEG_2 | MPEG_2_5, 2 | 3) => 4,
            _ => return None,
        };
        let index = usize::from(third >> 4).checked_sub(1)?;
        let kilobits = *KILOBITS[row].get(index)?;
        let bits = 1000 * kilobits;
        let rate = *RATES.get(usize::from((third >> 2) & 3))?;
        let rate = match version {
            MPEG_1 => rate,
            MPEG_2 => rate / 2,
            _ => rate / 4,
        };
        let samples = match (version, layer) {
            (_, 1) => 384,
            (MPEG_1, _) | (_, 2) => 1152,
            _ => 576,
        };
        let padding = u32::from((third >> 1) & 1);
        let bytes = match layer {
            1 => 4 * (12 * bits / rate + padding),
            _ => samples / 8 * bits / rate + padding,
        };
        Some(Self {
            version,
            layer,
            is_mono: fourth >> 6 == 3,
            rate,
            samples,
            bytes: bytes as usize,
        })
    }

    /// Whether one of its kind comes right after it, or nothing does: else it may be no frame.
    fn is_followed(&self, bytes: &[u8]) -> bool {
        let kind = |frame: &Self| (frame.version, frame.layer, frame.rate);
        match bytes.get(self.bytes..) {
            None | Some([]) => true,
            Some(after) => Self::at(after).is_some_and(|next| kind(&next) == kind(self)),
        }
    }

    fn seconds(&self, samples: u32) -> f64 {
        f64::from(samples) / f64::from(self.rate)
    }

    /// Of a first frame in which an encoder tells of the others: how many samples it has added
    /// before and behind the sound. `None` for a frame of the sound.
    fn added_samples(&self, own: &[u8]) -> Option<u32> {
        if own.get(36..).is_some_and(|tag| tag.starts_with(b"VBRI")) {
            return Some(0);
        }
        let side_bytes = match (self.version, self.is_mono) {
            (MPEG_1, false) => 32,
            (MPEG_1, true) | (_, false) => 17,
            (_, true) => 9,
        };
        let tag = own.get(4 + side_bytes..)?;
        if !tag.starts_with(b"Xing") && !tag.starts_with(b"Info") {
            return None;
        }
        let flags = *tag.get(7)?;
        // How many frames and bytes there are, a table, a quality; then what the encoder is.
        let fields: [(u8, usize); 4] = [(1, 4), (2, 4), (4, 100), (8, 4)];
        let there = fields.iter().filter(|(flag, _)| flags & flag != 0);
        let at = 8 + there.map(|(_, bytes)| bytes).sum::<usize>() + 21;
        let Some(&[a, b, c]) = tag.get(at..at + 3) else {
            return Some(0);
        };
        let [a, b, c] = [a, b, c].map(u32::from);
        Some(((a << 4) | (b >> 4)) + (((b & 0x0F) << 8) | c))
    }
}

/// All streams of Vorbis and Opus, one after the other, by the positions that their pages end at.
fn ogg_seconds(bytes: &[u8]) -> f64 {
    let mut streams: BTreeMap<u32, Stream> = BTreeMap::new();
    let mut seconds = 0.0;
    let mut rest = bytes;
    while let Some((page, after)) = Page::next(rest) {
        rest = after;
        if page.begins {
            let ended = match Stream::begin(page.body) {
                Some(stream) => streams.insert(page.stream, stream),
                None => streams.remove(&page.stream),
            };
            seconds += ended.map_or(0.0, |stream| stream.seconds());
        } else if let (Some(stream), Some(position)) =
            (streams.get_mut(&page.stream), page.position)
        {
            stream.position = stream.position.max(position);
        }
    }
    let open = streams.values().map(Stream::seconds);
    seconds + open.sum::<f64>()
}

/// A page of Ogg.
struct Page<'a> {
    /// Whether it is the first of its stream.
    begins: bool,
    /// Samples of the stream up to the end of this page; `None` where no packet ends in it.
    position: Option<u64>,
    stream: u32,
    body: &'a [u8],
}

impl<'a> Page<'a> {
    /// The next whole page, and what comes after it.
    fn next(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut rest = bytes;
        loop {
            let at = rest.windows(4).position(|four| four == b"OggS")?;
            let found = &rest[at..];
            match Self::at(found) {
                Some(page) => return Some(page),
                None => rest = &found[4..],
            }
        }
    }

    fn at(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_at_checked(27)?;
        // The version.
        if head[4] != 0 {
            return None;
        }
        let (sizes, rest) = rest.split_at_checked(usize::from(head[26]))?;
        let size = sizes.iter().map(|&size| usize::from(size)).sum();
        let (body, rest) = rest.split_at_checked(size)?;
        let position = i64::from_le_bytes(head[6..14].try_into().ok()?);
        let page = Self {
            begins: head[5] & 2 != 0,
            position: u64::try_from(position).ok(),
            stream: u32::from_le_bytes(head[14..18].try_into().ok()?),
            body,
        };
        Some((page, rest))
    }
}

/// A stream of sound.
struct Stream {
    /// Samples a second.
    rate: u32,
    /// Samples at its beginning that are not played.
    skipped: u64,
    position: u64,
}

impl Stream {
    /// By its first page; `None` for what is neither Vorbis nor Opus.
    fn begin(body: &[u8]) -> Option<Self> {
        let (rate, skipped) = if body.starts_with(b"OpusHead") {
            let skipped = u16::from_le_bytes(body.get(10..12)?.try_into().ok()?);
            (48_000, u64::from(skipped))
        } else if body.starts_with(b"\x01vorbis") {
            let rate = u32::from_le_bytes(body.get(12..16)?.try_into().ok()?);
            (rate, 0)
        } else {
            return None;
        };
        (rate > 0).then_some(Self {
            rate,
            skipped,
            position: 0,
        })
    }

    fn seconds(&self) -> f64 {
        self.position.saturating_sub(self.skipped) as f64 / f64::from(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MPEG-1 layer III frames at 128 kbit/s and 44.1 kHz: 417 bytes and 1152 samples each.
    fn mp3(frames: usize) -> Vec<u8> {
        let mut frame = vec![0; 417];
        frame[..4].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x64]);
        frame.repeat(frames)
    }

    fn mp3_samples(bytes: &[u8]) -> Option<u32> {
        let lasts = sound_length("audio/mpeg", bytes)?;
        Some((lasts.as_secs_f64() * 44_100.0).round() as u32)
    }

    fn page(flags: u8, position: i64, stream: u32, body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend(position.to_le_bytes());
        page.extend(stream.to_le_bytes());
        page.extend([0; 8]);
        page.extend([1, body.len() as u8]);
        page.extend(body);
        page
    }

    /// One that plays so many samples at 48 kHz.
    fn opus(stream: u32, samples: i64) -> Vec<u8> {
        let head = b"OpusHead\x01\x01\x38\x01\x80\xBB\0\0\0\0\0";
        let pages = [
            page(2, 0, stream, head),
            page(0, 0, stream, b"OpusTags"),
            page(0, -1, stream, b"sound"),
            page(4, samples + 312, stream, b"sound"),
        ];
        pages.concat()
    }

    fn vorbis(rate: u32, position: i64) -> Vec<u8> {
        let mut head = b"\x01vorbis\0\0\0\0\x01".to_vec();
        head.extend(rate.to_le_bytes());
        [page(2, 0, 9, &head), page(4, position, 9, b"sound")].concat()
    }

    fn ogg_ms(bytes: &[u8]) -> Option<u128> {
        sound_length("audio/ogg", bytes).map(|lasts| lasts.as_millis())
    }

    #[test]
    fn frames_of_mp3_are_counted() {
        assert_eq!(mp3_samples(&mp3(1)), Some(1152));
        assert_eq!(mp3_samples(&mp3(199)), Some(199 * 1152));
        // MPEG-2.5 at 8 kbit/s and 8 kHz.
        let mut slow = [0; 72];
        slow[..3].copy_from_slice(&[0xFF, 0xE3, 0x18]);
        let lasts = sound_length("audio/mpeg", &slow.repeat(100)).unwrap();
        assert_eq!(lasts, Duration::from_millis(7200));
        // Layer I at 32 kbit/s and 48 kHz.
        let mut first = [0; 32];
        first[..3].copy_from_slice(&[0xFF, 0xFF, 0x14]);
        let lasts = sound_length("audio/mpeg", &first.repeat(100)).unwrap();
        assert_eq!(lasts, Duration::from_millis(800));
    }

    #[test]
    fn what_is_no_frame_hides_none() {
        let id3 = [b"ID3\x03\0\0\0\0\x01\x00".to_vec(), vec![0xFF; 128]].concat();
        assert_eq!(mp3_samples(&[id3.clone(), mp3(3)].concat()), Some(3 * 1152));
        let between = [mp3(2), b"junk".to_vec(), mp3(3), b"TAG".to_vec()];
        assert_eq!(mp3_samples(&between.concat()), Some(5 * 1152));
        for nothing in [&id3[..], &id3[..12], b"", b"ID3", &[0xFF; 900]] {
            assert_eq!(mp3_samples(nothing), None);
        }
    }

    #[test]
    fn what_an_encoder_added_to_an_mp3_does_not_count() {
        let mut sound = mp3(201);
        // The first frame tells of the others: 576 samples before the sound, 504 behind it.
        sound[36..40].copy_from_slice(b"Info");
        sound[43] = 0b1111;
        let ends = 36 + 8 + 4 + 4 + 100 + 4 + 21;
        sound[ends..ends + 3].copy_from_slice(&[0x24, 0x01, 0xF8]);
        assert_eq!(mp3_samples(&sound), Some(200 * 1152 - 576 - 504));
        // It is the first one only.
        let twice = sound.repeat(2);
        assert_eq!(mp3_samples(&twice), Some(401 * 1152 - 576 - 504));
    }

    #[test]
    fn the_positions_of_ogg_tell_how_long_it_is() {
        assert_eq!(ogg_ms(&opus(1, 48_000)), Some(1000));
        assert_eq!(ogg_ms(&vorbis(44_100, 88_200)), Some(2000));
        // One after the other, also under one number.
        let chain = [opus(1, 48_000), opus(2, 24_000), opus(1, 48_000)];
        assert_eq!(ogg_ms(&chain.concat()), Some(2500));
        let between = [opus(1, 48_000), b"OggS junk".to_vec(), opus(2, 24_000)];
        assert_eq!(ogg_ms(&between.concat()), Some(1500));
        let whole = opus(1, 48_000);
        for nothing in [
            &whole[..whole.len() - 1],
            &vorbis(0, 9)[..],
            &opus(1, 0)[..],
            b"",
        ] {
            assert_eq!(ogg_ms(nothing), None);
        }
        assert_eq!(ogg_ms(&page(2, 0, 1, b"\x7FFLAC")), None);
        assert_eq!(sound_length("audio/wav", &whole), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, positions: Vec<i64>, cut in 0usize..2000) {
            let mut ogg = Vec::new();
            for position in positions {
                ogg.extend(opus(1, position.saturating_sub(312)));
                ogg.extend(&bytes);
            }
            let mut mp3 = [mp3(3), bytes.clone(), mp3(2)].concat();
            mp3.truncate(cut);
            ogg.truncate(cut);
            for bytes in [bytes, ogg, mp3] {
                let _ = sound_length("audio/ogg", &bytes);
                let _ = sound_length("audio/mpeg", &bytes);
            }
        }
    }
}
