//! Time, chance and the order of things as a gateway sees them: the machine's, or those of a simulation.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rand::distr::{Distribution, StandardUniform};
use tokio::task::{JoinError, spawn_blocking};

pub(crate) fn now() -> Instant {
    #[cfg(feature = "simulated")]
    if let Some(now) = crate::simulated::world::now() {
        return now;
    }
    Instant::now()
}

/// Unix time in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    #[cfg(feature = "simulated")]
    if let Some(now) = crate::simulated::world::unix_ms() {
        return now;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// What nobody can guess, outside of simulations.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(feature = "simulated")]
    if let Some(drawn) = crate::simulated::world::random() {
        return drawn;
    }
    rand::random()
}

/// Does what takes long on another thread, as this one has others to serve; a simulation has one
/// thread. Errors: the process stops.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(feature = "simulated")]
    if crate::simulated::world::is_on() {
        return Ok(work());
    }
    spawn_blocking(work).await
}

/// `tokio::select!`, where simulated code waits for several things: the first branch that is ready,
/// in a simulation, as chance comes from the seed only.
macro_rules! select {
    ($($branches:tt)*) => {{
        #[cfg(feature = "simulated")]
        if $crate::simulated::world::is_on() {
            ::tokio::select! { biased; $($branches)* }
        } else {
            ::tokio::select! { $($branches)* }
        }
        #[cfg(not(feature = "simulated"))]
        {
            ::tokio::select! { $($branches)* }
        }
    }};
}
pub(crate) use select;
