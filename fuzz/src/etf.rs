//! Commands in Erlang's term format, and dispatches turned into it.

use guildhall_gateway::{
    codec::{Command, etf, read},
    format::Encoding,
};
use serde_json::Value;

/// Any bytes give a command or a close code, and the same ones every time.
pub(crate) fn command(bytes: &[u8]) {
    let command = read(Encoding::Etf, &mut bytes.to_vec());
    let again = read(Encoding::Etf, &mut bytes.to_vec());
    assert_eq!(format!("{command:?}"), format!("{again:?}"), "twice");
    if let Ok(Command::Resume(resume)) = command {
        assert!(resume.session_id.len() <= bytes.len(), "made up");
    }
}

/// Bodies are JSON of ours: whatever is JSON becomes a term, which as a payload is refused or
/// read without harm.
pub(crate) fn dispatch(bytes: &[u8]) {
    let mut term = vec![etf::VERSION];
    let made = etf::put_json(&mut term, bytes).is_ok();
    if serde_json::from_slice::<Value>(bytes).is_ok() {
        assert!(made, "JSON that does not become a term");
        let _ = read(Encoding::Etf, &mut term);
    }
}
