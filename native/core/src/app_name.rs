//! Names of apps: `[a-z0-9_-]`, 1 to 64 bytes, beginning with a letter or digit.
//!
//! Invariant: an [`AppName`] is one path component that is never `.` or `..`, so an app cannot name
//! its way into another app's directory.

use crate::{Kind, Kinded};
use std::fmt;

/// A validated app name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppName(String);

/// A name that no app can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an app name: expected 1 to 64 of [a-z0-9_-] beginning with a letter or digit, got name={0:?}")]
pub struct NameError(pub String);

impl Kinded for NameError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl AppName {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 64;

    /// The name, if it is one.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let bytes = name.as_bytes();
        let starts_well = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let known = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-';
        if starts_well && bytes.len() <= Self::LEN_MAX && bytes.iter().all(known) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NameError(name.chars().take(80).collect()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_the_grammar() {
        let longest = "a".repeat(64);
        for good in ["a", "0", "my_app", "my-app", "9_-", longest.as_str()] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(65);
        for bad in ["", ".", "..", "_a", "-a", "A", "a b", "a/b", "a\0", "é", "a.b", too_long.as_str()] {
            assert!(AppName::new(bad).is_err(), "{bad:?}");
        }
    }
}
