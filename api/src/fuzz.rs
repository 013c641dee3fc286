//! Parsers that bytes from outside reach and that are private otherwise: what the targets
//! of the package `fuzz` call. Each panics if a rule is broken.

use bytes::Bytes;

use crate::{media::fuzz as media, upload};

/// A body of `multipart/form-data`: the same however it arrives.
pub async fn multipart(content_type: &str, body: &[u8]) {
    let whole = upload::read_form(content_type, vec![Bytes::copy_from_slice(body)]).await;
    let pieces = body.chunks(7).map(Bytes::copy_from_slice).collect();
    let pieces = upload::read_form(content_type, pieces).await;
    assert_eq!(whole.ok(), pieces.ok(), "in pieces");
}

/// An image as a data URI, and what its bytes are taken for.
pub fn data_uri(text: &str) {
    media::data_uri(text);
}

/// The name and the first bytes of a file.
pub fn sniff(name: &str, head: &[u8]) {
    media::sniff(name, head);
}
