//! Postgres and the Redis pair of a run, and what can be done to them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::process::{Service, Signal};
use xtask::servers::{Binaries, Redis, RedisOptions, random_secret};

use crate::cluster::OwnPostgres;
use crate::proxy::Proxy;

/// A replica and the one it follows; which is which changes.
pub(super) struct RedisPair {
    pub(super) primary: Redis,
    replica: Redis,
    /// Between the two; stalled, the replica lags.
    between: Proxy,
    pub(super) password: String,
}

impl RedisPair {
    /// Starts both; blocks.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let password = random_secret()?;
        let start = |name: &str| {
            let options = RedisOptions {
                folder: folder.join(name),
                port: None,
                password: password.clone(),
                log: folder.join(format!("{name}.log")),
                pid_file: None,
                dies_with_parent: true,
                cluster: false,
                tls: None,
            };
            Redis::start(&Binaries::find()?.redis, options)
        };
        let (primary, replica) = (start("redis-1")?, start("redis-2")?);
        let between = Proxy::start(local(primary.port()))?;
        let pair = Self {
            primary,
            replica,
            between,
            password,
        };
        pair.follow()?;
        Ok(pair)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        local(self.primary.port())
    }

    fn follow(&self) -> Result<()> {
        self.replica.replicate(Some(self.between.addr().port()))
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.primary.flush()
    }

    /// For [`come_back_old`](Self::come_back_old).
    pub(super) fn save(&self) -> Result<()> {
        self.primary.save()
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        if let Some(service) = self.primary.service() {
            Service::signal(service, signal);
        }
    }

    pub(super) fn kill(&mut self) {
        self.primary.kill();
    }

    pub(super) fn come_back_empty(&mut self) -> Result<()> {
        self.primary.start_again()?;
        self.follow()
    }

    pub(super) fn come_back_old(&mut self) -> Result<()> {
        self.primary.start_from_save()?;
        self.follow()
    }

    /// From now on the replica hears nothing.
    pub(super) fn begin_lag(&self) {
        self.between.stall();
    }

    /// The replica takes over with what it has; where it is comes back.
    pub(super) fn fail_over(&mut self) -> Result<SocketAddr> {
        self.replica.replicate(None)?;
        self.primary.kill();
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.between.retarget(self.addr());
        self.between.flow();
        Ok(self.addr())
    }

    /// The one that failed comes back empty and follows.
    pub(super) fn start_replica(&mut self) -> Result<()> {
        self.replica.start_again()?;
        self.follow()
    }
}

/// Starts Postgres again; blocks.
pub(super) fn start_postgres(own: &mut OwnPostgres) -> Result<()> {
    // Children of a killed one go a moment later.
    let mut last = Ok(());
    for _ in 0..20 {
        last = own.server.start_again();
        if last.is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(250));
    }
    last.context("Postgres does not start again")
}

pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
