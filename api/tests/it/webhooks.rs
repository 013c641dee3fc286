use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use futures_util::future::join_all;
use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{Reply, TestApp, TestGuild, TestUser, at_once, hall},
    log,
    media::png,
};

async fn webhook(app: &TestApp, by: &TestUser, hall: TestGuild) -> (Value, String) {
    let path = format!("/channels/{}/webhooks", hall.general);
    let made = app.post(by, &path, json!({ "name": " Herald " })).await;
    let made = made.expect(200);
    conforms("create_webhook", 200, &made);
    let id = made["id"].as_str().unwrap();
    let url = format!("/webhooks/{id}/{}", made["token"].as_str().unwrap());
    (made, url)
}

async fn anonymously(app: &TestApp, method: Method, path: &str, body: Value) -> Reply {
    app.send(app.request(method, path).json(&body)).await
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_is_made_listed_changed_and_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (made, url) = webhook(&app, &alice, hall).await;
    assert_eq!(made["name"], "Herald");
    assert_eq!(made["user"]["username"], "alice");
    let vis = Visibility::realm(Intents::GUILD_WEBHOOKS);
    assert_eq!(log::newest(&app, hall.id).await, ("WEBHOOKS_UPDATE", vis));
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(
        (&entry["action_type"], &entry["target_id"]),
        (&json!(50), &made["id"])
    );

    let id = made["id"].as_str().unwrap();
    let one = format!("/webhooks/{id}");
    for (operation, path) in [
        (
            "list_channel_webhooks",
            format!("/channels/{}/webhooks", hall.general),
        ),
        (
            "get_guild_webhooks",
            format!("/guilds/{}/webhooks", hall.id),
        ),
    ] {
        let list = app.get(&alice, &path).await.expect(200);
        conforms(operation, 200, &list);
        assert_eq!(list[0]["token"], made["token"]);
        app.get(&bob, &path).await.expect_error(403, 50013);
    }
    conforms("get_webhook", 200, &app.get(&alice, &one).await.expect(200));
    app.get(&bob, &one).await.expect_error(403, 50013);
    app.patch(&bob, &one, json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    let renamed = app.patch(&alice, &one, json!({ "name": "Crier" })).await;
    let renamed = renamed.expect(200);
    conforms("update_webhook", 200, &renamed);
    assert_eq!(renamed["name"], "Crier");

    let by_token = app.send(app.request(Method::GET, &url)).await.expect(200);
    conforms("get_webhook_by_token", 200, &by_token);
    assert!(by_token.get("user").is_none());
    let renamed = anonymously(&app, Method::PATCH, &url, json!({ "name": "Bell" })).await;
    assert_eq!(renamed.expect(200)["name"], "Bell");
    // Who has the token acts as the webhook.
    let newest = async || {
        let entry = app.audit(hall.id).await.pop().unwrap();
        (entry["action_type"].clone(), entry["user_id"].clone())
    };
    assert_eq!(newest().await, (json!(51), made["id"].clone()));
    let wrong = format!("{one}/wrong");
    app.send(app.request(Method::GET, &wrong))
        .await
        .expect_error(401, 50027);
    app.send(app.request(Method::GET, "/webhooks/5/x"))
        .await
        .expect_error(404, 10015);
    app.delete(&bob, &one).await.expect_error(403, 50013);
    app.send(app.request(Method::DELETE, &url))
        .await
        .expect(204);
    assert_eq!(newest().await, (json!(52), made["id"].clone()));
    app.get(&alice, &one).await.expect_error(404, 10015);
}

#[sqlx::test(migrations = "../migrations")]
async fn no_body_is_read_for_a_made_up_token(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (made, url) = webhook(&app, &alice, hall).await;
    let wrong = format!("/webhooks/{}/wrong", made["id"].as_str().unwrap());
    for (method, below) in [(Method::PATCH, ""), (Method::POST, "/github")] {
        let send = |url: &str| {
            let request = app.request(method.clone(), &format!("{url}{below}"));
            app.send(request.body("{"))
        };
        send(&url).await.expect_error(400, 50109);
        send(&wrong).await.expect_error(401, 50027);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_token_is_listed_for_who_manages_webhooks_in_its_channel(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (made, _) = webhook(&app, &alice, hall).await;
    app.grant(&bob, hall, Permissions::MANAGE_WEBHOOKS).await;
    let path = format!("/guilds/{}/webhooks", hall.id);
    let listed = app.get(&bob, &path).await.expect(200);
    assert_eq!(listed[0]["token"], made["token"]);

    for denied in [Permissions::VIEW_CHANNEL, Permissions::MANAGE_WEBHOOKS] {
        let overwrite = format!("/channels/{}/permissions/{}", hall.general, bob.id);
        let deny = json!({ "type": 1, "deny": denied });
        app.put(&alice, &overwrite, deny).await.expect(204);
        let listed = app.get(&bob, &path).await.expect(200);
        conforms("get_guild_webhooks", 200, &listed);
        assert_eq!(listed[0]["id"], made["id"]);
        assert!(listed[0].get("token").is_none(), "{listed:#}");
        assert!(listed[0].get("url").is_none(), "{listed:#}");
    }
    let listed = app.get(&alice, &path).await.expect(200);
    assert_eq!(listed[0]["token"], made["token"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_webhooks_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/webhooks", hall.general);
    for (name, code) in [
        (json!(""), "BASE_TYPE_REQUIRED"),
        (json!("x".repeat(81)), "BASE_TYPE_BAD_LENGTH"),
        (json!("my Clyde"), "USERNAME_INVALID_CONTAINS"),
        (Value::Null, "BASE_TYPE_REQUIRED"),
    ] {
        app.post(&alice, &path, json!({ "name": name }))
            .await
            .expect_fault("name", code);
    }
    app.post(&bob, &path, json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    for _ in 0..15 {
        app.post(&alice, &path, json!({ "name": "x" }))
            .await
            .expect(200);
    }
    app.post(&alice, &path, json!({ "name": "x" }))
        .await
        .expect_error(400, 30007);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_writes_edits_and_deletes(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (made, url) = webhook(&app, &alice, hall).await;
    let body = json!({ "content": format!("hi <@{}> @everyone", bob.id), "username": "Town" });
    anonymously(&app, Method::POST, &url, body.clone())
        .await
        .expect(204);
    let wait = format!("{url}?wait=true");
    let sent = anonymously(&app, Method::POST, &wait, body)
        .await
        .expect(200);
    conforms("execute_webhook", 200, &sent);
    assert_eq!(sent["webhook_id"], made["id"]);
    assert_eq!(sent["author"]["username"], "Town");
    assert_eq!(sent["author"]["discriminator"], "0000");
    assert_eq!(sent["author"]["bot"], true);
    // Users are mentioned; everyone only if the request says so.
    assert_eq!(sent["mentions"][0]["id"], bob.id.to_string());
    assert_eq!(sent["mention_everyone"], false);
    let (name, told) = app.events(hall.id).await.pop().unwrap();
    assert_eq!(name, "MESSAGE_CREATE");
    assert!(told.get("member").is_none());
    assert_eq!(told["webhook_id"], made["id"]);

    let id = sent["id"].as_str().unwrap();
    let read = app
        .get(&bob, &format!("/channels/{}/messages/{id}", hall.general))
        .await
        .expect(200);
    assert_eq!(read["author"], sent["author"]);
    let one = format!("{url}/messages/{id}");
    let read = app.send(app.request(Method::GET, &one)).await.expect(200);
    conforms("get_webhook_message", 200, &read);
    let edit = json!({ "content": "@everyone", "allowed_mentions": { "parse": ["everyone"] } });
    let edited = anonymously(&app, Method::PATCH, &one, edit)
        .await
        .expect(200);
    conforms("update_webhook_message", 200, &edited);
    assert_eq!(
        (&edited["content"], &edited["mention_everyone"]),
        (&json!("@everyone"), &json!(true))
    );
    app.send(app.request(Method::DELETE, &one))
        .await
        .expect(204);
    app.send(app.request(Method::GET, &one))
        .await
        .expect_error(404, 10008);
    let names = app.event_names(hall.id).await;
    assert_eq!(names[3..], ["MESSAGE_UPDATE", "MESSAGE_DELETE"]);

    let path = format!("/channels/{}/messages", hall.general);
    let other = app.post(&alice, &path, json!({ "content": "mine" })).await;
    let other = other.expect(200)["id"].as_str().unwrap().to_owned();
    app.send(app.request(Method::DELETE, &format!("{url}/messages/{other}")))
        .await
        .expect_error(404, 10008);
    anonymously(&app, Method::POST, &url, json!({}))
        .await
        .expect_error(400, 50006);
    anonymously(
        &app,
        Method::POST,
        &url,
        json!({ "content": "x", "thread_name": "t" }),
    )
    .await
    .expect_error(400, 220003);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_takes_the_fields_of_a_form(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let wait = format!("{url}?wait=true");
    for (body, name) in [
        ("content=hi+there&username=7&tts=true", "7"),
        (
            "payload_json=%7B%22content%22%3A%22hi%20there%22%7D",
            "Herald",
        ),
    ] {
        let request = app.request(Method::POST, &wait);
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let sent = app.send(request).await.expect(200);
        assert_eq!(sent["content"], "hi there");
        assert_eq!(sent["author"]["username"], name);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_posts_in_a_forum(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let tags = json!([{ "name": "news" }, { "name": "staff", "moderated": true }]);
    let forum = app
        .post(
            &alice,
            &format!("/guilds/{}/channels", hall.id),
            json!({ "name": "forum", "type": 15, "available_tags": tags }),
        )
        .await
        .expect(201);
    let path = format!("/channels/{}/webhooks", forum["id"].as_str().unwrap());
    let hook = app.post(&alice, &path, json!({ "name": "hook" })).await;
    let hook = hook.expect(200);
    let url = format!(
        "/webhooks/{}/{}",
        hook["id"].as_str().unwrap(),
        hook["token"].as_str().unwrap()
    );
    let post = json!({ "content": "first", "thread_name": "Topic",
        "applied_tags": [forum["available_tags"][0]["id"]] });
    let url_and_wait = format!("{url}?wait=true");
    let first = anonymously(&app, Method::POST, &url_and_wait, post.clone()).await;
    let first = first.expect(200);
    // The message that begins a post has the post's id.
    assert_eq!(first["id"], first["channel_id"]);
    let thread = format!("/channels/{}", first["channel_id"].as_str().unwrap());
    let read = app.get(&alice, &thread).await.expect(200);
    assert_eq!(
        (&read["name"], &read["parent_id"], &read["owner_id"]),
        (&json!("Topic"), &forum["id"], &hook["id"])
    );
    assert_eq!(read["applied_tags"], post["applied_tags"]);
    let names = app.event_names(hall.id).await;
    assert_eq!(
        names[names.len() - 2..],
        ["THREAD_CREATE", "MESSAGE_CREATE"]
    );
    let moderated = json!({ "content": "x", "thread_name": "Topic",
        "applied_tags": [forum["available_tags"][1]["id"]] });
    for (body, status, code) in [
        (moderated, 403, 50013),
        (json!({ "content": "x" }), 400, 220001),
        (json!({ "content": "", "thread_name": "Topic" }), 400, 50006),
    ] {
        anonymously(&app, Method::POST, &url, body)
            .await
            .expect_error(status, code);
    }
    let twice = format!("{url}?thread_id={}", first["channel_id"].as_str().unwrap());
    anonymously(&app, Method::POST, &twice, post)
        .await
        .expect_error(400, 220002);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_does_not_wait_for_another_guild(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let other = app.guild(&bob, "Other").await;
    let path = format!("/channels/{}/threads", other.general);
    let thread = json!({ "name": "Thread", "type": 11 });
    let thread = app.post(&bob, &path, thread).await.expect(201);
    let held = app.hold(other.id).await;
    for named in [thread["id"].as_str().unwrap(), &other.general.to_string()] {
        let path = format!("{url}?thread_id={named}");
        let body = json!({ "content": "hi" });
        at_once(anonymously(&app, Method::POST, &path, body))
            .await
            .expect_error(404, 10003);
    }
    drop(held);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_whose_token_is_void_meanwhile_writes_nothing(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let wait = format!("{url}?wait=true");
    let body = json!({ "content": "hi" });
    let sent = anonymously(&app, Method::POST, &wait, body.clone()).await;
    let one = format!(
        "{url}/messages/{}",
        sent.expect(200)["id"].as_str().unwrap()
    );
    for (method, path) in [(Method::POST, &url), (Method::PATCH, &one)] {
        let mut held = app.hold(hall.id).await;
        let request = anonymously(&app, method, path, body.clone());
        let voided = async {
            somebody_waits(&app).await;
            let other = "update webhook set token = token || 'x'";
            sqlx::query(other).execute(&mut *held).await.unwrap();
            held.commit().await.unwrap();
        };
        let (reply, ()) = tokio::join!(request, voided);
        reply.expect_error(401, 50027);
        let again = "update webhook set token = left(token, -1)";
        sqlx::query(again).execute(&app.db).await.unwrap();
    }
    let names = app.event_names(hall.id).await;
    assert_eq!(names, ["WEBHOOKS_UPDATE", "MESSAGE_CREATE"]);
}

/// Returns when a request waits for what the test holds.
async fn somebody_waits(app: &TestApp) {
    let waits = "select exists (select from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock')";
    let waiting = async {
        let ask = async || -> bool {
            let asked = sqlx::query_scalar(waits);
            asked.fetch_one(&app.db).await.unwrap()
        };
        while !ask().await {
            tokio::task::yield_now().await;
        }
    };
    let waiting = tokio::time::timeout(Duration::from_secs(60), waiting);
    waiting.await.expect("nobody waits");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_wakes_the_thread_it_writes_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let threads = format!("/channels/{}/threads", hall.general);
    let thread = json!({ "name": "Thread", "type": 11 });
    let thread = app.post(&alice, &threads, thread).await.expect(201);
    let thread = thread["id"].as_str().unwrap();
    let path = format!("/channels/{thread}");
    for (asleep, told) in [
        (
            json!({ "archived": true }),
            vec!["THREAD_UPDATE", "THREAD_MEMBER_UPDATE", "MESSAGE_CREATE"],
        ),
        (
            json!({ "archived": true, "locked": true }),
            vec!["MESSAGE_CREATE"],
        ),
    ] {
        app.patch(&alice, &path, asleep.clone()).await.expect(200);
        let before = app.event_names(hall.id).await.len();
        let url = format!("{url}?thread_id={thread}");
        let body = json!({ "content": "hi" });
        anonymously(&app, Method::POST, &url, body)
            .await
            .expect(204);
        assert_eq!(app.event_names(hall.id).await[before..], told);
        let read = app.get(&alice, &path).await.expect(200);
        let stays = asleep["locked"] == true;
        assert_eq!(read["thread_metadata"]["archived"], stays);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_edits_nothing_in_an_archived_thread(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let threads = format!("/channels/{}/threads", hall.general);
    let thread = json!({ "name": "Thread", "type": 11 });
    let thread = app.post(&alice, &threads, thread).await.expect(201);
    let thread = thread["id"].as_str().unwrap();
    let post = format!("{url}?wait=true&thread_id={thread}");
    let sent = anonymously(&app, Method::POST, &post, json!({ "content": "hi" })).await;
    let sent = sent.expect(200)["id"].as_str().unwrap().to_owned();
    let path = format!("/channels/{thread}");
    app.patch(&alice, &path, json!({ "archived": true }))
        .await
        .expect(200);
    let one = format!("{url}/messages/{sent}?thread_id={thread}");
    let edit = json!({ "content": "ho" });
    anonymously(&app, Method::PATCH, &one, edit)
        .await
        .expect_error(400, 50083);
    let gone = app.send(app.request(Method::DELETE, &one)).await;
    gone.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn other_services_write_in_their_own_forms(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let slack = json!({ "text": "hi", "attachments": [{ "title": "T", "color": "#00ff00" }] });
    let ok = anonymously(&app, Method::POST, &format!("{url}/slack"), slack).await;
    assert_eq!(ok.expect(200), "ok");
    for (wait, answer) in [("true", json!("ok")), ("false", Value::Null)] {
        let slack = format!("{url}/slack?wait={wait}");
        let reply = anonymously(&app, Method::POST, &slack, json!({ "text": "hi" })).await;
        let body = reply.expect(200);
        conforms("execute_slack_compatible_webhook", 200, &body);
        assert_eq!(body, answer, "wait={wait}");
    }
    let github = app
        .request(Method::POST, &format!("{url}/github"))
        .header("x-github-event", "issues")
        .json(&json!({ "sender": { "login": "octo" }, "action": "opened",
            "repository": { "full_name": "a/b" },
            "issue": { "number": 3, "title": "Broken", "html_url": "https://example.org/3" } }));
    app.send(github).await.expect(204);
    let events = app.events(hall.id).await;
    let embed = |n: usize| &events[n].1["embeds"][0];
    assert_eq!(embed(1)["color"], 0x00FF00);
    assert_eq!(embed(4)["title"], "[a/b] Issue opened: #3 Broken");
    assert_eq!(embed(4)["author"]["name"], "octo");
}

#[sqlx::test(migrations = "../migrations")]
async fn slacks_clients_write_forms_too(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let url = format!("{url}/slack");
    let part = "--x\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\n7\r\n--x--\r\n";
    let urlencoded = "application/x-www-form-urlencoded";
    for (kind, body, text, name) in [
        (
            urlencoded,
            "payload=%7B%22text%22%3A%22hi%20there%22%2C%22username%22%3A%22slack%22%7D",
            "hi there",
            "slack",
        ),
        (urlencoded, "text=7&username=8", "7", "8"),
        ("multipart/form-data; boundary=x", part, "7", "Herald"),
    ] {
        let request = app.request(Method::POST, &url).header("content-type", kind);
        let answer = app.send(request.body(body)).await.expect(200);
        assert_eq!(answer, "ok");
        let (event, sent) = app.events(hall.id).await.pop().unwrap();
        assert_eq!((event, &sent["content"]), ("MESSAGE_CREATE", &json!(text)));
        assert_eq!(sent["author"]["username"], name);
    }
    let request = app
        .request(Method::POST, &url)
        .header("content-type", urlencoded);
    app.send(request.body("payload=%7B"))
        .await
        .expect_error(400, 50109);
}

#[sqlx::test(migrations = "../migrations")]
async fn no_forum_follows_an_announcement_channel(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    let mut made = Vec::new();
    for (name, kind) in [("news", 5), ("posts", 15)] {
        let body = json!({ "name": name, "type": kind });
        let channel = app.post(&alice, &channels, body).await.expect(201);
        made.push(channel["id"].as_str().unwrap().to_owned());
    }
    let [news, forum]: [String; 2] = made.try_into().unwrap();
    let path = format!("/channels/{news}/followers");
    let follow = async |target: &Value| {
        let body = json!({ "webhook_channel_id": target });
        app.post(&alice, &path, body).await
    };
    follow(&json!(forum)).await.expect_error(400, 50024);
    let followed = follow(&json!(hall.general)).await.expect(200);
    let webhook = format!("/webhooks/{}", followed["webhook_id"].as_str().unwrap());
    let to_forum = json!({ "channel_id": forum });
    app.patch(&alice, &webhook, to_forum)
        .await
        .expect_error(400, 50024);
    let read = app.get(&alice, &webhook).await.expect(200);
    assert_eq!(read["channel_id"], json!(hall.general));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_announcement_reaches_its_followers(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    let news = app
        .post(&alice, &channels, json!({ "name": "news", "type": 5 }))
        .await
        .expect(201);
    let news = news["id"].as_str().unwrap();
    let home = app.guild(&bob, "Home").await;
    let followers = format!("/channels/{news}/followers");
    let target = json!({ "webhook_channel_id": home.general });
    app.post(&alice, &followers, target.clone())
        .await
        .expect_error(403, 50001);
    let followed = app.post(&bob, &followers, target).await.expect(200);
    conforms("follow_channel", 200, &followed);
    assert_eq!(
        app.event_names(home.id).await,
        ["WEBHOOKS_UPDATE", "MESSAGE_CREATE"]
    );
    let list = format!("/channels/{}/webhooks", home.general);
    let list = app.get(&bob, &list).await.expect(200);
    conforms("list_channel_webhooks", 200, &list);
    assert_eq!(list[0]["source_channel"]["id"], news);
    assert!(list[0].get("token").is_none());

    let path = format!("/channels/{news}/messages");
    let sent = app
        .post(&alice, &path, json!({ "content": "big news" }))
        .await;
    let sent = sent.expect(200);
    let crosspost = format!("{path}/{}/crosspost", sent["id"].as_str().unwrap());
    app.post(&bob, &crosspost, Value::Null)
        .await
        .expect_error(403, 50013);
    let published = app.post(&alice, &crosspost, Value::Null).await.expect(200);
    conforms("crosspost_message", 200, &published);
    assert_eq!(published["flags"], 1);
    app.post(&alice, &crosspost, Value::Null)
        .await
        .expect_error(400, 40033);
    // The copies are made behind the request; this waits for the job to be done.
    app.app.finish_work().await;
    let (_, copy) = app.events(home.id).await.pop().unwrap();
    assert_eq!(copy["content"], "big news");
    assert_eq!(copy["flags"], 2);
    assert_eq!(copy["message_reference"]["message_id"], sent["id"]);
    assert_eq!(copy["webhook_id"], followed["webhook_id"]);

    // What becomes of the message becomes of its copy.
    let one = format!("{path}/{}", sent["id"].as_str().unwrap());
    let body = json!({ "content": "bigger news", "embeds": [{ "title": "more" }] });
    let edited = app.patch(&alice, &one, body).await.expect(200);
    app.app.finish_work().await;
    let (name, update) = app.events(home.id).await.pop().unwrap();
    assert_eq!((name, &update["id"]), ("MESSAGE_UPDATE", &copy["id"]));
    assert_eq!(update["content"], "bigger news");
    assert_eq!(update["embeds"][0]["title"], "more");
    assert_eq!(update["edited_timestamp"], edited["edited_timestamp"]);
    app.delete(&alice, &one).await.expect(204);
    app.app.finish_work().await;
    let path = format!("/channels/{}/messages", home.general);
    let path = format!("{path}/{}", copy["id"].as_str().unwrap());
    let read = app.get(&bob, &path).await.expect(200);
    conforms("get_message", 200, &read);
    assert_eq!((&read["flags"], &read["embeds"]), (&json!(10), &json!([])));
    assert_ne!(read["content"], "bigger news");
    let (name, update) = app.events(home.id).await.pop().unwrap();
    assert_eq!((name, &update["flags"]), ("MESSAGE_UPDATE", &json!(10)));
}

/// An address that serves a picture, and how often it was asked for.
async fn picture_elsewhere() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, crowd) = (asked.clone(), asked.clone());
    let counted = move || {
        crowd.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>()
    };
    let router = Router::new()
        .route("/slow.png", get(std::future::pending::<()>))
        .route("/crowd.png", get(counted))
        .route("/text.png", get(|| async { "no picture" }))
        .fallback(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { png(40, 40) }
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (origin, asked)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhooks_message_shows_the_picture_it_names(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (made, url) = webhook(&app, &alice, hall).await;
    let url = format!("{url}?wait=true");
    let (elsewhere, asked) = picture_elsewhere().await;
    let send = async |picture: &str| {
        let body = json!({ "content": "hi", "username": "Bridge", "avatar_url": picture });
        anonymously(&app, Method::POST, &url, body)
            .await
            .expect(200)
    };
    let first = send(&format!("{elsewhere}/a.png")).await;
    conforms("execute_webhook", 200, &first);
    let hash = first["author"]["avatar"].as_str().unwrap().to_owned();
    assert_eq!(first["author"]["username"], "Bridge");
    let id = made["id"].as_str().unwrap();
    let picture = format!("/avatars/{id}/{hash}.png");
    assert_eq!(
        app.fetch(&picture).await.bytes().await.unwrap(),
        png(40, 40)
    );
    // An address is asked once for a while.
    let second = send(&format!("{elsewhere}/a.png")).await;
    assert_eq!(second["author"]["avatar"], hash);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // What is no picture in time is left out.
    for nothing in ["text.png", "slow.png"] {
        let plain = send(&format!("{elsewhere}/{nothing}")).await;
        assert_eq!(plain["author"]["avatar"], Value::Null);
    }
    assert_eq!(
        send("http://[::1]:1/").await["author"]["avatar"],
        Value::Null
    );

    // It is kept while a message shows it, and survives an edit.
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
    let messages = format!("/channels/{}/messages", hall.general);
    let at = |message: &Value| format!("/messages/{}", message["id"].as_str().unwrap());
    let (url, _) = url.split_once('?').unwrap();
    app.delete(&alice, &format!("{messages}{}", &at(&first)[9..]))
        .await
        .expect(204);
    let body = json!({ "content": "edited" });
    let path = format!("{url}{}", at(&second));
    anonymously(&app, Method::PATCH, &path, body)
        .await
        .expect(200);
    app.collect().await;
    assert_eq!(app.fetch(&picture).await.status(), 200);
    app.send(app.request(Method::DELETE, &path))
        .await
        .expect(204);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
    // Gone from here, it is fetched anew.
    let third = send(&format!("{elsewhere}/a.png")).await;
    assert_eq!(third["author"]["avatar"], hash);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_picture_that_there_was_no_time_to_ask_for_is_asked_for_by_the_next_message(db: PgPool) {
    /// Requests to one host at once.
    const PLACES: usize = 32;
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (_, url) = webhook(&app, &alice, hall).await;
    let url = format!("{url}?wait=true");
    let (elsewhere, asked) = picture_elsewhere().await;
    let send = async |picture: &str| {
        let body = json!({ "content": "hi", "avatar_url": format!("{elsewhere}/{picture}") });
        let sent = anonymously(&app, Method::POST, &url, body).await;
        sent.expect(200)["author"]["avatar"].clone()
    };
    let crowd = join_all((0..PLACES).map(|_| send("crowd.png")));
    let late = async {
        while asked.load(Ordering::SeqCst) < PLACES {
            tokio::task::yield_now().await;
        }
        send("a.png").await
    };
    tokio::join!(crowd, late);
    assert!(send("a.png").await.is_string());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bots_webhook_keeps_its_token_from_people(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let bot = app.bot(&alice, "bot").await;
    app.join(&bot, hall).await;
    app.grant(&bot, hall, Permissions::MANAGE_WEBHOOKS).await;
    let (made, _) = webhook(&app, &bot, hall).await;
    assert_eq!(made["application_id"], bot.id.to_string());
    let one = format!("/webhooks/{}", made["id"].as_str().unwrap());
    assert!(
        app.get(&alice, &one)
            .await
            .expect(200)
            .get("token")
            .is_none()
    );
    assert_eq!(
        app.get(&bot, &one).await.expect(200)["token"],
        made["token"]
    );
}
