//! The fence around redb: its errors become ours, its panics too.
//!
//! Invariant: no call into redb happens outside [`fence`], because redb may panic on bytes that it
//! did not expect; whatever it says, the first block that did not verify names the cause.

use crate::blocks::BlockFile;
use crate::hot;
use crate::KvError;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Run `act`, which calls redb.
pub(crate) fn fence<T>(blocks: &BlockFile, act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, KvError> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(translate(blocks, error)),
        Err(panic) if hot::is_cold(&*panic) => Err(KvError::Cold),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(blocks.corruption().unwrap_or_else(|| KvError::Internal(format!("redb panicked: {text}"))))
        }
    }
}

fn translate(blocks: &BlockFile, error: redb::Error) -> KvError {
    match error {
        redb::Error::DatabaseClosed => KvError::Closed,
        redb::Error::ValueTooLarge(len) => {
            KvError::TooLarge { what: "value", len: len as u64, len_max: crate::VALUE_LEN_MAX as u64 }
        }
        error => blocks.corruption().unwrap_or_else(|| match error {
            redb::Error::Corrupted(reason) => KvError::corrupt(blocks.name(), None, reason),
            redb::Error::Io(error) => KvError::io("reach the store", error),
            redb::Error::PreviousIo => KvError::Poisoned("an earlier read or write failed".into()),
            error => KvError::Internal(format!("redb: {error}")),
        }),
    }
}
