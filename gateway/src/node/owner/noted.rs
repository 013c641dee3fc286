//! What was written to Redis of who is online in a guild.

use std::time::{Duration, Instant};

use guildhall_shared::online;

/// A guild where nothing changes is written again after this long: a third of its life.
const REFRESH: Duration = Duration::from_millis(online::TTL_MS / 3);

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noted {
    /// What the owner before wrote was read: now it may be overwritten.
    pub(super) recalled: bool,
    pub(super) written: Option<(u64, Instant)>,
}

impl Noted {
    pub(super) fn is_due(&self, now: Instant, version: u64, count: usize) -> bool {
        match self.written {
            _ if !self.recalled => false,
            None => count > 0,
            Some((written, _)) if written != version => true,
            Some((_, at)) => count > 0 && now.duration_since(at) >= REFRESH,
        }
    }
}
