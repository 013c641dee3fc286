//! Reads of Postgres that end in time.

use std::time::Duration;

use guildhall_store::pool::Patience;

/// A read that takes longer counts as failed: the caller has clients waiting.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// What the node's connections wait for.
pub(crate) const PATIENCE: Patience = Patience {
    connection: READ_TIMEOUT,
    statement: READ_TIMEOUT,
};

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
