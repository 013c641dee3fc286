//! Tokens of users and bots: `base64(id) "." base64(seconds) "." base64(256 random bits)`.
//!
//! Several libraries read the account's id out of the first part and refuse anything else.
//! Spec: limits-and-errors › HTTP basics.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{Id, marker::User};

/// What is stored and looked up instead of the token itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// A secret; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Token {
    /// A new token of `user`; `secret` must come from a cryptographic source.
    pub fn mint(user: Id<User>, now_ms: u64, secret: [u8; 32]) -> Self {
        let seconds = (now_ms / 1000) as u32;
        Self(format!(
            "{}.{}.{}",
            URL_SAFE_NO_PAD.encode(user.to_string()),
            URL_SAFE_NO_PAD.encode(seconds.to_be_bytes()),
            URL_SAFE_NO_PAD.encode(secret),
        ))
    }

    /// `None` if the text does not have the three parts, so that junk never reaches the database.
    /// A leading `Bot ` is dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("Bot ").unwrap_or(text).trim();
        if text.len() > 200 {
            return None;
        }
        let mut parts = text.split('.');
        let (id, time, secret) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || time.is_empty() || secret.is_empty() {
            return None;
        }
        let id = URL_SAFE_NO_PAD.decode(id.trim_end_matches('=')).ok()?;
        std::str::from_utf8(&id).ok()?.parse::<Id<User>>().ok()?;
        Some(Self(text.to_owned()))
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret itself, for the one answer that hands it out.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_parses_and_names_its_account() {
        let user = Id::new(1_180_000_000_000_000_002).unwrap();
        let token = Token::mint(user, 1_767_323_045_678, [7; 32]);
        let first = token.reveal().split('.').next().unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.decode(first).unwrap(),
            user.to_string().as_bytes()
        );
        let again = Token::parse(&format!("Bot {}", token.reveal())).unwrap();
        assert_eq!(again.hash(), token.hash());
        assert_eq!(
            format!("{token:?} {:?}", token.hash()),
            "*** TokenHash(***)"
        );
    }

    #[test]
    fn junk_is_no_token() {
        for junk in [
            "",
            "a",
            "a.b",
            "a.b.c",
            "MQ.b.c.d",
            "MQ..c",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            &"x".repeat(300),
        ] {
            assert!(Token::parse(junk).is_none(), "{junk}");
        }
        assert!(Token::parse("MQ.b.c").is_some());
    }
}
