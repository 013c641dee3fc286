//! Images in rows and on the CDN; files that nobody shows any more.

use base64::{Engine, engine::general_purpose::STANDARD};
use guildhall_shared::Permissions;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestUser};

/// A still image of one colour.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(width, height, image::Rgba([200, 30, 90, 255]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// Two frames.
pub(crate) fn gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for shade in [10, 200] {
        let frame = image::RgbaImage::from_pixel(48, 48, image::Rgba([shade, 0, 0, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    bytes
}

pub(crate) fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

impl TestApp {
    /// A file of the CDN.
    pub(crate) async fn fetch(&self, path: &str) -> reqwest::Response {
        let url = format!("{}{path}", self.origin);
        self.client.get(url).send().await.unwrap()
    }

    /// Files that some row shows, and those that none does.
    pub(crate) async fn files(&self) -> (i64, i64) {
        sqlx::query_as(
            "select count(*) filter (where uses > 0), count(*) filter (where uses = 0)
             from media_file",
        )
        .fetch_one(&self.db)
        .await
        .unwrap()
    }

    /// Ends every lease and collects.
    pub(crate) async fn collect(&self) {
        self.app.finish_work().await;
        sqlx::query(
            "update media_file set collect_at = now() - interval '1 second' where uses = 0",
        )
        .execute(&self.db)
        .await
        .unwrap();
        self.app.collect_files().await.unwrap();
    }

    /// Objects in the store.
    pub(crate) fn objects(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap();
            entries
                .map(|entry| {
                    let path = entry.unwrap().path();
                    if path.is_dir() { count(&path) } else { 1 }
                })
                .sum()
        }
        count(self.media.path())
    }
}

async fn set_avatar(app: &TestApp, user: &TestUser, image: &[u8]) -> Value {
    let body = json!({ "avatar": data_uri(image) });
    app.patch(user, "/users/@me", body).await.expect(200)
}

#[sqlx::test(migrations = "../migrations")]
async fn an_avatar_is_stored_served_in_every_size_and_replaced(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let me = set_avatar(&app, &alice, &png(300, 150)).await;
    let hash = me["avatar"].as_str().unwrap().to_owned();
    assert_eq!(hash.len(), 32);
    let seen = app.get(&alice, "/users/@me").await.expect(200);
    assert_eq!(seen["avatar"], hash);

    for (extension, content_type) in [
        ("png", "image/png"),
        ("jpg", "image/jpeg"),
        ("webp", "image/webp"),
    ] {
        let path = format!("/avatars/{}/{hash}.{extension}?size=64", alice.id);
        let response = app.fetch(&path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], content_type);
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let cache = response.headers()["cache-control"].to_str().unwrap();
        assert!(cache.contains("immutable"));
        let tag = response.headers()["etag"].clone();
        let bytes = response.bytes().await.unwrap();
        let image = image::load_from_memory(&bytes).unwrap();
        assert_eq!((image.width(), image.height()), (64, 32));
        let url = format!("{}{path}", app.origin);
        let again = app.client.get(url).header("if-none-match", tag);
        assert_eq!(again.send().await.unwrap().status(), 304);
    }
    let own = |rest: &str| format!("/avatars/{}/{rest}", alice.id);
    for (path, status) in [
        (own(&format!("{hash}.gif")), 415),
        (own(&format!("{hash}.html")), 415),
        (own(&format!("{hash}.png?size=65")), 400),
        (own(&format!("{hash}.png?size=8192")), 400),
        (own("0123456789abcdef0123456789abcdef.png"), 404),
        (own("..%2f..%2fx.png"), 404),
        ("/avatars/x/y.png".to_owned(), 400),
    ] {
        assert_eq!(app.fetch(&path).await.status(), status, "{path}");
    }

    // The old one goes when a new one comes, and the last one with the avatar.
    set_avatar(&app, &alice, &png(10, 10)).await;
    assert_eq!(app.files().await, (1, 1));
    assert_eq!(app.fetch(&own(&format!("{hash}.png"))).await.status(), 404);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
    let cleared = json!({ "avatar": null });
    let me = app.patch(&alice, "/users/@me", cleared).await.expect(200);
    assert_eq!(me["avatar"], Value::Null);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn what_moves_has_a_hash_that_says_so_and_a_gif(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let me = set_avatar(&app, &alice, &gif()).await;
    let hash = me["avatar"].as_str().unwrap();
    assert!(hash.starts_with("a_") && hash.len() == 34, "{hash}");
    let path = format!("/avatars/{}/{hash}.gif?size=16", alice.id);
    let response = app.fetch(&path).await;
    assert_eq!(response.headers()["content-type"], "image/gif");
    let still = app.fetch(&path.replace(".gif", ".png")).await;
    assert_eq!(still.headers()["content-type"], "image/png");
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_and_roles_have_images_and_lose_them(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let body = json!({ "name": "Hall", "icon": data_uri(&png(20, 20)) });
    let guild = app.post(&alice, "/guilds", body).await.expect(201);
    let (id, icon) = (guild["id"].as_str().unwrap(), guild["icon"].as_str());
    let path = format!("/icons/{id}/{}.png", icon.unwrap());
    assert_eq!(app.fetch(&path).await.status(), 200);

    let image = data_uri(&png(21, 21));
    let body = json!({ "splash": image, "banner": image, "discovery_splash": image });
    let path = format!("/guilds/{id}");
    let changed = app.patch(&alice, &path, body).await.expect(200);
    for (field, folder) in [
        ("splash", "splashes"),
        ("banner", "banners"),
        ("discovery_splash", "discovery-splashes"),
    ] {
        let hash = changed[field].as_str().unwrap();
        let path = format!("/{folder}/{id}/{hash}.jpg");
        assert_eq!(app.fetch(&path).await.status(), 200, "{field}");
    }
    assert_eq!(changed["icon"], icon.unwrap());

    let role = json!({ "name": "painted", "icon": image });
    let role = app.post(&alice, &format!("{path}/roles"), role).await;
    let role = role.expect(200);
    let role_path = format!("{path}/roles/{}", role["id"].as_str().unwrap());
    let hash = role["icon"].as_str().unwrap();
    let icon_path = format!("/role-icons/{}/{hash}.webp", role["id"].as_str().unwrap());
    assert_eq!(app.fetch(&icon_path).await.status(), 200);
    let emoji = json!({ "unicode_emoji": "🦊" });
    let role = app.patch(&alice, &role_path, emoji).await.expect(200);
    assert_eq!(
        (&role["icon"], &role["unicode_emoji"]),
        (&Value::Null, &json!("🦊"))
    );
    assert_eq!(app.fetch(&icon_path).await.status(), 404);

    assert_eq!(app.files().await, (4, 1));
    let bare = json!({ "icon": null, "splash": null, "banner": null, "discovery_splash": null });
    app.patch(&alice, &path, bare).await.expect(200);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn images_that_are_none_are_refused_and_leave_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let mut bomb = png(1, 1);
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let whole = png(64, 64);
    for bad in [
        data_uri(b""),
        data_uri(b"<html>"),
        data_uri(&bomb),
        data_uri(&whole[..whole.len() / 2]),
        data_uri(&png(5000, 2)),
        "data:image/png;base64,%%%".to_owned(),
        "http://127.0.0.1/a.png".to_owned(),
        String::new(),
    ] {
        let body = json!({ "avatar": bad });
        let reply = app.patch(&alice, "/users/@me", body).await;
        reply.expect_fault("avatar", "IMAGE_INVALID");
    }
    let body = json!({ "avatar": data_uri(&vec![0; 8 << 20 | 1]) });
    let reply = app.patch(&alice, "/users/@me", body).await;
    reply.expect_fault("avatar", "BINARY_TYPE_MAX_SIZE");
    assert_eq!(app.objects(), 0);

    // Who may not change the guild stores nothing in it.
    let guild = app.guild(&alice, "Hall").await;
    let bob = app.user("bob").await;
    app.join(&bob, guild).await;
    let body = json!({ "icon": data_uri(&whole) });
    let path = format!("/guilds/{}", guild.id);
    let reply = app.patch(&bob, &path, body.clone()).await;
    reply.expect_error(403, 50013);
    assert_eq!(app.objects(), 0);
    app.grant(&bob, guild, Permissions::MANAGE_GUILD).await;
    app.patch(&bob, &path, body).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_row_never_shows_a_file_that_is_gone(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let shown = sqlx::query("update account set avatar = 'abc' where user_id = $1")
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await;
    let error = shown.unwrap_err();
    let code = error.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("40001"));
}

#[sqlx::test(migrations = "../migrations")]
async fn whatever_step_an_upload_dies_at_nothing_is_left(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    // Announced, no bytes yet.
    announce(&app, "avatars/1/a").await;
    // Announced and written; the row that would show it never came.
    announce(&app, "avatars/1/b").await;
    let folder = app.media.path().join("avatars/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("b"), b"bytes").unwrap();
    // Collected half: the file went, the row did not.
    announce(&app, "avatars/1/c").await;
    set_avatar(&app, &alice, &png(9, 9)).await;

    app.app.collect_files().await.unwrap();
    assert_eq!(
        (app.files().await, app.objects()),
        ((1, 3), 2),
        "leases hold"
    );
    app.collect().await;
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
}

#[sqlx::test(migrations = "../migrations")]
async fn many_files_are_collected_in_batches(db: PgPool) {
    let app = TestApp::new(db).await;
    sqlx::query(
        "insert into media_file (path, content_type, size, collect_at)
         select 'x/' || n, '', 0, now() from generate_series(1, 250) n",
    )
    .execute(&app.db)
    .await
    .unwrap();
    app.collect().await;
    assert_eq!(app.files().await, (0, 0));
}

async fn announce(app: &TestApp, path: &str) {
    sqlx::query(
        "insert into media_file (path, content_type, size, collect_at)
         values ($1, '', 0, now() + interval '1 hour')",
    )
    .bind(path)
    .execute(&app.db)
    .await
    .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn everybody_without_an_avatar_has_a_picture(db: PgPool) {
    let app = TestApp::new(db).await;
    for index in 0..6 {
        let response = app
            .fetch(&format!("/embed/avatars/{index}.png?size=32"))
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let bytes = response.bytes().await.unwrap();
        assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 32);
    }
    assert_eq!(app.fetch("/embed/avatars/6.png").await.status(), 404);
    assert_eq!(app.fetch("/embed/avatars/0.gif").await.status(), 415);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_body_announced_as_too_large_is_refused_before_it_comes(db: PgPool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = TestApp::new(db).await;
    let address = app.origin.strip_prefix("http://").unwrap();
    for (path, content_type) in [
        ("/api/v10/channels/1/messages", "application/json"),
        (
            "/api/v10/channels/1/messages",
            "multipart/form-data; boundary=x",
        ),
        ("/api/v10/users/@me", "application/json"),
        ("/api/v10/nowhere", "application/json"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\n\
             content-length: 99999999999\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let read = stream.read_exact(&mut answer);
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
        read.expect("it is answered at once").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413", "{path}");
    }
    let request = app.request(Method::POST, "/auth/login");
    let reply = app.send(request.body(vec![b' '; 2 << 20])).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reply.body["code"], 40005);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_owner_of_a_bot_gives_it_its_pictures(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, mallory) = (app.user("alice").await, app.user("mallory").await);
    let bot = app.bot(&alice, "Ping").await;
    let path = format!("/applications/{}/bot", bot.id);
    let body = json!({ "avatar": data_uri(&png(10, 10)), "banner": data_uri(&png(20, 10)) });
    app.patch(&mallory, &path, body.clone())
        .await
        .expect_error(403, 20012);
    assert_eq!(app.files().await, (0, 0));
    let changed = app.patch(&alice, &path, body).await.expect(200);
    let me = app.get(&bot, "/users/@me").await.expect(200);
    for field in ["avatar", "banner"] {
        assert_eq!(changed[field].as_str().unwrap().len(), 32);
        assert_eq!(me[field], changed[field]);
    }
    let cleared = app.patch(&alice, &path, json!({ "avatar": null })).await;
    let cleared = cleared.expect(200);
    assert_eq!(cleared["avatar"], Value::Null);
    assert_eq!(cleared["banner"], changed["banner"]);
}
