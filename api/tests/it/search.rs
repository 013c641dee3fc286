use guildhall_shared::{Id, Permissions, id::marker};
use serde_json::{Value, json};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    conformance::conforms,
    harness::{TestApp, TestGuild, TestUser, at_once, hall, rows_read, two_connections},
};

/// What `has` of a message with a poll is.
const POLL: i32 = 1 << 7;

async fn send(app: &TestApp, user: &TestUser, hall: TestGuild, body: Value) -> Value {
    let path = format!("/channels/{}/messages", hall.general);
    app.post(user, &path, body).await.expect(200)
}

/// Messages settle some seconds after they are sent: the tests make theirs older.
async fn age(app: &TestApp) {
    let minute = 60_000i64 << 22;
    for table in ["message", "pin"] {
        let statement = format!("update {table} set message_id = message_id - {minute}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&app.db)
            .await
            .unwrap();
    }
}

fn contents(found: &Value) -> Vec<&str> {
    found["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group[0]["content"].as_str().unwrap())
        .collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn messages_are_found_by_what_they_hold(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    send(
        &app,
        &alice,
        hall,
        json!({ "content": "Red apples and pears" }),
    )
    .await;
    send(
        &app,
        &bob,
        hall,
        json!({ "content": "green apples https://example.org/x" }),
    )
    .await;
    send(
        &app,
        &bob,
        hall,
        json!({ "content": format!("pears <@{}>", alice.id) }),
    )
    .await;
    send(
        &app,
        &bob,
        hall,
        json!({ "embeds": [{ "title": "apples embedded" }] }),
    )
    .await;
    age(&app).await;
    let search = format!("/guilds/{}/messages/search", hall.id);
    let all = app.get(&bob, &search).await.expect(200);
    conforms("guild_search", 200, &all);
    assert_eq!(all["total_results"], 4);
    assert_eq!(all["messages"][0][0]["hit"], true);
    for (query, expected) in [
        (
            "content=APPLES",
            vec![
                "",
                "green apples https://example.org/x",
                "Red apples and pears",
            ],
        ),
        ("content=apples+red", vec!["Red apples and pears"]),
        (
            "content=apples&sort_order=asc&limit=1",
            vec!["Red apples and pears"],
        ),
        ("content=apples&offset=2", vec!["Red apples and pears"]),
        (
            "content=apples&has=link",
            vec!["green apples https://example.org/x"],
        ),
        ("has=embed", vec![""]),
        (
            "content=apples&has=-link&has=-embed",
            vec!["Red apples and pears"],
        ),
        (
            "link_hostname=Example.org",
            vec!["green apples https://example.org/x"],
        ),
        ("author_type=bot", vec![]),
        ("content=nothing", vec![]),
    ] {
        let found = app
            .get(&bob, &format!("{search}?{query}"))
            .await
            .expect(200);
        assert_eq!(contents(&found), expected, "{query}");
    }
    let beyond = format!("{search}?content=apples&offset=3");
    let found = app.get(&bob, &beyond).await.expect(200);
    assert_eq!(contents(&found), [""; 0]);
    assert_eq!(found["total_results"], 3);
    let author = format!("{search}?author_id={}&content=pears", alice.id);
    let found = app.get(&bob, &author).await.expect(200);
    assert_eq!(contents(&found), ["Red apples and pears"]);
    let mention = format!("{search}?mentions={}", alice.id);
    let found = app.get(&bob, &mention).await.expect(200);
    assert_eq!(found["total_results"], 1);
    let channel = format!("/channels/{}/messages/search?content=green", hall.general);
    let found = app.get(&bob, &channel).await.expect(200);
    assert_eq!(found["total_results"], 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_pages_of_a_search_are_the_whole_of_it(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    for content in ["pear", "pear pear fig", "fig pear", "pear pear", "a pear"] {
        send(&app, &alice, hall, json!({ "content": content })).await;
    }
    age(&app).await;
    for place in [
        format!("/guilds/{}", hall.id),
        format!("/channels/{}", hall.general),
    ] {
        for order in ["sort_order=desc", "sort_order=asc", "sort_by=relevance"] {
            let search = format!("{place}/messages/search?content=pear&{order}");
            let whole = app.get(&alice, &search).await.expect(200);
            assert_eq!(contents(&whole).len(), 5, "{search}");
            for (offset, part) in [(0, 0..2), (2, 2..4), (4, 4..5), (6, 5..5)] {
                let page = format!("{search}&limit=2&offset={offset}");
                let page = app.get(&alice, &page).await.expect(200);
                assert_eq!(contents(&page), contents(&whole)[part], "{search}");
                assert_eq!(page["total_results"], 5);
            }
        }
    }
}

/// Many messages of `alice`, already indexed: 60,000 of the guild, in its order of time and
/// numbered from 1, and as many of other channels.
async fn fill(app: &TestApp, alice: &TestUser, hall: TestGuild) {
    let mut channels = vec![hall.general.to_db()];
    for name in ["old", "slow", "empty"] {
        let path = format!("/guilds/{}/channels", hall.id);
        let channel = app.post(alice, &path, json!({ "name": name })).await;
        channels.push(channel.expect(201)["id"].as_str().unwrap().parse().unwrap());
    }
    sqlx::query(
        "insert into message (channel_id, message_id, author_id, content)
         select ($1::bigint[])[case when n % 50 = 0 then 3 when n > 8000 then 1 else 2 end],
                n << 22, $2, n::text
         from generate_series(1::bigint, 60000) n",
    )
    .bind(&channels)
    .bind(alice.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into message_search (channel_id, message_id, author_id, author_kind, words, has,
                                     mention_everyone, mentions, mention_roles, hosts, filenames)
         select channel_id, message_id, author_id, 0,
                to_tsvector('simple', case content when '5' then 'rare' else 'common' end),
                case when content::bigint % 7 = 0 then $1 else 0 end,
                false, '{}'::bigint[], '{}'::bigint[], '{}'::text[], '{}'::text[]
         from message
         union all
         select n / 2, (n << 22) + 1, 1, 0, '', 0, false, '{}', '{}', '{}', '{}'
         from generate_series(1::bigint, 60000) n",
    )
    .bind(POLL)
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into message_search_channel (channel_id, indexed_to)
         select channel_id, 60000::bigint << 22 from unnest($1::bigint[]) w (channel_id)",
    )
    .bind(&channels)
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query("analyze message_search")
        .execute(&app.db)
        .await
        .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_of_several_channels_ends_with_what_it_counts(
    options: PgPoolOptions,
    connect: PgConnectOptions,
) {
    let app = TestApp::new(two_connections(options, connect).await).await;
    let (alice, _, hall) = hall(&app).await;
    fill(&app, &alice, hall).await;
    let search = format!("/guilds/{}/messages/search?limit=5", hall.id);
    let before = rows_read(&app, "message_search").await;
    let found = app.get(&alice, &search).await.expect(200);
    let read = rows_read(&app, "message_search").await - before;
    assert_eq!(found["total_results"], 10_000);
    assert!(read < 30_000, "{read} of 60,000");

    let ids = |numbers: Vec<u64>| -> Vec<String> { numbers.iter().map(u64::to_string).collect() };
    let middle = format!("&min_id={}&max_id={}", 14_999u64 << 22, 20_000u64 << 22);
    let cases: [(&str, u64, Vec<u64>); 9] = [
        ("&offset=9975", 10_000, (50_021..=50_025).rev().collect()),
        ("&sort_order=asc", 10_000, (1..=5).collect()),
        (
            "&sort_order=asc&offset=9975",
            10_000,
            (9976..=9980).collect(),
        ),
        (
            "&has=poll",
            8571,
            (59_969..=59_997).rev().step_by(7).collect(),
        ),
        (
            "&has=poll&sort_order=asc",
            8571,
            (7..=35).step_by(7).collect(),
        ),
        (&middle, 5000, (19_995..20_000).rev().collect()),
        (
            "&pinned=false&offset=9975",
            10_000,
            (50_021..=50_025).rev().collect(),
        ),
        ("&pinned=true", 0, vec![]),
        ("&mention_everyone=true", 0, vec![]),
    ];
    for (query, total, expected) in cases {
        let found = app.get(&alice, &format!("{search}{query}")).await;
        let found = found.expect(200);
        assert_eq!(contents(&found), ids(expected), "{query}");
        assert_eq!(found["total_results"], total, "{query}");
    }
    app.db.close().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn words_are_found_by_their_index_after_any_number_of_searches(
    options: PgPoolOptions,
    connect: PgConnectOptions,
) {
    let app = TestApp::new(two_connections(options, connect).await).await;
    let (alice, _, hall) = hall(&app).await;
    fill(&app, &alice, hall).await;
    let search = format!("/channels/{}/messages/search?limit=1", hall.general);
    // Of five of each connection Postgres takes the average, and may keep one plan from then on.
    for _ in 0..14 {
        app.get(&alice, &search).await.expect(200);
    }
    let before = rows_read(&app, "message_search").await;
    let search = format!("{search}&content=rare");
    let found = app.get(&alice, &search).await.expect(200);
    let read = rows_read(&app, "message_search").await - before;
    assert_eq!(found["total_results"], 0);
    assert!(read < 100, "{read}");
    app.db.close().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn relevance_orders_the_newest_matches_that_are_counted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    fill(&app, &alice, hall).await;
    // The first ones of the guild and of the channel, and a late one.
    for (number, words) in [
        (1i64, "common common common"),
        (8001, "common common common"),
        (59_001, "common common"),
    ] {
        sqlx::query(
            "update message_search set words = to_tsvector('simple', $2)
             where author_id = $3 and message_id = $1 << 22",
        )
        .bind(number)
        .bind(words)
        .bind(alice.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    }
    let query = "messages/search?content=common&sort_by=relevance&limit=2";
    for place in [
        format!("/guilds/{}", hall.id),
        format!("/channels/{}", hall.general),
    ] {
        let found = app.get(&alice, &format!("{place}/{query}")).await;
        let found = found.expect(200);
        assert_eq!(found["total_results"], 10_000, "{place}");
        assert_eq!(contents(&found)[0], "59001", "{place}");
        let last = if place.starts_with("/guilds") {
            "60000"
        } else {
            "59999"
        };
        assert_eq!(contents(&found)[1], last, "{place}");
    }
}

/// Every search reads what waits, once for each of its words.
#[sqlx::test(migrations = "../migrations")]
async fn little_waits_to_get_into_the_index_of_words(db: PgPool) {
    sqlx::query(
        "insert into message_search (channel_id, message_id, author_id, author_kind, words, has,
                                     mention_everyone, mentions, mention_roles, hosts, filenames)
         select 1, n, 1, 0, to_tsvector('simple', 'message number ' || n), 0, false, '{}', '{}',
                '{}', '{}'
         from generate_series(1, 10000) n",
    )
    .execute(&db)
    .await
    .unwrap();
    let pages: i64 =
        sqlx::query_scalar("select gin_clean_pending_list('message_search_words_idx')")
            .fetch_one(&db)
            .await
            .unwrap();
    assert!(pages <= 20, "{pages} pages of 8 kB");
}

#[sqlx::test(migrations = "../migrations")]
async fn edits_and_deletes_reach_the_index(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    send(&app, &alice, hall, json!({ "content": "first words" })).await;
    age(&app).await;
    let search = format!("/guilds/{}/messages/search?content=", hall.id);
    let found = app.get(&alice, &format!("{search}first")).await.expect(200);
    let id = found["messages"][0][0]["id"].as_str().unwrap();
    let one = format!("/channels/{}/messages/{id}", hall.general);
    app.patch(&alice, &one, json!({ "content": "second words" }))
        .await
        .expect(200);
    let found = app.get(&alice, &format!("{search}first")).await.expect(200);
    assert_eq!(found["total_results"], 0);
    let found = app
        .get(&alice, &format!("{search}second"))
        .await
        .expect(200);
    assert_eq!(found["total_results"], 1);
    app.delete(&alice, &one).await.expect(204);
    let found = app
        .get(&alice, &format!("{search}second"))
        .await
        .expect(200);
    assert_eq!(found["total_results"], 0);
}

async fn run(db: &mut PgConnection, statements: &'static str) {
    sqlx::raw_sql(statements).execute(db).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_changed_while_it_is_indexed_is_found_as_it_is(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    for content in ["red", "blue"] {
        send(&app, &alice, hall, json!({ "content": content })).await;
    }
    age(&app).await;
    let search = format!("/guilds/{}/messages/search", hall.id);
    // An edit and a delete that are not committed yet.
    let mut changing = app.db.begin().await.unwrap();
    let change = "update message set content = 'green' where content = 'red';
                  delete from message where content = 'blue'";
    run(&mut changing, change).await;
    let found = app.get(&alice, &search);
    let commit = async {
        app.until_somebody_waits().await;
        changing.commit().await.unwrap();
    };
    let (found, ()) = tokio::join!(found, commit);
    assert_eq!(contents(&found.expect(200)), ["green"]);
    let old = app.get(&alice, &format!("{search}?content=red")).await;
    assert_eq!(old.expect(200)["total_results"], 0);

    for content in ["early", "late", "lost"] {
        send(&app, &alice, hall, json!({ "content": content })).await;
    }
    let afresh = "delete from message_search; delete from message_search_channel";
    run(&mut app.db.acquire().await.unwrap(), afresh).await;
    age(&app).await;
    // Whoever indexes them waits for this when it has read them.
    let mut held = app.db.begin().await.unwrap();
    let row = "insert into message_search (channel_id, message_id, author_id, author_kind, words,
                                           has, mention_everyone, mentions, mention_roles, hosts,
                                           filenames)
               select channel_id, message_id, 1, 0, '', 0, false, '{}', '{}', '{}', '{}'
               from message where content = 'early'";
    run(&mut held, row).await;
    let one = async |content: &str| {
        let id = sqlx::query_scalar("select message_id from message where content = $1");
        let id: i64 = id.bind(content).fetch_one(&app.db).await.unwrap();
        format!("/channels/{}/messages/{id}", hall.general)
    };
    let (late, lost) = (one("late").await, one("lost").await);
    let changes = async {
        app.until_somebody_waits().await;
        let edited = app.patch(&alice, &late, json!({ "content": "later" }));
        at_once(edited).await.expect(200);
        at_once(app.delete(&alice, &lost)).await.expect(204);
        held.rollback().await.unwrap();
    };
    let (found, ()) = tokio::join!(app.get(&alice, &search), changes);
    found.expect(200);
    let found = app.get(&alice, &search).await.expect(200);
    assert_eq!(contents(&found), ["later", "early", "green"]);
    for (word, count) in [("late", 0), ("later", 1), ("lost", 0)] {
        let found = app.get(&alice, &format!("{search}?content={word}")).await;
        assert_eq!(found.expect(200)["total_results"], count, "{word}");
    }
    let rows = "select count(*) from message_search";
    let rows: i64 = sqlx::query_scalar(rows).fetch_one(&app.db).await.unwrap();
    assert_eq!(rows, 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_finds_what_they_cannot_read(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    send(&app, &alice, hall, json!({ "content": "secret" })).await;
    age(&app).await;
    let search = format!("/guilds/{}/messages/search?content=secret", hall.id);
    let overwrite = format!("/channels/{}/permissions/{}", hall.general, hall.id);
    for denied in [Permissions::READ_MESSAGE_HISTORY, Permissions::VIEW_CHANNEL] {
        app.put(&alice, &overwrite, json!({ "type": 0, "deny": denied }))
            .await
            .expect(204);
        let found = app.get(&bob, &search).await.expect(200);
        assert_eq!(found["total_results"], 0);
        let named = format!("{search}&channel_id={}", hall.general);
        let found = app.get(&bob, &named).await.expect(200);
        assert_eq!(found["total_results"], 0);
    }
    let found = app.get(&alice, &search).await.expect(200);
    assert_eq!(found["total_results"], 1);
    let channel = format!("/channels/{}/messages/search", hall.general);
    app.get(&bob, &channel).await.expect_error(403, 50001);
    let carol = app.user("carol").await;
    app.get(&carol, &search).await.expect_error(403, 50001);
    for (query, at, code) in [
        ("limit=26", "limit", "NUMBER_TYPE_MAX"),
        ("offset=9976", "offset", "NUMBER_TYPE_MAX"),
        ("has=nothing", "has", "ENUM_TYPE_COERCE"),
        ("author_id=x", "author_id", "NUMBER_TYPE_COERCE"),
    ] {
        let wrong = format!("/guilds/{}/messages/search?{query}", hall.id);
        app.get(&bob, &wrong).await.expect_fault(at, code);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_takes_one_connection(options: PgPoolOptions, connect: PgConnectOptions) {
    let app = TestApp::new(two_connections(options, connect).await).await;
    let (alice, bob, hall) = hall(&app).await;
    let id: Id<marker::Message> = app.id();
    sqlx::query(
        "insert into message (channel_id, message_id, author_id, content)
         values ($1, $2, $3, 'words')",
    )
    .bind(hall.general.to_db())
    .bind(id.to_db())
    .bind(alice.id.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    age(&app).await;
    let guild = format!("/guilds/{}/messages/search", hall.id);
    let channel = format!("/channels/{}/messages/search", hall.general);
    // The other one must do for both.
    let taken = app.db.acquire().await.unwrap();
    let (one, other) = tokio::join!(app.get(&alice, &guild), app.get(&bob, &channel));
    for found in [one, other] {
        assert_eq!(contents(&found.expect(200)), ["words"]);
    }
    drop(taken);
    app.db.close().await;
}
