//! What can go wrong with the machine's input. What a command is refused for is an answer, no error:
//! [`Refusal`](super::Refusal).

use super::TableError;
use macula_core::{Kind, Kinded};
use macula_term::TermError;

/// An error of the machine's codec or reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The bytes are not a command or response as this code writes it.
    #[error("not a {what} of the replicated state: {reason}")]
    Malformed {
        /// Command, response, path...
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a later version of this code.
    #[error("written by a newer version: what={what} found={found} known={known}")]
    NewerVersion {
        /// Command or response.
        what: &'static str,
        /// Its version.
        found: u8,
        /// The highest this code knows.
        known: u8,
    },
    /// More than the stated limit.
    #[error("larger than allowed: {what} len={len} len_max={len_max}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much.
        len: usize,
        /// The limit.
        len_max: usize,
    },
    /// A component of a path is no term that can be a key.
    #[error("a component of the path: {0}")]
    Component(#[from] TermError),
    /// The events asked for are no longer kept.
    #[error("the history no longer goes back so far: from={from} first={first}")]
    HistoryGone {
        /// The revision asked for.
        from: u64,
        /// The first one from which on all events are kept.
        first: u64,
    },
    /// The table failed.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl MachineError {
    pub(super) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { what, reason: reason.into() }
    }
}

impl Kinded for MachineError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed { .. } => Kind::Invalid,
            Self::NewerVersion { .. } => Kind::NewerFormat,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Component(error) => error.kind(),
            Self::HistoryGone { .. } => Kind::HistoryGone,
            Self::Table(_) => Kind::Poisoned,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NewerVersion { .. } => Some("upgrade this node to the version of the others".into()),
            Self::Table(_) => Some("close the app and open it again".into()),
            _ => None,
        }
    }
}
