//! A running API for one test, and people to use it.

use clap::Parser;
use guildhall_api::{
    app::App,
    config::Config,
    http::{self, Listeners},
};
use guildhall_shared::{
    Id, Permissions, Timestamp, gateway::EventKind, id::marker, snowflake::Snowflakes, token::Token,
};
use reqwest::{Method, StatusCode, header::HeaderMap, multipart::Form};
use serde_json::{Value, json};
use sqlx::{
    PgPool, PgTransaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::conformance::libraries_read;

pub(crate) const CLUSTER_KEY: &str = "a cluster key for tests, long enough";
pub(crate) const GATEWAY_URL: &str = "ws://127.0.0.1:4999";

const AUDIT: &str = "GUILD_AUDIT_LOG_ENTRY_CREATE";
/// Settings of a test are those of a process that was told little.
#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

/// An API on its own database, on a free port, until dropped.
pub(crate) struct TestApp {
    pub(crate) db: PgPool,
    pub(crate) app: App,
    pub(crate) client: reqwest::Client,
    /// `http://127.0.0.1:<port>`.
    pub(crate) origin: String,
    /// The same of where operators ask: another one if the test sets `internal_listen`.
    pub(crate) inside: String,
    /// Ends when it serves no longer.
    pub(crate) served: JoinHandle<()>,
    /// As SIGTERM does it.
    pub(crate) stop: CancellationToken,
    /// A worker number no API process of a test takes: they start anywhere but are few.
    ids: Mutex<Snowflakes>,
    /// Its files.
    pub(crate) media: tempfile::TempDir,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
        self.app.stop();
    }
}

/// Somebody with a token.
#[derive(Debug, Clone)]
pub(crate) struct TestUser {
    pub(crate) id: Id<marker::User>,
    /// As `Authorization` wants it.
    pub(crate) authorization: String,
}

/// A guild with @everyone and one text channel, `general`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TestGuild {
    pub(crate) id: Id<marker::Guild>,
    pub(crate) general: Id<marker::Channel>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Null without a body.
    pub(crate) body: Value,
}

impl Reply {
    /// Panics unless the status is this one; the body.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self.body
    }

    /// Panics unless it is this error.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: u32) -> Value {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body:#}");
        libraries_read("error", &body);
        body
    }

    /// Panics unless it is a form error with this code at this place (`name`, `embeds.0.title`).
    #[track_caller]
    pub(crate) fn expect_fault(self, path: &str, code: &str) -> Value {
        let body = self.expect_error(400, 50035);
        assert_fault(&body, path, code);
        body
    }
}

/// Panics unless the form error has this code at this place.
#[track_caller]
pub(crate) fn assert_fault(body: &Value, path: &str, code: &str) {
    let mut node = &body["errors"];
    for key in path.split('.').filter(|key| !key.is_empty()) {
        node = &node[key];
    }
    assert_eq!(node["_errors"][0]["code"], code, "at {path:?} in {body:#}");
}

impl TestApp {
    /// Without rate limits, open for registration.
    pub(crate) async fn new(db: PgPool) -> Self {
        Self::with(db, |_| {}).await
    }

    /// With other settings.
    pub(crate) async fn with(db: PgPool, change: impl FnOnce(&mut Config)) -> Self {
        let redis_url = std::env::var("REDIS_URL").expect("REDIS_URL names a Redis for tests");
        let media = tempfile::tempdir().unwrap();
        let mut config = Settings::parse_from([
            "test",
            "--database-url=",
            &format!("--redis-url={redis_url}"),
            "--listen=127.0.0.1:0",
            &format!("--gateway-url={GATEWAY_URL}"),
            "--db-connections-max=5",
            &format!("--cluster-key={CLUSTER_KEY}"),
            "--rate-limits=off",
            "--outgoing-http=any",
            &format!("--media-dir={}", media.path().display()),
        ])
        .config;
        change(&mut config);
        let listeners = Listeners::open(&config).unwrap();
        let origin = |at: &TcpListener| format!("http://{}", at.local_addr().unwrap());
        let inside = origin(listeners.internal.as_ref().unwrap_or(&listeners.public));
        let origin = origin(&listeners.public);
        let app = App::start(config, db.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(http::serve(listeners, app.clone(), stop.clone()));
        Self {
            db,
            app,
            client: reqwest::Client::new(),
            origin,
            inside,
            served,
            stop,
            ids: Mutex::new(Snowflakes::new(1023)),
            media,
        }
    }

    /// Somebody else's transaction that holds the head of a guild or user until it is dropped.
    pub(crate) async fn hold<T>(&self, realm: Id<T>) -> PgTransaction<'static> {
        let mut tx = self.db.begin().await.unwrap();
        sqlx::query("select from realm_head where realm_id = $1 for update")
            .bind(realm.to_db())
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        tx
    }

    /// Until a request waits for a lock that the test holds.
    pub(crate) async fn until_somebody_waits(&self) {
        let waits = "select exists (select from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock')";
        self.until(waits).await;
    }

    /// Until a query is answered with true.
    pub(crate) async fn until(&self, query: &'static str) {
        let started = Instant::now();
        loop {
            let is_so: bool = sqlx::query_scalar(query).fetch_one(&self.db).await.unwrap();
            if is_so {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{query}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn id<T>(&self) -> Id<T> {
        let now_ms = Timestamp::now().0.unix_timestamp_nanos() / 1_000_000;
        self.ids.lock().unwrap().next(now_ms as u64)
    }

    /// A request to a path below `/api/v10`.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}/api/v10{path}", self.origin))
    }

    /// [`Self::request`] by somebody.
    pub(crate) fn request_by(
        &self,
        user: &TestUser,
        method: Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let request = self.request(method, path);
        request.header("authorization", &user.authorization)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            assert_eq!(headers["content-type"], "application/json");
            serde_json::from_slice(&bytes).unwrap()
        };
        Reply {
            status,
            headers,
            body,
        }
    }

    pub(crate) async fn get(&self, user: &TestUser, path: &str) -> Reply {
        self.send(self.request_by(user, Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, user: &TestUser, path: &str) -> Reply {
        self.send(self.request_by(user, Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, user: &TestUser, path: &str, body: Value) -> Reply {
        self.call(user, Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, user: &TestUser, path: &str, body: Value) -> Reply {
        self.call(user, Method::PATCH, path, body).await
    }

    pub(crate) async fn put(&self, user: &TestUser, path: &str, body: Value) -> Reply {
        self.call(user, Method::PUT, path, body).await
    }

    pub(crate) async fn call(
        &self,
        user: &TestUser,
        method: Method,
        path: &str,
        body: Value,
    ) -> Reply {
        self.send(self.request_by(user, method, path).json(&body))
            .await
    }

    /// With a multipart form.
    pub(crate) async fn upload(
        &self,
        user: &TestUser,
        method: Method,
        path: &str,
        form: Form,
    ) -> Reply {
        self.send(self.request_by(user, method, path).multipart(form))
            .await
    }

    /// From now on the database refuses these rows of a table: `what` is what would write them,
    /// `insert` or `update`; `which` is a condition on `new`.
    pub(crate) async fn refuse(&self, what: &str, table: &str, which: &str) {
        let statements = format!(
            "create function fail() returns trigger language plpgsql as
               'begin raise exception ''no''; end';
             create trigger fail before {what} on {table} for each row
               when ({which}) execute function fail();"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
            .execute(&self.db)
            .await
            .unwrap();
    }

    /// Without a token.
    pub(crate) async fn post_anonymously(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).json(&body))
            .await
    }

    /// An account without a password, logged in.
    pub(crate) async fn user(&self, name: &str) -> TestUser {
        self.account(self.id(), name, false).await
    }

    /// The same, with an account that is ten minutes old.
    pub(crate) async fn old_user(&self, name: &str) -> TestUser {
        let now = self.id::<marker::User>().get();
        let then = Id::new(now - (600_000 << 22)).unwrap();
        self.account(then, name, false).await
    }

    async fn account(&self, id: Id<marker::User>, name: &str, bot: bool) -> TestUser {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&id.get().to_le_bytes());
        let token = Token::mint(id, id.created_ms(), secret);
        let mut tx = self.db.begin().await.unwrap();
        sqlx::query("insert into account (user_id, username, bot) values ($1, $2, $3)")
            .bind(id.to_db())
            .bind(name)
            .bind(bot)
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("insert into auth_token (token_hash, user_id) values ($1, $2)")
            .bind(token.hash().0.to_vec())
            .bind(id.to_db())
            .execute(&mut *tx)
            .await
            .unwrap();
        insert_realm(&mut tx, id).await;
        tx.commit().await.unwrap();
        let kind = if bot { "Bot " } else { "" };
        TestUser {
            id,
            authorization: format!("{kind}{}", token.reveal()),
        }
    }

    /// An application's bot, logged in. The application's id is the bot's.
    pub(crate) async fn bot(&self, owner: &TestUser, name: &str) -> TestUser {
        let bot = self.account(self.id(), name, true).await;
        sqlx::query(
            "insert into application (application_id, owner_id, name, flags, verify_key)
             values ($1, $2, $3, $4, $5)",
        )
        .bind(bot.id.to_db())
        .bind(owner.id.to_db())
        .bind(name)
        .bind(guildhall_shared::model::Application::FLAGS_NEW as i64)
        .bind("0".repeat(64))
        .execute(&self.db)
        .await
        .unwrap();
        bot
    }

    pub(crate) async fn guild(&self, owner: &TestUser, name: &str) -> TestGuild {
        let guild = TestGuild {
            id: self.id(),
            general: self.id(),
        };
        let mut tx = self.db.begin().await.unwrap();
        let settings = json!({ "system_channel_id": guild.general });
        sqlx::query(
            "insert into guild (guild_id, name, owner_id, settings) values ($1, $2, $3, $4)",
        )
        .bind(guild.id.to_db())
        .bind(name)
        .bind(owner.id.to_db())
        .bind(settings)
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "insert into role (guild_id, role_id, name, position, permissions)
             values ($1, $1, '@everyone', 0, $2)",
        )
        .bind(guild.id.to_db())
        .bind(Permissions::NEW_GUILD.bits() as i64)
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "insert into channel (channel_id, guild_id, kind, name) values ($1, $2, 0, 'general')",
        )
        .bind(guild.general.to_db())
        .bind(guild.id.to_db())
        .execute(&mut *tx)
        .await
        .unwrap();
        insert_realm(&mut tx, guild.id).await;
        tx.commit().await.unwrap();
        self.join(owner, guild).await;
        guild
    }

    /// Makes somebody a member, without events.
    pub(crate) async fn join(&self, user: &TestUser, guild: TestGuild) {
        sqlx::query("insert into member (guild_id, user_id) values ($1, $2)")
            .bind(guild.id.to_db())
            .bind(user.id.to_db())
            .execute(&self.db)
            .await
            .unwrap();
        sqlx::query("update guild set member_count = member_count + 1 where guild_id = $1")
            .bind(guild.id.to_db())
            .execute(&self.db)
            .await
            .unwrap();
        sqlx::query(
            "insert into integration (guild_id, integration_id, application_id)
             select $1, application_id, application_id from application where application_id = $2",
        )
        .bind(guild.id.to_db())
        .bind(user.id.to_db())
        .execute(&self.db)
        .await
        .unwrap();
    }

    /// Gives a member a new role with these permissions.
    pub(crate) async fn grant(
        &self,
        user: &TestUser,
        guild: TestGuild,
        permissions: Permissions,
    ) -> Id<marker::Role> {
        let role: Id<marker::Role> = self.id();
        sqlx::query(
            "insert into role (guild_id, role_id, name, position, permissions)
             values ($1, $2, 'granted', 1, $3)",
        )
        .bind(guild.id.to_db())
        .bind(role.to_db())
        .bind(permissions.bits() as i64)
        .execute(&self.db)
        .await
        .unwrap();
        sqlx::query(
            "update member set roles = roles || $3::bigint where guild_id = $1 and user_id = $2",
        )
        .bind(guild.id.to_db())
        .bind(user.id.to_db())
        .bind(role.to_db())
        .execute(&self.db)
        .await
        .unwrap();
        role
    }

    /// From now on @everyone of a guild may do just this, without events.
    pub(crate) async fn everyone_may(&self, guild: TestGuild, permissions: Permissions) {
        sqlx::query("update role set permissions = $2 where role_id = $1")
            .bind(guild.id.to_db())
            .bind(permissions.bits() as i64)
            .execute(&self.db)
            .await
            .unwrap();
    }

    /// Every operation of `/openapi.json`: its method, its path, and the same with an id in each place.
    pub(crate) async fn operations(&self) -> Vec<(Method, String, String)> {
        let document = self.client.get(format!("{}/openapi.json", self.origin));
        let document: Value = document.send().await.unwrap().json().await.unwrap();
        let mut operations = Vec::new();
        for (route, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else {
                    continue;
                };
                let mut path = route.clone();
                while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
                    path.replace_range(from..=to, "100000000000000001");
                }
                operations.push((method, route.clone(), path));
            }
        }
        let count = operations.len();
        assert!(count > 250, "only {count} operations");
        operations
    }

    /// Name and body of every event of a guild or user, in order, without those of the audit
    /// log, which come with nearly every change. Panics on a gap in the numbers.
    pub(crate) async fn events<T>(&self, realm: Id<T>) -> Vec<(&'static str, Value)> {
        let mut events = self.all_events(realm).await;
        events.retain(|(name, _)| *name != AUDIT);
        events
    }

    /// The audit log's entries of a guild, oldest first, as their events carry them.
    pub(crate) async fn audit(&self, guild: Id<marker::Guild>) -> Vec<Value> {
        let mut events = self.all_events(guild).await;
        events.retain(|(name, _)| *name == AUDIT);
        events.into_iter().map(|(_, body)| body).collect()
    }

    /// Until the log of a guild or user has so many events of a kind; their bodies. For what is done
    /// after the answer.
    pub(crate) async fn until_told<T>(
        &self,
        realm: Id<T>,
        kind: EventKind,
        count: usize,
    ) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let bodies: Vec<Vec<u8>> = sqlx::query_scalar(
                "select body from realm_event where realm_id = $1 and kind = $2 order by seq",
            )
            .bind(realm.to_db())
            .bind(kind.number() as i16)
            .fetch_all(&self.db)
            .await
            .unwrap();
            if bodies.len() >= count {
                let bodies = bodies.iter();
                return bodies
                    .map(|body| serde_json::from_slice(body).unwrap())
                    .collect();
            }
            let told = bodies.len();
            assert!(started.elapsed() < Duration::from_secs(60), "{told} events");
            tokio::task::yield_now().await;
        }
    }

    async fn all_events<T>(&self, realm: Id<T>) -> Vec<(&'static str, Value)> {
        let rows: Vec<(i64, i16, Vec<u8>)> = sqlx::query_as(
            "select seq, kind, body from realm_event where realm_id = $1 order by seq",
        )
        .bind(realm.to_db())
        .fetch_all(&self.db)
        .await
        .unwrap();
        let head: i64 = sqlx::query_scalar("select seq from realm_head where realm_id = $1")
            .bind(realm.to_db())
            .fetch_one(&self.db)
            .await
            .unwrap();
        let numbers: Vec<i64> = rows.iter().map(|row| row.0).collect();
        assert_eq!(numbers, (1..=head).collect::<Vec<_>>());
        let kind = |number: i16| guildhall_shared::gateway::EventKind::from_number(number as u16);
        rows.into_iter()
            .map(|(_, number, body)| {
                (
                    kind(number).unwrap().name(),
                    serde_json::from_slice(&body).unwrap(),
                )
            })
            .collect()
    }

    /// The names of [`Self::events`] alone.
    pub(crate) async fn event_names<T>(&self, realm: Id<T>) -> Vec<&'static str> {
        let events = self.events(realm).await;
        events.into_iter().map(|(name, _)| name).collect()
    }
}

/// A connection to the Redis of every test's API.
pub(crate) async fn redis_connection() -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(std::env::var("REDIS_URL").unwrap()).unwrap();
    // However busy the machine is.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap()
}

/// Alice, alone in her guild.
pub(crate) async fn alone(app: &TestApp) -> (TestUser, TestGuild) {
    let alice = app.user("alice").await;
    let hall = app.guild(&alice, "Hall").await;
    (alice, hall)
}

/// Alice, and Bob as a member of her guild.
pub(crate) async fn hall(app: &TestApp) -> (TestUser, TestUser, TestGuild) {
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "Hall").await;
    app.join(&bob, hall).await;
    (alice, bob, hall)
}

/// Two connections, for which requests wait no longer than those of a process do.
pub(crate) async fn two_connections(options: PgPoolOptions, connect: PgConnectOptions) -> PgPool {
    let options = options.max_connections(2);
    let options = options.acquire_timeout(Duration::from_secs(3));
    options.connect_with(connect).await.unwrap()
}

/// Rows of a table that queries have looked at until now; of a pool of two connections.
pub(crate) async fn rows_read(app: &TestApp, table: &str) -> i64 {
    let mut one = app.db.acquire().await.unwrap();
    let mut other = app.db.acquire().await.unwrap();
    for connection in [&mut one, &mut other] {
        // Otherwise each tells when a second has passed.
        sqlx::query("select pg_stat_force_next_flush()")
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    sqlx::query_scalar(
        "select seq_tup_read + (select sum(idx_tup_read)::bigint from pg_stat_user_indexes i
                                where i.relid = t.relid)
         from pg_stat_user_tables t where relname = $1",
    )
    .bind(table)
    .fetch_one(&mut *one)
    .await
    .unwrap()
}

/// Panics if the answer waits for what the test holds.
pub(crate) async fn at_once(answer: impl Future<Output = Reply>) -> Reply {
    let answer = tokio::time::timeout(Duration::from_secs(10), answer);
    answer.await.expect("nobody waits")
}

async fn insert_realm<T>(db: &mut sqlx::PgConnection, id: Id<T>) {
    sqlx::query("insert into realm_head (realm_id, shard) values ($1, $2)")
        .bind(id.to_db())
        .bind(i32::from(guildhall_shared::shard::ShardId::of(id, 4096).0))
        .execute(db)
        .await
        .unwrap();
}
