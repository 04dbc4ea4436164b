//! Where a control socket lies: a hashed name in the base's `run/`.
//!
//! A socket address holds 107 bytes, a base path may be longer: both sides then go through a
//! descriptor of the directory (`/proc/self/fd/N/name`).
//!
//! Invariant: no symlink at the socket's name is ever followed. The client connects to the inode
//! that it looked at, not to a name; binding refuses any name that is there.

use crate::link::Link;
use crate::ControlError;
use macula_core::{Chance, Clock, SystemClock};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest path in a socket address, bytes.
const PATH_LEN_MAX: usize = 107;
/// Longest name that leaves room for `/proc/self/fd/<10 digits>/`.
const NAME_LEN_MAX: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
const PREFIX: &str = "ctl-";
const SUFFIX: &str = ".sock";
/// A socket that nobody listens on is rubbish once older than this: a younger one may be about to.
const RUBBISH_AGE_S: u64 = 60;

/// A name for the control socket of process `pid`: short, and of no other process before or since.
pub fn socket_name(pid: u32, chance: &dyn Chance) -> String {
    let mut seed = [0; 36];
    chance.fill(&mut seed[4..]);
    seed[..4].copy_from_slice(&pid.to_le_bytes());
    let hash = blake3::hash(&seed).to_hex();
    format!("{PREFIX}{}{SUFFIX}", &hash[..16])
}

/// A socket's directory, opened, and its name there.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Place {
    /// # Errors
    /// [`ControlError::Unsafe`] for a name that is not one component, [`ControlError::Io`] when the
    /// directory cannot be opened.
    pub fn open(run_dir: &Path, name: &str) -> Result<Self, ControlError> {
        let path = run_dir.join(name);
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(ControlError::Unsafe { why: "not the name of a socket", path });
        }
        let dir = fs::open(run_dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| ControlError::io("open", run_dir, error))?;
        Ok(Self { dir, path, name: name.to_owned() })
    }

    /// Bind and listen, as a socket that only this user reaches, in a directory that only this user
    /// reads.
    pub fn listen(&self) -> Result<Listener, ControlError> {
        let failed = |verb| move |error: Errno| ControlError::io(verb, &self.path, error);
        self.close_dir()?;
        self.sweep();
        let socket = new_socket().map_err(failed("make"))?;
        // the inode gets the mode of the socket: there is no moment in which it is open to others
        fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("protect"))?;
        rustix::net::bind(&socket, &self.address(&self.path, &self.name).map_err(failed("name"))?)
            .map_err(failed("bind"))?;
        let stat = fs::statat(&self.dir, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("see"))?;
        let listener = Listener { socket, id: (stat.st_dev, stat.st_ino) };
        if !is_socket(&stat) || stat.st_mode & 0o077 != 0 {
            self.remove(&listener);
            return Err(ControlError::Unsafe { why: "others can reach it", path: self.path.clone() });
        }
        rustix::net::listen(&listener.socket, BACKLOG).map_err(failed("listen on"))?;
        Ok(listener)
    }

    /// Remove the socket's name, if it still stands for this socket.
    pub fn remove(&self, listener: &Listener) {
        let there = fs::statat(&self.dir, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == listener.id) {
            // a name that stays behind is swept by the next process that listens
            let _ = fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
        }
    }

    /// Connect, waiting at most `wait` for a place in the queue.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when nobody listens, [`ControlError::Unsafe`] and
    /// [`ControlError::Stranger`] when it is not what it should be.
    pub fn connect(&self, wait: Duration) -> Result<Link, ControlError> {
        let unsafe_place = |why| ControlError::Unsafe { why, path: self.path.clone() };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inode = match fs::openat(&self.dir, self.name.as_str(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(ControlError::Gone(self.name.clone())),
            inode => inode.map_err(|error| ControlError::io("open", &self.path, error))?,
        };
        let stat = fs::fstat(&inode).map_err(|error| ControlError::io("see", &self.path, error))?;
        if !is_socket(&stat) {
            return Err(unsafe_place("not a socket"));
        }
        let ours = rustix::process::geteuid().as_raw();
        if stat.st_uid != ours && stat.st_uid != 0 {
            return Err(ControlError::Stranger { theirs: stat.st_uid, ours });
        }
        let failed = |error: Errno| ControlError::io("connect to", &self.path, error);
        let socket = new_socket().map_err(failed)?;
        set_socket_timeout(&socket, Timeout::Send, Some(wait)).map_err(failed)?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", inode.as_raw_fd())).map_err(failed)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::CONNREFUSED) => return Err(ControlError::Gone(self.name.clone())),
                Err(Errno::AGAIN) => return Err(ControlError::Timeout { verb: "accept a connection", pid: None }),
                Err(error) => return Err(failed(error)),
            }
        }
        let link = Link::new(socket);
        link.refuse_strangers()?;
        Ok(link)
    }

    /// See to it that nobody else can enter the directory.
    fn close_dir(&self) -> Result<(), ControlError> {
        let dir = || self.path.parent().unwrap_or(&self.path).to_owned();
        let stat = fs::fstat(&self.dir).map_err(|error| ControlError::io("see", dir(), error))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(ControlError::Unsafe { why: "the directory is another user's", path: dir() });
        }
        if stat.st_mode & 0o077 != 0 {
            fs::fchmod(&self.dir, Mode::RWXU).map_err(|error| ControlError::io("protect", dir(), error))?;
        }
        Ok(())
    }

    /// Remove the sockets of processes that were killed.
    fn sweep(&self) {
        let Ok(dir) = fs::Dir::read_from(&self.dir) else { return };
        for entry in dir.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && self.is_rubbish(name) {
                let _ = fs::unlinkat(&self.dir, name, AtFlags::empty());
            }
        }
    }

    fn is_rubbish(&self, name: &str) -> bool {
        let Ok(stat) = fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let age_s = (SystemClock.wall_ms() / 1000).saturating_sub(stat.st_mtime.max(0) as u64);
        if !is_socket(&stat) || age_s < RUBBISH_AGE_S {
            return false;
        }
        let refused = || {
            let socket = new_socket()?;
            // a full queue is somebody's
            rustix::io::ioctl_fionbio(&socket, true)?;
            rustix::net::connect(&socket, &self.address(&self.path.with_file_name(name), name)?)
        };
        refused() == Err(Errno::CONNREFUSED)
    }

    fn address(&self, path: &Path, name: &str) -> rustix::io::Result<SocketAddrUnix> {
        if path.as_os_str().len() <= PATH_LEN_MAX {
            return SocketAddrUnix::new(path);
        }
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()).as_bytes())
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    pub socket: OwnedFd,
    id: (u64, u64),
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}
