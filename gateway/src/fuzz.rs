//! Parsers that bytes from outside reach and that are private otherwise: what the targets
//! of the package `fuzz` call. Each panics if a rule is broken.

use bytes::{Bytes, BytesMut};
use guildhall_shared::gateway::CloseCode;

use crate::{
    format::Format,
    names::SessionId,
    node::fuzz as node,
    wire::{Fragments, Inbound, Parser},
};

/// A frame of a link between gateways: what decodes survives another round.
pub fn relay_frame(bytes: &[u8]) {
    node::relay_frame(bytes);
}

/// What a client put behind the `?`.
pub fn handshake_query(query: &str) {
    let format = Format::from_query(Some(query));
    let doubled = format!("{query}&{query}");
    assert_eq!(format, Format::from_query(Some(&doubled)), "said twice");
}

/// A session's name is read back as it is written.
pub fn session_id(text: &str) {
    if let Some(id) = SessionId::parse(text) {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
}

/// Of a client's message.
const MESSAGE_BYTES_MAX: usize = 512;

/// What a connection's bytes come to: the same however they arrive, whoever used the parser
/// before, and as RFC 6455 has it.
pub fn websocket(bytes: &[u8]) {
    let mut parser = Parser::new(MESSAGE_BYTES_MAX);
    let all = read(&mut parser, bytes);
    let again = read(&mut parser, bytes);
    assert_eq!(all, again, "a used parser");
    let (inbounds, _) = &all;
    for inbound in inbounds {
        match inbound {
            Inbound::Text(text) => {
                assert!(text.len() <= MESSAGE_BYTES_MAX, "too long");
                assert!(std::str::from_utf8(text).is_ok(), "no text");
            }
            Inbound::Binary(bytes) => assert!(bytes.len() <= MESSAGE_BYTES_MAX, "too long"),
            Inbound::Ping(bytes) => assert!(bytes.len() <= 125, "a long ping"),
            Inbound::Pong(_) | Inbound::Close(_) | Inbound::Partial => {}
        }
    }
}

/// All of a connection, up to its end or fault.
fn read(parser: &mut Parser, mut bytes: &[u8]) -> (Vec<Inbound>, Option<CloseCode>) {
    let (mut fragments, mut all): (Option<Box<Fragments>>, _) = (None, Vec::new());
    loop {
        let inbound = match parser.frame_len(bytes, MESSAGE_BYTES_MAX) {
            Ok(Some(len)) if len <= bytes.len() => {
                let (frame, rest) = bytes.split_at(len);
                bytes = rest;
                parser.parse(frame, &mut fragments, MESSAGE_BYTES_MAX)
            }
            Ok(_) => return (all, None),
            Err(code) => Err(code),
        };
        match inbound {
            Ok(inbound) => all.push(inbound),
            Err(code) => return (all, Some(code)),
        }
    }
}

/// What a link's bytes come to, in one piece and in small ones.
pub fn relay_stream(bytes: &[u8]) {
    let whole = node::cut_all(&mut BytesMut::from(bytes), &[]);
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let pieces: Vec<Bytes> = rest.chunks(3).map(Bytes::copy_from_slice).collect();
    assert_eq!(whole, node::cut_all(&mut BytesMut::from(first), &pieces));
}
