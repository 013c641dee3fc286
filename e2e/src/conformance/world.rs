//! Who lives in the world of the cases: people with sessions, and guilds for them to meet in.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::witnesses::Witnesses;
use crate::{
    cluster::Cluster,
    rest::Rest,
    session::{Dispatch, Session},
    world::{Account, Guild, human, human_at, permission, random_word, text},
};

/// Every intent there is.
pub(super) const ALL_INTENTS: u32 = 0x1_FFFF | 3 << 20 | 3 << 24;

/// Somebody, connected to the gateway.
#[derive(Debug)]
pub struct Person {
    /// For messages.
    pub role: &'static str,
    pub id: String,
    pub account: Account,
    pub rest: Rest,
    pub session: Session,
    /// Of the gateways.
    pub(super) urls: Vec<String>,
    /// A channel this person sees, writes in and hears of: what was caused before a message there
    /// has come when the message has.
    echo: String,
}

impl Person {
    async fn new(role: &'static str, account: Account, echo: &str, urls: &[String]) -> Self {
        let session = Session::start(account.login(urls.to_vec(), ALL_INTENTS)).await;
        Self {
            role,
            id: account.id.clone(),
            rest: account.rest.clone(),
            account,
            session,
            urls: urls.to_vec(),
            echo: echo.to_owned(),
        }
    }

    /// The newest matching event, waiting for it.
    pub(super) async fn event(
        &self,
        name: &str,
        matches: impl Fn(&Value) -> bool,
        wait: Duration,
    ) -> Option<Value> {
        let find = self.session.wait(name, |log| {
            log.named(name)
                .rev()
                .map(Dispatch::d)
                .find(|d| matches(d))
                .cloned()
        });
        timeout_at(Instant::now() + wait, find).await.ok()
    }

    /// Whether a matching event has come.
    pub fn has(&self, name: &str, matches: impl Fn(&Value) -> bool) -> bool {
        let log = self.session.log();
        log.named(name).any(|dispatch| matches(dispatch.d()))
    }

    /// Waits until what was caused so far has come.
    pub async fn catch_up(&self) {
        let word = random_word();
        self.account.say(&self.echo, &word).await;
        self.session.message(&word).await;
    }
}

/// A guild of its own for a case: everybody but the stranger is in it.
#[derive(Debug, Clone)]
pub struct Place {
    pub id: String,
    /// A text channel that everybody sees.
    pub lobby: String,
    /// A text channel that only owner and bot see.
    pub secret: String,
}

/// The people, and the guild where they all are. The bot may do everything in it, the member
/// nothing but what @everyone may.
#[derive(Debug)]
pub struct World {
    pub owner: Person,
    pub member: Person,
    pub stranger: Person,
    pub bot: Person,
    pub guild: Place,
    pub(super) witnesses: Witnesses,
    /// `http://…` of the API, without `/api`.
    pub origin: String,
    /// Where that API prints the mails it would send.
    pub api_log: PathBuf,
}

impl World {
    pub(super) async fn build(cluster: &Cluster) -> Self {
        let urls: Vec<String> = cluster
            .gateways
            .iter()
            .map(|gateway| gateway.url())
            .collect();
        let owner = human(cluster, "owner").await;
        let member = human(cluster, "member").await;
        let stranger = human(cluster, "stranger").await;
        let bot = owner.make_bot("bot").await;
        let guild = make_place(&owner, &member, &bot).await;
        let elsewhere = stranger.make_guild("elsewhere").await;
        let (owner, member, stranger, bot, witnesses) = tokio::join!(
            Person::new("the owner", owner, &guild.lobby, &urls),
            Person::new("the member", member, &guild.lobby, &urls),
            Person::new("the stranger", stranger, &elsewhere.channel, &urls),
            Person::new("the bot", bot.clone(), &guild.lobby, &urls),
            Witnesses::start(&bot, &urls),
        );
        let origin = cluster.origins().swap_remove(0);
        Self {
            owner,
            member,
            stranger,
            bot,
            guild,
            witnesses,
            origin,
            api_log: cluster.apis[0].server.log().to_owned(),
        }
    }

    /// Owner, member, stranger and bot.
    pub fn people(&self) -> [&Person; 4] {
        [&self.owner, &self.member, &self.stranger, &self.bot]
    }

    /// Another guild like [`World::guild`]; everybody has its GUILD_CREATE.
    pub async fn another_guild(&self) -> Place {
        let place = make_place(&self.owner.account, &self.member.account, &self.bot.account).await;
        for person in [&self.owner, &self.member, &self.bot] {
            let id = &place.id;
            person
                .session
                .dispatch("GUILD_CREATE", |d| d["id"] == id.as_str())
                .await;
        }
        place
    }

    /// A channel of [`World::guild`] that is of this type and that everybody sees; `None`: the bot may
    /// make none.
    pub async fn channel_of_type(&self, kind: u8) -> Option<String> {
        let form = json!({"name": random_word(), "type": kind});
        let path = format!("/guilds/{}/channels", self.guild.id);
        self.bot.rest.post(&path, &form).await.id()
    }

    /// Makes [`World::guild`] a community, in which who has verified no address may write, too.
    pub async fn make_community(&self) {
        let lobby = &self.guild.lobby;
        let form = json!({
            "features": ["COMMUNITY"], "verification_level": 1, "explicit_content_filter": 2,
            "rules_channel_id": lobby, "public_updates_channel_id": lobby,
        });
        let path = format!("/guilds/{}", self.guild.id);
        self.owner.rest.patch(&path, &form).await;
        let form = json!({"verification_level": 0});
        self.owner.rest.patch(&path, &form).await;
    }

    /// A text channel of [`World::guild`] that everybody sees.
    pub async fn channel(&self) -> String {
        let name = random_word();
        self.owner
            .account
            .make_channel(&self.guild.id, &name, json!([]))
            .await
    }

    /// A role of [`World::guild`] with these permissions, held by `person` until [`World::strip`].
    pub async fn grant(&self, person: &Person, permissions: u64) -> String {
        let guild = &self.guild.id;
        let form = json!({"name": random_word(), "permissions": permissions.to_string()});
        let role = self
            .owner
            .rest
            .post(&format!("/guilds/{guild}/roles"), &form)
            .await;
        let role = text(&role.ok()["id"]);
        let path = format!("/guilds/{guild}/members/{}/roles/{role}", person.id);
        self.owner.rest.put(&path, &json!({})).await.ok();
        role
    }

    /// Deletes a role of [`World::guild`].
    pub async fn strip(&self, role: &str) {
        let path = format!("/guilds/{}/roles/{role}", self.guild.id);
        self.owner.rest.delete(&path).await.ok();
    }

    /// Another account, not connected.
    pub async fn newcomer(&self) -> Account {
        human_at(&Rest::new(&self.origin), "newcomer").await
    }

    /// A newcomer who has just come into the guild.
    pub async fn guest(&self) -> Account {
        let guest = self.newcomer().await;
        let guild = Guild {
            id: self.guild.id.clone(),
            channel: self.guild.lobby.clone(),
        };
        self.owner.account.invite(&guild, &guest).await;
        guest
    }
}

async fn make_place(owner: &Account, member: &Account, bot: &Account) -> Place {
    let Guild { id, channel } = owner.make_guild("conformance").await;
    let guild = Guild {
        id: id.clone(),
        channel: channel.clone(),
    };
    owner.invite(&guild, member).await;
    owner.add_bot_with(&guild, bot, ADMINISTRATOR).await;
    let hidden = json!([permission::hides(&id, 0)]);
    let secret = owner.make_channel(&id, "secret", hidden).await;
    Place {
        id,
        lobby: channel,
        secret,
    }
}

const ADMINISTRATOR: u64 = 1 << 3;
