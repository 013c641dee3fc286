//! Lives of Redis: a server is in another one after every start, every fail-over and every flush, so
//! whatever it was told in its present life it still has, unless somebody deleted it.

use std::sync::LazyLock;

use redis::Pipeline;

/// Lives remembered; a cluster has one per primary.
const KNOWN_MAX: usize = 256;

/// Lua: the function `life()` of the server that the script runs on. `master_replid` changes with
/// every start and every fail-over, the counts with every flush.
pub(super) const LIFE: &str = r"
    local function life()
        local stats = redis.call('INFO', 'commandstats')
        return string.sub(string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'), 1, 16)
            .. ':' .. (string.match(stats, 'cmdstat_flushall:calls=(%d+)') or '0')
            .. ':' .. (string.match(stats, 'cmdstat_flushdb:calls=(%d+)') or '0')
    end
";

/// Asks for the life of the server that has a key.
pub(super) fn ask_life(pipeline: &mut Pipeline, key: &str) {
    static SCRIPT: LazyLock<String> = LazyLock::new(|| format!("{LIFE} return life()"));
    pipeline.cmd("EVAL").arg(SCRIPT.as_str()).arg(1).arg(key);
}

/// The newest known life of each server.
#[derive(Debug, Default)]
pub(super) struct Lives(Vec<String>);

impl Lives {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, life: &str) -> bool {
        self.0.iter().any(|known| known == life)
    }

    /// Its server is in no other any more.
    pub(super) fn insert(&mut self, life: String) {
        self.0.retain(|known| server(known) != server(&life));
        if self.0.len() >= KNOWN_MAX {
            self.0.remove(0);
        }
        self.0.push(life);
    }

    /// All of them, each between two blanks, for a script to look its own up.
    pub(super) fn list(&self) -> String {
        format!(" {} ", self.0.join(" "))
    }
}

fn server(life: &str) -> &str {
    life.split_once(':').map_or(life, |(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_in_one_life() {
        let mut lives = Lives::default();
        assert!(lives.is_empty());
        for life in ["a:0:0", "b:0:0", "a:1:0"] {
            lives.insert(life.to_owned());
        }
        assert!(lives.contains("a:1:0") && lives.contains("b:0:0"));
        assert!(!lives.contains("a:0:0"));
        assert_eq!(lives.list(), " b:0:0 a:1:0 ");
    }
}
