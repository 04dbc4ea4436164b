//! What can go wrong between a term and its key bytes.

use macula_core::{Kind, Kinded};

/// An error of the term encoding. Nothing was changed by the call that returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TermError {
    /// The input is not External Term Format as `term_to_binary` writes it.
    #[error("not an external term: {what}, at={at}")]
    Malformed {
        /// What was wrong.
        what: &'static str,
        /// Offset of the byte where it was noticed.
        at: usize,
    },
    /// External Term Format that can not be (or need not be) a key.
    #[error("a term of this kind can not be a key: {what}, tag={tag}")]
    Unsupported {
        /// The external format's name of it.
        what: &'static str,
        /// The external format's tag byte.
        tag: u8,
    },
    /// The bytes are not a key that `encode` made.
    #[error("not a key: {what}, at={at}")]
    Corrupt {
        /// What was wrong.
        what: &'static str,
        /// Offset of the byte where it was noticed.
        at: usize,
    },
    /// The key would be longer than [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
    #[error("the key is too long: bytes_max={bytes_max}")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The term nests deeper than [`DEPTH_MAX`](crate::DEPTH_MAX).
    #[error("the key nests too deep: depth_max={depth_max}")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
}

impl Kinded for TermError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed { .. } => Kind::Invalid,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::TooLarge { .. } | Self::TooDeep { .. } => Kind::TooLarge,
        }
    }
}
