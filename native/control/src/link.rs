//! One connected socket: frames in and out, every wait bounded.
//!
//! Invariant: no call here waits longer than it was told to, whatever the other process does: the
//! kernel's socket timeouts bound each system call, core's clock the loops around them.

use crate::frame::{self, Assembler, Frame, Type};
use crate::ControlError;
use macula_core::{Clock, SystemClock};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use serde::Serialize;
use std::time::Duration;

/// Bytes read at a time.
const CHUNK_LEN: usize = 16 << 10;
/// The kernel takes 0 as "for ever".
const WAIT_MIN: Duration = Duration::from_millis(1);

/// What reading brought.
#[derive(Debug)]
pub(crate) enum Read {
    /// A whole frame.
    Frame(Frame),
    /// Not yet.
    Nothing,
    /// The other side has ended.
    End,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Whole,
    /// The deadline passed first; the stream is broken.
    Late,
    /// The other side has ended.
    End,
}

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

/// Now, on the clock that every deadline here is of.
pub(crate) fn now() -> Duration {
    SystemClock.monotonic()
}

impl Link {
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Wait until `deadline` for the next frame.
    pub fn read(&self, frames: &mut Assembler, accepted: &[Type], deadline: Duration) -> Result<Read, ControlError> {
        loop {
            if let Some(frame) = frames.next(accepted)? {
                return Ok(Read::Frame(frame));
            }
            let Some(left) = deadline.checked_sub(now()) else { return Ok(Read::Nothing) };
            set_socket_timeout(&self.0, Timeout::Recv, Some(left.max(WAIT_MIN))).map_err(failed("read"))?;
            if self.receive(frames, RecvFlags::empty())? {
                return Ok(Read::End);
            }
        }
    }

    /// The next frame if it has arrived.
    pub fn read_now(&self, frames: &mut Assembler, accepted: &[Type]) -> Result<Read, ControlError> {
        let ended = self.receive(frames, RecvFlags::DONTWAIT)?;
        match frames.next(accepted)? {
            Some(frame) => Ok(Read::Frame(frame)),
            None if ended => Ok(Read::End),
            None => Ok(Read::Nothing),
        }
    }

    /// One chunk; true at the end of what the other side sends.
    fn receive(&self, frames: &mut Assembler, flags: RecvFlags) -> Result<bool, ControlError> {
        let mut chunk = [0; CHUNK_LEN];
        match rustix::net::recv(&self.0, &mut chunk, flags) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => Ok(true),
            Ok((len, _)) => {
                frames.push(&chunk[..len]);
                Ok(false)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// Send a frame by `deadline`.
    pub fn write(&self, of: Type, body: &impl Serialize, deadline: Duration) -> Result<Sent, ControlError> {
        let bytes = frame::encode(of, body)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some(left) = deadline.checked_sub(now()) else { return Ok(Sent::Late) };
            set_socket_timeout(&self.0, Timeout::Send, Some(left.max(WAIT_MIN))).map_err(failed("write"))?;
            match rustix::net::send(&self.0, rest, SendFlags::NOSIGNAL) {
                Ok(len) => rest = &rest[len..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Sent::End),
                Err(error) => return Err(failed("write")(error)),
            }
        }
        Ok(Sent::Whole)
    }

    /// Send a short frame if it goes at once. One that cannot go is left out whole; false when the
    /// stream is broken.
    pub fn write_now(&self, of: Type, body: &impl Serialize) -> bool {
        let Ok(bytes) = frame::encode(of, body) else { return false };
        match rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(len) => len == bytes.len(),
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Wake whoever reads; nothing more is read, writing goes on.
    pub fn stop_reading(&self) {
        // an error means that there is no connection to stop
        let _ = rustix::net::shutdown(&self.0, Shutdown::Read);
    }

    /// End the connection, whoever else still holds the socket. What was sent arrives.
    pub fn end(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// The user id of the other process, as the kernel recorded it when it connected or listened.
    pub fn peer_uid(&self) -> Result<u32, ControlError> {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // not rustix's call: its pid cannot be 0, which a peer of another pid namespace has
        // SAFETY: the pointers are to a live ucred and its length, which the kernel does not exceed
        let result = unsafe {
            let value = std::ptr::from_mut(&mut credentials).cast();
            libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &mut len)
        };
        if result == 0 {
            Ok(credentials.uid)
        } else {
            Err(ControlError::io("ask for the user of", "the control socket", std::io::Error::last_os_error()))
        }
    }

    /// Refuse a process of another user; root's is taken.
    ///
    /// # Errors
    /// [`ControlError::Stranger`].
    pub fn refuse_strangers(&self) -> Result<(), ControlError> {
        let (theirs, ours) = (self.peer_uid()?, rustix::process::geteuid().as_raw());
        if theirs == ours || theirs == 0 {
            Ok(())
        } else {
            Err(ControlError::Stranger { theirs, ours })
        }
    }
}

fn failed(verb: &'static str) -> impl FnOnce(Errno) -> ControlError {
    move |error| ControlError::io(verb, "the control socket", error)
}
