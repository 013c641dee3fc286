//! Requests to the coordinators: the first that answers, answers.

use std::time::Duration;

use guildhall_shared::operator::{PREFIX, Problem, ProblemCode, Snapshot};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::sse;
use crate::token::Credentials;

/// Longest wait for a connection; then the next coordinator is tried.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a whole answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// A stream of events that is silent for this long is broken: it has one a second.
const SILENCE_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    coordinators: Vec<Url>,
    credentials: Credentials,
}

/// One request, not yet sent anywhere.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
}

impl Ask {
    /// A path is given by its segments, which are escaped.
    pub(crate) fn new<S: ToString>(method: Method, path: impl IntoIterator<Item = S>) -> Self {
        Self {
            method,
            path: path.into_iter().map(|part| part.to_string()).collect(),
            query: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn get<S: ToString>(path: impl IntoIterator<Item = S>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post<S: ToString>(path: impl IntoIterator<Item = S>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Errors: a value that JSON has no form for.
    pub(crate) fn body(mut self, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_value(body);
        self.body = Some(body.map_err(|error| Error::Usage(error.to_string()))?);
        Ok(self)
    }
}

impl Client {
    pub(crate) fn new(coordinators: Vec<Url>, credentials: Credentials) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX)
            .no_proxy() // coordinators are reached inside, not through the way out
            .build()
            .map_err(|error| Error::Failed(format!("no HTTP client: {}", reason(&error))))?;
        Ok(Self {
            http,
            coordinators,
            credentials,
        })
    }

    /// Errors: see [`Error`]; a change is not sent to a second coordinator once a first may
    /// have it.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T> {
        let (url, response) = self.send(ask, Some(ANSWER_MAX)).await?;
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|error| broken_off(ask, &url, &error))?;
        read(&url, &bytes)
    }

    /// The state of the cluster, again and again, from the first coordinator that has it.
    pub(crate) async fn events(&self) -> Result<Events> {
        let (url, response) = self.send(&Ask::get(["events"]), None).await?;
        Ok(Events {
            url,
            response,
            parser: sse::Parser::default(),
            ready: Vec::new(),
        })
    }

    /// A successful response, whose body is not read yet.
    async fn send(&self, ask: &Ask, answer_max: Option<Duration>) -> Result<(Url, Response)> {
        let bearer = self.credentials.bearer()?;
        let mut silent = Vec::new();
        let mut unable = None;
        for coordinator in &self.coordinators {
            let url = url(coordinator, ask);
            let mut request = self
                .http
                .request(ask.method.clone(), url)
                .bearer_auth(&bearer);
            if let Some(answer_max) = answer_max {
                request = request.timeout(answer_max);
            }
            if let Some(body) = &ask.body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(response) => match accept(coordinator, response).await {
                    Err(error) if another_may(ask, &error) => unable = Some(error),
                    answered => return answered,
                },
                Err(error) if error.is_connect() || ask.method == Method::GET => {
                    silent.push(format!("{coordinator}: {}", reason(&error)));
                }
                Err(error) => return Err(broken_off(ask, coordinator, &error)),
            }
        }
        Err(unable.unwrap_or(Error::Unreachable(silent)))
    }
}

/// Whether this coordinator has done nothing and another may be able to.
fn another_may(ask: &Ask, error: &Error) -> bool {
    let only_reads = ask.method == Method::GET;
    match error {
        Error::Refused(problem) => match problem.code {
            // Found out before anything is changed.
            ProblemCode::AdminDisabled | ProblemCode::NoRedis | ProblemCode::TooManyStreams => true,
            ProblemCode::NoPostgres => only_reads,
            _ => false,
        },
        // A proxy before a coordinator that is away.
        Error::NotACoordinator { status, .. } => only_reads && (502..=504).contains(status),
        _ => false,
    }
}

/// A coordinator had the request and did not answer it in full.
fn broken_off(ask: &Ask, coordinator: &Url, error: &reqwest::Error) -> Error {
    let (url, reason) = (coordinator.to_string(), reason(error));
    match ask.method {
        Method::GET => Error::Unreachable(vec![format!("{url}: {reason}")]),
        _ => Error::Unanswered { url, reason },
    }
}

async fn accept(coordinator: &Url, response: Response) -> Result<(Url, Response)> {
    let status = response.status();
    if status.is_success() {
        return Ok((coordinator.clone(), response));
    }
    let body = response.bytes().await.unwrap_or_default();
    Err(match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Error::Refused(problem),
        Err(_) => Error::NotACoordinator {
            url: coordinator.to_string(),
            status: status.as_u16(),
        },
    })
}

/// An empty body reads as `null`.
fn read<T: DeserializeOwned>(url: &Url, bytes: &[u8]) -> Result<T> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| Error::Unreadable {
        url: url.to_string(),
        reason: error.to_string(),
    })
}

fn url(coordinator: &Url, ask: &Ask) -> Url {
    let mut url = coordinator.clone();
    // Only URLs that cannot have a path refuse, and `args` lets none of those in.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
        path.extend(PREFIX.trim_start_matches('/').split('/'));
        path.extend(&ask.path);
    }
    if !ask.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&ask.query);
    }
    url
}

/// The innermost cause: reqwest's own sentence only repeats the URL.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What a stream of events brings.
#[derive(Debug)]
pub(crate) enum Told {
    State(Box<Snapshot>),
    /// Why there is no state; the stream goes on.
    Problem(Problem),
}

/// A stream of snapshots.
#[derive(Debug)]
pub(crate) struct Events {
    url: Url,
    response: Response,
    parser: sse::Parser,
    /// Newest last.
    ready: Vec<sse::Event>,
}

impl Events {
    /// The newest of what has arrived; older ones in the same piece are skipped.
    /// Cancel safe: a piece that arrived is kept.
    ///
    /// Errors: the stream ended or broke.
    pub(crate) async fn next(&mut self) -> Result<Told> {
        loop {
            while let Some(event) = self.ready.pop() {
                let data = event.data.as_bytes();
                let told = match event.name.as_str() {
                    "state" => read(&self.url, data).map(|state| Told::State(Box::new(state))),
                    "problem" => read(&self.url, data).map(Told::Problem),
                    _ => continue, // of a newer coordinator
                };
                self.ready.clear();
                return told;
            }
            let broken = |reason| Error::Unreachable(vec![format!("{}: {reason}", self.url)]);
            let piece = self.response.chunk().await;
            let piece = piece.map_err(|error| broken(reason(&error)))?;
            let piece = piece.ok_or_else(|| broken("the stream ended".to_owned()))?;
            self.parser
                .feed(&piece, &mut self.ready)
                .map_err(|sse::TooLong| Error::Unreadable {
                    url: self.url.to_string(),
                    reason: "an event without end".to_owned(),
                })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::operator::Accepted;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with this, which has no body; its address.
    async fn coordinator(status: &'static str, body: String) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut asked, mut bytes) = (Vec::new(), [0; 1024]);
                while !asked.ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut bytes).await.unwrap();
                    assert!(read > 0, "it asks for nothing");
                    asked.extend_from_slice(&bytes[..read]);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn another_is_asked_where_one_is_not_able_to_and_has_changed_nothing() {
        let token = || Credentials::Token("token".to_owned());
        let (read, change) = (Ask::get(["moves"]), Ask::post(["pause"]));
        let well = coordinator("200 OK", r#"{"audit_id":7}"#.to_owned()).await;
        for (code, read_goes_on, change_goes_on) in [
            ("no_redis", true, true),
            ("admin_disabled", true, true),
            ("no_postgres", true, false),
            ("plan_running", false, false),
        ] {
            let problem = format!(r#"{{"code":"{code}","message":"no"}}"#);
            let unwell = coordinator("503 Service Unavailable", problem).await;
            let both = Client::new(vec![unwell.clone(), well.clone()], token()).unwrap();
            for (ask, goes_on) in [(&read, read_goes_on), (&change, change_goes_on)] {
                let asked = both.ask::<Accepted>(ask).await;
                assert_eq!(asked.is_ok(), goes_on, "{code} {ask:?}");
            }
            let alone = Client::new(vec![unwell], token()).unwrap();
            let refused = alone.ask::<Accepted>(&read).await.unwrap_err();
            assert!(refused.to_string().contains(code), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_stream_without_a_state_says_why() {
        let problem = r#"{"code":"no_redis","message":"Redis does not answer"}"#;
        let stream = format!("event: problem\ndata: {problem}\n\nevent: other\ndata: 1\n\n");
        let url = coordinator("200 OK", stream).await;
        let token = Credentials::Token("token".to_owned());
        let mut events = Client::new(vec![url], token)
            .unwrap()
            .events()
            .await
            .unwrap();
        let told = events.next().await.unwrap();
        let Told::Problem(problem) = told else {
            panic!("{told:?}");
        };
        assert_eq!(problem.code, ProblemCode::NoRedis);
        assert!(events.next().await.is_err(), "the stream ended");
    }

    #[test]
    fn segments_are_escaped_and_a_base_path_is_kept() {
        let base = "https://ops.example/cluster/".parse().unwrap();
        let ask = Ask::get(["nodes", "a/b c"]).query("hot", 3);
        let expected = "https://ops.example/cluster/admin/v1/nodes/a%2Fb%20c?hot=3";
        assert_eq!(url(&base, &ask).as_str(), expected);
    }
}
