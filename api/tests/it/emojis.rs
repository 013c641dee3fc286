//! Emojis of guilds and applications.

use guildhall_shared::{Id, Permissions, id::marker};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, alone, hall},
    media::{data_uri, gif, png},
};

#[sqlx::test(migrations = "../migrations")]
async fn a_guilds_emojis_are_made_listed_changed_and_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, guild) = hall(&app).await;
    let role = app.grant(&bob, guild, Permissions::empty()).await;
    let path = format!("/guilds/{}/emojis", guild.id);

    let body = json!({ "name": "still_1", "image": data_uri(&png(64, 64)), "roles": [role] });
    let made = app.post(&alice, &path, body).await.expect(201);
    conforms("create_guild_emoji", 201, &made);
    assert_eq!(
        (&made["name"], &made["roles"]),
        (&json!("still_1"), &json!([role]))
    );
    assert_eq!(
        (&made["animated"], &made["user"]["username"]),
        (&json!(false), &json!("alice"))
    );
    let body = json!({ "name": "moves", "image": data_uri(&gif()) });
    let moving = app.post(&alice, &path, body).await.expect(201);
    assert_eq!(moving["animated"], true);

    let listed = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_emojis", 200, &listed);
    assert_eq!(listed, json!([made, moving]));
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let got = app.get(&alice, &one).await.expect(200);
    conforms("get_guild_emoji", 200, &got);
    assert_eq!(got, made);
    let whole = app
        .get(&alice, &format!("/guilds/{}", guild.id))
        .await
        .expect(200);
    assert_eq!(whole["emojis"].as_array().unwrap().len(), 2);
    assert_eq!(whole["emojis"][0]["user"], Value::Null);

    for (file, content_type) in [("png", "image/png"), ("webp", "image/webp")] {
        let path = format!("/emojis/{}.{file}?size=32", made["id"].as_str().unwrap());
        let response = app.fetch(&path).await;
        assert_eq!(response.headers()["content-type"], content_type);
    }
    let still = format!("/emojis/{}.gif", made["id"].as_str().unwrap());
    assert_eq!(app.fetch(&still).await.status(), 415);
    let moves = format!("/emojis/{}.gif", moving["id"].as_str().unwrap());
    assert_eq!(
        app.fetch(&moves).await.headers()["content-type"],
        "image/gif"
    );

    let body = json!({ "name": "other", "roles": [] });
    let changed = app.patch(&alice, &one, body).await.expect(200);
    conforms("update_guild_emoji", 200, &changed);
    assert_eq!(
        (&changed["name"], &changed["roles"]),
        (&json!("other"), &json!([]))
    );
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 10014);
    let left = app.get(&alice, &path).await.expect(200);
    assert_eq!(left, json!([moving]));

    let events = app.events(guild.id).await;
    let lists: Vec<usize> = events
        .iter()
        .filter(|(name, _)| *name == "GUILD_EMOJIS_UPDATE")
        .map(|(_, body)| body["emojis"].as_array().unwrap().len())
        .collect();
    assert_eq!(lists, [1, 2, 2, 1]);
    let log = app
        .get(&alice, &format!("/guilds/{}/audit-logs", guild.id))
        .await
        .expect(200);
    let actions: Vec<_> = log["audit_log_entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action_type"].as_u64().unwrap())
        .collect();
    assert_eq!(actions, [62, 61, 60, 60]);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((1, 0), 1));
    // With the guild go its emojis, and with them their files.
    sqlx::query("delete from guild where guild_id = $1")
        .bind(guild.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn emojis_are_for_those_who_may(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, guild) = hall(&app).await;
    app.everyone_may(guild, Permissions::empty()).await;
    let path = format!("/guilds/{}/emojis", guild.id);
    let body = |name: &str| json!({ "name": name, "image": data_uri(&png(8, 8)) });
    let alices = app.post(&alice, &path, body("alices")).await.expect(201);
    let of = |emoji: &Value| format!("{path}/{}", emoji["id"].as_str().unwrap());

    app.post(&bob, &path, body("no"))
        .await
        .expect_error(403, 50013);
    app.delete(&bob, &of(&alices))
        .await
        .expect_error(403, 50013);
    let seen = app.get(&bob, &of(&alices)).await.expect(200);
    assert_eq!(seen["user"], Value::Null);
    let stranger = app.user("stranger").await;
    app.get(&stranger, &path).await.expect_error(403, 50001);
    app.get(&bob, "/guilds/123456789/emojis")
        .await
        .expect_error(404, 10004);
    let request = app.request(reqwest::Method::GET, &path);
    app.send(request).await.expect_error(401, 0);

    app.grant(&bob, guild, Permissions::CREATE_GUILD_EXPRESSIONS)
        .await;
    let bobs = app.post(&bob, &path, body("bobs")).await.expect(201);
    app.patch(&bob, &of(&bobs), json!({ "name": "mine" }))
        .await
        .expect(200);
    let reply = app
        .patch(&bob, &of(&alices), json!({ "name": "mine" }))
        .await;
    reply.expect_error(403, 50013);
    app.grant(&bob, guild, Permissions::MANAGE_GUILD_EXPRESSIONS)
        .await;
    app.delete(&bob, &of(&alices)).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_emojis_are_refused_at_the_right_place(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = format!("/guilds/{}/emojis", guild.id);
    let image = data_uri(&png(8, 8));
    for (body, at, code) in [
        (json!({ "image": image }), "name", "BASE_TYPE_REQUIRED"),
        (json!({ "name": "ab" }), "image", "BASE_TYPE_REQUIRED"),
        (
            json!({ "name": "a", "image": image }),
            "name",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "name": "a b", "image": image }),
            "name",
            "STRING_TYPE_REGEX",
        ),
        (
            json!({ "name": "äö", "image": image }),
            "name",
            "STRING_TYPE_REGEX",
        ),
        (
            json!({ "name": "ab", "image": "x" }),
            "image",
            "IMAGE_INVALID",
        ),
        (
            json!({ "name": "ab", "image": data_uri(&vec![7; (256 << 10) + 1]) }),
            "image",
            "IMAGE_INVALID",
        ),
    ] {
        app.post(&alice, &path, body).await.expect_fault(at, code);
    }
    let body = json!({ "name": "ab", "image": image, "roles": ["123456789"] });
    app.post(&alice, &path, body).await.expect_error(400, 50028);

    sqlx::query(
        "insert into emoji (emoji_id, guild_id, name, animated)
         select n, $1, 'e', false from generate_series(1, 50) n",
    )
    .bind(guild.id.to_db())
    .execute(&app.db)
    .await
    .unwrap_err();
    fill(&app, guild.id).await;
    let body = json!({ "name": "ab", "image": image });
    app.post(&alice, &path, body).await.expect_error(400, 30008);
    let body = json!({ "name": "ab", "image": data_uri(&gif()) });
    app.post(&alice, &path, body).await.expect(201);
}

async fn fill(app: &TestApp, guild: Id<marker::Guild>) {
    sqlx::query(
        "insert into media_file (path, content_type, size, collect_at)
         select 'emojis/' || n, 'image/png', 1, now() from generate_series(1, 50) n",
    )
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into emoji (emoji_id, guild_id, name, animated)
         select n, $1, 'e', false from generate_series(1, 50) n",
    )
    .bind(guild.to_db())
    .execute(&app.db)
    .await
    .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn an_applications_emojis_are_its_own(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bot = app.bot(&alice, "helper").await;
    let path = format!("/applications/{}/emojis", bot.id);
    let body = json!({ "name": "spark", "image": data_uri(&png(8, 8)) });
    let made = app.post(&bot, &path, body.clone()).await.expect(201);
    conforms("create_application_emoji", 201, &made);
    let listed = app.get(&alice, &path).await.expect(200);
    conforms("list_application_emojis", 200, &listed);
    assert_eq!(listed, json!({ "items": [made] }));
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let got = app.get(&bot, &one).await.expect(200);
    conforms("get_application_emoji", 200, &got);
    let renamed = app
        .patch(&bot, &one, json!({ "name": "flame" }))
        .await
        .expect(200);
    conforms("update_application_emoji", 200, &renamed);
    assert_eq!(renamed["name"], "flame");

    let other = app.user("other").await;
    app.get(&other, &path).await.expect_error(403, 20012);
    app.post(&other, &path, body).await.expect_error(403, 20012);
    app.get(&bot, "/applications/123456789/emojis")
        .await
        .expect_error(404, 10002);
    app.delete(&bot, &one).await.expect(204);
    app.delete(&bot, &one).await.expect_error(404, 10014);
    app.collect().await;
    assert_eq!((app.files().await, app.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn emojis_forget_a_role_that_is_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let roles = format!("/guilds/{}/roles", guild.id);
    let role = async || {
        let made = app.post(&alice, &roles, json!({})).await.expect(200);
        made["id"].as_str().unwrap().to_owned()
    };
    let (gone, stays) = (role().await, role().await);
    let path = format!("/guilds/{}/emojis", guild.id);
    let make = async |roles: Value| {
        let body = json!({ "name": "some", "image": data_uri(&png(8, 8)), "roles": roles });
        let made = app.post(&alice, &path, body).await.expect(201);
        format!("{path}/{}", made["id"].as_str().unwrap())
    };
    let (both, one) = (make(json!([gone, stays])).await, make(json!([gone])).await);
    app.delete(&alice, &format!("{roles}/{gone}"))
        .await
        .expect(204);

    let names = app.event_names(guild.id).await;
    assert_eq!(
        names[names.len() - 2..],
        ["GUILD_ROLE_DELETE", "GUILD_EMOJIS_UPDATE"]
    );
    let read = app.get(&alice, &both).await.expect(200);
    assert_eq!(read["roles"], json!([stays]));
    // It was never for all.
    let read = app.get(&alice, &one).await.expect(200);
    assert_eq!(read["roles"], json!([gone]));
    let renamed = json!({ "name": "other", "roles": [gone] });
    app.patch(&alice, &one, renamed.clone()).await.expect(200);
    app.patch(&alice, &both, renamed)
        .await
        .expect_error(400, 50028);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_emoji_whose_roles_are_null_is_for_everybody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, guild) = hall(&app).await;
    let role = app.grant(&bob, guild, Permissions::empty()).await;
    let path = format!("/guilds/{}/emojis", guild.id);
    let body = json!({ "name": "few", "image": data_uri(&png(8, 8)), "roles": [role] });
    let made = app.post(&alice, &path, body).await.expect(201);
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    let renamed = app.patch(&alice, &one, json!({ "name": "some" })).await;
    assert_eq!(renamed.expect(200)["roles"], json!([role]));
    let cleared = app.patch(&alice, &one, json!({ "roles": null })).await;
    assert_eq!(cleared.expect(200)["roles"], json!([]));
}
