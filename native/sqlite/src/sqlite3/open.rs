//! Opening a file, or memory, by its path.

use super::{Conn, Sqlite3Error};
use crate::database::refuse_in_the_way;
use crate::{bridge, SqliteError};
use rusqlite::OpenFlags;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode {
    /// Also for writing.
    pub write: bool,
    /// Made when it is not there.
    pub create: bool,
}

impl Conn {
    /// Open `path`, which may be `:memory:`, empty (a temporary database) or a `file:` URI. Blocks on the
    /// disk. [`SqliteError::OpenedByOther`] when another copy of SQLite in this process has it open. Tells
    /// also whether it goes through the bridge, where reads are the host's, and wait.
    pub(super) fn open_file(path: &str, mode: OpenMode) -> Result<(rusqlite::Connection, bool), Sqlite3Error> {
        crate::syscalls::install()?;
        if path.contains('\0') {
            return Err(SqliteError::invalid("a path holds a NUL byte").into());
        }
        // an app's own connections go through it, too
        let vfs = bridge::beneath(c"unix");
        if let Some(file) = file_of(path) {
            refuse_in_the_way(&file, vfs)?;
        }
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        flags |= if mode.write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        if mode.create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE;
            flags.remove(OpenFlags::SQLITE_OPEN_READ_ONLY);
        }
        let opened = rusqlite::Connection::open_with_flags_and_vfs(path, flags, vfs);
        opened.map(|db| (db, bridge::is_beneath(vfs))).map_err(|error| match error {
            rusqlite::Error::SqliteFailure(code, message) => Sqlite3Error::Sqlite(crate::Failure {
                code: code.extended_code,
                message: message.unwrap_or_else(|| code.to_string()),
                offset: None,
            }),
            error => crate::error::classify(error).into(),
        })
    }
}

/// The file that SQLite would open, links followed; `None` for memory and for what is not there yet.
fn file_of(path: &str) -> Option<PathBuf> {
    let name = match path.strip_prefix("file:") {
        None => path.as_bytes().to_vec(),
        Some(uri) => {
            let uri = uri.split(['?', '#']).next().unwrap_or_default();
            // an authority, which is empty or `localhost`
            let uri = uri.strip_prefix("//").map_or(uri, |rest| rest.find('/').map_or("", |at| &rest[at..]));
            unescape(uri.as_bytes())
        }
    };
    if name.is_empty() || name.starts_with(b":") {
        return None;
    }
    std::fs::canonicalize(Path::new(&OsString::from_vec(name))).ok()
}

/// `%41` is `A`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = escaped.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_file_of_a_path_or_uri() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("a b.db");
        std::os::unix::fs::symlink(&real, dir.path().join("link.db")).unwrap();
        assert_eq!(file_of(real.to_str().unwrap()), None, "not there yet");
        drop(std::fs::OpenOptions::new().create(true).append(true).open(&real).unwrap());
        let (dir, real) = (dir.path().to_str().unwrap(), Some(real));
        for path in [
            format!("{dir}/a b.db"),
            format!("{dir}/link.db"),
            format!("file:{dir}/a%20b.db?mode=ro"),
            format!("file://{dir}/a%20b.db"),
            format!("file://localhost{dir}/a b.db#x"),
        ] {
            assert_eq!(file_of(&path), real, "{path}");
        }
        for path in [":memory:", "", "file::memory:?cache=shared", "file:", "file:%zz"] {
            assert_eq!(file_of(path), None, "{path}");
        }
    }
}
