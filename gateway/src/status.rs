//! How a gateway is: what its cores and its node tell each other and the admin endpoint.

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct Status {
    sessions: AtomicU64,
    dispatches_per_s: AtomicU64,
    leaving: AtomicBool,
    stopping: Notify,
    draining: AtomicBool,
    database: AtomicBool,
    relay_addr: OnceLock<SocketAddr>,
}

impl Status {
    /// From the cores: identified sessions, connected or resumable.
    pub fn set_sessions(&self, sessions: u64) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// From the cores: dispatches sent in the last second.
    pub fn set_dispatches_per_s(&self, dispatches: u64) {
        self.dispatches_per_s.store(dispatches, Ordering::Relaxed);
    }

    pub fn dispatches_per_s(&self) -> u64 {
        self.dispatches_per_s.load(Ordering::Relaxed)
    }

    /// The process is leaving: the next heartbeat, sent at once, says so, and shards move
    /// away while this node still serves them.
    pub fn stop(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.stopping.notify_one();
    }

    pub fn is_stopping(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether clients should come: the database answers, and neither does the process leave nor
    /// are its sessions sent away.
    pub fn is_ready(&self) -> bool {
        self.database()
            && self.relay_addr.get().is_some()
            && !self.is_stopping()
            && !self.is_draining()
    }

    /// Where the relay listens, once it does.
    pub fn relay_addr(&self) -> Option<SocketAddr> {
        self.relay_addr.get().copied()
    }

    /// Said by the thread that is the first to start; a second node of the process has its own.
    pub(crate) fn set_relay_addr(&self, address: SocketAddr) {
        let _ = self.relay_addr.set(address);
    }

    /// Waits until the process leaves.
    pub(crate) async fn stopping(&self) {
        self.stopping.notified().await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether the database answered when it was asked last.
    pub(crate) fn database(&self) -> bool {
        self.database.load(Ordering::Relaxed)
    }

    pub(crate) fn set_database(&self, answers: bool) {
        self.database.store(answers, Ordering::Relaxed);
    }
}
