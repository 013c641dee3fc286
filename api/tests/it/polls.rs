use guildhall_shared::{envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, hall},
    log,
};

fn poll(multiple: bool) -> Value {
    json!({ "poll": {
        "question": { "text": " Tea? " },
        "answers": [
            { "poll_media": { "text": "yes", "emoji": { "name": "👍" } } },
            { "poll_media": { "text": "no" } },
            { "poll_media": { "text": "later" } },
        ],
        "duration": 1,
        "allow_multiselect": multiple,
    } })
}

/// A poll of alice's; the path of its message and the path of its votes.
async fn open(
    app: &TestApp,
    alice: &TestUser,
    hall: TestGuild,
    multiple: bool,
) -> (String, String) {
    let path = format!("/channels/{}/messages", hall.general);
    let sent = app.post(alice, &path, poll(multiple)).await.expect(200);
    conforms("create_message", 200, &sent);
    assert_eq!(sent["poll"]["question"], json!({ "text": "Tea?" }));
    assert_eq!(sent["poll"]["answers"][2]["answer_id"], 3);
    let id = sent["id"].as_str().unwrap();
    let polls = format!("/channels/{}/polls/{id}", hall.general);
    (format!("{path}/{id}"), polls)
}

async fn vote(app: &TestApp, user: &TestUser, polls: &str, answers: Value) {
    let path = format!("{polls}/answers/@me");
    app.put(user, &path, json!({ "answer_ids": answers }))
        .await
        .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn votes_are_counted_listed_and_told(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (message, polls) = open(&app, &alice, hall, true).await;
    vote(&app, &bob, &polls, json!(["1", 2])).await;
    vote(&app, &alice, &polls, json!([1])).await;
    vote(&app, &bob, &polls, json!(["1", "3"])).await;
    let read = app.get(&bob, &message).await.expect(200);
    conforms("get_message", 200, &read);
    assert_eq!(
        read["poll"]["results"],
        json!({ "is_finalized": false, "answer_counts": [
            { "id": 1, "count": 2, "me_voted": true }, { "id": 3, "count": 1, "me_voted": true },
        ] })
    );
    let voters = app
        .get(&bob, &format!("{polls}/answers/1"))
        .await
        .expect(200);
    conforms("get_answer_voters", 200, &voters);
    assert_eq!(voters["users"][0]["id"], alice.id.to_string());
    let rest = format!("{polls}/answers/1?after={}&limit=1", alice.id);
    let rest = app.get(&bob, &rest).await.expect(200);
    assert_eq!(rest["users"][0]["id"], bob.id.to_string());

    let events = app.events(hall.id).await;
    let told: Vec<(&str, i64)> = events[1..]
        .iter()
        .map(|(name, body)| (*name, body["answer_id"].as_i64().unwrap()))
        .collect();
    let (add, remove) = ("MESSAGE_POLL_VOTE_ADD", "MESSAGE_POLL_VOTE_REMOVE");
    assert_eq!(told, [(add, 1), (add, 2), (add, 1), (remove, 2), (add, 3)]);
    let vis = Visibility::channel(hall.general, Intents::GUILD_MESSAGE_POLLS);
    assert_eq!(log::newest(&app, hall.id).await, (add, vis));
    let bare = log::envelopes(&app.db, hall.id).await[0]
        .alt
        .clone()
        .unwrap();
    let bare: Value = serde_json::from_slice(&bare.body).unwrap();
    assert!(bare.get("poll").is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn the_author_ends_a_poll_and_the_result_is_told(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (message, polls) = open(&app, &alice, hall, false).await;
    vote(&app, &bob, &polls, json!([2])).await;
    let expire = format!("{polls}/expire");
    app.post(&bob, &expire, Value::Null)
        .await
        .expect_error(403, 50005);
    let ended = app.post(&alice, &expire, Value::Null).await.expect(200);
    conforms("poll_expire", 200, &ended);
    assert_eq!(ended["poll"]["results"]["is_finalized"], true);
    app.post(&alice, &expire, Value::Null)
        .await
        .expect_error(400, 520001);
    let path = format!("{polls}/answers/@me");
    app.put(&bob, &path, json!({ "answer_ids": [] }))
        .await
        .expect_error(400, 520001);
    let events = app.events(hall.id).await;
    let (name, updated) = &events[2];
    assert_eq!(*name, "MESSAGE_UPDATE");
    assert_eq!(
        updated["poll"]["results"]["answer_counts"][0]["me_voted"],
        false
    );
    let (name, result) = &events[3];
    assert_eq!((*name, &result["type"]), ("MESSAGE_CREATE", &json!(46)));
    assert_eq!(result["message_reference"]["message_id"], ended["id"]);
    let fields = result["embeds"][0]["fields"].as_array().unwrap();
    let value = |name: &str| {
        let field = fields.iter().find(|field| field["name"] == name);
        field.map(|field| field["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(value("victor_answer_text").as_deref(), Some("no"));
    assert_eq!(value("total_votes").as_deref(), Some("1"));
    let read = app.get(&alice, &message).await.expect(200);
    assert_eq!(read["poll"]["expiry"], ended["poll"]["expiry"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_poll_ends_by_itself_when_its_time_is_over(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let (message, polls) = open(&app, &alice, hall, false).await;
    let (later, _) = open(&app, &alice, hall, false).await;
    vote(&app, &bob, &polls, json!([2])).await;
    let (_, id) = message.rsplit_once('/').unwrap();
    sqlx::query("update poll set expires_at = now() - interval '1 second' where message_id = $1")
        .bind(id.parse::<i64>().unwrap())
        .execute(&app.db)
        .await
        .unwrap();
    let own = format!("{polls}/answers/@me");
    app.put(&bob, &own, json!({ "answer_ids": [1] }))
        .await
        .expect_error(400, 520001);
    let before = app.events(hall.id).await.len();

    // Two processes do it once.
    let (first, second) = tokio::join!(app.app.end_polls(), app.app.end_polls());
    first.and(second).unwrap();

    let events = app.events(hall.id).await;
    let names: Vec<&str> = events[before..].iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["MESSAGE_UPDATE", "MESSAGE_CREATE"]);
    let (updated, result) = (&events[before].1, &events[before + 1].1);
    assert_eq!(updated["id"], *id);
    assert_eq!(updated["poll"]["results"]["is_finalized"], true);
    assert_eq!(result["type"], 46);
    assert_eq!(result["message_reference"]["message_id"], *id);
    let later = app.get(&bob, &later).await.expect(200);
    assert_eq!(later["poll"]["results"]["is_finalized"], false);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_votes_in_an_archived_thread(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let threads = format!("/channels/{}/threads", hall.general);
    let body = json!({ "name": "x", "type": 11 });
    let thread = app.post(&alice, &threads, body).await.expect(201);
    let thread = format!("/channels/{}", thread["id"].as_str().unwrap());
    let messages = format!("{thread}/messages");
    let sent = app.post(&alice, &messages, poll(false)).await.expect(200);
    let polls = format!("{thread}/polls/{}", sent["id"].as_str().unwrap());
    vote(&app, &bob, &polls, json!([1])).await;
    app.patch(&alice, &thread, json!({ "archived": true }))
        .await
        .expect(200);
    let path = format!("{polls}/answers/@me");
    app.put(&bob, &path, json!({ "answer_ids": [2] }))
        .await
        .expect_error(400, 50083);
    app.post(&alice, &format!("{polls}/expire"), Value::Null)
        .await
        .expect_error(400, 50083);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_result_wakes_an_archived_thread_if_there_is_room(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    // The names of what is told when a poll in an archived thread ends; whether it still is archived.
    let end_one = async || {
        let threads = format!("/channels/{}/threads", hall.general);
        let body = json!({ "name": "x", "type": 11 });
        let thread = app.post(&alice, &threads, body).await.expect(201);
        let thread = format!("/channels/{}", thread["id"].as_str().unwrap());
        let messages = format!("{thread}/messages");
        let sent = app.post(&alice, &messages, poll(false)).await.expect(200);
        app.patch(&alice, &thread, json!({ "archived": true }))
            .await
            .expect(200);
        sqlx::query("update poll set expires_at = now() - interval '1 second'")
            .execute(&app.db)
            .await
            .unwrap();
        // As many others as there may be are active, if the test has made them.
        sqlx::query("update thread set archived = false where thread_id <= 1000")
            .execute(&app.db)
            .await
            .unwrap();
        let before = app.events(hall.id).await.len();
        app.app.end_polls().await.unwrap();
        let message = format!("{messages}/{}", sent["id"].as_str().unwrap());
        let ended = app.get(&alice, &message).await.expect(200);
        assert_eq!(ended["poll"]["results"]["is_finalized"], true);
        let read = app.get(&alice, &thread).await.expect(200);
        let names = app.event_names(hall.id).await;
        let is_archived = read["thread_metadata"]["archived"] == true;
        (names[before..].to_vec(), is_archived)
    };
    let (told, is_archived) = end_one().await;
    assert_eq!(
        told,
        [
            "THREAD_UPDATE",
            "THREAD_MEMBER_UPDATE",
            "MESSAGE_UPDATE",
            "MESSAGE_CREATE"
        ]
    );
    assert!(!is_archived);

    let (guild, parent, owner) = (hall.id, hall.general, alice.id);
    let others = format!(
        "insert into channel (channel_id, guild_id, kind, name, parent_id)
         select n, {guild}, 11, 'thread', {parent} from generate_series(1, 1000) n;
         insert into thread (thread_id, guild_id, parent_id, owner_id, archived,
                             auto_archive_minutes)
         select n, {guild}, {parent}, {owner}, true, 60 from generate_series(1, 1000) n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(others))
        .execute(&app.db)
        .await
        .unwrap();
    let (told, is_archived) = end_one().await;
    assert_eq!(told, ["MESSAGE_UPDATE", "MESSAGE_CREATE"]);
    assert!(is_archived);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_poll_that_cannot_be_ended_holds_up_no_other(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let (stuck, _) = open(&app, &alice, hall, false).await;
    let (other, _) = open(&app, &alice, hall, false).await;
    let (_, id) = stuck.rsplit_once('/').unwrap();
    let over = format!(
        "update poll set expires_at = now() - case when message_id = {id} then interval '2 s'
                                                   else interval '1 s' end"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(over))
        .execute(&app.db)
        .await
        .unwrap();
    let first = format!("new.message_id = {id}");
    app.refuse("update", "poll", &first).await;
    app.app.end_polls().await.unwrap();
    for (message, ended) in [(stuck, false), (other, true)] {
        let read = app.get(&alice, &message).await.expect(200);
        assert_eq!(read["poll"]["results"]["is_finalized"], ended);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn hours_may_be_written_as_a_fraction(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let lasting = |hours: f64| {
        let mut body = poll(false);
        body["poll"]["duration"] = json!(hours);
        body
    };
    app.post(&alice, &path, lasting(2.0)).await.expect(200);
    let reply = app.post(&alice, &path, lasting(1.5)).await;
    reply.expect_fault("poll.duration", "NUMBER_TYPE_COERCE");
}

#[sqlx::test(migrations = "../migrations")]
async fn polls_that_are_wrong_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let answers: Vec<Value> = (0..11)
        .map(|n| json!({ "poll_media": { "text": n.to_string() } }))
        .collect();
    for (poll, at, code) in [
        (json!({}), "poll.question", "BASE_TYPE_REQUIRED"),
        (
            json!({ "question": { "text": "x".repeat(301) }, "answers": [] }),
            "poll.question.text",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "question": { "text": "x" }, "answers": answers }),
            "poll.answers",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "question": { "text": "x" }, "answers": [{ "poll_media": { "text": "x".repeat(56) } }] }),
            "poll.answers.0.poll_media.text",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "question": { "text": "x" }, "answers": answers[..2], "duration": 769 }),
            "poll.duration",
            "NUMBER_TYPE_MAX",
        ),
    ] {
        app.post(&bob, &path, json!({ "poll": poll }))
            .await
            .expect_fault(at, code);
    }
    let (message, polls) = open(&app, &alice, hall, false).await;
    let own = format!("{polls}/answers/@me");
    app.put(&bob, &own, json!({ "answer_ids": [1, 2] }))
        .await
        .expect_error(400, 520000);
    app.put(&bob, &own, json!({ "answer_ids": [4] }))
        .await
        .expect_fault("answer_ids", "BASE_TYPE_CHOICES");
    app.patch(&alice, &message, json!({ "content": "x" }))
        .await
        .expect_error(400, 520003);
    let plain = app.post(&alice, &path, json!({ "content": "x" })).await;
    let plain = plain.expect(200)["id"].as_str().unwrap().to_owned();
    let expire = format!("/channels/{}/polls/{plain}/expire", hall.general);
    app.post(&alice, &expire, Value::Null)
        .await
        .expect_error(400, 520006);
    let bot = app.bot(&alice, "bot").await;
    app.join(&bot, hall).await;
    app.put(&bot, &own, json!({ "answer_ids": [1] }))
        .await
        .expect_error(403, 20001);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_enforced_nonce_makes_one_poll(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let mut body = poll(false);
    body["nonce"] = json!("n");
    body["enforce_nonce"] = json!(true);
    let first = app.post(&alice, &path, body.clone()).await.expect(200);
    let again = app.post(&alice, &path, body.clone()).await.expect(200);
    assert_eq!((&again["id"], &again["nonce"]), (&first["id"], &json!("n")));
    // A message without a poll is one of them as well.
    let text = json!({ "content": "x", "nonce": "n", "enforce_nonce": true });
    let again = app.post(&alice, &path, text).await.expect(200);
    assert_eq!(again["id"], first["id"]);
    assert_eq!(app.event_names(hall.id).await, ["MESSAGE_CREATE"]);
    let bobs = app.post(&bob, &path, body).await.expect(200);
    assert_ne!(bobs["id"], first["id"]);
}
