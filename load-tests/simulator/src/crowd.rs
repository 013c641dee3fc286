//! Sessions, counted per node: where they are, who is on the way, who came where.

use crate::chance::Chance;
use crate::gateway::{Gateway, Phase};

/// Clients of a node that died are back within this time, evenly.
const BACK_WITHIN_S: u64 = 15;

#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Sessions without a socket, by how many seconds they still stay away.
    away: Vec<u64>,
    /// Sessions that a node sent away, and those that lost their node.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Most sessions without a socket at any time.
    pub(crate) away_max: u64,
}

impl Crowd {
    /// Everybody comes at once, at the beginning.
    pub(crate) fn fill(gateways: &mut [Gateway], sessions: u64) {
        let nodes = gateways.len() as u64;
        for (place, gateway) in (0..).zip(gateways) {
            gateway.sessions = sessions / nodes + u64::from(place < sessions % nodes);
        }
    }

    /// A node died.
    pub(crate) fn lose(&mut self, gateway: &mut Gateway) {
        let sessions = std::mem::take(&mut gateway.sessions);
        self.lost += sessions;
        self.away.resize(BACK_WITHIN_S as usize, 0);
        for (second, away) in (0..).zip(&mut self.away) {
            *away += sessions / BACK_WITHIN_S + u64::from(second < sessions % BACK_WITHIN_S);
        }
    }

    /// One second: leaving nodes send a part of their sessions away, and those whose time has
    /// come connect.
    pub(crate) fn second(&mut self, now: u64, gateways: &mut [Gateway], chance: &mut Chance) {
        let mut coming = if self.away.is_empty() {
            0
        } else {
            self.away.remove(0)
        };
        let anybody = gateways.iter().any(|gateway| gateway.takes_sessions(now));
        for gateway in gateways.iter_mut().filter(|_| anybody) {
            if let Phase::Stopping { gone_by } = gateway.phase {
                let seconds = gone_by.saturating_sub(now) / 1_000;
                let part = gateway.sessions.div_ceil(seconds.max(1));
                gateway.sessions -= part;
                self.sent += part;
                coming += part;
            }
        }
        if anybody {
            admit(now, coming, gateways, chance);
        } else {
            match self.away.first_mut() {
                Some(next) => *next += coming,
                None => self.away.push(coming),
            }
        }
        self.away_max = self.away_max.max(self.away());
    }

    pub(crate) fn away(&self) -> u64 {
        self.away.iter().sum()
    }
}

/// A balancer that knows the connections: the emptier half gets all, evenly.
fn admit(now: u64, sessions: u64, gateways: &mut [Gateway], chance: &mut Chance) {
    let mut open: Vec<&mut Gateway> = gateways
        .iter_mut()
        .filter(|gateway| gateway.takes_sessions(now))
        .collect();
    open.sort_by_key(|gateway| gateway.sessions);
    let half = open.len().div_ceil(2) as u64;
    if half == 0 || sessions == 0 {
        return;
    }
    let first = chance.below(half);
    for (place, gateway) in (0..half).zip(&mut open) {
        let extra = (place + half - first) % half < sessions % half;
        gateway.sessions += sessions / half + u64::from(extra);
    }
}
