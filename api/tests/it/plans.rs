//! What an index finds is found by it under any plan: after some requests of a connection Postgres
//! may keep one for all values. Here it always does.

use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::harness::{Reply, TestApp, TestGuild, hall, rows_read, two_connections};

/// Rows of each table that are not asked for.
const OTHERS: i64 = 3000;

async fn with_kept_plans(options: PgPoolOptions, connect: PgConnectOptions) -> TestApp {
    let connect = connect.options([("plan_cache_mode", "force_generic_plan")]);
    TestApp::new(two_connections(options, connect).await).await
}

/// `$1` is the guild, `$2` its channel, `$3` how many.
async fn fill(app: &TestApp, hall: TestGuild, statements: &[&'static str]) {
    for &statement in statements {
        sqlx::query(statement)
            .bind(hall.id.to_db())
            .bind(hall.general.to_db())
            .bind(OTHERS)
            .execute(&app.db)
            .await
            .unwrap();
    }
    sqlx::raw_sql("analyze").execute(&app.db).await.unwrap();
}

/// Asks for one of many. Panics if many rows of the table are looked at.
async fn by_index(app: &TestApp, table: &str, ask: impl Future<Output = Reply>) -> Value {
    let before = rows_read(app, table).await;
    let reply = ask.await;
    let read = rows_read(app, table).await - before;
    assert!(reply.status.is_success(), "{table}: {:#}", reply.body);
    assert!(read < 100, "{read} rows of {table}");
    reply.body
}

#[sqlx::test(migrations = "../migrations")]
async fn one_of_many_members_is_found(options: PgPoolOptions, connect: PgConnectOptions) {
    let app = with_kept_plans(options, connect).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/channels/{}/threads", hall.general);
    let thread = app
        .post(&alice, &path, json!({ "name": "crowded", "type": 11 }))
        .await
        .expect(201);
    let thread = thread["id"].as_str().unwrap();
    fill(
        &app,
        hall,
        &[
            "insert into account (user_id, username)
             select n, 'crowd-' || n from generate_series(1, $3) n",
            "insert into member (guild_id, user_id)
             select $1, n from generate_series(1, $3) n",
            "insert into voice_state (guild_id, user_id, channel_id, session_id, alive_until)
             select $1, n, $2, 's', now() + interval '1 hour' from generate_series(1, $3) n",
            "insert into thread_member (thread_id, user_id, guild_id)
             select t.thread_id, n, $1 from thread t, generate_series(1, $3) n
             where t.parent_id = $2",
            "insert into ban (guild_id, user_id) select $1, n from generate_series(1, $3) n",
        ],
    )
    .await;
    let voice = format!("/guilds/{}/voice-states/7", hall.id);
    let state = by_index(&app, "voice_state", app.get(&alice, &voice)).await;
    assert_eq!(state["user_id"], "7");
    let member = format!("/channels/{thread}/thread-members/7");
    let member = by_index(&app, "thread_member", app.get(&alice, &member)).await;
    assert_eq!(member["user_id"], "7");
    let guild = format!("/guilds/{}", hall.id);
    for (list, table) in [("bans", "ban"), ("members", "account")] {
        let search = format!("{guild}/{list}/search?limit=5&query=");
        let one = format!("{search}Crowd-2999");
        let found = by_index(&app, table, app.get(&alice, &one)).await;
        assert_eq!(found.as_array().unwrap().len(), 1);
        assert_eq!(found[0]["user"]["id"], "2999");
        // Of these there are too many to be listed.
        let some = app.get(&alice, &format!("{search}crowd")).await.expect(200);
        assert_eq!(some.as_array().unwrap().len(), 5);
    }
    let chosen = format!("{guild}/bans/search?query=crowd-29&user_ids=7,2999,2998");
    let found = by_index(&app, "ban", app.get(&alice, &chosen)).await;
    let ids = [&found[0]["user"]["id"], &found[1]["user"]["id"]];
    assert_eq!(ids, ["2998", "2999"]);
    app.db.close().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn one_of_many_things_is_found(options: PgPoolOptions, connect: PgConnectOptions) {
    let app = with_kept_plans(options, connect).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/templates", hall.id);
    let template = app.post(&alice, &path, json!({ "name": "hall" })).await;
    let template = template.expect(200)["code"].as_str().unwrap().to_owned();
    fill(
        &app,
        hall,
        &[
            "insert into invite (code, guild_id, channel_id, max_age, max_uses)
             select 'invite-' || n, $1, $2, 0, 0 from generate_series(1, $3) n",
            "insert into guild_template (code, guild_id, creator_id, name, snapshot)
             select 'template-' || n, n, $1, 'of ' || $2, '{}' from generate_series(1, $3) n",
            "insert into media_file (path, content_type, size, collect_at)
             select 'stickers/' || n, 'image/png', 1, now() from generate_series(1, $3) n",
            "insert into sticker (sticker_id, guild_id, name, tags, format)
             select n, $1, 'sticker', 'tag', 1 from generate_series(1, $3) n",
            "insert into message (channel_id, message_id, author_id, content)
             select $2, 7, $1, 'of ' || $3",
            "insert into reaction_count (channel_id, message_id, emoji, emoji_name, normal)
             select $2, 7, emoji, emoji, $3 from unnest(array['👍', '🔥']) emoji",
            "insert into reaction (channel_id, message_id, emoji, burst, user_id)
             select $2, 7, '👍', false, n from generate_series(1, $3) n",
            "insert into reaction (channel_id, message_id, emoji, burst, user_id)
             select $2, 7 + n, 'emoji ' || n, false, n from generate_series(1, $3) n",
            "insert into reaction (channel_id, message_id, emoji, burst, user_id)
             select $2, 7, '🔥', false, $1",
        ],
    )
    .await;
    for (table, path, key, value) in [
        ("invite", "/invites/invite-7".to_owned(), "code", "invite-7"),
        (
            "guild_template",
            format!("/guilds/templates/{template}"),
            "name",
            "hall",
        ),
        (
            "sticker",
            format!("/guilds/{}/stickers/7", hall.id),
            "id",
            "7",
        ),
    ] {
        let found = by_index(&app, table, app.get(&alice, &path)).await;
        assert_eq!(found[key], value, "{path}");
    }
    let templates = by_index(&app, "guild_template", app.get(&alice, &path)).await;
    assert_eq!(templates[0]["code"], template);
    let fire = format!(
        "/channels/{}/messages/7/reactions/%F0%9F%94%A5",
        hall.general
    );
    by_index(&app, "reaction", app.delete(&alice, &fire)).await;
    let left: Vec<(String, i64)> =
        sqlx::query_as("select emoji, count(*) from reaction where message_id = 7 group by emoji")
            .fetch_all(&app.db)
            .await
            .unwrap();
    assert_eq!(left, [("👍".to_owned(), OTHERS)]);
    app.db.close().await;
}

/// Each few who go are looked at twice, and those who stay once in all.
#[sqlx::test(migrations = "../migrations")]
async fn a_prune_goes_through_the_members_once(options: PgPoolOptions, connect: PgConnectOptions) {
    let app = with_kept_plans(options, connect).await;
    let (alice, _, hall) = hall(&app).await;
    fill(
        &app,
        hall,
        &[
            "insert into account (user_id, username, created_at)
             select n, 'crowd-' || n, now() - interval '50 days'
             from generate_series(1, $3 + 60) n",
            "insert into member (guild_id, user_id, joined_at)
             select $1, n, now() - case when n > $3 then 50 else 0 end * interval '1 day'
             from generate_series(1, $3 + 60) n",
            "insert into realm_head (realm_id, shard)
             select n, 0 from generate_series($3 + 1, $3 + 60) n",
        ],
    )
    .await;
    let before = rows_read(&app, "member").await;
    let path = format!("/guilds/{}/prune", hall.id);
    let done = app.post(&alice, &path, json!({ "days": 7 })).await;
    assert_eq!(done.expect(200), json!({ "pruned": 60 }));
    let read = rows_read(&app, "member").await - before;
    assert!(read < 2 * OTHERS, "{read} members were looked at");
    app.db.close().await;
}
