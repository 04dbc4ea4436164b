//! What can go wrong between two nodes. Clonable, because one end of a connection answers every call
//! that was on it.

use crate::authority::{ABOUT_FILE, CA_KEY_FILE};
use crate::NodeName;
use macula_core::{io_kind, Kind, Kinded};
use std::fmt;
use std::io;
use std::sync::Arc;

/// An error of a link, a listener or an authority.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// There is no connection to the node now; nothing was sent.
    #[error("the node cannot be reached: {reason}, node={node}")]
    Unreachable {
        /// Whom the link is to.
        node: NodeName,
        /// What the last try met.
        reason: String,
    },
    /// The other side, having shown who it is, does not want us; or we do not want it.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The connection ended before the answer: the request may or may not have been handled.
    #[error("the connection ended before the answer: {0}")]
    Lost(String),
    /// The deadline passed before the answer: the request may or may not have been handled.
    #[error("no answer in time: waited_ms={waited_ms}")]
    Timeout {
        /// How long.
        waited_ms: u64,
    },
    /// As many calls as the other side takes were under way until the deadline; nothing was sent.
    #[error("no room for another call in time: waited_ms={waited_ms}")]
    Busy {
        /// How long.
        waited_ms: u64,
    },
    /// The other side got the request and gave no answer to it.
    #[error("the request was not answered: {0}")]
    Failed(String),
    /// A request or an answer above the limit of the side that would read it.
    #[error("larger than allowed: len={len} len_max={len_max}")]
    TooLarge {
        /// Its length, bytes.
        len: u64,
        /// The limit, bytes.
        len_max: u64,
    },
    /// The link or listener was closed.
    #[error("the link is closed")]
    Closed,
    /// The other side sent what is no frame, or one that is not due.
    #[error("not a frame of the link: {0}")]
    Malformed(String),
    /// The other side neither sent nor took anything for too long.
    #[error("the other side was silent for too long: {0}")]
    Silent(&'static str),
    /// TLS ended the connection: one of the certificates was not accepted.
    #[error("the link is not authenticated: {0}")]
    Tls(String),
    /// Plain TCP beyond this machine.
    #[error("plain links are for loopback addresses only: address={0}")]
    PlainNotLoopback(String),
    /// The files that say who this node is cannot be used.
    #[error("not a usable identity: {reason}, file={file}")]
    Identity {
        /// Which of them.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Files of a later version than this code knows.
    #[error("of a newer version: format={version}, file={file}")]
    NewerFormat {
        /// Which of them.
        file: &'static str,
        /// Theirs.
        version: String,
    },
    /// The authority's own time is over; nothing was issued.
    #[error("the authority's time is over: until_ms={until_ms}")]
    Expired {
        /// Since when, milliseconds since 1970.
        until_ms: u64,
    },
    /// Something else is where a certificate should go; nothing was changed.
    #[error("not a place for this node's certificate: {0}")]
    Taken(String),
    /// There is an authority or an identity already; nothing was changed.
    #[error("already there: dir={0}")]
    Exists(String),
    /// The caller's input is wrong.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The operating system failed.
    #[error("could not {verb}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
}

impl NetError {
    pub(crate) fn io(verb: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { verb, source: Arc::new(error) }
    }

    pub(crate) fn identity(file: &str, reason: impl fmt::Display) -> Self {
        Self::Identity { file: file.to_owned(), reason: reason.to_string() }
    }

    /// What an established connection met: TLS's alerts come as errors of its stream.
    pub(crate) fn of_stream(verb: &'static str, error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.to_string()),
            None => Self::Io { verb, source: Arc::new(error) },
        }
    }
}

impl Kinded for NetError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::Closed => Kind::Closed,
            Self::Refused(_) | Self::Tls(_) => Kind::Permission,
            Self::Lost(_) | Self::Failed(_) => Kind::UnknownResult,
            Self::Timeout { .. } | Self::Silent(_) => Kind::Timeout,
            Self::Busy { .. } => Kind::Busy,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Malformed(_) | Self::PlainNotLoopback(_) | Self::Invalid(_) | Self::Identity { .. } => Kind::Invalid,
            Self::Expired { .. } | Self::Taken(_) => Kind::Invalid,
            Self::NewerFormat { .. } => Kind::NewerFormat,
            Self::Exists(_) => Kind::Exists,
            Self::Io { source, .. } => io_kind(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Tls(_) => Some("see that both nodes' certificates are valid now and of the same cluster".into()),
            Self::Refused(refusal) if refusal.reason == Reason::Version => Some("upgrade the older node".into()),
            Self::PlainNotLoopback(_) => Some("make a cluster authority and issue each node a certificate".into()),
            Self::Identity { file, .. } if file == ABOUT_FILE => {
                Some("name the directory of an authority, or create one".into())
            }
            Self::Identity { file, .. } if file == CA_KEY_FILE => {
                Some("take the key, mode 0600, from your copy of it, or create a successor".into())
            }
            Self::Identity { .. } => Some("issue the node a certificate again".into()),
            Self::NewerFormat { .. } => Some("use the version of the library that made it".into()),
            Self::Expired { .. } => Some("make a successor and issue from that one".into()),
            Self::Taken(_) => Some("issue to a directory that is new, or to the one of this node before".into()),
            _ => None,
        }
    }
}

/// Why a side that has shown its certificate is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// No common version of the protocol.
    Version,
    /// Another cluster.
    Cluster,
    /// It says to be another node than its certificate says.
    Node,
    /// It dialled another node than the one that answers.
    Target,
    /// Its role may not open links of that purpose.
    Purpose,
    /// The cluster does not want it: it left, was replaced, or was never a member.
    NotAdmitted,
    /// It has as many links as one peer, or all, may have.
    TooMany,
    /// It broke the protocol.
    Malformed,
    /// The listener stops.
    Stopping,
    /// Its certificate was shown too long ago: it must shake hands again.
    Stale,
    /// A reason of a later version.
    Other,
}

impl Reason {
    const ALL: [(u8, Self); 10] = [
        (1, Self::Version),
        (2, Self::Cluster),
        (3, Self::Node),
        (4, Self::Target),
        (5, Self::Purpose),
        (6, Self::NotAdmitted),
        (7, Self::TooMany),
        (8, Self::Malformed),
        (9, Self::Stopping),
        (10, Self::Stale),
    ];

    pub(crate) fn code(self) -> u8 {
        Self::ALL.iter().find(|(_, reason)| *reason == self).map_or(0, |(code, _)| *code)
    }

    pub(crate) fn of(code: u8) -> Self {
        Self::ALL.iter().find(|(known, _)| *known == code).map_or(Self::Other, |(_, reason)| *reason)
    }
}

/// A refusal, as it is told to the one who is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people; what does not fit 200 bytes is cut.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
