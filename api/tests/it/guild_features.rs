//! What a guild has besides channels, roles and members.

use guildhall_shared::Permissions;
use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{Reply, TestApp, TestGuild, TestUser, alone, hall},
    mail_server::MailServer,
};

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_is_made_with_its_roles_and_channels(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let body = json!({
        "name": "Hall",
        "roles": [
            { "id": 0, "permissions": "1024" },
            { "id": 1, "name": "Mods", "permissions": "8", "hoist": true, "color": 255 },
        ],
        "channels": [
            { "id": 1, "name": "Talk", "type": 4 },
            { "id": 2, "name": "hello", "type": 0, "parent_id": 1, "topic": "Say it",
              "permission_overwrites": [{ "id": 1, "type": 0, "allow": "2048" }] },
            { "id": 3, "name": "Away", "type": 2, "parent_id": 1, "user_limit": 5 },
        ],
        "system_channel_id": 2, "afk_channel_id": "3", "afk_timeout": 60,
    });
    let guild = app.post(&alice, "/guilds", body).await.expect(201);
    conforms("update_guild", 200, &guild);
    assert_eq!(guild["roles"][0]["permissions"], "1024");
    assert_eq!(guild["roles"][1]["name"], "Mods");
    let id = guild["id"].as_str().unwrap();
    let path = format!("/guilds/{id}/channels");
    let channels = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_channels", 200, &channels);
    let named = |name: &str| {
        let mut channels = channels.as_array().unwrap().iter();
        channels.find(|channel| channel["name"] == name).unwrap()
    };
    assert_eq!(named("hello")["parent_id"], named("Talk")["id"]);
    assert_eq!(named("hello")["topic"], "Say it");
    assert_eq!(
        named("hello")["permission_overwrites"][0]["id"],
        guild["roles"][1]["id"]
    );
    assert_eq!(named("Away")["user_limit"], 5);
    assert_eq!(guild["system_channel_id"], named("hello")["id"]);
    assert_eq!(guild["afk_channel_id"], named("Away")["id"]);

    for (body, at, code) in [
        (
            json!({ "name": "Hall", "channels": [{ "name": "a", "parent_id": 9 }] }),
            "channels.0.parent_id",
            "CHANNEL_INVALID",
        ),
        (
            json!({ "name": "Hall", "channels": [{ "id": 1 }] }),
            "channels.0.name",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!({ "name": "Hall", "channels": [{ "name": "a", "type": 13 }] }),
            "channels.0.type",
            "ENUM_TYPE_COERCE",
        ),
        (json!({ "name": "Hall", "system_channel_id": 7 }), "", ""),
    ] {
        let reply = app.post(&alice, "/guilds", body).await;
        if code.is_empty() {
            // Without channels of its own it gets the usual ones.
            reply.expect(201);
        } else {
            reply.expect_fault(at, code);
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn features_follow_who_may_change_them(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    app.grant(&bob, hall, Permissions::MANAGE_GUILD).await;
    let path = format!("/guilds/{}", hall.id);
    let disabled = json!({ "features": ["INVITES_DISABLED", "PARTNERED"] });
    let changed = app.patch(&bob, &path, disabled).await.expect(200);
    assert_eq!(changed["features"], json!(["INVITES_DISABLED"]));
    let community = json!({ "features": ["INVITES_DISABLED", "COMMUNITY"] });
    app.patch(&bob, &path, community.clone())
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &path, community)
        .await
        .expect_fault("rules_channel_id", "BASE_TYPE_REQUIRED");
    let body = json!({
        "features": ["COMMUNITY", "DISCOVERABLE"], "rules_channel_id": hall.general,
        "public_updates_channel_id": hall.general,
    });
    let changed = app.patch(&alice, &path, body).await.expect(200);
    conforms("update_guild", 200, &changed);
    assert_eq!(
        changed["features"],
        json!(["COMMUNITY", "DISCOVERABLE", "NEWS"])
    );
    assert_eq!(changed["verification_level"], 1);
    app.patch(&alice, &path, json!({ "rules_channel_id": null }))
        .await
        .expect_fault("rules_channel_id", "BASE_TYPE_REQUIRED");
    let nulls = json!({
        "preferred_locale": null, "explicit_content_filter": null, "afk_timeout": null,
    });
    let reset = app.patch(&alice, &path, nulls).await.expect(200);
    assert_eq!(reset["preferred_locale"], "en-US");
    app.patch(&alice, &path, json!({ "preferred_locale": "xx" }))
        .await
        .expect_fault("preferred_locale", "ENUM_TYPE_COERCE");

    // Discoverable: shown to strangers.
    let eve = app.user("eve").await;
    let preview = app.get(&eve, &format!("{path}/preview")).await.expect(200);
    conforms("get_guild_preview", 200, &preview);
    assert_eq!(preview["approximate_member_count"], 2);
    let other = app.guild(&alice, "Other").await;
    app.get(&eve, &format!("/guilds/{}/preview", other.id))
        .await
        .expect_error(404, 10004);
}

/// Says something in the guild's first channel.
async fn speak(app: &TestApp, user: &TestUser, hall: TestGuild) -> Reply {
    let path = format!("/channels/{}/messages", hall.general);
    app.post(user, &path, json!({ "content": "hi" })).await
}

async fn set_level(app: &TestApp, owner: &TestUser, hall: TestGuild, level: u8) {
    let body = json!({ "verification_level": level });
    app.patch(owner, &format!("/guilds/{}", hall.id), body)
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_verification_level_holds_back_people_without_a_role(db: PgPool) {
    let mails = MailServer::start().await;
    let url = mails.url.clone();
    let app = TestApp::with(db, |config| config.mail.smtp_url = Some(url.into())).await;
    let (alice, bob, hall) = hall(&app).await;
    let (carol, dan) = (app.old_user("carol").await, app.user("dan").await);
    let bot = app.bot(&alice, "helper").await;
    for user in [&carol, &dan, &bot] {
        app.join(user, hall).await;
    }
    sqlx::query("update account set verified = true where user_id = any ($1)")
        .bind(vec![carol.id.to_db(), dan.id.to_db()])
        .execute(&app.db)
        .await
        .unwrap();

    // An address.
    set_level(&app, &alice, hall, 1).await;
    speak(&app, &bob, hall).await.expect_error(403, 50009);
    let threads = format!("/channels/{}/threads", hall.general);
    app.post(&bob, &threads, json!({ "name": "talk", "type": 11 }))
        .await
        .expect_error(403, 50009);
    for may in [&dan, &carol, &alice, &bot] {
        speak(&app, may, hall).await.expect(200);
    }
    let message = speak(&app, &carol, hall).await.expect(200);
    let id = message["id"].as_str().unwrap();
    let about_it = format!("/channels/{}/messages/{id}/threads", hall.general);
    app.post(&bob, &about_it, json!({ "name": "talk" }))
        .await
        .expect_error(403, 50009);
    // An account older than five minutes.
    set_level(&app, &alice, hall, 2).await;
    speak(&app, &dan, hall).await.expect_error(403, 50009);
    for may in [&carol, &alice, &bot] {
        speak(&app, may, hall).await.expect(200);
    }
    // A membership longer than ten minutes, also where a telephone would be asked for.
    set_level(&app, &alice, hall, 3).await;
    speak(&app, &carol, hall).await.expect_error(403, 50009);
    sqlx::query("update member set joined_at = now() - interval '11 minutes' where user_id = $1")
        .bind(carol.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    for level in [3, 4] {
        set_level(&app, &alice, hall, level).await;
        for may in [&carol, &alice, &bot] {
            speak(&app, may, hall).await.expect(200);
        }
    }

    app.grant(&bob, hall, Permissions::empty()).await;
    speak(&app, &bob, hall).await.expect(200);
    app.post(&bob, &threads, json!({ "name": "talk", "type": 11 }))
        .await
        .expect(201);
    speak(&app, &dan, hall).await.expect_error(403, 50009);
    let member = format!("/guilds/{}/members/{}", hall.id, dan.id);
    app.patch(&alice, &member, json!({ "flags": 4 }))
        .await
        .expect(200);
    speak(&app, &dan, hall).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn no_address_is_asked_for_where_no_mails_leave(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    set_level(&app, &alice, hall, 1).await;
    speak(&app, &bob, hall).await.expect(200);
    set_level(&app, &alice, hall, 2).await;
    speak(&app, &bob, hall).await.expect_error(403, 50009);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_owner_asks_moderators_for_a_second_factor(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    app.grant(&bob, hall, Permissions::ADMINISTRATOR).await;
    let path = format!("/guilds/{}/mfa", hall.id);
    let level = json!({ "level": 1 });
    app.post(&bob, &path, level.clone())
        .await
        .expect_error(403, 50013);
    app.post(&alice, &path, json!({ "level": 2 }))
        .await
        .expect_fault("level", "ENUM_TYPE_COERCE");
    assert_eq!(
        app.post(&alice, &path, level.clone()).await.expect(200),
        level
    );
    let guild = app
        .get(&bob, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    assert_eq!(guild["mfa_level"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_vanity_code_is_one_guilds_alone(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let other = app.guild(&bob, "Other").await;
    let path = format!("/guilds/{}/vanity-url", hall.id);
    let none = app.get(&alice, &path).await.expect(200);
    conforms("get_guild_vanity_url", 200, &none);
    assert_eq!(none, json!({ "code": null, "uses": 0 }));
    app.patch(&bob, &path, json!({ "code": "hall" }))
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &path, json!({}))
        .await
        .expect_fault("code", "BASE_TYPE_REQUIRED");
    app.patch(&alice, &path, json!({ "code": "no spaces" }))
        .await
        .expect_error(400, 50020);
    let set = app.patch(&alice, &path, json!({ "code": "hall" })).await;
    assert_eq!(set.expect(200), json!({ "code": "hall", "uses": 0 }));
    let guild = app
        .get(&bob, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    assert_eq!(guild["vanity_url_code"], "hall");
    assert_eq!(guild["features"], json!(["VANITY_URL"]));
    let taken = format!("/guilds/{}/vanity-url", other.id);
    app.patch(&bob, &taken, json!({ "code": "HALL" }))
        .await
        .expect_error(400, 50020);
    app.patch(&alice, &path, json!({ "code": null }))
        .await
        .expect(200);
    app.patch(&bob, &taken, json!({ "code": "HALL" }))
        .await
        .expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_vanity_code_names_no_channel_that_is_hidden(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let path = format!("/guilds/{}/vanity-url", hall.id);
    app.patch(&alice, &path, json!({ "code": "hall" }))
        .await
        .expect(200);
    let path = format!("/guilds/{}/channels", hall.id);
    let lobby = app.post(&alice, &path, json!({ "name": "lobby" })).await;
    let lobby = lobby.expect(201)["id"].clone();
    let shown = async || {
        let invite = app.send(app.request(Method::GET, "/invites/hall")).await;
        invite.expect(200)["channel"].clone()
    };
    let hide = async |channel: &str| {
        let path = format!("/channels/{channel}/permissions/{}", hall.id);
        let deny = json!({ "type": 0, "deny": Permissions::VIEW_CHANNEL });
        app.put(&alice, &path, deny).await.expect(204);
    };
    assert_eq!(shown().await["name"], "general");

    hide(&hall.general.to_string()).await;
    let channel = shown().await;
    assert_eq!(channel["id"], lobby);
    assert_eq!(channel["name"], "lobby");
    hide(lobby.as_str().unwrap()).await;
    let channel = shown().await;
    assert_eq!(channel["id"], json!(hall.general));
    assert_eq!(channel["name"], "");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_welcome_screen_names_channels(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/welcome-screen", hall.id);
    app.get(&alice, &path).await.expect_error(404, 10069);
    let body = json!({
        "description": "Hello",
        "welcome_channels": [{ "channel_id": hall.general, "description": "Talk", "emoji_name": "👋" }],
    });
    app.patch(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    let screen = app.patch(&alice, &path, body).await.expect(200);
    conforms("update_guild_welcome_screen", 200, &screen);
    app.get(&bob, &path).await.expect_error(403, 50013);
    app.patch(&alice, &path, json!({ "enabled": true }))
        .await
        .expect(200);
    let shown = app.get(&bob, &path).await.expect(200);
    conforms("get_guild_welcome_screen", 200, &shown);
    assert_eq!(shown, screen);
    let guild = app
        .get(&bob, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    assert_eq!(guild["features"], json!(["WELCOME_SCREEN_ENABLED"]));
    let body = json!({ "welcome_channels": [{ "channel_id": "5", "description": "x" }] });
    app.patch(&alice, &path, body)
        .await
        .expect_fault("welcome_channels.0.channel_id", "CHANNEL_INVALID");

    // A channel that is deleted is no longer shown; the others stay in their order.
    let mut shown = vec![json!({ "channel_id": hall.general, "description": "Talk",
                                 "emoji_id": null, "emoji_name": null })];
    for name in ["gone", "rules"] {
        let made = app
            .post(
                &alice,
                &format!("/guilds/{}/channels", hall.id),
                json!({ "name": name }),
            )
            .await
            .expect(201);
        shown.insert(
            0,
            json!({ "channel_id": made["id"], "description": name,
                    "emoji_id": null, "emoji_name": null }),
        );
    }
    app.patch(&alice, &path, json!({ "welcome_channels": shown }))
        .await
        .expect(200);
    let gone = shown.remove(1);
    let channel = format!("/channels/{}", gone["channel_id"].as_str().unwrap());
    app.delete(&alice, &channel).await.expect(200);
    let left = app.get(&bob, &path).await.expect(200);
    assert_eq!(left["welcome_channels"], json!(shown));
    let last = format!("/channels/{}", hall.general);
    app.delete(&alice, &last).await.expect(200);
    let left = app.get(&bob, &path).await.expect(200);
    assert_eq!(left["welcome_channels"], json!([shown[0]]));
}

#[sqlx::test(migrations = "../migrations")]
async fn onboarding_needs_channels_that_newcomers_see(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/onboarding", hall.id);
    let empty = app.get(&bob, &path).await.expect(200);
    conforms("get_guilds_onboarding", 200, &empty);
    let role = app.grant(&bob, hall, Permissions::empty()).await;
    let prompt = json!({
        "id": "1", "title": "Which?", "in_onboarding": true,
        "options": [{ "title": "This", "role_ids": [role], "emoji_name": "🎉" }],
    });
    let mut channels = vec![json!(hall.general)];
    let body = json!({ "prompts": [prompt], "default_channel_ids": channels, "enabled": true });
    app.put(&bob, &path, body.clone())
        .await
        .expect_error(403, 50013);
    app.put(&alice, &path, body).await.expect_error(400, 350000);
    for n in 0..6 {
        let body = json!({ "name": format!("room-{n}"), "type": 0 });
        let made = app
            .post(&alice, &format!("/guilds/{}/channels", hall.id), body)
            .await
            .expect(201);
        channels.push(made["id"].clone());
    }
    let body = json!({ "prompts": [prompt], "default_channel_ids": channels, "enabled": true });
    let set = app.put(&alice, &path, body).await.expect(200);
    conforms("put_guilds_onboarding", 200, &set);
    assert_eq!(app.get(&bob, &path).await.expect(200), set);
    assert_ne!(set["prompts"][0]["id"], "1");
    // A known id stays, with its options.
    let again = app
        .put(
            &alice,
            &path,
            json!({ "prompts": set["prompts"], "mode": 1 }),
        )
        .await;
    let again = again.expect(200);
    assert_eq!(again["prompts"][0]["id"], set["prompts"][0]["id"]);
    // Once: a copy is another prompt.
    let mut twice = set["prompts"][0].clone();
    let option = twice["options"][0].clone();
    twice["options"] = json!([option, option]);
    let body = json!({ "prompts": [twice, twice] });
    let copied = app.put(&alice, &path, body).await.expect(200);
    let mut ids = std::collections::BTreeSet::new();
    for prompt in copied["prompts"].as_array().unwrap() {
        assert!(ids.insert(prompt["id"].as_str()), "{copied:#}");
        for option in prompt["options"].as_array().unwrap() {
            assert!(ids.insert(option["id"].as_str()), "{copied:#}");
        }
    }
    assert!(ids.contains(&set["prompts"][0]["id"].as_str()));
    let guild = app
        .get(&bob, &format!("/guilds/{}", hall.id))
        .await
        .expect(200);
    assert_eq!(
        guild["features"],
        json!(["GUILD_ONBOARDING", "GUILD_ONBOARDING_HAS_PROMPTS"])
    );
    let body = json!({ "prompts": [{ "id": "1", "title": "x", "options": [{ "title": "y" }] }] });
    app.put(&alice, &path, body)
        .await
        .expect_fault("prompts.0.options.0", "ONBOARDING_OPTION_EMPTY");
    let body = json!({ "prompts": [{ "id": "1", "title": "x", "options": [
        { "title": "y", "role_ids": ["77"] }] }] });
    app.put(&alice, &path, body)
        .await
        .expect_fault("prompts.0.options.0.role_ids.0", "ROLE_INVALID");
}

#[sqlx::test(migrations = "../migrations")]
async fn onboarding_forgets_what_is_deleted_and_leaves_what_stands_above_the_caller(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let guild = format!("/guilds/{}", hall.id);
    let path = format!("{guild}/onboarding");
    let make = async |what: &str, status| {
        let body = json!({ "name": "new" });
        let made = app.post(&alice, &format!("{guild}/{what}"), body).await;
        made.expect(status)["id"].as_str().unwrap().to_owned()
    };
    let (gone, high) = (make("roles", 200).await, make("roles", 200).await);
    let channel = make("channels", 201).await;
    sqlx::query("update role set position = 9 where role_id = $1")
        .bind(high.parse::<i64>().unwrap())
        .execute(&app.db)
        .await
        .unwrap();
    let prompt = json!({ "id": "1", "title": "Which?", "options": [
        { "title": "This", "role_ids": [gone] },
        { "title": "That", "role_ids": [high], "channel_ids": [channel] },
    ] });
    let body = json!({ "prompts": [prompt], "default_channel_ids": [hall.general, channel] });
    let set = app.put(&alice, &path, body).await.expect(200);
    app.delete(&alice, &format!("{guild}/roles/{gone}"))
        .await
        .expect(204);
    app.delete(&alice, &format!("/channels/{channel}"))
        .await
        .expect(200);

    let read = app.get(&bob, &path).await.expect(200);
    assert_eq!(read["default_channel_ids"], json!([hall.general]));
    let options = &read["prompts"][0]["options"];
    assert_eq!(options[0]["role_ids"], json!([]));
    assert_eq!(
        (&options[1]["role_ids"], &options[1]["channel_ids"]),
        (&json!([high]), &json!([]))
    );
    // Whether a client read it before or after.
    let needed = Permissions::MANAGE_GUILD | Permissions::MANAGE_ROLES;
    app.grant(&bob, hall, needed).await;
    for known in [&set, &read] {
        let body = json!({ "enabled": false, "prompts": known["prompts"],
                           "default_channel_ids": known["default_channel_ids"] });
        assert_eq!(app.put(&bob, &path, body).await.expect(200), read);
    }
    let mut prompts = read["prompts"].clone();
    prompts[0]["options"][0]["role_ids"] = json!([high]);
    app.put(&bob, &path, json!({ "prompts": prompts }))
        .await
        .expect_fault("prompts.0.options.0.role_ids.0", "ROLE_INVALID");
    prompts[0]["options"][0]["role_ids"] = json!([]);
    prompts[0]["options"][1]["role_ids"] = json!([]);
    app.put(&bob, &path, json!({ "prompts": prompts }))
        .await
        .expect_fault("prompts.0.options.1", "ONBOARDING_OPTION_EMPTY");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_integration_goes_with_its_bot(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let path = format!("/guilds/{}/integrations", hall.id);
    app.get(&bob, &path).await.expect_error(403, 50013);
    let list = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_integrations", 200, &list);
    assert_eq!(list[0]["application"]["bot"]["id"], bot.id.to_string());
    let one = format!("{path}/{}", bot.id);
    app.delete(&bob, &one).await.expect_error(403, 50013);
    app.delete(&alice, &format!("{path}/77"))
        .await
        .expect_error(404, 10005);
    app.delete(&alice, &one).await.expect(204);
    assert_eq!(app.get(&alice, &path).await.expect(200), json!([]));
    app.get(&bot, &format!("/guilds/{}", hall.id))
        .await
        .expect_error(403, 50001);
    let names = app.event_names(hall.id).await;
    for name in [
        "GUILD_MEMBER_REMOVE",
        "INTEGRATION_DELETE",
        "GUILD_INTEGRATIONS_UPDATE",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn regions_are_for_everybody(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let open = app.send(app.request(Method::GET, "/voice/regions")).await;
    let open = open.expect(200);
    conforms("list_voice_regions", 200, &open);
    let path = format!("/guilds/{}/regions", hall.id);
    let own = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_voice_regions", 200, &own);
    let eve = app.user("eve").await;
    app.get(&eve, &path).await.expect_error(403, 50001);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_deleted_guild_is_gone_before_it_is_collected(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/delete", hall.id);
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 50013);
    app.post(&alice, &path, json!({})).await.expect(204);
    let guilds = app.get(&bob, "/users/@me/guilds").await.expect(200);
    assert_eq!(guilds, json!([]));
    let count = |table: &'static str| {
        let db = app.db.clone();
        async move {
            let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
            let count: i64 = sqlx::query_scalar(query).fetch_one(&db).await.unwrap();
            count
        }
    };
    assert_eq!(count("member").await, 2);
    app.app.collect_deleted_guilds().await.unwrap();
    for table in ["member", "role", "channel", "deleted_guild"] {
        assert_eq!(count(table).await, 0, "{table}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_guilds_channels_are_as_those_made_later(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let body = json!({
        "name": "Hall",
        "roles": [{ "id": 0, "permissions": "1024" }],
        "channels": [{ "name": "Big Talk", "type": 0, "topic": " ", "permission_overwrites": [
            { "id": 0, "allow": "1024" }, { "id": 0, "allow": "2048", "deny": "6144" },
        ] }],
    });
    let guild = app.post(&alice, "/guilds", body).await.expect(201);
    let path = format!("/guilds/{}/channels", guild["id"].as_str().unwrap());
    let channels = app.get(&alice, &path).await.expect(200);
    assert_eq!(channels[0]["name"], "big-talk");
    assert_eq!(channels[0]["topic"], json!(null));
    assert_eq!(
        channels[0]["permission_overwrites"],
        json!([{ "id": guild["id"], "type": 0, "allow": "2048", "deny": "4096" }])
    );

    // A placeholder names one thing, and a category holds so many.
    let twice = json!([{ "id": 1, "name": "a", "type": 4 }, { "id": "1", "name": "b" },
                       { "name": "c", "parent_id": 1 }]);
    app.post(
        &alice,
        "/guilds",
        json!({ "name": "Hall", "channels": twice }),
    )
    .await
    .expect_fault("channels.1.id", "SET_TYPE_ALREADY_CONTAINS_VALUE");
    let twice = json!([{ "id": 1 }, { "id": 1 }]);
    app.post(&alice, "/guilds", json!({ "name": "Hall", "roles": twice }))
        .await
        .expect_fault("roles.1.id", "SET_TYPE_ALREADY_CONTAINS_VALUE");
    let full = |inside: usize| {
        let mut channels = vec![json!({ "name": "c", "parent_id": 1 }); inside];
        channels.push(json!({ "id": 1, "name": "a", "type": 4 }));
        json!({ "name": "Hall", "channels": channels })
    };
    app.post(&alice, "/guilds", full(51))
        .await
        .expect_fault("channels.50.parent_id", "CHANNEL_PARENT_MAX_CHANNELS");
    let categories = |count: usize| {
        let categories = vec![json!({ "name": "a", "type": 4 }); count];
        json!({ "name": "Hall", "channels": categories })
    };
    app.post(&alice, "/guilds", categories(51))
        .await
        .expect_fault("channels.50.type", "GUILD_MAX_CATEGORIES");
    app.post(&alice, "/guilds", categories(50))
        .await
        .expect(201);
    app.post(&alice, "/guilds", full(50)).await.expect(201);
}
