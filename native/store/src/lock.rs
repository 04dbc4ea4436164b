//! Who owns an app: a file under `run/`, flocked by the owning process for as long as it lives.
//!
//! flock and not POSIX locks, because those vanish when any code of the process closes any
//! descriptor of the file. The text inside (pid, control socket) is for people and for clients of
//! the control socket; only the flock decides.

use crate::StoreError;
use macula_core::Clock;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// The process that owns an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its operating system process id.
    pub pid: u32,
    /// The file name of its control socket under `run/`, if it has one.
    pub socket: Option<String>,
}

/// How often, and how long apart, a lock is asked for that an owner holds, who may be about to write
/// its name or to let go.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(3);
/// And one that nobody holds but who asks for the owner, each for some microseconds.
const TRIES_AMONG_ASKERS: u32 = 1000;

/// Held for as long as the app is open. The kernel lets go of it when the process ends.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: std::fs::File,
}

impl OwnerLock {
    /// Own the app, or learn who does.
    ///
    /// # Errors
    /// [`StoreError::Locked`] with the owner when another process, or another opening in this
    /// process, holds it.
    pub fn acquire(path: &Path, owner: &Owner, clock: &dyn Clock) -> Result<Self, StoreError> {
        let mut file = open(path, OFlags::CREATE)?;
        let failed = |error: rustix::io::Errno| StoreError::io("lock", path, error.into());
        let (mut owned, mut asked) = (0, 0);
        while !try_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed)? {
            // who only asks shares the lock, an owner does not
            match try_lock(&file, FlockOperation::NonBlockingLockShared).map_err(failed)? {
                true => asked += 1,
                false => owned += 1,
            }
            let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
            if owned == TRIES || asked == TRIES_AMONG_ASKERS {
                return Err(StoreError::Locked(read(&mut file)));
            }
            clock.sleep(PAUSE);
        }
        let text = serde_json::to_vec(owner).unwrap_or_default();
        // a longer text of the owner before makes the whole unreadable until it is cut
        let written = file.write_all(&text).and_then(|()| file.set_len(text.len() as u64));
        written.map_err(|error| StoreError::io("write the owner into", path, error))?;
        Ok(Self { _file: file })
    }

    /// The process that owns the app now, if one does.
    pub fn owner(path: &Path) -> Result<Option<Owner>, StoreError> {
        let mut file = match open(path, OFlags::empty()) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match try_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(true) => Ok(None),
            Ok(false) => Ok(read(&mut file)),
            Err(error) => Err(StoreError::io("lock", path, error.into())),
        }
    }
}

fn try_lock(file: &std::fs::File, how: FlockOperation) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path, more: OFlags) -> Result<std::fs::File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    Ok(fd.map_err(|error| StoreError::io("open", path, error.into()))?.into())
}

fn read(file: &mut std::fs::File) -> Option<Owner> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(4096).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_core::SystemClock;

    /// Asking who owns an app once made an opening at the same moment fail as locked.
    #[test]
    fn asking_does_not_keep_an_owner_out() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("app.lock");
        let owner = Owner { pid: 1, socket: None };
        std::thread::scope(|threads| {
            let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
            for _ in 0..3 {
                let (path, stopped) = (&path, stopped.clone());
                threads.spawn(move || {
                    while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                        OwnerLock::owner(path).expect("readable");
                    }
                });
            }
            for _ in 0..200 {
                drop(OwnerLock::acquire(&path, &owner, &SystemClock).expect("free"));
            }
            drop(stop);
        });
    }

    #[test]
    fn a_second_owner_learns_the_first_ones_pid() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("app.lock");
        let owner = Owner { pid: 42, socket: Some("s".into()) };
        assert_eq!(OwnerLock::owner(&path).expect("no file yet"), None);
        let lock = OwnerLock::acquire(&path, &owner, &SystemClock).expect("free");
        match OwnerLock::acquire(&path, &Owner { pid: 43, socket: None }, &SystemClock) {
            Err(StoreError::Locked(Some(found))) => assert_eq!(found, owner),
            other => panic!("expected Locked, got {other:?}"),
        }
        assert_eq!(OwnerLock::owner(&path).expect("readable"), Some(owner));
        drop(lock);
        assert_eq!(OwnerLock::owner(&path).expect("readable"), None);
    }
}
