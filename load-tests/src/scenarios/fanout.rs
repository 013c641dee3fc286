//! One guild, many sessions: the gateway's CPU per delivery beside the kernel floor, and the
//! memory of an idle session.

mod floor;
mod memory;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use guildhall_shared::gateway::Intents;
use load_tests::{
    child::Helper,
    context::TrueContext,
    crowd,
    process::{Process, machine},
    report::{self, Aim},
    rest::{Rest, address},
    stage::{Stage, listening_intents, payload_len},
    statistics::quantile,
    world::{self, Account},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use self::floor::{Floor, against};
use super::target::Target;

/// What the gateway's figures should be, as ratios to the floor and to a naive server, and KB of
/// an idle session.
const ONE_AIM: f64 = 1.1;
const NAIVE_AIM: f64 = 0.4;
const BURST_AIM: f64 = 0.09;
const IDLE_AIM_KB: f64 = 4.0;
/// Fewer say nothing of what one takes: an allocator begins pages of 64 KB for each size and thread,
/// some megabytes in all.
const MEMORY_SESSIONS_MIN: u16 = 4000;
/// Compressions, and what a delivery may cost beside a plain one.
const COMPRESSIONS: [(&str, f64); 2] = [("zlib-stream", 1.1), ("zstd-stream", 1.2)];
/// Bytes of a zlib-stream beside those of a context that all of a connection's stream goes through.
const CONTEXT_AIM: f64 = 1.8;
/// A compressed MESSAGE_CREATE is longer, the answer to a heartbeat shorter.
const COMPRESSED_BYTES_MIN: usize = 70;
/// Turns of the floor and the gateway, of the same number of messages one by one; fewer of fewer rounds.
const TURNS: u16 = 10;
/// The floor gets a part of the bursts: they cost it as much as messages one by one.
const FLOOR_SHARE: u16 = 4;
/// Sessions that must hear nothing: half lack the intent, half may not view the channel.
const DEAF_SESSIONS: usize = 10;
/// Longest wait for all deliveries of a round.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);
/// Heartbeats come between turns, at least this far apart: a slow machine takes longer than a session
/// lasts without one. The gateway has answered them after [`BEAT_SETTLE`].
const BEAT_PERIOD: Duration = Duration::from_secs(15);
const BEAT_SETTLE: Duration = Duration::from_secs(1);
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
    /// Bursts, one after the other in the same way; the floor gets a quarter of them.
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
    let cast = Cast::make(config, &owner, &guild).await?;
    let overwrites = cast.overwrites();
    let stage = Stage::build(
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
    let memory = memory::connect(config, gateway, &mut readers, &cast).await?;
    let sessions = u64::from(config.connections);
    let floor = Floor::start(sessions, &stage.frame).await?;
    let mut ring = Ring {
        gateway,
        readers,
        stage,
        floor,
        sessions,
    };
    let served = measure_gateway(config, &mut ring).await?;
    ring.readers.tell("close").await?;
    let mut compressed = Vec::new();
    for (compress, aim) in COMPRESSIONS {
        let run = measure_compressed(config, &mut ring, &cast, compress).await?;
        compressed.push((compress, run, aim));
    }
    let Ring {
        mut readers, stage, ..
    } = ring;
    let naive = measure_naive(config, &mut readers, &stage).await?;
    let frame_bytes = stage.frame.len();
    stage.end().await;

    report::section("Frames");
    report::line("bytes on the wire", frame_bytes);
    report::section("Kernel floor F, CPU per delivery, in turns with the gateway");
    for (what, run) in [
        ("one message outstanding", &served.one),
        ("burst", &served.burst),
    ] {
        report::line(what, spread(&run.floor_us));
    }
    let coalesced = against(&served.burst.floor_us, &served.burst.coalesced_us);
    report::line(
        "burst, all of it in one send()",
        format!("{}: {coalesced:.3} F", spread(&served.burst.coalesced_us)),
    );
    report::section("Gateway, CPU of all its threads per delivery");
    for (what, run, limit) in [
        ("one message outstanding", &served.one, ONE_AIM),
        ("burst", &served.burst, BURST_AIM),
    ] {
        let ratio = run.against_floor;
        report::line(what, format!("{:.3} us", run.us_per_delivery));
        report::aim("  against the floor", ratio, " F", &Aim::AtMost(limit));
        report::row(
            &format!("broadcast, {what}, {connections} sessions"),
            ratio,
            " F",
            &Aim::AtMost(limit),
        );
        if !run.coalesced_us.is_empty() {
            let ratio = ratio / coalesced;
            report::line("  against one send()", format!("{ratio:.2} x"));
        }
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
            run,
            bytes,
            of_context,
        } = run;
        report::line(
            compress,
            format!(
                "{:.3} us, {:.2} F, {bytes:.0} bytes; {of_context:.0} in one context",
                run.us_per_delivery, run.against_floor
            ),
        );
        // Minutes lie between the two: each is compared with the floor of its own time.
        let (ratio, aim) = (
            run.against_floor / served.one.against_floor,
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
    let one_more = "what one more takes of its anonymous memory";
    if config.connections < MEMORY_SESSIONS_MIN {
        let kb = memory.kb_per_session;
        report::line(
            one_more,
            format!("{kb:.2} KB: of so few, what the allocator keeps of logins decides"),
        );
    } else {
        let (kb, aim) = (memory.kb_per_session, Aim::AtMost(IDLE_AIM_KB));
        report::aim(one_more, kb, " KB", &aim);
        let what = format!("memory of an idle session, of {connections}");
        report::row(&what, kb, " KB", &aim);
    }
    report::line(
        "  growth over all after the first",
        format!(
            "{:.2} KB; READY and GUILD_CREATE, {:.2} KB, are acknowledged",
            memory.grown_kb_per_session, memory.login_kb
        ),
    );
    ensure!(served.overheard == 0, "sessions got what is not for them");
    Ok(())
}

/// Least, mean and greatest of microseconds.
fn spread(us: &[f64]) -> String {
    let mean = us.iter().sum::<f64>() / us.len().max(1) as f64;
    let least = us.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = us.iter().copied().fold(0.0, f64::max);
    format!("{mean:.2} us, {least:.2} to {greatest:.2} us")
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

struct Served {
    one: Run,
    burst: Run,
    idle_ms_per_s: f64,
    overheard: u64,
}

struct Run {
    us_per_delivery: f64,
    /// See [`against`].
    against_floor: f64,
    /// The floor's before, between and after the gateway's turns.
    floor_us: Vec<f64>,
    /// The floor's beside each of the gateway's turns if it makes one `send()` of a burst; none of
    /// messages one by one.
    coalesced_us: Vec<f64>,
    threads: String,
    /// From the start of the storing transaction to the last delivery of a round; sorted.
    latencies_ms: Vec<f64>,
}

/// Who is measured, beside whom, and by whom.
struct Ring {
    gateway: Process,
    readers: Helper,
    stage: Stage,
    floor: Floor,
    sessions: u64,
}

impl Ring {
    /// `rounds` times `messages` at once, each when everybody got everything before. Readers count
    /// from here, as `delivery` tells them to.
    async fn rounds(&mut self, delivery: &str, rounds: u16, messages: u16) -> Result<Run> {
        self.readers.tell(delivery).await?;
        self.readers.hear("set", PATIENCE).await?;
        let turns = TURNS.min(rounds);
        let share = if messages == 1 { 1 } else { FLOOR_SHARE };
        let floor_rounds = rounds.div_ceil(turns).div_ceil(share);
        let mut floor_us = vec![self.floor.rounds(floor_rounds, messages).await?];
        let (mut us, mut latencies_ms) = (Vec::new(), Vec::new());
        let mut coalesced_us = Vec::new();
        let (mut total, mut sent) = (Duration::ZERO, 0);
        let mut threads = BTreeMap::<String, Duration>::new();
        let part = |turn: u16| u32::from(rounds) * u32::from(turn) / u32::from(turns);
        let mut beaten: Option<Instant> = None;
        for turn in 0..turns {
            if beaten.is_none_or(|at| at.elapsed() > BEAT_PERIOD) {
                beaten = Some(Instant::now());
                self.readers.tell("beat").await?;
                tokio::time::sleep(BEAT_SETTLE).await;
            }
            let (before, threads_before) = (self.gateway.cpu()?, self.gateway.cpu_by_thread()?);
            let sent_before = sent;
            for _ in part(turn)..part(turn + 1) {
                sent += u64::from(messages) * self.sessions;
                self.readers.tell(&format!("await {sent}")).await?;
                let started = Instant::now();
                self.stage.send(messages).await?;
                self.readers.hear("done", ROUND_PATIENCE).await?;
                latencies_ms.push(started.elapsed().as_secs_f64() * 1e3);
            }
            let used = self.gateway.cpu()? - before;
            total += used;
            us.push(micros(used) / (sent - sent_before) as f64);
            for (name, cpu) in self.gateway.cpu_by_thread()? {
                let before = threads_before.get(&name).copied().unwrap_or_default();
                *threads.entry(name).or_default() += cpu.saturating_sub(before);
            }
            if messages > 1 {
                let rounds = part(turn + 1) - part(turn);
                coalesced_us.push(self.floor.coalesced(rounds as u16, messages).await?);
            }
            floor_us.push(self.floor.rounds(floor_rounds, messages).await?);
        }
        let threads: Vec<String> = threads
            .into_iter()
            .map(|(name, used)| (name, micros(used) / sent as f64))
            .filter(|(_, us)| *us > 0.0)
            .map(|(name, us)| format!("{name} {us:.3} us"))
            .collect();
        latencies_ms.sort_by(f64::total_cmp);
        Ok(Run {
            us_per_delivery: micros(total) / sent as f64,
            against_floor: against(&floor_us, &us),
            floor_us,
            coalesced_us,
            threads: threads.join(", "),
            latencies_ms,
        })
    }

    /// Deliveries to deaf sessions in the rounds before.
    async fn overheard(&mut self) -> Result<u64> {
        self.readers.tell("overheard").await?;
        Ok(self.readers.hear("overheard", PATIENCE).await?.parse()?)
    }
}

async fn measure_gateway(config: &Config, ring: &mut Ring) -> Result<Served> {
    const IDLE: Duration = Duration::from_secs(3);
    ring.readers.tell("beat").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = ring.gateway.cpu()?;
    tokio::time::sleep(IDLE).await;
    let idle_ms_per_s = (ring.gateway.cpu()? - before).as_secs_f64() * 1e3 / IDLE.as_secs_f64();

    let delivery = format!("frame {}", payload_len(&ring.stage.frame));
    let one = ring.rounds(&delivery, config.rounds, 1).await?;
    let mut overheard = ring.overheard().await?;
    let burst = ring
        .rounds(&delivery, config.burst_rounds, config.burst)
        .await?;
    overheard += ring.overheard().await?;
    Ok(Served {
        one,
        burst,
        idle_ms_per_s,
        overheard,
    })
}

/// A broadcast over a compressed stream.
struct Compressed {
    run: Run,
    /// Of one delivery.
    bytes: f64,
    /// Bytes if all of a connection's stream went through one deflate context.
    of_context: f64,
}

/// New sessions of the same bots over a compressed stream.
async fn measure_compressed(
    config: &Config,
    ring: &mut Ring,
    cast: &Cast,
    compress: &str,
) -> Result<Compressed> {
    /// For the ends of the sessions before, and for what follows a login.
    const SETTLE: Duration = Duration::from_secs(2);
    tokio::time::sleep(SETTLE).await;
    let address = address(&config.target.gateway_url)?;
    let intents = listening_intents();
    for bot in &cast.bots {
        memory::open(
            &mut ring.readers,
            address,
            bot,
            intents,
            ("listening", compress),
        )
        .await?;
    }
    tokio::time::sleep(SETTLE).await;
    let delivery = format!("binary {COMPRESSED_BYTES_MIN}");
    ring.stage.context = Some(TrueContext::default());
    let run = ring.rounds(&delivery, config.rounds, 1).await?;
    ring.readers.tell("bytes").await?;
    let bytes: f64 = ring.readers.hear("bytes", PATIENCE).await?.parse()?;
    ring.readers.tell("close").await?;
    let context = ring
        .stage
        .context
        .take()
        .map_or(0, |context| context.bytes());
    let rounds = f64::from(config.rounds);
    Ok(Compressed {
        run,
        bytes: bytes / (rounds * ring.sessions as f64),
        of_context: context as f64 / rounds,
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
