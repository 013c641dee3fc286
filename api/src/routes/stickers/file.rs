//! Files of stickers: what they may be, and how they are kept.

use std::time::Duration;

use bytes::Bytes;
use guildhall_shared::{Id, error_code::ErrorCode, id::marker, model::StickerFormat};
use serde::Deserialize;

use crate::{
    error::Result,
    form::{Fault, FormErrors},
    media::{self, File, Image, Media},
};

const BYTES_MAX: usize = 512 << 10;
/// Width and height of a picture at most.
const SIDE_MAX: u32 = 320;
/// What an animation plays at most.
const LENGTH_MAX: Duration = Duration::from_secs(5);

/// A file that can be a sticker.
pub(crate) struct StickerFile {
    pub(crate) format: StickerFormat,
    content: Content,
}

enum Content {
    Picture(Image),
    Lottie(Bytes),
}

impl StickerFile {
    /// Where the file of a sticker is kept; the triggers of 0007 and 0030 know the same name.
    pub(crate) fn path(id: Id<marker::Sticker>) -> String {
        format!("stickers/{id}")
    }

    /// PNG, animated PNG, GIF or Lottie. Errors: 50035 at `file` for too large ones, 50046, 170007.
    pub(crate) async fn inspect(media: &Media, bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() > BYTES_MAX {
            return Err(media::too_large("file", BYTES_MAX));
        }
        if let Some(lasts) = lottie_length(&bytes) {
            check_length(lasts)?;
            return Ok(Self {
                format: StickerFormat::LOTTIE,
                content: Content::Lottie(bytes.into()),
            });
        }
        let image = media::inspect(media, bytes).await?;
        let image = image.ok_or(ErrorCode::InvalidAsset)?;
        let format = match (image.content_type, image.animated) {
            ("image/png", false) => StickerFormat::PNG,
            ("image/png", true) => StickerFormat::APNG,
            ("image/gif", _) => StickerFormat::GIF,
            _ => return Err(ErrorCode::InvalidAsset.into()),
        };
        if image.width.max(image.height) > SIDE_MAX {
            let message = format!("Must be at most {SIDE_MAX} by {SIDE_MAX} pixels.");
            let fault = Fault::Other("STICKER_DIMENSIONS_INVALID", message.into());
            return Err(FormErrors::one("file", fault));
        }
        check_length(image.lasts)?;
        let content = Content::Picture(image);
        Ok(Self { format, content })
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        match &self.content {
            Content::Picture(image) => &image.bytes,
            Content::Lottie(bytes) => bytes,
        }
    }

    /// Keeps it, to be shown by a row of the caller's.
    pub(crate) async fn keep(&self, media: &Media, id: Id<marker::Sticker>) -> Result<()> {
        let path = Self::path(id);
        match &self.content {
            Content::Picture(image) => image.keep(media, path).await,
            Content::Lottie(bytes) => {
                let file = File {
                    path,
                    content_type: "application/json".to_owned(),
                    size: bytes.len() as u64,
                    width: None,
                    height: None,
                };
                media.put(&file, bytes.clone()).await
            }
        }
    }
}

/// Errors: 170007.
fn check_length(lasts: Duration) -> Result<()> {
    if lasts > LENGTH_MAX {
        return Err(ErrorCode::StickerTooLong.into());
    }
    Ok(())
}

/// How long a vector animation plays: JSON with layers, a frame rate, its first frame and its last.
/// `None` for what is none.
fn lottie_length(bytes: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Lottie {
        #[serde(rename = "v")]
        _version: String,
        #[serde(rename = "fr")]
        frame_rate: f64,
        #[serde(rename = "ip")]
        first: f64,
        #[serde(rename = "op")]
        last: f64,
        #[serde(rename = "layers")]
        _layers: Vec<serde::de::IgnoredAny>,
    }
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let lottie: Lottie = serde_json::from_slice(bytes).ok()?;
    let seconds = (lottie.last - lottie.first) / lottie.frame_rate;
    Duration::try_from_secs_f64(seconds).ok()
}
