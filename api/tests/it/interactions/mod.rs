//! Interactions: users act, applications answer.

mod answers;
mod asking;
mod delivery;
mod forms;
mod installs;

use guildhall_shared::{Id, id::marker};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Reply, TestApp, TestGuild, TestUser};

/// Nobody's id.
const NOTHING: &str = "1180000000000000002";

/// A guild with a bot that has one command.
struct World {
    app: TestApp,
    alice: TestUser,
    bot: TestUser,
    guild: TestGuild,
    command: Value,
}

impl World {
    async fn new(db: PgPool) -> Self {
        let app = TestApp::new(db).await;
        let alice = app.user("alice").await;
        let bot = app.bot(&alice, "Ping").await;
        let guild = app.guild(&alice, "home").await;
        app.join(&bot, guild).await;
        let command = json!({ "name": "ping", "description": "x", "options": [
            { "type": 6, "name": "who", "description": "x", "required": true },
            { "type": 4, "name": "count", "description": "x", "max_value": 5 },
            { "type": 3, "name": "word", "description": "x", "autocomplete": true },
            { "type": 11, "name": "file", "description": "x" },
        ] });
        let path = format!("/applications/{}/commands", bot.id);
        let command = app.post(&bot, &path, command).await.expect(201);
        Self {
            app,
            alice,
            bot,
            guild,
            command,
        }
    }

    /// Another member.
    async fn member(&self, name: &str) -> TestUser {
        let member = self.app.user(name).await;
        self.app.join(&member, self.guild).await;
        member
    }

    /// Another global command of the bot.
    async fn command(&self, command: Value) -> Value {
        let path = format!("/applications/{}/commands", self.bot.id);
        self.app.post(&self.bot, &path, command).await.expect(201)
    }

    fn body(&self, kind: u8, data: Value) -> Value {
        json!({
            "type": kind, "application_id": self.bot.id, "guild_id": self.guild.id,
            "channel_id": self.guild.general, "nonce": "7", "session_id": "x", "data": data,
        })
    }

    fn data(&self, options: Value) -> Value {
        json!({ "id": self.command["id"], "name": "ping", "type": 1, "options": options })
    }

    /// A good call of the command.
    fn ping(&self) -> Value {
        let options = json!([{ "type": 6, "name": "who", "value": self.alice.id }]);
        self.body(2, self.data(options))
    }

    async fn post(&self, body: Value) -> Reply {
        self.app.post(&self.alice, "/interactions", body).await
    }

    /// Acts, and gives what the bot gets.
    async fn act(&self, body: Value) -> Value {
        self.post(body).await.expect(204);
        self.newest_interaction(self.guild.id).await
    }

    async fn newest_interaction<T>(&self, realm: Id<T>) -> Value {
        let events = self.app.events(realm).await;
        let mut full = events
            .into_iter()
            .rev()
            .filter(|(name, body)| *name == "INTERACTION_CREATE" && body["token"].is_string());
        full.next().unwrap().1
    }

    async fn call(&self) -> Value {
        self.act(self.ping()).await
    }

    async fn answer(&self, interaction: &Value, body: Value) -> Reply {
        let path = format!(
            "/interactions/{}/{}/callback?with_response=true",
            text(&interaction["id"]),
            text(&interaction["token"])
        );
        self.app.post_anonymously(&path, body).await
    }

    /// A call below the interaction's token.
    async fn hook(&self, method: Method, interaction: &Value, path: &str, body: Value) -> Reply {
        let path = format!(
            "/webhooks/{}/{}{path}",
            self.bot.id,
            text(&interaction["token"])
        );
        self.app
            .send(self.app.request(method, &path).json(&body))
            .await
    }

    async fn patch_original(&self, interaction: &Value, body: Value) -> Reply {
        self.hook(Method::PATCH, interaction, ORIGINAL, body).await
    }

    /// Makes the interaction older than it is.
    async fn age(&self, interaction: &Value, seconds: f64) {
        let id: Id<marker::Interaction> = text(&interaction["id"]).parse().unwrap();
        sqlx::query(
            "update interaction set created_at = created_at - $2 * interval '1 second'
             where interaction_id = $1",
        )
        .bind(id.to_db())
        .bind(seconds)
        .execute(&self.app.db)
        .await
        .unwrap();
    }

    /// Waits until the newest interaction is answered or over.
    async fn settled(&self) {
        let newest = "select state from interaction order by interaction_id desc limit 1";
        loop {
            let state: i16 = sqlx::query_scalar(newest)
                .fetch_one(&self.app.db)
                .await
                .unwrap();
            if state != 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn user_events(&self) -> Vec<&'static str> {
        self.app.event_names(self.alice.id).await
    }

    async fn newest_user_event(&self) -> (&'static str, Value) {
        self.app.events(self.alice.id).await.pop().unwrap()
    }

    /// What a member reads in the channel.
    async fn list(&self) -> Value {
        let path = format!("/channels/{}/messages", self.guild.general);
        self.app.get(&self.alice, &path).await.expect(200)
    }

    /// A message of the bot with a button and selects, and its id.
    async fn panel(&self, components: Value) -> Value {
        let path = format!("/channels/{}/messages", self.guild.general);
        let body = json!({ "content": "panel", "components": components });
        self.app.post(&self.bot, &path, body).await.expect(200)["id"].clone()
    }

    /// Use of a component.
    fn press(&self, message: &Value, data: Value) -> Value {
        let mut body = self.body(3, data);
        body["message_id"] = message.clone();
        body
    }
}

const ORIGINAL: &str = "/messages/@original";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn button(custom_id: &str) -> Value {
    json!({ "type": 1, "components": [
        { "type": 2, "style": 1, "label": "x", "custom_id": custom_id }] })
}
