//! `cargo xtask bench`: the load generators of `load-tests`, against an optimised private cluster.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo::{self, Profile};
use crate::cli::Scenario;
use crate::cluster::{Cluster, Plan, Ports};
use crate::servers::{Postgres, Redis, random_secret, scratch_folder, sweep};
use crate::{install, instructions};

/// Fixed when a cluster is created; the load generators compute shards themselves.
const SHARDS: u16 = 4096;

/// Runs one scenario; its output is the result.
pub(crate) fn run(scenario: Scenario, arguments: &[String]) -> Result<ExitCode> {
    if scenario == Scenario::Instructions {
        return instructions::run(arguments);
    }
    sweep()?;
    let binaries = install::databases()?;
    let mut packages = cargo::SERVERS.to_vec();
    packages.push("load-tests");
    cargo::build_release(&packages)?;

    // Durable: the comparison with pgbench is about commits that reach the disk.
    let mut postgres = Postgres::temporary_with(&binaries, true, true)?;
    let mut redis = Redis::temporary_with(&binaries, true)?;
    let logs = scratch_folder("bench")?;
    let plan = Plan {
        programs: Profile::Release.folder(),
        database_url: postgres.url("guildhall"),
        redis_url: redis.url(),
        cluster_key: format!("{}{}", random_secret()?, random_secret()?),
        gateways: 1,
        settings: settings(),
        logs: logs.clone(),
        run: None,
    };
    let ports = Ports::choose(plan.gateways)?;
    Cluster::migrate(&plan, &ports)?;
    let mut cluster = Cluster::start(&plan, ports, |_| {})?;
    let outcome = measure(scenario, arguments, &plan, &cluster, (&postgres, &redis));
    cluster.stop();
    redis.stop();
    postgres.stop();
    let code = outcome?;
    let _ = fs::remove_dir_all(logs); // kept when something failed
    Ok(code)
}

fn settings() -> Vec<(String, String)> {
    [
        ("RATE_LIMITS", "off".to_owned()),
        ("CLUSTER_SHARDS", SHARDS.to_string()),
        // All clients are of this machine.
        ("GATEWAY_CONNECTIONS_PER_ADDRESS_MAX", "0".to_owned()),
        ("RUST_LOG", "warn".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn measure(
    scenario: Scenario,
    arguments: &[String],
    plan: &Plan,
    cluster: &Cluster,
    (postgres, redis): (&Postgres, &Redis),
) -> Result<ExitCode> {
    let name = match scenario {
        Scenario::Fanout => "fanout",
        Scenario::Post => "post",
        Scenario::Pages => "pages",
        Scenario::Instructions => "instructions",
    };
    let pid = |member: &str| {
        cluster
            .pid(member)
            .map(|pid| pid.to_string())
            .context("a process is missing")
    };
    let mut command = Command::new(plan.programs.join(name));
    command
        .args(arguments)
        .env("API_URL", format!("http://{}", cluster.api()))
        .env(
            "GATEWAY_URL",
            format!("ws://127.0.0.1:{}", cluster.ports.gateway),
        )
        .env("API_PID", pid("api")?)
        .env("GATEWAY_PID", pid("gateway-1")?)
        .env("DATABASE_URL", &plan.database_url)
        .env("REDIS_URL", &plan.redis_url)
        .env("CLUSTER_SHARDS", SHARDS.to_string());
    if let Some(pid) = postgres.pid() {
        command.env("POSTGRES_PID", pid.to_string());
    }
    if let Some(pid) = redis.pid() {
        command.env("REDIS_PID", pid.to_string());
    }
    if let Some(pgbench) = postgres.program("pgbench") {
        command.env("PGBENCH", pgbench);
    }
    let status = cargo::run(command)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
