//! What a gateway is started with.

use super::{redis::Redis, store::Store};
use crate::config::ResumeLog;

/// See the module.
#[derive(Clone)]
pub struct Setup {
    /// Its name; its links are let in at `name:run`, its clients at `name:clients`.
    pub id: String,
    /// Of this start.
    pub boot: u32,
    /// Where other gateways find it, as the map says.
    pub relay_addr: String,
    pub shards: u16,
    pub resume: ResumeLog,
    pub store: Store,
    pub redis: Redis,
}
