//! Application commands, their permissions and the index of them.

use guildhall_api::config::RateLimits;
use guildhall_shared::Permissions;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::{conforms, libraries_read},
    harness::{TestApp, assert_fault},
};

fn ping() -> Value {
    json!({
        "name": "ping",
        "description": "answers",
        "name_localizations": { "de": "pong", "fr": null },
        "options": [
            { "type": 3, "name": "text", "description": "what", "required": true, "choices": [{ "name": "A", "value": "a" }] },
            { "type": 4, "name": "count", "description": "how often", "min_value": 1, "max_value": 5 },
            { "type": 7, "name": "where", "description": "channel", "channel_types": [0] },
        ],
        "default_member_permissions": "8",
        "contexts": [0],
    })
}

#[sqlx::test(migrations = "../migrations")]
async fn a_command_is_made_replaced_changed_and_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bot, guild).await;
    for (path, created, updated, listed) in [
        (
            format!("/applications/{}/commands", bot.id),
            "create_application_command",
            "update_application_command",
            "list_application_commands",
        ),
        (
            format!("/applications/{}/guilds/{}/commands", bot.id, guild.id),
            "create_guild_application_command",
            "update_guild_application_command",
            "list_guild_application_commands",
        ),
    ] {
        let first = app.post(&bot, &path, ping()).await.expect(201);
        conforms(created, 201, &first);
        assert_eq!(first["application_id"], json!(bot.id));
        assert_eq!(first["options"][1]["max_value"], 5);
        assert_eq!(first["default_member_permissions"], "8");
        assert_eq!(first["name_localizations"], json!({ "de": "pong" }));
        let again = json!({ "name": "ping", "description": "other" });
        let second = app.post(&bot, &path, again).await.expect(200);
        conforms(created, 200, &second);
        assert_eq!(second["id"], first["id"]);
        assert_ne!(second["version"], first["version"]);
        assert!(second.get("options").is_none());

        let one = format!("{path}/{}", first["id"].as_str().unwrap());
        let changed = app
            .patch(
                &bot,
                &one,
                json!({ "name": "pong", "nsfw": true, "name_localizations": { "de": "piep" } }),
            )
            .await
            .expect(200);
        conforms(updated, 200, &changed);
        assert_eq!(
            (&changed["name"], &changed["description"]),
            (&json!("pong"), &json!("other"))
        );
        assert_eq!(app.get(&bot, &one).await.expect(200), changed);

        let list = app.get(&bot, &path).await.expect(200);
        conforms(listed, 200, &list);
        assert_eq!(list[0]["name_localizations"], json!(null));
        let list = app
            .get(&bot, &format!("{path}?with_localizations=true"))
            .await
            .expect(200);
        assert_eq!(list[0]["name_localizations"]["de"], "piep");

        app.post(&bot, &path, json!({ "name": "other", "description": "x" }))
            .await
            .expect(201);
        app.patch(&bot, &one, json!({ "name": "other" }))
            .await
            .expect_error(400, 40041);
        app.delete(&bot, &one).await.expect(204);
        app.get(&bot, &one).await.expect_error(404, 10063);
        app.delete(&bot, &one).await.expect_error(404, 10063);
    }
    let names = app.event_names(guild.id).await;
    assert_eq!(names, ["GUILD_APPLICATION_COMMAND_INDEX_UPDATE"; 5]);
}

#[sqlx::test(migrations = "../migrations")]
async fn commands_belong_to_their_application(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let (bot, other) = (app.bot(&alice, "Ping").await, app.bot(&alice, "Pong").await);
    let guild = app.guild(&alice, "home").await;
    let path = format!("/applications/{}/commands", bot.id);
    let in_guild = format!("/applications/{}/guilds/{}/commands", bot.id, guild.id);
    let command = app.post(&bot, &path, ping()).await.expect(201);
    let one = format!("{path}/{}", command["id"].as_str().unwrap());
    for path in [&path, &in_guild] {
        app.get(&other, path).await.expect_error(403, 20012);
        app.post(&other, path, ping())
            .await
            .expect_error(403, 20012);
        app.get(&alice, path).await.expect_error(403, 20002);
    }
    app.delete(&other, &one).await.expect_error(403, 20012);
    app.post(&bot, &in_guild, ping())
        .await
        .expect_error(403, 50001);
    app.join(&bot, guild).await;
    app.post(&bot, &in_guild, ping()).await.expect(201);
    let nowhere = format!(
        "/applications/{}/guilds/1180000000000000002/commands",
        bot.id
    );
    app.get(&bot, &nowhere).await.expect_error(404, 10004);
    let wrong_place = format!("{in_guild}/{}", command["id"].as_str().unwrap());
    app.get(&bot, &wrong_place).await.expect_error(404, 10063);
}

#[sqlx::test(migrations = "../migrations")]
async fn bulk_keeps_ids_and_takes_the_rest(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let path = format!("/applications/{}/commands", bot.id);
    let kept = app.post(&bot, &path, ping()).await.expect(201);
    app.post(&bot, &path, json!({ "name": "old", "description": "x" }))
        .await
        .expect(201);
    let all = json!([ping(), { "name": "Wave", "type": 2 }, { "name": "Quote it", "type": 3, "description": "" }]);
    let set = app.put(&bot, &path, all.clone()).await.expect(200);
    conforms("bulk_set_application_commands", 200, &set);
    assert_eq!(set[0]["id"], kept["id"]);
    assert_eq!(set[0]["version"], kept["version"]);
    assert_eq!(
        app.get(&bot, &path)
            .await
            .expect(200)
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let again = app.put(&bot, &path, all).await.expect(200);
    assert_eq!(again, set);

    let bad = json!([{ "name": "a", "description": "x" }, { "name": "a", "description": "y" }, { "name": "Up", "description": "" }]);
    let body = app.put(&bot, &path, bad).await.expect_error(400, 50035);
    assert_fault(&body, "1.name", "APPLICATION_COMMANDS_DUPLICATE_NAME");
    assert_fault(&body, "2.name", "APPLICATION_COMMAND_INVALID_NAME");
    assert_fault(&body, "2.description", "BASE_TYPE_REQUIRED");
    let many: Vec<Value> = (0..101)
        .map(|n| json!({ "name": format!("c{n}"), "description": "x" }))
        .collect();
    app.put(&bot, &path, json!(many))
        .await
        .expect_error(400, 30032);
    let many: Vec<Value> = (0..16)
        .map(|n| json!({ "name": format!("c{n}"), "type": 2 }))
        .collect();
    app.put(&bot, &path, json!(many))
        .await
        .expect_error(400, 30032);
    // More than there may be of all kinds is refused before each is compared with the others.
    let many: Vec<Value> = (0..131)
        .map(|n| json!({ "name": format!("c{n}"), "description": "x" }))
        .collect();
    app.put(&bot, &path, json!(many))
        .await
        .expect_fault("", "BASE_TYPE_MAX_LENGTH");
    assert_eq!(app.put(&bot, &path, json!([])).await.expect(200), json!([]));
    assert_eq!(app.get(&bot, &path).await.expect(200), json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_command_may_not_say_is_named(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let path = format!("/applications/{}/commands", bot.id);
    let body = json!({
        "name": "ok", "description": "x", "contexts": [0, 0], "integration_types": [7],
        "name_localizations": { "xx": "a", "de": "Groß" },
        "options": [
            { "type": 3, "name": "a", "description": "x", "min_length": 9, "max_length": 2 },
            { "type": 5, "name": "a", "description": "x", "required": true },
            { "type": 3, "name": "C", "description": "", "choices": [{ "name": "x", "value": 5 }], "autocomplete": true },
            { "type": 1, "name": "sub", "description": "x" },
            { "type": 6, "name": "u", "description": "x", "min_value": 1 },
            { "name": "n", "description": "x" },
        ],
    });
    let body = app.post(&bot, &path, body).await.expect_error(400, 50035);
    for (at, code) in [
        ("contexts.1", "SET_TYPE_ALREADY_CONTAINS_VALUE"),
        ("integration_types.0", "ENUM_TYPE_COERCE"),
        ("name_localizations", "ENUM_TYPE_COERCE"),
        ("name_localizations.de", "APPLICATION_COMMAND_INVALID_NAME"),
        ("options.0", "BASE_TYPE_CONFLICT"),
        ("options.1", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID"),
        (
            "options.1.name",
            "APPLICATION_COMMAND_OPTIONS_NAME_ALREADY_EXISTS",
        ),
        ("options.2.name", "APPLICATION_COMMAND_INVALID_NAME"),
        ("options.2.description", "BASE_TYPE_REQUIRED"),
        ("options.2.choices.0.value", "STRING_TYPE_CONVERT"),
        ("options.2.autocomplete", "BASE_TYPE_CONFLICT"),
        ("options.3.type", "APPLICATION_COMMAND_OPTIONS_TYPE_INVALID"),
        (
            "options.4.min_value",
            "APPLICATION_COMMAND_OPTIONS_FIELD_INVALID",
        ),
        ("options.5.type", "BASE_TYPE_REQUIRED"),
    ] {
        assert_fault(&body, at, code);
    }
    let choice =
        |n: usize| json!({ "name": format!("{n}{}", "x".repeat(90)), "value": "y".repeat(90) });
    let choices: Vec<Value> = (0..25).map(choice).collect();
    let options: Vec<Value> = (0..3)
        .map(|n| json!({ "type": 3, "name": format!("o{n}"), "description": "x", "choices": choices }))
        .collect();
    app.post(
        &bot,
        &path,
        json!({ "name": "big", "description": "x", "options": options }),
    )
    .await
    .expect_fault("", "APPLICATION_COMMAND_TOO_LARGE");
    let of_channels = |kinds: Vec<u8>| {
        json!({ "name": "where", "description": "x", "options": [
            { "type": 7, "name": "c", "description": "x", "channel_types": kinds }] })
    };
    app.post(&bot, &path, of_channels(vec![0; 26]))
        .await
        .expect_fault("options.0.channel_types", "BASE_TYPE_MAX_LENGTH");
    let made = app.post(&bot, &path, of_channels(vec![2, 0, 2])).await;
    assert_eq!(
        made.expect(201)["options"][0]["channel_types"],
        json!([2, 0])
    );
    let wide = json!({ "name": "wide", "description": "x", "options": [
        { "type": 3, "name": "o", "description": "x",
          "choices": [{ "name": "x", "value": format!("y{}", " ".repeat(100)) }] }] });
    app.post(&bot, &path, wide)
        .await
        .expect_fault("options.0.choices.0.value", "BASE_TYPE_BAD_LENGTH");
    let group = json!({ "name": "g", "description": "x", "options": [{ "type": 2, "name": "a", "description": "x", "options": [
        { "type": 1, "name": "b", "description": "x", "options": [{ "type": 10, "name": "n", "description": "x", "min_value": 0.5 }] }
    ] }] });
    let made = app.post(&bot, &path, group).await.expect(201);
    conforms("create_application_command", 201, &made);
    app.post(
        &bot,
        &path,
        json!({ "name": "Menu", "type": 2, "description": "no" }),
    )
    .await
    .expect_fault(
        "description",
        "APPLICATION_COMMAND_CONTEXT_MENU_DESCRIPTION_NOT_ALLOWED",
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_says_who_may_use_a_command(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bot, guild).await;
    app.join(&bob, guild).await;
    let path = format!("/applications/{}/commands", bot.id);
    let command = app
        .post(&bot, &path, json!({ "name": "ping", "description": "x" }))
        .await
        .expect(201);
    let id = command["id"].as_str().unwrap();
    let all = format!(
        "/applications/{}/guilds/{}/commands/permissions",
        bot.id, guild.id
    );
    let one = format!(
        "/applications/{}/guilds/{}/commands/{id}/permissions",
        bot.id, guild.id
    );
    app.get(&bot, &one).await.expect_error(404, 10066);
    assert_eq!(app.get(&bot, &all).await.expect(200), json!([]));
    let index = format!("/guilds/{}/application-command-index", guild.id);
    let in_channel = format!("/channels/{}/application-command-index", guild.general);
    let seen = app.get(&bob, &index).await.expect(200);
    assert_eq!(seen["application_commands"][0]["id"], command["id"]);
    assert_eq!(seen["applications"][0]["id"], json!(bot.id));

    let body = json!({ "permissions": [
        { "id": guild.id, "type": 1, "permission": false }, { "id": alice.id, "type": 2, "permission": true },
    ] });
    app.put(&bot, &one, body.clone())
        .await
        .expect_error(403, 20001);
    app.put(&bob, &one, body.clone())
        .await
        .expect_error(403, 50013);
    let set = app.put(&alice, &one, body).await.expect(200);
    conforms("set_guild_application_command_permissions", 200, &set);
    assert_eq!(app.get(&bot, &one).await.expect(200), set);
    let list = app.get(&bot, &all).await.expect(200);
    conforms("list_guild_application_command_permissions", 200, &list);
    assert_eq!(list, json!([set]));
    let names = app.event_names(guild.id).await;
    assert_eq!(
        names,
        [
            "APPLICATION_COMMAND_PERMISSIONS_UPDATE",
            "APPLICATION_COMMAND_PERMISSIONS_UPDATE"
        ]
    );
    for path in [&index, &in_channel] {
        let seen = app.get(&bob, path).await.expect(200);
        assert_eq!(seen["application_commands"], json!([]));
        let seen = app.get(&alice, path).await.expect(200);
        assert_eq!(seen["application_commands"][0]["id"], command["id"]);
    }
    app.get(&bot, &index).await.expect_error(403, 20001);
    let stranger = app.user("mallory").await;
    app.get(&stranger, &index).await.expect_error(403, 50001);
    app.get(&stranger, &in_channel)
        .await
        .expect_error(403, 50001);

    let bad = json!({ "permissions": [{ "id": bob.id, "type": 1, "permission": true }, { "id": "7", "type": 9 }] });
    let body = app.put(&alice, &one, bad).await.expect_error(400, 50035);
    assert_fault(&body, "permissions.1.type", "ENUM_TYPE_COERCE");
    assert_fault(&body, "permissions.1.permission", "BASE_TYPE_REQUIRED");
    let unknown = json!({ "permissions": [{ "id": bob.id, "type": 1, "permission": true }] });
    app.put(&alice, &one, unknown).await.expect_fault(
        "permissions.0.id",
        "APPLICATION_COMMAND_PERMISSION_TARGET_UNKNOWN",
    );

    app.put(&alice, &one, json!({ "permissions": [] }))
        .await
        .expect(200);
    app.get(&bot, &one).await.expect_error(404, 10066);
    app.grant(
        &bob,
        guild,
        Permissions::MANAGE_GUILD | Permissions::MANAGE_ROLES,
    )
    .await;
    let whole = format!(
        "/applications/{0}/guilds/{1}/commands/{0}/permissions",
        bot.id, guild.id
    );
    let none = json!({ "permissions": [{ "id": guild.id.get().to_string(), "type": 1, "permission": false }] });
    app.put(&bob, &whole, none).await.expect(200);
    let seen = app.get(&bob, &index).await.expect(200);
    assert_eq!(seen["application_commands"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn two_hundred_commands_of_a_place_are_new_in_a_day(db: PgPool) {
    let app = TestApp::with(db, |config| config.rate_limits = RateLimits::On).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bot, guild).await;
    let global = format!("/applications/{}/commands", bot.id);
    let in_guild = format!("/applications/{}/guilds/{}/commands", bot.id, guild.id);
    let command = |name: String| json!({ "name": name, "description": "x" });
    let set = async |prefix: &str, count: u32| {
        let commands = (0..count).map(|n| command(format!("{prefix}{n}")));
        let commands: Vec<Value> = commands.collect();
        app.put(&bot, &global, json!(commands)).await
    };
    set("a", 100).await.expect(200);
    set("b", 95).await.expect(200);
    // Those that are there already are not new.
    set("b", 95).await.expect(200);
    let known = app.post(&bot, &global, command("b0".to_owned())).await;
    known.expect(200);
    // All of them or none.
    set("c", 6).await.expect_error(429, 30034);
    set("c", 5).await.expect(200);

    let refused = app.post(&bot, &global, command("d0".to_owned())).await;
    assert_eq!(refused.headers["x-ratelimit-scope"], "user");
    assert!(refused.headers.contains_key("via"));
    assert!(refused.headers.contains_key("retry-after"));
    let body = refused.expect_error(429, 30034);
    libraries_read("rate limit", &body);
    let wait = body["retry_after"].as_f64().unwrap();
    assert!(wait > 0.0 && wait <= 86_400.0, "{wait}");
    let list = app.get(&bot, &global).await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 5);
    // A guild's count by themselves.
    let made = app.post(&bot, &in_guild, command("d0".to_owned())).await;
    made.expect(201);
}
