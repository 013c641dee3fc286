//! Waiting for a condition. Deadlines are generous: they end a test only when the thing never
//! happens, however busy the machine is.

use std::time::{Duration, Instant};

/// How long anything may take before it counts as "never".
pub const NEVER: Duration = Duration::from_secs(60);
/// Between two looks at something that cannot wake us.
pub const LOOK: Duration = Duration::from_millis(25);

/// Looks until `look` finds what it looks for.
///
/// # Panics
/// After [`NEVER`], naming `what`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let end = Instant::now() + NEVER;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(LOOK).await;
    }
}
