//! Causes of events for clients of people: what they look at, where they are logged in, what they
//! have not read; and what others see of them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{causes::Causes, world::World};
use crate::{
    session::Session,
    world::{each, random_word},
};

/// READY_SUPPLEMENTAL is read.
const PRIORITIZED_READY_PAYLOAD: u64 = 1 << 5;
/// A newer form of CHANNEL_UNREAD_UPDATE is read.
const PASSIVE_GUILD_UPDATE: u64 = 1 << 11;
const PASSIVE_GUILD_UPDATE_V2: u64 = 1 << 14;
/// Gateways look once a second whether anybody reads which form.
const NOTICE: Duration = Duration::from_secs(3);
/// CHANNEL_UNREAD_UPDATE comes every half minute.
const UNREAD_WAIT: Duration = Duration::from_secs(60);

/// The member's client on another device.
pub(super) async fn prove(causes: &mut Causes<'_>) {
    let [owner, member, ..] = causes.world.people();
    let guild = &causes.world.guild;
    let shown = owner.account.say(&guild.lobby, &random_word()).await;
    owner.account.say(&guild.secret, &random_word()).await;
    let mut login = member.account.login(member.urls.clone(), 0);
    login.capabilities = Some(PRIORITIZED_READY_PAYLOAD | PASSIVE_GUILD_UPDATE_V2);
    let second = Session::start(login).await;
    causes.supplement(&second).await;
    causes.logins(&second).await;
    causes.member_list(&second).await;
    causes.presence().await;
    causes.unread(&second, &shown).await;
    causes.newer_forms().await;
}

impl Causes<'_> {
    /// What only this session may have.
    fn emitted_to(&mut self, name: &str, fits: bool, got: &Value) {
        if let Some(proof) = self.book.of(name) {
            let fault = || format!("not as it should be: {got}");
            proof.emitted.note(fits, fault);
        }
        for person in self.world.people() {
            let leaked = person.has(name, |_| true);
            let fault = format!("{} got it", person.role);
            self.reaches(name, !leaked, &fault);
        }
    }

    /// The second half of READY, for who reads it in two.
    async fn supplement(&mut self, second: &Session) {
        let name = "READY_SUPPLEMENTAL";
        let supplement = second.dispatch(name, |_| true).await;
        let ready = second.dispatch("READY", |_| true).await;
        let ids = |d: &Value| -> Vec<Value> {
            let guilds = each(&d["guilds"]);
            guilds.map(|guild| guild["id"].clone()).collect()
        };
        let fits = ids(&supplement) == ids(&ready) && !ids(&ready).is_empty();
        self.emitted_to(name, fits, &supplement);
    }

    /// The member's sessions hear of each other.
    async fn logins(&mut self, second: &Session) {
        let [owner, member, stranger, bot] = self.world.people();
        let (name, id) = ("SESSIONS_REPLACE", second.session_id());
        let has_it = |d: &Value| each(d).any(|session| session["session_id"] == id.as_str());
        self.emitted(member, name, has_it).await;
        for other in [owner, stranger, bot] {
            let fault = format!("{} got it", other.role);
            self.reaches(name, !other.has(name, has_it), &fault);
        }
    }

    /// The list of members, and what changes in it.
    async fn member_list(&mut self, second: &Session) {
        let World { owner, guild, .. } = self.world;
        let name = "GUILD_MEMBER_LIST_UPDATE";
        let channels = json!({guild.lobby.as_str(): [[0, 99]]});
        second.send(&json!({"op": 14, "d": {"guild_id": guild.id, "channels": channels}}));
        let has = |d: &Value, kinds: &[&str], word: &str| {
            let mut ops = each(&d["ops"]);
            let is_it = |op: &Value| {
                let kind = op["op"].as_str().unwrap_or_default();
                kinds.contains(&kind) && op.to_string().contains(word)
            };
            d["guild_id"] == guild.id.as_str() && ops.any(is_it)
        };
        let list = second.dispatch(name, |d| has(d, &["SYNC"], &owner.id));
        let list = list.await;
        let counted = list["member_count"].as_u64() >= Some(3) && list["groups"].is_array();
        self.emitted_to(name, counted, &list);
        let nick = random_word();
        let own = format!("/guilds/{}/members/@me", guild.id);
        let form = json!({"nick": nick});
        owner.rest.patch(&own, &form).await.ok();
        let changed = second.dispatch(name, |d| has(d, &["UPDATE", "INSERT"], &nick));
        let changed = changed.await;
        self.emitted_to(name, true, &changed);
    }

    /// The member does not want to be disturbed. Their session on the other device would make
    /// anything quieter show as online.
    async fn presence(&mut self) {
        let World {
            member, bot, guild, ..
        } = self.world;
        let name = "PRESENCE_UPDATE";
        let d = json!({"since": null, "activities": [], "status": "dnd", "afk": false});
        member.session.send(&json!({"op": 3, "d": d}));
        let is_it = |d: &Value| {
            d["user"]["id"] == member.id.as_str()
                && d["guild_id"] == guild.id.as_str()
                && d["status"] == "dnd"
        };
        self.emitted(bot, name, is_it).await;
        member.catch_up().await;
        let own = member.has(name, |d| d["user"]["id"] == member.id.as_str());
        self.reaches(name, !own, "the member got their own");
    }

    /// `shown` and a message in a channel the member does not see were written before.
    async fn unread(&mut self, second: &Session, shown: &str) {
        let [_, member, stranger, bot] = self.world.people();
        let guild = &self.world.guild;
        let name = "CHANNEL_UNREAD_UPDATE";
        let number = |id: &Value| id.as_str().and_then(|id| id.parse::<u64>().ok());
        let shown = number(&json!(shown));
        let of = |d: &Value, channel: &str| -> Option<Value> {
            let mut channels = d["channel_unread_updates"].as_array()?.iter();
            let found = channels.find(|one| one["id"] == channel)?;
            Some(found["last_message_id"].clone())
        };
        let has_it = |d: &Value| {
            d["guild_id"] == guild.id.as_str()
                && of(d, &guild.lobby).is_some_and(|id| number(&id) >= shown)
        };
        let found = member.event(name, has_it, UNREAD_WAIT).await;
        if let Some(proof) = self.book.of(name) {
            let fault = || "did not reach the member".to_owned();
            proof.emitted.note(found.is_some(), fault);
        }
        let hidden = member.has(name, |d| of(d, &guild.secret).is_some());
        self.reaches(name, !hidden, "the member heard of a hidden channel");
        let newer = second.log().named(name).next().is_some();
        self.reaches(name, !newer, "who reads newer forms got it");
        let others = stranger.has(name, has_it) || bot.has(name, |_| true);
        self.reaches(name, !others, "another got it");
    }

    /// The newer forms of CHANNEL_UNREAD_UPDATE, which are of no tier that is counted: each client
    /// gets the newest that it reads, and nothing else of the kind.
    async fn newer_forms(&mut self) {
        let [owner, member, ..] = self.world.people();
        let guild = &self.world.guild;
        let (older, v1, v2) = (
            "CHANNEL_UNREAD_UPDATE",
            "PASSIVE_UPDATE_V1",
            "PASSIVE_UPDATE_V2",
        );
        let both = PASSIVE_GUILD_UPDATE | PASSIVE_GUILD_UPDATE_V2;
        let mut readers = Vec::new();
        for (capabilities, name, key) in [
            (PASSIVE_GUILD_UPDATE, v1, "channels"),
            (both, v2, "updated_channels"),
        ] {
            let mut login = member.account.login(member.urls.clone(), 0);
            login.capabilities = Some(capabilities);
            readers.push((Session::start(login).await, name, key));
        }
        sleep(NOTICE).await;
        let number = |id: &Value| id.as_str().and_then(|id| id.parse::<u64>().ok());
        let shown = owner.account.say(&guild.lobby, &random_word()).await;
        let shown = number(&json!(shown));
        owner.account.say(&guild.secret, &random_word()).await;
        for (reader, name, key) in &readers {
            let of = |d: &Value, channel: &str| -> Option<Value> {
                let mut channels = d[*key].as_array()?.iter();
                let found = channels.find(|one| one["id"] == channel)?;
                Some(found["last_message_id"].clone())
            };
            let has_it = |d: &Value| of(d, &guild.lobby).is_some_and(|id| number(&id) >= shown);
            let found = timeout(UNREAD_WAIT - NOTICE, reader.dispatch(name, has_it)).await;
            self.reaches(older, found.is_ok(), &format!("{name} did not come"));
            let log = reader.log();
            let hidden = log
                .named(name)
                .any(|one| of(one.d(), &guild.secret).is_some());
            let mut others = [older, v1, v2].into_iter().filter(|other| other != name);
            let other = others.any(|other| log.named(other).next().is_some());
            self.reaches(older, !hidden, &format!("{name} tells of a hidden channel"));
            self.reaches(older, !other, &format!("who reads {name} got another form"));
        }
    }
}
