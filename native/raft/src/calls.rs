//! Calls under way: so many at once, each answered once.
//!
//! Invariant: an answer that is dropped unsent is one, too.

use crate::deadlines::{Deadline, Deadlines, Over};
use crate::propose::Stage;
use crate::RaftError;
use macula_core::Cancel;
use parking_lot::Mutex;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Calls under way at once; one more is [`RaftError::Busy`].
const CALLS_MAX: usize = 16 << 10;

/// One of the calls under way.
pub(crate) struct Call(Arc<AtomicUsize>);

impl Call {
    fn begin(calls: &Arc<AtomicUsize>) -> Result<Self, RaftError> {
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

/// The calls of an engine.
#[derive(Default)]
pub(crate) struct Calls {
    open: Arc<AtomicUsize>,
    pub(crate) deadlines: Arc<Deadlines>,
}

impl Calls {
    /// A call that is ended by whoever has it, or by its deadline, whatever comes first.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        deadline: Option<Duration>,
        ends: Ends<Lost, Lost>,
        reply: impl FnOnce(Result<T, RaftError>) + Send + 'static,
    ) -> Result<Ending<T>, RaftError> {
        let call = Call::begin(&self.open)?;
        let Ends { over, lost } = ends;
        let reply: Reply<T> = Box::new(reply);
        let shared = Arc::new(Shared(Mutex::new(Some(Open { answer: Answering::new(reply, lost), over }))));
        let at = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let _deadline = at.map(|at| {
            let call: Arc<dyn Over> = shared.clone();
            self.deadlines.add(at, Arc::downgrade(&call))
        });
        Ok(Ending { shared, _deadline, _call: call })
    }

    /// Do it on the runtime, if that has not stopped, by a deadline, for one answer.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        runtime: Option<&Runtime>,
        work: impl Future<Output = Result<T, RaftError>> + Send + 'static,
        deadline: Option<Duration>,
        ends: Ends<impl FnOnce() -> RaftError + Send + 'static, impl FnOnce() -> RaftError + Send + 'static>,
        cancel: Cancel,
        reply: impl FnOnce(Result<T, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let Some(runtime) = runtime else { return Err(RaftError::Closed) };
        let call = Call::begin(&self.open)?;
        let Ends { over, lost } = ends;
        let answer = Answering::new(reply, lost);
        runtime.spawn(async move {
            let _call = call;
            if cancel.is_cancelled() {
                return answer.send(Err(RaftError::Cancelled));
            }
            let result = match deadline {
                None => work.await,
                Some(deadline) => tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(over())),
            };
            answer.send(result);
        });
        Ok(())
    }
}

type Lost = Box<dyn FnOnce() -> RaftError + Send>;
type Reply<T> = Box<dyn FnOnce(Result<T, RaftError>) + Send>;

/// A call that somebody is to end; dropped, it is lost.
pub(crate) struct Ending<T: Send + 'static> {
    shared: Arc<Shared<T>>,
    _deadline: Option<Deadline>,
    _call: Call,
}

/// Once it has ended: nothing.
struct Shared<T>(Mutex<Option<Open<T>>>);

struct Open<T> {
    answer: Answering<T, Reply<T>, Lost>,
    over: Lost,
}

impl<T: Send + 'static> Ending<T> {
    pub(crate) fn end(self, result: Result<T, RaftError>) {
        let open = self.shared.0.lock().take();
        if let Some(open) = open {
            open.answer.send(result);
        }
    }
}

impl<T: Send> Over for Shared<T> {
    fn over(&self) {
        let open = self.0.lock().take();
        if let Some(open) = open {
            open.answer.send(Err((open.over)()));
        }
    }
}

/// What a call is told that came to no end of its own.
pub(crate) struct Ends<O, L> {
    /// Its deadline passed.
    pub(crate) over: O,
    /// The engine was closed before.
    pub(crate) lost: L,
}

impl Ends<fn() -> RaftError, fn() -> RaftError> {
    /// Of one that nobody was there for to decide.
    pub(crate) fn no_quorum() -> Self {
        Self { over: || RaftError::NoQuorum, lost: || RaftError::Closed }
    }

    /// Of one that took too long.
    pub(crate) fn timeout() -> Self {
        Self { over: || RaftError::Timeout, lost: || RaftError::Closed }
    }
}

impl Ends<Lost, Lost> {
    /// Of a command it is known at least whether it can have happened: who is told `Closed` asks the next one again.
    pub(crate) fn of_command(stage: Arc<Stage>) -> Self {
        let lost = stage.clone();
        Self {
            over: Box::new(move || if stage.give_up() { RaftError::Timeout } else { RaftError::NoQuorum }),
            lost: Box::new(move || if lost.give_up() { RaftError::Unknown } else { RaftError::Closed }),
        }
    }
}

/// The one answer, also when it is dropped unsent.
struct Answering<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> {
    parts: Option<(F, L)>,
    of: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> Answering<T, F, L> {
    fn new(reply: F, lost: L) -> Self {
        Self { parts: Some((reply, lost)), of: PhantomData }
    }

    fn send(mut self, result: Result<T, RaftError>) {
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
