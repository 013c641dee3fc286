//! People, guilds and bots, made through REST as anybody would.

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    rest::Rest,
    session::{Login, Session},
};

/// GUILDS, GUILD_MEMBERS, GUILD_MESSAGES, GUILD_MESSAGE_TYPING, MESSAGE_CONTENT.
pub const INTENTS: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 11 | 1 << 15;

/// Channel permission bits the tests need, and overwrites with them.
pub mod permission {
    use serde_json::{Value, json};

    pub const VIEW_CHANNEL: u64 = 1 << 10;
    pub const SEND_MESSAGES: u64 = 1 << 11;

    /// An overwrite that hides a channel from a role (type 0) or a member (type 1).
    pub fn hides(target: &str, kind: u8) -> Value {
        let deny = VIEW_CHANNEL.to_string();
        json!({"id": target, "type": kind, "allow": "0", "deny": deny})
    }

    /// One that shows it to them.
    pub fn shows(target: &str, kind: u8) -> Value {
        let allow = VIEW_CHANNEL.to_string();
        json!({"id": target, "type": kind, "allow": allow, "deny": "0"})
    }
}

/// A human or a bot with a token.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: String,
    pub name: String,
    /// Without the `Bot ` prefix.
    pub token: String,
    pub rest: Rest,
    /// `None` for humans.
    pub application: Option<String>,
}

/// A guild and its first text channel.
#[derive(Debug, Clone)]
pub struct Guild {
    pub id: String,
    pub channel: String,
}

/// Registers a human with a name of its own.
pub async fn human(cluster: &Cluster, name: &str) -> Account {
    human_at(&cluster.rest(0), name).await
}

/// [`human`] at one API.
pub async fn human_at(nobody: &Rest, name: &str) -> Account {
    let name = format!("{name}.{}", random_word());
    let form = json!({
        "username": name,
        "email": format!("{name}@example.org"),
        "password": format!("a long password of {name}"),
        "date_of_birth": "1990-02-03",
        "consent": true,
    });
    let token = text(&nobody.post("/auth/register", &form).await.ok()["token"]);
    let rest = nobody.with_token(&token);
    let id = text(&rest.get("/users/@me").await.ok()["id"]);
    Account {
        id,
        name,
        token,
        rest,
        application: None,
    }
}

impl Account {
    /// How this account logs in at a gateway; `intents` only count for bots.
    pub fn login(&self, urls: Vec<String>, intents: u32) -> Login {
        Login {
            token: self.token.clone(),
            intents: self.application.is_some().then_some(intents),
            shard: None,
            capabilities: None,
            urls,
        }
    }

    /// Sessions of this account on the first two gateways.
    pub async fn on_both(&self, cluster: &Cluster) -> [Session; 2] {
        let at = |gateway: usize| self.login(vec![cluster.gateways[gateway].url()], INTENTS);
        [Session::start(at(0)).await, Session::start(at(1)).await]
    }

    /// An application of this human and its bot.
    pub async fn make_bot(&self, name: &str) -> Account {
        let name = format!("{name}.{}", random_word());
        let application = self
            .rest
            .post("/applications", &json!({"name": name}))
            .await
            .ok();
        let application = text(&application["id"]);
        let path = format!("/applications/{application}/bot/reset");
        let token = text(&self.rest.post(&path, &json!({})).await.ok()["token"]);
        let rest = self.rest.with_token(&format!("Bot {token}"));
        let id = text(&rest.get("/users/@me").await.ok()["id"]);
        Account {
            id,
            name,
            token,
            rest,
            application: Some(application),
        }
    }

    /// Creates a guild. It has a text channel, made if the guild came without one.
    pub async fn make_guild(&self, name: &str) -> Guild {
        let guild = text(&self.rest.post("/guilds", &json!({"name": name})).await.ok()["id"]);
        let channels = self
            .rest
            .get(&format!("/guilds/{guild}/channels"))
            .await
            .ok();
        let first = channels
            .as_array()
            .and_then(|channels| channels.iter().find(|channel| channel["type"] == 0))
            .map(|channel| text(&channel["id"]));
        let channel = match first {
            Some(channel) => channel,
            None => self.make_channel(&guild, "general", json!([])).await,
        };
        Guild { id: guild, channel }
    }

    /// Creates guilds until one belongs to the gateway with this index.
    pub async fn make_guild_on(&self, cluster: &Cluster, gateway: usize, name: &str) -> Guild {
        const ATTEMPTS_MAX: usize = 64;
        for _ in 0..ATTEMPTS_MAX {
            let guild = self.make_guild(name).await;
            match cluster.owner_of(&guild.id).await {
                Ok(owner) if owner == gateway => return guild,
                Ok(_) => {
                    self.rest.delete(&format!("/guilds/{}", guild.id)).await;
                }
                Err(error) => panic!("no owner: {error:#}"),
            }
        }
        panic!("gateway {gateway} owned none of {ATTEMPTS_MAX} guilds");
    }

    /// Creates a text channel with overwrites.
    pub async fn make_channel(&self, guild: &str, name: &str, overwrites: Value) -> String {
        let form = json!({"name": name, "type": 0, "permission_overwrites": overwrites});
        let path = format!("/guilds/{guild}/channels");
        text(&self.rest.post(&path, &form).await.ok()["id"])
    }

    /// Brings `guest` into the guild by an invite of ours.
    pub async fn invite(&self, guild: &Guild, guest: &Account) {
        let path = format!("/channels/{}/invites", guild.channel);
        let code = text(&self.rest.post(&path, &json!({})).await.ok()["code"]);
        let path = format!("/invites/{code}");
        guest.rest.post(&path, &json!({})).await.ok();
    }

    /// Adds a bot to a guild of ours.
    pub async fn add_bot(&self, guild: &Guild, bot: &Account) {
        self.add_bot_with(guild, bot, 0).await;
    }

    /// [`Account::add_bot`] with a role that has these permissions.
    pub async fn add_bot_with(&self, guild: &Guild, bot: &Account, permissions: u64) {
        let application = bot.application.as_deref().unwrap_or_default();
        let query = format!("client_id={application}&scope=bot&permissions={permissions}");
        let path = format!("/oauth2/authorize?{query}");
        let permissions = permissions.to_string();
        let form = json!({"authorize": true, "guild_id": guild.id, "permissions": permissions});
        self.rest.post(&path, &form).await.ok();
    }

    /// Writes a message; its id comes back.
    pub async fn say(&self, channel: &str, content: &str) -> String {
        let path = format!("/channels/{channel}/messages");
        let message = self.rest.post(&path, &json!({"content": content})).await;
        text(&message.ok()["id"])
    }
}

/// A JSON string's text.
///
/// # Panics
/// If it is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => panic!("no string: {other}"),
    }
}

/// What is in a JSON list, in order; of anything else, nothing.
pub fn each(list: &Value) -> impl Iterator<Item = &Value> + Clone {
    list.as_array().into_iter().flatten()
}

/// Eight letters.
pub fn random_word() -> String {
    (0..8)
        .map(|_| char::from(b'a' + rand::random_range(0..26_u8)))
        .collect()
}
