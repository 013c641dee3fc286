//! How late messages come at a steady rate, beside the kernel floor; and whether clients that never
//! read are felt by the others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use load_tests::{
    child::Helper,
    clients::{BEAT_SETTLE, Clients, Spread},
    crowd,
    lag::Lags,
    process::{Process, machine, sessions_for},
    report::{self, Aim},
    rest::{Rest, address},
    stage::{Stage, listening_intents, payload_len},
    swarm::now_ns,
    world,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, sleep_until};

use super::target::Target;

/// p99 against the floor's.
const P99_AIM: f64 = 1.5;
/// p99 of those who read, against the p99 when all do.
const MUTE_AIM: f64 = 1.2;
/// What the gateway may grow by while a tenth reads nothing: a backlog of 2 MiB, and 2 MiB of bodies
/// that their replay buffers share.
const MUTE_BYTES_AIM_MB: f64 = 64.0;
const SPARE_FILES: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages before those that are measured.
const WARM_UP: usize = 20;

/// Measures delivery at a steady rate. Loopback and a private cluster only: it makes accounts and
/// writes to the event log as the API does.
#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    target: Target,
    /// The gateway's admin address.
    #[arg(long, env = "GATEWAY_ADMIN", default_value = "http://127.0.0.1:8091")]
    gateway_admin: String,
    #[arg(long, env = "REDIS_URL", hide_env_values = true, default_value = "")]
    redis_url: String,
    /// Sessions of one guild.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..=10_000))]
    connections: u16,
    /// Messages per second, each to all sessions.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    rate: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    println!("delivery: {}", machine());
    let gateway = Process::new(config.target.gateway_pid);
    let (address, admin) = (
        address(&config.target.gateway_url)?,
        address(&config.gateway_admin)?,
    );
    let mut rest = Rest::connect(load_tests::rest::address(&config.target.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let mut db = PgConnection::connect(&config.target.database_url).await?;
    let sessions = sessions_for(config.connections.into(), SPARE_FILES);
    let bots = crowd::make_bots(
        &mut db,
        &owner,
        Some(&guild),
        sessions,
        config.target.shards,
    )
    .await?;
    let (database, redis) = (&config.target.database_url, &config.redis_url);
    let mut stage = Stage::build(
        &mut rest,
        &owner,
        &guild,
        json!([]),
        (database, redis, config.target.shards),
    )
    .await?;
    let pace = Pace {
        messages: usize::from(config.rate) * usize::from(config.seconds),
        every: Duration::from_secs(1) / u32::from(config.rate),
    };
    println!(
        "{sessions} sessions, {} messages per second, {} s",
        config.rate, config.seconds
    );

    let mut clients = Clients::start()?;
    let before = floor_latency(&pace, &mut clients, &stage.frame, sessions).await?;
    clients
        .log_in(address, &bots, listening_intents().bits(), 1)
        .await?;
    let lags = Lags::read(admin).await?;
    let all = pace.gateway(&mut clients, &mut stage, sessions).await?;
    let again = pace.gateway(&mut clients, &mut stage, sessions).await?;
    let muted = sessions / 10;
    let memory = gateway.anonymous_bytes()?;
    clients.mute(muted).await?;
    let others = pace
        .gateway(&mut clients, &mut stage, sessions - muted)
        .await?;
    let grown = gateway.anonymous_bytes()?.saturating_sub(memory);
    let lags = Lags::read(admin).await?.since(&lags);
    clients.close().await?;
    let after = floor_latency(&pace, &mut clients, &stage.frame, sessions).await?;
    stage.end().await;

    report::section("Delivery at a steady rate");
    report::line("floor before, from its command to the delivery", before);
    report::line("floor after", after);
    report::line("gateway, from publishing to the delivery", all);
    report::line("  again", again);
    let floor = f64::midpoint(before.p99, after.p99);
    let ratio = all.p99.min(again.p99) / floor;
    report::aim("p99 against the floor", ratio, " F", &Aim::AtMost(P99_AIM));
    let per_s = usize::from(config.rate) * sessions;
    report::row(
        &format!("p99 of {per_s} deliveries/s, {sessions} sessions"),
        ratio,
        " F",
        &Aim::AtMost(P99_AIM),
    );
    report::section("A tenth of the clients reads nothing");
    report::line("gateway, to the others", others);
    let ratio = others.p99 / again.p99;
    let aim = Aim::AtMost(MUTE_AIM);
    report::aim("p99 against before", ratio, " x", &aim);
    report::row("p99 of the others while 10 % never read", ratio, " x", &aim);
    let grown = grown as f64 / 1024.0 / 1024.0;
    let aim = Aim::AtMost(MUTE_BYTES_AIM_MB);
    report::aim("growth of the gateway's memory", grown, " MB", &aim);
    report::row("memory while 10 % never read, growth", grown, " MB", &aim);
    report::line("busy", lags);
    Ok(())
}

struct Pace {
    messages: usize,
    every: Duration,
}

impl Pace {
    /// Sends through the gateway; all deliveries have come at the end.
    async fn gateway(
        &self,
        clients: &mut Clients,
        stage: &mut Stage,
        sessions: usize,
    ) -> Result<Spread> {
        let mut spread = None;
        for messages in [WARM_UP, self.messages] {
            // A session lasts a minute without, as a measurement may.
            clients.beat().await?;
            sleep(BEAT_SETTLE).await;
            clients.count(payload_len(&stage.frame)).await?;
            let expected = messages * sessions;
            clients.begin_await(expected as u64).await?;
            let (mut sent, mut due) = (Vec::new(), Instant::now());
            for _ in 0..messages {
                sleep_until(due).await;
                due += self.every;
                sent.push(stage.send(1).await?);
            }
            clients.done().await?;
            let (took, count) = clients.latency(&sent).await?;
            ensure!(
                count == expected,
                "{count} deliveries instead of {expected}"
            );
            spread = Some(took);
        }
        spread.context("nothing was sent")
    }
}

/// The same by the floor: one `send()` per delivery, nothing else.
async fn floor_latency(
    pace: &Pace,
    clients: &mut Clients,
    frame: &[u8],
    sessions: usize,
) -> Result<Spread> {
    let mut floor = Helper::start("floor")?;
    let address = floor.hear("listening", PATIENCE).await?;
    floor.tell(&format!("frame {}", hex::encode(frame))).await?;
    floor.tell(&format!("accept {sessions}")).await?;
    clients.plain(&address, sessions).await?;
    floor.hear("accepted", PATIENCE).await?;
    let mut spread = None;
    for messages in [WARM_UP, pace.messages] {
        clients.count(payload_len(frame)).await?;
        clients.begin_await((messages * sessions) as u64).await?;
        let (mut sent, mut due) = (Vec::new(), Instant::now());
        for _ in 0..messages {
            sleep_until(due).await;
            due += pace.every;
            sent.push(now_ns());
            floor.tell("send 1").await?;
        }
        clients.done().await?;
        spread = Some(clients.latency(&sent).await?.0);
    }
    clients.close().await?;
    sleep(Duration::from_millis(200)).await;
    spread.context("nothing was sent")
}
