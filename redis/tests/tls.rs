//! A real Redis by TLS: a single server, and a cluster of three primaries.

#![expect(
    clippy::unwrap_used,
    reason = "a test, its helpers included, ends where something goes wrong"
)]

use std::{fs, path::Path, process::Command, time::Duration};

use guildhall_redis::{Client, Patience};
use redis::{ConnectionAddr, PushInfo, PushKind, RedisResult, Value};
use tokio::{sync::mpsc, time::timeout};
use xtask::servers::{Binaries, Redis, RedisOptions, RedisTls, form_cluster, move_slot};

const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(10),
    retries: 1,
    pause_max: None,
};

const EXTENSIONS: &str = "[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[server]
basicConstraints = critical,CA:FALSE
subjectAltName = IP:";

fn openssl(folder: &Path, arguments: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments.split(' ')).current_dir(folder);
    let done = openssl.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments}: {said}");
}

/// An authority of its own in this folder, which is made, and a certificate of it for a server at
/// `address`.
fn certificate(folder: &Path, address: &str) -> RedisTls {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("conf"), format!("{EXTENSIONS}{address}\n")).unwrap();
    for line in [
        "ecparam -name prime256v1 -genkey -noout -out authority.key",
        "ecparam -name prime256v1 -genkey -noout -out server.key",
        "req -config conf -x509 -new -key authority.key -subj /CN=authority -days 30 \
         -extensions authority -out authority.pem",
        "req -config conf -new -key server.key -subj /CN=server -out server.csr",
        "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -set_serial 1 -days 30 \
         -extfile conf -extensions server -out server.pem",
    ] {
        openssl(folder, line);
    }
    RedisTls {
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
        authority: folder.join("authority.pem"),
    }
}

fn server(folder: &Path, name: &str, tls: &RedisTls, cluster: bool) -> Redis {
    let program = Binaries::find().unwrap().redis;
    let options = RedisOptions {
        folder: folder.join(name),
        port: None,
        password: "secret".to_owned(),
        log: folder.join(format!("{name}.log")),
        pid_file: None,
        dies_with_parent: false,
        cluster,
        tls: Some(tls.clone()),
    };
    Redis::start(&program, options).unwrap()
}

/// `roots`: none but the public ones.
fn url(server: &Redis, account: &str, roots: Option<&RedisTls>) -> String {
    let port = server.tls_port();
    let roots = roots.map(|tls| format!("?sslrootcert={}", tls.authority.display()));
    let roots = roots.unwrap_or_default();
    format!("rediss://{account}@127.0.0.1:{port}{roots}")
}

fn is_tls(client: &redis::Client, servers: &[Redis]) -> bool {
    let addr = client.get_connection_info().addr();
    let is_one = |port| servers.iter().any(|server| server.tls_port() == port);
    matches!(addr, ConnectionAddr::TcpTls { port, .. } if is_one(*port))
}

async fn heard(pushes: &mut mpsc::UnboundedReceiver<PushInfo>, kind: PushKind) -> Vec<Value> {
    let wanted = async {
        loop {
            let push = pushes.recv().await.unwrap();
            if push.kind == kind {
                return push.data;
            }
        }
    };
    timeout(Duration::from_secs(30), wanted).await.unwrap()
}

#[tokio::test]
async fn a_server_is_spoken_to_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(&folder.path().join("certificates"), "127.0.0.1");
    let server = server(folder.path(), "redis", &tls, false);
    let client = Client::open(&url(&server, ":secret", Some(&tls)), PATIENCE).unwrap();
    let mut connection = client.connection().unwrap();
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "other", "on", ">hidden"])
        .arg(&["allkeys", "allchannels", "+@all"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let other = Client::open(&url(&server, "other:hidden", Some(&tls)), PATIENCE).unwrap();
    let mut other = other.connection().unwrap();
    let who: String = redis::cmd("ACL")
        .arg("WHOAMI")
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(who, "other");

    let (told, mut pushes) = mpsc::unbounded_channel();
    let layout = client.layout().borrow().clone();
    let pushed = move |push| drop(told.send(push));
    let line = layout.primaries()[0].line(PATIENCE.answer, pushed).await;
    let mut line = line.unwrap();
    line.subscribe("news").await.unwrap();
    heard(&mut pushes, PushKind::Subscribe).await;
    let () = redis::cmd("PUBLISH")
        .arg("news")
        .arg("all")
        .query_async(&mut other)
        .await
        .unwrap();
    let said = heard(&mut pushes, PushKind::Message).await;
    assert_eq!(said.last(), Some(&Value::BulkString(b"all".to_vec())));
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_gets_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let own = certificate(&folder.path().join("own"), "127.0.0.1");
    let other = certificate(&folder.path().join("other"), "127.0.0.1");
    let elsewhere = certificate(&folder.path().join("elsewhere"), "127.0.0.2");
    let here = server(folder.path(), "here", &own, false);
    let there = server(folder.path(), "there", &elsewhere, false);
    for (server, roots) in [
        (&here, None),
        (&here, Some(&other)),
        // It is the one of another server.
        (&there, Some(&elsewhere)),
    ] {
        let client = Client::open(&url(server, ":secret", roots), PATIENCE).unwrap();
        let layout = client.layout().borrow().clone();
        let line = layout.primaries()[0].line(PATIENCE.answer, |_| {}).await;
        let error = line.err().unwrap().to_string();
        assert!(error.contains("certificate"), "{error}");
        let mut connection = client.connection().unwrap();
        let said: RedisResult<()> = redis::cmd("PING").query_async(&mut connection).await;
        said.unwrap_err();
    }
}

#[tokio::test]
async fn all_members_of_a_cluster_are_spoken_to_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(&folder.path().join("certificates"), "127.0.0.1");
    let member = |number| server(folder.path(), &format!("redis-{number}"), &tls, true);
    let mut members: Vec<Redis> = (0..3).map(member).collect();
    form_cluster(&mut members, 3).unwrap();
    let seeds = url(&members[0], ":secret", Some(&tls));
    let seeds = format!("{seeds},127.0.0.1:{}", members[1].tls_port());
    let client = Client::open(&seeds, PATIENCE).unwrap();
    let mut connection = client.connection().unwrap();
    for key in ["foo", "bar", "c"] {
        let () = redis::cmd("SET")
            .arg(key)
            .arg(key)
            .query_async(&mut connection)
            .await
            .unwrap();
        let said: String = redis::cmd("GET")
            .arg(key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(said, key);
    }
    let layout = client.layout().borrow().clone();
    assert_eq!(layout.primaries().len(), 3);
    for primary in layout.primaries() {
        assert!(is_tls(&primary.client, &members), "{primary:?}");
        primary.line(PATIENCE.answer, |_| {}).await.unwrap();
    }

    // 12182 is foo's slot. Who has it now is told with the port for TLS.
    move_slot(&members, 12182, 2, 0).unwrap();
    let () = redis::cmd("SET")
        .arg("foo")
        .arg("moved")
        .query_async(&mut connection)
        .await
        .unwrap();
    let home = client.home("foo").await.unwrap();
    assert!(is_tls(&home, &members[..1]));
}
