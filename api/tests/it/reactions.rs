use guildhall_shared::{
    Id, Permissions,
    envelope::Visibility,
    gateway::Intents,
    id::marker::{Channel, Role},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{self, TestApp, TestGuild, TestUser},
    log,
    media::{data_uri, png},
};

const THUMB: &str = "%F0%9F%91%8D";
const HEART: &str = "%E2%9D%A4%EF%B8%8F";

/// Alice owns the guild, bob is a member; a message of alice.
async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild, String) {
    let (alice, bob, hall) = harness::hall(app).await;
    let path = format!("/channels/{}/messages", hall.general);
    let sent = app.post(&alice, &path, json!({ "content": "hi" })).await;
    let id = sent.expect(200)["id"].as_str().unwrap().to_owned();
    (alice, bob, hall, format!("{path}/{id}"))
}

async fn react(app: &TestApp, user: &TestUser, message: &str, emoji: &str) {
    let path = format!("{message}/reactions/{emoji}/@me");
    app.put(user, &path, Value::Null).await.expect(204);
}

async fn deny(
    app: &TestApp,
    by: &TestUser,
    channel: Id<Channel>,
    role: Id<Role>,
    bits: Permissions,
) {
    let path = format!("/channels/{channel}/permissions/{role}");
    app.put(by, &path, json!({ "type": 0, "allow": "0", "deny": bits }))
        .await
        .expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_reaction_is_counted_listed_and_told(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, message) = hall(&app).await;
    react(&app, &bob, &message, THUMB).await;
    react(&app, &bob, &message, THUMB).await;
    react(&app, &alice, &message, THUMB).await;
    react(&app, &alice, &message, HEART).await;

    let read = app.get(&bob, &message).await.expect(200);
    conforms("get_message", 200, &read);
    let reactions = &read["reactions"];
    assert_eq!(reactions.as_array().unwrap().len(), 2);
    assert_eq!(reactions[0]["emoji"], json!({ "id": null, "name": "👍" }));
    assert_eq!(reactions[0]["count"], 2);
    let counts = json!({ "normal": 2, "burst": 0 });
    assert_eq!(reactions[0]["count_details"], counts);
    assert_eq!(reactions[0]["me"], true);
    assert_eq!(reactions[1]["me"], false);

    let list = format!("{message}/reactions/{THUMB}");
    let users = app.get(&alice, &list).await.expect(200);
    conforms("list_message_reactions_by_emoji", 200, &users);
    let ids: Vec<&str> = users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [alice.id.to_string(), bob.id.to_string()]);
    let rest = format!("{list}?after={}&limit=1", alice.id);
    let rest = app.get(&alice, &rest).await.expect(200);
    assert_eq!(rest.as_array().unwrap().len(), 1);
    assert_eq!(rest[0]["id"], bob.id.to_string());

    let events = app.events(hall.id).await;
    let names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    let add = "MESSAGE_REACTION_ADD";
    assert_eq!(names, ["MESSAGE_CREATE", add, add, add]);
    let added = &events[1].1;
    assert_eq!(added["user_id"], bob.id.to_string());
    assert_eq!(added["message_author_id"], alice.id.to_string());
    assert_eq!(added["guild_id"], hall.id.to_string());
    assert_eq!(added["member"]["user"]["username"], "bob");
    assert_eq!(added["emoji"], json!({ "id": null, "name": "👍" }));
    assert_eq!(
        (&added["burst"], &added["type"]),
        (&json!(false), &json!(0))
    );
    let vis = Visibility::channel(hall.general, Intents::GUILD_MESSAGE_REACTIONS);
    assert_eq!(log::newest(&app, hall.id).await, (add, vis));
}

#[sqlx::test(migrations = "../migrations")]
async fn burst_reactions_are_counted_apart(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, message) = hall(&app).await;
    react(&app, &bob, &message, THUMB).await;
    let burst = format!("{message}/reactions/{THUMB}/@me?type=1");
    app.put(&bob, &burst, Value::Null).await.expect(204);
    let read = app.get(&bob, &message).await.expect(200);
    let thumb = &read["reactions"][0];
    assert_eq!(thumb["count"], 2);
    assert_eq!(
        (&thumb["me"], &thumb["me_burst"]),
        (&json!(true), &json!(true))
    );
    let bursts = format!("{message}/reactions/{THUMB}?type=1");
    let users = app.get(&alice, &bursts).await.expect(200);
    assert_eq!(users.as_array().unwrap().len(), 1);

    let typed = format!("{message}/reactions/{THUMB}/1/@me");
    app.delete(&bob, &typed).await.expect(204);
    let read = app.get(&bob, &message).await.expect(200);
    let counts = json!({ "normal": 1, "burst": 0 });
    assert_eq!(read["reactions"][0]["count_details"], counts);
    let typed = format!("{message}/reactions/{THUMB}/0/{}", bob.id);
    app.delete(&alice, &typed).await.expect(204);
    let read = app.get(&bob, &message).await.expect(200);
    assert!(read.get("reactions").is_none());
    let events = app.events(hall.id).await;
    assert_eq!(events[2].1["burst"], true);
    assert_eq!(events[3].0, "MESSAGE_REACTION_REMOVE");
    assert_eq!(
        (&events[3].1["type"], &events[4].1["type"]),
        (&json!(1), &json!(0))
    );
    let wrong = format!("{message}/reactions/{THUMB}/2/@me");
    app.delete(&bob, &wrong)
        .await
        .expect_fault("reaction_type", "BASE_TYPE_CHOICES");
}

#[sqlx::test(migrations = "../migrations")]
async fn reactions_go_one_by_one_by_emoji_and_all_at_once(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, message) = hall(&app).await;
    for emoji in [THUMB, HEART, "%F0%9F%8E%89"] {
        react(&app, &bob, &message, emoji).await;
        react(&app, &alice, &message, emoji).await;
    }
    let own = format!("{message}/reactions/{THUMB}/@me");
    app.delete(&bob, &own).await.expect(204);
    app.delete(&bob, &own).await.expect(204);
    app.delete(&alice, &format!("{message}/reactions/{HEART}"))
        .await
        .expect(204);
    let read = app.get(&bob, &message).await.expect(200);
    let left: Vec<(&str, u64)> = read["reactions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (
                r["emoji"]["name"].as_str().unwrap(),
                r["count"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(left, [("👍", 1), ("🎉", 2)]);
    let all = format!("{message}/reactions");
    app.delete(&alice, &all).await.expect(204);
    app.delete(&alice, &all).await.expect(204);
    let names = app.event_names(hall.id).await;
    assert_eq!(
        names[7..],
        [
            "MESSAGE_REACTION_REMOVE",
            "MESSAGE_REACTION_REMOVE_EMOJI",
            "MESSAGE_REACTION_REMOVE_ALL"
        ]
    );
    // What was cleared can be given again.
    react(&app, &bob, &message, THUMB).await;
    let read = app.get(&bob, &message).await.expect(200);
    assert_eq!(read["reactions"][0]["count"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn reactions_that_are_not_allowed_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, message) = hall(&app).await;
    let at = |emoji: &str| format!("{message}/reactions/{emoji}/@me");
    for wrong in ["x", "blob:5", "%F0%9F%91%8D%F0%9F%91%8D"] {
        app.put(&bob, &at(wrong), Value::Null)
            .await
            .expect_error(400, 10014);
    }
    let unknown = format!(
        "/channels/{}/messages/5/reactions/{THUMB}/@me",
        hall.general
    );
    app.put(&bob, &unknown, Value::Null)
        .await
        .expect_error(404, 10008);
    let others = format!("{message}/reactions/{THUMB}/{}", alice.id);
    app.delete(&bob, &others).await.expect_error(403, 50013);
    app.delete(&bob, &format!("{message}/reactions"))
        .await
        .expect_error(403, 50013);
    let anonymous = app.request(Method::PUT, &at(THUMB));
    app.send(anonymous).await.expect_error(401, 0);

    deny(
        &app,
        &alice,
        hall.general,
        hall.id.cast(),
        Permissions::ADD_REACTIONS,
    )
    .await;
    app.put(&bob, &at(THUMB), Value::Null)
        .await
        .expect_error(403, 50013);
    react(&app, &alice, &message, THUMB).await;
    // Somebody's emoji may be used by everyone who reads the history.
    react(&app, &bob, &message, THUMB).await;

    for code in 0..19u32 {
        let emoji = char::from_u32(0x1F600 + code).unwrap().to_string();
        let bytes: String = emoji.bytes().map(|byte| format!("%{byte:02X}")).collect();
        react(&app, &alice, &message, &bytes).await;
    }
    app.put(&alice, &at(HEART), Value::Null)
        .await
        .expect_error(400, 30010);
    deny(
        &app,
        &alice,
        hall.general,
        hall.id.cast(),
        Permissions::VIEW_CHANNEL,
    )
    .await;
    app.put(&bob, &at(THUMB), Value::Null)
        .await
        .expect_error(403, 50001);
    let list = format!("{message}/reactions/{THUMB}");
    app.get(&bob, &list).await.expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_emoji_of_some_roles_is_for_their_holders(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall, message) = hall(&app).await;
    let role = app.grant(&bob, hall, Permissions::empty()).await;
    let emojis = format!("/guilds/{}/emojis", hall.id);
    let body = json!({ "name": "badge", "image": data_uri(&png(8, 8)), "roles": [role] });
    let made = app.post(&alice, &emojis, body).await.expect(201);
    let badge = format!("badge:{}", made["id"].as_str().unwrap());
    let messages = format!("/channels/{}/messages", hall.general);
    let poll = json!({ "poll": {
        "question": { "text": "Who?" },
        "answers": [{ "poll_media": { "text": "We", "emoji": { "id": made["id"] } } }],
    } });
    // Nor for the owner, who has none.
    app.put(
        &alice,
        &format!("{message}/reactions/{badge}/@me"),
        Value::Null,
    )
    .await
    .expect_error(400, 10014);
    app.post(&alice, &messages, poll.clone())
        .await
        .expect_error(400, 520004);
    app.post(&bob, &messages, poll).await.expect(200);
    react(&app, &bob, &message, &badge).await;
    // What is there may be joined by everyone.
    react(&app, &alice, &message, &badge).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn reactions_of_a_deleted_message_leave_nothing_to_see(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, message) = hall(&app).await;
    react(&app, &bob, &message, THUMB).await;
    app.delete(&alice, &message).await.expect(204);
    let counts: i64 = sqlx::query_scalar("select count(*) from reaction_count")
        .fetch_one(&app.db)
        .await
        .unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from message_leftover")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!((counts, left), (0, 1));
}
