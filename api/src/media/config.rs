//! Settings of files and the CDN.

use std::path::PathBuf;

use crate::config::{Secret, base_url};

/// Where files are kept and how large they may be.
#[derive(Debug, Clone, clap::Args)]
pub struct MediaConfig {
    /// Folder of uploaded files; created if it is missing. All API processes need the same one.
    #[arg(
        long = "media-dir",
        env = "MEDIA_DIR",
        default_value = ".guildhall/media"
    )]
    pub dir: PathBuf,

    /// Bucket of an S3 service. When set, files are kept there and not in `MEDIA_DIR`.
    #[arg(long = "media-s3-bucket", env = "MEDIA_S3_BUCKET")]
    pub s3_bucket: Option<String>,

    /// Where the S3 service is, when it is not Amazon's: http:// or https://.
    #[arg(long = "media-s3-endpoint", env = "MEDIA_S3_ENDPOINT", value_parser = base_url)]
    pub s3_endpoint: Option<String>,

    /// Region of the bucket.
    #[arg(
        long = "media-s3-region",
        env = "MEDIA_S3_REGION",
        default_value = "us-east-1"
    )]
    pub s3_region: String,

    /// Access key of the S3 service.
    #[arg(
        long = "media-s3-access-key",
        env = "MEDIA_S3_ACCESS_KEY",
        hide_env_values = true
    )]
    pub s3_access_key: Option<Secret>,

    /// Secret key of the S3 service.
    #[arg(
        long = "media-s3-secret-key",
        env = "MEDIA_S3_SECRET_KEY",
        hide_env_values = true
    )]
    pub s3_secret_key: Option<Secret>,

    /// Where clients fetch files, without a trailing slash; `API_PUBLIC_URL` by default.
    /// Stored in messages with attachments, so an old address should go on working.
    #[arg(long = "cdn-public-url", env = "CDN_PUBLIC_URL", value_parser = base_url)]
    pub cdn_public_url: Option<String>,

    /// Size of one attachment at most, in bytes. A request takes ten of them.
    #[arg(
        long = "attachment-bytes-max",
        env = "ATTACHMENT_BYTES_MAX",
        default_value_t = 25 * 1024 * 1024,
        value_parser = clap::value_parser!(u64).range(1024..=1024 * 1024 * 1024)
    )]
    pub attachment_bytes_max: u64,
}

impl MediaConfig {
    /// The defaults, in this folder.
    pub fn in_folder(dir: PathBuf) -> Self {
        Self {
            dir,
            s3_bucket: None,
            s3_endpoint: None,
            s3_region: "us-east-1".to_owned(),
            s3_access_key: None,
            s3_secret_key: None,
            cdn_public_url: None,
            attachment_bytes_max: 25 * 1024 * 1024,
        }
    }
}
