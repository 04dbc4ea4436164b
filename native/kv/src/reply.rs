//! A reply that is given exactly once: by its owner, or by its destruction.

use crate::KvError;

type Answer<T> = Box<dyn FnOnce(Result<T, KvError>) + Send>;

/// Dropped without an answer it answers `Closed`, so that no caller waits for ever; dropped by a panic,
/// which may have come behind the log, that nobody knows.
pub(crate) struct Reply<T>(Option<Answer<T>>);

impl<T> Reply<T> {
    pub fn new(answer: Answer<T>) -> Self {
        Self(Some(answer))
    }

    pub fn give(mut self, result: Result<T, KvError>) {
        self.answer(result);
    }

    /// The caller learns it in another way.
    pub fn disarm(mut self) {
        self.0 = None;
    }

    fn answer(&mut self, result: Result<T, KvError>) {
        if let Some(answer) = self.0.take() {
            // a caller's panic is the caller's: the writer goes on with the others
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(result)));
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.answer(Err(match std::thread::panicking() {
            true => KvError::UnknownResult("the writer panicked".into()),
            false => KvError::Closed,
        }));
    }
}
