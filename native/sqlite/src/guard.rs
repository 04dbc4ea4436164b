//! Who else has a file open. POSIX locks belong to (process, inode): a second copy of SQLite in this
//! process, or any code that opens and closes the file, drops the locks of the first.
//!
//! Invariant: nothing here opens a file that any code of this process has open; such a file is read
//! through the descriptor that is there, which is never closed.

use crate::{bridge, syscalls};
use macula_core::{Disk, FileKind, Open, RelPath, Stat};
use rustix::fs;
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Device and number of a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    dev: u64,
    ino: u64,
}

impl From<&Stat> for Inode {
    fn from(stat: &Stat) -> Self {
        Self { dev: stat.dev, ino: stat.ino }
    }
}

impl From<&fs::Stat> for Inode {
    fn from(stat: &fs::Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// What a file turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A SQLite database.
    Database,
    /// Anything else.
    Other,
    /// The name stands for another file than the one that was asked about, or for none.
    Replaced,
}

/// Whether code of this process other than our copy of SQLite has the file open. `false` when there
/// is no such file. Costs one `fstat` per open descriptor. Through the bridge our connections have
/// descriptors of the host's, one each; one that was closed keeps its own while others hold locks, so a
/// `true` may then speak of our own past.
pub fn opened_elsewhere(path: &Path) -> io::Result<bool> {
    let Some(file) = inode_of(path)? else { return Ok(false) };
    let others = openers(file)?.iter().filter(|opener| !opener.ours).count();
    Ok(others > bridge::crossings(file))
}

/// [`opened_elsewhere`], asked while connections of ours are on the file: not taken in by descriptors that
/// closed connections left there, but blind to a connection that has not read yet. Each one that has
/// read has the log open, too, and closes that at once.
pub fn used_elsewhere(path: &Path) -> io::Result<bool> {
    let Some(file) = inode_of(path)? else { return Ok(false) };
    let (opened, ours) = (opened_elsewhere(path)?, bridge::crossings(file));
    if !opened || ours == 0 {
        return Ok(opened);
    }
    let [log, ..] = companions(path);
    let Some(log) = inode_of(&log)? else { return Ok(false) };
    Ok(openers(log)?.iter().filter(|opener| !opener.ours).count() > ours)
}

/// Whether a connection must not be on the file: past the bridge when other code is on it, or we are
/// through the bridge; through it when our own copy is on it past it, or perhaps a copy not the host.
pub(crate) fn is_in_the_way(path: &Path, vfs: &CStr) -> io::Result<bool> {
    let Some(file) = inode_of(path)? else { return Ok(false) };
    let openers = openers(file)?;
    if !bridge::is_beneath(vfs) {
        return Ok(openers.iter().any(|opener| !opener.ours));
    }
    Ok(openers.iter().any(|opener| opener.ours) || (bridge::is_disputed() && opened_elsewhere(path)?))
}

/// Which file the name stands for.
pub(crate) fn inode_of(path: &Path) -> io::Result<Option<Inode>> {
    Ok(stat_file(path)?.map(|file| Inode::from(&file)))
}

/// Whether any code of this process, our copy of SQLite included, has that very file open: whoever
/// opens and closes it then drops the locks of that code. Costs as [`opened_elsewhere`].
pub fn opened_here(file: &Stat) -> io::Result<bool> {
    Ok(!openers(file.into())?.is_empty())
}

/// Whether our copy of SQLite has that very file open.
pub(crate) fn opened_by_us(file: &Stat) -> io::Result<bool> {
    Ok(openers(file.into())?.iter().any(|opener| opener.ours))
}

/// Whether the name stands for that very file.
pub(crate) fn stands_for(path: &Path, file: &Stat) -> io::Result<bool> {
    Ok(stat_file(path)?.is_some_and(|found| Inode::from(&found) == file.into()))
}

/// Process ids of other OS processes that have the file open or locked, as far as this user may see.
pub fn other_processes(path: &Path) -> io::Result<Vec<u32>> {
    let Some(file) = stat_file(path)? else { return Ok(Vec::new()) };
    let own = std::process::id();
    let inode = Inode::from(&file);
    let mut pids = lock_holders(&file)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // a process of another user, or one that just ended, does not show its descriptors
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let same = |fd: std::fs::DirEntry| fs::stat(fd.path()).is_ok_and(|other| Inode::from(&other) == inode);
        if pid != own && fds.flatten().any(same) {
            pids.push(pid);
        }
    }
    pids.retain(|pid| *pid != own && *pid != 0);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Whether the file that was `seen` at `path` is a SQLite database, by its first bytes. Safe to ask of
/// any file, also of one that is open as a database in this process; anything but a regular file is
/// none. The name is resolved by the disk alone, so nothing outside it is ever looked at. An empty
/// file is none, and may be a database all the same that somebody is about to fill: it is not opened
/// here, and has nothing that anybody would need to open it for.
pub fn looks_like_sqlite(disk: &dyn Disk, path: &RelPath, seen: &Stat) -> io::Result<Look> {
    // a database is a whole number of pages, which are multiples of 512 bytes: most files end here
    if seen.kind != FileKind::File || seen.len < 512 || !seen.len.is_multiple_of(512) {
        return Ok(Look::Other);
    }
    let inode = Inode::from(seen);
    let judge = |head: &[u8; 16]| if head == MAGIC { Look::Database } else { Look::Other };
    let mut head = [0; 16];
    for opener in openers(inode)? {
        if read_through(opener.fd, inode, &mut head) {
            return Ok(judge(&head));
        }
    }
    let opened = disk.open(path, Open::Read)?;
    let stat = opened.stat()?;
    let read = opened.read_exact_at(&mut head, 0);
    // what was opened may be another file than the one that was seen, and that one somebody's database
    if openers(Inode::from(&stat))?.len() > 1 {
        // somebody opened it meanwhile: closing ours would drop their locks, so it stays open
        std::mem::forget(opened);
    }
    if Inode::from(&stat) != inode {
        return Ok(Look::Replaced);
    }
    match read {
        Ok(()) => Ok(judge(&head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Look::Other),
        Err(error) => Err(error),
    }
}

/// The names beside a database that SQLite keeps and that belong to it: log, index, journal.
pub fn companions(path: &Path) -> [PathBuf; 3] {
    ["-wal", "-shm", "-journal"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

struct Opener {
    fd: RawFd,
    ours: bool,
}

/// The descriptors of this process on that file.
fn openers(file: Inode) -> io::Result<Vec<Opener>> {
    // by path, not by number: a descriptor closed meanwhile is then merely not there
    let is_open = |fd: RawFd| fs::stat(format!("/proc/self/fd/{fd}")).is_ok_and(|other| Inode::from(&other) == file);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|fd| is_open(*fd)));
    }
    // whose they are is only known while none of ours is opened or closed; all the others were looked
    // at before, since one of them may hang (a dead network mount)
    let own = syscalls::own_fds();
    found.retain(|fd| is_open(*fd));
    Ok(found.into_iter().map(|fd| Opener { fd, ours: own.contains(&fd) }).collect())
}

/// Read the head through somebody's descriptor: `pread` moves no position and closes nothing.
fn read_through(fd: RawFd, file: Inode, head: &mut [u8; 16]) -> bool {
    // SAFETY: the number may be closed or reused at any time by its owner; then the calls below fail
    // or read 16 bytes of another file, which the second `fstat` tells
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let still = || fs::fstat(fd).is_ok_and(|other| Inode::from(&other) == file);
    still() && rustix::io::pread(fd, &mut head[..], 0).is_ok_and(|len| len == head.len()) && still()
}

fn stat_file(path: &Path) -> io::Result<Option<fs::Stat>> {
    match fs::lstat(path) {
        Ok(stat) if fs::FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Some(stat)),
        Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Pids in `/proc/locks`, whose lines read `1: POSIX  ADVISORY  READ 1234 fd:01:5678 128 128`.
fn lock_holders(file: &fs::Stat) -> io::Result<Vec<u32>> {
    let (major, minor) = (fs::major(file.st_dev), fs::minor(file.st_dev));
    let inode = format!("{major:02x}:{minor:02x}:{}", file.st_ino);
    let text = match std::fs::read_to_string("/proc/locks") {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == inode)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Ok(text.lines().filter_map(holder).collect())
}
