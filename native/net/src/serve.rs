//! A link from the listener's side: requests to the handler, answers to the dialler, one task.
//!
//! Invariant: a peer is asked for anew whenever the answer may have changed, before its next frame is
//! handled; it never has more open requests than it was told; and it shakes hands again or is cut off.

use crate::frame::{Frame, Traffic, Type};
use crate::greet::{farewell, Greeted, Reader};
use crate::queue::{Open, Queue, Reply};
use crate::{Admit, Caller, Handler, Net, NetError, Reason, Refusal};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Bytes of pongs and the like beyond the answers that may wait.
const SPARE_BYTES: usize = 1 << 20;

pub(crate) struct Serving {
    pub net: Net,
    pub admit: Arc<dyn Admit>,
    pub handler: Arc<dyn Handler>,
    /// Set when the listener stops.
    pub stopping: watch::Receiver<bool>,
}

/// What the parts of one link share.
struct Session<'a> {
    serving: &'a Serving,
    caller: Caller,
    queue: Arc<Queue>,
    open: Arc<Open>,
    traffic: Arc<Traffic>,
    admitted_at: AtomicU64,
    generation: u64,
    answer_len_max: u32,
    calls_max: u32,
    calls_bytes_max: u32,
}

impl Serving {
    /// Until the link ends; why it did.
    pub async fn run(&self, greeted: Greeted) -> NetError {
        let Greeted { mut incoming, mut outgoing, .. } = greeted;
        let (queue, mut receiver) = Queue::new();
        let session = Session {
            serving: self,
            caller: Caller { peer: greeted.peer, purpose: greeted.purpose },
            queue: Arc::new(queue),
            open: Arc::default(),
            traffic: greeted.traffic,
            admitted_at: AtomicU64::new(greeted.admitted_at),
            generation: greeted.generation,
            answer_len_max: greeted.len_max,
            calls_max: greeted.calls_max,
            calls_bytes_max: greeted.calls_bytes_max,
        };
        let mut stopping = self.stopping.clone();
        let ended: Result<Infallible, NetError> = tokio::select! {
            // what was read is answered in the same turn; reading gives way by itself
            biased;
            ended = session.read(&mut incoming) => ended,
            ended = session.queue.write_all(&mut receiver, &mut outgoing) => ended,
            ended = session.watch() => ended,
            _ = stopping.wait_for(|stopping| *stopping) => {
                Err(NetError::Refused(Refusal::new(Reason::Stopping, "the node stops")))
            }
        };
        let Err(error) = ended;
        farewell(&mut incoming, &mut outgoing, &error).await;
        error
    }
}

impl Session<'_> {
    async fn read(&self, incoming: &mut Reader) -> Result<Infallible, NetError> {
        let len_max = self.serving.net.options.limits(self.caller.purpose).frame_len_max;
        loop {
            let frame = incoming.next(|of| match of {
                Type::Request => Some(len_max),
                Type::Ping => Some(0),
                _ => None,
            });
            let frame = frame.await?;
            self.ask_again()?;
            self.refuse_a_flood()?;
            match frame.of {
                Type::Ping => self.queue.push(Frame::new(Type::Pong, frame.id, &b""[..])),
                _ => {
                    self.traffic.requests.fetch_add(1, Ordering::Relaxed);
                    self.handle(frame)?;
                }
            }
        }
    }

    fn handle(&self, frame: Frame) -> Result<(), NetError> {
        let (calls, bytes) = (self.open.calls.load(Ordering::Relaxed), self.open.bytes.load(Ordering::Relaxed));
        let len = frame.payload.len();
        if calls >= self.calls_max as usize || bytes + len > self.calls_bytes_max as usize {
            let message = format!("more open requests than it was told: calls={calls} bytes={}", bytes + len);
            return Err(NetError::Malformed(message));
        }
        let waiting_max = self.serving.net.options.limits(self.caller.purpose).answers_bytes_max;
        let reply = Reply::new(frame.id, len, (self.answer_len_max, waiting_max), &self.queue, &self.open);
        self.serving.handler.handle(&self.caller, frame.kind, frame.payload, reply);
        Ok(())
    }

    fn ask_again(&self) -> Result<(), NetError> {
        let now = self.serving.admit.generation();
        if self.admitted_at.load(Ordering::Relaxed) != now {
            self.serving.admit.admit(&self.caller.peer, self.caller.purpose).map_err(NetError::Refused)?;
            self.admitted_at.store(now, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A peer that asks and does not take the answers.
    fn refuse_a_flood(&self) -> Result<(), NetError> {
        let limits = self.serving.net.options.limits(self.caller.purpose);
        match self.queue.bytes() {
            bytes if bytes > limits.answers_bytes_max + limits.frame_len_max as usize + SPARE_BYTES => {
                Err(NetError::Silent("it takes nothing"))
            }
            _ => Ok(()),
        }
    }

    /// What must be seen also while nothing arrives.
    async fn watch(&self) -> Result<Infallible, NetError> {
        let Net { options, clock, transport, .. } = &self.serving.net;
        let stale = || Err(NetError::Refused(Refusal::new(Reason::Stale, "shake hands again")));
        let began = clock.monotonic();
        let (mut bytes_in, mut pushed, mut outdated) = (0, 0, None);
        loop {
            tokio::time::sleep(Duration::from_millis(options.ping_ms)).await;
            self.ask_again()?;
            let now = clock.monotonic();
            if now.saturating_sub(began) > Duration::from_millis(options.link_age_ms_max.saturating_mul(2)) {
                return stale();
            }
            if transport.generation() != self.generation {
                let since = now.saturating_sub(*outdated.get_or_insert(now));
                if since > Duration::from_millis(options.renew_ms_max.saturating_mul(2)) {
                    return stale();
                }
            }
            // a long frame arrives: its dialler hears that we are there
            let (arrived, left) =
                (self.traffic.bytes_in.load(Ordering::Relaxed), self.traffic.bytes_out.load(Ordering::Relaxed));
            if arrived != bytes_in && left == pushed && self.queue.bytes() == 0 {
                self.queue.push(Frame::new(Type::Pong, 0, &b""[..]));
            }
            (bytes_in, pushed) = (arrived, left);
        }
    }
}
