//! What a restore or a backup leaves behind: moved out of the way at once, removed later.
//!
//! A rename costs the same for one file and for a million, so opening an app never waits for a
//! removal; the rubbish of an app is removed at the end of a restore, and in the background.
//! Invariant: a tree is removed only when no power loss can give it a name again that means
//! something. What cannot be removed keeps its rubbish name, takes room and harms nobody.

use crate::layout::{APPS, BACKUPS};
use crate::{Base, StoreError};
use macula_core::{AppName, Disk, FileKind, RelPath};
use std::io;

const PREFIX: &str = ".rubbish-";
/// What is not ours and nobody asked us to remove.
const KEPT: &str = ".aside-";

/// Give what lies at `path` a rubbish name beside it; nothing there is fine. Not durable until a
/// sync of the directory.
pub(crate) fn set_aside(base: &Base, app: &AppName, path: &RelPath) -> Result<(), StoreError> {
    move_aside(base, app, path, PREFIX)
}

/// As [`set_aside`], for what a person is to look at and remove: `.aside-<app>-<number>`.
pub(crate) fn keep_aside(base: &Base, app: &AppName, path: &RelPath) -> Result<(), StoreError> {
    move_aside(base, app, path, KEPT)
}

fn move_aside(base: &Base, app: &AppName, path: &RelPath, prefix: &str) -> Result<(), StoreError> {
    let refused = |error: io::Error| {
        let what = format!("{error}; it is left over from before: remove it, or let this user, and try again");
        StoreError::io("move out of the way", base.layout.absolute(path), io::Error::new(error.kind(), what))
    };
    if let Err(error) = base.disk.stat(path) {
        return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(refused(error)) };
    }
    let name = format!("{prefix}{app}-{:016x}", base.seams.chance.next_u64());
    base.disk.rename(path, &path.parent().join(name)?).map_err(refused)
}

/// Rename what is rubbish already once more. The sync that follows then makes every rename before
/// this one durable, also one whose own sync had failed.
pub(crate) fn renew(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let apps = RelPath::literal(APPS);
    let all = of_app(base, &apps, app).map_err(|e| StoreError::io("list", base.layout.absolute(&apps), e))?;
    all.iter().try_for_each(|path| set_aside(base, app, path))
}

/// Remove the rubbish of an app that is open, until `stop` says so. What is refused now is tried
/// again the next time.
pub(crate) fn remove(base: &Base, app: &AppName, stop: &dyn Fn() -> bool) {
    for dir in [APPS, BACKUPS] {
        for path in of_app(base, &RelPath::literal(dir), app).unwrap_or_default() {
            let _ = remove_until(&*base.disk, &path, stop);
        }
    }
}

/// Which apps have rubbish.
pub(crate) fn owners(base: &Base) -> Vec<AppName> {
    let mut owners = Vec::new();
    for dir in [APPS, BACKUPS] {
        let entries = base.disk.list(&RelPath::literal(dir)).unwrap_or_default();
        owners.extend(entries.iter().filter_map(|entry| owner(entry.name.to_str()?)));
    }
    owners.sort();
    owners.dedup();
    owners
}

fn of_app(base: &Base, dir: &RelPath, app: &AppName) -> io::Result<Vec<RelPath>> {
    let entries = base.disk.list(dir)?;
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    Ok(names.filter(|name| owner(name).as_ref() == Some(app)).filter_map(|name| dir.join(name).ok()).collect())
}

/// Whose rubbish goes by that name.
fn owner(name: &str) -> Option<AppName> {
    let (app, number) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let ours = number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit());
    ours.then(|| AppName::new(app).ok()).flatten()
}

/// As [`macula_core::remove_tree`], ending where `stop` says so.
fn remove_until(disk: &dyn Disk, path: &RelPath, stop: &dyn Fn() -> bool) -> io::Result<()> {
    if stop() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let stat = disk.stat(path)?;
    if stat.kind != FileKind::Dir {
        return disk.remove_file(path);
    }
    if stat.mode & 0o700 != 0o700 {
        let _ = disk.set_dir_meta(path, stat.mode | 0o700, stat.mtime_ns);
    }
    for entry in disk.list(path).unwrap_or_default() {
        let name = std::os::unix::ffi::OsStrExt::as_bytes(entry.name.as_os_str());
        let below = path.join(name).map_err(io::Error::other)?;
        if let Err(error) = remove_until(disk, &below, stop) {
            // one that stays keeps nothing else
            if error.kind() == io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    disk.remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_belongs_to_exactly_one_app() {
        let owner = |name| owner(name).map(|app| app.to_string());
        assert_eq!(owner(".rubbish-a-0123456789abcdef").as_deref(), Some("a"));
        assert_eq!(owner(".rubbish-a-b-0123456789abcdef").as_deref(), Some("a-b"));
        for other in ["rubbish-a-0123456789abcdef", ".rubbish-a-0123", ".rubbish--0123456789abcdef", ".restore-a"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
