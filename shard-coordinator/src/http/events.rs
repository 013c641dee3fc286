//! Server-sent events: the state of the cluster once a second, for those who watch.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use guildhall_shared::operator::ProblemCode;
use http_body_util::channel::{Channel, Sender};
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::admin::{self, Admin};
use crate::access::unix_seconds;
use crate::refusal::Refusal;

/// Streams at once; the other connections are left to probes and single requests.
const STREAMS_MAX: usize = 32;
/// Time between events.
const EVERY: Duration = Duration::from_secs(1);
/// A state younger than this serves all streams.
const FRESH: Duration = Duration::from_millis(900);
/// Longest time a state may take, while all streams wait for it. Then they are told so: who
/// watches takes a stream for broken that is silent for 10 s.
const STATE_MAX: Duration = Duration::from_secs(5);

/// The streams of this process.
#[derive(Clone)]
pub(super) struct Streams {
    free: Arc<Semaphore>,
    /// The last event, made once for all.
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(STREAMS_MAX)),
            last: Arc::default(),
        }
    }
}

impl Streams {
    /// A stream that ends with the token, at Unix second `until`, or with its connection.
    ///
    /// Errors: [`ProblemCode::TooManyStreams`].
    pub(super) fn open(
        &self,
        admin: &Admin,
        until: u64,
    ) -> Result<Response<Channel<Bytes>>, Refusal> {
        let free = Arc::clone(&self.free).try_acquire_owned();
        let place = free.map_err(|_| {
            let message = format!("{STREAMS_MAX} streams are open");
            Refusal::new(ProblemCode::TooManyStreams, message)
        })?;
        let (sender, body) = Channel::new(1);
        tokio::spawn(feed(self.clone(), admin.clone(), sender, place, until));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        let event_stream = HeaderValue::from_static("text/event-stream");
        headers.insert(CONTENT_TYPE, event_stream);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Some proxies hold back what looks unfinished.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    async fn event(&self, admin: &Admin) -> Bytes {
        let mut last = self.last.lock().await;
        let fresh = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        if let Some((_, event)) = fresh {
            return event.clone();
        }
        let state = timeout(STATE_MAX, admin.snapshot()).await;
        let event = match state.unwrap_or_else(|_| Err(admin::late())) {
            Ok(state) => event("state", &state),
            Err(Refusal(problem)) => event("problem", &problem),
        };
        *last = Some((Instant::now(), event.clone()));
        event
    }
}

async fn feed(
    streams: Streams,
    admin: Admin,
    mut sender: Sender<Bytes>,
    _place: OwnedSemaphorePermit,
    until: u64,
) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while unix_seconds(SystemTime::now()) < until {
        tick.tick().await;
        let event = streams.event(&admin).await;
        if sender.send_data(event).await.is_err() {
            return; // nobody reads any more
        }
    }
}

/// One event; JSON has no line breaks of its own.
fn event<T: Serialize>(name: &str, value: &T) -> Bytes {
    let data = serde_json::to_string(value).expect("states have string keys");
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
