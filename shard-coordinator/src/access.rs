//! Tokens of operators: signed under a key that follows from the cluster's key, so that none
//! of the cluster's other tokens is valid here, nor one of these elsewhere. While that key is renewed,
//! tokens under either are valid.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guildhall_shared::cluster_key::{ClusterKeys, KEY_BYTES_MIN};
use guildhall_shared::operator::{AUDIENCE, Claims, Scope, TOKEN_LIFETIME_MAX_S};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sha2::Sha256;

/// What the key is for; another version makes another key.
const PURPOSE: &[u8] = b"guildhall admin 1";
/// Longest name of an operator, in bytes.
const NAME_MAX: usize = 64;
/// How far the clock of whoever signs may be ahead.
const CLOCK_AHEAD_MAX_S: u64 = 60;

/// Signs and checks operators' tokens; prints as `***`.
#[derive(Clone)]
pub struct AdminKey {
    own: [u8; 32],
    /// Tokens under these are taken, too.
    others: Vec<[u8; 32]>,
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("CLUSTER_KEY: needs at least {KEY_BYTES_MIN} characters")]
    ShortKey,
    #[error("an operator's name has 1 to {NAME_MAX} visible ASCII characters")]
    Name,
    #[error("a token lives for 1 second to 12 hours")]
    Lifetime,
    #[error("the token could not be signed: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
}

impl AdminKey {
    /// The key of a cluster.
    ///
    /// Errors: [`TokenError::ShortKey`].
    pub fn of_cluster(cluster_key: &str) -> Result<Self, TokenError> {
        if cluster_key.len() < KEY_BYTES_MIN {
            return Err(TokenError::ShortKey);
        }
        Ok(Self {
            own: derive(cluster_key),
            others: Vec::new(),
        })
    }

    /// The key of a cluster, which takes tokens under those accepted beside it, too.
    pub(crate) fn of_keys(keys: ClusterKeys<'_>) -> Self {
        Self {
            own: derive(keys.current),
            others: keys.others().map(derive).collect(),
        }
    }

    /// A token for an operator of this name.
    ///
    /// Errors: a name or lifetime out of bounds.
    pub fn sign(
        &self,
        name: &str,
        scope: Scope,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Name);
        }
        if !(1..=TOKEN_LIFETIME_MAX_S).contains(&lifetime.as_secs()) {
            return Err(TokenError::Lifetime);
        }
        let claims = Claims {
            sub: name.to_owned(),
            scope,
            aud: AUDIENCE.to_owned(),
            exp: unix_seconds(now) + lifetime.as_secs(),
        };
        let key = EncodingKey::from_secret(&self.own);
        let header = Header::new(Algorithm::HS256);
        Ok(jsonwebtoken::encode(&header, &claims, &key)?)
    }

    /// What a token says, if it is one of ours and valid now.
    pub(crate) fn check(&self, token: &str, now: SystemTime) -> Option<Claims> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_audience(&[AUDIENCE]);
        rules.validate_exp = false; // below, against the `now` we are given
        let claims = std::iter::once(&self.own)
            .chain(&self.others)
            .find_map(|key| {
                let key = DecodingKey::from_secret(key);
                jsonwebtoken::decode::<Claims>(token, &key, &rules).ok()
            })?;
        let (claims, now) = (claims.claims, unix_seconds(now));
        let latest = now + TOKEN_LIFETIME_MAX_S + CLOCK_AHEAD_MAX_S;
        (now < claims.exp && claims.exp <= latest).then_some(claims)
    }
}

fn derive(cluster_key: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(cluster_key.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(PURPOSE);
    mac.finalize().into_bytes().into()
}

pub(crate) fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn key(cluster_key: &str) -> AdminKey {
        AdminKey::of_cluster(cluster_key).unwrap()
    }

    fn cluster() -> AdminKey {
        key("a cluster key for tests, long enough")
    }

    #[test]
    fn a_token_is_valid_until_it_expires_under_its_own_key_alone() {
        let now = SystemTime::now();
        let token = cluster().sign("ann", Scope::Read, HOUR, now).unwrap();
        let claims = cluster().check(&token, now).unwrap();
        assert_eq!((claims.sub.as_str(), claims.scope), ("ann", Scope::Read));
        assert_eq!(cluster().check(&token, now + HOUR), None);
        let other = key("another cluster key for tests, as long");
        assert_eq!(other.check(&token, now), None);
        assert_eq!(cluster().check("junk", now), None);
    }

    #[test]
    fn while_the_key_is_renewed_tokens_under_either_are_taken_and_made_with_the_current_one() {
        const OLD: &str = "the old key of a cluster, long enough";
        const NEW: &str = "the new key of a cluster, long enough";
        let of = |current, next, previous| {
            AdminKey::of_keys(
                ClusterKeys::check(current, next, previous)
                    .unwrap_or_else(|error| panic!("{error}")),
            )
        };
        let now = SystemTime::now();
        let sign = |key: &AdminKey| key.sign("ann", Scope::Read, HOUR, now).unwrap();
        let (old, new) = (key(OLD), key(NEW));
        let first = of(OLD, Some(NEW), None);
        let second = of(NEW, None, Some(OLD));
        for renewing in [&first, &second] {
            for token in [sign(&old), sign(&new)] {
                assert!(renewing.check(&token, now).is_some());
            }
            let strange = key("another cluster key for tests, as long");
            assert_eq!(renewing.check(&sign(&strange), now), None);
        }
        assert!(old.check(&sign(&first), now).is_some());
        assert!(new.check(&sign(&second), now).is_some());
        assert_eq!(new.check(&sign(&old), now), None);
        let expired = old.sign("ann", Scope::Read, HOUR, now - 2 * HOUR).unwrap();
        assert_eq!(second.check(&expired, now), None);
    }

    #[test]
    fn a_token_signed_with_the_cluster_key_itself_is_none() {
        let claims = |aud: &str, exp| Claims {
            sub: "ann".to_owned(),
            scope: Scope::Operate,
            aud: aud.to_owned(),
            exp,
        };
        let now = SystemTime::now();
        let soon = unix_seconds(now) + 60;
        let sign = |key: &[u8], claims| {
            let header = Header::new(Algorithm::HS256);
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key)).unwrap()
        };
        let raw = b"a cluster key for tests, long enough";
        let good = sign(&cluster().own, claims(AUDIENCE, soon));
        assert!(cluster().check(&good, now).is_some());
        for bad in [
            sign(raw, claims(AUDIENCE, soon)),
            sign(&cluster().own, claims("guildhall-operator", soon)),
            sign(&cluster().own, claims(AUDIENCE, soon + 13 * 3_600)),
        ] {
            assert_eq!(cluster().check(&bad, now), None);
        }
    }

    #[test]
    fn names_lifetimes_and_keys_have_bounds() {
        let now = SystemTime::now();
        let sign = |name: &str, lifetime| cluster().sign(name, Scope::Read, lifetime, now);
        assert!(matches!(sign("", HOUR), Err(TokenError::Name)));
        assert!(matches!(sign("a\nb", HOUR), Err(TokenError::Name)));
        assert!(matches!(sign("ann", 13 * HOUR), Err(TokenError::Lifetime)));
        assert!(matches!(
            sign("ann", Duration::ZERO),
            Err(TokenError::Lifetime)
        ));
        assert!(matches!(
            AdminKey::of_cluster("short"),
            Err(TokenError::ShortKey)
        ));
        assert_eq!(format!("{:?}", cluster()), "***");
    }
}
