//! The operators' API: who may, what a change does, what is written down.

use std::time::Duration;

use guildhall_shared::Id;
use guildhall_shared::cluster_map::{ClusterMap, Drain, GuildLoad, ShardLoad};
use guildhall_shared::operator::{COOKIE, Scope};
use guildhall_shared::shard::ShardId;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{
    CLUSTER_KEY, SHARDS, START, TestCluster, TestCoordinator, bearer, both, owned, token,
};

/// A change that waits for a round, or for a step before it.
const CHANGE: Duration = Duration::from_secs(8);

async fn actions(cluster: &TestCluster) -> Vec<(String, String)> {
    let rows = "select who, action from cluster_audit order by audit_id";
    sqlx::query_as(rows).fetch_all(&cluster.db).await.unwrap()
}

fn by_ann(actions: &[(String, String)]) -> Vec<&str> {
    let by = actions.iter().filter(|(who, _)| who == "ann");
    by.map(|(_, action)| action.as_str()).collect()
}

async fn rounds_failed(coordinator: &TestCoordinator) -> String {
    let metrics = coordinator.get("/metrics").await;
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("coordinator_rounds_failed_total "));
    line.unwrap().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn only_who_has_a_token_is_answered_and_only_so_far(db: PgPool) {
    let mut cluster = TestCluster::new(db, 1).await;
    let _gateway = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let coordinator = cluster.start_coordinator("one");
    let mut config = cluster.config("keyless");
    config.cluster_key = None;
    let keyless = TestCluster::start(config);
    cluster.map_with(START, "the first map", |_| true).await;

    let code = |(status, _, body): (u16, String, Value)| {
        format!("{status} {}", body["code"].as_str().unwrap_or("fine"))
    };
    let stranger = bearer(
        "another cluster's key, as long as it has to be",
        Scope::Operate,
    );
    let reader = bearer(CLUSTER_KEY, Scope::Read);
    for headers in ["", &stranger, "authorization: Bearer junk\r\n"] {
        let refused = coordinator.request("GET", "nodes", headers, None).await;
        assert_eq!(code(refused), "401 unauthorized");
    }
    let read = coordinator.request("GET", "nodes", &reader, None).await;
    assert_eq!(code(read), "200 fine");
    let path = "nodes/gateway-1/cordon";
    let refused = coordinator.request("POST", path, &reader, None).await;
    assert_eq!(code(refused), "403 scope_too_small");
    // Postgres has no text for this name; what was tried is written down all the same.
    let odd = coordinator.request("POST", "nodes/%00/cordon", &reader, None);
    assert_eq!(code(odd.await), "403 scope_too_small");
    let disabled = keyless.request("GET", "nodes", &reader, None).await;
    assert_eq!(code(disabled), "503 admin_disabled");

    let login = json!({ "token": token(CLUSTER_KEY, Scope::Operate) });
    let ours = "x-guildhall: 1\r\n";
    for path in ["login", "logout"] {
        let refused = coordinator.request("POST", path, "", Some(login.clone()));
        assert_eq!(code(refused.await), "403 header_missing");
    }
    let login = coordinator.request("POST", "login", ours, Some(login));
    let (status, head, me) = login.await;
    assert_eq!(
        (status, &me["name"], &me["scope"]),
        (200, &json!("ann"), &json!("operate"))
    );
    let cookie = head
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    assert!(
        cookie.starts_with(COOKIE) && cookie.contains("HttpOnly"),
        "{cookie}"
    );
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    let read = coordinator.request("GET", "me", &cookie, None).await;
    assert_eq!(code(read), "200 fine");
    let refused = coordinator.request("POST", path, &cookie, None).await;
    assert_eq!(code(refused), "403 header_missing");
    let ours = format!("{cookie}{ours}");
    let done = coordinator.request("POST", path, &ours, None).await;
    assert_eq!(code(done), "200 fine");
    let refused = coordinator.request("POST", "logout", &cookie, None).await;
    assert_eq!(code(refused), "403 header_missing");
    let done = coordinator.request("POST", "logout", &ours, None).await;
    assert_eq!(code(done), "204 fine");
    // Nobody knows who this was.
    let header = "x-guildhall: 1\r\n";
    let done = coordinator.request("POST", "logout", header, None).await;
    assert_eq!(code(done), "204 fine");

    let actions = actions(&cluster).await;
    assert_eq!(
        by_ann(&actions),
        [
            "refused", "refused", "login", "refused", "cordon", "refused", "logout"
        ]
    );
    assert!(
        actions.contains(&("coordinator/one".to_owned(), "lead_taken".to_owned()))
            || actions.contains(&("coordinator/keyless".to_owned(), "lead_taken".to_owned()))
    );
    coordinator.stop().await;
    keyless.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn every_change_shows_in_the_map_and_in_the_history(db: PgPool) {
    let mut cluster = TestCluster::new(db, 2).await;
    let _gateways = cluster.start_gateways();
    let coordinator = cluster.start_coordinator("one");
    let first = cluster.map_with(START, "the first map", both).await;

    coordinator
        .does("PUT", "nodes/gateway-1/weight", json!({ "weight": 3.0 }))
        .await;
    let heavy = |map: &ClusterMap| owned(map, "gateway-1") > 180;
    cluster.map_with(CHANGE, "the weight", heavy).await;

    let shard = (0..SHARDS).find(|shard| first.owner(ShardId(*shard)) == Some("gateway-1"));
    let shard = shard.unwrap();
    let pin = format!("pins/{shard}");
    coordinator
        .does("PUT", &pin, json!({ "node": "gateway-2" }))
        .await;
    let there = |map: &ClusterMap| map.owner(ShardId(shard)) == Some("gateway-2");
    cluster.map_with(CHANGE, "the pin", there).await;
    let pinned = json!({ "shards": [shard], "to": "gateway-1" });
    assert_eq!(
        coordinator.refuses("POST", "moves", pinned.clone()).await,
        "409 shard_pinned"
    );
    coordinator.does("DELETE", &pin, Value::Null).await;
    coordinator.does("POST", "moves", pinned).await;
    let back = |map: &ClusterMap| map.owner(ShardId(shard)) == Some("gateway-1");
    cluster.map_with(CHANGE, "the move", back).await;
    let over = |moves: &Value| moves["requested"] == json!([]);
    coordinator.until("moves", CHANGE, over).await;

    coordinator
        .does("POST", "nodes/gateway-2/cordon", Value::Null)
        .await;
    let _third = cluster.start_gateway("gateway-3", "127.0.0.1:3");
    let third = |map: &ClusterMap| owned(map, "gateway-3") > 0;
    let cordoned = cluster.map_with(CHANGE, "a third node", third).await;
    let drain = json!({ "over_s": 30 });
    coordinator
        .does("POST", "nodes/gateway-2/drain", drain)
        .await;
    let drained = |map: &ClusterMap| owned(map, "gateway-2") == 0;
    let drained = cluster.map_with(CHANGE, "the drain", drained).await;
    assert!(
        owned(&cordoned, "gateway-2") > 0,
        "cordoned, it keeps what it has"
    );
    let Drain { over_ms, since_ms } = drained.drains["gateway-2"];
    assert!(over_ms == 30_000 && since_ms > 0);
    coordinator
        .does("POST", "nodes/gateway-2/undrain", Value::Null)
        .await;
    let again = |map: &ClusterMap| owned(map, "gateway-2") > 0 && map.drains.is_empty();
    cluster
        .map_with(CHANGE, "the end of the drain", again)
        .await;

    for (method, path, body, code) in [
        (
            "POST",
            "nodes/nobody/drain",
            Value::Null,
            "404 unknown_node",
        ),
        (
            "PUT",
            "pins/256",
            json!({ "node": "gateway-1" }),
            "404 unknown_shard",
        ),
        (
            "PUT",
            "nodes/gateway-1/weight",
            json!({ "weight": 0 }),
            "400 bad_request",
        ),
        (
            "PUT",
            "nodes/gateway-1/weight",
            json!({ "wait": 1 }),
            "400 bad_request",
        ),
        ("POST", "abort", Value::Null, "409 nothing_to_abort"),
        ("GET", "plan/1", Value::Null, "404 unknown_plan"),
        ("DELETE", "nodes", Value::Null, "405 method_not_allowed"),
        ("DELETE", "guilds", Value::Null, "405 method_not_allowed"),
        ("GET", "nowhere", Value::Null, "404 unknown_path"),
        ("GET", "history?limit=0", Value::Null, "400 bad_request"),
    ] {
        assert_eq!(
            coordinator.refuses(method, path, body).await,
            code,
            "{method} {path}"
        );
    }

    let actions = actions(&cluster).await;
    let mut done = by_ann(&actions);
    done.retain(|action| *action != "refused");
    let expected = [
        "weight", "pin", "unpin", "move", "cordon", "drain", "undrain",
    ];
    assert_eq!(done, expected);
    let refused = "select concat_ws(' ', detail->>'code', detail->>'method', detail->>'path')
                   from cluster_audit where who = 'ann' and action = 'refused' order by audit_id";
    let refused: Vec<String> = sqlx::query_scalar(refused)
        .fetch_all(&cluster.db)
        .await
        .unwrap();
    assert_eq!(
        refused,
        [
            "shard_pinned POST moves",
            "unknown_node POST nodes/nobody/drain",
            "unknown_shard PUT pins/256",
            "bad_request PUT nodes/gateway-1/weight",
            "bad_request PUT nodes/gateway-1/weight",
            "nothing_to_abort POST abort",
            "method_not_allowed DELETE nodes",
            "method_not_allowed DELETE guilds",
        ]
    );
    let was = "select detail->'was' from cluster_audit
               where who = 'ann' and action <> 'refused' order by audit_id";
    let was: Vec<Option<Value>> = sqlx::query_scalar(was)
        .fetch_all(&cluster.db)
        .await
        .unwrap();
    let [weight, pin, unpin, moved, cordon, drain, undrain] = &was[..] else {
        panic!("{was:?}");
    };
    assert_eq!(weight, &Some(json!(1.0)));
    assert_eq!((pin, moved), (&Some(Value::Null), &None));
    assert_eq!(unpin, &Some(json!("gateway-2")));
    assert_eq!(cordon, &Some(json!("active")));
    assert_eq!(drain, &Some(json!("cordoned")));
    assert_eq!(undrain, &Some(json!("draining")));
    let page = coordinator
        .does("GET", "history?limit=2", Value::Null)
        .await;
    let before = page["next_before"].as_i64().unwrap();
    let path = format!("history?limit=500&before={before}");
    let rest = coordinator.does("GET", &path, Value::Null).await;
    let rows = rest["entries"].as_array().unwrap();
    assert!(rows[0]["id"].as_i64().unwrap() < before);
    assert_eq!(rest["next_before"], Value::Null);
    assert!(rows.iter().any(|row| row["action"] == "node_joined"));
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn reads_tell_where_a_guild_is_and_what_costs_most(db: PgPool) {
    let mut cluster = TestCluster::new(db, 3).await;
    let gateway = cluster.start_gateway("gateway-1", "127.0.0.1:1");
    let coordinator = cluster.start_coordinator("one");
    let guild = Id::new(77 << 22).unwrap();
    let load = |shard, load| ShardLoad {
        shard: ShardId(shard),
        load,
    };
    gateway.report(|status| {
        status.shards = vec![load(5, 40), load(77, 90)];
        status.guilds = vec![GuildLoad {
            guild,
            load: 80,
            online: 12,
            edges: vec!["gateway-1".to_owned()],
            edges_total: 17,
        }];
        status.feed_lag_ms = 3;
    });
    cluster.map_with(START, "the first map", |_| true).await;
    let reported = |answer: &Value| answer["shards"].as_array().unwrap().len() == 2;
    let hot = coordinator.until("shards?hot=5", CHANGE, reported).await;
    assert_eq!(hot["shards"][0]["shard"], 77);
    assert_eq!(hot["shards"][1]["load"], 40);

    let path = format!("why/{guild}");
    let recorded = |why: &Value| !why["last_move"].is_null();
    let why = coordinator.until(&path, CHANGE, recorded).await;
    assert_eq!(why["shard"]["shard"], 77);
    assert_eq!(why["shard"]["owner"], "gateway-1");
    assert_eq!((&why["load"], &why["online"]), (&json!(80), &json!(12)));
    assert_eq!(why["last_move"]["cause"], "unowned");
    assert_eq!(why["last_move"]["version"]["version"], 1);
    assert_eq!(why["node"]["status"]["sessions"], 42);
    assert_eq!(why["shard"]["standby"], Value::Null);
    assert_eq!(why["edges"], json!(["gateway-1"]));
    assert_eq!(why["edges_total"], 17);
    assert_eq!(why["node"]["status"]["feed_lag_ms"], 3);

    let nodes = coordinator.does("GET", "nodes", Value::Null).await;
    assert_eq!(nodes["nodes"][0]["shards_owned"], SHARDS);
    assert_eq!(nodes["nodes"][0]["load"], 130);
    let map = coordinator.does("GET", "map?shards=all", Value::Null).await;
    assert_eq!(map["imbalance_milli"], 1000);
    assert_eq!(
        map["assignments"].as_array().unwrap().len(),
        usize::from(SHARDS)
    );

    let event = coordinator.stream("events", "\n\n").await;
    let (head, rest) = event.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_lowercase()
            .contains("content-type: text/event-stream"),
        "{head}"
    );
    assert!(rest.contains("event: state\ndata: {"), "{rest}");

    // A state cannot be made while somebody has this table for himself.
    let mut tx = cluster.db.begin().await.unwrap();
    let lock = "lock table cluster_progress in access exclusive mode";
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    tokio::join!(
        coordinator.stream("events", "no_postgres"),
        coordinator.stream("events", "no_postgres"),
    );
    tx.rollback().await.unwrap();
    coordinator.stream("events", "event: state\n").await;

    // A change does not wait for an API process that makes a partition of the event log.
    let mut tx = cluster.db.begin().await.unwrap();
    let partitions = i64::from_be_bytes(*b"guildhal");
    let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(partitions);
    lock.execute(&mut *tx).await.unwrap();
    let path = "nodes/gateway-1/cordon";
    coordinator.does("POST", path, Value::Null).await;
    tx.rollback().await.unwrap();

    // Changes wait for each other, and the rounds for none of them.
    let failed = rounds_failed(&coordinator).await;
    let mut tx = cluster.db.begin().await.unwrap();
    let changes = i64::from_be_bytes(*b"guildctl");
    let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(changes);
    lock.execute(&mut *tx).await.unwrap();
    let cordon = || coordinator.refuses("POST", "nodes/gateway-1/cordon", Value::Null);
    let four = || async { tokio::join!(cordon(), cordon(), cordon(), cordon()) };
    let (refused, _) = tokio::join!(four(), four());
    assert_eq!(refused.0, "503 no_postgres");
    tx.rollback().await.unwrap();
    assert_eq!(rounds_failed(&coordinator).await, failed);
    coordinator.stop().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_plan_is_tried_first_and_goes_stale(db: PgPool) {
    let mut cluster = TestCluster::new(db, 4).await;
    let _gateways = cluster.start_gateways();
    let coordinator = cluster.start_coordinator("one");
    let first = cluster.map_with(START, "the first map", both).await;

    let drain = json!({ "changes": [{ "change": "drain", "node": "gateway-2", "over_s": 90 }] });
    let plan = coordinator.does("POST", "plan", drain.clone()).await;
    assert_eq!(plan["state"], "draft");
    let moves = plan["outcome"]["moves"].as_array().unwrap();
    assert_eq!(moves.len(), owned(&first, "gateway-2"));
    assert!(
        moves
            .iter()
            .all(|go| go["cause"] == "drain" && go["to"] == "gateway-1")
    );
    assert_eq!(plan["outcome"]["sessions"], 42);
    assert_eq!(plan["outcome"]["seconds"], 90);
    assert_eq!(plan["outcome"]["steps"], 0, "nothing is open");
    assert_eq!(plan["outcome"]["stuck"], 0);
    assert_eq!(
        cluster.map().await,
        Some(first),
        "a plan alone changes nothing"
    );

    coordinator
        .does("POST", "nodes/gateway-1/cordon", Value::Null)
        .await;
    let apply = format!("plan/{}/apply", plan["id"]);
    assert_eq!(
        coordinator.refuses("POST", &apply, Value::Null).await,
        "409 plan_stale"
    );
    coordinator
        .does("POST", "nodes/gateway-1/uncordon", Value::Null)
        .await;
    let plan = coordinator.does("POST", "plan", drain).await;
    let apply = format!("plan/{}/apply", plan["id"]);
    let applied = coordinator.does("POST", &apply, Value::Null).await;
    assert_eq!(applied["state"], "applying");
    assert_eq!(applied["applied_by"], "ann");
    let gone = |map: &ClusterMap| owned(map, "gateway-2") == 0;
    cluster.map_with(CHANGE, "the plan", gone).await;
    let path = format!("plan/{}", plan["id"]);
    coordinator
        .until(&path, CHANGE, |plan| plan["state"] == "done")
        .await;
    assert_eq!(
        coordinator.refuses("POST", &apply, Value::Null).await,
        "409 plan_not_draft"
    );
    let actions = actions(&cluster).await;
    assert!(actions.iter().any(|(_, action)| action == "plan_done"));

    // With the other one draining as well nothing could move, which is said beforehand.
    let drain = json!({ "changes": [{ "change": "drain", "node": "gateway-1" }] });
    let plan = coordinator.does("POST", "plan", drain).await;
    assert_eq!(plan["outcome"]["stuck"], SHARDS);
    assert_eq!(plan["outcome"]["moves"], json!([]));
    assert_eq!(plan["outcome"]["sessions"], 0, "they could only come back");
    coordinator.stop().await;
}
