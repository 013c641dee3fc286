//! An application's interactions endpoint: a server of its own that checks signatures.

use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Answers PING with PONG and everything else with `reply`; 401 if the signature is wrong.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    verify_key: String,
    reply: Value,
    file: Option<(String, String)>,
    received: Vec<Value>,
}

impl Endpoint {
    pub(crate) async fn start(verify_key: &str) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            verify_key: verify_key.to_owned(),
            reply: json!({}),
            file: None,
            received: Vec::new(),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/interactions", listener.local_addr().unwrap());
        let router = Router::new().fallback(serve).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// What everything but PING is answered with from now on.
    pub(crate) fn set_reply(&self, reply: Value) {
        self.shared.lock().unwrap().reply = reply;
    }

    /// As [`Self::set_reply`], with a text file as `files[0]`.
    pub(crate) fn set_reply_with_file(&self, reply: Value, name: &str, content: &str) {
        let mut shared = self.shared.lock().unwrap();
        shared.reply = reply;
        shared.file = Some((name.to_owned(), content.to_owned()));
    }

    /// Rightly signed bodies so far.
    pub(crate) fn received(&self) -> Vec<Value> {
        self.shared.lock().unwrap().received.clone()
    }
}

async fn serve(
    State(shared): State<Arc<Mutex<Shared>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut shared = shared.lock().unwrap();
    let key = hex::decode(&shared.verify_key).unwrap();
    let signed = [headers["x-signature-timestamp"].as_bytes(), &body].concat();
    let signature = hex::decode(headers["x-signature-ed25519"].as_bytes()).unwrap();
    let key = UnparsedPublicKey::new(&ED25519, key);
    if key.verify(&signed, &signature).is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let is_ping = body["type"] == 1;
    shared.received.push(body);
    if is_ping {
        return axum::Json(json!({ "type": 1 })).into_response();
    }
    let reply = &shared.reply;
    match &shared.file {
        None => axum::Json(reply).into_response(),
        Some((name, content)) => {
            let disposition = "content-disposition: form-data; name";
            let body = format!(
                "--edge\r\n{disposition}=\"payload_json\"\r\n\r\n{reply}\r\n\
                 --edge\r\n{disposition}=\"files[0]\"; filename=\"{name}\"\r\n\r\n\
                 {content}\r\n--edge--\r\n"
            );
            let kind = "multipart/form-data; boundary=edge";
            ([("content-type", kind)], body).into_response()
        }
    }
}
