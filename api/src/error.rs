//! Why a request failed, and what the client is told. Spec: limits-and-errors › Errors.

use std::{fmt, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use guildhall_shared::error_code::ErrorCode;
use serde_json::{Value, json};

use crate::form::{Fault, FormErrors};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed. Status, code and message are the wire contract.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", .0.message())]
    Code(ErrorCode),
    /// The path holds no token that we gave out: counts as an invalid request, whatever its status.
    #[error("{}", .0.message())]
    WrongToken(ErrorCode),
    #[error("Invalid Form Body")]
    Form(FormErrors),
    /// 20016: the channel's slowmode; not a rate limit of ours.
    #[error("{}", ErrorCode::SlowmodeRateLimit.message())]
    Slowmode { retry_after: Duration },
    /// Too many attempts at something that is counted besides the buckets.
    #[error("You are being rate limited.")]
    RateLimited { retry_after: Duration },
    /// There may be no more of something for a while, however requests are spread.
    #[error("{}", .code.message())]
    Exhausted {
        code: ErrorCode,
        retry_after: Duration,
    },
    /// 60003: the second factor must be shown first, with this ticket, at `/mfa/finish`.
    #[error("{}", ErrorCode::SecondFactorRequired.message())]
    SecondFactorRequired { ticket: String },
    /// The storage did not answer in time or is away: the client may try again.
    #[error("503: Service Unavailable")]
    Unavailable(&'static str),
    #[error("500: Internal Server Error")]
    Database(DatabaseError),
    #[error("500: Internal Server Error")]
    Internal(String),
}

/// An error of the database, printed without what Postgres quotes of rows: these hold people's words,
/// addresses and hashes, and errors are logged.
pub struct DatabaseError(pub(crate) sqlx::Error);

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Its detail and its context are left out.
            sqlx::Error::Database(said) => f
                .debug_struct("Database")
                .field("code", &said.code())
                .field("message", &said.message())
                .field("table", &said.table())
                .field("constraint", &said.constraint())
                .finish(),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl From<sqlx::Error> for Error {
    /// A database that is away, full or overrun is 503, as it will be back; anything else is our fault.
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
                Self::Unavailable("the database does not answer")
            }
            sqlx::Error::Database(db) => match db.code().as_deref() {
                // serialization_failure, deadlock_detected, lock_not_available, query_canceled
                // (statement_timeout), admin_shutdown and friends, idle transaction cut off, too
                // many connections, read-only replica.
                Some(
                    "40001" | "40P01" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "25P03"
                    | "53300" | "25006",
                ) => Self::Unavailable("the database refused for now"),
                _ => Self::Database(DatabaseError(error)),
            },
            _ => Self::Database(DatabaseError(error)),
        }
    }
}

impl From<guildhall_store::Error> for Error {
    fn from(error: guildhall_store::Error) -> Self {
        match error {
            guildhall_store::Error::Database(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<serde_json::Error> for Error {
    /// Of something we wrote or stored ourselves.
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(format!("own JSON: {error}"))
    }
}

impl FormErrors {
    /// An error about one field.
    pub fn one(path: &str, fault: Fault) -> Error {
        let mut form = Self::new();
        form.add(path, fault);
        Error::Form(form)
    }

    /// `Err` if there is any fault.
    pub fn finish(self) -> Result<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Error::Form(self))
        }
    }
}

impl Error {
    /// The code behind it. No `_` arm: a new variant does not compile before it has its code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Code(code) | Self::WrongToken(code) | Self::Exhausted { code, .. } => *code,
            Self::Form(_) => ErrorCode::InvalidFormBody,
            Self::Slowmode { .. } => ErrorCode::SlowmodeRateLimit,
            Self::RateLimited { .. } => ErrorCode::TooManyRequests,
            Self::SecondFactorRequired { .. } => ErrorCode::SecondFactorRequired,
            Self::Unavailable(_) => ErrorCode::ServiceUnavailable,
            Self::Database(_) | Self::Internal(_) => ErrorCode::InternalServerError,
        }
    }

    fn body(&self) -> Value {
        let code = self.code();
        let mut body = json!({ "message": code.message(), "code": code.code() });
        match self {
            Self::Form(form) => body["errors"] = form.to_json(),
            Self::Slowmode { retry_after } => {
                body["retry_after"] = json!(retry_after.as_secs_f64())
            }
            Self::RateLimited { retry_after } | Self::Exhausted { retry_after, .. } => {
                body["retry_after"] = json!(retry_after.as_secs_f64());
                body["global"] = json!(false);
            }
            Self::SecondFactorRequired { ticket } => {
                let methods = [json!({ "type": "totp" }), json!({ "type": "backup" })];
                body["mfa"] = json!({ "ticket": ticket, "methods": methods });
            }
            Self::Code(_)
            | Self::WrongToken(_)
            | Self::Unavailable(_)
            | Self::Database(_)
            | Self::Internal(_) => {}
        }
        body
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let code = self.code();
        let status =
            StatusCode::from_u16(code.status()).expect("error codes hold valid HTTP statuses");
        if status.is_server_error() {
            tracing::error!(error = ?self, "request failed"); // logged once, here
        }
        let mut response = json_response(status, &self.body());
        response.extensions_mut().insert(code);
        if let Self::Slowmode { retry_after }
        | Self::RateLimited { retry_after }
        | Self::Exhausted { retry_after, .. } = self
        {
            add_retry_headers(response.headers_mut(), retry_after, "user");
        }
        if let Self::WrongToken(_) = self {
            response.extensions_mut().insert(WrongToken);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Marks the answer to a request whose path holds a made-up token: each of those has a bucket of
/// its own, so its address is what counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrongToken;

/// Headers that must come with every 429: discord.py raises without `Via`, twilight does
/// not wait without the scope.
pub(crate) fn add_retry_headers(
    headers: &mut HeaderMap,
    retry_after: Duration,
    scope: &'static str,
) {
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::VIA, HeaderValue::from_static("1.1 guildhall"));
    headers.insert("x-ratelimit-scope", HeaderValue::from_static(scope));
}

/// A reply with exactly `Content-Type: application/json`: discord.py compares the whole value.
pub(crate) fn json_response(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let bytes = match serde_json::to_vec(body) {
        Ok(bytes) => bytes,
        Err(error) => return Error::from(error).into_response(),
    };
    let mut response = json_bytes_response(bytes);
    *response.status_mut() = status;
    response
}

/// [`json_response`], 200, of what is JSON already.
pub(crate) fn json_bytes_response(json: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    #[sqlx::test(migrations = "../migrations")]
    async fn what_postgres_quotes_of_a_row_is_not_printed(db: PgPool) {
        let told = "create temporary table told (words text check (words <> 'hush'));
                    insert into told values ('hush')";
        let refused = sqlx::raw_sql(told).execute(&db).await.unwrap_err();
        assert!(format!("{refused:?}").contains("hush"));
        let printed = format!("{:?}", Error::from(refused));
        assert!(printed.contains("told_words_check"), "{printed}");
        assert!(!printed.contains("hush"), "{printed}");
    }
}
