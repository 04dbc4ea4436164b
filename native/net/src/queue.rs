//! The frames that wait to be sent on one connection, and the answer that a handler owes.
//!
//! Invariant: a request is answered exactly once, also when its [`Reply`] is dropped; every byte in the
//! queue is counted, and whoever fills it looks at the count.

use crate::frame::{Frame, Outgoing, Type};
use crate::NetError;
use bytes::Bytes;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// Frames taken from the queue for one flush.
const DRAIN_MAX: usize = 256;

/// The way in.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::UnboundedSender<Frame>,
    bytes: AtomicUsize,
}

impl Queue {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Frame>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, bytes: AtomicUsize::new(0) }, receiver)
    }

    /// Does nothing when the connection has ended: who waits for the frame hears of that.
    pub fn push(&self, frame: Frame) {
        self.bytes.fetch_add(frame.len(), Ordering::Relaxed);
        let _ = self.sender.send(frame);
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Send what comes, until the connection fails.
    pub async fn write_all<W: AsyncWrite + Unpin>(
        &self,
        receiver: &mut mpsc::UnboundedReceiver<Frame>,
        outgoing: &mut Outgoing<W>,
    ) -> Result<Infallible, NetError> {
        let (mut taken, mut frames) = (Vec::new(), VecDeque::new());
        loop {
            if receiver.recv_many(&mut taken, DRAIN_MAX).await == 0 {
                return Err(NetError::Closed);
            }
            let bytes: usize = taken.iter().map(Frame::len).sum();
            frames.extend(taken.drain(..));
            outgoing.write(&mut frames).await?;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Requests of one connection without an answer.
#[derive(Debug, Default)]
pub(crate) struct Open {
    pub calls: AtomicUsize,
    pub bytes: AtomicUsize,
}

/// The answer that is owed to one request. Dropped without [`Reply::send`], it tells the caller that
/// there is none.
#[derive(Debug)]
pub struct Reply {
    id: u64,
    len: usize,
    len_max: usize,
    waiting_max: usize,
    queue: Arc<Queue>,
    open: Arc<Open>,
    answered: bool,
}

impl Reply {
    /// For the request `id` of `len` bytes; the caller takes `len_max`, and `waiting_max` may wait for it.
    pub(crate) fn new(id: u64, len: usize, max: (u32, usize), queue: &Arc<Queue>, open: &Arc<Open>) -> Self {
        open.calls.fetch_add(1, Ordering::Relaxed);
        open.bytes.fetch_add(len, Ordering::Relaxed);
        let (queue, open) = (queue.clone(), open.clone());
        Self { id, len, len_max: max.0 as usize, waiting_max: max.1, queue, open, answered: false }
    }

    /// Answer. Never waits; after the end of the connection it does nothing. An answer longer than the
    /// caller takes, or that comes while it does not take those before, becomes [`NetError::Failed`] there.
    pub fn send(mut self, answer: impl Into<Bytes>) {
        let answer = answer.into();
        let (len, waiting) = (answer.len(), self.queue.bytes());
        let frame = if len > self.len_max {
            let why = format!("the answer is longer than allowed: len={len} len_max={}", self.len_max);
            Frame::new(Type::Failed, self.id, why)
        } else if waiting > 0 && waiting + len > self.waiting_max {
            Frame::new(Type::Failed, self.id, &b"answers before it were not taken"[..])
        } else {
            Frame::new(Type::Answer, self.id, answer)
        };
        self.settle(frame);
    }

    fn settle(&mut self, frame: Frame) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        // before the caller can hear of it and call again
        self.open.calls.fetch_sub(1, Ordering::Relaxed);
        self.open.bytes.fetch_sub(self.len, Ordering::Relaxed);
        self.queue.push(frame);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.settle(Frame::new(Type::Failed, self.id, &b"its handler gave none"[..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that nobody takes are bounded, and each request still gets exactly one frame.
    #[test]
    fn beyond_what_may_wait_an_answer_is_a_failure() {
        let (queue, mut receiver) = Queue::new();
        let (queue, open) = (Arc::new(queue), Arc::new(Open::default()));
        let replies: Vec<_> = (1..=5).map(|id| Reply::new(id, 10, (700, 1000), &queue, &open)).collect();
        assert_eq!((open.calls.load(Ordering::Relaxed), open.bytes.load(Ordering::Relaxed)), (5, 50));
        for (reply, len) in replies.into_iter().zip([600, 600, 701, 100, 0]) {
            reply.send(vec![0; len]);
        }
        let types: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).map(|frame| (frame.id, frame.of)).collect();
        let failed = [(2, Type::Failed), (3, Type::Failed)];
        assert_eq!(types, [&[(1, Type::Answer)], &failed[..], &[(4, Type::Answer), (5, Type::Answer)]].concat());
        assert_eq!((open.calls.load(Ordering::Relaxed), open.bytes.load(Ordering::Relaxed)), (0, 0));
    }
}
