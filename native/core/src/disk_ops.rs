//! Small operations that several engines need, written once over the [`Disk`] seam.

use crate::{Disk, FileKind, Open, RelPath};
use std::io;

/// Create `dir` and what is missing above it, each made durable in its parent.
pub fn create_dir_all(disk: &dyn Disk, dir: &RelPath) -> io::Result<()> {
    if dir.is_root() {
        return Ok(());
    }
    match disk.create_dir(dir) {
        Ok(()) => disk.sync_dir(&dir.parent()),
        // when the tree's own directory is gone there is nothing above to create
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.parent().is_root() => {
            create_dir_all(disk, &dir.parent())?;
            create_dir_all(disk, dir)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match disk.stat(dir)?.kind {
            FileKind::Dir => Ok(()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        },
        Err(error) => Err(error),
    }
}

/// Remove a file or a whole directory; nothing there is fine. Not durable until a sync.
pub fn remove_tree(disk: &dyn Disk, path: &RelPath) -> io::Result<()> {
    let stat = match disk.stat(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stat => stat?,
    };
    if stat.kind != FileKind::Dir {
        return gone(disk.remove_file(path));
    }
    if stat.mode & 0o700 != 0o700 {
        // only root removes what is in a directory that it may not write
        disk.set_dir_meta(path, stat.mode | 0o700, stat.mtime_ns)?;
    }
    for entry in disk.list(path)? {
        let below = path.join(std::os::unix::ffi::OsStrExt::as_bytes(entry.name.as_os_str()));
        remove_tree(disk, &below.map_err(|e| io::Error::new(io::ErrorKind::InvalidFilename, e))?)?;
    }
    gone(disk.remove_dir(path))
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
mod tests {
    use super::*;
    use crate::RealDisk;

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
}
