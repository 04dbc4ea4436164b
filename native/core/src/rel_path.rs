//! Paths inside a directory: bytes, relative, without `.` or `..`, at most 4,095 bytes.
//!
//! Invariant: joining a [`RelPath`] to a directory names something beneath it, as long as no
//! component is a symlink; [`crate::RealDisk`] sees to the latter while opening, never before.

use crate::{Kind, Kinded};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A validated relative path. The root of the tree itself is [`RelPath::root`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(PathBuf);

/// A path that could leave its directory, or that no file system takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a path inside the app: {reason}, got path={path:?}")]
pub struct PathError {
    /// What is wrong with it.
    pub reason: &'static str,
    /// The path, cut to 80 characters.
    pub path: String,
}

impl Kinded for PathError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl RelPath {
    /// Longest path, in bytes.
    pub const LEN_MAX: usize = 4095;
    /// Longest component, in bytes.
    pub const NAME_LEN_MAX: usize = 255;

    /// The directory itself.
    pub fn root() -> Self {
        Self(PathBuf::from("."))
    }

    /// The path, if it stays inside: no empty, absolute, `.`, `..`, doubled or trailing slash, NUL.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = path.as_ref();
        let refuse = |reason| {
            let path = String::from_utf8_lossy(bytes).chars().take(80).collect();
            Err(PathError { reason, path })
        };
        if bytes.is_empty() {
            return refuse("empty");
        }
        if bytes.len() > Self::LEN_MAX {
            return refuse("longer than 4095 bytes");
        }
        if bytes[0] == b'/' {
            return refuse("absolute");
        }
        for name in bytes.split(|b| *b == b'/') {
            match name {
                b"" => return refuse("empty component"),
                b"." | b".." => return refuse("`.` or `..` as component"),
                _ if name.contains(&0) => return refuse("NUL byte"),
                _ if name.len() > Self::NAME_LEN_MAX => return refuse("component longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(PathBuf::from(OsStr::from_bytes(bytes))))
    }

    /// A path of our own that is known to be good.
    ///
    /// # Panics
    /// If it is not: a defect of the caller, who wrote it as a literal.
    pub fn literal(path: &'static str) -> Self {
        match Self::new(path) {
            Ok(path) => path,
            Err(error) => panic!("{error}"),
        }
    }

    /// This path with `name` (itself a valid path) below it.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let below = Self::new(name)?;
        if self.is_root() {
            return Ok(below);
        }
        let mut bytes = self.as_bytes().to_vec();
        bytes.push(b'/');
        bytes.extend_from_slice(below.as_bytes());
        Self::new(bytes)
    }

    /// The directory that holds it; the root for a single component.
    pub fn parent(&self) -> Self {
        match self.0.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Self(parent.to_owned()),
            _ => Self::root(),
        }
    }

    /// The last component; `.` for the root.
    pub fn name(&self) -> &OsStr {
        self.0.file_name().unwrap_or(OsStr::new("."))
    }

    /// Whether it is the directory itself.
    pub fn is_root(&self) -> bool {
        self.0.components().all(|c| c == Component::CurDir)
    }

    /// As a relative `Path`.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// As bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// Whether it is `dir` or lies below it, by whole components: `my` never holds `my_app`.
    pub fn is_within(&self, dir: &RelPath) -> bool {
        dir.is_root() || self.0.starts_with(&dir.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_leave() {
        let long_name = "a".repeat(256);
        let long_path = "ab/".repeat(1366);
        for bad in ["", "/", "/etc", "..", "a/..", "a/../b", ".", "./a", "a//b", "a/", "a\0b", &long_name, &long_path] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", ".hidden", "..a", "a b/ü", "a:b"] {
            assert!(RelPath::new(good).is_ok(), "{good:?}");
        }
        assert!(RelPath::new([0xff, 0xfe]).is_ok(), "names are bytes");
    }

    #[test]
    fn joins_and_parents() {
        let root = RelPath::root();
        let a = root.join("a").expect("good");
        let ab = a.join("b").expect("good");
        assert_eq!(ab.as_bytes(), b"a/b");
        assert_eq!(ab.parent(), a);
        assert_eq!(a.parent(), root);
        assert!(ab.is_within(&a) && ab.is_within(&root) && !RelPath::literal("ab").is_within(&a));
    }
}
