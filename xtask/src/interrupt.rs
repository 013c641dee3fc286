//! Ctrl-C and SIGTERM as a flag that waiting loops look at.
//!
//! A signal never ends `xtask` by itself: every wait returns early with
//! [`Interrupted`], and what was started is stopped on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a waiting loop looks at what it waits for.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// What was started is being stopped.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// The user asked to stop. Not a failure: the exit code is 130, nothing is printed.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Turns Ctrl-C, SIGTERM and SIGHUP into [`requested`]. Without this call they
/// end the process at once, which is what a test binary wants.
pub(crate) fn listen() -> Result<()> {
    let flag = STOP.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .context("cannot listen to signals")?;
    }
    Ok(())
}

/// Was a stop asked for?
pub fn requested() -> bool {
    STOP.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// What was started is stopped from now on: a further Ctrl-C is for [`hurried`].
pub(crate) fn stopping() {
    if let Some(flag) = STOP.get() {
        flag.store(false, Ordering::Relaxed);
    }
    STOPPING.store(true, Ordering::Relaxed);
}

/// Was a stop asked for once more, after [`stopping`]? Nothing is waited for then.
pub(crate) fn hurried() -> bool {
    STOPPING.load(Ordering::Relaxed) && requested()
}

/// Fails with [`Interrupted`] once a stop was asked for.
pub(crate) fn check() -> Result<()> {
    if requested() {
        Err(Interrupted.into())
    } else {
        Ok(())
    }
}

/// Sleeps, but wakes for a stop.
pub(crate) fn sleep(pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(POLL_INTERVAL));
    }
}
