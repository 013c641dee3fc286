//! One very large guild with many of its members online: what each kind of change costs, and
//! whether a thread of the gateway is ever busy with one thing for long.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use guildhall_shared::gateway::Intents;
use load_tests::{
    clients::Clients,
    crowd,
    lag::Lags,
    process::{Process, machine, sessions_for},
    report::{self, Aim},
    rest::{Rest, address},
    stage::{Stage, listening_intents, payload_len},
    statistics::quantile,
    world::{self, Account},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::target::Target;

const SPARE_FILES: u64 = 300;
/// For work that follows a change.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Members that change at once, and clients that set their presence at once.
const MEMBERS: usize = 50;
const PRESENCES: usize = 1000;
/// Clients that ask for all members at once.
const ASKERS: usize = 5;
/// Of one GUILD_MEMBERS_CHUNK, as many as the protocol allows.
const CHUNK_MEMBERS: usize = 1000;
const VIEW_CHANNEL: u64 = 1 << 10;

/// Measures a guild of 100,000 members. Loopback and a private cluster only: it fills tables of the
/// database by hand.
#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    target: Target,
    /// The gateway's admin address.
    #[arg(long, env = "GATEWAY_ADMIN", default_value = "http://127.0.0.1:8091")]
    gateway_admin: String,
    #[arg(long, env = "REDIS_URL", hide_env_values = true, default_value = "")]
    redis_url: String,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=500_000))]
    members: u32,
    /// Those of them with a session.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u16).range(100..=20_000))]
    online: u16,
    /// Messages, one after the other.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    messages: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    println!("crowded: {}", machine());
    let gateway = Process::new(config.target.gateway_pid);
    let mut rest = Rest::connect(address(&config.target.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let mut db = PgConnection::connect(&config.target.database_url).await?;
    let started = Instant::now();
    let members = config.members as usize;
    let bots =
        crowd::make_bots(&mut db, &owner, Some(&guild), members, config.target.shards).await?;
    let online = sessions_for(usize::from(config.online).min(members), SPARE_FILES);
    println!(
        "made a guild of {members} in {:.0} s; {online} of them come online",
        started.elapsed().as_secs_f64()
    );
    let (database, redis) = (&config.target.database_url, &config.redis_url);
    let stage = Stage::build(
        &mut rest,
        &owner,
        &guild,
        json!([]),
        (database, redis, config.target.shards),
    )
    .await?;
    let mut scene = Scene {
        admin: address(&config.gateway_admin)?,
        gateway,
        api: address(&config.target.api_url)?,
        rest,
        owner,
        guild,
        stage,
        clients: Clients::start()?,
        online,
        stalls: 0,
    };
    let intents = (listening_intents() | Intents::GUILD_MEMBERS).bits();
    let lags = Lags::read(scene.admin).await?;
    let started = Instant::now();
    let address = address(&config.target.gateway_url)?;
    scene
        .clients
        .log_in(address, &bots[..online], intents, 1)
        .await?;
    report::section("Everybody comes online, 1000 at a time");
    report::line("took", format!("{:.1} s", started.elapsed().as_secs_f64()));
    report::line("busy", Lags::read(scene.admin).await?.since(&lags));
    tokio::time::sleep(AFTERWARDS).await;

    scene.messages(config.messages).await?;
    scene.members(&bots[..online]).await?;
    scene.roles().await?;
    scene.presences().await?;
    // And the guild's owner.
    scene.chunks(members + 1).await?;
    let what = format!("stalls over 50 ms, guild of {members} with {online} online");
    let aim = Aim::AtMost(0.0);
    report::section("All of it");
    report::aim("stalls over 50 ms", scene.stalls as f64, "", &aim);
    report::row(&what, scene.stalls as f64, "", &aim);
    scene.clients.close().await?;
    scene.stage.end().await;
    Ok(())
}

struct Scene {
    admin: SocketAddr,
    gateway: Process,
    api: SocketAddr,
    rest: Rest,
    owner: Account,
    guild: String,
    stage: Stage,
    clients: Clients,
    online: usize,
    stalls: u64,
}

impl Scene {
    async fn messages(&mut self, count: u16) -> Result<()> {
        report::section(&format!("{count} messages, one after the other"));
        let before = self.begin().await?;
        self.clients.count(payload_len(&self.stage.frame)).await?;
        let mut took = Vec::new();
        for n in 1..=u64::from(count) {
            if self.clients.is_due() {
                self.clients.beat().await?;
            }
            self.clients.begin_await(n * self.online as u64).await?;
            let started = Instant::now();
            self.stage.send(1).await?;
            self.clients.done().await?;
            took.push(started.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        report::line(
            "stored to received by all, p50",
            format!("{:.0} ms", quantile(&took, 0.5)),
        );
        self.end(before).await
    }

    async fn members(&mut self, bots: &[Account]) -> Result<()> {
        report::section(&format!("{MEMBERS} members get another name"));
        // The API closes connections that were idle for as long as this took.
        self.rest = Rest::connect(self.api).await?;
        let before = self.begin().await?;
        for bot in bots.iter().rev().take(MEMBERS) {
            let path = format!("/guilds/{}/members/{}", self.guild, bot.id);
            let change = json!({"nick": "another"});
            self.rest
                .call("PATCH", &path, &self.owner.token, &change)
                .await?;
        }
        self.end(before).await
    }

    async fn roles(&mut self) -> Result<()> {
        report::section("@everyone loses sight of all channels and gets it back");
        let guild = self.guild.clone();
        let roles = format!("/guilds/{guild}/roles");
        let token = self.owner.token.clone();
        let all = self.rest.call("GET", &roles, &token, &Value::Null).await?;
        let everyone = all
            .as_array()
            .and_then(|roles| roles.iter().find(|role| role["id"] == guild))
            .context("no @everyone")?;
        let allowed: u64 = everyone["permissions"]
            .as_str()
            .context("no permissions")?
            .parse()?;
        let before = self.begin().await?;
        for permissions in [allowed & !VIEW_CHANNEL, allowed] {
            let path = format!("{roles}/{guild}");
            let change = json!({"permissions": permissions.to_string()});
            self.rest.call("PATCH", &path, &token, &change).await?;
            tokio::time::sleep(AFTERWARDS).await;
        }
        self.end(before).await
    }

    async fn presences(&mut self) -> Result<()> {
        let count = PRESENCES.min(self.online);
        report::section(&format!("{count} clients change their presence at once"));
        let before = self.begin().await?;
        let away = r#"{"op":3,"d":{"since":null,"activities":[],"status":"idle","afk":false}}"#;
        self.clients.say(away, count).await?;
        self.end(before).await
    }

    /// Op 8 for everybody: the answers are streamed as their clients read them.
    async fn chunks(&mut self, members: usize) -> Result<()> {
        let askers = ASKERS.min(self.online);
        report::section(&format!("{askers} clients ask for all members"));
        let before = self.begin().await?;
        self.clients.count_named("GUILD_MEMBERS_CHUNK").await?;
        let chunks = members.div_ceil(CHUNK_MEMBERS) * askers;
        self.clients.begin_await(chunks as u64).await?;
        let started = Instant::now();
        let ask = json!({"op": 8, "d": {"guild_id": self.guild, "query": "", "limit": 0}});
        self.clients.say(&ask.to_string(), askers).await?;
        self.clients.done().await?;
        report::line(
            &format!("asked to the last of {chunks} chunks"),
            format!("{:.1} s", started.elapsed().as_secs_f64()),
        );
        self.end(before).await
    }

    async fn begin(&mut self) -> Result<(Lags, Duration)> {
        self.clients.beat().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((Lags::read(self.admin).await?, self.gateway.cpu()?))
    }

    async fn end(&mut self, (lags, cpu): (Lags, Duration)) -> Result<()> {
        tokio::time::sleep(AFTERWARDS).await;
        let used = self.gateway.cpu()? - cpu;
        let lags = Lags::read(self.admin).await?.since(&lags);
        report::line("CPU of the gateway", format!("{:.2} s", used.as_secs_f64()));
        report::line("busy", &lags);
        self.stalls += lags.stalls();
        Ok(())
    }
}
