//! Requests made from our own OpenAPI document, right and wrong: no answer is 5xx, every
//! error has the documented shape, and nothing of a request's secrets comes back in one.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestGuild, TestUser};

/// Requests of one operation and caller.
const REQUESTS: usize = 6;
/// How deep a made-up value nests.
const DEPTH_MAX: usize = 6;
/// Which requests are made; printed with a failure.
const SEED: u64 = 20_261_123;

#[sqlx::test(migrations = "../migrations")]
async fn whatever_is_asked_is_answered(db: PgPool) {
    let app = TestApp::new(db).await;
    let scene = Scene::new(&app).await;
    let document = fetch(&app, "/openapi.json").await;
    let mut generator = Generator {
        rng: StdRng::seed_from_u64(SEED),
        document: &document,
        scene: &scene,
    };
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else {
                continue;
            };
            if ends_the_scene(path, &method) {
                continue;
            }
            for number in 0..REQUESTS {
                let caller = [&scene.owner, &scene.bot][number % 2];
                ask(&app, &mut generator, caller, &method, path, operation).await;
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} requests");
}

/// Requests after which nothing could be asked any more.
fn ends_the_scene(path: &str, method: &Method) -> bool {
    let ends = [
        "/auth/logout",
        "/auth/sessions/logout",
        "/users/@me/disable",
        "/users/@me/delete",
        "/applications/{application_id}/delete",
        "/guilds/{guild_id}/delete",
    ];
    ends.contains(&path) || (*method == Method::DELETE && path == "/guilds/{guild_id}")
}

struct Scene {
    owner: TestUser,
    bot: TestUser,
    guild: TestGuild,
    message: String,
}

impl Scene {
    async fn new(app: &TestApp) -> Self {
        let owner = app.user("owner").await;
        let guild = app.guild(&owner, "fuzz").await;
        let bot = app.bot(&owner, "bot").await;
        app.join(&bot, guild).await;
        let path = format!("/channels/{}/messages", guild.general);
        let message = app.post(&owner, &path, json!({"content": "first"})).await;
        let message = message.expect(200)["id"].as_str().unwrap().to_owned();
        Self {
            owner,
            bot,
            guild,
            message,
        }
    }

    /// Something that exists for a parameter of this name.
    fn existing(&self, name: &str) -> String {
        match name {
            "guild_id" => self.guild.id.to_string(),
            "channel_id" | "webhook_channel_id" | "parent_id" => self.guild.general.to_string(),
            "message_id" => self.message.clone(),
            "user_id" | "recipient_id" => self.bot.id.to_string(),
            "application_id" => self.bot.id.to_string(),
            "role_id" | "overwrite_id" => self.guild.id.to_string(),
            "emoji_name" => "%F0%9F%91%8D".to_owned(),
            _ => "100000000000000001".to_owned(),
        }
    }
}

async fn fetch(app: &TestApp, path: &str) -> Value {
    let reply = app.client.get(format!("{}{path}", app.origin)).send().await;
    reply.unwrap().json().await.unwrap()
}

async fn ask(
    app: &TestApp,
    generator: &mut Generator<'_>,
    caller: &TestUser,
    method: &Method,
    path: &str,
    operation: &Value,
) {
    let path = generator.path(path);
    let query = generator.query(operation);
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let mut request = app.request_by(caller, method.clone(), &format!("{path}{query}"));
    let mut sent = String::new();
    if !schema.is_null() {
        sent = match generator.rng.random_range(0..20) {
            0 => "{\"unfinished\":".to_owned(),
            1 => "[]".to_owned(),
            _ => generator.value(schema, "", 0).to_string(),
        };
        request = request
            .header("content-type", "application/json")
            .body(sent.clone());
    }
    let reply = request.send().await.unwrap();
    let status = reply.status();
    let text = reply.text().await.unwrap_or_default();
    let what = || format!("seed {SEED}: {method} {path}{query} {sent}\n{status}: {text}");
    assert!(!status.is_server_error(), "{}", what());
    assert!(
        !text.contains(secret_part(caller)),
        "a token came back: {}",
        what()
    );
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_error = body["code"].is_u64() && body["message"].is_string();
        // OAuth2's own shape.
        assert!(is_error || body["error"].is_string(), "{}", what());
    }
}

/// The part of a token that nobody else knows.
fn secret_part(caller: &TestUser) -> &str {
    caller.authorization.rsplit('.').next().unwrap_or_default()
}

/// Makes requests up.
struct Generator<'a> {
    rng: StdRng,
    document: &'a Value,
    scene: &'a Scene,
}

impl Generator<'_> {
    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn path(&mut self, path: &str) -> String {
        let mut filled = String::new();
        for (number, part) in path.split('{').enumerate() {
            match part.split_once('}') {
                Some((name, rest)) if number > 0 => {
                    let value = match self.rng.random_range(0..10) {
                        0 => "0".to_owned(),
                        1 => "9223372036854775807".to_owned(),
                        2 => "%00%F0%9F".to_owned(),
                        _ => self.scene.existing(name),
                    };
                    filled.push_str(&value);
                    filled.push_str(rest);
                }
                _ => filled.push_str(part),
            }
        }
        filled
    }

    fn query(&mut self, operation: &Value) -> String {
        let mut pairs = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "query" || self.chance(0.5) {
                continue;
            }
            let name = parameter["name"].as_str().unwrap_or_default();
            let value = match self.value(&parameter["schema"], name, DEPTH_MAX - 1) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let value: String = value
                .bytes()
                .take(200)
                .map(|byte| format!("%{byte:02x}"))
                .collect();
            pairs.push(format!("{name}={value}"));
        }
        match pairs.is_empty() {
            true => String::new(),
            false => format!("?{}", pairs.join("&")),
        }
    }

    /// A value of the schema; now and then one that is not.
    fn value(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        if depth > 0 && self.chance(0.08) {
            return self.hostile();
        }
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = self.document.pointer(pointer).cloned().unwrap_or_default();
            return self.value(&target, name, depth);
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[key].as_array().filter(|choices| !choices.is_empty()) {
                let choice = self.rng.random_range(0..choices.len());
                return self.value(&choices[choice].clone(), name, depth);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.all_of(&parts.clone(), depth);
        }
        if let Some(values) = schema["enum"]
            .as_array()
            .filter(|values| !values.is_empty())
        {
            return values[self.rng.random_range(0..values.len())].clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds[self.rng.random_range(0..kinds.len())].clone(),
            kind => kind.clone(),
        };
        match kind.as_str() {
            Some("object") => self.object(schema, depth),
            Some("array") => {
                let count = self.rng.random_range(0..4);
                let items = schema["items"].clone();
                (0..count)
                    .map(|_| self.value(&items, name, depth + 1))
                    .collect()
            }
            Some("string") => Value::String(self.text(schema, name)),
            Some("integer") => json!(self.integer()),
            Some("number") => json!(self.rng.random_range(-10.0..10_000.0)),
            Some("boolean") => json!(self.chance(0.5)),
            Some("null") => Value::Null,
            _ => self.hostile(),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let needed = required.iter().any(|required| required == name.as_str());
            if self.chance(if needed { 0.95 } else { 0.4 }) {
                object.insert(name.clone(), self.value(schema, name, depth + 1));
            }
        }
        Value::Object(object)
    }

    fn all_of(&mut self, parts: &[Value], depth: usize) -> Value {
        let mut whole = Map::new();
        for part in parts {
            match self.value(part, "", depth) {
                Value::Object(object) => whole.extend(object),
                other if parts.len() == 1 => return other,
                _ => {}
            }
        }
        Value::Object(whole)
    }

    fn integer(&mut self) -> i64 {
        match self.rng.random_range(0..8) {
            0 => -1,
            1 => 0,
            2 => i64::from(i32::MAX) + 1,
            3 => i64::MAX,
            _ => self.rng.random_range(1..100),
        }
    }

    fn text(&mut self, schema: &Value, name: &str) -> String {
        if name.ends_with("_id") || name == "id" || schema["pattern"].is_string() {
            return match self.chance(0.8) {
                true => self.scene.existing(name),
                false => self.rng.random_range(0..i64::MAX).to_string(),
            };
        }
        if schema["format"] == "date-time" {
            return "2030-01-02T03:04:05+00:00".to_owned();
        }
        let texts = [
            "hello",
            "x",
            "",
            "a longer text with <@1> and <:emoji:1>",
            "\u{0}nul",
            "🦀🦀",
            "https://example.org/a.png",
            "data:image/png;base64,AAAA",
            "../../etc/passwd",
            "'; --",
        ];
        match self.rng.random_range(0..12_usize) {
            10 => "long ".repeat(1200),
            11 => "\u{202e}\u{200b}".to_owned(),
            number => texts[number % texts.len()].to_owned(),
        }
    }

    fn hostile(&mut self) -> Value {
        match self.rng.random_range(0..9) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(1e300),
            4 => json!(u64::MAX),
            5 => json!("\u{0}"),
            6 => json!([[[[]]]]),
            7 => json!({"id": {"id": []}}),
            _ => json!("x".repeat(5000)),
        }
    }
}
