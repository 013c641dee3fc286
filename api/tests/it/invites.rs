use guildhall_shared::{
    Permissions,
    envelope::{Scope, Visibility},
    gateway::Intents,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::{conforms, libraries_read},
    harness::{TestApp, TestGuild, TestUser, alone},
    log,
    sessions::change_meanwhile,
};

async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild) {
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "Hall").await;
    (alice, bob, hall)
}

async fn invite(app: &TestApp, by: &TestUser, guild: TestGuild, body: Value) -> String {
    let path = format!("/channels/{}/invites", guild.general);
    let made = app.post(by, &path, body).await.expect(200);
    conforms("create_channel_invite", 200, &made);
    format!("/invites/{}", made["code"].as_str().unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn an_invite_brings_somebody_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({})).await;
    let shown = app
        .send(app.request(Method::GET, &format!("{path}?with_counts=true")))
        .await
        .expect(200);
    conforms("invite_resolve", 200, &shown);
    assert_eq!(shown["guild"]["name"], "Hall");
    assert_eq!(shown["approximate_member_count"], 1);
    assert!(shown.get("uses").is_none());

    let accepted = app.post(&bob, &path, json!({})).await.expect(200);
    assert_eq!(accepted["new_member"], true);
    app.get(&bob, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    let again = app.post(&bob, &path, json!({})).await.expect(200);
    assert_eq!(again["new_member"], false);

    let events = app.events(hall.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["INVITE_CREATE", "GUILD_MEMBER_ADD", "MESSAGE_CREATE"]
    );
    assert_eq!(events[0].1["type"], 0);
    for (name, body) in &events {
        libraries_read(name, body);
    }
    assert_eq!(events[1].1["user"]["id"], bob.id.to_string());
    assert_eq!(events[1].1["guild_id"], hall.id.to_string());
    assert_eq!(events[2].1["type"], 7);
    assert_eq!(events[2].1["author"]["id"], bob.id.to_string());
    let joined = ("user joined guild", json!({ "guild_id": hall.id }));
    assert_eq!(app.events(bob.id).await, [joined]);
    let scope = Scope::Permissions {
        any_of: Permissions::MANAGE_CHANNELS,
        channel: Some(hall.general),
    };
    let stored = log::envelopes(&app.db, hall.id).await;
    assert_eq!(stored[0].vis, Visibility::of(scope, Intents::GUILD_INVITES));
    assert_eq!(stored[1].vis, Visibility::realm(Intents::GUILD_MEMBERS));

    let list = app
        .get(&alice, &format!("/guilds/{}/invites", hall.id))
        .await
        .expect(200);
    conforms("list_guild_invites", 200, &list);
    assert_eq!(list[0]["uses"], 1);
    let list = app
        .get(&alice, &format!("/channels/{}/invites", hall.general))
        .await
        .expect(200);
    conforms("list_channel_invites", 200, &list);
    let join_message = &events[2].1;
    let edit = format!(
        "/channels/{}/messages/{}",
        hall.general,
        join_message["id"].as_str().unwrap()
    );
    app.patch(&bob, &edit, json!({ "content": "x" }))
        .await
        .expect_error(403, 50021);
}

#[sqlx::test(migrations = "../migrations")]
async fn invites_are_for_who_may_make_them(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/invites", hall.general);
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 50001);
    app.join(&bob, hall).await;
    let everyone = format!("/guilds/{0}/roles/{0}", hall.id);
    app.patch(
        &alice,
        &everyone,
        json!({ "permissions": Permissions::VIEW_CHANNEL }),
    )
    .await
    .expect(200);
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 50013);
    app.get(&bob, &path).await.expect_error(403, 50013);
    app.get(&bob, &format!("/guilds/{}/invites", hall.id))
        .await
        .expect_error(403, 50013);
    app.post(&alice, &path, json!({ "max_uses": 101 }))
        .await
        .expect_fault("max_uses", "NUMBER_TYPE_MAX");
    app.post(&alice, &path, json!({ "max_age": 604_801 }))
        .await
        .expect_fault("max_age", "NUMBER_TYPE_MAX");
    app.post(&alice, "/channels/5/invites", json!({}))
        .await
        .expect_error(404, 10003);

    let first = invite(&app, &alice, hall, json!({})).await;
    assert_eq!(invite(&app, &alice, hall, json!({})).await, first);
    assert_ne!(
        invite(&app, &alice, hall, json!({ "unique": true })).await,
        first
    );
    assert_ne!(
        invite(&app, &alice, hall, json!({ "max_uses": 2 })).await,
        first
    );
    app.delete(&bob, &first).await.expect_error(403, 50013);
    let revoked = app.delete(&alice, &first).await.expect(200);
    conforms("invite_revoke", 200, &revoked);
    app.get(&alice, &first).await.expect_error(404, 10006);
    app.post(&bob, &first, json!({}))
        .await
        .expect_error(404, 10006);
    assert_eq!(log::newest(&app, hall.id).await.0, "INVITE_DELETE");
}

#[sqlx::test(migrations = "../migrations")]
async fn bots_and_the_banned_stay_outside(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    let path = invite(&app, &alice, hall, json!({})).await;
    app.post(&bot, &path, json!({}))
        .await
        .expect_error(403, 20001);
    sqlx::query("insert into ban (guild_id, user_id) values ($1, $2)")
        .bind(hall.id.to_db())
        .bind(bob.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 40007);
    app.post_anonymously(&path, json!({}))
        .await
        .expect_error(401, 0);
    assert!(app.events(bob.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn an_invite_is_used_as_often_as_it_says(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({ "max_uses": 2 })).await;
    let mut joining = tokio::task::JoinSet::new();
    let app = std::sync::Arc::new(app);
    for n in 0..6 {
        let user = app.user(&format!("user{n}")).await;
        let (app, path) = (app.clone(), path.clone());
        joining.spawn(async move { app.post(&user, &path, json!({})).await.status.as_u16() });
    }
    let mut replies = joining.join_all().await;
    replies.sort_unstable();
    assert_eq!(replies, [200, 200, 404, 404, 404, 404]);
    let names = app.event_names(hall.id).await;
    assert_eq!(
        names
            .iter()
            .filter(|&&name| name == "GUILD_MEMBER_ADD")
            .count(),
        2
    );
    assert_eq!(names.last(), Some(&"INVITE_DELETE"));
}

#[sqlx::test(migrations = "../migrations")]
async fn only_an_invite_to_the_same_is_given_again(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let first = invite(&app, &alice, hall, json!({})).await;
    assert_eq!(invite(&app, &alice, hall, json!({})).await, first);
    // From then on it is for those of its list.
    sqlx::query("update invite set targeted = true")
        .execute(&app.db)
        .await
        .unwrap();
    assert_ne!(invite(&app, &alice, hall, json!({})).await, first);

    let rooms = format!("/guilds/{}/channels", hall.id);
    let body = json!({ "name": "games", "type": 2 });
    let room = app.post(&alice, &rooms, body).await.expect(201);
    let path = format!("/channels/{}/invites", room["id"].as_str().unwrap());
    let (chess, cards) = (
        app.bot(&alice, "Chess").await,
        app.bot(&alice, "Cards").await,
    );
    let to = async |application: &TestUser| {
        let body = json!({ "target_type": 2, "target_application_id": application.id });
        app.post(&alice, &path, body).await.expect(200)
    };
    let made = to(&chess).await;
    assert_eq!(to(&chess).await["code"], made["code"]);
    let other = to(&cards).await;
    assert_eq!(other["target_application"]["id"], json!(cards.id));
    assert_eq!(other["target_application"]["summary"], "");
    libraries_read("create_channel_invite", &other);
}

#[sqlx::test(migrations = "../migrations")]
async fn no_invite_leads_to_an_application_that_is_being_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let chess = app.bot(&alice, "Chess").await;
    let rooms = format!("/guilds/{}/channels", hall.id);
    let body = json!({ "name": "games", "type": 2 });
    let room = app.post(&alice, &rooms, body).await.expect(201);
    sqlx::query("update application set deleted_at = now()")
        .execute(&app.db)
        .await
        .unwrap();
    let path = format!("/channels/{}/invites", room["id"].as_str().unwrap());
    let body = json!({ "target_type": 2, "target_application_id": chess.id });
    app.post(&alice, &path, body)
        .await
        .expect_fault("target_application_id", "INVITE_TARGET_INVALID");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_deleted_meanwhile_does_not_come_in(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({})).await;
    let held = app.hold(bob.id).await;
    let come = app.post(&bob, &path, json!({}));
    let deleted = "update account set state = 3 where username = 'bob'";
    let (reply, ()) = tokio::join!(come, change_meanwhile(&app, held, deleted));
    reply.expect_error(404, 10013);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_old_invite_is_unknown(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({ "max_age": 60 })).await;
    sqlx::query("update invite set expires_at = now() - interval '1 second'")
        .execute(&app.db)
        .await
        .unwrap();
    app.get(&bob, &path).await.expect_error(404, 10006);
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(404, 10006);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_came_for_a_visit_leaves_with_their_last_session_unless_given_a_role(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let path = format!("/channels/{}/invites", hall.general);
    let invite = app.post(&alice, &path, json!({ "temporary": true })).await;
    let code = invite.expect(200)["code"].as_str().unwrap().to_owned();
    let mut guests = Vec::new();
    for name in ["bob", "carol", "dave"] {
        let guest = app.user(name).await;
        let accept = format!("/invites/{code}");
        app.post(&guest, &accept, json!({})).await.expect(200);
        guests.push(guest);
    }
    let [bob, carol, dave] = &guests[..] else {
        panic!("three guests");
    };
    let members = async || {
        let rows: Vec<i64> =
            sqlx::query_scalar("select user_id from member where guild_id = $1 order by user_id")
                .bind(hall.id.to_db())
                .fetch_all(&app.db)
                .await
                .unwrap();
        rows
    };
    let seen = async |user: &TestUser, seconds_ago: f64| {
        let done = sqlx::query(
            "update temporary_member set seen_at = now() - make_interval(secs => $2)
             where user_id = $1",
        );
        let done = done.bind(user.id.to_db()).bind(seconds_ago);
        done.execute(&app.db).await.unwrap();
    };
    // Bob is there, Carol has a role, Dave was never seen yet.
    seen(bob, 1.0).await;
    seen(carol, 3600.0).await;
    let role = format!("/guilds/{}/roles", hall.id);
    let role = app.post(&alice, &role, json!({ "name": "crew" })).await;
    let role = role.expect(200)["id"].as_str().unwrap().to_owned();
    let give = format!("/guilds/{}/members/{}/roles/{role}", hall.id, carol.id);
    app.put(&alice, &give, Value::Null).await.expect(204);
    app.app.remove_temporary_members().await.unwrap();
    assert_eq!(members().await.len(), 4);
    seen(bob, 120.0).await;
    app.app.remove_temporary_members().await.unwrap();
    app.app.remove_temporary_members().await.unwrap();
    let left: Vec<i64> = vec![alice.id.to_db(), carol.id.to_db(), dave.id.to_db()];
    let mut expected = left.clone();
    expected.sort_unstable();
    assert_eq!(members().await, expected);
    let newest = app.event_names(hall.id).await.pop().unwrap();
    assert_eq!(newest, "GUILD_MEMBER_REMOVE");
    assert_eq!(app.events(bob.id).await.pop().unwrap().0, "user left guild");
    // Who never came is not waited for without end.
    let done = sqlx::query("update member set joined_at = joined_at - interval '1 hour'");
    done.execute(&app.db).await.unwrap();
    app.app.remove_temporary_members().await.unwrap();
    assert_eq!(members().await.len(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_was_given_the_guild_is_no_temporary_member_any_more(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({ "temporary": true })).await;
    app.post(&bob, &path, json!({})).await.expect(200);
    let guild = format!("/guilds/{}", hall.id);
    app.patch(&alice, &guild, json!({ "owner_id": bob.id }))
        .await
        .expect(200);
    let done = sqlx::query("update temporary_member set seen_at = now() - interval '1 hour'");
    assert_eq!(done.execute(&app.db).await.unwrap().rows_affected(), 1);
    app.app.remove_temporary_members().await.unwrap();
    let kept = app.get(&bob, &guild).await.expect(200);
    assert_eq!(kept["owner_id"], json!(bob.id));
}

#[sqlx::test(migrations = "../migrations")]
async fn who_manages_the_guild_revokes_invites_to_channels_they_do_not_see(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = invite(&app, &alice, hall, json!({})).await;
    app.delete(&bob, &path).await.expect_error(403, 50001);
    app.join(&bob, hall).await;
    let hidden = format!("/channels/{}/permissions/{}", hall.general, hall.id);
    let deny = json!({ "type": 0, "deny": Permissions::VIEW_CHANNEL });
    app.put(&alice, &hidden, deny).await.expect(204);
    app.delete(&bob, &path).await.expect_error(403, 50001);
    app.grant(&bob, hall, Permissions::MANAGE_GUILD).await;
    app.delete(&bob, &path).await.expect(200);
    app.get(&alice, &path).await.expect_error(404, 10006);
}
