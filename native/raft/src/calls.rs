//! Calls under way: so many at once, each answered once.
//!
//! Invariant: an answer that is dropped unsent is one, too.

use crate::RaftError;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Calls under way at once; one more is [`RaftError::Busy`].
const CALLS_MAX: usize = 16 << 10;

/// One of the calls under way.
pub(crate) struct Call(Arc<AtomicUsize>);

impl Call {
    pub(crate) fn begin(calls: &Arc<AtomicUsize>) -> Result<Self, RaftError> {
        if calls.fetch_add(1, Ordering::AcqRel) >= CALLS_MAX {
            calls.fetch_sub(1, Ordering::AcqRel);
            return Err(RaftError::Busy { len_max: CALLS_MAX });
        }
        Ok(Self(calls.clone()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a call is told that came to no end of its own.
pub(crate) struct Ends<O, L> {
    /// Its deadline passed.
    pub(crate) over: O,
    /// The engine was closed before.
    pub(crate) lost: L,
}

/// The one answer, also when it is dropped unsent.
pub(crate) struct Answering<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> {
    parts: Option<(F, L)>,
    of: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> Answering<T, F, L> {
    pub(crate) fn new(reply: F, lost: L) -> Self {
        Self { parts: Some((reply, lost)), of: PhantomData }
    }

    pub(crate) fn send(mut self, result: Result<T, RaftError>) {
        if let Some((reply, _)) = self.parts.take() {
            reply(result);
        }
    }
}

impl<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> Drop for Answering<T, F, L> {
    fn drop(&mut self) {
        if let Some((reply, lost)) = self.parts.take() {
            reply(Err(lost()));
        }
    }
}
