use guildhall_shared::{
    Id, Permissions, envelope::Visibility, gateway::Intents, id::marker::Guild,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, hall},
    log,
    sessions::change_meanwhile,
};

fn id<T>(value: &Value) -> Id<T> {
    value.as_str().unwrap().parse().unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_guild_has_what_a_guild_needs(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let guild = app
        .post(&alice, "/guilds", json!({ "name": " Hall " }))
        .await
        .expect(201);
    conforms("update_guild", 200, &guild);
    assert_eq!(guild["name"], "Hall");
    assert_eq!(guild["owner_id"], alice.id.to_string());
    assert_eq!(guild["roles"][0]["id"], guild["id"]);
    assert_eq!(guild["roles"][0]["name"], "@everyone");
    let guild_id: Id<Guild> = id(&guild["id"]);

    let path = format!("/guilds/{guild_id}");
    let read = app
        .get(&alice, &format!("{path}?with_counts=true"))
        .await
        .expect(200);
    conforms("get_guild", 200, &read);
    assert_eq!(read["approximate_member_count"], 1);
    let read = app.get(&alice, &path).await.expect(200);
    assert_eq!(read, guild);

    let channels = app
        .get(&alice, &format!("{path}/channels"))
        .await
        .expect(200);
    conforms("list_guild_channels", 200, &channels);
    let mut names: Vec<(i64, &str)> = channels
        .as_array()
        .unwrap()
        .iter()
        .map(|channel| {
            (
                channel["type"].as_i64().unwrap(),
                channel["name"].as_str().unwrap(),
            )
        })
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            (0, "general"),
            (2, "General"),
            (4, "Text Channels"),
            (4, "Voice Channels")
        ]
    );

    // The guild's own realm starts empty; the owner's sessions learn of it in theirs.
    assert!(app.events(guild_id).await.is_empty());
    let joined = ("user joined guild", json!({ "guild_id": guild_id }));
    assert_eq!(app.events(alice.id).await, [joined]);
    let (_, vis) = log::newest(&app, alice.id).await;
    assert_eq!(vis, Visibility::users(vec![alice.id]));
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_are_made_by_people_with_a_name_for_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "helper").await;
    app.post(&bot, "/guilds", json!({ "name": "Hall" }))
        .await
        .expect_error(403, 20001);
    for (body, at, code) in [
        (json!({}), "name", "BASE_TYPE_REQUIRED"),
        (json!({ "name": "x" }), "name", "BASE_TYPE_BAD_LENGTH"),
        (json!({ "name": 5 }), "name", "STRING_TYPE_CONVERT"),
        (
            json!({ "name": "Hall", "verification_level": 9 }),
            "verification_level",
            "ENUM_TYPE_COERCE",
        ),
        (
            json!({ "name": "Hall", "icon": "data:image/png;base64,AA" }),
            "icon",
            "IMAGE_INVALID",
        ),
    ] {
        app.post(&alice, "/guilds", body)
            .await
            .expect_fault(at, code);
    }
    app.post_anonymously("/guilds", json!({ "name": "Hall" }))
        .await
        .expect_error(401, 0);
    assert!(app.events(alice.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn what_too_many_channels_name_is_not_looked_for(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let with = |count: usize| {
        let channel = json!({ "name": "hall", "parent_id": 7 });
        json!({ "name": "Hall", "channels": vec![channel; count] })
    };
    app.post(&alice, "/guilds", with(500))
        .await
        .expect_fault("channels.499.parent_id", "CHANNEL_INVALID");
    let refused = app.post(&alice, "/guilds", with(501)).await;
    let refused = refused.expect_fault("channels", "BASE_TYPE_MAX_LENGTH");
    assert!(refused["errors"]["channels"].get("499").is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_is_in_more_than_100_guilds(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    for n in 0..100 {
        let guild = app.guild(&bob, &format!("Guild {n}")).await;
        app.join(&alice, guild).await;
    }
    app.post(&alice, "/guilds", json!({ "name": "Hall" }))
        .await
        .expect_error(400, 30001);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_is_its_members_only(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let eve = app.user("eve").await;
    let hall = app.guild(&alice, "Hall").await;
    let path = format!("/guilds/{}", hall.id);
    for path in [
        path.clone(),
        format!("{path}/channels"),
        format!("{path}/roles"),
        format!("{path}/members/{}", alice.id),
        format!("{path}/invites"),
    ] {
        app.get(&eve, &path).await.expect_error(403, 50001);
    }
    app.patch(&eve, &path, json!({ "name": "Mine" }))
        .await
        .expect_error(403, 50001);
    app.delete(&eve, &path).await.expect_error(403, 50001);
    app.get(&eve, "/guilds/77").await.expect_error(404, 10004);
    app.get(&eve, "/guilds/x")
        .await
        .expect_fault("guild_id", "NUMBER_TYPE_COERCE");
}

#[sqlx::test(migrations = "../migrations")]
async fn changes_are_told_to_all_members(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}", hall.id);
    let body = json!({ "name": "New Hall", "description": "Ours", "verification_level": 1, "system_channel_id": null });
    app.patch(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    app.grant(&bob, hall, Permissions::MANAGE_GUILD).await;
    let changed = app.patch(&bob, &path, body).await.expect(200);
    conforms("update_guild", 200, &changed);
    assert_eq!(changed["description"], "Ours");
    assert_eq!(changed["system_channel_id"], Value::Null);
    assert_eq!(app.get(&alice, &path).await.expect(200), changed);
    assert_eq!(app.events(hall.id).await, [("GUILD_UPDATE", changed)]);
    let (_, vis) = log::newest(&app, hall.id).await;
    assert_eq!(vis, Visibility::realm(Intents::GUILDS));

    for (body, at, code) in [
        (json!({ "name": "" }), "name", "BASE_TYPE_REQUIRED"),
        (
            json!({ "afk_timeout": 61 }),
            "afk_timeout",
            "BASE_TYPE_CHOICES",
        ),
        (
            json!({ "system_channel_id": "5" }),
            "system_channel_id",
            "CHANNEL_INVALID",
        ),
    ] {
        app.patch(&alice, &path, body).await.expect_fault(at, code);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn only_the_owner_gives_a_guild_away(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&alice, "helper").await;
    let hall = app.guild(&alice, "Hall").await;
    app.join(&bob, hall).await;
    app.join(&bot, hall).await;
    app.grant(&bob, hall, Permissions::ADMINISTRATOR).await;
    let path = format!("/guilds/{}", hall.id);
    app.patch(&bob, &path, json!({ "owner_id": bob.id }))
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &path, json!({ "owner_id": bot.id }))
        .await
        .expect_error(400, 50132);
    app.patch(&alice, &path, json!({ "owner_id": "5" }))
        .await
        .expect_error(404, 10007);
    let given = app
        .patch(&alice, &path, json!({ "owner_id": bob.id }))
        .await
        .expect(200);
    assert_eq!(given["owner_id"], bob.id.to_string());
    app.patch(&alice, &path, json!({ "owner_id": alice.id }))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_owner_ends_a_guild(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    app.grant(&bob, hall, Permissions::ADMINISTRATOR).await;
    let path = format!("/guilds/{}", hall.id);
    app.delete(&bob, &path).await.expect_error(403, 50013);
    app.delete(&alice, &path).await.expect(204);
    app.get(&alice, &path).await.expect_error(404, 10004);
    app.get(&alice, &format!("/channels/{}", hall.general))
        .await
        .expect_error(404, 10003);
    assert_eq!(
        app.events(hall.id).await,
        [("GUILD_DELETE", json!({ "id": hall.id }))]
    );
    assert!(app.events(bob.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_that_are_deleted_leave_room_for_others(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    // Members stay until they are collected.
    sqlx::query(
        "insert into member (guild_id, user_id) select n, $1 from generate_series(1000, 1099) n",
    )
    .bind(alice.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    app.post(&alice, "/guilds", json!({ "name": "Hall" }))
        .await
        .expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_deleted_meanwhile_owns_no_guild(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let deleted = "update account set state = 3 where username = 'bob'";
    let held = app.hold(bob.id).await;
    let path = format!("/guilds/{}", hall.id);
    let given = app.patch(&alice, &path, json!({ "owner_id": bob.id }));
    let (reply, ()) = tokio::join!(given, change_meanwhile(&app, held, deleted));
    reply.expect_error(404, 10013);

    let deleted = "update account set state = 3 where username = 'alice'";
    let held = app.hold(alice.id).await;
    let made = app.post(&alice, "/guilds", json!({ "name": "Yard" }));
    let (reply, ()) = tokio::join!(made, change_meanwhile(&app, held, deleted));
    reply.expect_error(404, 10013);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_pending_is_given_no_guild(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    sqlx::query("update member set pending = true where user_id = $1")
        .bind(bob.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    let path = format!("/guilds/{}", hall.id);
    app.patch(&alice, &path, json!({ "owner_id": bob.id }))
        .await
        .expect_error(400, 50131);
}
