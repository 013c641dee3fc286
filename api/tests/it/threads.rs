use guildhall_shared::{
    Id, Permissions, Timestamp,
    envelope::{Scope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser},
    log,
    sessions::change_meanwhile,
};

/// Alice owns the guild, bob and carol are members.
pub(crate) async fn hall(app: &TestApp) -> (TestUser, TestUser, TestUser, TestGuild) {
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let carol = app.user("carol").await;
    let hall = app.guild(&alice, "Hall").await;
    app.join(&bob, hall).await;
    app.join(&carol, hall).await;
    (alice, bob, carol, hall)
}

fn id(object: &Value) -> Id<marker::Channel> {
    object["id"].as_str().unwrap().parse().unwrap()
}

fn at(thread: &Value) -> String {
    format!("/channels/{}", id(thread))
}

async fn create(app: &TestApp, user: &TestUser, hall: TestGuild, kind: u8) -> Value {
    let path = format!("/channels/{}/threads", hall.general);
    let body = json!({ "name": "Side talk", "type": kind });
    app.post(user, &path, body).await.expect(201)
}

async fn say(app: &TestApp, user: &TestUser, thread: &Value, text: &str) -> Value {
    let path = format!("{}/messages", at(thread));
    app.post(user, &path, json!({ "content": text }))
        .await
        .expect(200)
}

fn names(events: &[(&'static str, Value)]) -> Vec<&'static str> {
    events.iter().map(|(name, _)| *name).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_thread_from_a_message_has_its_id_and_says_so(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let starter = app
        .post(&alice, &messages, json!({ "content": "look" }))
        .await;
    let starter = starter.expect(200);
    let path = format!("{messages}/{}/threads", starter["id"].as_str().unwrap());
    let body = json!({ "name": "About it", "auto_archive_duration": 60 });
    let thread = app.post(&bob, &path, body.clone()).await.expect(201);
    conforms("create_thread_from_message", 201, &thread);
    assert_eq!(thread["id"], starter["id"]);
    assert_eq!(thread["type"], 11);
    assert_eq!(thread["parent_id"], json!(hall.general));
    assert_eq!(thread["thread_metadata"]["auto_archive_duration"], 60);
    let events = app.events(hall.id).await;
    assert_eq!(
        names(&events),
        [
            "MESSAGE_CREATE",
            "THREAD_CREATE",
            "THREAD_MEMBERS_UPDATE",
            "MESSAGE_UPDATE",
            "MESSAGE_CREATE"
        ]
    );
    assert_eq!(events[1].1["newly_created"], true);
    assert_eq!(events[2].1["added_members"][0]["user_id"], json!(bob.id));
    assert_eq!(events[3].1["flags"], 32);
    assert_eq!(events[4].1["type"], 21);
    app.post(&bob, &path, body).await.expect_error(400, 160004);

    let inside = app.get(&alice, &format!("{}/messages", at(&thread))).await;
    let inside = inside.expect(200);
    conforms("list_messages", 200, &inside);
    assert_eq!(inside[0]["referenced_message"]["content"], "look");
    let starter = format!("{messages}/{}", starter["id"].as_str().unwrap());
    let starter = app.get(&alice, &starter).await.expect(200);
    conforms("get_message", 200, &starter);
    assert_eq!(starter["thread"]["id"], thread["id"]);
    assert_eq!(starter["thread"]["name"], "About it");
    let listed = app.get(&bob, &messages).await.expect(200);
    assert_eq!(listed[0]["thread"], starter["thread"]);
    let read = app.get(&bob, &at(&thread)).await.expect(200);
    conforms("get_channel", 200, &read);
    assert_eq!(read["member"]["user_id"], json!(bob.id));
    assert_eq!(read["message_count"], 0);
    app.delete(&alice, &at(&thread)).await.expect(200);
    let listed = app.get(&bob, &messages).await.expect(200);
    assert_eq!(listed[0].get("thread"), None);
}

#[sqlx::test(migrations = "../migrations")]
async fn writing_in_a_thread_joins_counts_and_wakes_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    conforms("create_thread", 201, &thread);
    let sent = say(&app, &bob, &thread, "hello").await;
    conforms("create_message", 200, &sent);
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(name, "MESSAGE_CREATE");
    assert_eq!(
        vis,
        Visibility::channel(hall.general, Intents::GUILD_MESSAGES)
    );
    let read = app.get(&bob, &at(&thread)).await.expect(200);
    assert_eq!(
        (
            &read["message_count"],
            &read["total_message_sent"],
            &read["member_count"]
        ),
        (&json!(1), &json!(1), &json!(2))
    );
    assert_eq!(read["last_message_id"], sent["id"]);

    let archive = json!({ "archived": true });
    app.patch(&bob, &at(&thread), archive.clone())
        .await
        .expect_error(403, 50013);
    let archived = app.patch(&alice, &at(&thread), archive).await.expect(200);
    conforms("update_channel", 200, &archived);
    assert_eq!(archived["thread_metadata"]["archived"], true);
    let message = format!("{}/messages/{}", at(&thread), sent["id"].as_str().unwrap());
    app.patch(&bob, &message, json!({ "content": "x" }))
        .await
        .expect_error(400, 50083);
    let before = app.events(hall.id).await.len();
    say(&app, &bob, &thread, "wake up").await;
    let events = app.events(hall.id).await;
    assert_eq!(
        names(&events[before..]),
        [
            "THREAD_UPDATE",
            "THREAD_MEMBER_UPDATE",
            "THREAD_MEMBER_UPDATE",
            "MESSAGE_CREATE"
        ]
    );
    assert_eq!(events[before].1["thread_metadata"]["archived"], false);
    app.delete(&bob, &message).await.expect(204);
    let read = app.get(&bob, &at(&thread)).await.expect(200);
    assert_eq!(
        (&read["message_count"], &read["total_message_sent"]),
        (&json!(1), &json!(2))
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_private_thread_is_for_its_members_and_moderators(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, hall) = hall(&app).await;
    let thread = create(&app, &bob, hall, 12).await;
    app.get(&carol, &at(&thread)).await.expect_error(403, 50001);
    app.get(&carol, &format!("{}/messages", at(&thread)))
        .await
        .expect_error(403, 50001);
    // The owner of the guild holds MANAGE_THREADS.
    app.get(&alice, &at(&thread)).await.expect(200);
    say(&app, &bob, &thread, "psst").await;
    let scope = |members: &[&TestUser]| {
        let mut members: Vec<_> = members.iter().map(|user| user.id).collect();
        members.sort_unstable();
        Scope::Thread {
            parent: hall.general,
            members,
        }
    };
    let vis = Visibility::of(scope(&[&bob]), Intents::GUILD_MESSAGES);
    assert_eq!(log::newest(&app, hall.id).await, ("MESSAGE_CREATE", vis));

    let member = format!("{}/thread-members/{}", at(&thread), carol.id);
    app.put(&bob, &member, json!({})).await.expect(204);
    let told = log::envelopes(&app.db, hall.id).await;
    let added = &told[told.len() - 2];
    assert_eq!(added.kind.name(), "THREAD_MEMBERS_UPDATE");
    let vis = Visibility {
        regardless: vec![carol.id],
        ..Visibility::of(scope(&[&bob, &carol]), Intents::GUILD_MEMBERS)
    };
    assert_eq!(added.vis, vis);
    let own = &told[told.len() - 3];
    assert_eq!(own.kind.name(), "THREAD_CREATE");
    let vis = Visibility::of(Scope::Users([carol.id].into()), Intents::GUILDS);
    assert_eq!(own.vis, vis);
    assert_eq!(told.last().unwrap().kind.name(), "MESSAGE_CREATE");
    app.get(&carol, &at(&thread)).await.expect(200);

    app.delete(
        &carol,
        &format!("{}/thread-members/{}", at(&thread), bob.id),
    )
    .await
    .expect_error(403, 50013);
    app.delete(&bob, &member).await.expect(204);
    app.get(&carol, &at(&thread)).await.expect_error(403, 50001);
    app.delete(&bob, &member).await.expect_error(404, 10007);
    let path = format!("/guilds/{}/threads/active", hall.id);
    let seen = app.get(&carol, &path).await.expect(200);
    conforms("get_active_guild_threads", 200, &seen);
    assert_eq!(seen["threads"], json!([]));
    let seen = app.get(&bob, &path).await.expect(200);
    assert_eq!(seen["threads"][0]["id"], thread["id"]);
    assert_eq!(seen["members"][0]["user_id"], json!(bob.id));
}

#[sqlx::test(migrations = "../migrations")]
async fn members_join_leave_and_are_listed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let thread = create(&app, &alice, hall, 11).await;
    let members = format!("{}/thread-members", at(&thread));
    let me = format!("{members}/@me");
    app.put(&bob, &me, json!({})).await.expect(204);
    let count = app.events(hall.id).await.len();
    app.put(&bob, &me, json!({})).await.expect(204);
    assert_eq!(app.events(hall.id).await.len(), count);
    app.put(&carol, &me, json!({})).await.expect(204);
    let page = format!("{members}?with_member=true&limit=2");
    let first = app.get(&bot, &page).await.expect(200);
    conforms("list_thread_members", 200, &first);
    assert_eq!(first.as_array().unwrap().len(), 2);
    assert!(first[0]["member"]["user"]["id"].is_string());
    let last = first[1]["user_id"].as_str().unwrap();
    let rest = app.get(&bot, &format!("{page}&after={last}")).await;
    assert_eq!(rest.expect(200).as_array().unwrap().len(), 1);
    let one = app.get(&bot, &format!("{members}/{}", bob.id)).await;
    conforms("get_thread_member", 200, &one.expect(200));
    app.get(&bot, &format!("{members}/{}", bot.id))
        .await
        .expect_error(404, 10007);
    let settings = format!("{me}/settings");
    let own = app
        .patch(&bob, &settings, json!({ "flags": 8, "muted": true }))
        .await
        .expect(200);
    assert_eq!((&own["flags"], &own["muted"]), (&json!(8), &json!(true)));
    let (name, vis) = log::newest(&app, hall.id).await;
    assert_eq!(name, "THREAD_MEMBER_UPDATE");
    assert_eq!(vis.scope, Scope::Users([bob.id].into()));
    app.delete(&bob, &me).await.expect(204);
    app.get(&bot, &format!("{members}/{}", bob.id))
        .await
        .expect_error(404, 10007);
    app.patch(&alice, &at(&thread), json!({ "archived": true }))
        .await
        .expect(200);
    app.put(&bob, &me, json!({})).await.expect_error(400, 50083);
}

#[sqlx::test(migrations = "../migrations")]
async fn archived_threads_are_paged_by_time(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    for _ in 0..3 {
        let thread = create(&app, &alice, hall, 11).await;
        let body = json!({ "archived": true });
        app.patch(&alice, &at(&thread), body).await.expect(200);
    }
    let private = create(&app, &bob, hall, 12).await;
    app.patch(&bob, &at(&private), json!({ "archived": true }))
        .await
        .expect(200);
    let path = format!("/channels/{}/threads/archived", hall.general);
    let first = app.get(&bob, &format!("{path}/public?limit=2")).await;
    let first = first.expect(200);
    conforms("list_public_archived_threads", 200, &first);
    assert_eq!(first["has_more"], true);
    let before = &first["threads"][1]["thread_metadata"]["archive_timestamp"];
    let before = before.as_str().unwrap().replace('+', "%2B");
    let rest = app
        .get(&bob, &format!("{path}/public?before={before}"))
        .await;
    let rest = rest.expect(200);
    assert_eq!(rest["threads"].as_array().unwrap().len(), 1);
    assert_eq!(rest["has_more"], false);
    app.get(&bob, &format!("{path}/public?limit=1"))
        .await
        .expect_fault("limit", "NUMBER_TYPE_MIN");
    app.get(&bob, &format!("{path}/private"))
        .await
        .expect_error(403, 50013);
    let all = app
        .get(&alice, &format!("{path}/private"))
        .await
        .expect(200);
    conforms("list_private_archived_threads", 200, &all);
    assert_eq!(all["threads"][0]["id"], private["id"]);
    let mine = format!(
        "/channels/{}/users/@me/threads/archived/private",
        hall.general
    );
    let own = app.get(&bob, &mine).await.expect(200);
    conforms("list_my_private_archived_threads", 200, &own);
    assert_eq!(own["threads"][0]["id"], private["id"]);
    let none = app.get(&alice, &mine).await.expect(200);
    assert_eq!(none["threads"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn posts_of_a_forum_have_a_message_and_tags(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let body = json!({
        "name": "help", "type": 15, "default_sort_order": 1,
        "available_tags": [{ "name": "bug" }, { "name": "staff", "moderated": true }],
    });
    let channels = format!("/guilds/{}/channels", hall.id);
    let forum = app.post(&alice, &channels, body).await.expect(201);
    conforms("create_guild_channel", 201, &forum);
    let tags = &forum["available_tags"];
    app.patch(&alice, &at(&forum), json!({ "flags": 16 }))
        .await
        .expect(200);
    let posts = format!("{}/threads", at(&forum));
    let post = |tags: Value| json!({ "name": "It fails", "applied_tags": tags, "message": { "content": "see" } });
    app.post(&bob, &posts, post(json!([])))
        .await
        .expect_error(400, 40067);
    app.post(&bob, &posts, post(json!([tags[1]["id"]])))
        .await
        .expect_error(403, 50013);
    app.post(&bob, &posts, json!({ "name": "x" }))
        .await
        .expect_fault("message", "BASE_TYPE_REQUIRED");
    let made = app.post(&bob, &posts, post(json!([tags[0]["id"]]))).await;
    let made = made.expect(201);
    conforms("create_thread", 201, &made);
    assert_eq!(made["id"], made["message"]["id"]);
    assert_eq!(made["applied_tags"], json!([tags[0]["id"]]));
    assert_eq!(made["message_count"], 0);
    // A forum's newest message is its newest post.
    let all = app.get(&alice, &channels).await.expect(200);
    let mut all = all.as_array().unwrap().iter();
    let shown = all.find(|one| one["id"] == forum["id"]).unwrap();
    assert_eq!(shown["last_message_id"], made["id"]);
    let search = format!("{}/threads/search", at(&forum));
    let found = app
        .get(&alice, &format!("{search}?name=fail"))
        .await
        .expect(200);
    conforms("thread_search", 200, &found);
    assert_eq!(found["total_results"], 1);
    assert_eq!(found["first_messages"][0]["content"], "see");
    let beyond = format!("{search}?name=fail&offset=1");
    let beyond = app.get(&alice, &beyond).await.expect(200);
    assert_eq!(beyond["threads"], json!([]));
    assert_eq!(
        (&beyond["total_results"], &beyond["has_more"]),
        (&json!(1), &json!(false))
    );
    let tag = tags[1]["id"].as_str().unwrap();
    let none = app
        .get(&alice, &format!("{search}?tag={tag}"))
        .await
        .expect(200);
    assert_eq!(none["threads"], json!([]));
    // The forum itself takes no messages.
    app.post(
        &bob,
        &format!("{}/messages", at(&forum)),
        json!({ "content": "x" }),
    )
    .await
    .expect_error(400, 40058);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_of_more_threads_than_are_counted_begins_at_the_right_end(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, _, hall) = hall(&app).await;
    let (guild, parent, owner) = (hall.id, hall.general, alice.id);
    let statements = format!(
        "insert into channel (channel_id, guild_id, kind, name, parent_id)
         select n, {guild}, 11, 'thread', {parent} from generate_series(1, 10001) n;
         insert into thread (thread_id, guild_id, parent_id, owner_id, archived,
                             auto_archive_minutes, archive_at, active_at)
         select n, {guild}, {parent}, {owner}, true, 60,
                timestamptz '2026-01-01 00:00Z' - n * interval '1 minute',
                timestamptz '2026-01-01 00:00Z' + (n + 5000) % 10001 * interval '1 minute'
         from generate_series(1, 10001) n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(&app.db)
        .await
        .unwrap();
    let search = format!("/channels/{}/threads/search?", hall.general);
    for (query, first) in [
        ("sort_by=creation_time", 10001),
        ("sort_by=creation_time&sort_order=asc", 1),
        ("sort_by=archive_time", 1),
        ("sort_by=archive_time&sort_order=asc", 10001),
        ("sort_by=last_message_time", 5000),
        ("sort_order=asc&name=thread", 5001),
    ] {
        let found = app.get(&alice, &format!("{search}{query}")).await;
        let found = found.expect(200);
        assert_eq!(found["threads"][0]["id"], first.to_string(), "{query}");
        assert_eq!(found["total_results"], 10_000);
        assert_eq!(found["has_more"], true);
        let last = format!("{search}{query}&offset=9975");
        let last = app.get(&alice, &last).await.expect(200);
        assert_eq!(last["threads"].as_array().unwrap().len(), 25, "{query}");
        assert_eq!(last["has_more"], false);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn threads_go_with_moderators_and_with_their_channel(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &bob, hall, 11).await;
    say(&app, &bob, &thread, "one").await;
    app.patch(&bob, &at(&thread), json!({ "locked": true }))
        .await
        .expect_error(403, 50013);
    app.patch(&alice, &at(&thread), json!({ "locked": true }))
        .await
        .expect(200);
    app.post(
        &bob,
        &format!("{}/messages", at(&thread)),
        json!({ "content": "x" }),
    )
    .await
    .expect_error(400, 160005);
    app.delete(&bob, &at(&thread))
        .await
        .expect_error(403, 50013);
    let gone = app.delete(&alice, &at(&thread)).await.expect(200);
    conforms("delete_channel", 200, &gone);
    app.get(&alice, &at(&thread)).await.expect_error(404, 10003);
    let other = create(&app, &bob, hall, 11).await;
    let general = format!("/channels/{}", hall.general);
    app.delete(&alice, &general).await.expect(200);
    app.get(&alice, &at(&other)).await.expect_error(404, 10003);
    let events = app.events(hall.id).await;
    let deleted: Vec<_> = events
        .iter()
        .filter(|(name, _)| name.ends_with("DELETE"))
        .map(|(name, body)| (*name, body["id"].clone()))
        .collect();
    assert_eq!(
        deleted,
        [
            ("THREAD_DELETE", thread["id"].clone()),
            ("THREAD_DELETE", other["id"].clone()),
            ("CHANNEL_DELETE", json!(hall.general)),
        ]
    );
    let queued: i64 = sqlx::query_scalar("select count(*) from collect")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(queued, 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn threads_of_a_deleted_channel_are_gone_before_they_are_collected(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    let open = create(&app, &bob, hall, 11).await;
    let secret = create(&app, &bob, hall, 12).await;
    let (guild, parent, his, hers) = (hall.id, hall.general, bob.id, alice.id);
    let message: Id<marker::Message> = app.id();
    let archived = format!(
        "insert into channel (channel_id, guild_id, kind, name, parent_id)
         select n, {guild}, 11, 'thread', {parent} from generate_series(1, 120) n;
         insert into thread (thread_id, guild_id, parent_id, owner_id, archived,
                             auto_archive_minutes)
         select n, {guild}, {parent}, {his}, true, 60 from generate_series(1, 120) n;
         insert into thread_member (thread_id, user_id, guild_id)
         select n, {hers}, {guild} from generate_series(1, 120) n;
         insert into message (channel_id, message_id, author_id, content)
         values (7, {message}, {his}, 'hi')"
    );
    run(&app, archived).await;
    // Threads, memberships, messages, what is queued.
    let left = async || -> (i64, i64, i64, i64) {
        sqlx::query_as(
            "select (select count(*) from thread), (select count(*) from thread_member),
                    (select count(*) from message where channel_id = 7),
                    (select count(*) from collect)",
        )
        .fetch_one(&app.db)
        .await
        .unwrap()
    };

    let general = format!("/channels/{}", hall.general);
    app.delete(&alice, &general).await.expect(200);
    assert_eq!(left().await, (122, 122, 1, 2));
    let events = app.events(hall.id).await;
    let deleted: Vec<_> = events
        .iter()
        .filter(|(name, _)| name.ends_with("DELETE"))
        .map(|(name, body)| (*name, body["id"].clone()))
        .collect();
    assert_eq!(
        deleted,
        [
            ("THREAD_DELETE", open["id"].clone()),
            ("THREAD_DELETE", secret["id"].clone()),
            ("CHANNEL_DELETE", json!(hall.general)),
        ]
    );
    let kind = EventKind::ThreadDelete;
    let envelopes = log::envelopes(&app.db, hall.id).await;
    let told: Vec<_> = envelopes.iter().filter(|told| told.kind == kind).collect();
    let inside = Scope::Thread {
        parent: hall.general,
        members: vec![bob.id],
    };
    assert_eq!(told[1].vis, Visibility::of(inside, Intents::GUILDS));

    for user in [&alice, &eve] {
        app.get(user, "/channels/7").await.expect_error(404, 10003);
    }
    for thread in ["/channels/7".to_owned(), at(&open), at(&secret)] {
        app.patch(&alice, &thread, json!({ "archived": false }))
            .await
            .expect_error(404, 10003);
        let path = format!("{thread}/messages");
        app.post(&alice, &path, json!({ "content": "hi" }))
            .await
            .expect_error(404, 10003);
        app.put(&bob, &format!("{thread}/thread-members/@me"), json!({}))
            .await
            .expect_error(404, 10003);
        app.delete(&alice, &thread).await.expect_error(404, 10003);
    }
    let path = format!("/guilds/{}/threads/active", hall.id);
    let active = app.get(&bob, &path).await.expect(200);
    assert_eq!(active["threads"], json!([]));
    // Nor does the server itself find them.
    let ban = format!("/guilds/{}/bans/{}", hall.id, bob.id);
    app.put(&alice, &ban, json!({ "delete_message_seconds": 3600 }))
        .await
        .expect(204);
    app.until("select not exists (select from ban_purge)").await;
    let names = app.event_names(hall.id).await;
    assert!(!names.contains(&"MESSAGE_DELETE_BULK"), "{names:?}");

    app.app.collect_channels().await.unwrap();
    app.app.collect_channels().await.unwrap();
    assert_eq!(left().await, (0, 0, 0, 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_write_in_threads_may_not(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    let deny = json!({ "type": 0, "deny": Permissions::SEND_MESSAGES_IN_THREADS | Permissions::CREATE_PRIVATE_THREADS });
    let overwrite = format!("/channels/{}/permissions/{}", hall.general, hall.id);
    app.put(&alice, &overwrite, deny).await.expect(204);
    app.post(
        &bob,
        &format!("{}/messages", at(&thread)),
        json!({ "content": "x" }),
    )
    .await
    .expect_error(403, 50013);
    app.post(&bob, &format!("{}/typing", at(&thread)), json!({}))
        .await
        .expect_error(403, 50013);
    let threads = format!("/channels/{}/threads", hall.general);
    app.post(&bob, &threads, json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    app.post(
        &bob,
        &threads,
        json!({ "name": "", "auto_archive_duration": 7 }),
    )
    .await
    .expect_fault("auto_archive_duration", "BASE_TYPE_CHOICES");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_timed_out_does_nothing_with_their_own_thread(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, hall) = hall(&app).await;
    let thread = create(&app, &bob, hall, 12).await;
    let guest = format!("{}/thread-members/{}", at(&thread), carol.id);
    app.put(&bob, &guest, json!({})).await.expect(204);
    let rename = async |name| app.patch(&bob, &at(&thread), json!({ "name": name })).await;
    rename("Quiet talk").await.expect(200);

    let until = Timestamp(Timestamp::now().0 + time::Duration::MINUTE);
    let silence = json!({ "communication_disabled_until": until });
    let path = format!("/guilds/{}/members/{}", hall.id, bob.id);
    app.patch(&alice, &path, silence).await.expect(200);
    rename("Loud words").await.expect_error(403, 50013);
    let archived = json!({ "archived": true });
    app.patch(&bob, &at(&thread), archived.clone())
        .await
        .expect_error(403, 50013);
    app.delete(&bob, &guest).await.expect_error(403, 50013);
    app.patch(&alice, &at(&thread), archived).await.expect(200);
    app.patch(&bob, &at(&thread), json!({ "archived": false }))
        .await
        .expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_refused_message_wakes_no_thread(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    app.patch(&alice, &at(&thread), json!({ "archived": true }))
        .await
        .expect(200);
    let before = app.event_names(hall.id).await;
    let messages = format!("{}/messages", at(&thread));
    app.post(&bob, &messages, json!({ "content": " " }))
        .await
        .expect_error(400, 50006);
    let unknown = json!({ "content": "x", "message_reference": { "message_id": "5" } });
    app.post(&bob, &messages, unknown)
        .await
        .expect_fault("message_reference", "REPLIES_UNKNOWN_MESSAGE");
    assert_eq!(app.event_names(hall.id).await, before);
    let read = app.get(&bob, &at(&thread)).await.expect(200);
    assert_eq!(read["thread_metadata"]["archived"], true);
    say(&app, &bob, &thread, "wake up").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn in_a_locked_thread_only_moderators_edit(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &bob, hall, 11).await;
    let his = say(&app, &bob, &thread, "one").await;
    let hers = say(&app, &alice, &thread, "two").await;
    app.patch(&alice, &at(&thread), json!({ "locked": true }))
        .await
        .expect(200);
    let one = |message: &Value| {
        format!(
            "{}/messages/{}",
            at(&thread),
            message["id"].as_str().unwrap()
        )
    };
    let edit = || json!({ "content": "three" });
    app.patch(&bob, &one(&his), edit())
        .await
        .expect_error(400, 160_005);
    app.patch(&alice, &one(&hers), edit()).await.expect(200);
    app.delete(&bob, &one(&his)).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn in_a_locked_thread_only_moderators_add_others(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, carol, hall) = hall(&app).await;
    let thread = create(&app, &bob, hall, 11).await;
    app.patch(&alice, &at(&thread), json!({ "locked": true }))
        .await
        .expect(200);
    let member = format!("{}/thread-members/{}", at(&thread), carol.id);
    app.put(&bob, &member, json!({}))
        .await
        .expect_error(400, 160_005);
    app.get(&bob, &member).await.expect_error(404, 10007);
    app.put(&alice, &member, json!({})).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_deleted_is_not_deleted_in_bulk(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, _, hall) = hall(&app).await;
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    app.grant(&bot, hall, Permissions::MANAGE_MESSAGES).await;
    let messages = format!("/channels/{}/messages", hall.general);
    let starter = app.post(&alice, &messages, json!({ "content": "look" }));
    let starter = starter.await.expect(200);
    let path = format!("{messages}/{}/threads", starter["id"].as_str().unwrap());
    let thread = app.post(&alice, &path, json!({ "name": "About it" })).await;
    let thread = thread.expect(201);
    let said = say(&app, &alice, &thread, "one").await;
    let inside = format!("{}/messages", at(&thread));
    let list = app.get(&bot, &inside).await.expect(200);
    assert_eq!(list[1]["type"], 21);
    let both = json!({ "messages": [list[1]["id"], said["id"]] });
    app.post(&bot, &format!("{inside}/bulk-delete"), both)
        .await
        .expect_error(403, 50021);
    assert_eq!(app.get(&bot, &inside).await.expect(200), list);
}

#[sqlx::test(migrations = "../migrations")]
async fn slowmode_holds_back_threads_of_messages_too(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let general = format!("/channels/{}", hall.general);
    app.patch(&alice, &general, json!({ "rate_limit_per_user": 60 }))
        .await
        .expect(200);
    let mut threads = Vec::new();
    for text in ["one", "two"] {
        let messages = format!("{general}/messages");
        let sent = app.post(&alice, &messages, json!({ "content": text }));
        let sent = sent.await.expect(200);
        let id = sent["id"].as_str().unwrap();
        threads.push(format!("{general}/messages/{id}/threads"));
    }
    let body = || json!({ "name": "About it" });
    let made = app.post(&bob, &threads[0], body()).await.expect(201);
    assert_eq!(made["member"]["user_id"], json!(bob.id));
    app.post(&bob, &threads[1], body())
        .await
        .expect_error(429, 20016);
    app.post(&alice, &threads[1], body()).await.expect(201);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_refused_thread_holds_back_no_other(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let general = format!("/channels/{}", hall.general);
    app.patch(&alice, &general, json!({ "rate_limit_per_user": 60 }))
        .await
        .expect(200);
    let messages = format!("{general}/messages");
    let sent = app.post(&alice, &messages, json!({ "content": "one" }));
    let sent = sent.await.expect(200);
    let about_it = format!("{messages}/{}/threads", sent["id"].as_str().unwrap());
    let name = || json!({ "name": "About it" });
    app.post(&alice, &about_it, name()).await.expect(201);
    app.post(&bob, &about_it, name())
        .await
        .expect_error(400, 160_004);

    let rule = json!({
        "name": "cats", "event_type": 1, "trigger_type": 1, "enabled": true,
        "trigger_metadata": { "keyword_filter": ["cat"] }, "actions": [{ "type": 1 }],
    });
    let rules = format!("/guilds/{}/auto-moderation/rules", hall.id);
    app.post(&alice, &rules, rule).await.expect(200);
    let threads = format!("{general}/threads");
    let talk = |name: &str| json!({ "name": name, "type": 11 });
    app.post(&bob, &threads, talk("a cat"))
        .await
        .expect_error(400, 200_000);
    app.post(&bob, &threads, talk("a dog")).await.expect(201);
    app.post(&bob, &threads, talk("a bird"))
        .await
        .expect_error(429, 20016);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_forum_pins_one_post(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, _, hall) = hall(&app).await;
    let channels = format!("/guilds/{}/channels", hall.id);
    let forum = app.post(&alice, &channels, json!({ "name": "help", "type": 15 }));
    let forum = forum.await.expect(201);
    let posts = format!("{}/threads", at(&forum));
    let mut made = Vec::new();
    for name in ["one", "two"] {
        let post = json!({ "name": name, "message": { "content": "see" } });
        made.push(app.post(&alice, &posts, post).await.expect(201));
    }
    let pin = || json!({ "flags": 2 });
    let pinned = app.patch(&alice, &at(&made[0]), pin()).await.expect(200);
    assert_eq!(pinned["flags"], 2);
    app.patch(&alice, &at(&made[0]), pin()).await.expect(200);
    app.patch(&alice, &at(&made[1]), pin())
        .await
        .expect_error(400, 30047);
    app.patch(&alice, &at(&made[0]), json!({ "flags": 0 }))
        .await
        .expect(200);
    app.patch(&alice, &at(&made[1]), pin()).await.expect(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_thread_falls_asleep_when_nobody_writes_in_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let quiet = create(&app, &alice, hall, 11).await;
    let busy = create(&app, &alice, hall, 11).await;
    for (thread, past_s) in [(&quiet, 1), (&busy, -60)] {
        sqlx::query(
            "update thread set active_at = now() - auto_archive_minutes * interval '1 minute'
                                                 - $2::int * interval '1 second'
             where thread_id = $1",
        )
        .bind(id(thread).to_db())
        .bind(past_s)
        .execute(&app.db)
        .await
        .unwrap();
    }
    let before = app.events(hall.id).await.len();

    // Two processes do it once.
    let (first, second) = tokio::join!(app.app.archive_threads(), app.app.archive_threads());
    first.and(second).unwrap();

    let events = app.events(hall.id).await;
    assert_eq!(names(&events[before..]), ["THREAD_UPDATE"]);
    let told = &events[before].1;
    assert_eq!(told["id"], quiet["id"]);
    assert_eq!(told["thread_metadata"]["archived"], true);
    let active = format!("/guilds/{}/threads/active", hall.id);
    let active = app.get(&bob, &active).await.expect(200);
    assert_eq!(active["threads"].as_array().unwrap().len(), 1);
    assert_eq!(active["threads"][0]["id"], busy["id"]);
    let archived = format!("/channels/{}/threads/archived/public", hall.general);
    let archived = app.get(&bob, &archived).await.expect(200);
    assert_eq!(archived["threads"][0]["id"], quiet["id"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_thread_that_cannot_be_archived_holds_up_no_other(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, _, hall) = hall(&app).await;
    let stuck = create(&app, &alice, hall, 11).await;
    let other = create(&app, &alice, hall, 11).await;
    let first = id(&stuck);
    let idle = format!(
        "update thread set active_at = now() - interval '30 days'
           - case when thread_id = {first} then interval '1 s' else interval '0 s' end"
    );
    run(&app, idle).await;
    let first = format!("new.thread_id = {first}");
    app.refuse("update", "thread", &first).await;
    app.app.archive_threads().await.unwrap();
    for (thread, archived) in [(stuck, false), (other, true)] {
        let read = app.get(&alice, &at(&thread)).await.expect(200);
        assert_eq!(read["thread_metadata"]["archived"], archived);
    }
}

async fn run(app: &TestApp, statements: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
        .execute(&app.db)
        .await
        .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn no_thread_begins_or_wakes_beside_a_thousand_others(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    let archive = json!({ "archived": true });
    app.patch(&alice, &at(&thread), archive).await.expect(200);
    let channels = format!("/guilds/{}/channels", hall.id);
    let news = json!({ "name": "news", "type": 5 });
    let news = app.post(&alice, &channels, news).await.expect(201);
    let (guild, parent, owner) = (hall.id, hall.general, alice.id);
    let others = format!(
        "insert into channel (channel_id, guild_id, kind, name, parent_id)
         select n, {guild}, 11, 'thread', {parent} from generate_series(1, 1000) n;
         insert into thread (thread_id, guild_id, parent_id, owner_id, auto_archive_minutes)
         select n, {guild}, {parent}, {owner}, 60 from generate_series(1, 1000) n"
    );
    run(&app, others).await;

    let new = |kind| json!({ "name": "Side talk", "type": kind });
    let threads = format!("/channels/{}/threads", hall.general);
    app.post(&alice, &threads, new(11))
        .await
        .expect_error(400, 160006);
    let announcements = format!("{}/threads", at(&news));
    app.post(&alice, &announcements, new(10))
        .await
        .expect_error(400, 160007);
    let wake = json!({ "archived": false });
    app.patch(&alice, &at(&thread), wake)
        .await
        .expect_error(400, 160006);
    let messages = format!("{}/messages", at(&thread));
    let body = json!({ "content": "hello?" });
    app.post(&alice, &messages, body)
        .await
        .expect_error(400, 160006);

    let gone = "update thread set archived = true where thread_id = 1";
    run(&app, gone.to_owned()).await;
    say(&app, &alice, &thread, "hello").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_in_a_full_thread_may_be_added_again(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    let (guild, id) = (hall.id, id(&thread));
    let others = format!(
        "insert into account (user_id, username)
         select n, 'user' || n from generate_series(1, 999) n;
         insert into member (guild_id, user_id) select {guild}, n from generate_series(1, 999) n;
         insert into thread_member (thread_id, user_id, guild_id)
         select {id}, n, {guild} from generate_series(1, 999) n"
    );
    run(&app, others).await;
    let members = format!("{}/thread-members", at(&thread));
    let add = async |user: String| {
        app.put(&alice, &format!("{members}/{user}"), json!({}))
            .await
    };
    add("5".to_owned()).await.expect(204);
    add(bob.id.to_string()).await.expect_error(400, 30033);
    app.delete(&alice, &format!("{members}/5"))
        .await
        .expect(204);
    add(bob.id.to_string()).await.expect(204);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_thread_that_is_locked_meanwhile_is_not_woken(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, _, hall) = hall(&app).await;
    let thread = create(&app, &alice, hall, 11).await;
    let archive = json!({ "archived": true });
    app.patch(&alice, &at(&thread), archive).await.expect(200);
    let held = app.hold(hall.id).await;
    let messages = format!("{}/messages", at(&thread));
    let body = json!({ "content": "wait" });
    let sent = app.post(&bob, &messages, body);
    let locked = "update thread set locked = true";
    let (reply, ()) = tokio::join!(sent, change_meanwhile(&app, held, locked));
    reply.expect_error(400, 160005);
    let thread = app.get(&bob, &at(&thread)).await.expect(200);
    assert_eq!(thread["thread_metadata"]["archived"], true);
}
