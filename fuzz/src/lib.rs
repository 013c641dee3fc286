//! Fuzz targets: every parser that sees bytes from outside, and the rules it keeps.
//!
//! A target gets any bytes and panics if a rule is broken. `cargo xtask fuzz` runs them under
//! libFuzzer, `tests/corpus.rs` over the inputs in `corpus/`, one folder per target.

mod envelope;
mod etf;
mod json;

use std::{cell::OnceCell, str};

use guildhall_gateway::fuzz as gateway;
use guildhall_shared::token::Token;

/// What is run on every input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 13] = [
    ("gateway_json", json::command),
    ("json_readers", json::readers),
    ("gateway_etf", etf::command),
    ("etf_of_json", etf::dispatch),
    ("websocket", gateway::websocket),
    ("handshake_query", handshake_query),
    ("session_id", session_id),
    ("envelope", envelope::envelope),
    ("relay_frame", gateway::relay_frame),
    ("relay_stream", gateway::relay_stream),
    ("token", token),
    ("multipart", multipart),
    ("upload", upload),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    let mut targets = TARGETS.iter();
    targets
        .find(|(known, _)| *known == name)
        .map(|&(_, target)| target)
}

fn handshake_query(bytes: &[u8]) {
    if let Ok(query) = str::from_utf8(bytes) {
        gateway::handshake_query(query);
    }
}

fn session_id(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        gateway::session_id(text);
    }
}

/// A token is what it was read from, and never prints.
fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Some(token) = Token::parse(text) else {
        return;
    };
    assert!(text.contains(token.reveal()), "not of this text");
    assert_eq!(format!("{token:?}"), "***");
    let again = Token::parse(&format!("Bot {}", token.reveal()));
    assert!(again.is_some_and(|again| again.hash() == token.hash()));
}

/// The first line is the header `Content-Type`, the rest is the body.
fn multipart(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: OnceCell<tokio::runtime::Runtime> = const { OnceCell::new() };
    }
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    let (Ok(content_type), body) = (str::from_utf8(&bytes[..end]), &bytes[end + 1..]) else {
        return;
    };
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().build().expect("timers need nothing")
        });
        runtime.block_on(guildhall_api::fuzz::multipart(content_type, body));
    });
}

/// A data URI; or a name, a line feed, and the beginning of a file.
fn upload(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes)
        && text.starts_with("data:")
    {
        return guildhall_api::fuzz::data_uri(text);
    }
    let mut parts = bytes.splitn(2, |&byte| byte == b'\n');
    if let (Some(name), Some(head)) = (parts.next(), parts.next()) {
        guildhall_api::fuzz::sniff(&String::from_utf8_lossy(name), head);
    }
}
