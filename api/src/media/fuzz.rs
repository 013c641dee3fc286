//! See [`crate::fuzz`].

use super::{images, length, sign, sniff as sniffing};

/// Decoded size up to which a data URI is read.
const IMAGE_BYTES_MAX: usize = 1000;

pub(crate) fn data_uri(text: &str) {
    if let Ok(bytes) = images::decode_data_uri("icon", text, IMAGE_BYTES_MAX) {
        assert!(bytes.len() <= IMAGE_BYTES_MAX, "too long");
        sniff("icon", &bytes);
    }
}

pub(crate) fn sniff(name: &str, head: &[u8]) {
    let clean = sign::sanitize(name);
    assert!(
        !clean.is_empty() && !clean.starts_with('.') && !clean.contains(['/', '\\', '\0']),
        "{clean:?}"
    );
    let content_type = sniffing::content_type(head, &clean);
    assert!(content_type.contains('/'), "{content_type}");
    if let Some(lasts) = length::sound_length(content_type, head) {
        assert!(!lasts.is_zero(), "a sound of nothing");
    }
    if let Some((width, height)) = sniffing::dimensions(head) {
        assert!(
            u64::from(width) * u64::from(height) > 0,
            "an image of nothing"
        );
    }
}
