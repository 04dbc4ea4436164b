//! Small operations that several engines need, written once over the [`Disk`] seam.

use crate::{Disk, FileKind, Open, RelPath};
use std::io;

/// Create `dir` and what is missing above it, each made durable in its parent. So is a `dir` that is
/// there already: whoever made it may not have come to that, or have been killed before.
pub fn create_dir_all(disk: &dyn Disk, dir: &RelPath) -> io::Result<()> {
    if dir.is_root() {
        return Ok(());
    }
    match disk.create_dir(dir) {
        Ok(()) => disk.sync_dir(&dir.parent()).inspect_err(|_| {
            // a sync that failed may never be made good: who tries again must make the name again
            let _ = disk.remove_dir(dir);
        }),
        // when the tree's own directory is gone there is nothing above to create
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.parent().is_root() => {
            create_dir_all(disk, &dir.parent())?;
            create_dir_all(disk, dir)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match disk.stat(dir)?.kind {
            FileKind::Dir => disk.sync_dir(&dir.parent()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        },
        Err(error) => Err(error),
    }
}

/// Remove a file or a whole directory; nothing there is fine. What cannot be removed keeps nothing
/// else: the first refusal is told when the rest is gone. Not durable until a sync.
pub fn remove_tree(disk: &dyn Disk, path: &RelPath) -> io::Result<()> {
    let stat = match disk.stat(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stat => stat?,
    };
    if stat.kind != FileKind::Dir {
        return gone(disk.remove_file(path));
    }
    if stat.mode & 0o700 != 0o700 {
        // only root removes what is in a directory that it may not write; where the directory is
        // another user's, the listing says what is wrong
        let _ = disk.set_dir_meta(path, stat.mode | 0o700, stat.mtime_ns);
    }
    let entries = match disk.list(path) {
        // one that nobody lets us read can still be empty
        Err(error) => return gone(disk.remove_dir(path)).map_err(|_| error),
        Ok(entries) => entries,
    };
    let mut refused = None;
    for entry in entries {
        let below = path.join(std::os::unix::ffi::OsStrExt::as_bytes(entry.name.as_os_str()));
        let below = below.map_err(|e| io::Error::new(io::ErrorKind::InvalidFilename, e));
        if let Err(error) = below.and_then(|below| remove_tree(disk, &below)) {
            refused.get_or_insert(error);
        }
    }
    refused.map_or_else(|| gone(disk.remove_dir(path)), Err)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A whole small file.
pub fn read_all(disk: &dyn Disk, path: &RelPath, len_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than expected: len={len}")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replace a small file by `bytes`: wholly the old or wholly the new, durable on return.
/// `temporary` is a name on the same device that nobody else uses.
pub fn write_durably(disk: &dyn Disk, path: &RelPath, temporary: &RelPath, bytes: &[u8]) -> io::Result<()> {
    gone(disk.remove_file(temporary))?;
    let file = disk.open(temporary, Open::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(temporary, path)?;
    disk.sync_dir(&path.parent())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests plant files, and start themselves as another user
mod tests {
    use super::*;
    use crate::RealDisk;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    const NOBODY: u32 = 65_534;
    const AS_NOBODY: &str = "MACULA_CORE_TEST_DIR";

    /// A tree whose own directory was removed made this recurse until the stack ended.
    #[test]
    fn creating_in_a_tree_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let gone = dir.path().join("gone");
        let disk = RealDisk::create_at(&gone).expect("created");
        disk.remove_dir(&RelPath::literal("x")).expect_err("nothing there");
        RealDisk::at(dir.path()).and_then(|above| above.remove_dir(&RelPath::literal("gone"))).expect("removed");
        let error = create_dir_all(&disk, &RelPath::literal("a/b")).expect_err("no tree");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// A VM that is not root could not remove a directory of its own with mode 0000: the mode was to
    /// be changed through a descriptor that such a directory does not give. The staging of a restore
    /// stayed for ever, and the next one unpacked into it.
    #[test]
    fn its_owner_removes_a_directory_that_nobody_may_enter() {
        let dir = tempfile::tempdir().expect("tempdir");
        if !rustix::process::geteuid().is_root() {
            return remove_what_nobody_may_enter(dir.path());
        }
        // this test binary again, as a user whom modes bind
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("opened");
        let exe = std::env::current_exe().expect("known");
        let copy = dir.path().join("test");
        std::fs::copy(exe, &copy).expect("copied");
        let mut child = Command::new(&copy);
        child.args(["--exact", "disk_ops::tests::as_nobody"]).env(AS_NOBODY, dir.path()).current_dir(dir.path());
        assert!(child.uid(NOBODY).gid(NOBODY).status().expect("started").success());
    }

    /// Not a test of its own: what the child process runs.
    #[test]
    fn as_nobody() {
        let dir = std::env::vars_os().find(|(name, _)| name == AS_NOBODY);
        if let Some((_, dir)) = dir {
            remove_what_nobody_may_enter(Path::new(&dir));
        }
    }

    fn remove_what_nobody_may_enter(dir: &Path) {
        std::fs::DirBuilder::new().recursive(true).create(dir.join("tree/closed/below")).expect("made");
        std::fs::write(dir.join("tree/closed/below/file"), b"x").expect("written");
        std::fs::DirBuilder::new().mode(0o000).create(dir.join("tree/empty")).expect("made");
        for closed in ["tree/closed/below", "tree/closed"] {
            std::fs::set_permissions(dir.join(closed), PermissionsExt::from_mode(0o000)).expect("closed");
        }
        let disk = RealDisk::at(dir).expect("opened");
        remove_tree(&disk, &RelPath::literal("tree")).expect("removed");
        assert!(!dir.join("tree").exists());
    }
}
