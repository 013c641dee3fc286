//! See [`crate::fuzz`].

use bytes::{Bytes, BytesMut};

use super::relay::frame::{BadFrame, Frame, HELLO_BYTES_MAX, cut};

pub(crate) fn relay_frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let encoded = frame.encode();
    let again = Frame::decode(encoded.slice(4..));
    assert_eq!(again.as_ref(), Ok(&frame), "another round");
}

/// The frames of `buffer` and then of `pieces`, up to the end or a fault.
pub(crate) fn cut_all(
    buffer: &mut BytesMut,
    pieces: &[Bytes],
) -> Result<(Vec<Bytes>, Bytes), BadFrame> {
    let mut frames = Vec::new();
    let mut pieces = pieces.iter();
    loop {
        match cut(buffer, HELLO_BYTES_MAX)? {
            Some(frame) => frames.push(frame),
            None => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok((frames, buffer.split().freeze())),
            },
        }
    }
}
