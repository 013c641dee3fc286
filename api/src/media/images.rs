//! Images of users, guilds and what is theirs: from a data URI in a request to a hash in a row.

use std::time::Duration;

use base64::{Engine, engine::general_purpose};
use bytes::Bytes;
use guildhall_shared::{
    Id,
    id::marker::{Application, Channel, Guild, Role, ScheduledEvent, User},
};
use sha2::{Digest, Sha256};

use super::{File, Media, render};
use crate::{
    error::{Error, Result},
    form::{Fault, FormErrors},
};

/// Pixels of an image at most, over all its frames.
pub(crate) const PIXELS_MAX: u64 = 64 << 20;
/// Width and height at most.
pub(crate) const SIDE_MAX: u32 = 4096;
/// Bytes of avatars, banners, icons and splashes.
const LARGE_BYTES_MAX: usize = 8 << 20;

/// Whose image it is, and which: where the file is kept and where the CDN serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageOf {
    UserAvatar(Id<User>),
    UserBanner(Id<User>),
    MemberAvatar(Id<Guild>, Id<User>),
    MemberBanner(Id<Guild>, Id<User>),
    GuildIcon(Id<Guild>),
    GuildSplash(Id<Guild>),
    GuildDiscoverySplash(Id<Guild>),
    GuildBanner(Id<Guild>),
    /// Of a group DM.
    GroupIcon(Id<Channel>),
    RoleIcon(Id<Role>),
    EventCover(Id<ScheduledEvent>),
    /// A webhook's id as a user's: its messages' author has it.
    WebhookAvatar(Id<User>),
    ApplicationIcon(Id<Application>),
}

impl ImageOf {
    /// Bytes of icons of roles and of emojis.
    pub(crate) const SMALL_BYTES_MAX: usize = 256 << 10;

    /// The folder that holds its hash; the triggers of 0007 and later know the same names.
    fn folder(self) -> String {
        match self {
            Self::UserAvatar(id) | Self::WebhookAvatar(id) => format!("avatars/{id}"),
            Self::UserBanner(id) => format!("banners/{id}"),
            Self::MemberAvatar(guild, user) => format!("guilds/{guild}/users/{user}/avatars"),
            Self::MemberBanner(guild, user) => format!("guilds/{guild}/users/{user}/banners"),
            Self::GuildIcon(id) => format!("icons/{id}"),
            Self::GuildSplash(id) => format!("splashes/{id}"),
            Self::GuildDiscoverySplash(id) => format!("discovery-splashes/{id}"),
            Self::GuildBanner(id) => format!("banners/{id}"),
            Self::GroupIcon(id) => format!("channel-icons/{id}"),
            Self::RoleIcon(id) => format!("role-icons/{id}"),
            Self::EventCover(id) => format!("guild-events/{id}"),
            Self::ApplicationIcon(id) => format!("app-icons/{id}"),
        }
    }

    /// Where an image with this hash is kept.
    pub(crate) fn path(self, hash: &str) -> String {
        format!("{}/{hash}", self.folder())
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::RoleIcon(_) => Self::SMALL_BYTES_MAX,
            _ => LARGE_BYTES_MAX,
        }
    }
}

/// An image of a request, decoded once to know that it can be.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Bytes,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) animated: bool,
    /// All its frames, once.
    pub(crate) lasts: Duration,
}

impl Image {
    /// Name of the content: 32 hex digits, `a_` in front if it moves.
    fn hash(&self) -> String {
        let digest = hex::encode(&Sha256::digest(&self.bytes)[..16]);
        if self.animated {
            format!("a_{digest}")
        } else {
            digest
        }
    }

    /// Keeps it under a path, to be shown by a row of the caller's.
    pub(crate) async fn keep(&self, media: &Media, path: String) -> Result<()> {
        let file = File {
            path,
            content_type: self.content_type.to_owned(),
            size: self.bytes.len() as u64,
            width: Some(self.width),
            height: Some(self.height),
        };
        media.put(&file, self.bytes.clone()).await
    }
}

/// Stores the image in a data URI (`data:image/png;base64,…`) and returns its hash, which
/// the caller writes into the row's column; from then on the file lives as long as the column
/// says so. Call before the transaction: it takes time.
///
/// `field` is the path of the field in the request's body. Errors: 50035 at `field`.
pub(crate) async fn store_image(
    media: &Media,
    of: ImageOf,
    field: &str,
    data_uri: &str,
) -> Result<String> {
    let image = parse_image(media, field, data_uri, of.bytes_max()).await?;
    let hash = image.hash();
    image.keep(media, of.path(&hash)).await?;
    Ok(hash)
}

/// As [`store_image`], of bytes from elsewhere; `None` if they are no image, or too many.
pub(crate) async fn store_fetched(
    media: &Media,
    of: ImageOf,
    bytes: Vec<u8>,
) -> Result<Option<String>> {
    if bytes.len() > of.bytes_max() {
        return Ok(None);
    }
    let Some(image) = inspect(media, bytes).await? else {
        return Ok(None);
    };
    let hash = image.hash();
    image.keep(media, of.path(&hash)).await?;
    Ok(Some(hash))
}

/// Whether an image is there, for a row to show: its lease is renewed if none does yet.
pub(crate) async fn is_kept(media: &Media, of: ImageOf, hash: &str) -> Result<bool> {
    let path = of.path(hash);
    Ok(media.is_used(&path).await? || media.renew(&path).await?.is_some())
}

/// [`store_image`] of a field that may be absent or null: the new value of the column,
/// `None` to leave it as it is.
pub(crate) async fn store_optional_image(
    media: &Media,
    of: ImageOf,
    field: &str,
    data_uri: &Option<Option<String>>,
) -> Result<Option<Option<String>>> {
    match data_uri {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(data_uri)) => {
            let hash = store_image(media, of, field, data_uri).await?;
            Ok(Some(Some(hash)))
        }
    }
}

/// Checks a field in [`crate::extract::Form::check`], so that a wrong image is reported with
/// the other faults of its body: is it the beginning of an image, and not too large.
pub(crate) fn check_image(form: &mut FormErrors, field: &str, data_uri: Option<&str>) {
    let Some(data_uri) = data_uri else { return };
    match decode_data_uri(field, data_uri, LARGE_BYTES_MAX) {
        Ok(bytes) if render::is_image(&bytes) => {}
        Ok(_) => form.add(field, invalid()),
        Err(Error::Form(faults)) => form.merge(faults),
        Err(_) => form.add(field, invalid()),
    }
}

/// Reads and checks the image in a data URI. Errors: 50035 at `field`.
pub(crate) async fn parse_image(
    media: &Media,
    field: &str,
    data_uri: &str,
    bytes_max: usize,
) -> Result<Image> {
    let bytes = decode_data_uri(field, data_uri, bytes_max)?;
    let image = inspect(media, bytes).await?;
    image.ok_or_else(|| invalid_image(field))
}

/// Decodes bytes that should be an image; `None` if they are none.
pub(crate) async fn inspect(media: &Media, bytes: Vec<u8>) -> Result<Option<Image>> {
    let inspected = media
        .work(move || render::inspect(&bytes).map(|found| (found, bytes)))
        .await?;
    Ok(inspected.map(|(found, bytes)| Image {
        content_type: found.content_type,
        bytes: bytes.into(),
        width: found.width,
        height: found.height,
        animated: found.animated,
        lasts: found.lasts,
    }))
}

/// The bytes in `data:<type>;base64,…`. The type is not looked at: bytes tell more.
///
/// Errors: 50035 at `field`.
pub(crate) fn decode_data_uri(field: &str, text: &str, bytes_max: usize) -> Result<Vec<u8>> {
    let encoded = text
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"))
        .map(|(_, encoded)| encoded.trim_end_matches('='))
        .ok_or_else(|| invalid_image(field))?;
    if encoded.len() / 4 * 3 > bytes_max {
        return Err(too_large(field, bytes_max));
    }
    // Without padding, so that both kinds of senders are understood.
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(encoded)
        .map_err(|_| invalid_image(field))?;
    if bytes.len() > bytes_max {
        return Err(too_large(field, bytes_max));
    }
    Ok(bytes)
}

fn invalid() -> Fault {
    Fault::Other("IMAGE_INVALID", "Invalid image".into())
}

pub(crate) fn invalid_image(field: &str) -> Error {
    FormErrors::one(field, invalid())
}

pub(crate) fn too_large(field: &str, bytes_max: usize) -> Error {
    let message = format!("File cannot be larger than {} kb.", bytes_max >> 10);
    let fault = Fault::Other("BINARY_TYPE_MAX_SIZE", message.into());
    FormErrors::one(field, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_uris_are_read_with_and_without_padding() {
        let read = |text| decode_data_uri("icon", text, 4).map_err(|error| error.code());
        assert_eq!(read("data:image/png;base64,YQ==").unwrap(), b"a");
        assert_eq!(read("data:image/png;base64,YQ").unwrap(), b"a");
        for bad in [
            "",
            "YQ==",
            "data:image/png,a",
            "data:;base64,*",
            "data:;base64",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("data:;base64,YWFhYWE=").is_err());
        assert!(read("data:;base64,YWFhYQ==").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = decode_data_uri("x", &text, 10);
        }
    }
}
