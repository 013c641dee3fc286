//! What a run comes to, as text that is the same for the same seed.

use std::fmt;

use guildhall_shared::operator::Cause;

use crate::crowd::Crowd;
use crate::gateway::Gateway;
use crate::live::Counts;
use crate::watch::Watch;
use crate::world::Settings;

/// The figures of one run. Its text is meant for people.
#[derive(Debug)]
pub struct Report {
    settings: Settings,
    watch: Watch,
    crowd: Crowd,
    counts: Counts,
    sessions_most: u64,
    take_overs: u64,
    leaderless_ms: u64,
}

impl Report {
    pub(crate) fn new(
        settings: Settings,
        mut watch: Watch,
        crowd: Crowd,
        counts: Counts,
        gateways: &[Gateway],
        take_overs: u64,
        leaderless_ms: u64,
    ) -> Self {
        watch.no_owner_ms.sort_unstable();
        watch.nobody_ms.sort_unstable();
        let sessions = gateways.iter().map(|gateway| gateway.sessions);
        Self {
            sessions_most: sessions.max().unwrap_or(0),
            settings,
            watch,
            crowd,
            counts,
            take_overs,
            leaderless_ms,
        }
    }

    /// Shards that changed their owner, and those of them whose owner served no more.
    pub fn moves(&self) -> (u64, u64) {
        let forced = [Cause::Unowned, Cause::OwnerLost, Cause::OwnerStopping];
        let moves = &self.watch.moves;
        let needed = forced.iter().filter_map(|cause| moves.get(cause));
        (moves.values().sum(), needed.sum())
    }

    /// Longest time that a shard's owner in the newest map was dead, in virtual milliseconds.
    pub fn no_owner_longest_ms(&self) -> u64 {
        self.watch.no_owner_ms.last().copied().unwrap_or(0)
    }
}

/// The value that the given part of a thousand does not exceed; 0 of none.
fn part(sorted: &[u64], thousandths: usize) -> u64 {
    let place = (sorted.len() * thousandths).div_ceil(1_000);
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            nodes,
            shards,
            sessions,
            length_ms,
            seed,
            ..
        } = self.settings;
        let watch = &self.watch;
        writeln!(
            f,
            "{nodes} nodes, {shards} shards, {sessions} sessions, {:.2} h, seed {seed}",
            length_ms as f64 / 3_600_000.0
        )?;
        writeln!(f, "maps published            {}", watch.maps)?;
        let (moves, needed) = self.moves();
        let ratio = moves as f64 / needed.max(1) as f64;
        writeln!(
            f,
            "shards moved              {moves}, {needed} of them had to ({ratio:.3} times that)"
        )?;
        for (cause, count) in &watch.moves {
            writeln!(f, "  {:24}{count}", format!("{cause:?}"))?;
        }
        writeln!(
            f,
            "fullest node / mean       {:.3} at rest ({} looks), {:.3} at any time",
            watch.imbalance_at_rest_max, watch.rests, watch.imbalance_max
        )?;
        writeln!(
            f,
            "sessions moved            {} sent away, {} lost their node, {} most without a socket",
            self.crowd.sent, self.crowd.lost, self.crowd.away_max
        )?;
        writeln!(f, "sessions, fullest node    {}", self.sessions_most)?;
        let times = |f: &mut fmt::Formatter<'_>, what: &str, sorted: &[u64]| {
            writeln!(
                f,
                "{what} {:.3} s longest, {:.3} s p99, {:.3} s median, {} times",
                seconds(sorted.last().copied().unwrap_or(0)),
                seconds(part(sorted, 990)),
                seconds(part(sorted, 500)),
                sorted.len()
            )
        };
        times(f, "owner in the map dead    ", &watch.no_owner_ms)?;
        times(f, "owner and standby dead   ", &watch.nobody_ms)?;
        writeln!(
            f,
            "nodes take a map within   {:.2} s p99, {:.2} s longest",
            seconds(watch.lag_ms(990)),
            seconds(watch.lag_ms(1_000))
        )?;
        writeln!(
            f,
            "coordinators took over    {} times, {:.0} s longest without a leader",
            self.take_overs,
            seconds(self.leaderless_ms)
        )?;
        let sample = &self.settings.sample;
        let Counts {
            written,
            dispatches,
            resumed,
            invalid,
        } = self.counts;
        writeln!(
            f,
            "real                      {} guilds, {} clients, {written} events, {dispatches} dispatches",
            sample.guilds, sample.clients
        )?;
        writeln!(
            f,
            "RESUMEs                   {resumed}, {invalid} sessions were told op 9"
        )
    }
}
