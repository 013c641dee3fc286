//! A small REST client: one call, its status and its JSON.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Method, header};
use serde_json::Value;

/// A call that takes longer has failed: the server behind it may be stopped.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls one API as one account, or as nobody.
#[derive(Debug, Clone)]
pub struct Rest {
    origin: String,
    /// As sent in `Authorization`.
    token: Option<String>,
    http: reqwest::Client,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Null for an empty or non-JSON body.
    pub body: Value,
    pub headers: header::HeaderMap,
    call: String,
}

impl Reply {
    /// The JSON `code` of an error.
    pub fn code(&self) -> u64 {
        self.body["code"].as_u64().unwrap_or_default()
    }

    /// The id of what was made; `None`: nothing was.
    pub fn id(&self) -> Option<String> {
        self.body["id"].as_str().map(str::to_owned)
    }

    /// The body of a success.
    ///
    /// # Panics
    /// On any other status, with the answer.
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {} {}",
            self.call,
            self.status,
            self.body
        );
        self.body
    }

    /// # Panics
    /// If status or code differ, with the answer.
    pub fn assert_error(&self, status: u16, code: u64) {
        assert_eq!(
            (self.status, self.code()),
            (status, code),
            "{}: {}",
            self.call,
            self.body
        );
    }
}

impl Rest {
    pub fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            token: None,
            http: reqwest::Client::new(),
        }
    }

    /// The same client as another account; bots' tokens need their `Bot ` prefix.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same account at another API.
    pub fn at(&self, origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            ..self.clone()
        }
    }

    /// A request below `/api/v10`, with the account's token.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}/api/v10{path}", self.origin))
            .timeout(TIMEOUT);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// Errors: no answer (connection refused, broken, or [`TIMEOUT`] passed).
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply> {
        let request = request.build()?;
        let call = format!("{} {}", request.method(), request.url().path());
        let reply = self.http.execute(request).await?;
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let bytes = reply.bytes().await.with_context(|| call.clone())?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Reply {
            status,
            body,
            headers,
            call,
        })
    }

    /// One call with or without a JSON body.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    /// What a request is answered with.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn answer(&self, request: reqwest::RequestBuilder) -> Reply {
        match self.send(request).await {
            Ok(reply) => reply,
            Err(error) => panic!("no answer: {error:#}"),
        }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        match self.try_call(method, path, body).await {
            Ok(reply) => reply,
            Err(error) => panic!("{path}: no answer: {error:#}"),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path, Some(body)).await
    }

    /// POST or PUT without a body, as libraries do for typing and overwrites.
    pub async fn post_empty(&self, path: &str) -> Reply {
        self.call(Method::POST, path, None).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, None).await
    }
}
