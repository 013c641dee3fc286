//! End-to-end proof: real processes, real client libraries, real faults.

#![expect(
    clippy::unwrap_used,
    reason = "a test, its helpers included, ends where something goes wrong"
)]

mod bots;
mod canaries;
mod conformance;
mod crowd;
mod drain;
mod encodings;
mod faults;
mod hostile;
mod limits;
mod people;
mod presence;
mod redis_cluster;
mod remembered;
mod resume;
mod visibility;
mod wire;
