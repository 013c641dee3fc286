//! A gateway's own word on how long its threads were busy with one thing, from `/metrics`.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest answer.
const METRICS_BYTES_MAX: u64 = 4 << 20;
/// What counts as a stall, ms.
pub const STALL_MS: f64 = 50.0;

/// How often a thread was busy for how long: bounds in ms, and counts up to each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lag {
    buckets: Vec<(f64, u64)>,
}

/// The lag of a gateway's cores, and of its node's thread.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lags {
    pub cores: Lag,
    pub node: Lag,
}

impl Lags {
    /// Reads them from a gateway's admin address.
    pub async fn read(admin: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(admin)
            .await
            .with_context(|| format!("no gateway's admin address at {admin}"))?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        let mut limited = (&mut stream).take(METRICS_BYTES_MAX);
        limited.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "no metrics");
        Ok(Self {
            cores: parse(&answer, "gateway_core_lag_ms"),
            node: parse(&answer, "node_lag_ms"),
        })
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cores: self.cores.since(&before.cores),
            node: self.node.since(&before.node),
        }
    }

    /// Stalls of any thread.
    pub fn stalls(&self) -> u64 {
        self.cores.stalls() + self.node.stalls()
    }
}

impl std::fmt::Display for Lags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cores, node) = (&self.cores, &self.node);
        write!(
            f,
            "cores: {} over {STALL_MS} ms, longest {}; node: {}, longest {}",
            cores.stalls(),
            cores.longest(),
            node.stalls(),
            node.longest()
        )
    }
}

impl Lag {
    fn since(&self, before: &Self) -> Self {
        let was = |bound: f64| {
            let known = before.buckets.iter().find(|(known, _)| *known == bound);
            known.map_or(0, |&(_, count)| count)
        };
        let buckets = self.buckets.iter();
        Self {
            buckets: buckets
                .map(|&(bound, count)| (bound, count.saturating_sub(was(bound))))
                .collect(),
        }
    }

    /// Times it was busy for more than [`STALL_MS`].
    pub fn stalls(&self) -> u64 {
        let all = self.buckets.last().map_or(0, |&(_, count)| count);
        let fine = self.buckets.iter().find(|(bound, _)| *bound >= STALL_MS);
        all - fine.map_or(all, |&(_, count)| count)
    }

    /// The bound that none was above.
    fn longest(&self) -> String {
        let all = self.buckets.last().map_or(0, |&(_, count)| count);
        match self.buckets.iter().find(|(_, count)| *count == all) {
            Some((bound, _)) if bound.is_finite() => format!("<= {bound} ms"),
            Some(_) => "longer than the metric goes".to_owned(),
            None => "unknown".to_owned(),
        }
    }
}

/// The buckets of a histogram in Prometheus' text format.
fn parse(text: &str, name: &str) -> Lag {
    let start = format!("{name}_bucket{{le=\"");
    let buckets = text
        .lines()
        .filter_map(|line| {
            let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        })
        .collect();
    Lag { buckets }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_what_is_above_the_bound() {
        let text = "HTTP/1.1 200 OK\r\n\
            # TYPE node_lag_ms histogram\n\
            node_lag_ms_bucket{le=\"10\"} 5\nnode_lag_ms_bucket{le=\"50\"} 8\n\
            node_lag_ms_bucket{le=\"100\"} 9\nnode_lag_ms_bucket{le=\"+Inf\"} 9\n";
        let lag = parse(text, "node_lag_ms");
        assert_eq!((lag.stalls(), lag.longest()), (1, "<= 100 ms".to_owned()));
        assert_eq!(lag.since(&lag).stalls(), 0);
        assert_eq!(parse(text, "other").stalls(), 0);
    }
}
