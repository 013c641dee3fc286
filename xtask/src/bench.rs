//! `cargo xtask bench`: the load generators of `load-tests`, against an optimised private cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cargo::{self, Profile};
use crate::cluster::{Cluster, Plan, Ports};
use crate::interrupt::Interrupted;
use crate::servers::{Binaries, Postgres, Redis, random_secret, scratch_folder, sweep};
use crate::{install, instructions};

/// Fixed when a cluster is created; the load generators compute shards themselves.
const SHARDS: u16 = 4096;

/// All scenarios in their order, with what makes them short enough to run together.
const ALL: [(Scenario, &[&str]); 8] = [
    (Scenario::Fanout, &[]),
    (
        Scenario::Fanout,
        &[
            "--connections",
            "10000",
            "--rounds",
            "40",
            "--burst-rounds",
            "8",
        ],
    ),
    (Scenario::Logins, &[]),
    (Scenario::Delivery, &[]),
    (Scenario::Crowded, &[]),
    (Scenario::Nodes, &[]),
    (Scenario::Post, &[]),
    (Scenario::Pages, &["--messages", "200000"]),
];
/// Gateways of the scenario that is about several.
const NODES: u16 = 3;

/// A binary of the package `load-tests`, but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The gateway's CPU per delivery against a bare send loop.
    Fanout,
    /// Message creates through REST against pgbench's single-row inserts.
    Post,
    /// Storms of handshakes, IDENTIFYs and RESUMEs.
    Logins,
    /// How late messages come at a steady rate, and what clients do that never read.
    Delivery,
    /// A guild of 100,000 members, 20,000 of them online.
    Crowded,
    /// 50,000 sessions of one guild over three gateways.
    Nodes,
    /// Lists and searches: the last page against the first, in a large guild and channel.
    Pages,
    /// Instructions of the pure parts against the committed counts; needs valgrind, and no cluster.
    Instructions,
}

/// Runs one scenario, whose output is the result; or all of them, each on a cluster of its own, and
/// prints the table of their figures.
pub(crate) fn run(scenario: Option<Scenario>, arguments: &[String]) -> Result<ExitCode> {
    if scenario == Some(Scenario::Instructions) {
        return instructions::run(arguments);
    }
    sweep()?;
    let binaries = install::databases()?;
    let mut packages = cargo::SERVERS.to_vec();
    packages.push("load-tests");
    cargo::build_release(&packages)?;
    if let Some(scenario) = scenario {
        return on_cluster(&binaries, scenario, arguments, None);
    }
    let folder = scratch_folder("bench-table")?;
    let table = folder.join("table.tsv");
    let mut failed = Vec::new();
    for (scenario, arguments) in ALL {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        // One that fails leaves the others their turn.
        match on_cluster(&binaries, scenario, &arguments, Some(&table)) {
            Ok(code) if code == ExitCode::SUCCESS => {}
            Ok(_) => failed.push(format!("{scenario:?}")),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => failed.push(format!("{scenario:?}: {error:#}")),
        }
        println!();
    }
    print_table(&fs::read_to_string(&table).unwrap_or_default());
    let _ = fs::remove_dir_all(folder);
    for failure in &failed {
        println!("did not run to its end: {failure}");
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Lines of four fields: what, figure, aim, whether it was met.
fn print_table(lines: &str) {
    println!("| what | figure | aim | |\n|---|---|---|---|");
    for line in lines.lines() {
        println!("| {} |", line.replace('\t', " | "));
    }
}

fn on_cluster(
    binaries: &Binaries,
    scenario: Scenario,
    arguments: &[String],
    table: Option<&Path>,
) -> Result<ExitCode> {
    // Durable: the comparison with pgbench is about commits that reach the disk.
    let mut postgres = Postgres::temporary_with(binaries, true, true)?;
    let mut redis = Redis::temporary_with(binaries, true)?;
    let logs = scratch_folder("bench")?;
    let plan = Plan {
        programs: Profile::Release.folder(),
        database_url: postgres.url("guildhall"),
        redis_url: redis.url(),
        cluster_key: format!("{}{}", random_secret()?, random_secret()?),
        gateways: if scenario == Scenario::Nodes {
            NODES
        } else {
            1
        },
        settings: settings(),
        logs: logs.clone(),
        media: logs.join("media"),
        run: None,
    };
    let ports = Ports::choose(plan.gateways)?;
    Cluster::migrate(&plan, &ports)?;
    let mut cluster = Cluster::start(&plan, ports, |_| {})?;
    let servers = (&postgres, &redis);
    let outcome = measure(scenario, arguments, table, &plan, &cluster, servers);
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
    table: Option<&Path>,
    plan: &Plan,
    cluster: &Cluster,
    (postgres, redis): (&Postgres, &Redis),
) -> Result<ExitCode> {
    let name = match scenario {
        Scenario::Fanout => "fanout",
        Scenario::Post => "post",
        Scenario::Pages => "pages",
        Scenario::Logins => "logins",
        Scenario::Delivery => "delivery",
        Scenario::Crowded => "crowded",
        Scenario::Nodes => "nodes",
        Scenario::Instructions => "instructions",
    };
    let pid = |member: &str| {
        cluster
            .pid(member)
            .map(|pid| pid.to_string())
            .context("a process is missing")
    };
    let mut command = Command::new(plan.programs.join("load-tests"));
    command
        .arg(name)
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
    let (mut pids, mut urls, mut admins) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (own, admin)) in cluster.ports.nodes.iter().enumerate() {
        pids.push(pid(&format!("gateway-{}", index + 1))?);
        urls.push(format!("ws://127.0.0.1:{own}"));
        admins.push(format!("http://127.0.0.1:{admin}"));
    }
    command
        .env("GATEWAY_ADMIN", &admins[0])
        .env("GATEWAY_PIDS", pids.join(","))
        .env("GATEWAY_URLS", urls.join(","))
        .env("GATEWAY_ADMINS", admins.join(","));
    if let Some(table) = table {
        command.env("BENCH_TABLE", table);
    }
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
