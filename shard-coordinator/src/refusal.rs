//! Why a request of an operator was not done, as they are told.

use guildhall_shared::operator::{Problem, ProblemCode};

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
            Error::Postgres(sqlx::Error::Database(_)) => (ProblemCode::Internal, "it failed"),
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
