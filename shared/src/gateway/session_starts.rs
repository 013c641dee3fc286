//! How many sessions an account may start. Spec: gateway.md › Identify limits.

use std::time::Duration;

/// Sessions of a bot are counted in windows of this length, from the first one on.
pub const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Sessions that a person may have at once; one more is closed with 4015.
pub const PERSON_SESSIONS_MAX: usize = 50;

/// Sessions that most bots may start in a [`PERIOD`]; a RESUME starts none.
const STARTS: u32 = 1000;
/// Bots in more guilds than this are large: libraries then start that many shards that a bad
/// day would use the others' number up.
const LARGE_GUILDS: usize = 150_000;

/// Sessions that a bot in so many guilds may start in a [`PERIOD`].
pub fn total(guilds: usize) -> u32 {
    if guilds <= LARGE_GUILDS {
        return STARTS;
    }
    u32::try_from(guilds / 1000 * 5).map_or(u32::MAX, |starts| starts.max(2 * STARTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bots_may_start_more() {
        assert_eq!([0, 1, 150_000].map(total), [1000; 3]);
        assert_eq!(total(150_001), 2000);
        assert_eq!(total(1_000_000), 5000);
    }
}
