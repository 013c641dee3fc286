//! Why a command ended without success, what to do about it, and the exit code.

use std::io;
use std::process::ExitCode;

use guildhall_shared::operator::{Problem, ProblemCode};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A coordinator said no.
    #[error("{} ({})", .0.message, code_word(.0.code))]
    Refused(Problem),
    /// What was waited for ended otherwise.
    #[error("{0}")]
    Failed(String),
    #[error("stopped: nothing was changed")]
    NotConfirmed,
    #[error("{url} answered {status}, and not as a coordinator does")]
    NotACoordinator { url: String, status: u16 },
    #[error("{url} sent what this version cannot read: {reason}")]
    Unreadable { url: String, reason: String },

    /// Flags that contradict each other, or an environment that cannot be used.
    #[error("{0}")]
    Usage(String),
    #[error("no token: neither GUILDCTL_TOKEN nor CLUSTER_KEY is set")]
    NoToken,
    #[error("not on a terminal, so nobody can be asked")]
    NobodyToAsk,

    #[error("no coordinator answers: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// A change that may or may not have been stored.
    #[error("{url} took the request and did not answer: {reason}")]
    Unanswered { url: String, reason: String },

    #[error("cannot start: {0}")]
    Process(io::Error),
    #[error("cannot print: {0}")]
    Output(io::Error),
    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),
}

impl Error {
    /// 1: refused or failed. 2: wrong usage. 3: no coordinator was reached.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::NoToken | Self::NobodyToAsk => 2,
            Self::Unreachable(_) | Self::Unanswered { .. } => 3,
            Self::Refused(_)
            | Self::Failed(_)
            | Self::NotConfirmed
            | Self::NotACoordinator { .. }
            | Self::Unreadable { .. }
            | Self::Process(_)
            | Self::Output(_)
            | Self::Terminal(_) => 1,
        })
    }

    /// What to do next, where there is something to do.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Refused(problem) => return for_problem(problem.code),
            Self::NotACoordinator { .. } => {
                "check --url (GUILDCTL_URL): it is COORDINATOR_LISTEN of a coordinator"
            }
            Self::Unreadable { .. } => "use the guildctl of the coordinator's version",
            Self::NoToken => {
                "set GUILDCTL_TOKEN to a token (`guildctl token` makes one), or CLUSTER_KEY to the cluster's key"
            }
            Self::NobodyToAsk => "say --yes to go ahead, or --dry-run to see what it would do",
            Self::Unreachable(_) => {
                "is a coordinator running there? --url (GUILDCTL_URL) names them, separated by commas"
            }
            Self::Unanswered { .. } => {
                "it may have been stored: look at `guildctl history` before trying again"
            }
            Self::Failed(_)
            | Self::NotConfirmed
            | Self::Usage(_)
            | Self::Process(_)
            | Self::Output(_)
            | Self::Terminal(_) => return None,
        })
    }
}

fn for_problem(code: ProblemCode) -> Option<&'static str> {
    Some(match code {
        ProblemCode::Unauthorized => {
            "set GUILDCTL_TOKEN to a token that has not run out, or CLUSTER_KEY to the key of this cluster"
        }
        ProblemCode::ScopeTooSmall => "use a token made by `guildctl token --scope operate`",
        ProblemCode::UnknownNode => "`guildctl nodes` names those there are",
        ProblemCode::UnknownShard => "`guildctl map` says how many there are",
        ProblemCode::UnknownPlan => "`guildctl plan` makes one",
        ProblemCode::NoMap => "is a gateway running? `guildctl nodes` names those that are live",
        ProblemCode::PlanRunning => {
            "wait until it is done (`guildctl moves`), or end it with `guildctl abort`"
        }
        ProblemCode::PlanStale => {
            "ask for it again, or make the plan again, and look at what it does now"
        }
        ProblemCode::PlanNotDraft => "make a new one with `guildctl plan`",
        ProblemCode::NodeNotAccepting => "`guildctl nodes` shows who takes shards",
        ProblemCode::ShardPinned => "remove the pin first: `guildctl unpin`",
        ProblemCode::TooManyStreams => {
            "close a `guildctl top` or a dashboard, or ask another coordinator"
        }
        ProblemCode::AdminDisabled => "start the coordinators with CLUSTER_KEY set",
        ProblemCode::NoRedis | ProblemCode::NoPostgres | ProblemCode::Internal => {
            "try again shortly; the coordinator's log says more"
        }
        ProblemCode::BadRequest
        | ProblemCode::HeaderMissing
        | ProblemCode::UnknownPath
        | ProblemCode::MethodNotAllowed
        | ProblemCode::NothingToAbort
        | ProblemCode::BodyTooLong
        | ProblemCode::Other => return None,
    })
}

/// The word on the wire.
fn code_word(code: ProblemCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_code_and_what_to_do() {
        let error = Error::Refused(Problem {
            code: ProblemCode::PlanStale,
            message: "the plan is stale".to_owned(),
        });
        assert_eq!(error.to_string(), "the plan is stale (plan_stale)");
        assert!(error.advice().unwrap().contains("make the plan again"));
    }
}
