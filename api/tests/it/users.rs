//! Users and their guilds.

use guildhall_shared::Permissions;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestUser, assert_fault},
};

#[sqlx::test(migrations = "../migrations")]
async fn users_see_themselves_and_others(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let me = app.get(&alice, "/users/@me").await.expect(200);
    conforms("get_my_user", 200, &me);
    assert_eq!(
        (&me["id"], &me["username"]),
        (&json!(alice.id), &json!("alice"))
    );

    let other = app
        .get(&alice, &format!("/users/{}", bob.id))
        .await
        .expect(200);
    conforms("get_user", 200, &other);
    assert_eq!(other["username"], "bob");
    assert!(other.get("email").is_none());

    app.get(&alice, "/users/1180000000000000002")
        .await
        .expect_error(404, 10013);
    app.get(&alice, "/users/bob")
        .await
        .expect_fault("user_id", "NUMBER_TYPE_COERCE");
}

#[sqlx::test(migrations = "../migrations")]
async fn bad_tokens_are_401(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let forged = alice.authorization.replace('.', "x");
    let other_secret = format!("{}x", alice.authorization);
    for bad in ["", "Bot ", "Bearer x", "x.y.z", &forged, &other_secret] {
        let nobody = TestUser {
            authorization: bad.to_owned(),
            ..alice.clone()
        };
        let body = app.get(&nobody, "/users/@me").await.expect(401);
        assert_eq!(
            body,
            json!({ "message": "401: Unauthorized", "code": 0 }),
            "{bad}"
        );
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_changed_user_is_told_to_their_guilds(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let guild = app.guild(&alice, "home").await;
    let change =
        json!({ "global_name": " Alice ", "bio": "hi", "accent_color": 255, "unknown": {} });
    let me = app.patch(&alice, "/users/@me", change).await.expect(200);
    conforms("update_my_user", 200, &me);
    assert_eq!(
        (&me["global_name"], &me["bio"]),
        (&json!("Alice"), &json!("hi"))
    );
    assert_eq!(
        app.get(&alice, "/users/@me").await.expect(200)["accent_color"],
        255
    );

    let own = app.events(alice.id).await;
    assert_eq!(own[0].0, "USER_UPDATE");
    assert_eq!(own[0].1["global_name"], "Alice");
    let told = app.events(guild.id).await;
    assert_eq!(told[0].0, "GUILD_MEMBER_UPDATE");
    assert_eq!(told[0].1["guild_id"], json!(guild.id));
    assert_eq!(told[0].1["user"]["global_name"], "Alice");

    let cleared = json!({ "global_name": null, "accent_color": null, "avatar": null });
    let me = app.patch(&alice, "/users/@me", cleared).await.expect(200);
    assert_eq!(
        (&me["global_name"], &me["accent_color"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(me["bio"], "hi");
}

#[sqlx::test(migrations = "../migrations")]
async fn names_mail_and_password_need_the_password(db: PgPool) {
    let app = TestApp::new(db).await;
    let body = json!({ "username": "alice", "password": "correct horse" });
    let registered = app
        .post_anonymously("/auth/register", body)
        .await
        .expect(201);
    let alice = TestUser {
        id: registered["user_id"].as_str().unwrap().parse().unwrap(),
        authorization: registered["token"].as_str().unwrap().to_owned(),
    };
    let unchanged = json!({ "username": "alice" });
    app.patch(&alice, "/users/@me", unchanged).await.expect(200);
    for change in [
        json!({ "username": "al" }),
        json!({ "email": "a@b.c" }),
        json!({ "new_password": "battery staple" }),
    ] {
        let reply = app.patch(&alice, "/users/@me", change.clone()).await;
        reply.expect_fault("password", "BASE_TYPE_REQUIRED");
        let mut wrong = change;
        wrong["password"] = json!("wrong horse");
        let reply = app.patch(&alice, "/users/@me", wrong).await;
        reply.expect_fault("password", "PASSWORD_DOES_NOT_MATCH");
    }

    let change =
        json!({ "username": "al", "password": "correct horse", "new_password": "battery staple" });
    let me = app.patch(&alice, "/users/@me", change).await.expect(200);
    assert_eq!(me["username"], "al");
    app.get(&alice, "/users/@me").await.expect_error(401, 0);
    let renewed = TestUser {
        authorization: me["token"].as_str().unwrap().to_owned(),
        ..alice.clone()
    };
    app.get(&renewed, "/users/@me").await.expect(200);
    let names = app.event_names(alice.id).await;
    let changed = "AUTH_SESSION_CHANGE";
    assert_eq!(
        names,
        ["USER_UPDATE", "USER_UPDATE", changed, "tokens revoked"]
    );
    let hash = app.events(alice.id).await[2].1["auth_session_id_hash"].clone();
    let sessions = app.get(&renewed, "/auth/sessions").await.expect(200);
    assert_eq!(sessions["user_sessions"][0]["id_hash"], hash);
    let login = json!({ "login": "al", "password": "battery staple" });
    app.post_anonymously("/auth/login", login).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn bad_changes_are_form_errors(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bad = json!({
        "global_name": "", "bio": "x".repeat(191), "accent_color": 0x100_0000,
        "avatar": "data:image/png;base64,AAAA", "pronouns": 7,
    });
    let body = app
        .patch(&alice, "/users/@me", bad)
        .await
        .expect_error(400, 50035);
    assert_fault(&body, "global_name", "BASE_TYPE_REQUIRED");
    assert_fault(&body, "bio", "BASE_TYPE_MAX_LENGTH");
    assert_fault(&body, "accent_color", "NUMBER_TYPE_MAX");
    assert_fault(&body, "avatar", "IMAGE_INVALID");
    assert_fault(&body, "pronouns", "STRING_TYPE_CONVERT");
    assert!(app.events(alice.id).await.is_empty());

    let owner = app.user("owner").await;
    let bot = app.bot(&owner, "Ping").await;
    app.patch(&bot, "/users/@me", json!({ "username": "Pong 2" }))
        .await
        .expect(200);
    let taken = app
        .patch(&bot, "/users/@me", json!({ "username": "ALICE" }))
        .await;
    taken.expect_fault("username", "USERNAME_ALREADY_TAKEN");
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_are_listed_by_id_with_permissions(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let mut guilds = Vec::new();
    for name in ["one", "two", "three"] {
        let guild = app.guild(&alice, name).await;
        app.join(&bob, guild).await;
        guilds.push(guild);
    }
    app.grant(&bob, guilds[1], Permissions::BAN_MEMBERS).await;
    let all = app
        .get(&bob, "/users/@me/guilds?with_counts=True")
        .await
        .expect(200);
    conforms("list_my_guilds", 200, &all);
    let ids = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|guild| guild["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let expected: Vec<String> = guilds.iter().map(|guild| guild.id.to_string()).collect();
    assert_eq!(ids(&all), expected);
    assert_eq!(all[0]["approximate_member_count"], 2);
    assert_eq!(all[0]["owner"], false);
    let permissions = |guild: &Value| {
        guild["permissions"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(permissions(&all[0]), Permissions::NEW_GUILD.bits());
    assert_eq!(
        permissions(&all[1]),
        (Permissions::NEW_GUILD | Permissions::BAN_MEMBERS).bits()
    );
    let own = app.get(&alice, "/users/@me/guilds").await.expect(200);
    assert_eq!(
        (&own[0]["owner"], permissions(&own[0])),
        (&json!(true), Permissions::all().bits())
    );
    assert!(own[0].get("approximate_member_count").is_none());

    let page = |query: String| {
        let (app, bob) = (&app, &bob);
        async move {
            ids(&app
                .get(bob, &format!("/users/@me/guilds?{query}"))
                .await
                .expect(200))
        }
    };
    assert_eq!(
        page(format!("after={}&limit=1", guilds[0].id)).await,
        expected[1..2]
    );
    assert_eq!(
        page(format!("before={}&limit=1", guilds[2].id)).await,
        expected[1..2]
    );
    app.get(&bob, "/users/@me/guilds?limit=201")
        .await
        .expect_fault("limit", "NUMBER_TYPE_MAX");
    app.get(&bob, "/users/@me/guilds?after=x")
        .await
        .expect_fault("after", "NUMBER_TYPE_COERCE");
}

#[sqlx::test(migrations = "../migrations")]
async fn members_leave_but_owners_and_strangers_cannot(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob) = (app.user("alice").await, app.user("bob").await);
    let guild = app.guild(&alice, "home").await;
    app.join(&bob, guild).await;
    let path = format!("/users/@me/guilds/{}", guild.id);
    app.delete(&alice, &path).await.expect_error(400, 50055);
    app.delete(&bob, &path).await.expect(204);
    app.delete(&bob, &path).await.expect_error(404, 10004);
    app.delete(&bob, "/users/@me/guilds/general")
        .await
        .expect_fault("guild_id", "NUMBER_TYPE_COERCE");

    let events = app.events(guild.id).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].0, "GUILD_MEMBER_REMOVE");
    assert_eq!(events[0].1["user"]["id"], json!(bob.id));
    assert_eq!(
        app.events(bob.id).await,
        [("user left guild", json!({ "guild_id": guild.id }))]
    );
    let counted: i32 = sqlx::query_scalar("select member_count from guild")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(counted, 1);
}
