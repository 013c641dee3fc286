//! One guild over several gateways: what a delivery costs there, beside the same guild on one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use guildhall_shared::shard;
use load_tests::{
    clients::{BEAT_SETTLE, Clients},
    crowd,
    lag::Lags,
    process::{Process, machine, sessions_for},
    report::{self, Aim},
    rest::{Rest, address},
    stage::{Stage, listening_intents, payload_len},
    statistics::slope,
    world::{self, Account},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::MissedTickBehavior;

const CPU_AIM: f64 = 1.1;
const IDLE_AIM_KB: f64 = 4.0;
const SPARE_FILES: u64 = 300;
/// Sessions of each gateway before memory is looked at.
const WARM_UP_SESSIONS: usize = 200;
const SETTLE: Duration = Duration::from_secs(3);
/// Messages are at least this far apart, with one gateway as with all. A socket that has heard nothing
/// for longer than TCP's retransmission timeout, 200 ms, acknowledges at once, and on loopback that is
/// the sender's time: a round of one gateway is shorter than that, one of all is not.
const PERIOD: Duration = Duration::from_secs(1);
/// After everybody has a message, for what follows it.
const TRAIL: Duration = Duration::from_millis(100);
/// Portions in which a gateway is filled, with a look at the memory after each.
const PORTIONS: usize = 8;

/// Measures a guild over all gateways of a cluster. Loopback and a private cluster only: it makes
/// accounts in the database by hand and writes to the event log as the API does.
#[derive(Args)]
pub(crate) struct Config {
    /// API that registers accounts; its rate limits must be off.
    #[arg(long, env = "API_URL", default_value = "http://127.0.0.1:8080")]
    api_url: String,
    /// Each gateway's own address, by commas.
    #[arg(long, env = "GATEWAY_URLS", value_delimiter = ',')]
    gateway_urls: Vec<String>,
    /// Their admin addresses, in the same order.
    #[arg(long, env = "GATEWAY_ADMINS", value_delimiter = ',')]
    gateway_admins: Vec<String>,
    /// Their processes, on this machine, in the same order.
    #[arg(long, env = "GATEWAY_PIDS", value_delimiter = ',')]
    gateway_pids: Vec<u32>,
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, default_value = "")]
    database_url: String,
    #[arg(long, env = "REDIS_URL", hide_env_values = true, default_value = "")]
    redis_url: String,
    /// Shards of the cluster.
    #[arg(long, env = "CLUSTER_SHARDS", default_value_t = shard::SHARDS_DEFAULT)]
    shards: u16,
    /// Sessions over all gateways.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..=200_000))]
    sessions: u32,
    /// Messages, each when everybody got the one before.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
}

struct Gateway {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    clients: Clients,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    println!("nodes: {}", machine());
    let count = config.gateway_pids.len();
    ensure!(
        count > 1,
        "GATEWAY_PIDS, GATEWAY_URLS, GATEWAY_ADMINS: several gateways"
    );
    ensure!(
        config.gateway_urls.len() == count && config.gateway_admins.len() == count,
        "as many GATEWAY_URLS and GATEWAY_ADMINS as GATEWAY_PIDS"
    );
    let mut gateways = Vec::new();
    for (place, &pid) in config.gateway_pids.iter().enumerate() {
        gateways.push(Gateway {
            process: Process::new(pid),
            address: address(&config.gateway_urls[place])?,
            admin: address(&config.gateway_admins[place])?,
            clients: Clients::start()?,
        });
    }
    let each = sessions_for((config.sessions as usize).div_ceil(count), SPARE_FILES);
    let mut rest = Rest::connect(address(&config.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let mut db = PgConnection::connect(&config.database_url).await?;
    let total = each * count;
    let bots = crowd::make_bots(&mut db, &owner, Some(&guild), total, config.shards).await?;
    println!("one guild with {total} bots, {each} on each of {count} gateways");
    let (database, redis) = (&config.database_url, &config.redis_url);
    let mut stage = Stage::build(
        &mut rest,
        &owner,
        &guild,
        json!([]),
        (database, redis, config.shards),
    )
    .await?;

    let intents = listening_intents().bits();
    let mut parts: Vec<_> = bots.chunks(each).collect();
    for (gateway, bots) in gateways.iter_mut().zip(&mut parts) {
        let (warm_up, rest) = bots.split_at(WARM_UP_SESSIONS.min(each));
        gateway
            .clients
            .log_in(gateway.address, warm_up, intents, 1)
            .await?;
        *bots = rest;
    }
    let mut looks = vec![(0.0, memory(&mut gateways).await?)];

    let started = Instant::now();
    log_in(&mut gateways, 0, parts[0], intents, &mut looks).await?;
    let warm = WARM_UP_SESSIONS.min(each);
    let mut sessions = vec![warm; count];
    sessions[0] = each;
    println!(
        "the first is full after {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let one = rounds(config, &mut gateways, &sessions, &mut stage).await?;
    for place in 1..count {
        log_in(&mut gateways, place, parts[place], intents, &mut looks).await?;
        sessions[place] = each;
    }
    println!(
        "all are full after {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let (opened, after) = looks[looks.len() - 1];
    let grown = (after - looks[0].1) / opened;
    let mut lags = Vec::new();
    for gateway in &gateways {
        lags.push(Lags::read(gateway.admin).await?);
    }
    let all = rounds(config, &mut gateways, &sessions, &mut stage).await?;

    report::section("CPU of all gateways per delivery");
    report::line(&format!("{each} sessions on one"), format!("{one:.3} us"));
    report::line(&format!("{total} on {count}"), format!("{all:.3} us"));
    let ratio = all / one;
    let aim = Aim::AtMost(CPU_AIM);
    report::aim("against one gateway", ratio, " x", &aim);
    let what = format!("{total} sessions over {count} gateways, CPU per delivery");
    report::row(&what, ratio, " x", &aim);
    let aim = Aim::AtMost(IDLE_AIM_KB);
    report::section("Memory of an idle identified session");
    let one_more = slope(&looks);
    let what = "what one more takes of their anonymous memory";
    report::aim(what, one_more, " KB", &aim);
    report::row("  memory of an idle session there", one_more, " KB", &aim);
    report::line(
        "  growth over all after the first",
        format!("{grown:.2} KB"),
    );
    for (gateway, before) in gateways.iter().zip(&lags) {
        report::line("busy", Lags::read(gateway.admin).await?.since(before));
    }
    stage.end().await;
    Ok(())
}

/// Fills the gateway at a place of `gateways`, with looks at the memory: sessions that were opened, KB.
async fn log_in(
    gateways: &mut [Gateway],
    place: usize,
    bots: &[Account],
    intents: u32,
    looks: &mut Vec<(f64, f64)>,
) -> Result<()> {
    let mut opened = looks.last().map_or(0.0, |&(opened, _)| opened);
    for bots in bots.chunks(bots.len().div_ceil(PORTIONS).max(1)) {
        let Gateway {
            clients, address, ..
        } = &mut gateways[place];
        clients.log_in(*address, bots, intents, 1).await?;
        opened += bots.len() as f64;
        looks.push((opened, memory(gateways).await?));
    }
    Ok(())
}

/// Heartbeats where it is time for them.
async fn beat_if_due(gateways: &mut [Gateway]) -> Result<()> {
    for gateway in gateways {
        if gateway.clients.is_due() {
            gateway.clients.beat().await?;
        }
    }
    Ok(())
}

/// All gateways' anonymous memory in KB, when heartbeats have come.
async fn memory(gateways: &mut [Gateway]) -> Result<f64> {
    // What one acknowledges goes with the next.
    for _ in 0..2 {
        for gateway in gateways.iter_mut() {
            gateway.clients.beat().await?;
        }
    }
    tokio::time::sleep(SETTLE).await;
    let bytes = gateways
        .iter()
        .map(|gateway| gateway.process.anonymous_bytes())
        .sum::<Result<u64>>()?;
    Ok(bytes as f64 / 1024.0)
}

/// Microseconds of all gateways' CPU per delivery.
async fn rounds(
    config: &Config,
    gateways: &mut [Gateway],
    sessions: &[usize],
    stage: &mut Stage,
) -> Result<f64> {
    for gateway in gateways.iter_mut() {
        gateway.clients.beat().await?;
        gateway.clients.count(payload_len(&stage.frame)).await?;
    }
    let cpu = |gateways: &[Gateway]| -> Result<Duration> {
        gateways.iter().map(|gateway| gateway.process.cpu()).sum()
    };
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut used = Duration::ZERO;
    for round in 1..=u64::from(config.rounds) {
        if gateways.iter().any(|gateway| gateway.clients.is_due()) {
            beat_if_due(gateways).await?;
            tokio::time::sleep(BEAT_SETTLE).await;
        }
        for (gateway, &sessions) in gateways.iter_mut().zip(sessions) {
            gateway.clients.begin_await(round * sessions as u64).await?;
        }
        ticks.tick().await;
        let before = cpu(gateways)?;
        stage.send(1).await?;
        for gateway in gateways.iter_mut() {
            gateway.clients.done().await?;
        }
        tokio::time::sleep(TRAIL).await;
        used += cpu(gateways)? - before;
    }
    let deliveries = sessions.iter().sum::<usize>() as f64 * f64::from(config.rounds);
    Ok(used.as_secs_f64() * 1e6 / deliveries)
}
