//! Keys that follow from the cluster's key, and secrets that the database holds but cannot read.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
};

use crate::config::Secret;

/// A key for one purpose and one owner.
pub(crate) fn derive(cluster_key: &Secret, purpose: &str, owner: u64) -> [u8; 32] {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, purpose.as_bytes())
        .extract(cluster_key.reveal().as_bytes())
        .expand(&[&owner.to_be_bytes()], HKDF_SHA256)
        .and_then(|derived| derived.fill(&mut key))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    key
}

/// What a cluster key is known by in the database; nothing follows from it.
pub(crate) fn name(cluster_key: &Secret) -> Vec<u8> {
    derive(cluster_key, "guildhall name of a key 1", 0)[..8].to_vec()
}

fn cipher(cluster_key: &Secret, purpose: &str, owner: u64) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, &derive(cluster_key, purpose, owner))
        .expect("the key has 32 bytes")
}

/// Encrypts (AES-256-GCM) for [`open`] with the same purpose and owner.
pub(crate) fn seal(cluster_key: &Secret, purpose: &str, owner: u64, plain: &[u8]) -> Vec<u8> {
    let mut text = plain.to_vec();
    let nonce = cipher(cluster_key, purpose, owner)
        .seal_in_place_append_tag(Aad::empty(), &mut text)
        .expect("a secret is far below the cipher's limits");
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut text);
    sealed
}

/// `None`: sealed by another key, for another purpose or owner, or changed since.
pub(crate) fn open(
    cluster_key: &Secret,
    purpose: &str,
    owner: u64,
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = text.to_vec();
    let plain = cipher(cluster_key, purpose, owner)
        .open_in_place(Nonce::from(nonce), Aad::empty(), &mut text)
        .ok()?;
    Some(plain.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_lasting_name_of_its_own() {
        let key = |key: &str| Secret::from(key.to_owned());
        assert_eq!(name(&key("one")), name(&key("one")));
        assert_ne!(name(&key("one")), name(&key("two")));
        assert_eq!(name(&key("one")).len(), 8);
    }

    #[test]
    fn only_the_same_key_purpose_and_owner_open_what_was_sealed() {
        let key = Secret::from("a key of the cluster".to_owned());
        let sealed = seal(&key, "totp", 7, b"secret");
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(
            open(&key, "totp", 7, &sealed).as_deref(),
            Some(&b"secret"[..])
        );
        assert_ne!(seal(&key, "totp", 7, b"secret"), sealed);
        let mut bent = sealed.clone();
        bent[NONCE_LEN] ^= 1;
        assert_eq!(open(&key, "totp", 7, &bent), None);
        assert_eq!(open(&key, "totp", 8, &sealed), None);
        assert_eq!(open(&key, "other", 7, &sealed), None);
        assert_eq!(
            open(&Secret::from("another".to_owned()), "totp", 7, &sealed),
            None
        );
        assert_eq!(open(&key, "totp", 7, b"short"), None);
    }
}
