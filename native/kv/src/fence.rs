//! The fence around redb, with this crate's errors: no call into redb happens outside.

use crate::{KvError, VALUE_LEN_MAX};
use macula_blocks::{BlockError, BlockFile};

/// Run `act`, which calls redb.
pub(crate) fn fence<T>(blocks: &BlockFile, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, KvError> {
    Ok(macula_blocks::fence(blocks, act)?)
}

impl From<BlockError> for KvError {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Corrupt { file, block, reason } => Self::Corrupt { file, block, reason },
            BlockError::NewerFormat { file, what, found, known } => Self::NewerFormat { file, what, found, known },
            BlockError::Cold => Self::Cold,
            BlockError::Closed => Self::Closed,
            BlockError::DiskFull => Self::DiskFull,
            BlockError::TooLarge { len } => Self::TooLarge { what: "value", len, len_max: VALUE_LEN_MAX as u64 },
            BlockError::Poisoned(why) => Self::Poisoned(why),
            BlockError::Io { verb, source } => Self::Io { verb, source },
            BlockError::Internal(why) => Self::Internal(why),
        }
    }
}
