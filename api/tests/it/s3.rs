//! Files in an S3 service, and what a process leaves behind that dies between two steps.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use guildhall_api::config::{Config, Secret};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    sync::Notify,
};

use crate::{
    harness::{CLUSTER_KEY, TestApp, TestGuild, TestUser, alone},
    media::{data_uri, png},
};

const BUCKET: &str = "guildhall";

/// A service that speaks S3 behind a door that can be shut on its answers.
struct S3 {
    service: tokio::process::Child,
    folder: tempfile::TempDir,
    /// `http://127.0.0.1:<port>` of the door.
    url: String,
    door: Arc<Door>,
}

struct Door {
    service: String,
    client: reqwest::Client,
    /// Of requests with this method the answers are kept back, though they were carried out.
    shut: [(Method, AtomicBool); 3],
    kept_back: Notify,
}

impl S3 {
    async fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3rver/node_modules/.bin");
        let folder = tempfile::tempdir().unwrap();
        let mut service = tokio::process::Command::new(program.join("s3rver"))
            .args(["--address", "127.0.0.1", "--port", "0", "--silent"])
            .args(["--no-vhost-buckets", "--configure-bucket", BUCKET])
            .arg("--directory")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`cargo xtask test` installs s3rver");
        let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.expect("s3rver has ended");
            if let Some((_, address)) = line.rsplit_once(" on ") {
                break address.to_owned();
            }
        };
        let door = Arc::new(Door {
            service: format!("http://{address}"),
            client: reqwest::Client::new(),
            shut: [Method::PUT, Method::POST, Method::DELETE]
                .map(|method| (method, AtomicBool::new(false))),
            kept_back: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(door.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            service,
            folder,
            url,
            door,
        }
    }

    /// Settings of an API that keeps its files here.
    fn configure(&self, config: &mut Config) {
        config.media.s3_bucket = Some(BUCKET.to_owned());
        config.media.s3_endpoint = Some(self.url.clone());
        config.media.s3_access_key = Some(Secret::from("S3RVER".to_owned()));
        config.media.s3_secret_key = Some(Secret::from("S3RVER".to_owned()));
    }

    /// Objects in the bucket.
    fn objects(&self) -> usize {
        fn count(folder: PathBuf) -> usize {
            let entries = std::fs::read_dir(folder).unwrap();
            entries
                .map(|entry| entry.unwrap().path())
                .map(|path| match path.is_dir() {
                    true => count(path),
                    false => usize::from(path.to_string_lossy().ends_with("._S3rver_object")),
                })
                .sum()
        }
        count(self.folder.path().join(BUCKET))
    }

    /// Keeps back the answers to requests with this method, or no longer.
    fn shut(&self, method: Method, shut: bool) {
        let found = self.door.shut.iter().find(|(of, _)| *of == method);
        found.unwrap().1.store(shut, Ordering::SeqCst);
    }

    /// [`Self::shut`] to whatever removes objects.
    fn shut_removals(&self, shut: bool) {
        for method in [Method::POST, Method::DELETE] {
            self.shut(method, shut);
        }
    }
}

/// Carries a request out as it came (it is signed), and its answer back if the door is open.
async fn pass(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let answer = door
        .client
        .request(
            parts.method.clone(),
            format!("{}{}", door.service, parts.uri),
        )
        .headers(parts.headers)
        .body(bytes)
        .send()
        .await;
    let Ok(answer) = answer else {
        return Response::builder().status(502).body(Body::empty()).unwrap();
    };
    let is_shut = door
        .shut
        .iter()
        .any(|(method, shut)| *method == parts.method && shut.load(Ordering::SeqCst));
    let mut response = Response::builder().status(answer.status());
    let headers = response.headers_mut().unwrap();
    *headers = answer.headers().clone();
    // The body goes on whole.
    headers.remove("transfer-encoding");
    let body = answer.bytes().await.unwrap();
    if is_shut {
        door.kept_back.notify_one();
        std::future::pending::<()>().await;
    }
    response.body(Body::from(body)).unwrap()
}

fn upload(name: &str, bytes: Vec<u8>) -> Form {
    Form::new().part("files[0]", Part::bytes(bytes).file_name(name.to_owned()))
}

/// A process whose files are in `s3`, and somebody with a guild.
async fn hall(db: PgPool, s3: &S3) -> (TestApp, TestUser, TestGuild) {
    let app = TestApp::with(db, |config| s3.configure(config)).await;
    let (alice, guild) = alone(&app).await;
    (app, alice, guild)
}

async fn send(app: &TestApp, user: &TestUser, guild: TestGuild, form: Form) -> Value {
    let path = format!("/channels/{}/messages", guild.general);
    app.upload(user, Method::POST, &path, form)
        .await
        .expect(200)
}

async fn delete(app: &TestApp, user: &TestUser, guild: TestGuild, message: &Value) {
    let id = message["id"].as_str().unwrap();
    let path = format!("/channels/{}/messages/{id}", guild.general);
    app.delete(user, &path).await.expect(204);
}

/// Path and query of an attachment's address.
fn path_of(message: &Value) -> &str {
    let url = message["attachments"][0]["url"].as_str().unwrap();
    url.strip_prefix("http://127.0.0.1:8080").unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn files_live_in_s3_from_upload_to_collection(db: PgPool) {
    let s3 = S3::start().await;
    let (app, alice, guild) = hall(db, &s3).await;
    // One piece, and several: above 5 MiB the upload has parts.
    let small = b"a small file".to_vec();
    let large: Vec<u8> = (0..12_u32 << 20).map(|byte| (byte % 251) as u8).collect();
    let first = send(&app, &alice, guild, upload("a.txt", small.clone())).await;
    let second = send(&app, &alice, guild, upload("b.bin", large.clone())).await;
    let whole = app.fetch(path_of(&first)).await;
    assert_eq!(whole.bytes().await.unwrap(), small);
    let whole = app.fetch(path_of(&second)).await;
    assert_eq!(whole.bytes().await.unwrap(), large);
    let part = app
        .client
        .get(format!("{}{}", app.origin, path_of(&second)))
        .header("range", "bytes=6000000-6000009")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), large[6_000_000..6_000_010]);

    let body = json!({ "avatar": data_uri(&png(64, 64)) });
    let me = app.patch(&alice, "/users/@me", body).await.expect(200);
    let hash = me["avatar"].as_str().unwrap();
    let path = format!("/avatars/{}/{hash}.webp?size=32", alice.id);
    assert_eq!(app.fetch(&path).await.status(), 200);
    assert_eq!((app.files().await, s3.objects()), ((3, 0), 3));

    for message in [&first, &second] {
        delete(&app, &alice, guild, message).await;
    }
    app.collect().await;
    assert_eq!((app.files().await, s3.objects()), ((1, 0), 1));
    assert_eq!(app.fetch(path_of(&first)).await.status(), 404);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_service_that_is_away_costs_a_503_and_leaves_nothing(db: PgPool) {
    let mut s3 = S3::start().await;
    let (app, alice, guild) = hall(db, &s3).await;
    let kept = send(&app, &alice, guild, upload("a.txt", b"kept".to_vec())).await;
    s3.service.kill().await.unwrap();
    let path = format!("/channels/{}/messages", guild.general);
    let form = upload("b.txt", b"lost".to_vec()).text("payload_json", "{}");
    app.upload(&alice, Method::POST, &path, form)
        .await
        .expect_error(503, 0);
    assert_eq!(app.fetch(path_of(&kept)).await.status(), 503);
    // What was announced is known and unused: to be collected, like everything nobody shows.
    assert_eq!((app.files().await, s3.objects()), ((1, 1), 1));
}

/// A process of its own, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `guildhall-api` on this database, and where it listens.
async fn process(app: &TestApp, s3: &S3) -> (Process, String) {
    let mut database = url(&std::env::var("DATABASE_URL").unwrap());
    let options = app.db.connect_options();
    database.set_path(options.get_database().unwrap());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let command = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guildhall-api"));
        command
            .arg(name)
            .env("DATABASE_URL", database.as_str())
            .env("CLUSTER_KEY", CLUSTER_KEY)
            .env("GATEWAY_URL", "ws://127.0.0.1:4999")
            .env("API_LISTEN", &address)
            .env("MEDIA_S3_BUCKET", BUCKET)
            .env("MEDIA_S3_ENDPOINT", &s3.url)
            .env("MEDIA_S3_ACCESS_KEY", "S3RVER")
            .env("MEDIA_S3_SECRET_KEY", "S3RVER")
            .env("RATE_LIMITS", "off")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    assert!(command("migrate").status().unwrap().success());
    let mut process = Process(command("serve").spawn().unwrap());
    let origin = format!("http://{address}");
    let ready = format!("{origin}/ready");
    while app.client.get(&ready).send().await.is_err() {
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "the process has ended: {ended:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    (process, origin)
}

fn url(text: &str) -> reqwest::Url {
    text.parse().unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_process_killed_between_file_and_row_leaves_no_orphan(db: PgPool) {
    let s3 = S3::start().await;
    let (app, alice, guild) = hall(db, &s3).await;
    let (mut process, origin) = process(&app, &s3).await;

    // The file is stored, and the process dies before it hears of that.
    s3.shut(Method::PUT, true);
    let path = format!("{origin}/api/v10/channels/{}/messages", guild.general);
    let request = app
        .client
        .post(path)
        .header("authorization", &alice.authorization)
        .multipart(upload("a.txt", b"orphan".to_vec()));
    let asked = tokio::spawn(request.send());
    s3.door.kept_back.notified().await;
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    asked.await.unwrap().expect_err("the process died");
    assert_eq!((app.files().await, s3.objects()), ((0, 1), 1));
    let messages = format!("/channels/{}/messages", guild.general);
    assert_eq!(app.get(&alice, &messages).await.expect(200), json!([]));

    // Whoever is left collects it when its lease is over.
    s3.shut(Method::PUT, false);
    app.collect().await;
    assert_eq!((app.files().await, s3.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_collection_cut_off_between_file_and_row_is_made_up_for(db: PgPool) {
    let s3 = S3::start().await;
    let (app, alice, guild) = hall(db, &s3).await;
    let message = send(&app, &alice, guild, upload("a.txt", b"soon gone".to_vec())).await;
    delete(&app, &alice, guild, &message).await;

    s3.shut_removals(true);
    let collecting = tokio::spawn({
        let app = app.app.clone();
        async move { app.collect_files().await }
    });
    s3.door.kept_back.notified().await;
    collecting.abort();
    collecting.await.unwrap_err();
    // The file is gone and its row is not: nobody is shown it, and the next round ends it.
    assert_eq!((app.files().await, s3.objects()), ((0, 1), 0));
    assert_eq!(app.fetch(path_of(&message)).await.status(), 404);
    s3.shut_removals(false);
    app.collect().await;
    assert_eq!((app.files().await, s3.objects()), ((0, 0), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_collection_waits_no_longer_than_its_locks_hold(db: PgPool) {
    let s3 = S3::start().await;
    let (app, alice, guild) = hall(db, &s3).await;
    let message = send(&app, &alice, guild, upload("a.txt", b"soon gone".to_vec())).await;
    delete(&app, &alice, guild, &message).await;

    s3.shut_removals(true);
    let five_seconds = std::time::Duration::from_secs(5);
    let collected = tokio::time::timeout(five_seconds, app.app.collect_files()).await;
    collected.expect("nobody waits for the answer").unwrap();
    assert_eq!(app.files().await, (0, 1));
    s3.shut_removals(false);
    app.collect().await;
    assert_eq!((app.files().await, s3.objects()), ((0, 0), 0));
}
