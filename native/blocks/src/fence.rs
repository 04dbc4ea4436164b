//! The fence around redb: its errors become ours, its panics too.
//!
//! Invariant: no call into redb happens outside, because redb may panic on bytes that it did not
//! expect; whatever it says, the first block that did not verify names the cause.

use crate::hot;
use crate::{BlockError, BlockFile};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Run `act`, which calls redb.
pub fn fence<T>(blocks: &BlockFile, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, BlockError> {
    catch(blocks, || act().map_err(|error| translate(blocks, error)))
}

/// Run `act`, which calls redb and has errors of its own; those of redb it passes to [`translate`].
pub fn catch<T, E: From<BlockError>>(blocks: &BlockFile, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result,
        Err(panic) if hot::is_cold(&*panic) => Err(BlockError::Cold.into()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let unknown = || BlockError::Internal(format!("redb panicked: {text}"));
            Err(blocks.corruption().unwrap_or_else(unknown).into())
        }
    }
}

/// What an error of redb's means.
pub fn translate(blocks: &BlockFile, error: impl Into<redb::Error>) -> BlockError {
    match error.into() {
        redb::Error::DatabaseClosed => BlockError::Closed,
        redb::Error::ValueTooLarge(len) => BlockError::TooLarge { len: len as u64 },
        error => blocks.corruption().unwrap_or_else(|| match error {
            redb::Error::Corrupted(reason) => BlockError::corrupt(blocks.name(), None, reason),
            redb::Error::Io(error) => BlockError::io("reach the store", error),
            redb::Error::PreviousIo => BlockError::Poisoned("an earlier read or write failed".into()),
            error => BlockError::Internal(format!("redb: {error}")),
        }),
    }
}
