//! The demo guild: two users and a bot, made through the public REST API.
//!
//! What was made is kept in a file; each run asks the API whether it still holds
//! and makes again only what does not.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::http::{self, Answer};
use crate::interrupt;
use crate::servers::{random_secret, write_private};

const GUILD: &str = "Guildhall Demo";
/// View channels, send messages, manage messages, embed links, attach files, read history, add reactions.
const BOT_PERMISSIONS: u64 = 1 << 6 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 16;
const ATTEMPTS_MAX: u32 = 10;

/// What a visitor needs to try the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demo {
    pub(crate) guild: String,
    pub(crate) channel: String,
    pub(crate) alice: String,
    pub(crate) bob: String,
    pub(crate) bot: String,
}

/// Makes or finds the demo guild.
pub(crate) fn seed(api: SocketAddr, file: PathBuf) -> Result<Demo> {
    let kept = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).unwrap_or_default(), // damaged: start over
        Err(_) => Map::new(),
    };
    let mut seed = Seed { api, file, kept };
    let alice = seed.user("alice")?;
    let bob = seed.user("bob")?;
    let guild = seed.guild(&alice)?;
    let channel = seed.text_channel(&alice, &guild)?;
    seed.join(&alice, &bob, &guild, &channel)?;
    let bot = seed.bot(&alice)?;
    seed.add_bot(&alice, &bot, &guild)?;
    Ok(Demo {
        guild,
        channel,
        alice,
        bob,
        bot,
    })
}

struct Seed {
    api: SocketAddr,
    file: PathBuf,
    kept: Map<String, Value>,
}

impl Seed {
    fn kept(&self, key: &str) -> Option<String> {
        self.kept
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
    }

    /// Written at once: an interrupted run leaves nothing behind that the next cannot use.
    fn keep(&mut self, key: &str, value: &str) -> Result<()> {
        self.kept.insert(key.to_owned(), value.into());
        write_private(
            &self.file,
            &format!("{:#}\n", Value::Object(self.kept.clone())),
        )
    }

    /// The token of a user, registered or logged in again if need be.
    fn user(&mut self, name: &str) -> Result<String> {
        let token_key = format!("{name}_token");
        if let Some(token) = self.kept(&token_key)
            && self.works(&token, "/users/@me")?
        {
            return Ok(token);
        }
        let token = match self.log_in(name)? {
            Some(token) => token,
            None => self.register(name)?,
        };
        self.keep(&token_key, &token)?;
        Ok(token)
    }

    fn log_in(&mut self, name: &str) -> Result<Option<String>> {
        let (Some(email), Some(password)) = (
            self.kept(&format!("{name}_email")),
            self.kept(&format!("{name}_password")),
        ) else {
            return Ok(None);
        };
        let answer = self.send(
            "POST",
            "/auth/login",
            None,
            Some(&json!({ "login": email, "password": password })),
        )?;
        Ok(answer.body["token"]
            .as_str()
            .filter(|_| answer.status == 200)
            .map(str::to_owned))
    }

    fn register(&mut self, name: &str) -> Result<String> {
        let password = random_secret()?;
        let suffix = &random_secret()?[..6];
        // The plain name first; it is taken if the file was lost or the database is shared.
        for username in [
            name.to_owned(),
            format!("{name}-{suffix}").replace('-', "_"),
        ] {
            let email = format!("{username}@example.com");
            let body = json!({
                "username": username,
                "global_name": name,
                "email": email,
                "password": password,
                "date_of_birth": "2000-01-01",
                "consent": true,
            });
            let answer = self.send("POST", "/auth/register", None, Some(&body))?;
            if let Some(token) = answer.body["token"].as_str() {
                self.keep(&format!("{name}_email"), &email)?;
                self.keep(&format!("{name}_password"), &password)?;
                return Ok(token.to_owned());
            }
            if answer.status != 400 || username != name {
                bail!(
                    "cannot register {username}: {} {}",
                    answer.status,
                    answer.body
                );
            }
        }
        bail!("cannot register {name}")
    }

    fn guild(&mut self, owner: &str) -> Result<String> {
        if let Some(guild) = self.kept("guild_id")
            && self.works(owner, &format!("/guilds/{guild}"))?
        {
            return Ok(guild);
        }
        let made = self.done("POST", "/guilds", owner, Some(&json!({ "name": GUILD })))?;
        let guild = made["id"]
            .as_str()
            .context("the new guild has no id")?
            .to_owned();
        self.keep("guild_id", &guild)?;
        Ok(guild)
    }

    fn text_channel(&mut self, owner: &str, guild: &str) -> Result<String> {
        const TEXT: u64 = 0;
        let path = format!("/guilds/{guild}/channels");
        let channels = self.done("GET", &path, owner, None)?;
        let first = channels
            .as_array()
            .into_iter()
            .flatten()
            .find(|channel| channel["type"] == TEXT);
        let channel = match first {
            Some(channel) => channel.clone(),
            None => self.done(
                "POST",
                &path,
                owner,
                Some(&json!({ "name": "general", "type": TEXT })),
            )?,
        };
        let id = channel["id"]
            .as_str()
            .context("the channel has no id")?
            .to_owned();
        self.keep("channel_id", &id)?;
        Ok(id)
    }

    fn join(&mut self, owner: &str, joiner: &str, guild: &str, channel: &str) -> Result<()> {
        if self.works(joiner, &format!("/guilds/{guild}"))? {
            return Ok(());
        }
        let invite = self.done(
            "POST",
            &format!("/channels/{channel}/invites"),
            owner,
            Some(&json!({})),
        )?;
        let code = invite["code"]
            .as_str()
            .context("the invite has no code")?
            .to_owned();
        self.done(
            "POST",
            &format!("/invites/{code}"),
            joiner,
            Some(&json!({})),
        )?;
        Ok(())
    }

    /// The bot's token, without the `Bot ` before it.
    fn bot(&mut self, owner: &str) -> Result<String> {
        if let Some(token) = self.kept("bot_token")
            && self.works(&format!("Bot {token}"), "/users/@me")?
        {
            return Ok(token);
        }
        let known = match self.kept("application_id") {
            Some(id) => self.reset_token(owner, &id)?,
            None => None,
        };
        let token = match known {
            Some(token) => token,
            None => {
                let made = self.done(
                    "POST",
                    "/applications",
                    owner,
                    Some(&json!({ "name": "Guildhall Demo Bot" })),
                )?;
                let id = made["id"]
                    .as_str()
                    .context("the new application has no id")?
                    .to_owned();
                self.keep("application_id", &id)?;
                self.reset_token(owner, &id)?
                    .context("the new application gives no bot token")?
            }
        };
        self.keep("bot_token", &token)?;
        Ok(token)
    }

    fn reset_token(&mut self, owner: &str, application: &str) -> Result<Option<String>> {
        let path = format!("/applications/{application}/bot/reset");
        let answer = self.send("POST", &path, Some(owner), Some(&json!({})))?;
        Ok(answer.body["token"]
            .as_str()
            .filter(|_| answer.status == 200)
            .map(str::to_owned))
    }

    fn add_bot(&mut self, owner: &str, bot: &str, guild: &str) -> Result<()> {
        if self.works(&format!("Bot {bot}"), &format!("/guilds/{guild}"))? {
            return Ok(());
        }
        let application = self
            .kept("application_id")
            .context("the demo bot has no application")?;
        let path = format!(
            "/oauth2/authorize?client_id={application}&scope=bot&permissions={BOT_PERMISSIONS}"
        );
        let body = json!({ "authorize": true, "guild_id": guild, "permissions": BOT_PERMISSIONS.to_string() });
        self.done("POST", &path, owner, Some(&body))?;
        Ok(())
    }

    /// Does a read with this token succeed? A server error is an error, not a no.
    fn works(&self, authorization: &str, path: &str) -> Result<bool> {
        let answer = self.send("GET", path, Some(authorization), None)?;
        if answer.status >= 500 {
            bail!("GET {path} answered {} {}", answer.status, answer.body);
        }
        Ok(answer.status == 200)
    }

    /// A request that must succeed.
    fn done(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let answer = self.send(method, path, Some(authorization), body)?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path} answered {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// Waits out rate limits.
    fn send(
        &self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let path = format!("/api/v10{path}");
        for _ in 0..ATTEMPTS_MAX {
            let answer = http::request(self.api, method, &path, authorization, body)?;
            if answer.status != 429 {
                return Ok(answer);
            }
            let pause = answer.body["retry_after"]
                .as_f64()
                .unwrap_or(1.0)
                .clamp(0.1, 30.0);
            interrupt::sleep(Duration::from_secs_f64(pause))?;
        }
        bail!("{method} {path}: still rate limited after {ATTEMPTS_MAX} attempts")
    }
}
