//! Applications that a user has installed for themselves: their commands go where the user goes.

use guildhall_shared::{Id, Permissions, Timestamp, gateway::EventKind, id::marker};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use super::{NOTHING, button, text};
use crate::{
    conformance::libraries_read,
    dms::befriend,
    harness::{Reply, TestApp, TestGuild, TestUser},
    log,
};

/// Alice's application is in no guild. Bob is a member of her guild, and a friend of hers.
struct World {
    app: TestApp,
    alice: TestUser,
    bob: TestUser,
    bot: TestUser,
    guild: TestGuild,
    command: Value,
}

impl World {
    async fn new(db: PgPool) -> Self {
        let app = TestApp::new(db).await;
        let (alice, bob) = (app.user("alice").await, app.user("bob").await);
        let bot = app.bot(&alice, "Pocket").await;
        let guild = app.guild(&alice, "home").await;
        app.join(&bob, guild).await;
        befriend(&app, &alice, &bob).await;
        let mut world = Self {
            app,
            alice,
            bob,
            bot,
            guild,
            command: Value::Null,
        };
        world.command = world
            .make("pocket", json!({ "integration_types": [1] }))
            .await;
        world
    }

    /// Alice presses `go` below a message of the guild.
    async fn press(&self, message: &Value) {
        let press = json!({
            "type": 3, "application_id": self.bot.id, "channel_id": self.guild.general,
            "guild_id": self.guild.id, "message_id": message["id"],
            "data": { "component_type": 2, "custom_id": "go" },
        });
        let pressed = self.app.post(&self.alice, "/interactions", press).await;
        pressed.expect(204);
    }

    /// A global command of the application.
    async fn make(&self, name: &str, more: Value) -> Value {
        let mut command = json!({ "name": name, "description": "x" });
        for (key, value) in more.as_object().unwrap() {
            command[key] = value.clone();
        }
        let path = format!("/applications/{}/commands", self.bot.id);
        self.app.post(&self.bot, &path, command).await.expect(201)
    }

    async fn install(&self, user: &TestUser) -> Reply {
        let path = format!(
            "/oauth2/authorize?client_id={}&integration_type=1",
            self.bot.id
        );
        self.app
            .post(user, &path, json!({ "authorize": true }))
            .await
    }

    /// Alice lets its commands alone into her guild.
    async fn bring(&self) -> Reply {
        let path = format!(
            "/oauth2/authorize?client_id={}&scope=applications.commands",
            self.bot.id
        );
        let body = json!({ "authorize": true, "guild_id": self.guild.id });
        self.app.post(&self.alice, &path, body).await
    }

    async fn call(&self, user: &TestUser, channel: &Value, command: &Value) -> Reply {
        let data = json!({ "id": command["id"], "name": command["name"], "type": 1 });
        let body = json!({
            "type": 2, "application_id": self.bot.id, "channel_id": channel, "data": data,
            "nonce": "1", "session_id": "x",
        });
        self.app.post(user, "/interactions", body).await
    }

    async fn called(&self, user: &TestUser, channel: &Value) -> Value {
        let reply = self.call(user, channel, &self.command).await;
        reply.expect(204);
        self.asked_of_bot().await
    }

    /// The newest interaction in the bot's own realm.
    async fn asked_of_bot(&self) -> Value {
        let events = self.app.events(self.bot.id).await;
        let mut asked = events.into_iter().rev();
        let asked = asked.find(|(name, _)| *name == "INTERACTION_CREATE");
        asked.unwrap().1
    }

    async fn answer(&self, interaction: &Value, data: Value) -> Value {
        let path = format!(
            "/interactions/{}/{}/callback?with_response=true",
            text(&interaction["id"]),
            text(&interaction["token"])
        );
        let body = json!({ "type": 4, "data": data });
        let reply = self.app.post_anonymously(&path, body).await.expect(200);
        reply["resource"]["message"].clone()
    }

    /// Posts what waits for the guild until Bob has a timeout there, which then ends.
    async fn while_bob_is_silenced(&self, path: &str, body: Value) -> Value {
        let mut held = self.app.hold(self.guild.id).await;
        let silenced = async {
            self.app.until_somebody_waits().await;
            let until = "now() + interval '1 minute'";
            self.silence_bob(&mut held, until).await;
            held.commit().await.unwrap();
        };
        let posted = self.app.post_anonymously(path, body);
        let (posted, ()) = tokio::join!(posted, silenced);
        let mut db = self.app.db.acquire().await.unwrap();
        self.silence_bob(&mut db, "null").await;
        posted.expect(200)
    }

    async fn silence_bob(&self, db: &mut PgConnection, until: &'static str) {
        let silence = format!(
            "update member set communication_disabled_until = {until} where user_id = {}",
            self.bob.id
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(silence))
            .execute(db)
            .await
            .unwrap();
    }

    fn lobby(&self) -> Value {
        json!(self.guild.general)
    }

    /// What everybody in the guild's channel may not do.
    async fn deny(&self, permissions: Permissions) {
        let (channel, everyone) = (self.guild.general, self.guild.id);
        let path = format!("/channels/{channel}/permissions/{everyone}");
        let body = json!({ "type": 0, "allow": "0", "deny": permissions.bits().to_string() });
        self.app.put(&self.alice, &path, body).await.expect(204);
    }

    async fn dm(&self, user: &TestUser, other: Id<marker::User>) -> Value {
        let body = json!({ "recipient_id": other });
        let made = self.app.post(user, "/users/@me/channels", body).await;
        made.expect(200)["id"].clone()
    }

    async fn index(&self, user: &TestUser, path: &str) -> Vec<String> {
        let path = format!("{path}/application-command-index");
        let index = self.app.get(user, &path).await.expect(200);
        let commands = index["application_commands"].as_array().unwrap().iter();
        commands.map(|one| text(&one["name"]).to_owned()).collect()
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn who_has_installed_it_calls_it_in_a_guild_where_it_is_not(db: PgPool) {
    let world = World::new(db).await;
    let refused = world.call(&world.bob, &world.lobby(), &world.command).await;
    refused.expect_error(404, 10002);
    world.install(&world.bob).await.expect(200);
    // Installed by one, not by all.
    let refused = world
        .call(&world.alice, &world.lobby(), &world.command)
        .await;
    refused.expect_error(404, 10002);

    let interaction = world.called(&world.bob, &world.lobby()).await;
    assert_eq!(interaction["context"], 0);
    assert_eq!(interaction["guild_id"], json!(world.guild.id));
    let owners = json!({ "1": world.bob.id });
    assert_eq!(interaction["authorizing_integration_owners"], owners);
    assert_eq!(interaction["member"]["user"]["id"], json!(world.bob.id));
    let given: Permissions =
        serde_json::from_value(interaction["app_permissions"].clone()).unwrap();
    assert!(given.contains(Permissions::EMBED_LINKS));
    assert!(!given.contains(Permissions::MENTION_EVERYONE));

    let message = world
        .answer(&interaction, json!({ "content": "@everyone hi" }))
        .await;
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    let more = async || {
        let body = json!({ "content": "more" });
        world.app.post_anonymously(&hook, body).await
    };
    for _ in 0..5 {
        more().await.expect(200);
    }
    more().await.expect_error(400, 40094);
    assert_eq!(message["flags"].as_u64().unwrap() & 64, 0);
    assert_eq!(message["mention_everyone"], false);
    assert_eq!(
        message["interaction_metadata"]["authorizing_integration_owners"],
        owners
    );
    let path = format!("/channels/{}/messages", world.guild.general);
    let read = world.app.get(&world.alice, &path).await.expect(200);
    assert_eq!(read[5]["id"], message["id"]);
    let (name, _) = log::newest(&world.app, world.guild.id).await;
    assert_eq!(name, "MESSAGE_CREATE");
}

#[sqlx::test(migrations = "../migrations")]
async fn without_the_permission_its_answers_are_for_the_user_alone(db: PgPool) {
    let world = World::new(db).await;
    world.install(&world.bob).await.expect(200);
    world.deny(Permissions::USE_EXTERNAL_APPS).await;
    let interaction = world.called(&world.bob, &world.lobby()).await;
    let message = world
        .answer(&interaction, json!({ "content": "quiet" }))
        .await;
    assert_eq!(message["flags"].as_u64().unwrap() & 64, 64);
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    let further = world
        .app
        .post_anonymously(&hook, json!({ "content": "too" }))
        .await;
    assert_eq!(further.expect(200)["flags"].as_u64().unwrap() & 64, 64);
    let path = format!("/channels/{}/messages", world.guild.general);
    let read = world.app.get(&world.alice, &path).await.expect(200);
    assert_eq!(read, json!([]));
    for realm in [world.bob.id, world.bot.id] {
        let names = world.app.event_names(realm).await;
        let count = names
            .iter()
            .filter(|name| **name == "MESSAGE_CREATE")
            .count();
        assert_eq!(count, 2, "{names:?}");
    }

    world.deny(Permissions::USE_APPLICATION_COMMANDS).await;
    let refused = world.call(&world.bob, &world.lobby(), &world.command).await;
    refused.expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn its_answers_are_for_its_user_alone_once_they_are_silenced_or_gone(db: PgPool) {
    let world = World::new(db).await;
    let app = &world.app;
    world.install(&world.bob).await.expect(200);
    let interaction = world.called(&world.bob, &world.lobby()).await;
    let hi = json!({ "content": "hi" });
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    let is_quiet = async || {
        let more = app.post_anonymously(&hook, hi.clone()).await.expect(200);
        more["flags"].as_u64().unwrap() & 64 != 0
    };
    world.answer(&interaction, hi.clone()).await;
    assert!(!is_quiet().await);

    let until = Timestamp(Timestamp::now().0 + time::Duration::MINUTE);
    let path = format!("/guilds/{}/members/{}", world.guild.id, world.bob.id);
    let silence = json!({ "communication_disabled_until": until });
    app.patch(&world.alice, &path, silence).await.expect(200);
    assert!(is_quiet().await);
    app.delete(&world.alice, &path).await.expect(204);
    assert!(is_quiet().await);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_answer_that_waits_is_for_its_user_alone_once_they_are_silenced(db: PgPool) {
    let world = World::new(db).await;
    world.install(&world.bob).await.expect(200);
    let hi = json!({ "content": "hi" });
    for kind in [4, 5] {
        let interaction = world.called(&world.bob, &world.lobby()).await;
        let path = format!(
            "/interactions/{}/{}/callback?with_response=true",
            text(&interaction["id"]),
            text(&interaction["token"])
        );
        let answer = json!({ "type": kind, "data": hi });
        let answered = world.while_bob_is_silenced(&path, answer).await;
        let answered = &answered["interaction"];
        assert_eq!(answered["response_message_ephemeral"], true, "{kind}");
    }
    let interaction = world.called(&world.bob, &world.lobby()).await;
    let first = world.answer(&interaction, hi.clone()).await;
    assert_eq!(first["flags"].as_u64().unwrap() & 64, 0);
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    let more = world.while_bob_is_silenced(&hook, hi).await;
    assert_eq!(more["flags"].as_u64().unwrap() & 64, 64);
}

#[sqlx::test(migrations = "../migrations")]
async fn its_answers_do_not_reach_whom_its_user_may_not_write_to(db: PgPool) {
    let world = World::new(db).await;
    let app = &world.app;
    world.install(&world.bob).await.expect(200);
    let is_quiet = |message: &Value| message["flags"].as_u64().unwrap() & 64 != 0;
    let hi = json!({ "content": "hi" });

    let stranger = app.user("stranger").await;
    let dm = world.dm(&world.bob, stranger.id).await;
    let interaction = world.called(&world.bob, &dm).await;
    let message = world.answer(&interaction, hi.clone()).await;
    assert!(is_quiet(&message));
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    let more = app.post_anonymously(&hook, hi.clone()).await.expect(200);
    assert!(is_quiet(&more));
    let told = app.event_names(stranger.id).await;
    assert!(!told.contains(&"MESSAGE_CREATE"), "{told:?}");

    let dm = world.dm(&world.bob, world.alice.id).await;
    let interaction = world.called(&world.bob, &dm).await;
    assert!(!is_quiet(&world.answer(&interaction, hi.clone()).await));
    let interaction = world.called(&world.bob, &dm).await;
    let block = format!("/users/@me/relationships/{}", world.bob.id);
    let block = app.put(&world.alice, &block, json!({ "type": 2 }));
    block.await.expect(204);
    assert!(is_quiet(&world.answer(&interaction, hi).await));
}

#[sqlx::test(migrations = "../migrations")]
async fn who_has_closed_the_dm_lists_it_again_with_an_answer(db: PgPool) {
    let world = World::new(db).await;
    let app = &world.app;
    world.install(&world.bob).await.expect(200);
    // Alice does not list it yet.
    let dm = world.dm(&world.bob, world.alice.id).await;
    let before = app.event_names(world.alice.id).await.len();
    let told = async || app.event_names(world.alice.id).await.split_off(before);
    let interaction = world.called(&world.bob, &dm).await;
    let message = world.answer(&interaction, json!({ "content": "hi" })).await;
    assert_eq!(message["flags"].as_u64().unwrap() & 64, 0);
    assert_eq!(told().await, ["CHANNEL_CREATE", "MESSAGE_CREATE"]);

    // Closed between an answer that was put off and the answer.
    let interaction = world.called(&world.bob, &dm).await;
    let path = format!(
        "/interactions/{}/{}/callback",
        text(&interaction["id"]),
        text(&interaction["token"])
    );
    let later = app.post_anonymously(&path, json!({ "type": 5 })).await;
    later.expect(204);
    let close = format!("/channels/{}", text(&dm));
    app.delete(&world.alice, &close).await.expect(200);
    let path = format!(
        "/webhooks/{}/{}/messages/@original",
        world.bot.id,
        text(&interaction["token"])
    );
    let request = app.request(Method::PATCH, &path);
    let edited = app.send(request.json(&json!({ "content": "late" }))).await;
    edited.expect(200);
    assert_eq!(
        told().await[2..],
        [
            "MESSAGE_CREATE",
            "CHANNEL_DELETE",
            "CHANNEL_CREATE",
            "MESSAGE_UPDATE"
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn it_is_called_in_direct_messages_with_others_and_in_groups(db: PgPool) {
    let world = World::new(db).await;
    world.install(&world.bob).await.expect(200);
    let dm = world.dm(&world.bob, world.alice.id).await;
    // One recipient alone makes no group.
    let carol = world.app.user("carol").await;
    befriend(&world.app, &world.bob, &carol).await;
    let body = json!({ "recipients": [world.alice.id, carol.id] });
    let group = world
        .app
        .post(&world.bob, "/users/@me/channels", body)
        .await;
    let group = group.expect(200)["id"].clone();
    for (channel, others) in [
        (&dm, vec![&world.alice]),
        (&group, vec![&world.alice, &carol]),
    ] {
        let interaction = world.called(&world.bob, channel).await;
        libraries_read("INTERACTION_CREATE", &interaction);
        let told = &interaction["channel"];
        let recipients = told["recipients"].as_array().unwrap().iter();
        let recipients: Vec<&Value> = recipients.map(|user| &user["id"]).collect();
        let others: Vec<Value> = others.iter().map(|user| json!(user.id)).collect();
        assert_eq!(recipients, others.iter().collect::<Vec<_>>());
        let owner = (channel == &group).then(|| json!(world.bob.id));
        assert_eq!(told.get("owner_id"), owner.as_ref());
        assert_eq!(interaction["context"], 2);
        assert_eq!(interaction["user"]["id"], json!(world.bob.id));
        assert!(interaction["guild_id"].is_null());
        let owners = json!({ "1": world.bob.id });
        assert_eq!(interaction["authorizing_integration_owners"], owners);
        let message = world.answer(&interaction, json!({ "content": "hi" })).await;
        let path = format!("/channels/{}/messages", text(channel));
        let read = world.app.get(&world.alice, &path).await.expect(200);
        assert_eq!(read[0]["id"], message["id"]);
    }
    let interaction = world.called(&world.bob, &dm).await;
    let quiet = json!({ "content": "psst", "flags": 64 });
    let message = world.answer(&interaction, quiet).await;
    let (_, told) = world.app.events(world.bot.id).await.pop().unwrap();
    assert_eq!(told["id"], message["id"]);
    let path = format!("/channels/{}/messages", text(&dm));
    let read = world.app.get(&world.alice, &path).await.expect(200);
    assert_eq!(read.as_array().unwrap().len(), 1, "{read}");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_answer_to_who_has_left_waits_for_nobody_in_a_circle(db: PgPool) {
    let world = World::new(db).await;
    world.install(&world.alice).await.expect(200);
    let carol = world.app.user("carol").await;
    befriend(&world.app, &world.alice, &carol).await;
    let body = json!({ "recipients": [world.bob.id, carol.id] });
    let group = world.app.post(&world.alice, "/users/@me/channels", body);
    let group = group.await.expect(200)["id"].clone();
    let interaction = world.called(&world.alice, &group).await;
    let leave = format!("/channels/{}", text(&group));
    world.app.delete(&world.alice, &leave).await.expect(200);

    // Alice has the smallest id: who waits for her head holds none of the others.
    let mut held = world.app.hold(world.alice.id).await;
    let others = async {
        world.app.until_somebody_waits().await;
        let next = "select realm_id from realm_head where realm_id = $1 for update nowait";
        for user in [&world.bob, &carol] {
            let head = sqlx::query(next).bind(user.id.to_db());
            head.fetch_one(&mut *held).await.unwrap();
        }
        held.rollback().await.unwrap();
    };
    let answer = world.answer(&interaction, json!({ "content": "hi" }));
    let (message, ()) = tokio::join!(answer, others);
    assert_eq!(message["content"], "hi");
}

#[sqlx::test(migrations = "../migrations")]
async fn contexts_and_installations_say_where_a_command_is_used(db: PgPool) {
    let world = World::new(db).await;
    let both = json!({ "integration_types": [0, 1], "contexts": [0, 1] });
    let both = world.make("both", both).await;
    let far = world
        .make("far", json!({ "integration_types": [1], "contexts": [2] }))
        .await;
    let guilds = world
        .make("guilds", json!({ "integration_types": [0] }))
        .await;
    world.install(&world.bob).await.expect(200);
    let (lobby, friend) = (world.lobby(), world.dm(&world.bob, world.alice.id).await);
    let own = world.dm(&world.bob, world.bot.id).await;
    let [pocket] = [&world.command];
    for (channel, usable, refused) in [
        (&lobby, vec![pocket, &both], vec![&far, &guilds]),
        (&friend, vec![pocket, &far], vec![&both, &guilds]),
        (&own, vec![pocket, &both, &guilds], vec![&far]),
    ] {
        for command in usable {
            world.call(&world.bob, channel, command).await.expect(204);
        }
        for command in refused {
            let reply = world.call(&world.bob, channel, command).await;
            reply.expect_error(403, 50013);
        }
    }
    let owners = async |command: &Value| {
        world.call(&world.bob, &own, command).await.expect(204);
        let interaction = world.asked_of_bot().await;
        assert_eq!(interaction["context"], 1);
        interaction["authorizing_integration_owners"].clone()
    };
    assert_eq!(owners(&both).await, json!({ "0": "0", "1": world.bob.id }));
    assert_eq!(owners(&guilds).await, json!({ "0": "0" }));
    assert_eq!(owners(pocket).await, json!({ "1": world.bob.id }));

    let guild = format!("/guilds/{}", world.guild.id);
    assert_eq!(world.index(&world.bob, &guild).await, ["pocket", "both"]);
    assert_eq!(world.index(&world.alice, &guild).await, [""; 0]);
    let at = |channel: &Value| format!("/channels/{}", text(channel));
    assert_eq!(
        world.index(&world.bob, &at(&lobby)).await,
        ["pocket", "both"]
    );
    assert_eq!(
        world.index(&world.bob, &at(&friend)).await,
        ["pocket", "far"]
    );
    let in_dm = ["pocket", "both", "guilds"];
    assert_eq!(world.index(&world.bob, &at(&own)).await, in_dm);
    let everywhere = ["pocket", "both", "far"];
    assert_eq!(world.index(&world.bob, "/users/@me").await, everywhere);
}

#[sqlx::test(migrations = "../migrations")]
async fn others_use_what_it_wrote_until_it_is_taken_away(db: PgPool) {
    let world = World::new(db).await;
    world.install(&world.bob).await.expect(200);
    let interaction = world.called(&world.bob, &world.lobby()).await;
    let data = json!({ "content": "press", "components": [button("go")] });
    let message = world.answer(&interaction, data).await;
    world.press(&message).await;
    let interaction = world.asked_of_bot().await;
    assert_eq!(interaction["type"], 3);
    assert_eq!(interaction["member"]["user"]["id"], json!(world.alice.id));
    let owners = json!({ "1": world.bob.id });
    assert_eq!(interaction["authorizing_integration_owners"], owners);

    let grants = world
        .app
        .get(&world.bob, "/oauth2/tokens")
        .await
        .expect(200);
    assert_eq!(grants[0]["application"]["id"], json!(world.bot.id));
    assert_eq!(grants[0]["scopes"], json!(["applications.commands"]));
    let path = format!("/oauth2/tokens/{}", text(&grants[0]["id"]));
    world.app.delete(&world.bob, &path).await.expect(204);
    let refused = world.call(&world.bob, &world.lobby(), &world.command).await;
    refused.expect_error(404, 10002);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ban_takes_commands_whose_bot_is_not_there_and_keeps_them_out(db: PgPool) {
    let world = World::new(db).await;
    let command = world
        .make("here", json!({ "integration_types": [0] }))
        .await;
    world.bring().await.expect(200);
    let ban = format!("/guilds/{}/bans/{}", world.guild.id, world.bot.id);
    world
        .app
        .put(&world.alice, &ban, json!({}))
        .await
        .expect(204);
    let names = world.app.event_names(world.guild.id).await;
    let told = [
        "GUILD_BAN_ADD",
        "INTEGRATION_DELETE",
        "GUILD_INTEGRATIONS_UPDATE",
    ];
    assert!(names.ends_with(&told), "{names:?}");
    let path = format!("/guilds/{}/integrations", world.guild.id);
    let left = world.app.get(&world.alice, &path).await.expect(200);
    assert_eq!(left, json!([]));
    let refused = world.call(&world.bob, &world.lobby(), &command).await;
    refused.expect_error(404, 10002);

    world.bring().await.expect_error(403, 40007);
    world.app.delete(&world.alice, &ban).await.expect(204);
    world.bring().await.expect(200);
    let called = world.call(&world.bob, &world.lobby(), &command).await;
    called.expect(204);
}

/// With `applications.commands` alone.
#[sqlx::test(migrations = "../migrations")]
async fn a_guild_calls_commands_whose_bot_is_not_there(db: PgPool) {
    let world = World::new(db).await;
    let command = world
        .make("here", json!({ "integration_types": [0] }))
        .await;
    let refused = world.call(&world.bob, &world.lobby(), &command).await;
    refused.expect_error(404, 10002);
    world.bring().await.expect(200);
    let events = world.app.events(world.guild.id).await;
    let mut made = events.iter().rev();
    let (name, made) = made.find(|event| event.0 == "INTEGRATION_CREATE").unwrap();
    libraries_read(name, made);
    assert!(made.get("role_id").is_none(), "{made}");
    let guild = format!("/guilds/{}", world.guild.id);
    assert_eq!(world.index(&world.bob, &guild).await, ["here"]);
    // That one comes with users.
    let refused = world.call(&world.bob, &world.lobby(), &world.command).await;
    refused.expect_error(403, 50013);

    // Who brings others' applications is none of it.
    world.deny(Permissions::USE_EXTERNAL_APPS).await;
    let called = world.call(&world.bob, &world.lobby(), &command).await;
    called.expect(204);
    let interaction = world.asked_of_bot().await;
    assert_eq!(interaction["context"], 0);
    assert_eq!(interaction["guild_id"], json!(world.guild.id));
    let owners = json!({ "0": world.guild.id });
    assert_eq!(interaction["authorizing_integration_owners"], owners);
    let data = json!({ "content": "press", "components": [button("go")] });
    let message = world.answer(&interaction, data).await;
    assert_eq!(message["flags"].as_u64().unwrap() & 64, 0);
    let hook = format!("/webhooks/{}/{}", world.bot.id, text(&interaction["token"]));
    for _ in 0..6 {
        let more = json!({ "content": "more" });
        let more = world.app.post_anonymously(&hook, more).await;
        more.expect(200);
    }
    world.press(&message).await;
    assert_eq!(world.asked_of_bot().await["type"], 3);

    let integration = format!("{guild}/integrations/{}", world.bot.id);
    world
        .app
        .delete(&world.alice, &integration)
        .await
        .expect(204);
    assert_eq!(world.index(&world.bob, &guild).await, [""; 0]);
    let refused = world.call(&world.bob, &world.lobby(), &command).await;
    refused.expect_error(404, 10002);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_application_hears_of_its_permissions_where_its_bot_is_not(db: PgPool) {
    let world = World::new(db).await;
    world.bring().await.expect(200);
    let told_before = world.app.event_names(world.bot.id).await.len();
    let path = format!(
        "/applications/{0}/guilds/{1}/commands/{0}/permissions",
        world.bot.id, world.guild.id
    );
    let entry = json!({ "id": world.guild.id, "type": 1, "permission": false });
    let body = json!({ "permissions": [entry] });
    let set = world.app.put(&world.alice, &path, body).await.expect(200);
    let told = world.app.events(world.bot.id).await.split_off(told_before);
    let kind = "APPLICATION_COMMAND_PERMISSIONS_UPDATE";
    assert_eq!(told, [(kind, set)]);
    // Of the guild's events only people get it.
    let envelopes = log::envelopes(&world.app.db, world.guild.id).await;
    let mut of_people = envelopes
        .iter()
        .filter(|event| event.kind == EventKind::ApplicationCommandPermissionsUpdate);
    let of_people = of_people.next().unwrap();
    assert_eq!(of_people.vis.except, [world.bot.id]);
    let count = |names: Vec<&str>| names.iter().filter(|name| **name == kind).count();
    assert_eq!(count(world.app.event_names(world.guild.id).await), 1);

    // A bot that comes hears it as a member does.
    let bot = format!("/oauth2/authorize?client_id={}&scope=bot", world.bot.id);
    let body = json!({ "authorize": true, "guild_id": world.guild.id });
    world.app.post(&world.alice, &bot, body).await.expect(200);
    let body = json!({ "permissions": [] });
    world.app.put(&world.alice, &path, body).await.expect(200);
    assert_eq!(count(world.app.event_names(world.guild.id).await), 3);
    assert_eq!(count(world.app.event_names(world.bot.id).await), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_installed_by_a_user_is_not(db: PgPool) {
    let world = World::new(db).await;
    let with = async |query: &str| {
        let path = format!("/oauth2/authorize?client_id={}&{query}", world.bot.id);
        let body = json!({ "authorize": true, "guild_id": NOTHING });
        world.app.post(&world.bob, &path, body).await
    };
    let reply = with("integration_type=1&scope=bot").await;
    reply.expect_fault("scope", "INSTALL_TYPE_SCOPE_INVALID");
    let reply = with("integration_type=2").await;
    reply.expect_fault("integration_type", "BASE_TYPE_CHOICES");

    let only_guilds = json!({ "integration_types_config": { "0": {} } });
    let own = "/applications/@me";
    world
        .app
        .patch(&world.bot, own, only_guilds)
        .await
        .expect(200);
    let reply = world.install(&world.bob).await;
    reply.expect_fault("integration_type", "INSTALL_TYPE_NOT_SUPPORTED");

    let all = json!({ "integration_types_config": { "0": {}, "1": {} } });
    world.app.patch(&world.bot, own, all).await.expect(200);
    let path = format!("/applications/{}", world.bot.id);
    let private = json!({ "bot_public": false });
    world
        .app
        .patch(&world.alice, &path, private)
        .await
        .expect(200);
    world.install(&world.bob).await.expect_error(403, 20012);
    world.install(&world.alice).await.expect(200);
    let read = world.app.get(&world.bot, own).await.expect(200);
    assert_eq!(read["approximate_user_install_count"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_for_users_alone_comes_into_no_guild(db: PgPool) {
    let world = World::new(db).await;
    let set = async |config: Value| {
        let body = json!({ "integration_types_config": config });
        let path = "/applications/@me";
        world.app.patch(&world.bot, path, body).await.expect(200);
    };
    let add = async |query: &str| {
        let path = format!("/oauth2/authorize?client_id={}{query}", world.bot.id);
        let body = json!({ "authorize": true, "guild_id": world.guild.id });
        world.app.post(&world.alice, &path, body).await
    };
    set(json!({ "1": {} })).await;
    for query in ["", "&scope=bot", "&scope=applications.commands"] {
        let reply = add(query).await;
        reply.expect_fault("integration_type", "INSTALL_TYPE_NOT_SUPPORTED");
    }
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", world.bot.id);
    let shown = world.app.get(&world.alice, &path).await;
    shown.expect_fault("integration_type", "INSTALL_TYPE_NOT_SUPPORTED");
    world.install(&world.bob).await.expect(200);
    assert_eq!(world.app.event_names(world.guild.id).await, [""; 0]);

    set(json!({ "0": {} })).await;
    add("&scope=applications.commands").await.expect(200);
    add("&scope=bot").await.expect(200);
}
