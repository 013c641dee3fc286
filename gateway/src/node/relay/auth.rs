//! Both sides of a link prove that they know the cluster key, each with its node id bound in.
//!
//! The listening side sends a challenge, the connecting side answers it and challenges back.
//! Nobody sends the key, and a proof is good for one connection, one direction, one pair.
//!
//! While the key is renewed there are several: the connecting side proves the one it makes things
//! with, the listening side answers with the same one, so the link stands if the listener accepts it.

use std::fmt;

use guildhall_shared::cluster_key::ClusterKeys;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::frame::{Challenge, Hello};

/// The secret all nodes of a cluster share, and those accepted beside it; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    current: String,
    /// Accepted of those who connect; no link is begun with them.
    others: Vec<String>,
}

impl ClusterKey {
    /// Those of the settings. `None` if one is empty.
    pub fn of_keys(keys: ClusterKeys<'_>) -> Option<Self> {
        let current = Self::new(keys.current)?;
        keys.others()
            .try_fold(current, |key, other| key.accepting(other))
    }

    /// `None` for an empty key, which would let everybody in.
    pub fn new(key: impl Into<String>) -> Option<Self> {
        let current = key.into();
        (!current.is_empty()).then_some(Self {
            current,
            others: Vec::new(),
        })
    }

    /// Accepts another key, too. `None` for an empty one.
    pub fn accepting(mut self, key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        if key.is_empty() {
            return None;
        }
        self.others.push(key);
        Some(self)
    }

    fn accepted(&self) -> impl Iterator<Item = &str> {
        let current = std::iter::once(&self.current);
        current.chain(&self.others).map(String::as_str)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What both sides know after the first two frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handshake<'a> {
    pub(crate) listener: &'a str,
    pub(crate) listener_nonce: &'a [u8; 32],
    pub(crate) connector: &'a str,
    pub(crate) connector_nonce: &'a [u8; 32],
}

/// A key that the connecting side has proven to know.
#[derive(Clone, Copy)]
pub(crate) struct Proven<'k> {
    key: &'k str,
    /// Whether it is the one that this side makes things with.
    pub(crate) is_current: bool,
}

const CONNECTOR: &[u8] = b"guildhall relay connector";
const LISTENER: &[u8] = b"guildhall relay listener";

impl Handshake<'_> {
    /// That the connecting side knows the key it makes things with.
    pub(crate) fn connector_proof(self, key: &ClusterKey) -> [u8; 32] {
        self.mac(&key.current, CONNECTOR)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Which of the accepted keys this proves, if any. Compares in constant time.
    pub(crate) fn proven<'k>(self, key: &'k ClusterKey, proof: &[u8; 32]) -> Option<Proven<'k>> {
        let is_it = |key: &&str| self.mac(key, CONNECTOR).verify_slice(proof).is_ok();
        key.accepted().find(is_it).map(|proven| Proven {
            key: proven,
            is_current: proven == key.current,
        })
    }

    /// That the listening side knows the same key.
    pub(crate) fn listener_proof(self, proven: Proven<'_>) -> [u8; 32] {
        self.mac(proven.key, LISTENER)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether this proves the key that [`Self::connector_proof`] did. Compares in constant time.
    pub(crate) fn is_listener(self, key: &ClusterKey, proof: &[u8; 32]) -> bool {
        self.mac(&key.current, LISTENER).verify_slice(proof).is_ok()
    }

    fn mac(self, key: &str, label: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
        // Each part with its length, so that no two handshakes give the same bytes.
        for part in [
            label,
            self.listener.as_bytes(),
            self.listener_nonce,
            self.connector.as_bytes(),
            self.connector_nonce,
        ] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl<'a> Handshake<'a> {
    pub(crate) fn of(challenge: &'a Challenge, hello: &'a Hello) -> Self {
        Self {
            listener: &challenge.node,
            listener_nonce: &challenge.nonce,
            connector: &hello.node,
            connector_nonce: &hello.nonce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Handshake<'static> = Handshake {
        listener: "a",
        listener_nonce: &[1; 32],
        connector: "b",
        connector_nonce: &[2; 32],
    };

    #[test]
    fn a_proof_is_good_for_one_key_one_side_and_one_pair() {
        let (key, other) = (ClusterKey::new("k").unwrap(), ClusterKey::new("l").unwrap());
        let proof = HANDSHAKE.connector_proof(&key);
        assert!(HANDSHAKE.proven(&key, &proof).unwrap().is_current);
        assert!(HANDSHAKE.proven(&other, &proof).is_none());
        assert!(!HANDSHAKE.is_listener(&key, &proof));
        let renamed = Handshake {
            connector: "c",
            ..HANDSHAKE
        };
        assert!(renamed.proven(&key, &proof).is_none());
        let replayed = Handshake {
            listener_nonce: &[3; 32],
            ..HANDSHAKE
        };
        assert!(replayed.proven(&key, &proof).is_none());
    }

    /// Whether a link stands, as each side of it sees it.
    fn links(connector: &ClusterKey, listener: &ClusterKey) -> bool {
        let proof = HANDSHAKE.connector_proof(connector);
        let Some(proven) = HANDSHAKE.proven(listener, &proof) else {
            return false;
        };
        HANDSHAKE.is_listener(connector, &HANDSHAKE.listener_proof(proven))
    }

    #[test]
    fn each_step_of_a_renewal_links_with_the_one_before_in_both_directions() {
        let key = |key: &str| ClusterKey::new(key).unwrap();
        let steps = [
            key("old"),
            key("old").accepting("new").unwrap(),
            key("new").accepting("old").unwrap(),
            key("new"),
        ];
        for pair in steps.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert!(links(before, after) && links(after, before));
            assert!(links(before, before) && links(after, after));
        }
        // A step left out: whoever has the old key alone takes nothing of the new one.
        assert!(!links(&steps[2], &steps[0]) && links(&steps[0], &steps[2]));
        // Without the old key.
        assert!(!links(&steps[0], &steps[3]) && !links(&steps[3], &steps[0]));
        let stranger = key("strange").accepting("old").unwrap();
        for step in &steps {
            assert!(!links(&stranger, step));
        }
    }

    #[test]
    fn a_listener_does_not_prove_itself_with_another_key_than_it_was_asked_with() {
        let key = ClusterKey::new("new").unwrap().accepting("old").unwrap();
        let old = ClusterKey::new("old").unwrap();
        let proof = HANDSHAKE.connector_proof(&old);
        let proven = HANDSHAKE.proven(&key, &proof).unwrap();
        assert!(!proven.is_current);
        assert!(!HANDSHAKE.is_listener(&key, &HANDSHAKE.listener_proof(proven)));
    }

    #[test]
    fn keys_are_not_printed_and_never_empty() {
        let key = ClusterKey::new("secret").unwrap();
        assert_eq!(
            format!("{:?}", key.clone().accepting("old").unwrap()),
            "***"
        );
        assert!(ClusterKey::new("").is_none());
        assert!(key.accepting("").is_none());
    }
}
