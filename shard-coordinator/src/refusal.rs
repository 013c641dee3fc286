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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    /// The manual's table has every word, once, with its status.
    #[test]
    fn the_manual_has_every_code_with_its_status() {
        let manual = include_str!("../../docs/guildctl.md");
        let mut listed = BTreeSet::new();
        for line in manual.lines() {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let (Some(word), Some(status)) = (cells.next(), cells.next()) else {
                continue;
            };
            let Ok(status) = status.parse::<u16>() else {
                continue; // the exit codes, the tables of other chapters
            };
            let word = word.trim_matches('`');
            let code: ProblemCode = serde_json::from_value(json!(word)).unwrap();
            assert_eq!(code.status(), status, "{word}");
            assert!(listed.insert(word), "{word} is there twice");
        }
        for code in [
            ProblemCode::BadRequest,
            ProblemCode::Unauthorized,
            ProblemCode::ScopeTooSmall,
            ProblemCode::HeaderMissing,
            ProblemCode::UnknownPath,
            ProblemCode::UnknownNode,
            ProblemCode::UnknownShard,
            ProblemCode::UnknownPlan,
            ProblemCode::NoMap,
            ProblemCode::MethodNotAllowed,
            ProblemCode::PlanRunning,
            ProblemCode::PlanStale,
            ProblemCode::PlanNotDraft,
            ProblemCode::NothingToAbort,
            ProblemCode::NodeNotAccepting,
            ProblemCode::ShardPinned,
            ProblemCode::BodyTooLong,
            ProblemCode::TooManyStreams,
            ProblemCode::Internal,
            ProblemCode::AdminDisabled,
            ProblemCode::NoRedis,
            ProblemCode::NoPostgres,
        ] {
            let Ok(Value::String(word)) = serde_json::to_value(code) else {
                panic!("{code:?} is no word");
            };
            assert!(listed.remove(word.as_str()), "{word} is missing");
        }
        assert!(listed.is_empty(), "{listed:?} is no code");
    }
}
