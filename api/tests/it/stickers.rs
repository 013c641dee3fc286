//! Stickers of guilds and of packs.

use clap::Parser;
use guildhall_api::sticker_packs;
use guildhall_shared::Permissions;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{Reply, TestApp, TestUser, alone},
    media::{gif, png},
};

async fn create(app: &TestApp, user: &TestUser, path: &str, form: Form) -> Reply {
    app.upload(user, Method::POST, path, form).await
}

/// Two frames that are shown so long each.
fn apng(frame_ms: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 8, 8);
    encoder.set_color(::png::ColorType::Rgba);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.set_animated(2, 0).unwrap();
    encoder.set_frame_delay(frame_ms, 1000).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for shade in [10, 200] {
        writer.write_image_data(&[shade; 8 * 8 * 4]).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

/// As [`apng`].
fn slow_gif(frame_ms: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for shade in [10, 200] {
        let picture = image::RgbaImage::from_pixel(8, 8, image::Rgba([shade, 0, 0, 255]));
        let delay = image::Delay::from_numer_denom_ms(frame_ms, 1);
        let frame = image::Frame::from_parts(picture, 0, 0, delay);
        encoder.encode_frame(frame).unwrap();
    }
    drop(encoder);
    bytes
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
    let (alice, guild) = alone(&app).await;
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
    let (alice, guild) = alone(&app).await;
    let path = format!("/guilds/{}/stickers", guild.id);
    let mut bomb = png(1, 1);
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    // How long it plays is not told.
    let endless = br#"{"v":"5.5.2","fr":60,"layers":[]}"#.to_vec();
    let page = b"<html>".to_vec();
    for bad in [Vec::new(), page, bomb, b"{\"v\":1}".to_vec(), endless] {
        let reply = create(&app, &alice, &path, form(bad)).await;
        reply.expect_error(400, 50046);
    }
    let reply = create(&app, &alice, &path, form(png(321, 1))).await;
    reply.expect_fault("file", "STICKER_DIMENSIONS_INVALID");
    let lottie = br#"{"v":"5.5.2","fr":60,"ip":0,"op":301,"layers":[]}"#.to_vec();
    for long in [apng(2501), slow_gif(2510), lottie] {
        let reply = create(&app, &alice, &path, form(long)).await;
        reply.expect_error(400, 170007);
    }
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
    app.everyone_may(guild, Permissions::VIEW_CHANNEL).await;
    let reply = create(&app, &bob, &path, form(png(9, 9))).await;
    reply.expect_error(403, 50013);
    let moving = create(&app, &alice, &path, form(apng(2500))).await;
    assert_eq!(moving.expect(201)["format_type"], 2);
    for _ in 0..4 {
        create(&app, &alice, &path, form(png(9, 9)))
            .await
            .expect(201);
    }
    let reply = create(&app, &alice, &path, form(png(9, 9))).await;
    reply.expect_error(400, 30039);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((5, 0), 5));
}

/// `guildhall-api sticker-packs` with these words.
async fn packs(app: &TestApp, words: &[&str]) -> Result<String, String> {
    let media = format!("--media-dir={}", app.media.path().display());
    let first = ["sticker-packs", "--database-url=", &media];
    let command = PacksCommand::parse_from(first.iter().chain(words));
    let done = sticker_packs::run_on(&app.db, command.config).await;
    done.map_err(|error| error.to_string())
}

#[derive(Parser)]
struct PacksCommand {
    #[command(flatten)]
    config: sticker_packs::Config,
}

#[sqlx::test(migrations = "../migrations")]
async fn a_pack_of_the_operators_is_listed_sent_and_served(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let empty = app
        .send(app.request(Method::GET, "/sticker-packs"))
        .await
        .expect(200);
    conforms("list_sticker_packs", 200, &empty);
    assert_eq!(empty["sticker_packs"], json!([]));
    app.get(&alice, "/sticker-packs/123456789")
        .await
        .expect_error(404, 10061);

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../sticker-packs/hello");
    packs(&app, &["import", folder]).await.unwrap();
    let listed = app
        .send(app.request(Method::GET, "/sticker-packs"))
        .await
        .expect(200);
    conforms("list_sticker_packs", 200, &listed);
    let pack = &listed["sticker_packs"][0];
    let path = format!("/sticker-packs/{}", pack["id"].as_str().unwrap());
    let read = app.get(&alice, &path).await.expect(200);
    conforms("get_sticker_pack", 200, &read);
    assert_eq!(&read, pack);
    assert_eq!(read["stickers"][0]["name"], "Smile");
    assert_eq!(read["cover_sticker_id"], read["stickers"][0]["id"]);

    let id = read["stickers"][1]["id"].as_str().unwrap();
    let sticker = app
        .get(&alice, &format!("/stickers/{id}"))
        .await
        .expect(200);
    conforms("get_sticker", 200, &sticker);
    assert_eq!(sticker, read["stickers"][1]);
    let file = app.fetch(&format!("/stickers/{id}.png")).await;
    let drawn = std::fs::read(format!("{folder}/yes.png")).unwrap();
    assert_eq!(file.bytes().await.unwrap(), drawn);

    let messages = format!("/channels/{}/messages", guild.general);
    let sent = app
        .post(&alice, &messages, json!({ "sticker_ids": [id] }))
        .await
        .expect(200);
    let items = json!([{ "id": id, "name": "Yes", "format_type": 1 }]);
    assert_eq!(sent["sticker_items"], items);

    let gone = ["remove", read["id"].as_str().unwrap()];
    packs(&app, &gone).await.unwrap();
    packs(&app, &gone).await.unwrap_err();
    app.get(&alice, &path).await.expect_error(404, 10061);
    app.post(&alice, &messages, json!({ "sticker_ids": [id] }))
        .await
        .expect_error(400, 50081);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_pack_imported_again_keeps_the_ids_of_what_did_not_change(db: PgPool) {
    let app = TestApp::new(db).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let manifest = |stickers: &[&str]| {
        let stickers = stickers
            .iter()
            .map(|name| json!({ "name": name, "tags": "x", "file": format!("{name}.png") }));
        let stickers: Vec<Value> = stickers.collect();
        write(
            "pack.json",
            &serde_json::to_vec(&json!({ "name": "Ours", "stickers": stickers })).unwrap(),
        );
    };
    let path = folder.path().to_str().unwrap();
    let listed = async || {
        let request = app.request(Method::GET, "/sticker-packs");
        app.send(request).await.expect(200)["sticker_packs"].clone()
    };
    for name in ["same", "other", "gone"] {
        write(&format!("{name}.png"), &png(8, 8));
    }
    manifest(&["gone", "same", "other"]);
    packs(&app, &["import", path]).await.unwrap();
    let before = listed().await;
    assert_eq!(before[0]["description"], "");
    assert_eq!(before[0]["banner_asset_id"], before[0]["id"]);

    write("other.png", &png(9, 9));
    manifest(&["other", "same"]);
    packs(&app, &["import", path]).await.unwrap();
    let after = listed().await;
    assert_eq!(after.as_array().unwrap().len(), 1);
    assert_eq!(after[0]["id"], before[0]["id"]);
    let stickers = after[0]["stickers"].as_array().unwrap();
    assert_eq!(stickers.len(), 2);
    assert_eq!(stickers[1]["id"], before[0]["stickers"][1]["id"]);
    assert_ne!(stickers[0]["id"], before[0]["stickers"][2]["id"]);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((2, 0), 2));

    // What is no pack changes nothing.
    write("other.png", b"<html>");
    let error = packs(&app, &["import", path]).await.unwrap_err();
    assert!(error.contains("other.png"), "{error}");
    manifest(&[]);
    let error = packs(&app, &["import", path]).await.unwrap_err();
    assert!(error.contains("pack.json"), "{error}");
    assert_eq!(listed().await, after);
}

#[sqlx::test(migrations = "../migrations")]
async fn stickers_of_other_guilds_take_membership_and_a_permission(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let (home, away) = (
        app.guild(&alice, "Home").await,
        app.guild(&bob, "Away").await,
    );
    app.join(&alice, away).await;
    let path = format!("/guilds/{}/stickers", home.id);
    let made = create(&app, &alice, &path, form(png(9, 9)))
        .await
        .expect(201);
    let body = json!({ "sticker_ids": [made["id"]] });
    let (near, far) = (
        format!("/channels/{}/messages", home.general),
        format!("/channels/{}/messages", away.general),
    );
    app.post(&alice, &near, body.clone()).await.expect(200);
    app.post(&bob, &far, body.clone())
        .await
        .expect_error(403, 50600);
    app.post(&alice, &far, body.clone()).await.expect(200);
    let role = format!("/guilds/{0}/roles/{0}", away.id);
    let some = Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES;
    let few = json!({ "permissions": some.bits().to_string() });
    app.patch(&bob, &role, few).await.expect(200);
    app.post(&alice, &far, body).await.expect_error(403, 50013);
}
