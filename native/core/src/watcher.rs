//! What happens in directories, told by the kernel (inotify) while it happens.
//!
//! Invariant: what was not told is told to be missing ([`Happened::Missed`]), and nothing here waits.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;

/// Bytes of events that are read at once.
const BUFFER: usize = 64 * 1024;

/// What happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A file that was open for writing was closed, or a file came by another name.
    Written,
    /// A file or symlink is no longer there.
    Gone,
    /// A directory is there.
    DirCame,
    /// A directory is no longer there.
    DirGone,
    /// The directory itself is not watched any more.
    Ended,
    /// More happened than could be told, anywhere.
    Missed,
}

/// Something that happened in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// The watch of the directory.
    pub watch: i32,
    /// One path component, any bytes.
    pub name: Vec<u8>,
    /// What.
    pub happened: Happened,
}

/// Watches directories.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// One that watches nothing yet. Fails where there is no inotify, or this user has too many.
    pub fn new() -> io::Result<Self> {
        Ok(Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    /// Watch an open directory; of one that is watched already this is the same watch.
    pub(crate) fn watch(&self, dir: &OwnedFd) -> io::Result<i32> {
        let told = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::CREATE | WatchFlags::DELETE;
        // the descriptor, not its name: that may lead elsewhere meanwhile
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        Ok(inotify::add_watch(&self.0, path, told | WatchFlags::ONLYDIR)?)
    }

    /// Watch a directory no more.
    pub fn forget(&self, watch: i32) {
        // it may have ended by itself
        let _ = inotify::remove_watch(&self.0, watch);
    }

    /// What happened since the last call, at most about `limit`; nothing: nothing did.
    pub fn read(&self, limit: usize) -> io::Result<Vec<Noticed>> {
        let (mut buffer, mut noticed) = ([MaybeUninit::uninit(); BUFFER], Vec::new());
        let mut reader = Reader::new(self.0.as_fd(), &mut buffer);
        while noticed.len() < limit || !reader.is_buffer_empty() {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(happened) = happened(event.events()) {
                let name = event.file_name().map_or_else(Vec::new, |name| name.to_bytes().to_vec());
                noticed.push(Noticed { watch: event.wd(), name, happened });
            }
        }
        Ok(noticed)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn happened(flags: ReadFlags) -> Option<Happened> {
    let has = |some: ReadFlags| flags.intersects(some);
    let (came, gone) = (ReadFlags::CREATE | ReadFlags::MOVED_TO, ReadFlags::DELETE | ReadFlags::MOVED_FROM);
    match has(ReadFlags::ISDIR) {
        _ if has(ReadFlags::QUEUE_OVERFLOW) => Some(Happened::Missed),
        _ if has(ReadFlags::IGNORED) => Some(Happened::Ended),
        true if has(came) => Some(Happened::DirCame),
        true if has(gone) => Some(Happened::DirGone),
        false if has(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) => Some(Happened::Written),
        false if has(gone) => Some(Happened::Gone),
        // one that is made is told again when it is closed
        _ => None,
    }
}
