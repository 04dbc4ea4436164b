//! What can go wrong between an operator's command and the process that owns the app.

use crate::frame::VERSION;
use macula_core::{io_kind, Kind, Kinded};
use macula_store::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// An error of a command, wherever it was performed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The command failed in this process.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command failed in the process that owns the app, which says so.
    #[error("{message}")]
    Remote {
        /// Its kind.
        kind: Kind,
        /// What the owner said.
        message: String,
        /// What the owner advises.
        hint: Option<String>,
    },
    /// Another process owns the app and cannot be asked.
    #[error("another process owns the app and {reason}: os_pid={}, app={app}", of_pid(*.pid))]
    Locked {
        /// The owner's process id, when its lock says so.
        pid: Option<u32>,
        /// The app.
        app: String,
        /// Why it cannot be asked.
        reason: &'static str,
    },
    /// The app is not open in the process that was asked.
    #[error("this process does not own the app: app={0}")]
    NotOwned(String),
    /// Nobody listens on the socket: its process ended.
    #[error("nobody listens on the control socket: name={0:?}")]
    Gone(String),
    /// The owner said nothing for too long, or the deadline passed.
    #[error("the process that owns the app did not {verb} in time: os_pid={}", of_pid(*.pid))]
    Timeout {
        /// What was waited for.
        verb: &'static str,
        /// The process that was asked, when known.
        pid: Option<u32>,
    },
    /// The owner ended while it performed the command.
    #[error("the process that owns the app ended during the command: os_pid={}", of_pid(*.pid))]
    Lost {
        /// The process that was asked, when known.
        pid: Option<u32>,
    },
    /// The caller cancelled, and the owner did not answer.
    #[error("cancelled")]
    Cancelled,
    /// The other side speaks another version of the protocol.
    #[error("the other process speaks another version of the control protocol: theirs={theirs}, ours={VERSION}")]
    Version {
        /// The version in its frame.
        theirs: u8,
    },
    /// The other side sent what is no frame of the protocol.
    #[error("not a frame of the control protocol: {0}")]
    Malformed(String),
    /// A frame longer than its limit.
    #[error("a frame is too long: len={len}, len_max={len_max}")]
    TooLong {
        /// Announced or needed, bytes.
        len: u64,
        /// The limit, bytes.
        len_max: u64,
    },
    /// Something that JSON or the longest frame cannot hold; when it is an outcome, the command was
    /// done all the same.
    #[error("cannot be said in a control frame: {0}")]
    Inexpressible(String),
    /// The process that was asked is ending.
    #[error("the process that owns the app is ending")]
    Ending,
    /// The other side runs as a user that we do not trust.
    #[error("the other process runs as another user: uid={theirs}, ours={ours}")]
    Stranger {
        /// Its user id.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The name or directory of a socket cannot be trusted.
    #[error("not a safe place for a control socket: {why}, path={path:?}")]
    Unsafe {
        /// What is wrong with it.
        why: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// As many commands are running as are allowed at a time.
    #[error("the process that owns the app is busy with other commands: commands_max={0}")]
    Busy(usize),
    /// A path that would mean another file in another process.
    #[error("not an absolute path: path={0:?}")]
    Relative(PathBuf),
    /// The operating system failed.
    #[error("could not {verb} {path:?}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// A defect of ours.
    #[error("a defect in a control command: {0}")]
    Internal(String),
}

impl ControlError {
    pub(crate) fn io(verb: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { verb, path: path.as_ref().to_owned(), source: source.into() }
    }
}

impl Kinded for ControlError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Remote { kind, .. } => *kind,
            Self::Locked { .. } => Kind::Locked,
            Self::NotOwned(_) | Self::Gone(_) | Self::Ending => Kind::Closed,
            Self::Timeout { .. } => Kind::Timeout,
            Self::Lost { .. } => Kind::UnknownResult,
            Self::Cancelled => Kind::Cancelled,
            Self::Version { .. } | Self::Inexpressible(_) => Kind::Unsupported,
            Self::Malformed(_) | Self::Relative(_) => Kind::Invalid,
            Self::TooLong { .. } => Kind::TooLarge,
            Self::Stranger { .. } | Self::Unsafe { .. } => Kind::Permission,
            Self::Busy(_) => Kind::Busy,
            Self::Io { source, .. } => io_kind(source),
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Remote { hint, .. } => hint.clone(),
            Self::Locked { pid, .. } => Some(format!("stop the process that owns the app first: {}", of_pid(*pid))),
            Self::Timeout { pid, .. } => Some(format!(
                "see whether the process is stopped or overloaded; the command may still run: {}",
                of_pid(*pid)
            )),
            Self::Lost { .. } => Some("look whether the command was done (list the backups), then repeat it".into()),
            Self::Version { .. } => Some("use the command line of the release that the app runs".into()),
            Self::Stranger { theirs, .. } => Some(format!("run the command as the user of the app: uid={theirs}")),
            _ => None,
        }
    }
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map_or("unknown".into(), |pid| pid.to_string())
}
