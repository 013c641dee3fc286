//! Ed25519 keys of applications: what is sent to their endpoints is signed with them.
//! Spec: limits-and-errors › Interactions.
//!
//! A key follows from the cluster's key and the application's id, so no private key is
//! stored. A new cluster key makes new application keys.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use guildhall_shared::{Id, Timestamp, id::marker::Application};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::{config::Secret, sealed};

const PURPOSE: &str = "guildhall application key 1";

/// Signs for one application.
#[derive(Debug)]
pub(crate) struct ApplicationKey(Ed25519KeyPair);

impl ApplicationKey {
    pub(crate) fn new(cluster_key: &Secret, application: Id<Application>) -> Self {
        let seed = sealed::derive(cluster_key, PURPOSE, application.get());
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        Self(pair)
    }

    /// `verify_key` of the application: 64 hex digits.
    pub(crate) fn verify_key(&self) -> String {
        hex::encode(self.0.public_key())
    }

    /// Headers of a request with this body, sent now.
    pub(crate) fn headers(&self, body: &[u8]) -> HeaderMap {
        let timestamp = Timestamp::now().0.unix_timestamp().to_string();
        let signed = [timestamp.as_bytes(), body].concat();
        let signature = hex::encode(self.0.sign(&signed));
        headers(&timestamp, &signature)
    }

    /// As [`Self::headers`], with a signature that is not right.
    pub(crate) fn wrong_headers(&self, body: &[u8]) -> HeaderMap {
        self.headers(&[body, b" "].concat())
    }
}

fn headers(timestamp: &str, signature: &str) -> HeaderMap {
    let value = |text: &str| HeaderValue::from_str(text).expect("digits are header text");
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-signature-ed25519", value(signature));
    headers.insert("x-signature-timestamp", value(timestamp));
    headers
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn each_application_signs_with_its_own_lasting_key() {
        let cluster = Secret::from("a cluster key for tests, long enough".to_owned());
        let key = |id| ApplicationKey::new(&cluster, Id::new(id).unwrap());
        assert_eq!(key(7).verify_key(), key(7).verify_key());
        assert_ne!(key(7).verify_key(), key(8).verify_key());
        let verify = |headers: &HeaderMap| {
            let public = hex::decode(key(7).verify_key()).unwrap();
            let signature = hex::decode(headers["x-signature-ed25519"].as_bytes()).unwrap();
            let signed = [headers["x-signature-timestamp"].as_bytes(), b"{}"].concat();
            UnparsedPublicKey::new(&ED25519, public).verify(&signed, &signature)
        };
        assert!(verify(&key(7).headers(b"{}")).is_ok());
        assert!(verify(&key(7).wrong_headers(b"{}")).is_err());
        assert!(verify(&key(8).headers(b"{}")).is_err());
    }
}
