//! The kernel floor beside the gateway: what both cost is measured in turns, so that a machine that is
//! slower for a while is slower for both.

use anyhow::Result;
use load_tests::{child::Helper, process::Process, stage::payload_len, statistics::median};

use super::{PATIENCE, ROUND_PATIENCE, micros};

/// A floor with readers of its own.
pub(super) struct Floor {
    process: Helper,
    usage: Process,
    readers: Helper,
    connections: u64,
    sent: u64,
}

impl Floor {
    /// As many connections as the gateway has sessions, and the gateway's frame.
    pub(super) async fn start(connections: u64, frame: &[u8]) -> Result<Self> {
        let mut process = Helper::start("floor")?;
        let mut readers = Helper::start("readers")?;
        let address = process.hear("listening", PATIENCE).await?;
        process
            .tell(&format!("frame {}", hex::encode(frame)))
            .await?;
        process.tell(&format!("accept {connections}")).await?;
        readers
            .tell(&format!("plain {address} {connections}"))
            .await?;
        readers.hear("open", PATIENCE).await?;
        process.hear("accepted", PATIENCE).await?;
        readers
            .tell(&format!("frame {}", payload_len(frame)))
            .await?;
        readers.hear("set", PATIENCE).await?;
        Ok(Self {
            usage: process.usage()?,
            process,
            readers,
            connections,
            sent: 0,
        })
    }

    /// CPU per delivery, microseconds, of so many rounds; each waits for the one before.
    pub(super) async fn rounds(&mut self, rounds: u16, messages: u16) -> Result<f64> {
        self.measure("send", rounds, messages).await
    }

    /// The same if all messages of a round go by one `send()` for each connection.
    pub(super) async fn coalesced(&mut self, rounds: u16, messages: u16) -> Result<f64> {
        self.measure("burst", rounds, messages).await
    }

    async fn measure(&mut self, command: &str, rounds: u16, messages: u16) -> Result<f64> {
        let before = self.usage.cpu()?;
        for _ in 0..rounds {
            self.sent += u64::from(messages) * self.connections;
            self.readers.tell(&format!("await {}", self.sent)).await?;
            self.process.tell(&format!("{command} {messages}")).await?;
            self.readers.hear("done", ROUND_PATIENCE).await?;
        }
        let deliveries = f64::from(rounds) * f64::from(messages) * self.connections as f64;
        Ok(micros(self.usage.cpu()? - before) / deliveries)
    }
}

/// Of figures taken in turns: the median, over the gateway's, of each beside the mean of the floor's
/// just before and just after it. `floor` has one more.
pub(super) fn against(floor: &[f64], gateway: &[f64]) -> f64 {
    let beside = floor
        .windows(2)
        .map(|pair| f64::midpoint(pair[0], pair[1]))
        .zip(gateway);
    median(beside.map(|(floor, gateway)| gateway / floor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_compared_with_its_neighbours() {
        // The machine is half as fast in the second half, and disturbed once.
        let floor = [2.0, 2.0, 2.0, 4.0, 4.0, 4.0];
        let gateway = [3.0, 3.0, 4.5, 90.0, 6.0];
        assert!((against(&floor, &gateway) - 1.5).abs() < 1e-9);
    }
}
