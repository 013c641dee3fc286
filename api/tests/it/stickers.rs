//! Stickers of guilds.

use guildhall_shared::Permissions;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{Reply, TestApp, TestUser},
    media::{gif, png},
};

async fn create(app: &TestApp, user: &TestUser, path: &str, form: Form) -> Reply {
    let request = app.request(Method::POST, path).multipart(form);
    app.send(request.header("authorization", &user.authorization))
        .await
}

fn form(bytes: Vec<u8>) -> Form {
    Form::new()
        .text("name", "wave")
        .text("tags", "wave")
        .text("description", "")
        .part("file", Part::bytes(bytes).file_name("a.png"))
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guilds_stickers_are_made_shown_changed_and_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let guild = app.guild(&alice, "Hall").await;
    let path = format!("/guilds/{}/stickers", guild.id);
    let lottie = br#"{"v":"5.5.2","fr":60,"ip":0,"op":1,"w":1,"h":1,"layers":[]}"#;
    let mut made = Vec::new();
    for (bytes, format, extension, content_type) in [
        (png(320, 320), 1, "png", "image/png"),
        (gif(), 4, "gif", "image/gif"),
        (lottie.to_vec(), 3, "json", "application/json"),
    ] {
        let sticker = create(&app, &alice, &path, form(bytes.clone()))
            .await
            .expect(201);
        conforms("create_guild_sticker", 201, &sticker);
        assert_eq!(
            (&sticker["format_type"], &sticker["type"]),
            (&json!(format), &json!(2))
        );
        assert_eq!(sticker["description"], Value::Null);
        let id = sticker["id"].as_str().unwrap();
        let response = app.fetch(&format!("/stickers/{id}.{extension}")).await;
        assert_eq!(response.headers()["content-type"], content_type);
        assert_eq!(response.bytes().await.unwrap(), bytes);
        assert_eq!(
            app.fetch(&format!("/stickers/{id}.jpg")).await.status(),
            415
        );
        made.push(sticker);
    }
    let listed = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_stickers", 200, &listed);
    assert_eq!(listed, json!(made));
    let id = made[0]["id"].as_str().unwrap();
    let one = format!("{path}/{id}");
    conforms(
        "get_guild_sticker",
        200,
        &app.get(&alice, &one).await.expect(200),
    );
    let stranger = app.user("stranger").await;
    let seen = app
        .get(&stranger, &format!("/stickers/{id}"))
        .await
        .expect(200);
    conforms("get_sticker", 200, &seen);
    assert_eq!(seen["user"], Value::Null);

    let body = json!({ "name": "bye", "tags": "hand", "description": "waves back" });
    let changed = app.patch(&alice, &one, body).await.expect(200);
    conforms("update_guild_sticker", 200, &changed);
    assert_eq!(
        (&changed["name"], &changed["description"]),
        (&json!("bye"), &json!("waves back"))
    );
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 10060);
    app.get(&alice, &format!("/stickers/{id}"))
        .await
        .expect_error(404, 10060);
    let names = app.event_names(guild.id).await;
    let updates = names
        .iter()
        .filter(|name| **name == "GUILD_STICKERS_UPDATE");
    assert_eq!(updates.count(), 5);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((2, 0), 2));
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_stickers_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let guild = app.guild(&alice, "Hall").await;
    let path = format!("/guilds/{}/stickers", guild.id);
    let mut bomb = png(1, 1);
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    for bad in [Vec::new(), b"<html>".to_vec(), bomb, b"{\"v\":1}".to_vec()] {
        let reply = create(&app, &alice, &path, form(bad)).await;
        reply.expect_error(400, 50046);
    }
    let reply = create(&app, &alice, &path, form(png(321, 1))).await;
    reply.expect_fault("file", "STICKER_DIMENSIONS_INVALID");
    let reply = create(&app, &alice, &path, form(vec![0; (512 << 10) + 1])).await;
    reply.expect_fault("file", "BINARY_TYPE_MAX_SIZE");
    let reply = create(&app, &alice, &path, Form::new().text("name", "x")).await;
    let body = reply.expect_fault("name", "BASE_TYPE_BAD_LENGTH");
    for field in ["tags", "file"] {
        crate::harness::assert_fault(&body, field, "BASE_TYPE_REQUIRED");
    }
    let reply = app.post(&alice, &path, json!({ "name": "json" })).await;
    reply.expect_fault("", "CONTENT_TYPE_INVALID");

    let bob = app.user("bob").await;
    app.join(&bob, guild).await;
    let everyone = Permissions::VIEW_CHANNEL.bits() as i64;
    sqlx::query("update role set permissions = $2 where role_id = $1")
        .bind(guild.id.to_db())
        .bind(everyone)
        .execute(&app.db)
        .await
        .unwrap();
    let reply = create(&app, &bob, &path, form(png(9, 9))).await;
    reply.expect_error(403, 50013);
    for _ in 0..5 {
        create(&app, &alice, &path, form(png(9, 9)))
            .await
            .expect(201);
    }
    let reply = create(&app, &alice, &path, form(png(9, 9))).await;
    reply.expect_error(400, 30039);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((5, 0), 5));
}

#[sqlx::test(migrations = "../migrations")]
async fn there_are_no_packs(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let packs = app
        .send(app.request(Method::GET, "/sticker-packs"))
        .await
        .expect(200);
    conforms("list_sticker_packs", 200, &packs);
    app.get(&alice, "/sticker-packs/123456789")
        .await
        .expect_error(404, 10061);
}
