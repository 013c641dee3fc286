//! The cluster's keys: one that things are made with, and those accepted beside it while it is
//! renewed. The same rules for every process.

use std::fmt;

/// Shortest key, in bytes.
pub const KEY_BYTES_MIN: usize = 32;

/// Keys that have been checked. Never printed: it has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKeys<'a> {
    /// `CLUSTER_KEY`: signs and seals.
    pub current: &'a str,
    /// `CLUSTER_KEY_NEXT`: accepted, for others may make things with it already.
    pub next: Option<&'a str>,
    /// `CLUSTER_KEY_PREVIOUS`: accepted, and what it sealed is sealed anew.
    pub previous: Option<&'a str>,
}

/// Why a key cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct BadClusterKey {
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with it, as a part of a sentence.
    pub reason: &'static str,
}

impl fmt::Display for BadClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.reason)
    }
}

/// Errors: a key shorter than [`KEY_BYTES_MIN`], by the name of its setting.
pub fn require_long(setting: &'static str, key: &str) -> Result<(), BadClusterKey> {
    if key.len() < KEY_BYTES_MIN {
        let reason = "needs at least 32 characters";
        return Err(BadClusterKey { setting, reason });
    }
    Ok(())
}

impl<'a> ClusterKeys<'a> {
    /// An empty text for `next` or `previous` counts as none: so templates of settings have it.
    ///
    /// Errors: a key shorter than [`KEY_BYTES_MIN`], the same key twice.
    pub fn check(
        current: &'a str,
        next: Option<&'a str>,
        previous: Option<&'a str>,
    ) -> Result<Self, BadClusterKey> {
        let keys = Self {
            current,
            next: next.filter(|key| !key.is_empty()),
            previous: previous.filter(|key| !key.is_empty()),
        };
        let bad = |setting, reason| Err(BadClusterKey { setting, reason });
        for (setting, key) in [
            ("CLUSTER_KEY", Some(keys.current)),
            ("CLUSTER_KEY_NEXT", keys.next),
            ("CLUSTER_KEY_PREVIOUS", keys.previous),
        ] {
            key.map_or(Ok(()), |key| require_long(setting, key))?;
        }
        if keys.next == Some(current) {
            return bad("CLUSTER_KEY_NEXT", "is the same as CLUSTER_KEY");
        }
        if keys.previous == Some(current) {
            return bad("CLUSTER_KEY_PREVIOUS", "is the same as CLUSTER_KEY");
        }
        if keys.previous.is_some() && keys.previous == keys.next {
            return bad("CLUSTER_KEY_PREVIOUS", "is the same as CLUSTER_KEY_NEXT");
        }
        Ok(keys)
    }

    /// Those that are accepted beside the current one.
    pub fn others(self) -> impl Iterator<Item = &'a str> {
        self.next.into_iter().chain(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "the first key of a cluster, long enough";
    const B: &str = "the second key of a cluster, long enough";
    const C: &str = "the third key of a cluster, long enough";

    fn refused(current: &str, next: Option<&str>, previous: Option<&str>) -> String {
        match ClusterKeys::check(current, next, previous) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_others_are_the_next_and_the_previous_key() {
        let others = |next, previous| -> Vec<&str> {
            let keys = ClusterKeys::check(A, next, previous);
            keys.ok()
                .into_iter()
                .flat_map(ClusterKeys::others)
                .collect()
        };
        assert_eq!(others(None, None), [""; 0]);
        assert_eq!(others(Some(B), None), [B]);
        assert_eq!(others(None, Some(B)), [B]);
        assert_eq!(others(Some(B), Some(C)), [B, C]);
        assert_eq!(others(Some(""), Some("")), [""; 0]);
    }

    #[test]
    fn bad_keys_are_refused_by_name() {
        for (error, named) in [
            (refused("", None, None), "CLUSTER_KEY: "),
            (refused("short", None, None), "CLUSTER_KEY: "),
            (refused(A, Some("short"), None), "CLUSTER_KEY_NEXT: "),
            (refused(A, None, Some("short")), "CLUSTER_KEY_PREVIOUS: "),
            (refused(A, Some(A), None), "CLUSTER_KEY_NEXT: "),
            (refused(A, None, Some(A)), "CLUSTER_KEY_PREVIOUS: "),
            (refused(A, Some(B), Some(B)), "CLUSTER_KEY_PREVIOUS: "),
        ] {
            assert!(error.starts_with(named), "{error}");
            assert!(!error.contains("long enough"), "{error}");
        }
        assert_eq!(refused(A, Some(B), Some(C)), "accepted");
    }
}
