//! Reads of Postgres that end in time.

use std::time::Duration;

/// A read that takes longer counts as failed: the caller has clients waiting.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] guildhall_store::Error),
    #[error("no answer from the database in time")]
    Timeout,
    #[error("the process stops before all was read")]
    Stopped,
}

/// Waits for a read, but no longer than [`READ_TIMEOUT`].
pub(crate) async fn limited<T>(
    read: impl Future<Output = guildhall_store::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Timeout),
    }
}
