use guildhall_shared::{envelope::Visibility, gateway::Intents};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestUser, hall},
    log,
};

/// Alice, Bob and Carol in one guild, friends of each other; a bot there too.
async fn friends(app: &TestApp) -> (TestUser, TestUser, TestUser, TestUser) {
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let carol = app.user("carol").await;
    let bot = app.bot(&alice, "helper").await;
    let hall = app.guild(&alice, "Hall").await;
    for user in [&bob, &carol, &bot] {
        app.join(user, hall).await;
    }
    for (one, other) in [(&alice, &bob), (&alice, &carol), (&bob, &carol)] {
        befriend(app, one, other).await;
    }
    (alice, bob, carol, bot)
}

pub(crate) async fn befriend(app: &TestApp, one: &TestUser, other: &TestUser) {
    relate(app, one, other, 1).await;
    relate(app, other, one, 1).await;
}

async fn relate(app: &TestApp, a: &TestUser, b: &TestUser, kind: i16) {
    sqlx::query(
        "insert into relationship (user_id, other_id, kind) values ($1, $2, $3)
         on conflict (user_id, other_id) do update set kind = $3",
    )
    .bind(a.id.to_db())
    .bind(b.id.to_db())
    .bind(kind)
    .execute(&app.db)
    .await
    .unwrap();
}

fn at(channel: &Value) -> String {
    format!("/channels/{}", channel["id"].as_str().unwrap())
}

async fn dm(app: &TestApp, user: &TestUser, other: &TestUser) -> Value {
    let body = json!({ "recipient_id": other.id });
    app.post(user, "/users/@me/channels", body)
        .await
        .expect(200)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dm_is_made_once_and_opens_for_the_other_with_a_message(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, _) = friends(&app).await;
    let made = dm(&app, &alice, &bob).await;
    conforms("create_dm", 200, &made);
    assert_eq!(made["type"], 1);
    assert_eq!(made["recipients"][0]["id"], json!(bob.id));
    assert_eq!(dm(&app, &bob, &alice).await["id"], made["id"]);
    assert_eq!(dm(&app, &alice, &bob).await["id"], made["id"]);
    let vis = Visibility::users(vec![alice.id]);
    assert_eq!(log::newest(&app, alice.id).await, ("CHANNEL_CREATE", vis));
    app.get(&carol, &at(&made)).await.expect_error(404, 10003);

    app.delete(&bob, &at(&made)).await.expect(200);
    assert_eq!(
        app.get(&bob, "/users/@me/channels").await.expect(200),
        json!([])
    );
    let path = format!("{}/messages", at(&made));
    let sent = app.post(&alice, &path, json!({ "content": "hi" })).await;
    let sent = sent.expect(200);
    conforms("create_message", 200, &sent);
    assert_eq!(
        app.event_names(bob.id).await,
        [
            "CHANNEL_CREATE",
            "CHANNEL_DELETE",
            "CHANNEL_CREATE",
            "MESSAGE_CREATE"
        ]
    );
    for user in [&alice, &bob] {
        let (name, vis) = log::newest(&app, user.id).await;
        assert_eq!(name, "MESSAGE_CREATE");
        assert_eq!(vis, Visibility::realm(Intents::DIRECT_MESSAGES));
        let newest = log::envelopes(&app.db, user.id).await.pop().unwrap();
        let body: Value = serde_json::from_slice(&newest.body).unwrap();
        assert!(body.get("guild_id").is_none() && body.get("member").is_none());
        assert!(newest.alt.is_none());
    }
    let listed = app.get(&bob, "/users/@me/channels").await.expect(200);
    assert_eq!(listed[0]["id"], made["id"]);
    assert_eq!(listed[0]["last_message_id"], sent["id"]);
    let found = format!("/users/@me/dms/{}", alice.id);
    assert_eq!(app.get(&bob, &found).await.expect(200)["id"], made["id"]);
    let found = format!("/users/@me/dms/{}", carol.id);
    app.get(&bob, &found).await.expect_error(404, 10003);
}

#[sqlx::test(migrations = "../migrations")]
async fn messages_of_a_dm_are_edited_and_deleted_by_their_author(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, _) = friends(&app).await;
    let dm = dm(&app, &alice, &bob).await;
    let path = format!("{}/messages", at(&dm));
    let sent = app.post(&alice, &path, json!({ "content": "hi" })).await;
    let one = format!("{path}/{}", sent.expect(200)["id"].as_str().unwrap());
    app.delete(&bob, &one).await.expect_error(403, 50003);
    app.patch(&bob, &one, json!({ "content": "no" }))
        .await
        .expect_error(403, 50005);
    let edited = app.patch(&alice, &one, json!({ "content": "hello" })).await;
    conforms("update_message", 200, &edited.expect(200));
    app.delete(&alice, &one).await.expect(204);
    for user in [&alice, &bob] {
        let names = app.event_names(user.id).await;
        assert_eq!(
            names[names.len() - 3..],
            ["MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE"]
        );
    }
    app.post(&bob, &format!("{}/typing", at(&dm)), json!({}))
        .await
        .expect(204);
    app.post(&bob, &format!("{}/invites", at(&dm)), json!({}))
        .await
        .expect_error(403, 50003);
}

#[sqlx::test(migrations = "../migrations")]
async fn bots_write_to_people_but_not_to_bots(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, bot) = friends(&app).await;
    let other = app.bot(&alice, "other").await;
    let made = dm(&app, &bot, &bob).await;
    let path = format!("{}/messages", at(&made));
    app.post(&bot, &path, json!({ "content": "hi" }))
        .await
        .expect(200);
    assert_eq!(
        app.event_names(bob.id).await,
        ["CHANNEL_CREATE", "MESSAGE_CREATE"]
    );
    assert_eq!(app.event_names(bot.id).await, ["MESSAGE_CREATE"]);
    let create = "/users/@me/channels";
    app.post(&bot, create, json!({ "recipient_id": other.id }))
        .await
        .expect_error(403, 50007);
    app.post(&bot, create, json!({ "recipient_id": bot.id }))
        .await
        .expect_error(400, 50033);
    app.post(&bot, create, json!({}))
        .await
        .expect_fault("recipient_id", "BASE_TYPE_REQUIRED");
    app.get(&bot, create).await.expect_error(403, 20001);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_blocked_or_a_stranger_cannot_write(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, _) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let made = dm(&app, &alice, &bob).await;
    let path = format!("{}/messages", at(&made));
    let sent = app.post(&alice, &path, json!({ "content": "hi" })).await;
    let pin = format!("{path}/pins/{}", sent.expect(200)["id"].as_str().unwrap());
    relate(&app, &bob, &alice, 2).await;
    app.post(&alice, &path, json!({ "content": "hi" }))
        .await
        .expect_error(403, 50007);
    // Nor be heard of otherwise.
    app.put(&alice, &pin, json!({}))
        .await
        .expect_error(403, 50007);
    app.post(&alice, &format!("{}/typing", at(&made)), json!({}))
        .await
        .expect_error(403, 50007);
    let made = dm(&app, &stranger, &bob).await;
    let path = format!("{}/messages", at(&made));
    app.post(&stranger, &path, json!({ "content": "hi" }))
        .await
        .expect_error(403, 50278);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_group_takes_friends_in_and_lets_them_go(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, _) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let body = json!({ "recipients": [bob.id, carol.id] });
    let group = app.post(&alice, "/users/@me/channels", body).await;
    let group = group.expect(200);
    conforms("create_dm", 200, &group);
    assert_eq!(
        (&group["type"], &group["owner_id"]),
        (&json!(3), &json!(alice.id))
    );
    for user in [&alice, &bob, &carol] {
        assert_eq!(app.event_names(user.id).await, ["CHANNEL_CREATE"]);
    }
    let one = |user: &TestUser| format!("{}/recipients/{}", at(&group), user.id);
    app.put(&alice, &one(&stranger), json!({}))
        .await
        .expect_error(400, 50033);
    relate(&app, &bob, &stranger, 1).await;
    app.put(&bob, &one(&stranger), json!({})).await.expect(204);
    assert_eq!(
        app.event_names(stranger.id).await,
        ["CHANNEL_CREATE", "MESSAGE_CREATE"]
    );
    assert_eq!(
        app.event_names(carol.id).await[1..],
        ["CHANNEL_RECIPIENT_ADD", "MESSAGE_CREATE"]
    );
    let renamed = app
        .patch(&carol, &at(&group), json!({ "name": "Us" }))
        .await;
    let renamed = renamed.expect(200);
    conforms("update_channel", 200, &renamed);
    assert_eq!(renamed["name"], "Us");
    app.delete(&bob, &one(&carol))
        .await
        .expect_error(403, 50013);
    app.delete(&alice, &one(&carol)).await.expect(204);
    app.get(&carol, &at(&group)).await.expect_error(404, 10003);
    assert_eq!(
        app.event_names(carol.id).await.pop(),
        Some("CHANNEL_DELETE")
    );
    // The owner leaves: somebody else is it.
    app.delete(&alice, &at(&group)).await.expect(200);
    let left = app.get(&bob, &at(&group)).await.expect(200);
    assert_eq!(left["owner_id"], json!(bob.id));
    let list = app.get(&bob, &format!("{}/messages", at(&group))).await;
    let kinds: Vec<_> = list
        .expect(200)
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["type"].clone())
        .collect();
    assert_eq!(kinds, [json!(2), json!(2), json!(4), json!(1)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_group_has_ten_people_whatever_field_names_them(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let mut friends = Vec::new();
    for n in 0..10 {
        let friend = app.user(&format!("friend{n}")).await;
        relate(&app, &alice, &friend, 1).await;
        friends.push(friend.id);
    }
    let path = "/users/@me/channels";
    let body = json!({ "recipient_id": friends[9], "recipients": friends[..9] });
    app.post(&alice, path, body)
        .await
        .expect_fault("recipients", "BASE_TYPE_BAD_LENGTH");
    let body = json!({ "recipient_id": friends[8], "recipients": friends[..9] });
    let group = app.post(&alice, path, body).await.expect(200);
    assert_eq!(group["recipients"].as_array().unwrap().len(), 9);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_names_themselves_with_a_friend_wants_a_group(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, ..) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let path = "/users/@me/channels";
    let body = json!({ "recipients": [bob.id, alice.id] });
    let group = app.post(&alice, path, body).await.expect(200);
    assert_eq!(
        (&group["type"], &group["owner_id"]),
        (&json!(3), &json!(alice.id))
    );
    assert_eq!(group["recipients"].as_array().unwrap().len(), 1);
    assert_eq!(group["recipients"][0]["id"], json!(bob.id));
    for recipients in [json!([alice.id]), json!([alice.id, stranger.id])] {
        let body = json!({ "recipients": recipients });
        app.post(&alice, path, body).await.expect_error(400, 50033);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dm_becomes_a_group_of_friends_only(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, bot) = friends(&app).await;
    let with_bob = format!(
        "{}/recipients/{}",
        at(&dm(&app, &alice, &bob).await),
        carol.id
    );
    // Bob wants to hear nothing of Alice any more; bots are in no groups.
    relate(&app, &bob, &alice, 2).await;
    sqlx::query("delete from relationship where user_id = $1 and other_id = $2")
        .bind(alice.id.to_db())
        .bind(bob.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    let with_bot = format!(
        "{}/recipients/{}",
        at(&dm(&app, &alice, &bot).await),
        carol.id
    );
    let told = app.event_names(bob.id).await.len();
    for path in [&with_bob, &with_bot] {
        app.put(&alice, path, json!({}))
            .await
            .expect_error(400, 50033);
    }
    assert_eq!(app.event_names(bob.id).await.len(), told);
    befriend(&app, &alice, &bob).await;
    let group = app.put(&alice, &with_bob, json!({})).await.expect(201);
    assert_eq!(group["type"], 3);
    assert_eq!(group["recipients"].as_array().unwrap().len(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_opens_no_doors_while_it_pauses_or_is_restricted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let made = dm(&app, &alice, &bob).await;
    let path = format!("{}/messages", at(&made));
    let write = async |user: &TestUser| {
        let sent = app.post(user, &path, json!({ "content": "hi" })).await;
        (sent.status.as_u16(), sent.body["code"].as_u64())
    };
    let refused = (403, Some(50007));
    assert_eq!(write(&alice).await.0, 200);

    let pause = format!("/guilds/{}/incident-actions", hall.id);
    let soon = guildhall_shared::Timestamp(time::OffsetDateTime::now_utc() + time::Duration::HOUR);
    let body = json!({ "dms_disabled_until": soon });
    app.put(&alice, &pause, body).await.expect(200);
    assert_eq!((write(&alice).await, write(&bob).await), (refused, refused));
    relate(&app, &alice, &bob, 1).await;
    assert_eq!((write(&alice).await.0, write(&bob).await), (200, refused));
    relate(&app, &alice, &bob, 3).await;
    let body = json!({ "dms_disabled_until": null });
    app.put(&alice, &pause, body).await.expect(200);
    assert_eq!(write(&alice).await.0, 200);

    // Bob takes no messages of the hall's members, and may write to them.
    let body = json!({ "restricted_guilds": [hall.id] });
    app.patch(&bob, "/users/@me/settings", body)
        .await
        .expect(200);
    assert_eq!((write(&alice).await, write(&bob).await.0), (refused, 200));
    let other = app.guild(&bob, "Yard").await;
    app.join(&alice, other).await;
    assert_eq!(write(&alice).await.0, 200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_group_has_a_picture_that_anybody_in_it_changes(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, _) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let body = json!({ "recipients": [bob.id, carol.id] });
    let group = app.post(&alice, "/users/@me/channels", body).await;
    let group = group.expect(200);
    let picture = crate::media::data_uri(&crate::media::png(20, 20));
    let body = json!({ "icon": picture, "name": "Crew" });
    let refused = app.patch(&stranger, &at(&group), body.clone()).await;
    refused.expect_error(404, 10003);
    let changed = app.patch(&bob, &at(&group), body.clone()).await.expect(200);
    conforms("update_channel", 200, &changed);
    let icon = changed["icon"].as_str().unwrap();
    let file = format!(
        "/channel-icons/{}/{icon}.png",
        group["id"].as_str().unwrap()
    );
    assert_eq!(app.fetch(&file).await.status(), 200);
    let names = app.event_names(carol.id).await;
    let told = [
        "CHANNEL_CREATE",
        "CHANNEL_UPDATE",
        "MESSAGE_CREATE",
        "MESSAGE_CREATE",
    ];
    assert_eq!(names, told);
    let (_, notice) = app.events(carol.id).await.pop().unwrap();
    assert_eq!(notice["type"], 5);
    // Nothing new is nothing to tell.
    app.patch(&bob, &at(&group), body).await.expect(200);
    assert_eq!(app.event_names(carol.id).await.len(), 4);
    let bad = json!({ "icon": "data:image/png;base64,AA" });
    app.patch(&bob, &at(&group), bad)
        .await
        .expect_fault("icon", "IMAGE_INVALID");
    let none = app
        .patch(&carol, &at(&group), json!({ "icon": null }))
        .await;
    assert_eq!(none.expect(200)["icon"], Value::Null);
    app.app.collect_files().await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_refused_message_opens_no_dm(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, _) = friends(&app).await;
    let made = dm(&app, &alice, &bob).await;
    dm(&app, &bob, &alice).await;
    app.delete(&bob, &at(&made)).await.expect(200);
    let before = app.event_names(bob.id).await;
    let path = format!("{}/messages", at(&made));
    app.post(&alice, &path, json!({ "content": " " }))
        .await
        .expect_error(400, 50006);
    assert_eq!(app.event_names(bob.id).await, before);
    let open = app.get(&bob, "/users/@me/channels").await.expect(200);
    assert_eq!(open, json!([]));
}

/// A group of Alice's with these, and the path of its invites.
async fn group(app: &TestApp, alice: &TestUser, others: &[&TestUser]) -> (Value, String) {
    let others: Vec<_> = others.iter().map(|user| user.id).collect();
    let body = json!({ "recipients": others });
    let made = app.post(alice, "/users/@me/channels", body).await;
    let made = made.expect(200);
    let invites = format!("{}/invites", at(&made));
    (made, invites)
}

async fn invite(app: &TestApp, by: &TestUser, invites: &str, body: Value) -> String {
    let made = app.post(by, invites, body).await.expect(200);
    conforms("create_channel_invite", 200, &made);
    assert_eq!(made["type"], 1);
    assert_eq!(made["inviter"]["id"], json!(by.id));
    format!("/invites/{}", made["code"].as_str().unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn an_invite_brings_a_stranger_into_a_group(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, bot) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let (group, invites) = group(&app, &alice, &[&bob, &carol]).await;
    app.patch(&alice, &at(&group), json!({ "name": "Us" }))
        .await
        .expect(200);
    let one = invite(&app, &bob, &invites, json!({ "max_age": 600 })).await;
    assert_eq!(
        invite(&app, &bob, &invites, json!({ "max_age": 600 })).await,
        one
    );
    let unique = json!({ "max_age": 600, "unique": true });
    assert_ne!(invite(&app, &bob, &invites, unique).await, one);
    let other = invite(&app, &carol, &invites, json!({ "max_age": 600 })).await;
    assert_ne!(other, one);
    for (age, fault) in [(0, "NUMBER_TYPE_MIN"), (604_801, "NUMBER_TYPE_MAX")] {
        app.post(&bob, &invites, json!({ "max_age": age }))
            .await
            .expect_fault("max_age", fault);
    }
    for outsider in [&stranger, &bot] {
        app.post(outsider, &invites, json!({}))
            .await
            .expect_error(404, 10003);
        app.get(outsider, &invites).await.expect_error(404, 10003);
    }
    let uses = async || {
        let list = app.get(&carol, &invites).await.expect(200);
        conforms("list_channel_invites", 200, &list);
        let list = list.as_array().unwrap();
        list.iter()
            .map(|one| one["uses"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(uses().await, [0, 0, 0]);

    let shown = app.request(Method::GET, &format!("{one}?with_counts=true"));
    let shown = app.send(shown).await.expect(200);
    conforms("invite_resolve", 200, &shown);
    let channel = &shown["channel"];
    assert_eq!(
        (&channel["id"], &channel["name"]),
        (&group["id"], &json!("Us"))
    );
    assert_eq!(channel["recipients"].as_array().unwrap().len(), 3);
    assert_eq!(shown["approximate_member_count"], 3);
    assert_eq!((shown.get("guild"), shown.get("uses")), (None, None));

    app.post(&bot, &one, json!({}))
        .await
        .expect_error(403, 20001);
    let taken = app.post(&stranger, &one, json!({})).await.expect(200);
    assert_eq!(taken["new_member"], true);
    assert_eq!(taken["channel"]["id"], group["id"]);
    assert_eq!(
        app.event_names(stranger.id).await,
        ["CHANNEL_CREATE", "MESSAGE_CREATE"]
    );
    for user in [&alice, &bob, &carol] {
        let events = app.events(user.id).await;
        let [.., (added, who), (said, notice)] = &events[..] else {
            panic!("two events");
        };
        assert_eq!((*added, *said), ("CHANNEL_RECIPIENT_ADD", "MESSAGE_CREATE"));
        assert_eq!(who["user"]["id"], json!(stranger.id));
        assert_eq!(notice["type"], 1);
        assert_eq!(notice["author"]["id"], json!(stranger.id));
        assert_eq!(notice["mentions"][0]["id"], json!(stranger.id));
    }
    let read = app.get(&stranger, &at(&group)).await.expect(200);
    assert_eq!(read["recipients"].as_array().unwrap().len(), 3);
    assert_eq!(uses().await, [1, 0, 0]);

    let again = app.post(&stranger, &one, json!({})).await.expect(200);
    assert_eq!(again["new_member"], false);
    assert_eq!(app.event_names(stranger.id).await.len(), 2);
    assert_eq!(uses().await, [1, 0, 0]);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_owns_a_group_or_made_an_invite_to_it_takes_it_back(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, _) = friends(&app).await;
    let stranger = app.user("stranger").await;
    let (group, invites) = group(&app, &alice, &[&bob, &carol]).await;
    let first = invite(&app, &bob, &invites, json!({})).await;
    app.delete(&carol, &first).await.expect_error(403, 50013);
    app.delete(&stranger, &first).await.expect_error(404, 10003);
    for who in [&bob, &alice] {
        let one = invite(&app, &bob, &invites, json!({})).await;
        let revoked = app.delete(who, &one).await.expect(200);
        conforms("invite_revoke", 200, &revoked);
        app.get(&alice, &one).await.expect_error(404, 10006);
        app.post(&stranger, &one, json!({}))
            .await
            .expect_error(404, 10006);
    }

    // Who is taken out does not come back by what they made themselves.
    let own = invite(&app, &bob, &invites, json!({})).await;
    let other = invite(&app, &carol, &invites, json!({})).await;
    let out = format!("{}/recipients/{}", at(&group), bob.id);
    app.delete(&alice, &out).await.expect(204);
    app.post(&bob, &own, json!({}))
        .await
        .expect_error(404, 10006);
    app.get(&bob, &other).await.expect(200);

    relate(&app, &carol, &stranger, 2).await;
    app.post(&stranger, &other, json!({}))
        .await
        .expect_error(404, 10006);
    sqlx::query("update group_invite set expires_at = now() - interval '1 second'")
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&bob, &other, json!({}))
        .await
        .expect_error(404, 10006);
    assert!(app.events(stranger.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn no_invite_leads_into_a_full_group(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let late = app.user("late").await;
    let mut friends = Vec::new();
    for n in 0..9 {
        let friend = app.user(&format!("friend{n}")).await;
        befriend(&app, &alice, &friend).await;
        friends.push(friend);
    }
    let friends: Vec<&TestUser> = friends.iter().collect();
    let (_, invites) = group(&app, &alice, &friends).await;
    let one = invite(&app, &alice, &invites, json!({})).await;
    app.post(&late, &one, json!({}))
        .await
        .expect_error(400, 30004);
    assert!(app.events(late.id).await.is_empty());
}
