//! How many commands a client may send, and how much one kind of them may bring.

use std::time::{Duration, Instant};

/// Commands per [`WINDOW`]; one more closes with 4008. Spec: gateway.md › Rate limits and size.
pub const COMMANDS_MAX: u16 = 120;
/// Frames per [`WINDOW`] that are no commands: pings, pongs, fragments. Each costs little, but
/// not nothing, and no client has reason to send that many.
pub const FRAMES_MAX: u16 = 1200;
/// Length of the window the commands are counted in.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Blocks of member lists that a session is shown anew in [`BLOCKS_WINDOW`]: all that it can look at
/// in a guild. A command of a few bytes brings hundreds of kilobytes of them.
pub const BLOCKS_MAX: u32 = 50;
/// See [`BLOCKS_MAX`].
pub const BLOCKS_WINDOW: Duration = Duration::from_secs(10);

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

/// Counts the blocks of member lists that a session is shown: as many as may be at once, and then
/// evenly.
#[derive(Debug, Clone, Copy)]
pub struct BlockLimit {
    /// What was taken counts until then.
    even_at: Instant,
}

impl BlockLimit {
    pub fn new(now: Instant) -> Self {
        Self { even_at: now }
    }

    /// Counts blocks; false, and none, if they are too many now.
    pub fn take(&mut self, now: Instant, blocks: usize) -> bool {
        let blocks = blocks.min(BLOCKS_MAX as usize) as u32;
        let even_at = self.even_at.max(now) + BLOCKS_WINDOW / BLOCKS_MAX * blocks;
        let fits = even_at.saturating_duration_since(now) <= BLOCKS_WINDOW;
        if fits {
            self.even_at = even_at;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_may_be_taken_at_once_and_then_evenly() {
        let t0 = Instant::now();
        let mut limit = BlockLimit::new(t0);
        assert!(limit.take(t0, 20) && limit.take(t0, 30) && limit.take(t0, 0));
        assert!(!limit.take(t0, 1));
        let later = t0 + BLOCKS_WINDOW / BLOCKS_MAX * 3;
        assert!(!limit.take(later, 4));
        assert!(limit.take(later, 3) && !limit.take(later, 1));
        // More than there is at any time counts as all.
        assert!(!limit.take(later + BLOCKS_WINDOW / 2, 1000));
        assert!(limit.take(later + BLOCKS_WINDOW, 1000));
    }

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
