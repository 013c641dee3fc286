//! What an idle session takes of the gateway's memory.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use guildhall_shared::gateway::Intents;
use load_tests::{
    child::Helper, process::Process, rest::address, stage::listening_intents, statistics::slope,
    world::Account,
};

use super::{Cast, Config, PATIENCE};

/// Sessions that open before memory is looked at: the guild, pools and buffers exist then.
const WARM_UP_SESSIONS: usize = 50;
/// Looks at the memory while the others open.
const LOOKS: usize = 20;
/// After heartbeats, for the gateway to let go what they acknowledge.
const SETTLE: Duration = Duration::from_millis(500);

/// Bytes as KB of 1024.
pub(super) struct Memory {
    /// What one more session takes: the median slope between all looks.
    pub(super) kb_per_session: f64,
    /// Growth over all sessions opened after the warm-up.
    pub(super) grown_kb_per_session: f64,
    /// READY and GUILD_CREATE.
    pub(super) login_kb: f64,
}

/// Opens all sessions. Memory counts from when the guild and some sessions are there, and without
/// READY and GUILD_CREATE, which two heartbeats acknowledge before each look.
pub(super) async fn connect(
    config: &Config,
    gateway: Process,
    readers: &mut Helper,
    cast: &Cast,
) -> Result<Memory> {
    let address = address(&config.target.gateway_url)?;
    for (bot, intents) in &cast.deaf {
        open(readers, address, bot, *intents, ("deaf", "none")).await?;
    }
    let (warm_up, measured) = cast.bots.split_at(WARM_UP_SESSIONS);
    for bot in warm_up {
        open(
            readers,
            address,
            bot,
            listening_intents(),
            ("listening", "none"),
        )
        .await?;
    }
    let mut looks = vec![(0.0, look(gateway, readers).await?)];
    let (mut opened, mut login_bytes) = (0, 0);
    for part in measured.chunks(measured.len().div_ceil(LOOKS)) {
        for bot in part {
            login_bytes += open(
                readers,
                address,
                bot,
                listening_intents(),
                ("listening", "none"),
            )
            .await?;
        }
        opened += part.len();
        looks.push((opened as f64, look(gateway, readers).await?));
    }
    // Later heartbeats keep the sessions alive, as idle clients do.
    let mut left = Duration::from_secs(config.idle_s.into());
    while !left.is_zero() {
        readers.tell("beat").await?;
        let pause = left.min(Duration::from_secs(40));
        tokio::time::sleep(pause).await;
        left -= pause;
    }
    let grown = look(gateway, readers).await? - looks[0].1;
    Ok(Memory {
        kb_per_session: slope(&looks),
        grown_kb_per_session: grown / opened as f64,
        login_kb: login_bytes as f64 / opened as f64 / 1024.0,
    })
}

/// Opens a session; back when READY and GUILD_CREATE have come, with their bytes.
/// `hearing`: whether it is one of those that hear, and its compression.
pub(super) async fn open(
    readers: &mut Helper,
    address: SocketAddr,
    bot: &Account,
    intents: Intents,
    (hearing, compress): (&str, &str),
) -> Result<u64> {
    let (token, intents) = (&bot.token, intents.bits());
    let command = format!("session {address} {token} {intents} {hearing} {compress}");
    readers.tell(&command).await?;
    Ok(readers.hear("open", PATIENCE).await?.parse()?)
}

/// The gateway's anonymous memory in KB, when heartbeats have come.
async fn look(gateway: Process, readers: &mut Helper) -> Result<f64> {
    // What one acknowledges goes with the next.
    readers.tell("beat").await?;
    readers.tell("beat").await?;
    tokio::time::sleep(SETTLE).await;
    Ok(gateway.anonymous_bytes()? as f64 / 1024.0)
}
