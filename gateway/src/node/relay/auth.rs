//! Both sides of a link prove that they know the cluster key, each with its node id bound in.
//!
//! The listening side sends a challenge, the connecting side answers it and challenges back.
//! Nobody sends the key, and a proof is good for one connection, one direction, one pair.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::frame::{Challenge, Hello};

/// The secret all nodes of a cluster share; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(String);

impl ClusterKey {
    /// `None` for an empty key, which would let everybody in.
    pub fn new(key: impl Into<String>) -> Option<Self> {
        let key = key.into();
        (!key.is_empty()).then_some(Self(key))
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

impl Handshake<'_> {
    /// That the connecting side knows the key.
    pub(crate) fn connector_proof(self, key: &ClusterKey) -> [u8; 32] {
        self.mac(key, b"guildhall relay connector")
            .finalize()
            .into_bytes()
            .into()
    }

    /// That the listening side knows the key.
    pub(crate) fn listener_proof(self, key: &ClusterKey) -> [u8; 32] {
        self.mac(key, b"guildhall relay listener")
            .finalize()
            .into_bytes()
            .into()
    }

    /// Compares in constant time.
    pub(crate) fn is_connector(self, key: &ClusterKey, proof: &[u8; 32]) -> bool {
        self.mac(key, b"guildhall relay connector")
            .verify_slice(proof)
            .is_ok()
    }

    /// Compares in constant time.
    pub(crate) fn is_listener(self, key: &ClusterKey, proof: &[u8; 32]) -> bool {
        self.mac(key, b"guildhall relay listener")
            .verify_slice(proof)
            .is_ok()
    }

    fn mac(self, key: &ClusterKey, label: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.0.as_bytes())
            .expect("HMAC takes keys of any length");
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

    #[test]
    fn a_proof_is_good_for_one_key_one_side_and_one_pair() {
        let (key, other) = (ClusterKey::new("k").unwrap(), ClusterKey::new("l").unwrap());
        let handshake = Handshake {
            listener: "a",
            listener_nonce: &[1; 32],
            connector: "b",
            connector_nonce: &[2; 32],
        };
        let proof = handshake.connector_proof(&key);
        assert!(handshake.is_connector(&key, &proof));
        assert!(!handshake.is_connector(&other, &proof));
        assert!(!handshake.is_listener(&key, &proof));
        let renamed = Handshake {
            connector: "c",
            ..handshake
        };
        assert!(!renamed.is_connector(&key, &proof));
        let replayed = Handshake {
            listener_nonce: &[3; 32],
            ..handshake
        };
        assert!(!replayed.is_connector(&key, &proof));
    }

    #[test]
    fn keys_are_not_printed_and_never_empty() {
        assert_eq!(format!("{:?}", ClusterKey::new("secret").unwrap()), "***");
        assert!(ClusterKey::new("").is_none());
    }
}
