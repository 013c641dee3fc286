//! How many commands a client may send.

use std::time::{Duration, Instant};

/// Commands per [`WINDOW`]; one more closes with 4008. Spec: gateway.md › Rate limits and size.
pub const COMMANDS_MAX: u16 = 120;
/// Frames per [`WINDOW`] that are no commands: pings, pongs, fragments. Each costs little, but
/// not nothing, and no client has reason to send that many.
pub const FRAMES_MAX: u16 = 1200;
/// Length of the window the commands are counted in.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts the commands and other frames of one connection in fixed windows.
#[derive(Debug, Clone, Copy)]
pub struct CommandLimit {
    window_start: Instant,
    used: u16,
    frames: u16,
}

impl CommandLimit {
    pub fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            used: 0,
            frames: 0,
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

    /// Counts one frame that is no command; false if it is one too many.
    pub fn take_frame(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window_start) >= WINDOW {
            *self = Self::new(now);
        }
        self.frames = self.frames.saturating_add(1);
        self.frames <= FRAMES_MAX
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

    #[test]
    fn frames_that_are_no_commands_have_a_limit_of_their_own() {
        let t0 = Instant::now();
        let mut limit = CommandLimit::new(t0);
        assert!((0..FRAMES_MAX).all(|_| limit.take_frame(t0)));
        assert!(limit.take(t0));
        assert!(!limit.take_frame(t0));
        assert!(limit.take_frame(t0 + WINDOW));
    }
}
