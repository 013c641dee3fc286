//! What a file is, by its bytes; its name only tells kinds of text apart.

use std::io::Cursor;

use image::ImageReader;

/// Enough of a file's beginning to know its kind, and of an image its size.
pub(crate) const HEAD_BYTES: usize = 512 << 10;

const UNKNOWN: &str = "application/octet-stream";

/// Kinds of text by the end of the name, for bytes that are UTF-8 without control characters.
const TEXTS: [(&str, &str); 10] = [
    ("txt", "text/plain; charset=utf-8"),
    ("log", "text/plain; charset=utf-8"),
    ("md", "text/markdown; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("json", "application/json; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
];

/// Content type of a file that begins with `head`.
pub(crate) fn content_type(head: &[u8], filename: &str) -> &'static str {
    if let Some(kind) = infer::get(head) {
        return match kind.mime_type() {
            "audio/x-wav" => "audio/wav",
            // An Ogg file may hold other things, but nothing that runs.
            "application/ogg" | "audio/opus" => "audio/ogg",
            known => known,
        };
    }
    // The first frame of an MP3 without a header: sync bits, then layer III.
    if let [0xFF, second, ..] = head
        && second & 0xE6 == 0xE2
    {
        return "audio/mpeg";
    }
    if !is_text(head) {
        return UNKNOWN;
    }
    let start = head.trim_ascii_start();
    if start.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    let extension = filename
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    let known = TEXTS
        .iter()
        .find(|(known, _)| extension.as_deref() == Some(known));
    match known {
        Some((_, text)) => text,
        None if head.is_empty() => UNKNOWN,
        None => "text/plain; charset=utf-8",
    }
}

/// Content type by the bytes alone.
pub(crate) fn sniff_type(bytes: &[u8]) -> &'static str {
    content_type(bytes, "")
}

fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(_) => head,
        // Cut within a character.
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        Err(_) => return false,
    };
    !valid
        .iter()
        .any(|&byte| byte < 0x20 && !matches!(byte, b'\n' | b'\r' | b'\t' | 0x0C))
}

/// Width and height of an image, from its beginning alone.
pub(crate) fn dimensions(head: &[u8]) -> Option<(u32, u32)> {
    let reader = ImageReader::new(Cursor::new(head));
    let (width, height) = reader.with_guessed_format().ok()?.into_dimensions().ok()?;
    // A header may claim an image of nothing; clients divide by these.
    (width > 0 && height > 0).then_some((width, height))
}

/// Whether browsers may show it in place. Everything else is offered as a download: no
/// document or script of an upload runs in the CDN's origin.
pub(crate) fn is_inline(content_type: &str) -> bool {
    matches!(
        content_type,
        "image/png"
            | "image/jpeg"
            | "image/gif"
            | "image/webp"
            | "image/avif"
            | "image/bmp"
            | "video/mp4"
            | "video/webm"
            | "video/quicktime"
            | "audio/mpeg"
            | "audio/ogg"
            | "audio/wav"
            | "audio/x-flac"
            | "audio/m4a"
            | "text/plain; charset=utf-8"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_say_what_a_file_is_not_its_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(content_type(png, "a.txt"), "image/png");
        assert_eq!(
            content_type(b"<!DOCTYPE html><script>", "a.png"),
            "text/html"
        );
        assert!(content_type(b"<?xml version=\"1.0\"?><svg/>", "a.png").starts_with("text/xml"));
        assert_eq!(content_type(b"<svg onload=x>", "a.svg"), "image/svg+xml");
        assert_eq!(content_type(b"hello", "a"), "text/plain; charset=utf-8");
        assert_eq!(content_type(b"\0\x01\x02", "a.png"), UNKNOWN);
        assert_eq!(content_type(b"", "a.png"), UNKNOWN);
    }

    #[test]
    fn documents_and_scripts_are_never_inline() {
        for name in ["a.html", "a.js", "a.svg", "a.json", "a.css", "a.md"] {
            assert!(!is_inline(content_type(b"text", name)), "{name}");
        }
        assert!(!is_inline("text/html"));
        assert!(!is_inline("text/xml"));
        assert!(is_inline("image/png"));
    }

    #[test]
    fn text_may_be_cut_within_a_character() {
        assert!(is_text(&"aß".as_bytes()[..2]));
        assert!(!is_text(b"a\xff\xffb"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(head: Vec<u8>, name: String) {
            let _ = content_type(&head, &name);
            let _ = dimensions(&head);
        }
    }
}
