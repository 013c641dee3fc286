//! Why a request of an operator was not done, as they are told.

use guildhall_shared::operator::{Problem, ProblemCode};
use sqlx::error::DatabaseError;

use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub(crate) struct Refusal(pub(crate) Problem);

impl Refusal {
    pub(crate) fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Problem { code, message })
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (code, message) = match &error {
            Error::Postgres(sqlx::Error::Database(db)) if !refuses_for_now(&**db) => {
                (ProblemCode::Internal, "it failed")
            }
            Error::Postgres(_) | Error::Silent("Postgres") => {
                (ProblemCode::NoPostgres, "Postgres does not answer")
            }
            Error::Redis(_) | Error::Silent(_) => (ProblemCode::NoRedis, "Redis does not answer"),
            _ => (ProblemCode::Internal, "it failed"),
        };
        tracing::warn!(%error, "a request of an operator failed");
        Self::new(code, message)
    }
}

/// Whether Postgres may do the same in a moment.
fn refuses_for_now(error: &dyn DatabaseError) -> bool {
    // serialization_failure, deadlock_detected, lock_not_available, query_canceled
    // (statement_timeout), admin_shutdown and friends, idle transaction cut off, too many
    // connections, read-only replica.
    matches!(
        error.code().as_deref(),
        Some(
            "40001"
                | "40P01"
                | "55P03"
                | "57014"
                | "57P01"
                | "57P02"
                | "57P03"
                | "25P03"
                | "53300"
                | "25006"
        )
    )
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Error::from(error).into()
    }
}
