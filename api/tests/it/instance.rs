//! What the instance says about itself, and what it allows.

use guildhall_api::config::{MayCreate, Registration};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::TestApp,
    sessions::{PASSWORD, user_of},
};

async fn get(app: &TestApp, path: &str) -> Value {
    app.send(app.request(Method::GET, path)).await.expect(200)
}

#[sqlx::test(migrations = "../migrations")]
async fn it_introduces_itself_without_a_token(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.policies.instance_name = "Home".to_owned();
        config.policies.contact_email = Some("ann@example.org".to_owned());
    })
    .await;
    let info = get(&app, "/policies/instance").await;
    assert_eq!(
        (&info["instanceName"], &info["correspondenceEmail"]),
        (&json!("Home"), &json!("ann@example.org"))
    );
    assert_eq!(
        get(&app, "/policies/instance").await["instanceId"],
        info["instanceId"]
    );
    let domains = get(&app, "/policies/instance/domains").await;
    assert_eq!(domains["gateway"], crate::harness::GATEWAY_URL);
    assert_eq!(domains["api"], "http://127.0.0.1:8080/api/v10");
    assert_eq!(
        get(&app, "/policies/instance/limits").await["message"]["maxCharacters"],
        2000
    );
    assert_eq!(get(&app, "/ping").await["ping"], "pong!");
    assert_eq!(
        get(&app, "/auth/location-metadata").await["consent_required"],
        false
    );
    for (path, field) in [("", "api"), ("/client", "gateway")] {
        let url = format!("{}/.well-known/spacebar{path}", app.origin);
        let body = app.send(app.client.get(url)).await.expect(200);
        assert!(!body[field].is_null());
    }
    let url = format!("{}/.well-known/spacebar/client", app.origin);
    let body = app.send(app.client.get(url)).await.expect(200);
    let (encoding, compression) = (["json", "etf"], ["zlib-stream", "zstd-stream"]);
    assert_eq!(body["gateway"]["encoding"], json!(encoding));
    assert_eq!(body["gateway"]["compression"], json!(compression));
    let location = app
        .request(Method::GET, "/auth/location-metadata")
        .header("accept-language", "de-at,de;q=0.9");
    assert_eq!(app.send(location).await.expect(200)["country_code"], "AT");
}

#[sqlx::test(migrations = "../migrations")]
async fn with_an_invite_alone_strangers_register_and_are_members_at_once(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.policies.registration = Registration::Invite;
    })
    .await;
    let owner = app.user("owner").await;
    let guild = app.guild(&owner, "home").await;
    let path = format!("/channels/{}/invites", guild.general);
    let invite = app
        .post(&owner, &path, json!({ "max_uses": 1 }))
        .await
        .expect(200);
    assert_eq!(
        get(&app, "/policies/instance/config").await["registration"]["requireInvite"],
        true
    );

    let register = |name: &str, invite: Option<&str>| {
        let body = json!({ "username": name, "password": PASSWORD, "invite": invite });
        app.post_anonymously("/auth/register", body)
    };
    register("alice", None)
        .await
        .expect_fault("invite", "BASE_TYPE_REQUIRED");
    register("alice", Some("nonsense"))
        .await
        .expect_fault("invite", "INVITE_INVALID");
    let code = invite["code"].as_str().unwrap();
    let alice = user_of(&register("alice", Some(code)).await.expect(201));
    let guilds = app.get(&alice, "/users/@me/guilds").await.expect(200);
    assert_eq!(guilds[0]["id"], json!(guild.id));
    assert!(
        app.event_names(guild.id)
            .await
            .contains(&"GUILD_MEMBER_ADD")
    );
    // It was good for one. Who is refused has no account.
    register("bob", Some(code))
        .await
        .expect_fault("invite", "INVITE_INVALID");
    let login = json!({ "login": "bob", "password": PASSWORD });
    app.post_anonymously("/auth/login", login)
        .await
        .expect_fault("login", "INVALID_LOGIN");
}

#[sqlx::test(migrations = "../migrations")]
async fn open_clients_read_what_it_allows_by_flat_keys(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.policies.registration = Registration::Invite;
        config.media.attachment_bytes_max = 4096;
    })
    .await;
    let config = get(&app, "/policies/instance/config").await;
    let limits = get(&app, "/policies/instance/limits").await;
    for (key, value) in [
        ("limits_user_maxGuilds", &limits["user"]["maxGuilds"]),
        ("limits_user_maxBio", &limits["user"]["maxBio"]),
        ("limits_guild_maxEmojis", &json!(50)),
        ("limits_guild_maxRoles", &limits["guild"]["maxRoles"]),
        ("limits_message_maxCharacters", &json!(2000)),
        ("limits_message_maxAttachmentSize", &json!(4096)),
        ("limits_message_maxEmbedDownloadSize", &json!(0)),
        ("limits_channel_maxWebhooks", &json!(15)),
        ("register_dateOfBirth_required", &json!(false)),
        ("register_password_required", &json!(true)),
        ("register_email_required", &json!(false)),
        ("register_disabled", &json!(false)),
        ("register_requireInvite", &json!(true)),
        ("register_allowNewRegistration", &json!(true)),
        ("register_allowMultipleAccounts", &json!(true)),
        ("guild_autoJoin_canLeave", &json!(true)),
        ("can_recover_account", &config["mail"]),
    ] {
        assert_eq!(&config[key], value, "{key}");
        assert!(!value.is_null(), "{key}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn guilds_and_bots_are_made_by_whom_the_policies_name(db: PgPool) {
    let app = TestApp::with(db, |config| {
        config.policies.guild_creation = MayCreate::Nobody;
        config.policies.bot_creation = MayCreate::Verified;
    })
    .await;
    let alice = app.user("alice").await;
    app.post(&alice, "/guilds", json!({ "name": "home" }))
        .await
        .expect_error(403, 50013);
    app.post(&alice, "/applications", json!({ "name": "Ping" }))
        .await
        .expect_error(403, 40002);
    let verified = app.user("bob").await;
    sqlx::query("update account set verified = true where user_id = $1")
        .bind(verified.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&verified, "/applications", json!({ "name": "Ping" }))
        .await
        .expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_not_there_is_an_empty_list(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    for path in [
        "/teams",
        "/users/@me/library",
        "/users/@me/billing/payment-sources",
        "/users/@me/connections",
    ] {
        assert_eq!(app.get(&alice, path).await.expect(200), json!([]), "{path}");
        app.send(app.request(Method::GET, path))
            .await
            .expect_error(401, 0);
    }
    let bot = app.bot(&alice, "helper").await;
    let bought = format!("/applications/{}/entitlements", bot.id);
    let list = app.get(&bot, &bought).await.expect(200);
    conforms("get_entitlements", 200, &list);
    assert_eq!(list, json!([]));
    app.get(&alice, &bought).await.expect_error(403, 20002);
    let others = format!("/applications/{}/entitlements", alice.id);
    app.get(&bot, &others).await.expect_error(403, 20012);
    assert_eq!(get(&app, "/applications/detectable").await, json!([]));
    // What this server has nothing of at all.
    for path in ["/lobbies/5", "/skus/5/subscriptions", "/oauth2/keys"] {
        app.get(&bot, path).await.expect_error(404, 0);
    }
    assert_eq!(get(&app, "/experiments").await["assignments"], json!([]));
    app.post_anonymously("/science", json!({ "events": [{}] }))
        .await
        .expect(204);
    let strength = |password: &str| {
        app.post_anonymously("/auth/password/validate", json!({ "password": password }))
    };
    assert_eq!(strength("short").await.expect(200)["valid"], false);
    assert_eq!(
        strength("Correct horse 9").await.expect(200)["password_strength"],
        4
    );
}
