//! What `top` knows and how it is sorted. No I/O.

use std::cmp::Ordering;
use std::time::Instant;

use guildhall_shared::operator::{GuildInfo, NodeInfo, ShardInfo, Snapshot};
use ratatui::crossterm::event::KeyCode;

#[derive(Debug)]
pub(crate) struct View {
    /// The newest, and when it came; absent before the first.
    pub(crate) state: Option<(Snapshot, Instant)>,
    pub(crate) hot_shards: Vec<ShardInfo>,
    pub(crate) hot_guilds: Vec<GuildInfo>,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) sort: Sort,
    pub(crate) order: Order,
}

/// Why there is no news now, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    Lost(String),
    /// There is a connection to a coordinator that has no state to show.
    NoNews(String),
}

/// The column nodes are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    Sessions,
    Dispatches,
    Shards,
    Busy,
    Lag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Up,
    Down,
}

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Stay,
    Quit,
}

impl View {
    pub(crate) fn new() -> Self {
        Self {
            state: None,
            hot_shards: Vec::new(),
            hot_guilds: Vec::new(),
            trouble: None,
            sort: Sort::Name,
            order: Order::Up,
        }
    }

    pub(crate) fn arrived(&mut self, snapshot: Snapshot, now: Instant) {
        self.state = Some((snapshot, now));
        self.trouble = None;
    }

    pub(crate) fn lost(&mut self, reason: String) {
        self.trouble = Some(Trouble::Lost(reason));
    }

    pub(crate) fn no_news(&mut self, reason: String) {
        self.trouble = Some(Trouble::NoNews(reason));
    }

    pub(crate) fn press(&mut self, key: KeyCode) -> After {
        let sort = match key {
            KeyCode::Char('q') | KeyCode::Esc => return After::Quit,
            KeyCode::Char('r') => {
                self.order = match self.order {
                    Order::Up => Order::Down,
                    Order::Down => Order::Up,
                };
                return After::Stay;
            }
            KeyCode::Char('n') => Sort::Name,
            KeyCode::Char('s') => Sort::Sessions,
            KeyCode::Char('d') => Sort::Dispatches,
            KeyCode::Char('h') => Sort::Shards,
            KeyCode::Char('b') => Sort::Busy,
            KeyCode::Char('l') => Sort::Lag,
            _ => return After::Stay,
        };
        self.sort = sort;
        // Names from a, figures from the largest.
        self.order = match sort {
            Sort::Name => Order::Up,
            _ => Order::Down,
        };
        After::Stay
    }

    /// Nodes as they are shown; equal ones by name.
    pub(crate) fn nodes(&self) -> Vec<&NodeInfo> {
        let Some((snapshot, _)) = &self.state else {
            return Vec::new();
        };
        let mut nodes: Vec<&NodeInfo> = snapshot.nodes.iter().collect();
        nodes.sort_by(|a, b| {
            let ordering = self.sort.compare(a, b);
            let ordering = match self.order {
                Order::Up => ordering,
                Order::Down => ordering.reverse(),
            };
            ordering.then_with(|| a.id.cmp(&b.id))
        });
        nodes
    }
}

impl Sort {
    fn compare(self, a: &NodeInfo, b: &NodeInfo) -> Ordering {
        let figure = |node: &NodeInfo| match (&node.status, self) {
            (_, Self::Shards) => u64::from(node.shards_owned),
            (Some(status), Self::Sessions) => status.sessions,
            (Some(status), Self::Dispatches) => status.dispatches_per_s,
            (Some(status), Self::Busy) => {
                status.cores_busy.iter().map(|core| u64::from(*core)).sum()
            }
            (Some(status), Self::Lag) => status.feed_lag_ms,
            (None, _) | (_, Self::Name) => 0,
        };
        match self {
            Self::Name => a.id.cmp(&b.id),
            _ => figure(a).cmp(&figure(b)),
        }
    }
}
