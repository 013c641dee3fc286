//! Message creates through REST beside the database's own single-row inserts.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use load_tests::{
    process::{Process, machine},
    readers::Listener,
    report::{self, Aim},
    rest::{Rest, address},
    statistics::quantile,
    world::{self, Account},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

/// Messages through REST, in single-row inserts of pgbench.
const RATE_AIM: f64 = 2.0;
/// Postgres' CPU time of a message, microseconds.
const POSTGRES_AIM_US: f64 = 40.0;
/// From the request to the event at a gateway's client, half of them, milliseconds.
const UNLOADED_AIM_MS: f64 = 3.0;
/// GUILDS, GUILD_MESSAGES, MESSAGE_CONTENT.
const INTENTS: u32 = 1 | 1 << 9 | 1 << 15;
/// Text of a message.
const CONTENT: &str =
    "The quick brown fox jumps over the lazy dog, twice if it must, and is heard.";
/// Between single messages, so that each meets a server at rest.
const PAUSE: Duration = Duration::from_millis(10);
const POSTGRES: &str = "Postgres";
const TABLE: &str = "load_test_message";

/// Measures message creates per second. Loopback and a private cluster only: it makes
/// accounts, guilds and a scratch table, and writes messages as fast as it can.
#[derive(Args)]
pub(crate) struct Config {
    /// The API; its rate limits must be off.
    #[arg(long, env = "API_URL", default_value = "http://127.0.0.1:8080")]
    api_url: String,
    /// Its process, on this machine.
    #[arg(long, env = "API_PID")]
    api_pid: u32,
    /// Postgres' first process, on this machine: its CPU time is counted with its children's.
    #[arg(long, env = "POSTGRES_PID")]
    postgres_pid: Option<u32>,
    /// Redis' process, on this machine, to say what a message costs it.
    #[arg(long, env = "REDIS_PID")]
    redis_pid: Option<u32>,
    /// The same of the gateway.
    #[arg(long, env = "GATEWAY_PID")]
    gateway_pid: Option<u32>,
    /// The gateway, for the way of one message to a client.
    #[arg(long, env = "GATEWAY_URL", default_value = "ws://127.0.0.1:8081")]
    gateway_url: String,
    /// Messages of that measurement, one after the other.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    single: u16,
    /// The API's own database: pgbench writes there as well.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The pgbench program.
    #[arg(long, env = "PGBENCH", default_value = "pgbench")]
    pgbench: PathBuf,
    /// Keep-alive connections, each with an author of its own and one request at a time.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Of pgbench. More of them, or fewer, insert no faster.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pgbench_clients: u16,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    guilds: u16,
    /// Channels of each guild.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=50))]
    channels: u16,
    /// Seconds of the measurement, and of each run of pgbench.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=300))]
    seconds: u16,
    /// Seconds of posting before it.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=60))]
    warm_up_s: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    let api = address(&config.api_url)?;
    println!("post: {}", machine());
    println!(
        "{} clients, {} guilds of {} channels, {} s each; pgbench with {} clients; loopback",
        config.clients, config.guilds, config.channels, config.seconds, config.pgbench_clients
    );
    let writers = make_writers(config, api).await?;
    let unloaded = unloaded(config, api).await?;
    let before = pgbench(config).await?;
    let posted = post(config, api, writers).await?;
    let after = pgbench(config).await?;

    report::section("pgbench: one row per transaction, prepared");
    for (when, run) in [("before", &before), ("after", &after)] {
        report::line(
            &format!("rows per second {when}"),
            format!("{:.0}   CPU per row {:.0} us", run.per_s, run.cpu_us),
        );
    }
    report::section("REST: POST /channels/{id}/messages");
    let per_s = posted.latencies_ms.len() as f64 / posted.seconds;
    report::line("messages per second", format!("{per_s:.0}"));
    let ratio = per_s / ((before.per_s + after.per_s) / 2.0);
    let aim = Aim::AtLeast(RATE_AIM);
    report::aim("against pgbench's mean", ratio, " x", &aim);
    report::row(
        "messages per second through REST, against pgbench",
        ratio,
        " x",
        &aim,
    );
    report::line(
        "latency",
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            quantile(&posted.latencies_ms, 0.5),
            quantile(&posted.latencies_ms, 0.99),
            quantile(&posted.latencies_ms, 1.0)
        ),
    );
    let per_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / posted.latencies_ms.len() as f64;
    let mut whole_us = 0.0;
    for (name, cpu) in &posted.cpu {
        let us = per_message(*cpu);
        whole_us += us;
        let what = format!("CPU per message, {name}");
        if *name == POSTGRES {
            let aim = Aim::AtMost(POSTGRES_AIM_US);
            report::aim(&what, us, " us", &aim);
            report::row(&what, us, " us", &aim);
        } else {
            report::line(&what, format!("{us:.1} us"));
        }
    }
    report::line(
        "CPU per message, all of these",
        format!(
            "{whole_us:.1} us, {:.2} x less than a row of pgbench",
            (before.cpu_us + after.cpu_us) / 2.0 / whole_us
        ),
    );
    report::section("One message at a time: POST to MESSAGE_CREATE at a gateway's client");
    let (p50, aim) = (quantile(&unloaded, 0.5), Aim::AtMost(UNLOADED_AIM_MS));
    report::aim("p50", p50, " ms", &aim);
    report::row(
        "POST to MESSAGE_CREATE, one at a time, p50",
        p50,
        " ms",
        &aim,
    );
    report::line("p99", format!("{:.2} ms", quantile(&unloaded, 0.99)));
    Ok(())
}

/// Milliseconds from a request's start to its event at a client, sorted; nothing else goes on.
async fn unloaded(config: &Config, api: SocketAddr) -> Result<Vec<f64>> {
    let mut rest = Rest::connect(api).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let channel = world::make_channel(&mut rest, &owner, &guild, json!([])).await?;
    let bot = world::make_bot(&mut rest, &owner).await?;
    world::add_bot(&mut rest, &owner, &guild, &bot).await?;
    let gateway = address(&config.gateway_url)?;
    let log_in = move || Listener::log_in(gateway, &bot.token, INTENTS);
    let mut listener = tokio::task::spawn_blocking(log_in).await??;
    let path = format!("/channels/{channel}/messages");
    let mut took_ms = Vec::new();
    for number in 0..config.single {
        let word = format!("number {number:05}");
        let body = json!({ "content": word }).to_string();
        let hearing = tokio::task::spawn_blocking(move || {
            listener.hear(word.as_bytes())?;
            anyhow::Ok((listener, Instant::now()))
        });
        let started = Instant::now();
        let status = rest
            .send("POST", &path, &owner.token, body.as_bytes())
            .await?;
        ensure!(status == 200, "a message was answered {status}");
        let (again, heard) = hearing.await??;
        listener = again;
        took_ms.push((heard - started).as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    took_ms.sort_by(f64::total_cmp);
    Ok(took_ms)
}

/// Who posts where: a writer goes round the channels of its guild.
struct Writer {
    author: Account,
    channels: Arc<[String]>,
}

async fn make_writers(config: &Config, api: SocketAddr) -> Result<Vec<Writer>> {
    let mut rest = Rest::connect(api).await?;
    let owner = world::register(&mut rest).await?;
    let mut guilds = Vec::new();
    for _ in 0..config.guilds {
        let guild = world::make_guild(&mut rest, &owner).await?;
        let mut channels = Vec::new();
        for _ in 0..config.channels {
            channels.push(world::make_channel(&mut rest, &owner, &guild, json!([])).await?);
        }
        let code = world::make_invite(&mut rest, &owner, &channels[0]).await?;
        guilds.push((code, Arc::<[String]>::from(channels)));
    }
    let mut writers = Vec::new();
    for number in 0..usize::from(config.clients) {
        let author = world::register(&mut rest).await?;
        let (code, channels) = &guilds[number % guilds.len()];
        world::join(&mut rest, &author, code).await?;
        let mut channels = channels.to_vec();
        // Writers of one guild do not start in one channel.
        let first = number / guilds.len() % channels.len();
        channels.rotate_left(first);
        writers.push(Writer {
            author,
            channels: channels.into(),
        });
    }
    Ok(writers)
}

struct Posted {
    /// Of every answer within the measured time; sorted.
    latencies_ms: Vec<f64>,
    seconds: f64,
    /// CPU time of whoever takes part, by name.
    cpu: Vec<(&'static str, Duration)>,
}

/// Who takes part, of those whose processes are known.
struct Cast(Vec<(&'static str, Process)>);

impl Cast {
    fn of(config: &Config) -> Self {
        let known = [
            ("API", Some(config.api_pid)),
            (POSTGRES, config.postgres_pid),
            ("Redis", config.redis_pid),
            ("gateway", config.gateway_pid),
            ("this generator", Some(std::process::id())),
        ];
        let known = known.into_iter();
        Self(
            known
                .filter_map(|(name, pid)| Some((name, Process::new(pid?))))
                .collect(),
        )
    }

    fn cpu(&self) -> Result<Vec<(&'static str, Duration)>> {
        let used = self.0.iter().map(|&(name, process)| {
            let cpu = if name == POSTGRES {
                process.cpu_of_tree()?
            } else {
                process.cpu()?
            };
            anyhow::Ok((name, cpu))
        });
        used.collect()
    }
}

async fn post(config: &Config, api: SocketAddr, writers: Vec<Writer>) -> Result<Posted> {
    let cast = Cast::of(config);
    let from = Instant::now() + Duration::from_secs(config.warm_up_s.into());
    let until = from + Duration::from_secs(config.seconds.into());
    let mut clients = JoinSet::new();
    for writer in writers {
        let rest = Rest::connect(api).await?;
        clients.spawn(write(rest, writer, from, until));
    }
    tokio::time::sleep_until(from.into()).await;
    let mut cpu = cast.cpu()?;
    tokio::time::sleep_until(until.into()).await;
    for ((_, used), (_, now)) in cpu.iter_mut().zip(cast.cpu()?) {
        *used = now.saturating_sub(*used);
    }
    let mut latencies_ms = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies_ms.extend(client.context("a client ended early")??);
    }
    ensure!(!latencies_ms.is_empty(), "nothing was answered in time");
    latencies_ms.sort_by(f64::total_cmp);
    Ok(Posted {
        latencies_ms,
        seconds: (until - from).as_secs_f64(),
        cpu,
    })
}

/// Posts until `until`; latencies of the answers that came after `from`, milliseconds.
async fn write(mut rest: Rest, writer: Writer, from: Instant, until: Instant) -> Result<Vec<f64>> {
    let body = json!({ "content": CONTENT }).to_string();
    let requests: Vec<Vec<u8>> = writer
        .channels
        .iter()
        .map(|channel| {
            let path = format!("/channels/{channel}/messages");
            rest.prepare("POST", &path, &writer.author.token, body.as_bytes())
        })
        .collect();
    let mut latencies_ms = Vec::new();
    for request in requests.iter().cycle() {
        let started = Instant::now();
        if started >= until {
            break;
        }
        let status = rest.send_prepared(request).await?;
        if status != 200 {
            bail!("{status} {}", String::from_utf8_lossy(rest.body()));
        }
        let now = Instant::now();
        if now >= from && now < until {
            latencies_ms.push((now - started).as_secs_f64() * 1e3);
        }
    }
    Ok(latencies_ms)
}

/// What single rows took.
struct SingleRows {
    per_s: f64,
    /// CPU time of one, Postgres' (if its process is known) and pgbench's own, microseconds.
    cpu_us: f64,
}

/// Rows that clients insert without us, into a table like `message`.
async fn pgbench(config: &Config) -> Result<SingleRows> {
    let own = Process::new(std::process::id());
    let postgres = config.postgres_pid.map(Process::new);
    let cpu = || {
        let postgres = postgres.map(Process::cpu_of_tree).transpose()?;
        anyhow::Ok(own.cpu_of_ended_children()? + postgres.unwrap_or_default())
    };
    let mut db = PgConnection::connect(&config.database_url)
        .await
        .context("DATABASE_URL")?;
    let fresh =
        format!("drop table if exists {TABLE}; create table {TABLE} (like message including all)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(fresh))
        .execute(&mut db)
        .await?;
    let script = std::env::temp_dir().join(format!("load-test-{}.sql", std::process::id()));
    fs::write(
        &script,
        format!(
            "\\set channel random(1, {})\n\\set id random(1, 1000000000000000000)\n\
             insert into {TABLE} (channel_id, message_id, author_id, content) \
             values (:channel, :id, :client_id, '{CONTENT}');\n",
            config.guilds * config.channels
        ),
    )?;
    let mut command = Command::new(&config.pgbench);
    command
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={}", config.pgbench_clients))
        .arg(format!("--time={}", config.seconds))
        .arg(format!("--file={}", script.display()))
        .arg(&config.database_url);
    let before = cpu()?;
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let used = cpu()?.saturating_sub(before);
    let _ = fs::remove_file(&script); // a leftover in the temporary folder harms nobody
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop table {TABLE}")))
        .execute(&mut db)
        .await?;
    db.close().await?;
    let output = output.with_context(|| format!("cannot run {}", config.pgbench.display()))?;
    ensure!(
        output.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    let per_s = rows_per_s(&printed).context("pgbench printed no tps")?;
    let rows = per_s * f64::from(config.seconds);
    Ok(SingleRows {
        per_s,
        cpu_us: used.as_secs_f64() * 1e6 / rows,
    })
}

/// From pgbench's report. Before version 14 there is a second line, connecting included.
fn rows_per_s(report: &str) -> Option<f64> {
    report
        .lines()
        .filter_map(|line| line.strip_prefix("tps = "))
        .next_back()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_report() {
        let report = "latency average = 3.5 ms\ntps = 8990.25 (without initial connection time)\n";
        assert_eq!(rows_per_s(report), Some(8990.25));
        assert_eq!(rows_per_s("error"), None);
    }
}
