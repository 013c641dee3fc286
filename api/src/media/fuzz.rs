//! See [`crate::fuzz`].

use bytes::Bytes;

use super::{attachments, images, sniff as sniffing, upload};

/// Decoded size up to which a data URI is read.
const IMAGE_BYTES_MAX: usize = 1000;

/// Files and JSON of a form; `None` if it was refused.
pub(crate) async fn form(content_type: &str, chunks: Vec<Bytes>) -> Option<(usize, Vec<u8>)> {
    upload::read_form(content_type, chunks).await.ok()
}

pub(crate) fn data_uri(text: &str) {
    if let Ok(bytes) = images::decode_data_uri("icon", text, IMAGE_BYTES_MAX) {
        assert!(bytes.len() <= IMAGE_BYTES_MAX, "too long");
        sniff("icon", &bytes);
    }
}

pub(crate) fn sniff(name: &str, head: &[u8]) {
    let clean = attachments::sanitize(name);
    assert!(
        !clean.is_empty() && !clean.starts_with('.') && !clean.contains(['/', '\\', '\0']),
        "{clean:?}"
    );
    let content_type = sniffing::content_type(head, &clean);
    assert!(content_type.contains('/'), "{content_type}");
    if let Some((width, height)) = sniffing::dimensions(head) {
        assert!(
            u64::from(width) * u64::from(height) > 0,
            "an image of nothing"
        );
    }
}
