//! Clients that come all at once: handshakes, IDENTIFYs, and a return of everybody after a fault.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use guildhall_shared::{Id, id::marker::Guild, shard};
use load_tests::{
    clients::Clients,
    crowd,
    lag::Lags,
    process::{Process, machine, sessions_for},
    report::{self, Aim},
    rest::{Rest, address},
    stage::listening_intents,
    world::{self, Account},
};
use sqlx::{Connection, PgConnection};

use super::target::Target;

/// READYs per second of the gateway's CPU time, once the tokens are known.
const READY_AIM: f64 = 10_000.0;
/// Longest handshake of a storm, ms: from connecting to HELLO.
const HANDSHAKE_AIM_MS: f64 = 1000.0;
/// File descriptors a gateway and a helper need besides those of the sessions.
const SPARE_FILES: u64 = 300;
/// Bot shards as which the storm identifies.
const BOT_SHARDS: u32 = 8;
/// For work that follows an answer, so that it is counted.
const AFTERWARDS: Duration = Duration::from_millis(700);

/// Measures storms of handshakes, IDENTIFYs and RESUMEs. Loopback and a private cluster only: it
/// makes accounts in the database by hand.
#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    target: Target,
    /// The gateway's admin address.
    #[arg(long, env = "GATEWAY_ADMIN", default_value = "http://127.0.0.1:8091")]
    gateway_admin: String,
    /// Clients that connect and identify at once.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u16).range(100..=10_000))]
    storm: u16,
    /// Sessions that lose their connections at once.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(100..=18_000))]
    sessions: u16,
}

pub(crate) async fn run(config: &Config) -> Result<()> {
    println!("logins: {}", machine());
    let scene = Scene {
        gateway: Process::new(config.target.gateway_pid),
        address: address(&config.target.gateway_url)?,
        admin: address(&config.gateway_admin)?,
        intents: listening_intents().bits(),
    };
    let mut rest = Rest::connect(address(&config.target.api_url)?).await?;
    let owner = world::register(&mut rest).await?;
    let guild = world::make_guild(&mut rest, &owner).await?;
    let mut db = PgConnection::connect(&config.target.database_url).await?;
    let sessions = sessions_for(config.sessions.into(), SPARE_FILES);
    let count = sessions.max(config.storm.into());
    let bots = crowd::make_bots(&mut db, &owner, Some(&guild), count, config.target.shards).await?;
    println!("made one guild with {count} bots");
    let guild: Id<Guild> = guild.parse().context("guild id")?;
    let storm = &bots[..usize::from(config.storm)];
    scene.storm(storm, guild).await?;
    scene.fall(&bots[..sessions]).await
}

struct Scene {
    gateway: Process,
    address: SocketAddr,
    admin: SocketAddr,
    intents: u32,
}

impl Scene {
    /// Everybody connects and identifies at once, twice: the second time the tokens are known.
    async fn storm(&self, bots: &[Account], guild: Id<Guild>) -> Result<()> {
        report::section(&format!("{} clients at once", bots.len()));
        // Bot shards without the guild: READY alone. Two of them, so that the second IDENTIFY
        // need not wait for its bucket; and not the first, which is needed below.
        let theirs = shard::bot_shard(guild, BOT_SHARDS);
        let mut longest = 0.0_f64;
        let mut without = (1..BOT_SHARDS).filter(|&shard| shard != theirs);
        for what in ["tokens not known", "tokens known"] {
            let bot_shard = without.next().context("too few bot shards")?;
            let mut clients = Clients::start()?;
            let lags = Lags::read(self.admin).await?;
            let before = self.gateway.cpu()?;
            let opened = clients.open(self.address, bots.len()).await?;
            tokio::time::sleep(AFTERWARDS).await;
            let connected = self.gateway.cpu()?;
            clients.name(bots).await?;
            let identifying = self.gateway.cpu()?;
            let (ready, later) = clients
                .identify(self.intents, (bot_shard, BOT_SHARDS), 0)
                .await?;
            tokio::time::sleep(AFTERWARDS).await;
            let done = self.gateway.cpu()?;
            let each = |used: Duration| used.as_secs_f64() * 1e6 / bots.len() as f64;
            report::line(
                &format!("{what}: connecting to HELLO"),
                format!("{opened}; {:.1} us of CPU each", each(connected - before)),
            );
            let used = done - identifying;
            report::line(
                "  IDENTIFY to READY",
                format!("{ready}; {:.1} us of CPU each; op 9: {later}", each(used)),
            );
            report::line("  busy", Lags::read(self.admin).await?.since(&lags));
            if what == "tokens known" {
                let rate = bots.len() as f64 / used.as_secs_f64();
                let aim = Aim::AtLeast(READY_AIM);
                report::aim("READYs per second of CPU", rate, "", &aim);
                report::row(
                    "IDENTIFY to READY per CPU second, token known",
                    rate,
                    "",
                    &aim,
                );
            }
            let aim = Aim::AtMost(HANDSHAKE_AIM_MS);
            report::aim("  longest handshake", opened.max, " ms", &aim);
            longest = longest.max(opened.max);
        }
        let what = format!("longest handshake in a storm of {}", bots.len());
        report::row(&what, longest, " ms", &Aim::AtMost(HANDSHAKE_AIM_MS));
        Ok(())
    }

    /// Everybody is there, loses the connection, and comes back.
    async fn fall(&self, bots: &[Account]) -> Result<()> {
        report::section(&format!("{} sessions dropped at once", bots.len()));
        let mut clients = Clients::start()?;
        let first_lags = Lags::read(self.admin).await?;
        clients.open(self.address, bots.len()).await?;
        clients.name(bots).await?;
        let (ready, later) = clients.identify(self.intents, (0, 1), 1).await?;
        report::line(
            "all log in, to GUILD_CREATE",
            format!("{ready}; op 9: {later}"),
        );
        report::line("  busy", Lags::read(self.admin).await?.since(&first_lags));
        tokio::time::sleep(AFTERWARDS).await;
        let lags = Lags::read(self.admin).await?;
        let before = self.gateway.cpu()?;
        clients.drop_all().await?;
        let back = clients.come_back(self.address).await?;
        tokio::time::sleep(AFTERWARDS).await;
        let used = self.gateway.cpu()? - before;
        let lags = Lags::read(self.admin).await?.since(&lags);
        report::line(
            "RESUMED, identified anew",
            format!("{}, {}", back.resumed, back.anew),
        );
        report::line("from dropping to RESUMED or READY", back.took);
        report::line(
            "CPU of the gateway",
            format!(
                "{:.1} us each",
                used.as_secs_f64() * 1e6 / bots.len() as f64
            ),
        );
        report::line("busy", &lags);
        let returned = back.resumed + back.anew;
        ensure!(returned == bots.len(), "somebody is missing");
        report::row(
            &format!("of {} sessions dropped at once, back", bots.len()),
            returned as f64,
            "",
            &Aim::AtLeast(bots.len() as f64),
        );
        report::row(
            "stalls over 50 ms while they come back",
            lags.stalls() as f64,
            "",
            &Aim::AtMost(0.0),
        );
        clients.close().await
    }
}
