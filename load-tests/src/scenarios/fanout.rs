//! One guild, many sessions: the gateway's CPU per delivery beside the kernel floor, and the
//! memory of an idle session.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use guildhall_shared::gateway::Intents;
use load_tests::{
    child::Helper,
    context::TrueContext,
    crowd,
    process::{Process, machine},
    report::{self, Aim, quantile},
    rest::{Rest, address},
    stage::{Stage, listening_intents, payload_len},
    world::{self, Account},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::target::Target;

/// What the gateway's figures should be, as ratios to the floor and to a naive server, and KB of
/// an idle session.
const ONE_AIM: f64 = 1.1;
const NAIVE_AIM: f64 = 0.4;
const BURST_AIM: f64 = 0.09;
const IDLE_AIM_KB: f64 = 4.0;
/// Compressions, and what a delivery may cost beside a plain one.
const COMPRESSIONS: [(&str, f64); 2] = [("zlib-stream", 1.1), ("zstd-stream", 1.2)];
/// Bytes of a zlib-stream beside those of a context that all of a connection's stream goes through.
const CONTEXT_AIM: f64 = 1.8;
/// A compressed MESSAGE_CREATE is longer, the answer to a heartbeat shorter.
const COMPRESSED_BYTES_MIN: usize = 70;
/// Sessions that open before memory is looked at: the guild, pools and buffers exist then.
const WARM_UP_SESSIONS: usize = 50;
/// Sessions that must hear nothing: half lack the intent, half may not view the channel.
const DEAF_SESSIONS: usize = 10;
/// Longest wait for all deliveries of a round.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for a helper's answer otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
const VIEW_CHANNEL: u64 = 1 << 10;
/// The naive server gets a part of the rounds: it is slow.
const NAIVE_SHARE: u16 = 4;

/// Measures a fan-out to the sessions of one guild. Loopback and a private cluster only:
/// it makes accounts and writes to the event log as the API does.
#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    target: Target,
    #[arg(long, env = "REDIS_URL", hide_env_values = true, default_value = "")]
    redis_url: String,
    /// Sessions that get every message, each of a bot of its own.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..=10_000))]
    connections: u16,
    /// Messages sent one after the other, each when everybody got the one before.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: u16,
    /// Messages of a burst.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
    /// Bursts, one after the other in the same way; the floor gets a quarter of them each time.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    burst_rounds: u16,
    /// Seconds to wait before memory of idle sessions is measured. READY and GUILD_CREATE have left
    /// the replay buffer by then: two heartbeats have acknowledged them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    idle_s: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    let gateway = Process::new(config.target.gateway_pid);
    let api = address(&config.target.api_url)?;
    let connections = usize::from(config.connections);
    println!("fanout: {}", machine());
    println!(
        "{connections} sessions, {} messages one by one, {} bursts of {}; loopback",
        config.rounds, config.burst_rounds, config.burst
    );

    let started = Instant::now();
    let mut rest = Rest::connect(api).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let (database, redis) = (&config.target.database_url, &config.redis_url);
    let mut cast = Cast::make(config, &owner, &guild).await?;
    let overwrites = cast.overwrites();
    let mut stage = Stage::build(
        &mut rest,
        &owner,
        &guild,
        overwrites,
        (database, redis, config.target.shards),
    )
    .await?;
    println!(
        "made one guild with {} bots in {:.0} s",
        cast.bots.len(),
        started.elapsed().as_secs_f64()
    );

    let mut readers = Helper::start("readers")?;
    let before = measure_floor(config, &mut readers, &stage.frame).await?;
    let memory = connect(config, gateway, &mut readers, &mut cast).await?;
    let served = measure_gateway(config, gateway, &mut readers, &mut stage).await?;
    readers.tell("close").await?;
    let mut compressed = Vec::new();
    for (compress, aim) in COMPRESSIONS {
        let run =
            measure_compressed(config, gateway, &mut readers, &cast, &mut stage, compress).await?;
        compressed.push((compress, run, aim));
    }
    let after = measure_floor(config, &mut readers, &stage.frame).await?;
    let naive = measure_naive(config, &mut readers, &stage).await?;
    let frame_bytes = stage.frame.len();
    stage.end().await;

    report::section("Frames");
    report::line("bytes on the wire", frame_bytes);
    report::section("Kernel floor F, CPU per delivery");
    for (what, before, after) in [
        ("one message outstanding", before.one, after.one),
        ("burst", before.burst, after.burst),
    ] {
        report::line(
            what,
            format!(
                "{before:.2} us before, {after:.2} us after, mean {:.2} us",
                mean(before, after)
            ),
        );
    }
    report::section("Gateway, CPU of all its threads per delivery");
    let one = served.one.us_per_delivery / mean(before.one, after.one);
    let burst = served.burst.us_per_delivery / mean(before.burst, after.burst);
    for (what, run, ratio, limit) in [
        ("one message outstanding", &served.one, one, ONE_AIM),
        ("burst", &served.burst, burst, BURST_AIM),
    ] {
        report::line(what, format!("{:.3} us", run.us_per_delivery));
        report::aim("  against the floor", ratio, " F", &Aim::AtMost(limit));
        report::row(
            &format!("broadcast, {what}, {connections} sessions"),
            ratio,
            " F",
            &Aim::AtMost(limit),
        );
        report::line("  by thread", &run.threads);
        report::line(
            "  stored to received by all",
            format!(
                "p50 {:.1} ms, p99 {:.1} ms",
                quantile(&run.latencies_ms, 0.5),
                quantile(&run.latencies_ms, 0.99)
            ),
        );
    }
    report::section("Naive server (tokio-tungstenite, a task, a channel and JSON for each)");
    report::line("one message outstanding", format!("{naive:.3} us"));
    let ratio = served.one.us_per_delivery / naive;
    report::aim("  gateway against it", ratio, " x", &Aim::AtMost(NAIVE_AIM));
    report::row(
        &format!("the same against a naive server, {connections} sessions"),
        ratio,
        " x",
        &Aim::AtMost(NAIVE_AIM),
    );
    report::section("Compressed streams, one message outstanding, each with a text of its own");
    for (compress, run, aim) in compressed {
        let Compressed {
            us_per_delivery,
            bytes,
            of_context,
        } = run;
        report::line(
            compress,
            format!("{us_per_delivery:.3} us, {bytes:.0} bytes; {of_context:.0} in one context"),
        );
        let (ratio, aim) = (
            us_per_delivery / served.one.us_per_delivery,
            Aim::AtMost(aim),
        );
        report::aim("  against plain", ratio, " x", &aim);
        report::row(
            &format!("{compress} against plain, {connections} sessions"),
            ratio,
            " x",
            &aim,
        );
        if compress == "zlib-stream" {
            let (ratio, aim) = (bytes / of_context, Aim::AtMost(CONTEXT_AIM));
            report::aim("  bytes against one context", ratio, " x", &aim);
            report::row(
                &format!("{compress}, bytes against one context, {connections} sessions"),
                ratio,
                " x",
                &aim,
            );
        }
    }
    report::section("Sessions at rest");
    report::line(
        "idle with all sessions",
        format!("{:.2} ms of CPU per second", served.idle_ms_per_s),
    );
    report::line("deliveries to sessions that may not hear", served.overheard);
    report::section("Memory of an idle identified session");
    report::aim(
        "growth of the gateway's anonymous memory",
        memory.kb_per_session,
        " KB",
        &Aim::AtMost(IDLE_AIM_KB),
    );
    report::row(
        &format!("memory of an idle session, of {connections}"),
        memory.kb_per_session,
        " KB",
        &Aim::AtMost(IDLE_AIM_KB),
    );
    report::line(
        "  before its heartbeats",
        format!(
            "{:.2} KB: READY and GUILD_CREATE, {:.2} KB, are kept until two have said that they came",
            memory.login_kb_per_session, memory.login_kb
        ),
    );
    ensure!(served.overheard == 0, "sessions got what is not for them");
    Ok(())
}

fn mean(a: f64, b: f64) -> f64 {
    (a + b) / 2.0
}

/// The bots of the guild.
struct Cast {
    bots: Vec<Account>,
    /// Who must hear nothing: for want of VIEW_CHANNEL, or of the intent.
    deaf: Vec<(Account, Intents)>,
}

impl Cast {
    async fn make(config: &Config, owner: &Account, guild: &str) -> Result<Self> {
        let count = usize::from(config.connections);
        let mut db = PgConnection::connect(&config.target.database_url).await?;
        let total = count + DEAF_SESSIONS;
        let mut bots =
            crowd::make_bots(&mut db, owner, Some(guild), total, config.target.shards).await?;
        let deaf = bots
            .split_off(count)
            .into_iter()
            .enumerate()
            .map(|(place, bot)| match place % 2 {
                0 => (bot, listening_intents()),
                _ => (bot, Intents::GUILDS),
            })
            .collect();
        Ok(Self { bots, deaf })
    }

    /// Of the channel: half of the deaf may not see it.
    fn overwrites(&self) -> Value {
        self.deaf
            .iter()
            .filter(|(_, intents)| *intents == listening_intents())
            .map(|(bot, _)| json!({"id": bot.id, "type": 1, "deny": VIEW_CHANNEL.to_string()}))
            .collect()
    }
}

/// CPU per delivery, microseconds.
struct Floor {
    one: f64,
    burst: f64,
}

/// The floor with the same readers, frames and rounds as the gateway.
async fn measure_floor(config: &Config, readers: &mut Helper, frame: &[u8]) -> Result<Floor> {
    let mut floor = Helper::start("floor")?;
    let address = floor.hear("listening", PATIENCE).await?;
    let connections = u64::from(config.connections);
    floor.tell(&format!("frame {}", hex::encode(frame))).await?;
    floor.tell(&format!("accept {connections}")).await?;
    readers
        .tell(&format!("plain {address} {connections}"))
        .await?;
    readers.hear("open", PATIENCE).await?;
    floor.hear("accepted", PATIENCE).await?;
    readers
        .tell(&format!("frame {}", payload_len(frame)))
        .await?;
    readers.hear("set", PATIENCE).await?;
    let usage = floor.usage()?;
    let mut sent = 0;
    let mut us_per_delivery = Vec::new();
    let burst_rounds = config.burst_rounds.div_ceil(4);
    for (rounds, messages) in [(config.rounds, 1), (burst_rounds, config.burst)] {
        let before = usage.cpu()?;
        for _ in 0..rounds {
            sent += u64::from(messages) * connections;
            readers.tell(&format!("await {sent}")).await?;
            floor.tell(&format!("send {messages}")).await?;
            readers.hear("done", ROUND_PATIENCE).await?;
        }
        let deliveries = f64::from(rounds) * f64::from(messages) * connections as f64;
        us_per_delivery.push(micros(usage.cpu()? - before) / deliveries);
    }
    readers.tell("close").await?;
    Ok(Floor {
        one: us_per_delivery[0],
        burst: us_per_delivery[1],
    })
}

/// CPU per delivery of the naive server, microseconds.
async fn measure_naive(config: &Config, readers: &mut Helper, stage: &Stage) -> Result<f64> {
    let mut naive = Helper::start("naive")?;
    let address = naive.hear("listening", PATIENCE).await?;
    let connections = u64::from(config.connections);
    readers
        .tell(&format!("bare {address} {connections}"))
        .await?;
    readers.hear("open", PATIENCE).await?;
    let body = hex::encode(&stage.message.body);
    naive.tell(&format!("event {connections} {body}")).await?;
    let length = naive.hear("set", PATIENCE).await?;
    readers.tell(&format!("frame {length}")).await?;
    readers.hear("set", PATIENCE).await?;
    let usage = naive.usage()?;
    let rounds = config.rounds.div_ceil(NAIVE_SHARE);
    let before = usage.cpu()?;
    for round in 1..=rounds {
        let sent = u64::from(round) * connections;
        readers.tell(&format!("await {sent}")).await?;
        naive.tell("send").await?;
        readers.hear("done", ROUND_PATIENCE).await?;
    }
    let used = micros(usage.cpu()? - before);
    readers.tell("close").await?;
    Ok(used / (f64::from(rounds) * connections as f64))
}

struct Memory {
    kb_per_session: f64,
    /// The same before the clients' heartbeats.
    login_kb_per_session: f64,
    /// READY and GUILD_CREATE.
    login_kb: f64,
}

/// Opens all sessions. Memory counts from when the guild and some sessions are there.
async fn connect(
    config: &Config,
    gateway: Process,
    readers: &mut Helper,
    cast: &mut Cast,
) -> Result<Memory> {
    let address = address(&config.target.gateway_url)?;
    let mut open = async |bot: &Account, intents: Intents, hearing: &str| -> Result<u64> {
        let intents = intents.bits();
        let token = &bot.token;
        readers
            .tell(&format!(
                "session {address} {token} {intents} {hearing} none"
            ))
            .await?;
        Ok(readers.hear("open", PATIENCE).await?.parse()?)
    };
    for (bot, intents) in &cast.deaf {
        open(bot, *intents, "deaf").await?;
    }
    let (warm_up, measured) = cast.bots.split_at(WARM_UP_SESSIONS);
    for bot in warm_up {
        open(bot, listening_intents(), "listening").await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = gateway.anonymous_bytes()?;
    let started = Instant::now();
    let mut login_bytes = 0;
    for bot in measured {
        login_bytes += open(bot, listening_intents(), "listening").await?;
    }
    println!(
        "opened {} sessions in {:.1} s",
        measured.len(),
        started.elapsed().as_secs_f64()
    );
    let per_session = |bytes: u64| bytes as f64 / measured.len() as f64 / 1024.0;
    let logged_in = gateway.anonymous_bytes()?.saturating_sub(before);
    // What one heartbeat acknowledges goes with the next. Later ones keep the sessions alive, as
    // idle clients do.
    readers.tell("beat").await?;
    let mut left = Duration::from_secs(config.idle_s.into());
    while !left.is_zero() {
        readers.tell("beat").await?;
        let pause = left.min(Duration::from_secs(40));
        tokio::time::sleep(pause).await;
        left -= pause;
    }
    let growth = gateway.anonymous_bytes()?.saturating_sub(before);
    Ok(Memory {
        kb_per_session: per_session(growth),
        login_kb_per_session: per_session(logged_in),
        login_kb: per_session(login_bytes),
    })
}

struct Served {
    one: Run,
    burst: Run,
    idle_ms_per_s: f64,
    overheard: u64,
}

struct Run {
    us_per_delivery: f64,
    threads: String,
    /// From the start of the storing transaction to the last delivery of a round; sorted.
    latencies_ms: Vec<f64>,
}

async fn measure_gateway(
    config: &Config,
    gateway: Process,
    readers: &mut Helper,
    stage: &mut Stage,
) -> Result<Served> {
    const IDLE: Duration = Duration::from_secs(3);
    readers.tell("beat").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = gateway.cpu()?;
    tokio::time::sleep(IDLE).await;
    let idle_ms_per_s = (gateway.cpu()? - before).as_secs_f64() * 1e3 / IDLE.as_secs_f64();

    readers
        .tell(&format!("frame {}", payload_len(&stage.frame)))
        .await?;
    readers.hear("set", PATIENCE).await?;
    let mut sent = 0;
    let sessions = u64::from(config.connections);
    let one = rounds(
        config.rounds,
        1,
        &mut sent,
        gateway,
        readers,
        stage,
        sessions,
    )
    .await?;
    readers.tell("beat").await?;
    let burst = rounds(
        config.burst_rounds,
        config.burst,
        &mut sent,
        gateway,
        readers,
        stage,
        sessions,
    )
    .await?;
    readers.tell("overheard").await?;
    let overheard = readers.hear("overheard", PATIENCE).await?.parse()?;
    Ok(Served {
        one,
        burst,
        idle_ms_per_s,
        overheard,
    })
}

/// Of one delivery.
struct Compressed {
    us_per_delivery: f64,
    bytes: f64,
    /// Bytes if all of a connection's stream went through one deflate context.
    of_context: f64,
}

/// New sessions of the same bots over a compressed stream.
async fn measure_compressed(
    config: &Config,
    gateway: Process,
    readers: &mut Helper,
    cast: &Cast,
    stage: &mut Stage,
    compress: &str,
) -> Result<Compressed> {
    /// For the ends of the sessions before, and for what follows a login.
    const SETTLE: Duration = Duration::from_secs(2);
    tokio::time::sleep(SETTLE).await;
    let address = address(&config.target.gateway_url)?;
    let intents = listening_intents().bits();
    for bot in &cast.bots {
        let token = &bot.token;
        readers
            .tell(&format!(
                "session {address} {token} {intents} listening {compress}"
            ))
            .await?;
        readers.hear("open", PATIENCE).await?;
    }
    tokio::time::sleep(SETTLE).await;
    readers
        .tell(&format!("binary {COMPRESSED_BYTES_MIN}"))
        .await?;
    readers.hear("set", PATIENCE).await?;
    let (mut sent, sessions) = (0, u64::from(config.connections));
    stage.context = Some(TrueContext::default());
    let run = rounds(
        config.rounds,
        1,
        &mut sent,
        gateway,
        readers,
        stage,
        sessions,
    )
    .await?;
    readers.tell("bytes").await?;
    let bytes: f64 = readers.hear("bytes", PATIENCE).await?.parse()?;
    readers.tell("close").await?;
    let context = stage.context.take().map_or(0, |context| context.bytes());
    Ok(Compressed {
        us_per_delivery: run.us_per_delivery,
        bytes: bytes / sent as f64,
        of_context: context as f64 / f64::from(config.rounds),
    })
}

/// `rounds` times `messages` at once, each when everybody got everything before.
async fn rounds(
    rounds: u16,
    messages: u16,
    sent: &mut u64,
    gateway: Process,
    readers: &mut Helper,
    stage: &mut Stage,
    sessions: u64,
) -> Result<Run> {
    let (before, threads_before) = (gateway.cpu()?, gateway.cpu_by_thread()?);
    let mut latencies_ms = Vec::new();
    for _ in 0..rounds {
        *sent += u64::from(messages) * sessions;
        readers.tell(&format!("await {sent}")).await?;
        let started = Instant::now();
        stage.send(messages).await?;
        readers.hear("done", ROUND_PATIENCE).await?;
        latencies_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let deliveries = f64::from(rounds) * f64::from(messages) * sessions as f64;
    let us_per_delivery = micros(gateway.cpu()? - before) / deliveries;
    let threads: Vec<String> = gateway
        .cpu_by_thread()?
        .into_iter()
        .map(|(name, cpu)| {
            let used = cpu.saturating_sub(threads_before.get(&name).copied().unwrap_or_default());
            (name, micros(used) / deliveries)
        })
        .filter(|(_, us)| *us > 0.0)
        .map(|(name, us)| format!("{name} {us:.3} us"))
        .collect();
    latencies_ms.sort_by(f64::total_cmp);
    Ok(Run {
        us_per_delivery,
        threads: threads.join(", "),
        latencies_ms,
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
