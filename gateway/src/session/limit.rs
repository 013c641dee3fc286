//! How many commands a client may send.

use std::time::{Duration, Instant};

/// Commands per [`WINDOW`]; one more closes with 4008. Spec: gateway.md › Rate limits and size.
pub const COMMANDS_MAX: u16 = 120;
/// Length of the window the commands are counted in.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts the commands of one connection in fixed windows.
#[derive(Debug, Clone, Copy)]
pub struct CommandLimit {
    window_start: Instant,
    used: u16,
}

impl CommandLimit {
    pub fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            used: 0,
        }
    }

    /// Counts one command; false if it is one too many.
    pub fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window_start) >= WINDOW {
            *self = Self::new(now);
        }
        self.used = self.used.saturating_add(1);
        self.used <= COMMANDS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_120_commands() {
        let t0 = Instant::now();
        let mut limit = CommandLimit::new(t0);
        assert!((0..COMMANDS_MAX).all(|_| limit.take(t0)));
        assert!(!limit.take(t0 + WINDOW - Duration::from_millis(1)));
        assert!(limit.take(t0 + WINDOW));
    }
}
