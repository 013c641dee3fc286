//! Settings that are never printed.

use std::fmt;

/// A key, a password, an address with one. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for its one use.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Empty ones too: templates of settings have them where there is none.
impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_as_stars() {
        let secret = Secret::from("postgres://me:hunter2@db".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "postgres://me:hunter2@db");
    }
}
