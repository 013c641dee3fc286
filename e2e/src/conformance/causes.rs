//! Causes of events that no operation of the REST API has, or whose operation's case looks at
//! something else: commands at the gateway, silence of an application, gained views.

use std::time::Duration;

use guildhall_shared::Timestamp;
use serde_json::{Value, json};

use super::{
    clients,
    events::EventBook,
    media,
    world::{Person, World},
};
use crate::{
    client::{self, Client},
    rest::Rest,
    session::Session,
    wire,
    world::{each, permission, random_word, text},
};

/// An event that has not come after this long never will.
const WAIT: Duration = Duration::from_secs(15);

/// What one cause proves.
pub(super) struct Causes<'a> {
    pub(super) world: &'a World,
    pub(super) book: &'a mut EventBook,
}

pub(super) async fn prove(world: &World, book: &mut EventBook) {
    let mut causes = Causes { world, book };
    causes.beginnings().await;
    causes.questions().await;
    causes.voice().await;
    causes.threads().await;
    causes.integrations().await;
    causes.interactions().await;
    causes.interest().await;
    causes.sounds().await;
    causes.password().await;
    clients::prove(&mut causes).await;
}

impl Causes<'_> {
    /// An event has reached this person, or does.
    pub(super) async fn emitted(
        &mut self,
        person: &Person,
        name: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = person.event(name, matches, WAIT).await;
        if let Some(proof) = self.book.of(name) {
            let fault = || format!("did not reach {}", person.role);
            proof.emitted.note(found.is_some(), fault);
        }
        found.unwrap_or_default()
    }

    /// Whether who should not have got it has not.
    pub(super) fn reaches(&mut self, name: &str, fits: bool, fault: &str) {
        if let Some(proof) = self.book.of(name) {
            proof.reaches.note(fits, || fault.to_owned());
        }
    }

    /// IDENTIFY and RESUME.
    async fn beginnings(&mut self) {
        let World { owner, bot, .. } = self.world;
        self.emitted(bot, "READY", |_| true).await;
        self.emitted(bot, "GUILD_CREATE", |_| true).await;
        let url = owner.urls[0].as_str();
        let open = async || {
            let mut client = Client::open(url).await.ok()?;
            client.expect_op(10).await;
            Some(client)
        };
        let (Some(mut first), Some(mut second)) = (open().await, open().await) else {
            return;
        };
        first.send(&client::identify(&owner.account.token, None, None));
        let ready = first.expect_dispatch("READY").await;
        let id = text(&ready.d["session_id"]);
        drop(first);
        second.send(&client::resume(
            &owner.account.token,
            &id,
            ready.s.unwrap_or(1),
        ));
        let resumed = second.expect_dispatch("RESUMED").await;
        if let Some(proof) = self.book.of("RESUMED") {
            proof.emitted.note(true, String::new);
            let others = owner.has("RESUMED", |_| true);
            proof
                .reaches
                .note(!others, || "another session got it".to_owned());
            for read in [
                wire::check_with_twilight(&resumed, true),
                wire::check_with_serenity(&resumed),
            ] {
                let fault = read.as_ref().err().cloned().unwrap_or_default();
                proof.typed.note(read.is_ok(), || fault);
            }
        }
        second.close(1000);
        // Each of these accounts has identified on further sessions meanwhile.
        for person in [owner, bot] {
            person.catch_up().await;
            let count = person.session.log().named("READY").count();
            let fault = format!("{} got it {count} times", person.role);
            self.reaches("READY", count == 1, &fault);
        }
    }

    /// Op 8, 31 and 43.
    async fn questions(&mut self) {
        let World { bot, guild, .. } = self.world;
        let all = |nonce: &str| {
            let d = json!({"guild_id": guild.id, "query": "", "limit": 0, "nonce": nonce});
            json!({"op": 8, "d": d})
        };
        bot.session.send(&all("first"));
        let chunk = self.emitted(bot, "GUILD_MEMBERS_CHUNK", |d| d["nonce"] == "first");
        let chunk = chunk.await;
        let whole = (&chunk["chunk_index"], &chunk["chunk_count"]) == (&json!(0), &json!(1));
        if let Some(proof) = self.book.of("GUILD_MEMBERS_CHUNK") {
            proof
                .emitted
                .note(whole, || format!("not one whole chunk: {chunk}"));
        }
        bot.session.send(&all("second"));
        let again = |d: &Value| d["opcode"] == 8 && d["meta"]["nonce"] == "second";
        self.emitted(bot, "RATE_LIMITED", again).await;
        bot.session
            .send(&json!({"op": 31, "d": {"guild_ids": [guild.id]}}));
        let of_guild = |d: &Value| d["guild_id"] == guild.id.as_str();
        self.emitted(bot, "SOUNDBOARD_SOUNDS", of_guild).await;
        let fields = json!(["status", "voice_start_time"]);
        bot.session
            .send(&json!({"op": 43, "d": {"guild_id": guild.id, "fields": fields}}));
        self.emitted(bot, "CHANNEL_INFO", of_guild).await;
    }

    /// Op 4 into a hidden voice channel, and out of it.
    async fn voice(&mut self) {
        let World { bot, guild, .. } = self.world;
        let hidden = json!([permission::hides(&guild.id, 0)]);
        let form = json!({"name": "talk", "type": 2, "permission_overwrites": hidden});
        let path = format!("/guilds/{}/channels", guild.id);
        let channel = text(&self.world.owner.rest.post(&path, &form).await.ok()["id"]);
        for to in [Value::from(channel.as_str()), Value::Null] {
            bot.session.send(&client::voice(&guild.id, to.as_str()));
            let own = |d: &Value| d["user_id"] == bot.id.as_str() && d["channel_id"] == to;
            self.emitted(bot, "VOICE_STATE_UPDATE", own).await;
            let begun = |d: &Value| {
                d["id"] == channel.as_str() && d["voice_start_time"].is_null() == to.is_null()
            };
            let name = "VOICE_CHANNEL_START_TIME_UPDATE";
            self.emitted(bot, name, begun).await;
            if let Some(proof) = self.book.of(name) {
                let leaked = self.world.member.has(name, |d| d["id"] == channel.as_str());
                proof
                    .reaches
                    .note(!leaked, || "the member got it".to_owned());
            }
        }
        let of_guild = |d: &Value| d["guild_id"] == guild.id.as_str();
        self.emitted(bot, "VOICE_SERVER_UPDATE", of_guild).await;
    }

    /// A thread below a channel that the member comes to see; then it changes and goes.
    async fn threads(&mut self) {
        let [owner, member, stranger, bot] = self.world.people();
        let guild = &self.world.guild;
        let hidden = json!([permission::hides(&guild.id, 0)]);
        let channel = owner.account.make_channel(&guild.id, "above", hidden).await;
        let form = json!({"name": "below", "type": 11});
        let path = format!("/channels/{channel}/threads");
        let thread = text(&owner.rest.post(&path, &form).await.ok()["id"]);
        let own = format!("/channels/{channel}/permissions/{}", member.id);
        let form = json!({"type": 1, "allow": permission::VIEW_CHANNEL.to_string(), "deny": "0"});
        owner.rest.put(&own, &form).await.ok();
        let name = "THREAD_LIST_SYNC";
        let has_it = |d: &Value| each(&d["threads"]).any(|one| one["id"] == thread.as_str());
        let sync = self.emitted(member, name, has_it).await;
        if let Some(proof) = self.book.of(name) {
            for other in [owner, stranger] {
                let leaked = other.has(name, has_it);
                proof
                    .reaches
                    .note(!leaked, || format!("{} got it", other.role));
            }
            let log = member.session.log();
            for dispatch in log.named(name).filter(|one| one.d() == &sync) {
                for read in [
                    wire::check_with_twilight(&dispatch.frame, true),
                    wire::check_with_serenity(&dispatch.frame),
                ] {
                    let fault = read.as_ref().err().cloned().unwrap_or_default();
                    proof.typed.note(read.is_ok(), || fault);
                }
            }
        }
        let d = json!({"guild_id": guild.id, "typing": true, "threads": true});
        member.session.send(&json!({"op": 14, "d": d}));
        let of_all = |d: &Value| d["channel_ids"].is_null() && has_it(d);
        self.emitted(member, name, of_all).await;
        owner.rest.delete(&own).await.ok();
        let path = format!("/channels/{thread}");
        self.membership(&thread).await;
        owner
            .rest
            .patch(&path, &json!({"name": "renamed"}))
            .await
            .ok();
        let renamed = |d: &Value| d["id"] == thread.as_str() && d["name"] == "renamed";
        self.emitted(bot, "THREAD_UPDATE", renamed).await;
        owner.rest.delete(&path).await.ok();
        self.emitted(bot, "THREAD_DELETE", |d| d["id"] == thread.as_str())
            .await;
    }

    /// The bot is in a thread that falls asleep and wakes up: its members hear of their
    /// memberships, each of their own.
    async fn membership(&mut self, thread: &str) {
        let World { owner, bot, .. } = self.world;
        let path = format!("/channels/{thread}");
        let me = format!("{path}/thread-members/@me");
        bot.rest.put(&me, &json!({})).await.ok();
        for archived in [true, false] {
            let form = json!({"archived": archived});
            owner.rest.patch(&path, &form).await.ok();
        }
        let name = "THREAD_MEMBER_UPDATE";
        for person in [bot, owner] {
            let of = |id: &str| {
                let id = id.to_owned();
                move |d: &Value| d["id"] == thread && d["user_id"] == id.as_str()
            };
            self.emitted(person, name, of(&person.id)).await;
            for other in [bot, owner].iter().filter(|other| other.id != person.id) {
                let leaked = other.has(name, of(&person.id));
                self.reaches(name, !leaked, "another member's came");
            }
        }
    }

    /// Another bot comes, is authorized for more, and is taken away.
    async fn integrations(&mut self) {
        let World {
            owner, bot, guild, ..
        } = self.world;
        let other = owner.account.make_bot("helper").await;
        let id = other.application.unwrap_or_default();
        let is_it = |d: &Value| d["id"] == id.as_str();
        for (scopes, name) in [
            ("bot", "INTEGRATION_CREATE"),
            ("bot+applications.commands", "INTEGRATION_UPDATE"),
        ] {
            let path = format!("/oauth2/authorize?client_id={id}&scope={scopes}&permissions=0");
            let form = json!({"authorize": true, "guild_id": guild.id, "permissions": "0"});
            owner.rest.post(&path, &form).await.ok();
            self.emitted(bot, name, is_it).await;
        }
        let of_guild = |d: &Value| d["guild_id"] == guild.id.as_str();
        self.emitted(bot, "GUILD_INTEGRATIONS_UPDATE", of_guild)
            .await;
        let path = format!("/guilds/{}/integrations", guild.id);
        let list = owner.rest.get(&path).await.ok();
        let mut list = each(&list);
        let is_helper = |one: &&Value| one["application"]["id"] == id.as_str();
        let integration = list
            .find(is_helper)
            .map_or(Value::Null, |one| one["id"].clone());
        let path = format!("{path}/{}", text(&integration));
        owner.rest.delete(&path).await.ok();
        let is_it = |d: &Value| d["id"] == integration;
        self.emitted(bot, "INTEGRATION_DELETE", is_it).await;
    }

    /// Somebody is interested in an event and votes, and thinks better of both.
    async fn interest(&mut self) {
        let World {
            member, bot, guild, ..
        } = self.world;
        let events = format!("/guilds/{}/scheduled-events", guild.id);
        let in_days = |days: u64| {
            let since = Duration::from_secs(days * 86_400);
            json!(Timestamp(Timestamp::now().0 + since))
        };
        let form = json!({
            "name": "picnic", "privacy_level": 2, "entity_type": 3,
            "entity_metadata": {"location": "the lake"},
            "scheduled_start_time": in_days(2), "scheduled_end_time": in_days(3),
        });
        let event = text(&bot.rest.post(&events, &form).await.ok()["id"]);
        let own = format!("{events}/{event}/users/@me");
        let is_it = |d: &Value| {
            d["guild_scheduled_event_id"] == event.as_str() && d["user_id"] == member.id.as_str()
        };
        member.rest.put(&own, &json!({})).await.ok();
        let name = "GUILD_SCHEDULED_EVENT_USER_ADD";
        self.emitted(bot, name, is_it).await;
        member.rest.delete(&own).await.ok();
        let name = "GUILD_SCHEDULED_EVENT_USER_REMOVE";
        self.emitted(bot, name, is_it).await;

        let form = json!({"poll": {
            "question": {"text": "where?"},
            "answers": [{"poll_media": {"text": "here"}}, {"poll_media": {"text": "there"}}],
            "duration": 1,
        }});
        let messages = format!("/channels/{}/messages", guild.lobby);
        let poll = text(&bot.rest.post(&messages, &form).await.ok()["id"]);
        let vote = format!("/channels/{}/polls/{poll}/answers/@me", guild.lobby);
        let is_it = |d: &Value| d["message_id"] == poll.as_str() && d["answer_id"] == 1;
        for (answers, name) in [
            (json!([1]), "MESSAGE_POLL_VOTE_ADD"),
            (json!([]), "MESSAGE_POLL_VOTE_REMOVE"),
        ] {
            let form = json!({"answer_ids": answers});
            member.rest.put(&vote, &form).await.ok();
            self.emitted(bot, name, is_it).await;
        }
    }

    /// The emoji of two sounds is deleted.
    async fn sounds(&mut self) {
        let World { bot, guild, .. } = self.world;
        let path = format!("/guilds/{}", guild.id);
        let form = json!({"name": "horn", "image": media::image()});
        let emoji = bot.rest.post(&format!("{path}/emojis"), &form).await.ok();
        let sounds = format!("{path}/soundboard-sounds");
        let mut made = Vec::new();
        for name in ["low", "high"] {
            let form = json!({"name": name, "sound": media::sound(), "emoji_id": emoji["id"]});
            made.push(bot.rest.post(&sounds, &form).await.ok()["sound_id"].clone());
        }
        let emoji = format!("{path}/emojis/{}", text(&emoji["id"]));
        bot.rest.delete(&emoji).await.ok();
        let both_bare = |d: &Value| {
            let told = each(&d["soundboard_sounds"]);
            let bare = told.filter(|sound| sound["emoji_id"].is_null());
            let ids: Vec<_> = bare.map(|sound| sound["sound_id"].clone()).collect();
            ids == made
        };
        self.emitted(bot, "GUILD_SOUNDBOARD_SOUNDS_UPDATE", both_bare)
            .await;
    }

    /// An application that is silent, opens a form, and completes a word.
    async fn interactions(&mut self) {
        let [owner, member, _, bot] = self.world.people();
        let guild = &self.world.guild;
        let commands = format!("/applications/{}/guilds/{}/commands", bot.id, guild.id);
        let options = json!([{"type": 3, "name": "word", "description": "a word",
                              "autocomplete": true, "required": false}]);
        let form = json!({"name": "shout", "description": "loud", "type": 1, "options": options});
        let command = bot.rest.post(&commands, &form).await.ok();
        let of_guild = |d: &Value| d["guild_id"] == guild.id.as_str();
        self.emitted(member, "GUILD_APPLICATION_COMMAND_INDEX_UPDATE", of_guild)
            .await;
        let invoke = async |kind: u8, nonce: &str, options: Value| {
            let data = json!({"version": command["version"], "id": command["id"], "name": "shout",
                              "type": 1, "guild_id": guild.id, "options": options,
                              "attachments": []});
            let form = json!({"type": kind, "application_id": bot.id, "guild_id": guild.id,
                              "channel_id": guild.lobby, "nonce": nonce, "data": data,
                              "session_id": member.session.session_id()});
            member.rest.post("/interactions", &form).await.ok();
        };
        let nobody = Rest::new(&self.world.origin);
        let modal = json!({"custom_id": "form", "title": "A form", "components": [
            {"type": 1, "components": [{"type": 4, "custom_id": "line", "style": 1,
                                         "label": "A line"}]}]});
        let typed = json!([{"type": 3, "name": "word", "value": "w", "focused": true}]);
        let choices = json!({"choices": [{"name": "well", "value": "well"}]});
        for (kind, nonce, options, callback, name) in [
            (
                2,
                "m1",
                json!([]),
                Some((9, modal)),
                "INTERACTION_MODAL_CREATE",
            ),
            (
                4,
                "a1",
                typed,
                Some((8, choices)),
                "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE",
            ),
            (2, "f1", json!([]), None, "INTERACTION_FAILURE"),
        ] {
            let known = bot.session.log().named("INTERACTION_CREATE").count();
            invoke(kind, nonce, options).await;
            let interaction = bot
                .session
                .wait("the interaction", |log| {
                    log.named("INTERACTION_CREATE").nth(known).cloned()
                })
                .await;
            let (id, token) = (&interaction.d()["id"], &interaction.d()["token"]);
            if let Some((kind, data)) = callback {
                let path = format!("/interactions/{}/{}/callback", text(id), text(token));
                let form = json!({"type": kind, "data": data});
                nobody.post(&path, &form).await.ok();
            }
            let is_it = |d: &Value| d["nonce"] == nonce;
            self.emitted(member, name, is_it).await;
            if let Some(proof) = self.book.of(name) {
                let leaked = owner.has(name, is_it) || bot.has(name, is_it);
                proof.reaches.note(!leaked, || "another got it".to_owned());
            }
        }
    }

    /// Somebody changes their password.
    async fn password(&mut self) {
        let account = self.world.newcomer().await;
        let session = Session::start(account.login(self.world.owner.urls.clone(), 0)).await;
        let old = format!("a long password of {}", account.name);
        let form = json!({"password": old, "new_password": random_word().repeat(2)});
        account.rest.patch("/users/@me", &form).await.ok();
        let told = session
            .dispatch("AUTH_SESSION_CHANGE", |d| {
                d["auth_session_id_hash"].is_string()
            })
            .await;
        if let Some(proof) = self.book.of("AUTH_SESSION_CHANGE") {
            proof.emitted.note(true, String::new);
            for other in self.world.people() {
                let leaked = other.has("AUTH_SESSION_CHANGE", |d| *d == told);
                proof
                    .reaches
                    .note(!leaked, || format!("{} got it", other.role));
            }
        }
    }
}
