//! The delivery log: what a core did, so that another node can tell what a session had got when
//! its client had seen its `s`.
//!
//! A core writes *chunks* of records and forgets them; the node ships them to Redis. A session's
//! whole state stands in the log when it gets READY and about once a minute; in between, only
//! what moves it: which sessions an event of a realm reached, and what was dispatched to one
//! alone. Whoever reads the log starts from the newest state at or before the client's `s` and
//! counts to `s`. Chunks are numbered: behind a gap nothing of before counts, so a log that lost
//! something says too little, never something wrong.
//!
//! Pure: knows no Redis, no clock and no socket.

mod history;
mod record;
mod writer;

pub use history::{BadLog, Found, History};
pub use record::Numbered;
pub use writer::Writer;

#[cfg(test)]
mod tests;
