use guildhall_shared::{Permissions, Timestamp, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestUser, hall},
    log,
};

#[sqlx::test(migrations = "../migrations")]
async fn bots_with_the_intent_list_members(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let path = format!("/guilds/{}/members", hall.id);
    app.get(&alice, &path).await.expect_error(403, 20002);
    let ids = async |query: &str| -> Vec<String> {
        let list = app.get(&bot, &format!("{path}{query}")).await.expect(200);
        conforms("list_guild_members", 200, &list);
        let id = |member: &Value| member["user"]["id"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(ids("").await, [alice.id.to_string()]);
    assert_eq!(ids("?limit=10").await.len(), 3);
    assert_eq!(
        ids(&format!("?limit=10&after={}", bob.id)).await,
        [bot.id.to_string()]
    );
    assert_eq!(ids("?after=0").await.len(), 1);
    assert_eq!(ids("?after=18446744073709551615").await.len(), 0);
    app.get(&bot, &format!("{path}?limit=1001"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MAX");

    let other = app.bot(&alice, "blind").await;
    app.join(&other, hall).await;
    sqlx::query("update application set flags = 0 where application_id = $1")
        .bind(other.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.get(&other, &path).await.expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn members_are_shown_to_members(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let member = app
        .get(&bob, &format!("/guilds/{}/members/{}", hall.id, alice.id))
        .await
        .expect(200);
    conforms("get_guild_member", 200, &member);
    assert_eq!(member["user"]["username"], "alice");
    app.get(&bob, &format!("/guilds/{}/members/5", hall.id))
        .await
        .expect_error(404, 10013);
    let eve = app.user("eve").await;
    app.get(&bob, &format!("/guilds/{}/members/{}", hall.id, eve.id))
        .await
        .expect_error(404, 10007);
}

#[sqlx::test(migrations = "../migrations")]
async fn nicknames_are_ones_own_or_of_who_stands_below(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let of = |user: &TestUser| format!("/guilds/{}/members/{}", hall.id, user.id);
    let me = format!("/guilds/{}/members/@me", hall.id);
    let own = app
        .patch(&bob, &me, json!({ "nick": " Bobby " }))
        .await
        .expect(200);
    conforms("update_my_guild_member", 200, &own);
    assert_eq!(own["nick"], "Bobby");
    let events = app.events(hall.id).await;
    assert_eq!(events[0].0, "GUILD_MEMBER_UPDATE");
    assert_eq!(events[0].1["guild_id"], hall.id.to_string());
    assert_eq!(events[0].1["user"]["id"], bob.id.to_string());
    assert_eq!(events[0].1["nick"], "Bobby");

    app.patch(&bob, &me, json!({ "nick": "x".repeat(33) }))
        .await
        .expect_fault("nick", "BASE_TYPE_MAX_LENGTH");
    app.patch(&bob, &of(&alice), json!({ "nick": "x" }))
        .await
        .expect_error(403, 50013);
    app.grant(&bob, hall, Permissions::MANAGE_NICKNAMES).await;
    app.patch(&bob, &of(&alice), json!({ "nick": "x" }))
        .await
        .expect_error(403, 50013);
    let renamed = app
        .patch(&alice, &of(&bob), json!({ "nick": null }))
        .await
        .expect(200);
    conforms("update_guild_member", 200, &renamed);
    assert_eq!(renamed["nick"], Value::Null);
    app.patch(&alice, &format!("/guilds/{}/members/5", hall.id), json!({}))
        .await
        .expect_error(404, 10007);
    app.patch(&alice, &of(&bob), json!({ "mute": true }))
        .await
        .expect_error(400, 40032);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_list_of_roles_replaces_the_old_one(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let old = app.grant(&bob, hall, Permissions::empty()).await;
    let role = app
        .post(&alice, &format!("/guilds/{}/roles", hall.id), json!({}))
        .await
        .expect(200);
    let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
    app.patch(&bob, &path, json!({ "roles": [] }))
        .await
        .expect_error(403, 50013);
    let changed = app
        .patch(&alice, &path, json!({ "roles": [role["id"], role["id"]] }))
        .await
        .expect(200);
    assert_eq!(changed["roles"], json!([role["id"]]));
    assert!(!changed["roles"].to_string().contains(&old.to_string()));
    app.patch(&alice, &path, json!({ "roles": ["5"] }))
        .await
        .expect_fault("roles.0", "ROLE_UNKNOWN");
    app.patch(&alice, &path, json!({ "roles": [hall.id] }))
        .await
        .expect_error(400, 50028);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_timeout_silences_until_it_ends(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
    let send = async || {
        app.post(
            &bob,
            &format!("/channels/{}/messages", hall.general),
            json!({ "content": "x" }),
        )
        .await
    };
    send().await.expect(200);
    let until = |seconds| Timestamp(Timestamp::now().0 + time::Duration::seconds(seconds));
    let body = |seconds| json!({ "communication_disabled_until": until(seconds) });
    app.patch(&bob, &path, body(60))
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &path, body(60)).await.expect(200);
    send().await.expect_error(403, 50013);
    app.get(&bob, &format!("/channels/{}/messages", hall.general))
        .await
        .expect(200);
    app.patch(
        &alice,
        &path,
        json!({ "communication_disabled_until": null }),
    )
    .await
    .expect(200);
    send().await.expect(200);
    app.patch(&alice, &path, body(29 * 24 * 3600))
        .await
        .expect_fault("communication_disabled_until", "DATE_TIME_TYPE_TOO_LATE");
    app.patch(
        &alice,
        &path,
        json!({ "communication_disabled_until": "soon" }),
    )
    .await
    .expect_fault("communication_disabled_until", "DATE_TIME_TYPE_PARSE");
    let own = format!("/guilds/{}/members/{}", hall.id, alice.id);
    app.patch(&alice, &own, body(60))
        .await
        .expect_error(403, 50013);
    app.grant(&bob, hall, Permissions::ADMINISTRATOR).await;
    app.patch(&alice, &path, body(60))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_leaves_in_a_timeout_comes_back_in_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/channels/{}/invites", hall.general);
    let invite = app.post(&alice, &path, json!({})).await.expect(200);
    let accept = format!("/invites/{}", invite["code"].as_str().unwrap());
    let leave = format!("/users/@me/guilds/{}", hall.id);
    let back = async || {
        app.delete(&bob, &leave).await.expect(204);
        app.post(&bob, &accept, json!({})).await.expect(200);
    };
    let send = async || {
        let path = format!("/channels/{}/messages", hall.general);
        app.post(&bob, &path, json!({ "content": "x" })).await
    };
    let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
    let until = Timestamp(Timestamp::now().0 + time::Duration::seconds(60));
    let silence = async |until: Option<Timestamp>| {
        let body = json!({ "communication_disabled_until": until });
        app.patch(&alice, &path, body).await.expect(200);
    };
    let silenced = async || {
        let member = app.get(&alice, &path).await.expect(200);
        member["communication_disabled_until"].clone()
    };
    silence(Some(until)).await;
    let before = silenced().await;
    assert_ne!(before, Value::Null);
    for _ in 0..2 {
        back().await;
        assert_eq!(silenced().await, before);
        send().await.expect_error(403, 50013);
    }
    silence(None).await;
    back().await;
    send().await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_kick_is_told_to_the_guild_and_to_the_kicked(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    app.join(&eve, hall).await;
    let of = |user: &TestUser| format!("/guilds/{}/members/{}", hall.id, user.id);
    app.delete(&bob, &of(&eve)).await.expect_error(403, 50013);
    app.grant(&bob, hall, Permissions::KICK_MEMBERS).await;
    app.delete(&bob, &of(&alice)).await.expect_error(403, 50013);
    app.delete(&bob, &of(&bob)).await.expect_error(403, 50013);
    app.delete(&bob, &of(&eve)).await.expect(204);
    app.delete(&bob, &of(&eve)).await.expect_error(404, 10007);

    let events = app.events(hall.id).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].0, "GUILD_MEMBER_REMOVE");
    assert_eq!(events[0].1["user"]["id"], eve.id.to_string());
    let mut vis = Visibility::realm(Intents::GUILD_MEMBERS);
    vis.except.push(eve.id);
    assert_eq!(log::newest(&app, hall.id).await.1, vis);
    let left = ("user left guild", json!({ "guild_id": hall.id }));
    assert_eq!(app.events(eve.id).await, [left]);
    let guild = app
        .get(&alice, &format!("/guilds/{}?with_counts=1", hall.id))
        .await
        .expect(200);
    assert_eq!(guild["approximate_member_count"], 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn members_are_found_by_the_beginning_of_any_name(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let robert = app.user("robert").await;
    app.user("bobette").await;
    app.join(&robert, hall).await;
    sqlx::query("update account set global_name = 'Böb%' where user_id = $1")
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.patch(
        &robert,
        &format!("/guilds/{}/members/@me", hall.id),
        json!({ "nick": "BOBO" }),
    )
    .await
    .expect(200);
    let found = async |query: &str| -> Vec<Value> {
        let path = format!("/guilds/{}/members/search", hall.id);
        let request = app
            .request_by(&alice, reqwest::Method::GET, &path)
            .query(&[("query", query), ("limit", "10")]);
        let list = app.send(request).await.expect(200);
        conforms("search_guild_members", 200, &list);
        let id = |member: &Value| member["user"]["id"].clone();
        list.as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(found("bob").await, [json!(bob.id), json!(robert.id)]);
    assert_eq!(found("BÖB%").await, [json!(alice.id)]);
    assert_eq!(found("rob").await, [json!(robert.id)]);
    assert!(found("%").await.is_empty());
    assert!(found("ob").await.is_empty());
    app.get(&alice, &format!("/guilds/{}/members/search", hall.id))
        .await
        .expect_fault("query", "BASE_TYPE_REQUIRED");
    app.get(
        &app.user("eve").await,
        &format!("/guilds/{}/members/search?query=b", hall.id),
    )
    .await
    .expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn ones_own_membership_tells_what_it_allows(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, hall) = hall(&app).await;
    app.grant(&bob, hall, Permissions::MANAGE_GUILD).await;
    let path = format!("/users/@me/guilds/{}/member", hall.id);
    let own = app.get(&bob, &path).await.expect(200);
    conforms("get_my_guild_member", 200, &own);
    let held = Permissions::NEW_GUILD | Permissions::MANAGE_GUILD;
    assert_eq!(own["permissions"], json!(held));
    let eve = app.user("eve").await;
    app.get(&eve, &path).await.expect_error(404, 10004);

    let nick = format!("/guilds/{}/members/@me/nick", hall.id);
    let body = app.patch(&bob, &nick, json!({ "nick": "b" })).await;
    assert_eq!(body.expect(200), json!({ "nick": "b" }));
}

#[sqlx::test(migrations = "../migrations")]
async fn moderators_set_one_flag_and_only_that(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
    let member = app
        .patch(&alice, &path, json!({ "flags": 7 }))
        .await
        .expect(200);
    conforms("update_guild_member", 200, &member);
    assert_eq!(member["flags"], 4);
    let read = app.get(&alice, &path).await.expect(200);
    assert_eq!(read["flags"], 4);
    app.patch(&bob, &path, json!({ "flags": 0 }))
        .await
        .expect_error(403, 50013);
}
