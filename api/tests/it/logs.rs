//! What is logged, for tests of what is in no log.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::format::FmtSpan;

/// All that this thread logs, down to the finest, until dropped.
pub(crate) struct Logs {
    written: Written,
    _logging: DefaultGuard,
    _another: Dispatch,
}

impl Logs {
    pub(crate) fn start() -> Self {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("guildhall_api=trace,guildhall_store=trace,sqlx=trace,tower=trace")
            .with_span_events(FmtSpan::CLOSE)
            .with_writer(move || writer.clone())
            .finish();
        // With one subscriber alone, threads of other tests would decide what is logged.
        let another = Dispatch::new(NoSubscriber::default());
        Self {
            written,
            _logging: tracing::subscriber::set_default(subscriber),
            _another: another,
        }
    }

    /// What was logged until now.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
