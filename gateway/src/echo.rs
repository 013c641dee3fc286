//! The gateway's WebSocket alone: every message is sent back, by the very listener,
//! handshake, parser, connection and close handling that serve clients. Conformance suites
//! for WebSocket servers run against it. There is no node behind it: nothing identifies.
//!
//! Behind the feature `echo`, and not in optimised builds: it answers anybody, with messages
//! of up to [`MESSAGE_BYTES_MAX`] bytes.

#[cfg(not(debug_assertions))]
compile_error!("the feature `echo` is for tests and not for optimised builds");

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
};

use prometheus::Registry;
use tokio::sync::mpsc;

use crate::{
    bus::{self, CoreHandle},
    config::ResumeLog,
    core::{self, CoreConfig},
    gate::Gate,
    listener,
    telemetry::CoreMetrics,
};

/// What the conformance suites send at most, in cases that are no stress tests.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Connections at once; further ones wait in the kernel.
const CONNECTIONS_MAX: u64 = 1000;

/// Serves an address until the process ends; `bound` gets the real one, if its port was 0.
///
/// # Errors
/// If the address is taken, or a thread cannot be started.
pub fn run(address: SocketAddr, bound: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let metrics = CoreMetrics::new(&Registry::new()).map_err(io::Error::other)?;
    let (handle, inbox) = bus::inbox();
    let cores: Arc<[CoreHandle]> = [handle].into();
    // Requests to the node go nowhere.
    let (to_node, _) = mpsc::channel(1);
    let config = CoreConfig {
        id: 0,
        boot: 0,
        resume_url: "".into(),
        peers: cores.clone(),
        metrics: Arc::new(metrics),
        resume: ResumeLog::Async,
        message_bytes_max: MESSAGE_BYTES_MAX,
        own_bytes_max: usize::MAX,
        echo: true,
    };
    let _core: JoinHandle<io::Result<()>> =
        thread::Builder::new().spawn(move || core::run(config, inbox, to_node))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = listener::bind(address)?;
        bound(listener.local_addr()?);
        listener::accept(listener, cores, Arc::new(Gate::new(0)), CONNECTIONS_MAX).await;
        Ok(())
    })
}
