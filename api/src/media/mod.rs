//! Files: kept in an object store (a local folder or S3), known to Postgres by `media_file`.
//!
//! The order of every upload is row (unused, to be collected later), file, then the row that
//! shows it; triggers count uses (migrations/0007_media.sql). So whatever step a process dies
//! at, housekeeping finds what nobody shows and removes file before row.
//!
//! Never decides who may upload or see: handlers do, and signed addresses of attachments.

mod files;
pub(crate) mod fuzz;
mod images;
mod length;
mod render;
mod sign;
pub(crate) mod sniff;

use std::sync::Arc;

use object_store::{ObjectStore, aws::AmazonS3Builder, local::LocalFileSystem};
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub(crate) use self::{
    files::{File, LEASE, Writer, collect},
    images::{
        Image, ImageOf, check_image, decode_data_uri, inspect, is_kept, parse_image, store_fetched,
        store_image, store_optional_image, too_large,
    },
    length::sound_length,
    render::{Format, Variant},
    sign::{SLOT_SECONDS, Signed, SlotClaim, sanitize},
    sniff::{is_inline, sniff_type},
};

use crate::{
    config::{Config, MediaConfig, Secret},
    keys::Keys,
};

/// Images worked on at the same time; each may hold [`images::PIXELS_MAX`] pixels.
const IMAGE_WORKERS: usize = 4;

/// The files of this process.
#[derive(Debug)]
pub(crate) struct Media {
    db: PgPool,
    store: Arc<dyn ObjectStore>,
    keys: Keys,
    pub(crate) cdn_url: String,
    pub(crate) api_url: String,
    pub(crate) attachment_bytes_max: u64,
    workers: Arc<Semaphore>,
    rendered: render::Rendered,
}

impl Media {
    /// Opens the store. Errors: a folder that cannot be made, settings that do not fit.
    pub(crate) fn open(
        config: &Config,
        keys: &Keys,
        db: PgPool,
    ) -> Result<Self, object_store::Error> {
        Self::with(&config.media, keys, &config.public_url, db)
    }

    /// As [`Self::open`]. `keys` sign addresses, all of them below `public_url`.
    pub(crate) fn with(
        media: &MediaConfig,
        keys: &Keys,
        public_url: &str,
        db: PgPool,
    ) -> Result<Self, object_store::Error> {
        let store: Arc<dyn ObjectStore> = match &media.s3_bucket {
            Some(bucket) => Arc::new(s3(media, bucket)?),
            None => {
                let failed = |source: std::io::Error| object_store::Error::Generic {
                    store: "MEDIA_DIR",
                    source: Box::new(source),
                };
                std::fs::create_dir_all(&media.dir).map_err(failed)?;
                Arc::new(LocalFileSystem::new_with_prefix(&media.dir)?.with_fsync(true))
            }
        };
        Ok(Self {
            db,
            store,
            keys: keys.clone(),
            cdn_url: media
                .cdn_public_url
                .clone()
                .unwrap_or_else(|| public_url.to_owned()),
            api_url: public_url.to_owned(),
            attachment_bytes_max: media.attachment_bytes_max,
            workers: Arc::new(Semaphore::new(IMAGE_WORKERS)),
            rendered: render::Rendered::default(),
        })
    }

    /// Bytes of a whole request with files: ten files, and the rest of the form.
    pub(crate) fn upload_bytes_max(&self) -> u64 {
        10 * self.attachment_bytes_max + (1 << 20)
    }
}

fn s3(
    config: &MediaConfig,
    bucket: &str,
) -> Result<object_store::aws::AmazonS3, object_store::Error> {
    // Credentials that are not set, or empty, come from AWS_* or the machine's role.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_region(&config.s3_region);
    if let Some(endpoint) = &config.s3_endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(key) = given(config.s3_access_key.as_ref()) {
        builder = builder.with_access_key_id(key);
    }
    if let Some(key) = given(config.s3_secret_key.as_ref()) {
        builder = builder.with_secret_access_key(key);
    }
    builder.build()
}

/// A key, unless it is empty, as templates of settings have it.
fn given(key: Option<&Secret>) -> Option<&str> {
    key.map(Secret::reveal).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_is_none() {
        let [empty, key] = ["", "key"].map(|key| Secret::from(key.to_owned()));
        assert_eq!(given(Some(&empty)), None);
        assert_eq!(given(Some(&key)), Some("key"));
        assert_eq!(given(None), None);
    }
}
