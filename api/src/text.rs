//! Text as it is stored, and text that nobody can guess.

use rand::{RngExt, distr::Alphanumeric};

/// A name as it is stored: trimmed, without the one character that Postgres refuses.
pub(crate) fn clean(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}

/// So many letters and digits, nearly six bits each, that nobody can guess.
pub(crate) fn random_code(length: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}
