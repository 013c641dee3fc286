//! What a user asks: commands, components, and what is refused of them.

use guildhall_shared::{Permissions, envelope::Visibility};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{NOTHING, World, button, text};
use crate::{conformance::libraries_read, log};

#[sqlx::test(migrations = "../migrations")]
async fn the_bot_is_told_all_and_the_user_what_they_wait_for(db: PgPool) {
    let world = World::new(db).await;
    let interaction = world.call().await;
    libraries_read("INTERACTION_CREATE", &interaction);
    let (name, vis) = log::newest(&world.app, world.guild.id).await;
    assert_eq!(name, "INTERACTION_CREATE");
    assert_eq!(vis, Visibility::users(vec![world.bot.id]));
    let (name, vis) = log::newest(&world.app, world.alice.id).await;
    assert_eq!(name, "INTERACTION_CREATE");
    assert_eq!(vis, Visibility::users(vec![world.alice.id]));
    let told = world.newest_user_event().await.1;
    assert_eq!(told, json!({ "id": interaction["id"], "nonce": "7" }));
    let mut odd = world.ping();
    odd["nonce"] = json!("\u{0}8");
    let second = world.act(odd).await;
    let told = world.newest_user_event().await.1;
    assert_eq!(told, json!({ "id": second["id"], "nonce": "8" }));

    assert_eq!(interaction["type"], 2);
    assert_eq!(interaction["version"], 1);
    assert_eq!(interaction["application_id"], json!(world.bot.id));
    assert_eq!(interaction["context"], 0);
    assert_eq!(interaction["entitlements"], json!([]));
    assert!(interaction["attachment_size_limit"].as_u64().unwrap() > 0);
    let owners = json!({ "0": world.guild.id });
    assert_eq!(interaction["authorizing_integration_owners"], owners);
    assert_eq!(interaction["guild"]["id"], json!(world.guild.id));
    assert!(interaction["guild"]["features"].is_array());
    assert_eq!(interaction["channel"]["id"], json!(world.guild.general));
    assert!(interaction["channel"]["permissions"].is_string());
    assert_eq!(
        interaction["data"]["options"][0]["value"],
        json!(world.alice.id)
    );
    let resolved = &interaction["data"]["resolved"];
    let alice = world.alice.id.to_string();
    assert_eq!(resolved["users"][&alice]["username"], "alice");
    let member = &resolved["members"][&alice];
    assert!(member["joined_at"].is_string() && member["permissions"].is_string());
    assert!(member.get("user").is_none() && member.get("mute").is_none());
    assert_eq!(interaction["member"]["user"]["id"], json!(world.alice.id));
    assert!(interaction["member"]["permissions"].is_string());
    for key in ["app_permissions", "locale", "guild_locale", "token"] {
        assert!(interaction[key].is_string(), "{key}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_does_not_fit_the_command_is_named(db: PgPool) {
    let world = World::new(db).await;
    let options = |value: Value| world.body(2, world.data(value));
    let who = json!({ "type": 6, "name": "who", "value": world.alice.id });
    for (given, path, code) in [
        (json!([]), "data.options", "BASE_TYPE_REQUIRED"),
        (
            json!([who, { "type": 4, "name": "count", "value": 9 }]),
            "data.options.1.value",
            "NUMBER_TYPE_MAX",
        ),
        (
            json!([who, { "type": 4, "name": "count", "value": 1.5 }]),
            "data.options.1.value",
            "NUMBER_TYPE_COERCE",
        ),
        (
            json!([who, { "type": 4, "name": "other", "value": 9 }]),
            "data.options.1.name",
            "ENUM_TYPE_COERCE",
        ),
        (
            json!([who, { "type": 3, "name": "count", "value": 1 }]),
            "data.options.1.type",
            "ENUM_TYPE_COERCE",
        ),
        (
            json!([{ "type": 6, "name": "who", "value": NOTHING }]),
            "data.options.0.value",
            "INTERACTION_TARGET_UNKNOWN",
        ),
        (
            json!([who, { "type": 11, "name": "file", "value": "0" }]),
            "data.options.1.value",
            "ATTACHMENT_NOT_FOUND",
        ),
    ] {
        world.post(options(given)).await.expect_fault(path, code);
    }
    let faults = world.post(json!({})).await;
    let faults = faults.expect_fault("type", "BASE_TYPE_REQUIRED");
    for path in ["application_id", "channel_id", "data"] {
        crate::harness::assert_fault(&faults, path, "BASE_TYPE_REQUIRED");
    }
    let mut elsewhere = world.ping();
    elsewhere["guild_id"] = json!(NOTHING);
    world.post(elsewhere).await.expect_error(404, 10003);
    let mut menu = world.ping();
    menu["data"]["type"] = json!(2);
    world
        .post(menu)
        .await
        .expect_fault("data.type", "ENUM_TYPE_COERCE");
    let old = json!({ "id": world.command["id"], "version": NOTHING, "options": [who] });
    world
        .post(world.body(2, old))
        .await
        .expect_fault("data", "INTERACTION_APPLICATION_COMMAND_INVALID_VERSION");
}

#[sqlx::test(migrations = "../migrations")]
async fn choices_lengths_and_subcommands_are_checked(db: PgPool) {
    let world = World::new(db).await;
    let options = json!([
        { "type": 3, "name": "color", "description": "x", "required": true,
          "choices": [{ "name": "Red", "value": "red" }] },
        { "type": 3, "name": "text", "description": "x", "min_length": 2, "max_length": 3 },
        { "type": 7, "name": "where", "description": "x", "channel_types": [2] },
        { "type": 9, "name": "whom", "description": "x" },
        { "type": 5, "name": "sure", "description": "x" },
        { "type": 10, "name": "ratio", "description": "x", "min_value": 0.5 },
    ]);
    let command = world
        .command(json!({ "name": "paint", "description": "x", "options": [
            { "type": 1, "name": "wall", "description": "x", "options": options }] }))
        .await;
    let call = |inner: Value| {
        world.body(
            2,
            json!({ "id": command["id"], "options": [
                { "type": 1, "name": "wall", "options": inner }] }),
        )
    };
    let color = json!({ "type": 3, "name": "color", "value": "red" });
    for (given, code) in [
        (
            json!({ "type": 3, "name": "text", "value": "x" }),
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "type": 7, "name": "where", "value": world.guild.general }),
            "INTERACTION_TARGET_UNKNOWN",
        ),
        (
            json!({ "type": 5, "name": "sure", "value": "x" }),
            "BOOLEAN_TYPE_CONVERT",
        ),
        (
            json!({ "type": 10, "name": "ratio", "value": 0.1 }),
            "NUMBER_TYPE_MIN",
        ),
        (
            json!({ "type": 9, "name": "whom", "value": "x" }),
            "NUMBER_TYPE_COERCE",
        ),
    ] {
        let path = "data.options.0.options.1.value";
        world
            .post(call(json!([color, given])))
            .await
            .expect_fault(path, code);
    }
    let blue = json!([{ "type": 3, "name": "color", "value": "blue" }]);
    let path = "data.options.0.options.0.value";
    world
        .post(call(blue))
        .await
        .expect_fault(path, "ENUM_TYPE_COERCE");
    let path = "data.options";
    let none = world.body(2, json!({ "id": command["id"], "options": [] }));
    world
        .post(none)
        .await
        .expect_fault(path, "BASE_TYPE_REQUIRED");

    let role = world
        .app
        .grant(&world.bot, world.guild, Permissions::empty())
        .await;
    let whom = json!({ "type": 9, "name": "whom", "value": role });
    let sent = world.act(call(json!([color, whom]))).await;
    let inner = &sent["data"]["options"][0];
    assert_eq!(
        (&inner["name"], &inner["type"]),
        (&json!("wall"), &json!(1))
    );
    let roles = &sent["data"]["resolved"]["roles"];
    assert_eq!(roles[role.to_string()]["name"], "granted");
    let body = json!({ "type": 4, "data": { "content": "done" } });
    let result = world.answer(&sent, body).await.expect(200);
    assert_eq!(
        result["resource"]["message"]["interaction"]["name"],
        "paint wall"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_call_is_refused(db: PgPool) {
    let world = World::new(db).await;
    let app = &world.app;
    let good = world.ping();
    app.post_anonymously("/interactions", good.clone())
        .await
        .expect_error(401, 0);
    app.post(&world.bot, "/interactions", good.clone())
        .await
        .expect_error(403, 20001);
    let mallory = app.user("mallory").await;
    app.post(&mallory, "/interactions", good.clone())
        .await
        .expect_error(403, 50001);
    let mut unknown = good.clone();
    unknown["data"]["id"] = json!(NOTHING);
    world.post(unknown).await.expect_error(404, 10063);
    let mut unknown = good.clone();
    unknown["channel_id"] = json!(NOTHING);
    world.post(unknown).await.expect_error(404, 10003);
    let mut unknown = good.clone();
    unknown["application_id"] = json!(NOTHING);
    world.post(unknown).await.expect_error(404, 10002);

    app.join(&mallory, world.guild).await;
    app.post(&mallory, "/interactions", good.clone())
        .await
        .expect(204);
    let path = format!(
        "/applications/{}/commands/{}",
        world.bot.id,
        text(&world.command["id"])
    );
    let admins = json!({ "default_member_permissions": "8" });
    app.patch(&world.bot, &path, admins).await.expect(200);
    app.post(&mallory, "/interactions", good.clone())
        .await
        .expect_error(403, 50013);
    // In direct messages only.
    let for_dms = json!({ "default_member_permissions": null, "contexts": [1] });
    app.patch(&world.bot, &path, for_dms).await.expect(200);
    world.post(good.clone()).await.expect_error(403, 50013);
    let everywhere = json!({ "contexts": null });
    app.patch(&world.bot, &path, everywhere).await.expect(200);
    world.post(good.clone()).await.expect(204);
    // Only for who installed the application for themselves.
    let for_users = json!({ "integration_types": [1] });
    app.patch(&world.bot, &path, for_users).await.expect(200);
    world.post(good.clone()).await.expect_error(403, 50013);
    let for_guilds = json!({ "integration_types": [0] });
    app.patch(&world.bot, &path, for_guilds).await.expect(200);
    // Where nothing is said.
    let category = json!({ "name": "all", "type": 4 });
    let channels = format!("/guilds/{}/channels", world.guild.id);
    let category = app
        .post(&world.alice, &channels, category)
        .await
        .expect(201);
    let mut silent = good.clone();
    silent["channel_id"] = category["id"].clone();
    world.post(silent).await.expect_error(400, 50008);
    // Where neither the bot is nor its commands are.
    for gone in [
        "delete from member where user_id = $1",
        "delete from integration where application_id = $1",
    ] {
        let bot = world.bot.id.to_db();
        sqlx::query(gone).bind(bot).execute(&app.db).await.unwrap();
    }
    world.post(good).await.expect_error(404, 10002);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_command_is_called_in_a_dm_with_the_bot(db: PgPool) {
    let world = World::new(db).await;
    let app = &world.app;
    let dm = json!({ "recipient_id": world.bot.id });
    let dm = app
        .post(&world.alice, "/users/@me/channels", dm)
        .await
        .expect(200);
    let mut body = world.ping();
    body["channel_id"] = dm["id"].clone();
    body["guild_id"] = Value::Null;
    world.post(body.clone()).await.expect(204);
    let interaction = world.newest_interaction(world.bot.id).await;
    assert_eq!(interaction["user"]["id"], json!(world.alice.id));
    assert_eq!(interaction["context"], 1);
    assert_eq!(
        interaction["authorizing_integration_owners"],
        json!({ "0": "0" })
    );
    for key in ["guild_id", "member", "guild", "guild_locale"] {
        assert!(interaction.get(key).is_none(), "{key}");
    }
    let answer = json!({ "type": 4, "data": { "content": "pong" } });
    world.answer(&interaction, answer).await.expect(200);
    for user in [world.alice.id, world.bot.id] {
        assert!(app.event_names(user).await.contains(&"MESSAGE_CREATE"));
    }
    let path = format!("/channels/{}/messages", text(&dm["id"]));
    assert_eq!(
        app.get(&world.alice, &path).await.expect(200)[0]["content"],
        "pong"
    );

    let open = json!({ "name": "open", "description": "x", "options": [
        { "type": 7, "name": "place", "description": "x" },
    ] });
    let open = world.command(open).await;
    let mut opening = body.clone();
    opening["data"] = json!({ "id": open["id"], "name": "open", "type": 1, "options": [
        { "type": 7, "name": "place", "value": dm["id"] },
    ] });
    world.post(opening).await.expect(204);
    let interaction = world.newest_interaction(world.bot.id).await;
    let chosen = &interaction["data"]["resolved"]["channels"][text(&dm["id"])];
    assert_eq!(chosen["name"], "", "libraries read no channel without one");

    let path = format!(
        "/applications/{}/commands/{}",
        world.bot.id,
        text(&world.command["id"])
    );
    let guilds = json!({ "contexts": [0] });
    app.patch(&world.bot, &path, guilds).await.expect(200);
    world.post(body.clone()).await.expect_error(403, 50013);
    let other = app.user("mallory").await;
    app.post(&other, "/interactions", body)
        .await
        .expect_error(404, 10003);
}

#[sqlx::test(migrations = "../migrations")]
async fn menus_are_about_a_user_or_a_message(db: PgPool) {
    let world = World::new(db).await;
    let about_user = world.command(json!({ "name": "Wave", "type": 2 })).await;
    let about_message = world.command(json!({ "name": "Quote", "type": 3 })).await;
    let path = format!("/channels/{}/messages", world.guild.general);
    let said = json!({ "content": "hear" });
    let said = world.app.post(&world.alice, &path, said).await.expect(200);

    let wave = json!({ "id": about_user["id"], "type": 2, "target_id": world.alice.id });
    let sent = world.act(world.body(2, wave)).await;
    assert_eq!(sent["data"]["target_id"], json!(world.alice.id));
    let alice = world.alice.id.to_string();
    assert_eq!(
        sent["data"]["resolved"]["users"][&alice]["username"],
        "alice"
    );
    let answer = json!({ "type": 4, "data": { "content": "hi" } });
    let result = world.answer(&sent, answer.clone()).await.expect(200);
    let message = &result["resource"]["message"];
    assert_eq!(message["type"], 23);
    let metadata = &message["interaction_metadata"];
    assert_eq!(metadata["target_user"]["id"], json!(world.alice.id));

    let quote = json!({ "id": about_message["id"], "type": 3, "target_id": said["id"] });
    let sent = world.act(world.body(2, quote)).await;
    let resolved = &sent["data"]["resolved"]["messages"];
    assert_eq!(resolved[text(&said["id"])]["content"], "hear");
    let result = world.answer(&sent, answer).await.expect(200);
    let metadata = &result["resource"]["message"]["interaction_metadata"];
    assert_eq!(metadata["target_message_id"], said["id"]);

    for (command, target, code) in [
        (&about_message, json!(NOTHING), "INTERACTION_TARGET_UNKNOWN"),
        (&about_user, json!(NOTHING), "INTERACTION_TARGET_UNKNOWN"),
        (&about_user, Value::Null, "BASE_TYPE_REQUIRED"),
    ] {
        let data = json!({ "id": command["id"], "target_id": target });
        world
            .post(world.body(2, data))
            .await
            .expect_fault("data.target_id", code);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn selects_take_what_they_offer(db: PgPool) {
    let world = World::new(db).await;
    let row = |select: Value| json!({ "type": 1, "components": [select] });
    let message = world
        .panel(json!([
            button("go"),
            row(json!({ "type": 3, "custom_id": "s", "max_values": 2, "options": [
                { "label": "A", "value": "a" }, { "label": "B", "value": "b" }] })),
            row(json!({ "type": 5, "custom_id": "u" })),
            row(json!({ "type": 8, "custom_id": "c", "channel_types": [2] })),
            { "type": 1, "components": [{ "type": 2, "style": 1, "label": "x",
                "custom_id": "off", "disabled": true }] },
        ]))
        .await;
    let choose = |kind: u8, id: &str, values: Value| {
        let data = json!({ "component_type": kind, "custom_id": id, "values": values });
        world.press(&message, data)
    };
    let sent = world.act(choose(3, "s", json!(["b", "a"]))).await;
    assert_eq!(sent["type"], 3);
    assert_eq!(sent["data"]["values"], json!(["b", "a"]));
    assert_eq!(sent["message"]["id"], message);
    let sent = world.act(choose(5, "u", json!([world.alice.id]))).await;
    let alice = world.alice.id.to_string();
    assert_eq!(
        sent["data"]["resolved"]["users"][&alice]["username"],
        "alice"
    );

    let values = "data.values";
    let first = "data.values.0";
    let gone = "COMPONENT_VALIDATION_FAILED";
    for (body, path, code) in [
        (choose(3, "s", json!([])), values, "BASE_TYPE_BAD_LENGTH"),
        (choose(3, "s", json!(["c"])), first, "ENUM_TYPE_COERCE"),
        (
            choose(3, "s", json!(["a", "a"])),
            "data.values.1",
            "SET_TYPE_ALREADY_CONTAINS_VALUE",
        ),
        (choose(5, "u", json!(["x"])), first, "NUMBER_TYPE_COERCE"),
        (
            choose(5, "u", json!([NOTHING])),
            first,
            "INTERACTION_TARGET_UNKNOWN",
        ),
        (
            choose(8, "c", json!([world.guild.general])),
            first,
            "INTERACTION_TARGET_UNKNOWN",
        ),
        (choose(2, "off", json!([])), "data.custom_id", gone),
        (choose(2, "nothing", json!([])), "data.custom_id", gone),
        (choose(2, "s", json!(["a"])), "data.custom_id", gone),
    ] {
        world.post(body).await.expect_fault(path, code);
    }
    let elsewhere = world.press(
        &json!(NOTHING),
        json!({ "component_type": 2, "custom_id": "go" }),
    );
    world.post(elsewhere).await.expect_error(404, 10008);
    let mallory = world.app.user("mallory").await;
    let go = choose(2, "go", json!([]));
    world
        .app
        .post(&mallory, "/interactions", go)
        .await
        .expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_file_comes_with_a_command(db: PgPool) {
    let world = World::new(db).await;
    let options = json!([
        { "type": 6, "name": "who", "value": world.alice.id },
        { "type": 11, "name": "file", "value": "0" },
    ]);
    let mut data = world.data(options);
    data["attachments"] = json!([{ "id": "0", "filename": "notes.txt" }]);
    let form = Form::new()
        .text("payload_json", world.body(2, data).to_string())
        .part("files[0]", Part::text("hello").file_name("notes.txt"));
    world
        .app
        .upload(&world.alice, Method::POST, "/interactions", form)
        .await
        .expect(204);
    let sent = world.newest_interaction(world.guild.id).await;
    let id = &sent["data"]["options"][1]["value"];
    let file = &sent["data"]["resolved"]["attachments"][text(id)];
    assert_eq!(
        (&file["filename"], &file["size"]),
        (&json!("notes.txt"), &json!(5))
    );
    assert_eq!(file["ephemeral"], true);
    let uses = "select uses from media_file where path = $1";
    let path = format!("attachments/{}", text(id));
    let of_file = async || -> Option<i32> {
        let found = sqlx::query_scalar(uses).bind(&path);
        found.fetch_optional(&world.app.db).await.unwrap()
    };
    assert_eq!(of_file().await, Some(1));
    sqlx::query("delete from interaction")
        .execute(&world.app.db)
        .await
        .unwrap();
    assert_eq!(of_file().await.unwrap_or_default(), 0);
}
