//! Postgres and Redis of a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use xtask::servers::{
    Binaries, Postgres, PostgresOptions, Redis, RedisOptions, form_cluster, random_secret,
    scratch_root,
};

use super::server::{lock, on_launcher};

#[derive(Debug, Clone)]
pub(super) enum PostgresServer {
    /// Of `DATABASE_URL`.
    Given(String),
    Started(Arc<Mutex<OwnPostgres>>),
}

/// One that this process started, with its folder.
#[derive(Debug)]
pub(crate) struct OwnPostgres {
    pub(crate) server: Postgres,
    folder: PathBuf,
}

impl OwnPostgres {
    /// `durable`: what it has confirmed survives its kill -9.
    pub(crate) fn start(durable: bool) -> Result<Self> {
        let folder = scratch_folder("e2epg")?;
        let options = PostgresOptions {
            folder: folder.clone(),
            port: None,
            password: random_secret()?,
            durable,
            connections_max: 300,
            log: folder.join("postgres.log"),
            pid_file: Some(folder.join("postgres.pid")),
            dies_with_parent: true,
        };
        let server = Postgres::start(&Binaries::find()?.postgres, options)?;
        Ok(Self { server, folder })
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.server.stop();
        let _ = fs::remove_dir_all(&self.folder); // xtask sweeps what stays
    }
}

impl PostgresServer {
    pub(super) fn url(&self, database: &str) -> Result<String> {
        match self {
            Self::Given(url) => {
                let (url, options) = url.split_once('?').unwrap_or((url, ""));
                let (base, _) = url
                    .rsplit_once('/')
                    .context("DATABASE_URL has no database")?;
                let question = if options.is_empty() { "" } else { "?" };
                Ok(format!("{base}/{database}{question}{options}"))
            }
            Self::Started(own) => Ok(lock(own).server.url(database)),
        }
    }

    pub(super) async fn execute(&self, statement: String) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres")?).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await?;
        Ok(())
    }
}

/// One server, or a Redis Cluster: its primaries, then perhaps a replica of each.
pub(super) async fn start_redis(
    folder: &Path,
    primaries: usize,
    replicas: bool,
) -> Result<Vec<Redis>> {
    let password = random_secret()?;
    let folder = folder.to_owned();
    on_launcher(move || {
        let program = Binaries::find()?.redis;
        let mut servers = Vec::new();
        let count = primaries * (1 + usize::from(replicas));
        for number in 0..count {
            let name = format!("redis-{number}");
            let options = RedisOptions {
                folder: folder.join(&name),
                port: None,
                password: password.clone(),
                log: folder.join(format!("{name}.log")),
                pid_file: Some(folder.join(format!("{name}.pid"))),
                dies_with_parent: true,
                cluster: count > 1,
                tls: None,
            };
            servers.push(Redis::start(&program, options)?);
        }
        if count > 1 {
            form_cluster(&mut servers, primaries)?;
        }
        Ok(servers)
    })
    .await
}

/// What `REDIS_URL` is for these.
pub(super) fn redis_url(servers: &[Redis]) -> String {
    let urls: Vec<String> = servers.iter().map(Redis::url).collect();
    urls.join(",")
}

/// The server for the next cluster: given, its own, or one shared by the clusters of this process.
pub(super) async fn postgres(own: bool) -> Result<PostgresServer> {
    static SHARED: Mutex<Weak<Mutex<OwnPostgres>>> = Mutex::new(Weak::new());
    let start = |durable| Ok(Arc::new(Mutex::new(OwnPostgres::start(durable)?)));
    if own {
        return Ok(PostgresServer::Started(
            on_launcher(move || start(true)).await?,
        ));
    }
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Ok(PostgresServer::Given(url));
    }
    // The launcher does one job at a time, so two clusters never start two.
    let server = on_launcher(move || {
        if let Some(server) = lock(&SHARED).upgrade() {
            return Ok(server);
        }
        let server = start(false)?;
        *lock(&SHARED) = Arc::downgrade(&server);
        Ok(server)
    });
    Ok(PostgresServer::Started(server.await?))
}

/// A new folder whose name says which process made it: `xtask` sweeps those of dead ones.
pub(crate) fn scratch_folder(kind: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = scratch_root()?.join(format!("{kind}-{}-{count}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
