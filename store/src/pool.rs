//! Pools of connections, of which none waits for ever.
//!
//! A network may swallow a connection without a word to either side. Whoever waits for a query on it
//! gives up in time; but a pool asks each connection whether it still answers when it is given back
//! and when it is taken, and by itself has no end to that. Here it has one, and the connection is
//! dropped.

use std::{io, time::Duration};

use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

/// How long a process waits for Postgres.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection of its pool.
    pub connection: Duration,
    /// For a statement, and between those of a transaction: Postgres ends what takes longer.
    pub statement: Duration,
}

/// Postgres has ended what nobody waits for any longer, and said so.
const GRACE: Duration = Duration::from_secs(2);
/// Whoever had a connection until just now has heard it answer.
const FRESH: Duration = Duration::from_millis(100);

/// A pool that connects on first use.
pub fn open(options: PgConnectOptions, connections_max: u32, patience: Patience) -> PgPool {
    let statement_ms = patience.statement.as_millis();
    let options = options.options([
        ("statement_timeout", statement_ms.to_string()),
        (
            "idle_in_transaction_session_timeout",
            statement_ms.to_string(),
        ),
        // It takes tens of milliseconds, and our queries a few.
        ("jit", "off".to_owned()),
    ]);
    // There is time left to make another one.
    let taken_max = patience.connection / 3;
    // A statement that was given up keeps its connection: Postgres has it, too.
    let given_back_max = patience.statement + GRACE;
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(patience.connection)
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            Box::pin(
                async move { Ok(about.idle_for < FRESH || answers(connection, taken_max).await?) },
            )
        })
        .after_release(move |connection, _| Box::pin(answers(connection, given_back_max)))
        .connect_lazy_with(options)
}

/// Errors: the connection does not, and is dropped without a farewell.
async fn answers(connection: &mut PgConnection, within: Duration) -> sqlx::Result<bool> {
    let asked = async {
        match connection.ping().await {
            // What was given up has ended with it; it is no answer to this.
            Err(sqlx::Error::Database(_)) => connection.ping().await,
            answer => answer,
        }
    };
    match timeout(within, asked).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}
