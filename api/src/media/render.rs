//! Images decoded, resized and encoded, all on a blocking pool and within limits.
//!
//! Never hands out bytes of an uploader's still image as they came: what is encoded anew has
//! no metadata and is nothing but an image.

use std::{io::Cursor, sync::Arc, time::Duration};

use bytes::Bytes;
use fast_image_resize::{PixelType, Resizer, images::Image as Pixels};
use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageFormat, ImageReader, Limits,
    Rgba, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    File, Media,
    images::{PIXELS_MAX, SIDE_MAX},
};
use crate::error::{Error, Result};

/// Memory of one decoder at most.
const ALLOC_MAX: u64 = 192 << 20;
const FRAMES_MAX: usize = 1024;
/// Bytes of rendered images kept.
const CACHE_BYTES_MAX: u64 = 64 << 20;
const JPEG_QUALITY: u8 = 88;

/// What the CDN sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Png,
    Jpeg,
    Webp,
    Gif,
}

impl Format {
    /// By the end of a file's name.
    pub(crate) fn by_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::Webp,
            "gif" => Self::Gif,
            _ => return None,
        })
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }
}

/// An image as somebody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) format: Format,
    /// Longest side at most; images are never enlarged.
    pub(crate) size: Option<u32>,
}

/// Images rendered lately.
#[derive(Debug)]
pub(super) struct Rendered(quick_cache::sync::Cache<(String, Variant), Bytes, ByBytes>);

impl Default for Rendered {
    fn default() -> Self {
        Self(quick_cache::sync::Cache::with_weighter(
            4096,
            CACHE_BYTES_MAX,
            ByBytes,
        ))
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl quick_cache::Weighter<(String, Variant), Bytes> for ByBytes {
    fn weight(&self, key: &(String, Variant), value: &Bytes) -> u64 {
        (key.0.len() + value.len() + 64) as u64
    }
}

impl Media {
    /// Runs work on images where it keeps nobody from being served. Errors: 503 if it panicked.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        run(self.permit().await?, work).await
    }

    /// One of those who may work on an image.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.workers).acquire_owned().await;
        permit.map_err(|_| Error::Unavailable("the process is stopping"))
    }

    /// An image file as asked for; once, however many ask. `None` if its bytes are gone or no image.
    pub(crate) async fn render(&self, file: &File, variant: Variant) -> Result<Option<Bytes>> {
        let key = (file.path.clone(), variant);
        let guard = match self.rendered.0.get_value_or_guard_async(&key).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(guard) => guard,
        };
        // Who waits for a permit holds no image in memory.
        let permit = self.permit().await?;
        let Some(source) = self.read(&file.path).await? else {
            return Ok(None);
        };
        let rendered = run(permit, move || encode_variant(&source, variant)).await?;
        if let Some(rendered) = &rendered {
            // Refused only when the entry was replaced meanwhile, by the same bytes.
            let _ = guard.insert(rendered.clone());
        }
        Ok(rendered)
    }

    /// Picture of users who have none, 0 to 5, so many pixels high and wide; drawn once, however
    /// many ask. `None` for another number.
    pub(crate) async fn default_avatar(&self, index: usize, size: u32) -> Result<Option<Bytes>> {
        if index >= DEFAULT_AVATARS.len() {
            return Ok(None);
        }
        let (format, side) = (Format::Png, Some(size));
        let variant = Variant { format, size: side };
        let key = (format!("embed/avatars/{index}"), variant);
        let guard = match self.rendered.0.get_value_or_guard_async(&key).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(guard) => guard,
        };
        let drawn = self.work(move || default_avatar(index, size)).await?;
        if let Some(drawn) = &drawn {
            let _ = guard.insert(drawn.clone());
        }
        Ok(drawn)
    }
}

/// Colours of the pictures of users who have none.
const DEFAULT_AVATARS: [[u8; 3]; 6] = [
    [0x4C, 0x6E, 0xF5],
    [0x74, 0x7F, 0x8D],
    [0x2F, 0x9E, 0x63],
    [0xE8, 0xA3, 0x17],
    [0xD6, 0x3A, 0x4A],
    [0xB5, 0x4B, 0xC4],
];

/// Does work under a permit, which is the work's own: it goes on when whoever asked for it has gone.
async fn run<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let permitted = move || {
        let _permit = permit;
        work()
    };
    tokio::task::spawn_blocking(permitted)
        .await
        .map_err(|_| Error::Unavailable("an image could not be worked on"))
}

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inspected {
    pub(super) content_type: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) animated: bool,
    /// All its frames, once.
    pub(super) lasts: Duration,
}

/// Whether it begins as an image of a kind that is taken.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    known_format(bytes).is_some()
}

/// Decodes an image to the end; `None` if that fails or would take too much.
pub(super) fn inspect(bytes: &[u8]) -> Option<Inspected> {
    let (format, content_type) = known_format(bytes)?;
    let still = decode_still(bytes, format)?;
    let (mut count, mut lasts) = (0, Duration::ZERO);
    if let Some(frames) = frames(bytes, format) {
        let mut pixels = 0;
        for frame in frames {
            let frame = frame.ok()?;
            let (width, height) = frame.buffer().dimensions();
            pixels += u64::from(width) * u64::from(height);
            lasts += Duration::from(frame.delay());
            count += 1;
            if pixels > PIXELS_MAX || count > FRAMES_MAX {
                return None;
            }
        }
    }
    Some(Inspected {
        content_type,
        width: still.width(),
        height: still.height(),
        animated: count > 1,
        lasts,
    })
}

fn encode_variant(source: &[u8], variant: Variant) -> Option<Bytes> {
    let (format, _) = known_format(source)?;
    let mut encoded = Vec::new();
    if variant.format == Format::Gif {
        let mut encoder = GifEncoder::new_with_speed(&mut encoded, 10);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        match frames(source, format) {
            Some(frames) => {
                for frame in frames.take(FRAMES_MAX) {
                    let frame = frame.ok()?;
                    let delay = frame.delay();
                    let buffer = fit(frame.into_buffer(), variant.size)?;
                    encoder
                        .encode_frame(Frame::from_parts(buffer, 0, 0, delay))
                        .ok()?;
                }
            }
            None => {
                let still = fit(decode_still(source, format)?, variant.size)?;
                encoder.encode_frame(Frame::new(still)).ok()?;
            }
        }
        drop(encoder);
        return Some(encoded.into());
    }
    let still = fit(decode_still(source, format)?, variant.size)?;
    let mut target = Cursor::new(&mut encoded);
    match variant.format {
        Format::Jpeg => {
            let opaque = DynamicImage::ImageRgba8(still).to_rgb8();
            JpegEncoder::new_with_quality(&mut target, JPEG_QUALITY)
                .encode_image(&opaque)
                .ok()?;
        }
        Format::Webp => still.write_to(&mut target, ImageFormat::WebP).ok()?,
        Format::Png | Format::Gif => still.write_to(&mut target, ImageFormat::Png).ok()?,
    }
    Some(encoded.into())
}

fn known_format(bytes: &[u8]) -> Option<(ImageFormat, &'static str)> {
    Some(match infer::get(bytes)?.mime_type() {
        "image/png" => (ImageFormat::Png, "image/png"),
        "image/jpeg" => (ImageFormat::Jpeg, "image/jpeg"),
        "image/gif" => (ImageFormat::Gif, "image/gif"),
        "image/webp" => (ImageFormat::WebP, "image/webp"),
        _ => return None,
    })
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(ALLOC_MAX);
    limits
}

/// The image, or its first frame, the right way up.
fn decode_still(bytes: &[u8], format: ImageFormat) -> Option<RgbaImage> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().ok()?;
    let orientation = decoder.orientation().ok()?;
    let mut image = DynamicImage::from_decoder(decoder).ok()?;
    image.apply_orientation(orientation);
    Some(image.into_rgba8())
}

/// The frames of what may move; `None` for stills.
fn frames(bytes: &[u8], format: ImageFormat) -> Option<Frames<'_>> {
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(Cursor::new(bytes)).ok()?;
            decoder.set_limits(limits()).ok()?;
            Some(decoder.into_frames())
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).ok()?;
            decoder.set_limits(limits()).ok()?;
            decoder.has_animation().then(|| decoder.into_frames())
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits()).ok()?;
            let animated = decoder.is_apng().ok()?;
            animated
                .then(|| decoder.apng().ok().map(AnimationDecoder::into_frames))
                .flatten()
        }
        _ => None,
    }
}

/// Makes it small enough, keeping its shape.
fn fit(image: RgbaImage, size: Option<u32>) -> Option<RgbaImage> {
    let (width, height) = image.dimensions();
    let longest = width.max(height);
    let Some(size) = size.filter(|&size| size < longest) else {
        return Some(image);
    };
    let scaled = |side: u32| {
        let side = u64::from(side) * u64::from(size) / u64::from(longest);
        (side as u32).max(1)
    };
    let (to_width, to_height) = (scaled(width), scaled(height));
    let source = Pixels::from_vec_u8(width, height, image.into_raw(), PixelType::U8x4).ok()?;
    let mut target = Pixels::new(to_width, to_height, PixelType::U8x4);
    Resizer::new().resize(&source, &mut target, None).ok()?;
    RgbaImage::from_raw(to_width, to_height, target.into_vec())
}

/// One of [`DEFAULT_AVATARS`] as PNG.
fn default_avatar(index: usize, size: u32) -> Option<Bytes> {
    let [red, green, blue] = *DEFAULT_AVATARS.get(index)?;
    let side = size as f32;
    // A head and shoulders, in parts of the side.
    let image = RgbaImage::from_fn(size, size, |x, y| {
        let (x, y) = ((x as f32 + 0.5) / side, (y as f32 + 0.5) / side);
        let within = |cx: f32, cy: f32, r: f32| (x - cx).powi(2) + (y - cy).powi(2) <= r * r;
        if within(0.5, 0.4, 0.17) || within(0.5, 0.92, 0.3) {
            Rgba([0xFF, 0xFF, 0xFF, 0xFF])
        } else {
            Rgba([red, green, blue, 0xFF])
        }
    });
    let mut encoded = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut encoded), ImageFormat::Png)
        .ok()?;
    Some(encoded.into())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use image::Delay;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{config::Secret, keys::Keys};

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        RgbaImage::from_pixel(width, height, Rgba([1, 2, 3, 255]))
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn gif(frames: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for shade in 0..frames {
            let image = RgbaImage::from_pixel(40, 20, Rgba([shade as u8 * 9, 0, 0, 255]));
            let delay = Delay::from_numer_denom_ms(50, 1);
            encoder
                .encode_frame(Frame::from_parts(image, 0, 0, delay))
                .unwrap();
        }
        drop(encoder);
        bytes
    }

    #[test]
    fn stills_become_every_format_and_keep_their_shape() {
        let source = png(100, 50);
        let found = inspect(&source).unwrap();
        assert_eq!((found.animated, found.lasts), (false, Duration::ZERO));
        for format in [Format::Png, Format::Jpeg, Format::Webp, Format::Gif] {
            let size = Some(32);
            let bytes = encode_variant(&source, Variant { format, size }).unwrap();
            let found = inspect(&bytes).unwrap();
            assert_eq!(found.content_type, format.content_type());
            assert_eq!((found.width, found.height), (32, 16));
        }
    }

    #[test]
    fn what_moves_goes_on_moving_as_gif_only() {
        let source = gif(3);
        let found = inspect(&source).unwrap();
        assert!(found.animated);
        assert_eq!(found.lasts, Duration::from_millis(150));
        assert_eq!(inspect(&gif(1)).map(|found| found.animated), Some(false));
        let moves = |format| {
            let size = Some(16);
            let bytes = encode_variant(&source, Variant { format, size }).unwrap();
            inspect(&bytes).unwrap().animated
        };
        assert!(moves(Format::Gif));
        assert!(!moves(Format::Png));
    }

    #[test]
    fn bombs_and_stumps_are_refused() {
        // 20,000 × 20,000 pixels announced in a few bytes.
        let mut bomb = png(1, 1);
        bomb[16..24].copy_from_slice(&[0, 0, 0x4E, 0x20, 0, 0, 0x4E, 0x20]);
        assert_eq!(inspect(&bomb), None);
        assert_eq!(inspect(&png(5000, 1)), None);
        let whole = png(64, 64);
        assert_eq!(inspect(&whole[..whole.len() / 2]), None);
        assert_eq!(inspect(b""), None);
        assert_eq!(inspect(b"GIF89a"), None);
    }

    #[tokio::test]
    async fn work_counts_until_it_is_done_even_if_nobody_waits() {
        let workers = Arc::new(Semaphore::new(1));
        let permit = workers.clone().acquire_owned().await.unwrap();
        let (end, until) = std::sync::mpsc::channel::<()>();
        let asked = run(permit, move || until.recv().is_ok());
        assert!(asked.now_or_never().is_none());
        assert_eq!(workers.available_permits(), 0);
        end.send(()).unwrap();
        let _permit = workers.acquire().await.unwrap();
    }

    #[tokio::test]
    async fn a_default_avatar_is_drawn_in_its_turn_and_once() {
        let workers = Arc::new(Semaphore::new(1));
        let media = Media {
            db: sqlx::PgPool::connect_lazy("postgres://localhost").unwrap(),
            store: Arc::new(object_store::memory::InMemory::new()),
            keys: Keys::only(Secret::from(String::new())),
            cdn_url: String::new(),
            api_url: String::new(),
            attachment_bytes_max: 0,
            workers: Arc::clone(&workers),
            rendered: Rendered::default(),
        };
        let others = Arc::clone(&workers).acquire_owned().await.unwrap();
        assert!(media.default_avatar(0, 16).now_or_never().is_none());
        drop(others);
        let drawn = media.default_avatar(0, 16).await.unwrap();
        let _others = workers.acquire().await.unwrap();
        let again = media.default_avatar(0, 16).now_or_never().unwrap();
        assert_eq!(again.unwrap(), drawn);
        assert!(media.default_avatar(6, 16).await.unwrap().is_none());
    }

    #[test]
    fn there_are_six_default_avatars() {
        for index in 0..6 {
            let found = inspect(&default_avatar(index, 64).unwrap()).unwrap();
            assert_eq!((found.width, found.content_type), (64, "image/png"));
        }
        assert!(default_avatar(6, 64).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(tail: Vec<u8>, cut in 0usize..400, format in 0..2) {
            let mut bytes = if format == 0 { png(16, 16) } else { gif(2) };
            bytes.truncate(cut);
            bytes.extend(tail);
            let _ = inspect(&bytes);
        }
    }
}
