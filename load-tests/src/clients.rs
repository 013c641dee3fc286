//! The scenario's side of a [`swarm`](crate::swarm): its commands as functions.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{child::Helper, world::Account};

/// Longest wait for a swarm's answer.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between what is measured heartbeats are at least this far apart: a session lasts a minute without
/// one, and a slow machine takes longer than that for the logins of all.
pub(crate) const BEAT_PERIOD: Duration = Duration::from_secs(15);
/// After this a gateway has answered the heartbeats of all.
pub const BEAT_SETTLE: Duration = Duration::from_secs(1);
/// Tokens in one line to a swarm.
const TOKENS_PER_LINE: usize = 500;

/// A swarm of clients.
pub struct Clients {
    swarm: Helper,
    /// When the last heartbeats went.
    beaten: Instant,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max } = self;
        write!(f, "p50 {p50:.1} ms, p99 {p99:.1} ms, longest {max:.1} ms")
    }
}

/// How everybody came back.
#[derive(Debug, Clone, Copy)]
pub struct Return {
    pub resumed: usize,
    pub anew: usize,
    pub took: Spread,
}

impl Clients {
    /// Starts a swarm: this program with the subcommand `swarm`.
    pub fn start() -> Result<Self> {
        let swarm = Helper::start("swarm")?;
        let beaten = Instant::now();
        Ok(Self { swarm, beaten })
    }

    async fn ask(&mut self, command: &str, word: &str) -> Result<String> {
        self.swarm.tell(command).await?;
        self.swarm.hear(word, PATIENCE).await
    }

    /// Connections that say nothing.
    pub async fn plain(&mut self, address: &str, count: usize) -> Result<()> {
        self.ask(&format!("plain {address} {count}"), "open")
            .await?;
        Ok(())
    }

    /// All connect at once; from connecting to HELLO.
    pub async fn open(&mut self, address: SocketAddr, count: usize) -> Result<Spread> {
        let answer = self.ask(&format!("open {address} {count}"), "open").await?;
        spread(&figures(&answer)?)
    }

    /// Says who the connections are that nobody is yet.
    pub async fn name(&mut self, bots: &[Account]) -> Result<()> {
        for bots in bots.chunks(TOKENS_PER_LINE) {
            let tokens: Vec<&str> = bots.iter().map(|bot| bot.token.as_str()).collect();
            let command = format!("tokens {}", tokens.join(" "));
            self.ask(&command, "tokens").await?;
        }
        Ok(())
    }

    /// All that have not yet identify at once as bot shard `(id, count)`, and wait for READY and
    /// `guilds` GUILD_CREATEs. The times, and how often one was told op 9.
    pub async fn identify(
        &mut self,
        intents: u32,
        (shard, of): (u32, u32),
        guilds: usize,
    ) -> Result<(Spread, usize)> {
        self.ask(&format!("guilds {guilds}"), "guilds").await?;
        let command = format!("identify {intents} {shard} {of}");
        let figures = figures(&self.ask(&command, "ready").await?)?;
        let later = figures.get(3).copied().unwrap_or_default() as usize;
        Ok((spread(&figures)?, later))
    }

    /// [`open`](Self::open), [`name`](Self::name) and [`identify`](Self::identify) in portions: sessions
    /// that are there before something is measured.
    pub async fn log_in(
        &mut self,
        address: SocketAddr,
        bots: &[Account],
        intents: u32,
        guilds: usize,
    ) -> Result<()> {
        const PORTION: usize = 1000;
        for bots in bots.chunks(PORTION) {
            self.open(address, bots.len()).await?;
            self.name(bots).await?;
            self.identify(intents, (0, 1), guilds).await?;
            if self.is_due() {
                self.beat().await?;
            }
        }
        self.beat().await
    }

    /// Breaks all connections without a word.
    pub async fn drop_all(&mut self) -> Result<()> {
        self.ask("drop", "dropped").await?;
        Ok(())
    }

    /// All come back at once.
    pub async fn come_back(&mut self, address: SocketAddr) -> Result<Return> {
        let figures = figures(&self.ask(&format!("return {address}"), "returned").await?)?;
        let [resumed, anew, ref took @ ..] = figures[..] else {
            anyhow::bail!("an answer without figures");
        };
        Ok(Return {
            resumed: resumed as usize,
            anew: anew as usize,
            took: spread(took)?,
        })
    }

    /// The first ones are not read from any more.
    pub async fn mute(&mut self, count: usize) -> Result<()> {
        self.ask(&format!("mute {count}"), "mute").await?;
        Ok(())
    }

    /// Text messages of this length count from now on.
    pub async fn count(&mut self, length: usize) -> Result<()> {
        self.ask(&format!("frame {length}"), "set").await?;
        Ok(())
    }

    /// Dispatches of this name count from now on.
    pub async fn count_named(&mut self, event: &str) -> Result<()> {
        self.ask(&format!("named {event}"), "set").await?;
        Ok(())
    }

    /// Waits for so many of them; [`begin_await`](Self::begin_await) before what brings them.
    pub async fn done(&mut self) -> Result<()> {
        self.swarm.hear("done", PATIENCE).await?;
        Ok(())
    }

    /// So many are waited for.
    pub async fn begin_await(&mut self, deliveries: u64) -> Result<()> {
        self.swarm.tell(&format!("await {deliveries}")).await
    }

    /// From these times to the deliveries of those who read, and their number.
    pub async fn latency(&mut self, sent: &[u64]) -> Result<(Spread, usize)> {
        let sent: Vec<String> = sent.iter().map(u64::to_string).collect();
        let command = format!("latency {}", sent.join(" "));
        let figures = figures(&self.ask(&command, "latency").await?)?;
        let count = figures.get(3).copied().unwrap_or_default() as usize;
        Ok((spread(&figures)?, count))
    }

    /// A heartbeat of each, with what it got last.
    pub async fn beat(&mut self) -> Result<()> {
        self.beaten = Instant::now();
        self.ask("beat", "beat").await?;
        Ok(())
    }

    /// Whether it is time for heartbeats.
    pub fn is_due(&self) -> bool {
        self.beaten.elapsed() > BEAT_PERIOD
    }

    /// Each sends this text.
    pub async fn say(&mut self, text: &str, count: usize) -> Result<()> {
        self.ask(&format!("say {count} {text}"), "said").await?;
        Ok(())
    }

    pub async fn close(&mut self) -> Result<()> {
        self.ask("close", "closed").await?;
        Ok(())
    }
}

fn spread(figures: &[f64]) -> Result<Spread> {
    let [p50, p99, max, ..] = *figures else {
        anyhow::bail!("an answer without figures");
    };
    Ok(Spread { p50, p99, max })
}

/// Numbers in an answer.
fn figures(text: &str) -> Result<Vec<f64>> {
    text.split_ascii_whitespace()
        .map(|word| word.parse().with_context(|| format!("no number: {word}")))
        .collect()
}
