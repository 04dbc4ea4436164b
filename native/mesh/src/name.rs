//! Which file: its app and its path there, as one key.
//!
//! Invariant: the order of keys is by app, then by path, in bytes; what comes from a peer is a name only if
//! it could be one of our own, so nobody names their way out of an app.

use crate::MeshError;
use macula_core::{AppName, RelPath};
use std::fmt;

/// A file of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The app.
    pub app: AppName,
    /// The path below its files.
    pub path: RelPath,
}

impl Name {
    /// App, a zero byte, path.
    pub fn key(&self) -> Vec<u8> {
        [self.app.as_str().as_bytes(), b"\0", self.path.as_bytes()].concat()
    }

    /// Of a key.
    ///
    /// # Errors
    /// [`MeshError::Malformed`] for what is none.
    pub fn of_key(key: &[u8]) -> Result<Self, MeshError> {
        let malformed = |what: String| MeshError::Malformed(format!("not a file's key: {what}"));
        let at = key.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("without an end of the app".into()))?;
        let app = std::str::from_utf8(&key[..at]).map_err(|error| malformed(error.to_string()))?;
        let app = AppName::new(app).map_err(|error| malformed(error.to_string()))?;
        let path = RelPath::new(&key[at + 1..]).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { app, path })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.app.as_str(), self.path)
    }
}
