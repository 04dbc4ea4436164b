//! Opening a file, or memory, by its path: as the database of a connection, or beside it by `ATTACH`.
//!
//! Invariant: no file is opened here that other code of this process has open past us, and no app's
//! file in a way that its writer would not know of.

use super::{Conn, Sqlite3Error};
use crate::connection::has_log;
use crate::database::refuse_in_the_way;
use crate::{bridge, guard, registry, SqliteError};
use rusqlite::OpenFlags;
use std::ffi::{CStr, OsString};
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
    /// disk. [`SqliteError::OpenedByOther`] when another copy of SQLite in this process has it open;
    /// [`SqliteError::Unlogged`] when that one is the bridge's and the file is not in WAL mode.
    pub(super) fn open_file(path: &str, mode: OpenMode) -> Result<Opened, Sqlite3Error> {
        crate::syscalls::install()?;
        if path.contains('\0') {
            return Err(SqliteError::invalid("a path holds a NUL byte").into());
        }
        // an app's own connections go through it, too
        let vfs = bridge::beneath(c"unix");
        let file = file_of(path);
        refuse_ways_around(path, file.as_deref())?;
        let mut is_shared = false;
        if let Some(file) = &file {
            refuse_in_the_way(file, vfs)?;
            is_shared = bridge::is_beneath(vfs) && used_by_host(file)?;
        }
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        flags |= if mode.write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        if mode.create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE;
            flags.remove(OpenFlags::SQLITE_OPEN_READ_ONLY);
        }
        let opened = rusqlite::Connection::open_with_flags_and_vfs(path, flags, vfs);
        let db = opened.map_err(|error| match error {
            rusqlite::Error::SqliteFailure(code, message) => Sqlite3Error::Sqlite(crate::Failure {
                code: code.extended_code,
                message: message.unwrap_or_else(|| code.to_string()),
                offset: None,
            }),
            error => crate::error::classify(error).into(),
        })?;
        let opened = Opened { crossing: crossing(&db, vfs)?, db };
        if is_shared && !has_log(&opened.db).map_err(crate::error::classify)? {
            return Err(SqliteError::Unlogged(file.unwrap_or_default()).into());
        }
        Ok(opened)
    }
}

/// A handle that was just opened.
pub(super) struct Opened {
    /// That it goes through the bridge, where reads are the host's, and wait. Before `db`, to be dropped
    /// before it: what is counted has a descriptor.
    pub(super) crossing: Option<bridge::Crossing>,
    pub(super) db: rusqlite::Connection,
}

fn used_by_host(file: &Path) -> Result<bool, SqliteError> {
    guard::opened_elsewhere(file).map_err(|error| SqliteError::io(&error, file))
}

fn crossing(db: &rusqlite::Connection, vfs: &CStr) -> Result<Option<bridge::Crossing>, SqliteError> {
    let Some(path) = db.path().filter(|path| !path.is_empty() && bridge::is_beneath(vfs)).map(Path::new) else {
        return Ok(None);
    };
    let inode = guard::inode_of(path).map_err(|error| SqliteError::io(&error, path))?;
    Ok(inode.map(bridge::Crossing::new))
}

/// Why `path` may not be attached to a connection.
pub(super) fn refuse_attached(path: &str) -> Result<(), SqliteError> {
    let file = file_of(path);
    refuse_ways_around(path, file.as_deref())?;
    let Some(file) = file else { return Ok(()) };
    if is_apps(&file) {
        return Err(SqliteError::Refused {
            what: "ATTACH of an app's database".to_owned(),
            hint: "its writer would not know of what is written there: open a connection of its own",
        });
    }
    refuse_in_the_way(&file, bridge::beneath(c"unix"))
}

/// Parameters of a URI that lead past the locks of who has the file open.
fn refuse_ways_around(path: &str, file: Option<&Path>) -> Result<(), SqliteError> {
    let refused = |what: &str| {
        let hint = "the file would be used past the locks of its other connections";
        Err(SqliteError::Refused { what: format!("{what} in a path"), hint })
    };
    for (key, value) in uri_params(path) {
        match &*key {
            b"vfs" if value.starts_with(b"unix") || value.starts_with(b"macula-bridge") => return refused("vfs="),
            b"nolock" | b"immutable" if file.is_some_and(is_apps) => return refused("nolock= or immutable="),
            _ => {}
        }
    }
    Ok(())
}

fn is_apps(file: &Path) -> bool {
    file.to_str().and_then(registry::file_id).and_then(registry::find).is_some()
}

fn uri_params(path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let query = path.strip_prefix("file:").and_then(|uri| uri.split('#').next()?.split_once('?'));
    let pair = |param: &str| {
        let (key, value) = param.split_once('=').unwrap_or((param, ""));
        (unescape(key.as_bytes()), unescape(value.as_bytes()))
    };
    query.map_or(Vec::new(), |(_, query)| query.split('&').map(pair).collect())
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
