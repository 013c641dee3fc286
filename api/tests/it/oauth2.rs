//! Adding bots to guilds.

use guildhall_shared::Permissions;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::TestApp;

#[sqlx::test(migrations = "../migrations")]
async fn a_bot_is_added_with_a_role_of_its_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let preview = app.get(&alice, &path).await.expect(200);
    assert_eq!(preview["application"]["id"], json!(bot.id));
    assert_eq!(preview["guilds"][0]["id"], json!(guild.id));

    let body = json!({ "authorize": true, "guild_id": guild.id, "permissions": "3072" });
    let reply = app.post(&alice, &path, body.clone()).await.expect(200);
    assert!(reply["location"].is_string());

    let events = app.events(guild.id).await;
    let names: Vec<&str> = events.iter().map(|event| event.0).collect();
    assert_eq!(
        names,
        [
            "GUILD_ROLE_CREATE",
            "GUILD_MEMBER_ADD",
            "INTEGRATION_CREATE",
            "GUILD_INTEGRATIONS_UPDATE",
            "MESSAGE_CREATE"
        ]
    );
    let role = &events[0].1["role"];
    assert_eq!(
        (&role["name"], &role["managed"]),
        (&json!("Ping"), &json!(true))
    );
    assert_eq!(
        (&role["permissions"], &role["tags"]["bot_id"]),
        (&json!("3072"), &json!(bot.id))
    );
    assert_eq!(events[1].1["roles"], json!([role["id"]]));
    assert_eq!(events[1].1["user"]["id"], json!(bot.id));
    assert_eq!(events[4].1["type"], 7);
    assert_eq!(events[4].1["channel_id"], json!(guild.general));
    assert_eq!(
        app.events(bot.id).await,
        [("user joined guild", json!({ "guild_id": guild.id }))]
    );
    let guilds = app.get(&bot, "/users/@me/guilds").await.expect(200);
    assert_eq!(guilds[0]["id"], json!(guild.id));

    // Once more changes nothing.
    app.post(&alice, &path, body).await.expect(200);
    assert_eq!(app.events(guild.id).await.len(), 5);

    // The role goes when the bot does.
    app.delete(&bot, &format!("/users/@me/guilds/{}", guild.id))
        .await
        .expect(204);
    let names = app.event_names(guild.id).await;
    assert_eq!(
        names[5..],
        [
            "GUILD_MEMBER_REMOVE",
            "GUILD_ROLE_DELETE",
            "INTEGRATION_DELETE",
            "GUILD_INTEGRATIONS_UPDATE"
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_gives_a_bot_more_than_they_have(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&bob, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    app.join(&bob, guild).await;
    let path = format!(
        "/oauth2/authorize?client_id={}&scope=bot&permissions=8",
        bot.id
    );
    let body = json!({ "authorize": true, "guild_id": guild.id });
    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    app.grant(&bob, guild, Permissions::MANAGE_GUILD).await;
    app.post(&bob, &path, body).await.expect(200);
    let names = app.event_names(guild.id).await;
    assert!(!names.contains(&"GUILD_ROLE_CREATE"), "{names:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_authorized_is_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "home").await;
    let path = format!("/oauth2/authorize?client_id={}&scope=bot", bot.id);
    let body = json!({ "authorize": true, "guild_id": guild.id });

    app.post(&bob, &path, body.clone())
        .await
        .expect_error(403, 50001);
    app.post(&bot, &path, body.clone())
        .await
        .expect_error(403, 20001);
    app.post(&alice, &path, json!({}))
        .await
        .expect_fault("guild_id", "BASE_TYPE_REQUIRED");
    app.post(&alice, "/oauth2/authorize", body.clone())
        .await
        .expect_fault("client_id", "BASE_TYPE_REQUIRED");
    app.post(&alice, "/oauth2/authorize?client_id=7", body.clone())
        .await
        .expect_error(404, 10002);
    let other_scope = format!("/oauth2/authorize?client_id={}&scope=identify", bot.id);
    app.post(&alice, &other_scope, body.clone())
        .await
        .expect_fault("scope", "BASE_TYPE_CHOICES");

    let hidden = format!("/applications/{}", bot.id);
    app.patch(&alice, &hidden, json!({ "bot_public": false }))
        .await
        .expect(200);
    app.get(&bob, &path).await.expect_error(403, 20012);

    sqlx::query("insert into ban (guild_id, user_id) values ($1, $2)")
        .bind(guild.id.to_db())
        .bind(bot.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&alice, &path, body).await.expect_error(403, 40007);
    assert!(app.events(guild.id).await.is_empty());
}
