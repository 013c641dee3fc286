//! What a scenario needs in the cluster, made through REST: people, bots, guilds, channels.
//!
//! Names carry a random word, so runs against one cluster do not meet. Nothing is removed
//! afterwards.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::rest::Rest;

/// Applications one user may have.
pub const APPLICATIONS_MAX: usize = 50;

/// A user or a bot.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: String,
    /// As the gateway takes it; REST wants `Bot ` before a bot's.
    pub token: String,
}

/// Registers a user. The registration must be open.
pub async fn register(rest: &mut Rest) -> Result<Account> {
    let name = format!("load_{}", word());
    let body = json!({
        "username": name,
        "email": format!("{name}@example.com"),
        "password": format!("{}{}", word(), word()),
        "date_of_birth": "2000-01-01",
        "consent": true,
    });
    let made = rest.call("POST", "/auth/register", "", &body).await?;
    let token = text(&made, "token")?;
    let me = rest.call("GET", "/users/@me", &token, &Value::Null).await?;
    Ok(Account {
        id: text(&me, "id")?,
        token,
    })
}

/// An application of `owner` with its bot; application and bot have one id.
pub async fn make_bot(rest: &mut Rest, owner: &Account) -> Result<Account> {
    let name = json!({ "name": format!("load {}", word()) });
    let made = rest
        .call("POST", "/applications", &owner.token, &name)
        .await?;
    let id = text(&made, "id")?;
    let path = format!("/applications/{id}/bot/reset");
    let reset = rest.call("POST", &path, &owner.token, &json!({})).await?;
    let token = text(&reset, "token")?;
    Ok(Account { id, token })
}

/// `count` bots, of as many users as that takes.
pub async fn make_bots(api: SocketAddr, count: usize) -> Result<Vec<Account>> {
    let mut owners = tokio::task::JoinSet::new();
    let mut left = count;
    while left > 0 {
        let share = left.min(APPLICATIONS_MAX);
        left -= share;
        owners.spawn(async move {
            let mut rest = Rest::connect(api).await?;
            let owner = register(&mut rest).await?;
            let mut bots = Vec::new();
            for _ in 0..share {
                bots.push(make_bot(&mut rest, &owner).await?);
            }
            anyhow::Ok(bots)
        });
    }
    let mut bots = Vec::new();
    while let Some(made) = owners.join_next().await {
        bots.extend(made.context("a task ended early")??);
    }
    Ok(bots)
}

/// A guild of `owner`; its id.
pub async fn make_guild(rest: &mut Rest, owner: &Account) -> Result<String> {
    let name = json!({ "name": format!("load {}", word()) });
    let guild = rest.call("POST", "/guilds", &owner.token, &name).await?;
    text(&guild, "id")
}

/// A text channel of a guild of `owner`; its id.
pub async fn make_channel(
    rest: &mut Rest,
    owner: &Account,
    guild: &str,
    overwrites: Value,
) -> Result<String> {
    let form = json!({ "name": "load", "type": 0, "permission_overwrites": overwrites });
    let path = format!("/guilds/{guild}/channels");
    let channel = rest.call("POST", &path, &owner.token, &form).await?;
    text(&channel, "id")
}

/// Adds a bot to a guild of `owner`, with no role of its own.
pub async fn add_bot(rest: &mut Rest, owner: &Account, guild: &str, bot: &Account) -> Result<()> {
    let path = format!(
        "/oauth2/authorize?client_id={}&scope=bot&permissions=0",
        bot.id
    );
    let form = json!({ "authorize": true, "guild_id": guild, "permissions": "0" });
    rest.call("POST", &path, &owner.token, &form).await?;
    Ok(())
}

/// An invite to a channel of `owner`; its code.
pub async fn make_invite(rest: &mut Rest, owner: &Account, channel: &str) -> Result<String> {
    let path = format!("/channels/{channel}/invites");
    let invite = rest.call("POST", &path, &owner.token, &json!({})).await?;
    text(&invite, "code")
}

/// `guest` joins by an invite.
pub async fn join(rest: &mut Rest, guest: &Account, code: &str) -> Result<()> {
    let path = format!("/invites/{code}");
    rest.call("POST", &path, &guest.token, &json!({})).await?;
    Ok(())
}

/// A string of an object.
fn text(object: &Value, key: &str) -> Result<String> {
    let value = object[key].as_str();
    Ok(value.with_context(|| format!("no {key}"))?.to_owned())
}

fn word() -> String {
    format!("{:08x}", rand::random::<u32>())
}
