//! Messages with files: multipart, slots, the CDN's addresses.

use guildhall_shared::Permissions;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, alone, hall},
    media::png,
};

fn file(name: &str, bytes: impl Into<Vec<u8>>) -> Part {
    Part::bytes(bytes.into()).file_name(name.to_owned())
}

impl TestApp {
    /// The path and query of an address given out.
    async fn fetch_url(&self, url: &Value) -> reqwest::Response {
        let path = url.as_str().unwrap();
        let path = path.strip_prefix("http://127.0.0.1:8080").unwrap();
        self.fetch(path).await
    }
}

/// A place for a text of ten bytes, which a message may show later.
async fn slot(app: &TestApp, user: &TestUser, guild: TestGuild) -> Value {
    let body = json!({ "files": [{ "filename": "a.txt", "file_size": 10 }] });
    let path = format!("/channels/{}/attachments", guild.general);
    app.post(user, &path, body).await.expect(200)["attachments"][0].clone()
}

fn messages(guild: TestGuild) -> String {
    format!("/channels/{}/messages", guild.general)
}

/// Looks at what is collected in the background.
const ATTEMPTS_MAX: usize = 500;

#[sqlx::test(migrations = "../migrations")]
async fn a_message_with_files_shows_them_until_it_goes(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let image = png(33, 22);
    let payload = json!({
        "content": "look",
        "attachments": [{ "id": "1", "description": "a picture", "filename": "my pic.png" }],
    });
    // The JSON may come last.
    let form = Form::new()
        .part("files[1]", file("x.png", image.clone()))
        .part("files[7]", file("../../notes.txt", "hello"))
        .text("payload_json", payload.to_string());
    let path = messages(guild);
    let message = app
        .upload(&alice, Method::POST, &path, form)
        .await
        .expect(200);
    conforms("create_message", 200, &message);
    let attachments = message["attachments"].as_array().unwrap();
    let [picture, notes] = attachments.as_slice() else {
        panic!("{message:#}");
    };
    assert_eq!(picture["filename"], "my_pic.png");
    assert_eq!(picture["title"], "my pic");
    assert_eq!(picture["description"], "a picture");
    assert_eq!(
        (&picture["width"], &picture["height"]),
        (&json!(33), &json!(22))
    );
    assert_eq!(picture["content_type"], "image/png");
    assert_eq!(notes["filename"], "notes.txt");
    assert_eq!(notes["content_type"], "text/plain; charset=utf-8");
    assert_eq!(notes["size"], 5);

    let response = app.fetch_url(&picture["url"]).await;
    assert_eq!(response.status(), 200);
    let disposition = response.headers()["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("inline"), "{disposition}");
    assert_eq!(
        response.headers()["content-security-policy"],
        "default-src 'none'; sandbox"
    );
    assert_eq!(response.bytes().await.unwrap(), image);

    let id = message["id"].as_str().unwrap();
    let read = app.get(&alice, &format!("{path}/{id}")).await.expect(200);
    assert_eq!(read["attachments"], message["attachments"]);
    let events = app.events(guild.id).await;
    let (name, event) = events.last().unwrap();
    assert_eq!(
        (*name, &event["attachments"]),
        ("MESSAGE_CREATE", &message["attachments"])
    );

    assert_eq!(app.files().await, (2, 0));
    app.delete(&alice, &format!("{path}/{id}"))
        .await
        .expect(204);
    assert_eq!(app.fetch_url(&picture["url"]).await.status(), 404);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_edit_keeps_removes_and_adds(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let form = Form::new()
        .text("content", "two")
        .part("files[0]", file("a.txt", "a"))
        .part("files[1]", file("b.txt", "b"));
    let message = app
        .upload(&alice, Method::POST, &path, form)
        .await
        .expect(200);
    assert_eq!(message["content"], "two");
    let one = format!("{path}/{}", message["id"].as_str().unwrap());
    let text = app
        .patch(&alice, &one, json!({ "content": "still two" }))
        .await;
    assert_eq!(text.expect(200)["attachments"].as_array().unwrap().len(), 2);

    let keep = json!({ "attachments": [
        { "id": message["attachments"][1]["id"], "description": "kept" }, { "id": 0 },
    ] });
    let form = Form::new()
        .text("payload_json", keep.to_string())
        .part("files[0]", file("c.txt", "c"));
    let edited = app
        .upload(&alice, Method::PATCH, &one, form)
        .await
        .expect(200);
    conforms("update_message", 200, &edited);
    let names: Vec<_> = edited["attachments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["filename"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b.txt", "c.txt"]);
    assert_eq!(edited["attachments"][0]["description"], "kept");
    assert_eq!(app.files().await, (2, 1));
    app.collect().await;
    assert_eq!(app.objects(), 2);

    let unknown = json!({ "attachments": [{ "id": "123456789" }] });
    let reply = app.patch(&alice, &one, unknown).await;
    reply.expect_fault("attachments.0.id", "ATTACHMENT_NOT_FOUND");
    app.patch(&alice, &one, json!({ "attachments": [] }))
        .await
        .expect(200);
    assert_eq!(app.files().await, (0, 2));
    let empty = json!({ "content": "" });
    app.patch(&alice, &one, empty)
        .await
        .expect_error(400, 50006);
}

#[sqlx::test(migrations = "../migrations")]
async fn embeds_show_files_of_their_message(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let embeds = json!([{ "title": "t", "image": { "url": "attachment://a b.png" } }]);
    let form = Form::new()
        .text("payload_json", json!({ "embeds": embeds }).to_string())
        .part("files[0]", file("a b.png", png(5, 6)));
    let message = app
        .upload(&alice, Method::POST, &path, form)
        .await
        .expect(200);
    assert_eq!(message["attachments"], json!([]));
    let shown = &message["embeds"][0]["image"];
    assert_eq!((&shown["width"], &shown["height"]), (&json!(5), &json!(6)));
    assert_eq!(app.fetch_url(&shown["url"]).await.status(), 200);
    assert_eq!(app.files().await, (1, 0));

    // It stays through edits of other things, and goes with the embed.
    let one = format!("{path}/{}", message["id"].as_str().unwrap());
    app.patch(&alice, &one, json!({ "content": "x" }))
        .await
        .expect(200);
    assert_eq!(app.files().await, (1, 0));
    let again = json!({ "embeds": [{ "title": "u", "image": { "url": "attachment://a b.png" } }] });
    let edited = app.patch(&alice, &one, again).await.expect(200);
    assert_eq!(&edited["embeds"][0]["image"], shown);
    assert_eq!(app.files().await, (1, 0));
    app.patch(&alice, &one, json!({ "embeds": [] }))
        .await
        .expect(200);
    assert_eq!(app.files().await, (0, 1));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_message_whose_file_is_gone_takes_no_others_with_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let form = Form::new().part("files[0]", file("a.txt", "hello"));
    let sent = app.upload(&alice, Method::POST, &path, form).await;
    let forward = json!({ "message_reference": {
        "type": 1, "channel_id": guild.general, "message_id": sent.expect(200)["id"] } });
    // As if it were collected after the forward was made and before it is stored.
    sqlx::query("delete from media_file")
        .execute(&app.db)
        .await
        .unwrap();
    // While the guild is locked they queue up to one batch.
    let held = app.hold(guild.id).await;
    let others = (0..10).map(|n| app.post(&alice, &path, json!({ "content": n.to_string() })));
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        held.rollback().await.unwrap();
    };
    let (others, forward, ()) = tokio::join!(
        futures_util::future::join_all(others),
        app.post(&alice, &path, forward),
        release,
    );
    forward.expect(503);
    for other in others {
        other.expect(200);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_forward_keeps_the_files_that_it_shows(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let of_embed = json!({ "embeds": [{ "image": { "url": "attachment://a.png" } }] });
    let of_component = json!({ "flags": 1 << 15, "components": [
        { "type": 12, "items": [{ "media": { "url": "attachment://a.png" } }] },
    ] });
    for payload in [of_embed, of_component] {
        let form = Form::new()
            .text("payload_json", payload.to_string())
            .part("files[0]", file("a.png", png(5, 6)));
        let source = app.upload(&alice, Method::POST, &path, form).await;
        let source = source.expect(200);
        let forward = json!({ "message_reference": {
            "type": 1, "message_id": source["id"], "channel_id": guild.general,
        } });
        let forward = app.post(&alice, &path, forward).await.expect(200);
        let one = |message: &Value| format!("{path}/{}", message["id"].as_str().unwrap());
        app.delete(&alice, &one(&source)).await.expect(204);
        app.patch(&alice, &one(&forward), json!({ "flags": 4 }))
            .await
            .expect(200);
        app.collect().await;
        assert_eq!(app.files().await, (1, 0), "{payload}");
        app.delete(&alice, &one(&forward)).await.expect(204);
        app.collect().await;
        assert_eq!(app.files().await, (0, 0), "{payload}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_attachment_that_is_listed_twice_is_one(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let form = Form::new().part("files[0]", file("a.txt", "a"));
    let message = app.upload(&alice, Method::POST, &path, form).await;
    let message = message.expect(200);
    let one = format!("{path}/{}", message["id"].as_str().unwrap());
    let id = &message["attachments"][0]["id"];
    let twice = json!({ "attachments": [{ "id": id }, { "id": id }] });
    let edited = app.patch(&alice, &one, twice).await.expect(200);
    assert_eq!(edited["attachments"], message["attachments"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_attach_leaves_nothing_behind(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, guild) = hall(&app).await;
    let little = Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES;
    app.everyone_may(guild, little).await;
    let form = || Form::new().part("files[0]", file("a.txt", "a"));
    let path = messages(guild);
    let reply = app.upload(&bob, Method::POST, &path, form()).await;
    reply.expect_error(403, 50013);
    let request = app.request(Method::POST, &path).multipart(form());
    app.send(request).await.expect_error(401, 0);
    let stranger = app.user("stranger").await;
    let reply = app.upload(&stranger, Method::POST, &path, form()).await;
    reply.expect_error(403, 50001);
    // A refused request gives its files up in the background.
    for _ in 0..ATTEMPTS_MAX {
        app.collect().await;
        if (app.files().await, app.objects()) == ((0, 0), 0) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}, {} files", app.files().await, app.objects());
}

#[sqlx::test(migrations = "../migrations")]
async fn addresses_cannot_be_guessed_bent_or_outlive_their_time(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let form = Form::new()
        .part("files[0]", file("page.html", "<script>alert(1)</script>"))
        .part(
            "files[1]",
            file("image.png", "<!DOCTYPE html><script>x</script>"),
        )
        .part(
            "files[2]",
            file("pic.svg", "<svg xmlns='x'><script/></svg>"),
        );
    let path = messages(guild);
    let message = app
        .upload(&alice, Method::POST, &path, form)
        .await
        .expect(200);
    for attachment in message["attachments"].as_array().unwrap() {
        let response = app.fetch_url(&attachment["url"]).await;
        let disposition = response.headers()["content-disposition"].to_str().unwrap();
        assert!(disposition.starts_with("attachment"), "{attachment:#}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
    let url = message["attachments"][0]["url"].as_str().unwrap();
    let (bare, _) = url.split_once('?').unwrap();
    for bent in [
        bare.to_owned(),
        format!("{bare}?hm=00"),
        url.replace("page.html", "page.png"),
        format!("{url}&ex=7fffffff"),
    ] {
        assert_eq!(app.fetch_url(&json!(bent)).await.status(), 404, "{bent}");
    }

    let body = json!({ "attachment_urls": [url, format!("{bare}?hm=00"), "nonsense"] });
    let reply = app.post(&alice, "/attachments/refresh-urls", body).await;
    let urls = reply.expect(200)["refreshed_urls"].clone();
    assert_eq!(urls[0]["original"], url);
    let refreshed = urls[0]["refreshed"].as_str().unwrap();
    assert!(refreshed.contains("?ex="), "{refreshed}");
    assert_eq!(app.fetch_url(&urls[0]["refreshed"]).await.status(), 200);
    let ex = refreshed.split(['=', '&']).nth(1).unwrap();
    let later = refreshed.replace(ex, "7fffffff");
    assert_eq!(app.fetch_url(&json!(later)).await.status(), 404);
    let (_, signature) = refreshed.rsplit_once("hm=").unwrap();
    let for_good = format!("{bare}%3F{ex}?hm={signature}");
    assert_eq!(app.fetch_url(&json!(for_good)).await.status(), 404);
    assert_eq!(
        (&urls[1]["refreshed"], &urls[2]["refreshed"]),
        (&Value::Null, &Value::Null)
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn parts_of_a_file_can_be_fetched(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let form = Form::new()
        .part("files[0]", file("a.bin", (0..=255).collect::<Vec<u8>>()))
        .part("files[1]", file("empty.txt", ""));
    let path = messages(guild);
    let message = app
        .upload(&alice, Method::POST, &path, form)
        .await
        .expect(200);
    let url = message["attachments"][0]["url"].as_str().unwrap();
    let url = url.replace("http://127.0.0.1:8080", &app.origin);
    let range = async |range: &str| {
        let request = app.client.get(&url).header("range", range);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap().to_vec())
    };
    assert_eq!(range("bytes=1-3").await, (206, vec![1, 2, 3]));
    assert_eq!(range("bytes=-2").await, (206, vec![254, 255]));
    assert_eq!(range("bytes=256-").await.0, 416);
    assert_eq!(range("bytes=x").await.1.len(), 256);
    let empty = app.fetch_url(&message["attachments"][1]["url"]).await;
    assert_eq!(
        (empty.status().as_u16(), empty.bytes().await.unwrap().len()),
        (200, 0)
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_made_up_token_in_the_path_stores_nothing(db: PgPool) {
    const NOTHING: &str = "1180000000000000002";
    const OF_INTERACTION: &str = "aW50ZXJhY3Rpb246x";
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "Ping").await;
    let guild = app.guild(&alice, "Hall").await;
    let hooks = format!("/channels/{}/webhooks", guild.general);
    let hook = app.post(&alice, &hooks, json!({ "name": "Herald" })).await;
    let hook = hook.expect(200)["id"].as_str().unwrap().to_owned();
    let bot = bot.id;
    for (method, path, status, code) in [
        (
            Method::POST,
            format!("/interactions/{NOTHING}/{OF_INTERACTION}/callback"),
            404,
            10062,
        ),
        (
            Method::POST,
            format!("/webhooks/{NOTHING}/wrong"),
            404,
            10015,
        ),
        (Method::POST, format!("/webhooks/{hook}/wrong"), 401, 50027),
        (
            Method::POST,
            format!("/webhooks/{bot}/{OF_INTERACTION}"),
            401,
            50027,
        ),
        (
            Method::PATCH,
            format!("/webhooks/{hook}/wrong/messages/{NOTHING}"),
            401,
            50027,
        ),
        (
            Method::PATCH,
            format!("/webhooks/{bot}/{OF_INTERACTION}/messages/{NOTHING}"),
            401,
            50027,
        ),
        (
            Method::PATCH,
            format!("/webhooks/{bot}/{OF_INTERACTION}/messages/@original"),
            401,
            50027,
        ),
    ] {
        let form = Form::new().part("files[0]", file("a.bin", vec![7; 1 << 20]));
        let request = app.request(method, &path).multipart(form);
        app.send(request).await.expect_error(status, code);
        assert_eq!((app.files().await, app.objects()), ((0, 0), 0), "{path}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn limits_of_size_and_number_hold(db: PgPool) {
    let app = TestApp::with(db, |config| config.media.attachment_bytes_max = 1024).await;
    let (alice, guild) = alone(&app).await;
    let path = messages(guild);
    let fits = Form::new().part("file", file("a.bin", vec![0; 1024]));
    app.upload(&alice, Method::POST, &path, fits)
        .await
        .expect(200);
    let large = Form::new().part("file", file("a.bin", vec![0; 1025]));
    let reply = app.upload(&alice, Method::POST, &path, large).await;
    reply.expect_error(413, 40005);
    let many = (0..11).fold(Form::new(), |form, index| {
        form.part(format!("files[{index}]"), file("a.txt", "a"))
    });
    let reply = app.upload(&alice, Method::POST, &path, many).await;
    reply.expect_error(400, 30015);
    let payload = vec![b' '; (1 << 20) + 1];
    let wordy = Form::new().part("payload_json", Part::bytes(payload));
    let reply = app.upload(&alice, Method::POST, &path, wordy).await;
    reply.expect_error(413, 40005);
    let described = json!({ "attachments": [{ "id": 0, "description": "x".repeat(1025) }] });
    let form = Form::new()
        .text("payload_json", described.to_string())
        .part("files[0]", file("a.txt", "a"));
    let reply = app.upload(&alice, Method::POST, &path, form).await;
    reply.expect_fault("attachments.0.description", "BASE_TYPE_MAX_LENGTH");
    let dangling = json!({ "content": "x", "attachments": [{ "id": 5 }] });
    let reply = app.post(&alice, &path, dangling).await;
    reply.expect_fault("attachments.0.id", "ATTACHMENT_NOT_FOUND");
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
}

#[sqlx::test(migrations = "../migrations")]
async fn broken_forms_are_refused_and_leave_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let part = "--b\r\ncontent-disposition: form-data; name=\"files[0]\"; filename=\"a\"\r\n\r\n";
    let names = "--b\r\ncontent-disposition: form-data; name=\"files[0]\"; \
                 filename=\"a\0/../\u{202e}é\\\"\"\r\n\r\nx\r\n--b--\r\n";
    for (content_type, body) in [
        ("multipart/form-data", format!("{part}x\r\n--b--\r\n")),
        (
            "multipart/form-data; boundary=",
            format!("{part}x\r\n--b--\r\n"),
        ),
        (
            "multipart/form-data; boundary=other",
            format!("{part}x\r\n--b--\r\n"),
        ),
        (
            "multipart/form-data; boundary=b",
            format!("{part}breaks off"),
        ),
        ("multipart/form-data; boundary=b", "--b".to_owned()),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nnonsense\r\n".to_owned(),
        ),
        ("multipart/form-data; boundary=b", String::new()),
        ("multipart/form-data; boundary=b", names.to_owned()),
        ("multipart/form-data; boundary=b", "\0".repeat(9999)),
    ] {
        let request = app
            .request_by(&alice, Method::POST, &messages(guild))
            .header("content-type", content_type)
            .body(body.clone());
        let reply = app.send(request).await;
        let status = reply.status.as_u16();
        assert!(
            status == 400 || (status == 200 && body == names),
            "{body:?}: {reply:#?}"
        );
    }
    sqlx::query("delete from message")
        .execute(&app.db)
        .await
        .unwrap();
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn files_can_come_before_their_message_through_slots(db: PgPool) {
    let app = TestApp::with(db, |config| config.media.attachment_bytes_max = 4096).await;
    let (alice, guild) = alone(&app).await;
    let slots = json!({ "files": [{ "id": "7", "filename": "a b.png", "file_size": 2000 }] });
    let path = format!("/channels/{}/attachments", guild.general);
    let slots = app.post(&alice, &path, slots).await.expect(200);
    let slot = &slots["attachments"][0];
    assert_eq!(slot["id"], "7");
    let url = slot["upload_url"].as_str().unwrap();
    let url = url.replace("http://127.0.0.1:8080", &app.origin);
    let put = async |url: &str, bytes: Vec<u8>| {
        let request = app.client.put(url).body(bytes);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put(&url.replace("2000", "9000"), png(4, 4)).await, 403);
    assert_eq!(put(&url, vec![0; 4097]).await, 413);
    // There are clients that announce any size.
    assert_eq!(put(&url, vec![0; 2001]).await, 200);
    assert_eq!(put(&url, png(4, 4)).await, 200);

    let name = &slot["upload_filename"];
    let body = json!({ "attachments": [{ "id": "0", "uploaded_filename": name }] });
    let bob = app.user("bob").await;
    app.join(&bob, guild).await;
    let reply = app.post(&bob, &messages(guild), body.clone()).await;
    reply.expect_fault("attachments.0.uploaded_filename", "ATTACHMENT_NOT_FOUND");
    let message = app
        .post(&alice, &messages(guild), body.clone())
        .await
        .expect(200);
    let attachment = &message["attachments"][0];
    assert_eq!(
        (&attachment["filename"], &attachment["width"]),
        (&json!("a_b.png"), &json!(4))
    );
    assert_eq!(app.fetch_url(&attachment["url"]).await.status(), 200);
    // Once.
    let reply = app.post(&alice, &messages(guild), body).await;
    reply.expect_fault("attachments.0.uploaded_filename", "ATTACHMENT_NOT_FOUND");
    assert_eq!(put(&url, png(5, 5)).await, 403);

    let huge = json!({ "files": [{ "filename": "a", "file_size": 1_u64 << 40 }] });
    app.post(&alice, &path, huge).await.expect_error(413, 40005);
    let none = json!({ "files": [] });
    app.post(&alice, &path, none)
        .await
        .expect_fault("files", "BASE_TYPE_BAD_LENGTH");
    let stranger = app.user("stranger").await;
    let one = json!({ "files": [{ "filename": "a", "file_size": 1 }] });
    app.post(&stranger, &path, one)
        .await
        .expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_slow_upload_does_not_replace_what_a_message_shows_by_then(db: PgPool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let slot = slot(&app, &alice, guild).await;
    let url = slot["upload_url"].as_str().unwrap();
    let url = url.strip_prefix("http://127.0.0.1:8080").unwrap();
    let first = app.client.put(format!("{}{url}", app.origin)).body("first");
    assert_eq!(first.send().await.unwrap().status(), 200);

    let address = app.origin.strip_prefix("http://").unwrap();
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("PUT {url} HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nsec");
    slow.write_all(head.as_bytes()).await.unwrap();
    // It has begun: its file is announced beside the first one.
    app.until("select count(*) = 2 from media_file").await;
    let name = &slot["upload_filename"];
    let body = json!({ "attachments": [{ "uploaded_filename": name, "description": "one" }] });
    let message = app.post(&alice, &messages(guild), body).await.expect(200);
    assert_eq!(message["attachments"][0]["description"], "one");
    slow.write_all(b"ond").await.unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    let shown = app.fetch_url(&message["attachments"][0]["url"]).await;
    assert_eq!(shown.bytes().await.unwrap(), "first");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_upload_that_ends_while_the_message_is_stored_does_not_replace_its_file(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let slot = slot(&app, &alice, guild).await;
    let url = slot["upload_url"].as_str().unwrap();
    let url = url.replace("http://127.0.0.1:8080", &app.origin);
    let put = async |bytes: &'static str| {
        let request = app.client.put(&url).body(bytes);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put("zeroth").await, 200);
    assert_eq!(put("first").await, 200);

    let held = app.hold(guild.id).await;
    let name = &slot["upload_filename"];
    let body = json!({ "attachments": [{ "id": "0", "uploaded_filename": name }] });
    let path = messages(guild);
    let replace = async {
        app.until_somebody_waits().await;
        assert_eq!(put("second").await, 200);
        held.rollback().await.unwrap();
    };
    let (reply, ()) = tokio::join!(app.post(&alice, &path, body.clone()), replace);
    let message = reply.expect(200);
    let attachment = &message["attachments"][0];
    assert_eq!(attachment["size"], 5);
    let shown = app.fetch_url(&attachment["url"]).await;
    assert_eq!(shown.bytes().await.unwrap(), "first");
    // The slot is spent, whatever else came into it.
    app.post(&alice, &path, body)
        .await
        .expect_fault("attachments.0.uploaded_filename", "ATTACHMENT_NOT_FOUND");
    assert_eq!(put("third").await, 403);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
}

/// A beginning of an Ogg file.
fn ogg() -> Vec<u8> {
    let mut page = b"OggS\0\x02".to_vec();
    page.extend([0; 20]);
    page.extend(b"\x01\x13OpusHead\x01\x01");
    page
}

#[sqlx::test(migrations = "../migrations")]
async fn a_voice_message_is_one_recording_and_nothing_else(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, guild) = hall(&app).await;
    let path = messages(guild);
    let voice = json!({
        "flags": 1 << 13,
        "attachments": [{ "id": 0, "filename": "voice.ogg", "duration_secs": 1.5,
                          "waveform": "AAAAAP8=" }],
    });
    let send = async |user: &TestUser, payload: &Value, files: &[Vec<u8>]| {
        let mut form = Form::new().text("payload_json", payload.to_string());
        for (n, bytes) in files.iter().enumerate() {
            form = form.part(format!("files[{n}]"), file("voice.ogg", bytes.clone()));
        }
        app.upload(user, Method::POST, &path, form).await
    };
    let sent = send(&bob, &voice, &[ogg()]).await.expect(200);
    conforms("create_message", 200, &sent);
    assert_eq!(sent["flags"], 1 << 13);
    let recording = &sent["attachments"][0];
    assert_eq!(recording["content_type"], "audio/ogg");
    assert_eq!(recording["duration_secs"], 1.5);
    assert_eq!(recording["waveform"], "AAAAAP8=");

    let with = |field: &str, value: Value| {
        let mut body = voice.clone();
        body[field] = value;
        body
    };
    let about = |key: &str, value: Value| {
        let mut body = voice.clone();
        body["attachments"][0][key] = value;
        body
    };
    for (body, files, code) in [
        (with("content", json!("and text")), vec![ogg()], 50159),
        (
            with("embeds", json!([{ "title": "x" }])),
            vec![ogg()],
            50159,
        ),
        (with("attachments", json!([])), vec![], 50160),
        (voice.clone(), vec![ogg(), ogg()], 50160),
        (voice.clone(), vec![png(1, 1)], 50160),
        (about("waveform", Value::Null), vec![ogg()], 50161),
        (about("waveform", json!("not base64!")), vec![ogg()], 50161),
        (about("duration_secs", Value::Null), vec![ogg()], 50161),
    ] {
        send(&bob, &body, &files).await.expect_error(400, code);
    }
    let one = format!("{path}/{}", sent["id"].as_str().unwrap());
    app.patch(&bob, &one, json!({ "content": "changed" }))
        .await
        .expect_error(400, 50162);
    let forward = json!({ "message_reference": { "type": 1, "message_id": sent["id"],
                                                 "channel_id": sent["channel_id"] } });
    let forward = app.post(&alice, &path, forward).await.expect(200);
    assert_eq!(forward["message_snapshots"][0]["message"]["flags"], 1 << 13);

    let role = format!("/guilds/{0}/roles/{0}", guild.id);
    let most = Permissions::NEW_GUILD - Permissions::SEND_VOICE_MESSAGES;
    let body = json!({ "permissions": most.bits().to_string() });
    app.patch(&alice, &role, body).await.expect(200);
    send(&bob, &voice, &[ogg()]).await.expect_error(403, 50173);
    send(&alice, &voice, &[ogg()]).await.expect(200);
}
