//! Guilds, people and bots of a run, made before the first fault.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::checker::{Base, channel_of, number, role_of};
use crate::rest::Rest;
use crate::world::{Account, human_at, text};

const VIEW_CHANNEL: u64 = 1 << 10;
/// GUILDS, GUILD_MEMBERS, GUILD_MODERATION, GUILD_MESSAGES, MESSAGE_CONTENT.
const EVERYTHING: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 9 | 1 << 15;
/// What bots ask for, in turns: everything, no text, no members.
const INTENTS: [u32; 3] = [EVERYTHING, EVERYTHING & !(1 << 15), EVERYTHING & !(1 << 1)];

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) guilds: usize,
    pub(crate) humans: usize,
    pub(crate) bots: usize,
    pub(crate) sessions_of_human: usize,
    pub(crate) sessions_of_bot: usize,
}

impl Size {
    /// About as many sessions.
    pub(crate) fn of(sessions: usize) -> Self {
        let humans = (sessions / 6).max(6);
        Self {
            guilds: 3,
            humans,
            bots: humans,
            sessions_of_human: 4,
            sessions_of_bot: 2,
        }
    }
}

/// A guild with one channel that all see and some that some see.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) owner: Account,
    /// Seen by all; nobody changes it.
    pub(crate) general: String,
    /// Their views change.
    pub(crate) rooms: Vec<String>,
    pub(crate) roles: Vec<String>,
    /// Humans and bots besides the owner.
    pub(crate) members: Vec<Account>,
    pub(crate) invite: String,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) places: Vec<Place>,
    pub(crate) accounts: Vec<Account>,
}

impl World {
    /// # Panics
    /// If a call fails: nothing is broken yet.
    pub(crate) async fn make(nobody: &Rest, size: Size) -> Self {
        let mut owners = Vec::new();
        for number in 0..size.guilds {
            owners.push(human_at(nobody, &format!("owner{number}")).await);
        }
        let (mut humans, mut bots) = (Vec::new(), Vec::new());
        for number in 0..size.humans {
            humans.push(human_at(nobody, &format!("human{number}")).await);
        }
        for number in 0..size.bots {
            let owner = &owners[number % owners.len()];
            bots.push(owner.make_bot(&format!("bot{number}")).await);
        }
        let mut places = Vec::new();
        for (number, owner) in owners.iter().enumerate() {
            // Each account is in two of three guilds.
            let is_in = |(place, _): &(usize, &Account)| place % size.guilds != number;
            let humans: Vec<Account> = humans
                .iter()
                .enumerate()
                .filter(is_in)
                .map(|(_, one)| one.clone())
                .collect();
            let bots: Vec<Account> = bots
                .iter()
                .enumerate()
                .filter(is_in)
                .map(|(_, one)| one.clone())
                .collect();
            places.push(make_place(owner, number, &humans, &bots).await);
        }
        let mut accounts = owners;
        accounts.extend(humans);
        accounts.extend(bots);
        Self { places, accounts }
    }
}

async fn make_place(owner: &Account, number: usize, humans: &[Account], bots: &[Account]) -> Place {
    let guild = owner.make_guild(&format!("guild {number}")).await;
    for bot in bots {
        owner.add_bot(&guild, bot).await;
    }
    let path = format!("/channels/{}/invites", guild.channel);
    let form = json!({"max_age": 0, "max_uses": 0});
    let invite = text(&owner.rest.post(&path, &form).await.ok()["code"]);
    for human in humans {
        let path = format!("/invites/{invite}");
        human.rest.post(&path, &json!({})).await.ok();
    }
    let mut roles = Vec::new();
    for name in ["first", "second"] {
        let form = json!({"name": name, "permissions": "0"});
        let path = format!("/guilds/{}/roles", guild.id);
        roles.push(text(&owner.rest.post(&path, &form).await.ok()["id"]));
    }
    let members: Vec<Account> = humans.iter().chain(bots).cloned().collect();
    for (place, member) in members.iter().enumerate() {
        let role = &roles[place % roles.len()];
        let path = format!("/guilds/{}/members/{}/roles/{role}", guild.id, member.id);
        owner.rest.put(&path, &Value::Null).await.ok();
    }
    let hidden = json!({"id": guild.id, "type": 0, "allow": "0", "deny": VIEW_CHANNEL.to_string()});
    let shown = |id: &str, kind: u8| json!({"id": id, "type": kind, "allow": VIEW_CHANNEL.to_string(), "deny": "0"});
    let barred =
        |id: &str| json!({"id": id, "type": 1, "allow": "0", "deny": VIEW_CHANNEL.to_string()});
    let overwrites = [
        json!([]),
        json!([hidden, shown(&roles[0], 0)]),
        json!([hidden, shown(&roles[1], 0), barred(&members[1].id)]),
        json!([hidden, shown(&members[0].id, 1)]),
    ];
    let mut rooms = Vec::new();
    for (place, overwrites) in overwrites.into_iter().enumerate() {
        let name = format!("room-{place}");
        rooms.push(owner.make_channel(&guild.id, &name, overwrites).await);
    }
    Place {
        id: guild.id,
        owner: owner.clone(),
        general: guild.channel,
        rooms,
        roles,
        members,
        invite,
    }
}

/// A session's intents.
pub(crate) fn intents_of(account: &Account, number: usize) -> Option<u32> {
    account.application.as_ref()?;
    Some(INTENTS[number % INTENTS.len()])
}

/// A guild of an owner's as it is now. Nobody may write meanwhile.
pub(crate) async fn base(owner: &Account, guild: &str, db: &PgPool) -> Result<Base> {
    let before = head(db, guild).await?;
    let get = async |path: &str| -> Result<Value> {
        let path = format!("/guilds/{guild}{path}");
        let reply = owner.rest.get(&path).await;
        ensure!(reply.status == 200, "{path}: {}", reply.status);
        Ok(reply.body)
    };
    let (about, channels) = (get("").await?, get("/channels").await?);
    // Humans may not list members.
    let members: Vec<(i64, Vec<i64>)> =
        sqlx::query_as("select user_id, roles from member where guild_id = $1")
            .bind(guild_id(guild)?)
            .fetch_all(db)
            .await?;
    let ids = |roles: Vec<i64>| roles.into_iter().map(|role| role as u64).collect();
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let base = Base {
        seq: before,
        owner: number(&about["owner_id"]),
        roles: list(&about["roles"]).iter().map(role_of).collect(),
        channels: list(&channels)
            .iter()
            .map(|channel| (number(&channel["id"]), channel_of(channel)))
            .collect(),
        members: members
            .into_iter()
            .map(|(user, roles)| (user as u64, ids(roles)))
            .collect(),
    };
    ensure!(head(db, guild).await? == before, "somebody writes");
    Ok(base)
}

async fn head(db: &PgPool, guild: &str) -> Result<u64> {
    let seq: i64 = sqlx::query_scalar("select seq from realm_head where realm_id = $1")
        .bind(guild_id(guild)?)
        .fetch_one(db)
        .await?;
    Ok(seq as u64)
}

/// As Postgres knows it.
pub(crate) fn guild_id(guild: &str) -> Result<i64> {
    guild.parse().context("guild id")
}
