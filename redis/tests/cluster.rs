//! Commands to a real Redis Cluster of three primaries.

#![expect(
    clippy::unwrap_used,
    reason = "a test, its helpers included, ends where something goes wrong"
)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use guildhall_redis::{Client, Connection, Patience};
use redis::{ErrorKind, RedisResult, Script};
use xtask::{
    process::Signal,
    servers::{Binaries, Redis, RedisOptions, form_cluster, move_slot},
};

const PATIENCE: Patience = Patience {
    answer: Duration::from_millis(500),
    retries: 1,
    pause_max: None,
};

fn cluster(folder: &Path) -> Vec<Redis> {
    let program = Binaries::find().unwrap().redis;
    let start = |number| {
        let options = RedisOptions {
            folder: folder.join(format!("redis-{number}")),
            port: None,
            password: "secret".to_owned(),
            log: folder.join(format!("redis-{number}.log")),
            pid_file: None,
            dies_with_parent: false,
            cluster: true,
            tls: None,
        };
        Redis::start(&program, options).unwrap()
    };
    let mut members: Vec<Redis> = (0..3).map(start).collect();
    let primaries = members.len();
    form_cluster(&mut members, primaries).unwrap();
    members
}

/// A key of each primary: their slots are 12182, 5061 and 7365.
const KEYS: [&str; 3] = ["foo", "bar", "c"];

fn client(members: &[Redis]) -> Client {
    // Two of three members are named, one in short.
    let url = format!("{},127.0.0.1:{}", members[0].url(), members[1].port());
    Client::open(&url, PATIENCE).unwrap()
}

async fn set_all(connection: &mut Connection, value: &str) -> RedisResult<Vec<RedisResult<()>>> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for key in KEYS {
        pipeline.cmd("SET").arg(key).arg(value);
    }
    pipeline.query_async(connection).await
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "too late");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn commands_go_to_the_primaries_that_have_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let members = cluster(folder.path());
    let client = client(&members);
    let mut connection = client.connection().unwrap();

    // The answers of a pipeline come in its order, whoever gave them.
    let mut pipeline = redis::pipe();
    for number in 0..300 {
        let key = format!("{{{}}}:{number}", KEYS[number % 3]);
        pipeline.cmd("SET").arg(&key).arg(number).ignore();
        pipeline.cmd("GET").arg(&key);
    }
    let got: Vec<usize> = pipeline.query_async(&mut connection).await.unwrap();
    assert_eq!(got, (0..300).collect::<Vec<_>>());

    let counted: (u32, u32) = redis::pipe()
        .atomic()
        .cmd("INCR")
        .arg("{foo}:n")
        .cmd("INCR")
        .arg("{foo}:n")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(counted, (1, 2));

    // A script that none of them has.
    let script = Script::new("return redis.call('GET', KEYS[1]) .. ARGV[1]");
    for key in KEYS {
        let key = format!(
            "{{{key}}}:{}",
            3 + KEYS.iter().position(|k| *k == key).unwrap()
        );
        let said: String = script
            .key(&key)
            .arg("!")
            .invoke_async(&mut connection)
            .await
            .unwrap();
        assert!(said.ends_with('!'), "{said}");
    }
    let mut pipeline = redis::pipe();
    for (number, tag) in KEYS.iter().enumerate() {
        let key = format!("{{{tag}}}:{number}");
        pipeline.invoke_script(script.key(key).arg("?"));
    }
    let said: Vec<String> = pipeline.query_async(&mut connection).await.unwrap();
    assert_eq!(said, ["0?", "1?", "2?"]);

    // Keys are looked for where their tag leads.
    let (_, found): (u64, Vec<String>) = redis::cmd("SCAN")
        .arg(0)
        .arg("MATCH")
        .arg("{c}:2*")
        .arg("COUNT")
        .arg(100_000)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(found.contains(&"{c}:2".to_owned()), "{found:?}");

    let crossed: RedisResult<()> = redis::cmd("DEL")
        .arg(KEYS[0])
        .arg(KEYS[1])
        .query_async(&mut connection)
        .await;
    let cross_slot = ErrorKind::Server(redis::ServerErrorKind::CrossSlot);
    assert_eq!(crossed.unwrap_err().kind(), cross_slot);
}

#[tokio::test]
async fn a_primary_that_is_away_costs_its_own_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = cluster(folder.path());
    let client = client(&members);
    let mut connection = client.connection().unwrap();
    let all = set_all(&mut connection, "1").await.unwrap();
    assert!(all.iter().all(Result::is_ok), "{all:?}");

    let home = client.home(KEYS[1]).await.unwrap();
    let home = home.get_connection_info().addr().to_string();
    let is_home = |member: &Redis| home.ends_with(&format!(":{}", member.port()));
    let away = members.iter().position(is_home).unwrap();
    members[away].kill();
    until(async || {
        let all = set_all(&mut connection, "2").await.unwrap();
        all[1].is_err().then_some(())
    })
    .await;
    // The others answer at once, and so does the lack of this one.
    let started = Instant::now();
    for _ in 0..100 {
        let all = set_all(&mut connection, "3").await.unwrap();
        let is_ok: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(is_ok, [true, false, true]);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    let one: RedisResult<()> = redis::cmd("SET")
        .arg(KEYS[1])
        .arg("3")
        .query_async(&mut connection)
        .await;
    one.unwrap_err();

    members[away].start_again().unwrap();
    until(async || {
        let all = set_all(&mut connection, "4").await.unwrap();
        all.iter().all(Result::is_ok).then_some(())
    })
    .await;
    // What was loaded before is lacking there, and is loaded again.
    let script = Script::new("return redis.call('GET', KEYS[1])");
    for key in KEYS {
        let said: String = script.key(key).invoke_async(&mut connection).await.unwrap();
        assert_eq!(said, "4");
    }
}

/// No connection breaks, and nobody refuses one.
#[tokio::test]
async fn a_primary_that_hangs_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = cluster(folder.path());
    let client = client(&members);
    let mut connection = client.connection().unwrap();
    set_all(&mut connection, "1").await.unwrap();
    members[2].service().unwrap().signal(Signal::STOP);
    let started = Instant::now();
    for _ in 0..200 {
        let all = set_all(&mut connection, "2").await.unwrap();
        let is_ok: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(is_ok, [false, true, true]);
    }
    // One command and one ping were not answered in time.
    let took = started.elapsed();
    assert!(
        took > PATIENCE.answer && took < 6 * PATIENCE.answer,
        "{took:?}"
    );
    members[2].service().unwrap().signal(Signal::CONT);
    until(async || {
        let all = set_all(&mut connection, "3").await.unwrap();
        all.iter().all(Result::is_ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let members = cluster(folder.path());
    let client = client(&members);
    let mut connection = client.connection().unwrap();
    set_all(&mut connection, "1").await.unwrap();
    let mut layout = client.layout();
    layout.mark_unchanged();

    // 12182 is foo's slot; it goes from the third primary to the first, and back.
    for (from, to) in [(2, 0), (0, 2)] {
        let port = members[to].port();
        move_slot(&members, 12182, from, to).unwrap();
        let all = set_all(&mut connection, "2").await.unwrap();
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let home = client.home("foo").await.unwrap();
        let home = home.get_connection_info().addr().to_string();
        assert!(home.ends_with(&format!(":{port}")), "{home}");
        assert!(layout.has_changed().unwrap());
        layout.mark_unchanged();
        let counted: (u32,) = redis::pipe()
            .atomic()
            .cmd("INCR")
            .arg("{foo}:n")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(counted, (1,));
    }
    // A client that heard of nothing is sent on by single commands as well.
    let other = self::client(&members);
    let mut other = other.connection().unwrap();
    let said: String = redis::cmd("GET")
        .arg("foo")
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(said, "2");
    move_slot(&members, 12182, 2, 1).unwrap();
    let none: Option<String> = redis::cmd("GET")
        .arg("foo")
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(none, None);
    let counted: (u32,) = redis::pipe()
        .atomic()
        .cmd("INCR")
        .arg("{foo}:n")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(counted, (1,));
}

/// Halfway, what the old primary does not have is asked for at the new one.
#[tokio::test]
async fn a_slot_on_its_way_is_served_from_both_ends() {
    let folder = tempfile::tempdir().unwrap();
    let members = cluster(folder.path());
    let client = client(&members);
    let mut connection = client.connection().unwrap();
    set_all(&mut connection, "1").await.unwrap();

    let plain = async |member: &Redis| {
        let client = redis::Client::open(member.url()).unwrap();
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        connection.await.unwrap()
    };
    let (mut old, mut new) = (plain(&members[2]).await, plain(&members[0]).await);
    let id = redis::cmd("CLUSTER").arg("MYID").to_owned();
    let old_id: String = id.query_async(&mut old).await.unwrap();
    let new_id: String = id.query_async(&mut new).await.unwrap();
    let set = redis::cmd("CLUSTER").arg("SETSLOT").arg(12182).to_owned();
    let mut importing = set.clone();
    importing.arg("IMPORTING").arg(old_id);
    let () = importing.query_async(&mut new).await.unwrap();
    let mut migrating = set.clone();
    migrating.arg("MIGRATING").arg(new_id);
    let () = migrating.query_async(&mut old).await.unwrap();

    let () = redis::cmd("SET")
        .arg("{foo}:new")
        .arg("2")
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut pipeline = redis::pipe();
    for key in ["{foo}:new", "foo", "bar", "{foo}:none"] {
        pipeline.cmd("GET").arg(key);
    }
    let got: Vec<Option<String>> = pipeline.query_async(&mut connection).await.unwrap();
    let got: Vec<Option<&str>> = got.iter().map(Option::as_deref).collect();
    assert_eq!(got, [Some("2"), Some("1"), Some("1"), None]);
}

#[tokio::test]
async fn nobody_waits_for_a_cluster_that_is_not_there() {
    let url = "redis://127.0.0.1:9,127.0.0.1:10";
    let client = Client::open(url, PATIENCE).unwrap();
    let mut connection = client.connection().unwrap();
    let started = Instant::now();
    for _ in 0..20 {
        set_all(&mut connection, "1").await.unwrap_err();
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}
