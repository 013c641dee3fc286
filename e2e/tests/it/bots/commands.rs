//! Bots that work by application commands: the same evening in a guild for the bot of each
//! library, told from the side of the people. Every bot offers this:
//!
//! | command | what it does |
//! |---|---|
//! | `/greet who times taste` | global; one message of what was given; `taste` offers choices |
//! | `/panel` | two buttons and a select; `press` and `colour` change the message, `ask` opens a form, which is answered |
//! | `/slow` | an answer that comes later, then a follow-up for the caller only |
//! | `/thread` | a thread from a message, and a message in it |
//! | `/hook` | a webhook, and a letter through it |
//! | `/upload` | a file of [`file`], which the bot reads back |
//! | `/moderate timeout\|ban\|unban\|log` | for moderators |
//!
//! All but the first are commands of the guild. `/thread`, `/hook` and `/moderate` answer `done`
//! when they are. Of what only a bot can see it tells its diary: `registered`,
//! `letter {id, webhook}`, `file {same, name}`, `log {action, target, by, reason, changes}`,
//! `banned {user}`, `unbanned {user}`, `error {message}`.

use std::{collections::HashMap, thread};

use e2e::{
    cluster::Cluster,
    session::Session,
    world::{self, Account, Guild, INTENTS, each, random_word, text},
};
use serde_json::{Value, json};

use super::{CLUSTER, Diary, discordjs, serenity_commands, twilight};

/// What the bots may do, and no more.
const PERMISSIONS: u64 = VIEW_CHANNEL
    | SEND_MESSAGES
    | READ_MESSAGE_HISTORY
    | ATTACH_FILES
    | CREATE_PUBLIC_THREADS
    | SEND_MESSAGES_IN_THREADS
    | MANAGE_WEBHOOKS
    | VIEW_AUDIT_LOG
    | BAN_MEMBERS
    | MODERATE_MEMBERS;
const BAN_MEMBERS: u64 = 1 << 2;
const VIEW_AUDIT_LOG: u64 = 1 << 7;
const VIEW_CHANNEL: u64 = 1 << 10;
const SEND_MESSAGES: u64 = 1 << 11;
const ATTACH_FILES: u64 = 1 << 15;
const READ_MESSAGE_HISTORY: u64 = 1 << 16;
const MANAGE_WEBHOOKS: u64 = 1 << 29;
const CREATE_PUBLIC_THREADS: u64 = 1 << 35;
const SEND_MESSAGES_IN_THREADS: u64 = 1 << 38;
const MODERATE_MEMBERS: u64 = 1 << 40;

/// Types of interactions.
const COMMAND: u8 = 2;
const COMPONENT: u8 = 3;
const AUTOCOMPLETE: u8 = 4;
const FORM: u8 = 5;

const BUTTON: u8 = 2;
const SELECT: u8 = 3;

/// Flags of messages.
const HAS_THREAD: u64 = 1 << 5;
const EPHEMERAL: u64 = 1 << 6;
const LOADING: u64 = 1 << 7;

/// The file of `/upload`: every byte.
pub(super) fn file() -> Vec<u8> {
    (0..=u8::MAX).cycle().take(3000).collect()
}

/// Why the bots time out and ban; not ASCII, as it travels in a header.
pub(super) const REASON: &str = "enough é";

/// A guild, its bot, and two people: one calls, the other reads along from another gateway.
struct Evening {
    bot: Account,
    diary: Diary,
    guild: Guild,
    owner: Account,
    owner_sees: Session,
    bob: Account,
    bob_sees: Session,
    /// By name, as the owner's picker shows them.
    commands: HashMap<String, Value>,
}

impl Evening {
    /// `home`: the gateway the bot will log in at. Its guild belongs to the other one.
    async fn new(cluster: &Cluster, home: usize) -> Self {
        let other = 1 - home;
        let owner = world::human(cluster, "owner").await;
        let bob = world::human(cluster, "bob").await;
        let bot = owner.make_bot("bot").await;
        let guild = owner.make_guild_on(cluster, other, "club").await;
        owner.add_bot_with(&guild, &bot, PERMISSIONS).await;
        owner.invite(&guild, &bob).await;
        let owner_sees = owner.login(vec![cluster.gateways[other].url()], INTENTS);
        let bob_sees = bob.login(vec![cluster.gateways[home].url()], INTENTS);
        Self {
            owner_sees: Session::start(owner_sees).await,
            bob_sees: Session::start(bob_sees).await,
            bot,
            diary: Diary::default(),
            guild,
            owner,
            bob,
            commands: HashMap::new(),
        }
    }

    /// All of it, in order. The bot is running.
    async fn passes(&mut self) {
        self.offers_its_commands().await;
        self.completes_what_is_typed_and_greets().await;
        self.answers_buttons_a_select_and_a_form().await;
        self.answers_late_and_to_the_caller_alone().await;
        self.opens_a_thread().await;
        self.sends_a_letter_through_a_webhook().await;
        self.uploads_a_file_and_reads_it_back().await;
        self.times_out_bans_and_forgives().await;
        self.reads_in_the_audit_log_what_it_did().await;
        assert_eq!(self.diary.count("error"), 0);
        self.owner_sees.assert_clean();
        self.bob_sees.assert_clean();
    }

    async fn offers_its_commands(&mut self) {
        self.diary.wait(json!({"event": "registered"})).await;
        self.commands = index_of(&self.owner, &self.guild).await;
        let mut names: Vec<&str> = self.commands.keys().map(String::as_str).collect();
        names.sort_unstable();
        let all = [
            "greet", "hook", "moderate", "panel", "slow", "thread", "upload",
        ];
        assert_eq!(names, all);
        assert!(self.commands["greet"]["guild_id"].is_null());
        assert_eq!(self.commands["panel"]["guild_id"], self.guild.id.as_str());
        let bobs = index_of(&self.bob, &self.guild).await;
        assert!(bobs.contains_key("greet") && !bobs.contains_key("moderate"));
    }

    async fn completes_what_is_typed_and_greets(&self) {
        let who = json!({"type": 6, "name": "who", "value": self.bob.id});
        let typed = json!({"type": 3, "name": "taste", "value": "ch", "focused": true});
        let nonce = self
            .act(AUTOCOMPLETE, None, self.data("greet", json!([who, typed])))
            .await;
        let offered = self
            .owner_sees
            .dispatch("APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE", |d| {
                d["nonce"] == nonce.as_str()
            })
            .await;
        let offered = each(&offered["choices"]);
        let offered: Vec<(&Value, &Value)> = offered
            .map(|choice| (&choice["name"], &choice["value"]))
            .collect();
        let (cherry, chocolate) = (json!("cherry"), json!("chocolate"));
        assert_eq!(offered, [(&cherry, &cherry), (&chocolate, &chocolate)]);

        let times = json!({"type": 4, "name": "times", "value": 2});
        let taste = json!({"type": 3, "name": "taste", "value": "cherry"});
        let hello = self.call("greet", json!([who, times, taste])).await;
        let content = format!("hello {}, 2 times, with cherry", self.bob.name);
        assert_eq!(hello["content"], content.as_str());
        assert_eq!(hello["author"]["id"], self.bot.id.as_str());
        let asked = &hello["interaction_metadata"];
        assert_eq!(asked["user"]["id"], self.owner.id.as_str());
        assert_eq!(asked["type"], COMMAND);
        self.bob_reads(&hello).await;
    }

    async fn answers_buttons_a_select_and_a_form(&self) {
        let panel = self.call("panel", json!([])).await;
        assert_eq!(panel["content"], "pick one");
        self.bob_reads(&panel).await;

        let data = json!({"component_type": BUTTON, "custom_id": "press"});
        self.done(&self.act(COMPONENT, Some(&panel), data).await)
            .await;
        let pressed = self.bob_sees_change(&panel, "pressed").await;
        assert_eq!(pressed["components"], panel["components"], "they stay");

        let data = json!({"component_type": SELECT, "custom_id": "colour", "values": ["green"]});
        self.done(&self.act(COMPONENT, Some(&panel), data).await)
            .await;
        self.bob_sees_change(&panel, "it is green").await;

        let data = json!({"component_type": BUTTON, "custom_id": "ask"});
        let nonce = self.act(COMPONENT, Some(&panel), data).await;
        let form = self
            .owner_sees
            .dispatch("INTERACTION_MODAL_CREATE", |d| d["nonce"] == nonce.as_str())
            .await;
        self.done(&nonce).await;
        assert_eq!(form["title"], "A question");
        let mut written = form["components"].clone();
        for component in written.as_array_mut().into_iter().flatten() {
            let field = match component.get("component") {
                Some(_) => &mut component["component"],
                None => &mut component["components"][0],
            };
            *field = json!({"type": 4, "custom_id": field["custom_id"], "value": "owl"});
        }
        let data = json!({
            "id": form["id"],
            "custom_id": form["custom_id"],
            "components": written,
        });
        let sent = self.done(&self.act(FORM, None, data).await).await;
        let answer = self.answer_to(&sent).await;
        assert_eq!(answer["content"], "you wrote owl");
        self.bob_reads(&answer).await;
    }

    async fn answers_late_and_to_the_caller_alone(&self) {
        let loading = self.call("slow", json!([])).await;
        assert!(has(&loading, LOADING), "{loading}");
        let done = self.bob_sees_change(&loading, "done").await;
        assert!(!has(&done, LOADING), "{done}");
        let secret = self.owner_sees.message("only for you").await;
        assert!(has(&secret, EPHEMERAL), "{secret}");
        assert_eq!(secret["channel_id"], self.guild.channel.as_str());

        // Whatever was told of it would have been told before this.
        self.owner.say(&self.guild.channel, "all clear").await;
        self.bob_sees.message("all clear").await;
        let bobs = self.bob_sees.messages(&self.guild.channel);
        assert!(bobs.iter().all(|(_, content, _)| content != "only for you"));
        let path = format!("/channels/{}/messages", self.guild.channel);
        for reader in [&self.owner, &self.bob] {
            let history = reader.rest.get(&path).await.ok();
            assert!(each(&history).all(|message| message["id"] != secret["id"]));
        }
    }

    async fn opens_a_thread(&self) {
        self.call_and_wait("thread", json!([])).await;
        let topic = self.bob_sees.message("a topic").await;
        let thread = self
            .bob_sees
            .dispatch("THREAD_CREATE", |d| d["name"] == "aside")
            .await;
        assert_eq!(thread["id"], topic["id"], "it is the thread of the message");
        assert_eq!(thread["parent_id"], self.guild.channel.as_str());
        assert_eq!(thread["owner_id"], self.bot.id.as_str());
        assert_eq!(thread["thread_metadata"]["auto_archive_duration"], 60);
        let within = self.bob_sees.message("in here").await;
        assert_eq!(within["channel_id"], thread["id"]);

        let path = format!(
            "/channels/{}/messages/{}",
            self.guild.channel,
            text(&topic["id"])
        );
        let topic = self.bob.rest.get(&path).await.ok();
        assert!(has(&topic, HAS_THREAD), "{topic}");
        assert_eq!(topic["thread"]["id"], thread["id"]);
    }

    async fn sends_a_letter_through_a_webhook(&self) {
        self.call_and_wait("hook", json!([])).await;
        let letter = self.bob_sees.message("a letter").await;
        let author = &letter["author"];
        assert_eq!(author["username"], "Postman");
        assert_eq!(author["id"], letter["webhook_id"]);
        self.diary
            .wait(json!({
                "event": "letter",
                "id": letter["id"],
                "webhook": letter["webhook_id"],
            }))
            .await;
        let path = format!("/channels/{}/webhooks", self.guild.channel);
        let webhooks = self.owner.rest.get(&path).await.ok();
        assert_eq!(webhooks[0]["id"], letter["webhook_id"]);
        assert_eq!(webhooks[0]["name"], "Courier");
        assert_eq!(webhooks[0]["user"]["id"], self.bot.id.as_str());
    }

    async fn uploads_a_file_and_reads_it_back(&self) {
        let message = self.call("upload", json!([])).await;
        self.diary
            .wait(json!({"event": "file", "same": true, "name": "bytes.bin"}))
            .await;
        self.bob_reads(&message).await;
        let attachment = &message["attachments"][0];
        assert_eq!(attachment["filename"], "bytes.bin");
        assert_eq!(attachment["description"], "every byte");
        assert_eq!(attachment["size"], file().len());
        let reply = reqwest::get(text(&attachment["url"])).await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.bytes().await.unwrap(), file());
    }

    async fn times_out_bans_and_forgives(&self) {
        let bob = self.bob.id.as_str();
        self.bob.say(&self.guild.channel, "noise").await;

        self.moderate("timeout").await;
        self.bob_sees
            .dispatch("GUILD_MEMBER_UPDATE", |d| {
                d["user"]["id"] == bob && d["communication_disabled_until"].is_string()
            })
            .await;
        let path = format!("/channels/{}/messages", self.guild.channel);
        let silenced = self.bob.rest.post(&path, &json!({"content": "more"})).await;
        silenced.assert_error(403, 50013);

        self.moderate("ban").await;
        self.diary
            .wait(json!({"event": "banned", "user": bob}))
            .await;
        self.owner_sees
            .dispatch("GUILD_BAN_ADD", |d| d["user"]["id"] == bob)
            .await;
        let guild = self.guild.id.as_str();
        self.bob_sees
            .dispatch("GUILD_DELETE", |d| d["id"] == guild)
            .await;
        let bans = format!("/guilds/{guild}/bans/{bob}");
        let ban = self.owner.rest.get(&bans).await.ok();
        assert_eq!(ban["reason"], REASON);
        let channel = self.guild.channel.as_str();
        self.owner_sees
            .dispatch("MESSAGE_DELETE_BULK", |d| d["channel_id"] == channel)
            .await;
        let history = self.owner.rest.get(&path).await.ok();
        assert!(each(&history).all(|message| message["content"] != "noise"));
        let invites = format!("/channels/{}/invites", self.guild.channel);
        let invite = self.owner.rest.post(&invites, &json!({})).await.ok();
        let invite = format!("/invites/{}", text(&invite["code"]));
        let refused = self.bob.rest.post(&invite, &json!({})).await;
        refused.assert_error(403, 40007);

        self.moderate("unban").await;
        self.diary
            .wait(json!({"event": "unbanned", "user": bob}))
            .await;
        self.owner_sees
            .dispatch("GUILD_BAN_REMOVE", |d| d["user"]["id"] == bob)
            .await;
        self.owner.rest.get(&bans).await.assert_error(404, 10026);
        self.bob.rest.post(&invite, &json!({})).await.ok();
    }

    async fn reads_in_the_audit_log_what_it_did(&self) {
        let (bot, bob) = (self.bot.id.as_str(), self.bob.id.as_str());
        self.call_and_wait(
            "moderate",
            json!([{"type": 1, "name": "log", "options": []}]),
        )
        .await;
        for (action, reason, changes) in [
            (24, REASON, json!(["communication_disabled_until"])),
            (22, REASON, json!([])),
            (23, "forgiven", json!([])),
        ] {
            self.diary
                .wait(json!({
                    "event": "log",
                    "action": action,
                    "target": bob,
                    "by": bot,
                    "reason": reason,
                    "changes": changes,
                }))
                .await;
        }
    }

    /// Does something to Bob, and waits until it is done.
    async fn moderate(&self, what: &str) {
        let who = json!({"type": 6, "name": "who", "value": self.bob.id});
        let options = json!([{"type": 1, "name": what, "options": [who]}]);
        self.call_and_wait("moderate", options).await;
    }

    fn data(&self, command: &str, options: Value) -> Value {
        let command = &self.commands[command];
        let mut data = json!({
            "id": command["id"],
            "version": command["version"],
            "name": command["name"],
            "type": 1,
            "options": options,
        });
        if let Value::String(guild) = &command["guild_id"] {
            data["guild_id"] = json!(guild);
        }
        data
    }

    /// The owner acts; the nonce by which their client knows what comes of it.
    async fn act(&self, kind: u8, message: Option<&Value>, data: Value) -> String {
        let nonce = random_word();
        let mut body = json!({
            "type": kind,
            "application_id": self.bot.application,
            "guild_id": self.guild.id,
            "channel_id": self.guild.channel,
            "session_id": self.owner_sees.session_id(),
            "nonce": nonce,
            "data": data,
        });
        if let Some(message) = message {
            body["message_id"] = message["id"].clone();
        }
        self.owner.rest.post("/interactions", &body).await.ok();
        nonce
    }

    /// Waits until the bot has answered; the interaction's id.
    async fn done(&self, nonce: &str) -> String {
        let (how, id) = self
            .owner_sees
            .wait("the end of an interaction", |log| {
                let mut ends = log.dispatches.iter().filter(|dispatch| {
                    matches!(dispatch.t(), "INTERACTION_SUCCESS" | "INTERACTION_FAILURE")
                });
                let end = ends.find(|end| end.d()["nonce"] == nonce)?;
                Some((end.t().to_owned(), text(&end.d()["id"])))
            })
            .await;
        assert_eq!(how, "INTERACTION_SUCCESS");
        id
    }

    /// The message that answers an interaction, as it first came.
    async fn answer_to(&self, interaction: &str) -> Value {
        self.owner_sees
            .dispatch("MESSAGE_CREATE", |d| {
                d["interaction_metadata"]["id"] == interaction
            })
            .await
    }

    /// Calls a command; the message that answers it, as it first came.
    async fn call(&self, command: &str, options: Value) -> Value {
        let nonce = self.act(COMMAND, None, self.data(command, options)).await;
        let interaction = self.done(&nonce).await;
        self.answer_to(&interaction).await
    }

    /// Calls a command that answers at once that it works on it, then `done`.
    async fn call_and_wait(&self, command: &str, options: Value) {
        let loading = self.call(command, options).await;
        assert!(has(&loading, LOADING), "{loading}");
        self.owner_sees
            .dispatch("MESSAGE_UPDATE", |d| {
                d["id"] == loading["id"] && d["content"] == "done"
            })
            .await;
    }

    /// The other gateway tells the other person the same message.
    async fn bob_reads(&self, message: &Value) {
        let got = self
            .bob_sees
            .dispatch("MESSAGE_CREATE", |d| d["id"] == message["id"])
            .await;
        for key in ["content", "author", "components", "attachments"] {
            assert_eq!(got[key], message[key]);
        }
    }

    async fn bob_sees_change(&self, message: &Value, content: &str) -> Value {
        self.bob_sees
            .dispatch("MESSAGE_UPDATE", |d| {
                d["id"] == message["id"] && d["content"] == content
            })
            .await
    }
}

impl Drop for Evening {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the bot's diary: {:#?}", self.diary.entries());
        }
    }
}

/// The commands that an account's picker shows, by name.
async fn index_of(account: &Account, guild: &Guild) -> HashMap<String, Value> {
    let path = format!("/guilds/{}/application-command-index", guild.id);
    let index = account.rest.get(&path).await.ok();
    let commands = index["application_commands"].as_array().into_iter();
    commands
        .flatten()
        .map(|command| (text(&command["name"]), command.clone()))
        .collect()
}

fn has(message: &Value, flag: u64) -> bool {
    message["flags"].as_u64().unwrap_or_default() & flag != 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discord_js_works_by_commands() {
    let cluster = CLUSTER.cluster().await;
    let mut evening = Evening::new(&cluster, 1).await;
    let (origin, token) = (&cluster.apis[1].origin, &evening.bot.token);
    let diary = evening.diary.clone();
    let bot = discordjs::start("commands.js", origin, token, diary).await;
    evening.passes().await;
    bot.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serenity_with_poise_works_by_commands() {
    let cluster = CLUSTER.cluster().await;
    let mut evening = Evening::new(&cluster, 0).await;
    let (origin, token) = (&cluster.apis[0].origin, &evening.bot.token);
    let bot = serenity_commands::start(origin, token, evening.diary.clone()).await;
    evening.passes().await;
    bot.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twilight_works_by_commands() {
    let cluster = CLUSTER.cluster().await;
    let mut evening = Evening::new(&cluster, 1).await;
    let (api, gateway) = (&cluster.apis[1].origin, cluster.gateways[1].url());
    let (token, diary) = (&evening.bot.token, evening.diary.clone());
    let bot = twilight::start(api, &gateway, token, diary).await;
    evening.passes().await;
    bot.stop().await;
}
