//! A link's connection from the dialler's side: calls go out, answers come back by their number.
//!
//! Invariant: a call that was sent keeps its share of what the listener takes until its answer comes,
//! also when its caller gave up, so that the listener never sees more than it allowed. When the
//! connection ends, every open call hears of it, and no later one is sent.

use crate::frame::{Frame, Traffic, Type, WORD_LEN_MAX};
use crate::greet::{farewell, Greeted, Reader};
use crate::hello::decode_refusal;
use crate::queue::Queue;
use crate::{Net, NetError, Purpose};
use bytes::Bytes;
use macula_core::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, Notify, Semaphore};

/// What a call gets.
type Answer = Result<Bytes, NetError>;

pub(crate) struct Live {
    queue: Queue,
    calls: Mutex<Calls>,
    /// Set when nothing is open, for who waits for that.
    idle: Notify,
    room_calls: Semaphore,
    room_bytes: Semaphore,
    request_len_max: u32,
    pub traffic: Arc<Traffic>,
    /// Of the last ping that was answered; 0 before.
    pub rtt_us: AtomicU64,
    /// Of the identity that we showed.
    pub generation: u64,
}

#[derive(Default)]
struct Calls {
    open: BTreeMap<u64, (usize, oneshot::Sender<Answer>)>,
    last: u64,
    ended: bool,
}

/// What moves a [`Live`]; dropped, it ends it.
pub(crate) struct Driver {
    pub live: Arc<Live>,
    /// Taken when it runs.
    parts: Option<(Greeted, mpsc::UnboundedReceiver<Frame>)>,
}

impl Driver {
    pub fn new(greeted: Greeted) -> Self {
        let (queue, receiver) = Queue::new();
        let live = Arc::new(Live {
            queue,
            calls: Mutex::default(),
            idle: Notify::new(),
            room_calls: Semaphore::new(greeted.calls_max as usize),
            room_bytes: Semaphore::new(greeted.calls_bytes_max as usize),
            request_len_max: greeted.len_max,
            traffic: greeted.traffic.clone(),
            rtt_us: AtomicU64::new(0),
            generation: greeted.generation,
        });
        Self { live, parts: Some((greeted, receiver)) }
    }

    /// Until the connection ends, and why it did.
    pub async fn run(mut self, net: Net) -> NetError {
        let live = self.live.clone();
        let Some((greeted, mut receiver)) = self.parts.take() else { return NetError::Closed };
        let Greeted { mut incoming, mut outgoing, purpose, .. } = greeted;
        let pinged = Pinged::default();
        let ended: Result<Infallible, NetError> = tokio::select! {
            // what was read is answered in the same turn; reading gives way by itself
            biased;
            ended = live.read(&mut incoming, &net, purpose, &pinged) => ended,
            ended = live.queue.write_all(&mut receiver, &mut outgoing) => ended,
            ended = live.ping(&net, &pinged) => ended,
        };
        let Err(error) = ended;
        live.end(&error.to_string());
        // a farewell may take its time: nobody waits for it, neither callers nor the next connection
        let why = error.clone();
        net.runtime.spawn(async move { farewell(&mut incoming, &mut outgoing, &why).await });
        error
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.live.end("the link was closed");
    }
}

/// The ping that is under way.
#[derive(Default)]
struct Pinged {
    id: AtomicU64,
    at_us: AtomicU64,
}

impl Live {
    /// Send a request and wait for its answer. `sent` is set in between. Dropped before that, nothing
    /// was sent.
    pub async fn call(&self, kind: u8, payload: Bytes, sent: &AtomicBool) -> Answer {
        let len = payload.len();
        if len > self.request_len_max as usize {
            return Err(NetError::TooLarge { len: len as u64, len_max: u64::from(self.request_len_max) });
        }
        let room = self.room_calls.acquire().await;
        let bytes = self.room_bytes.acquire_many(len as u32).await;
        let (Ok(room), Ok(bytes)) = (room, bytes) else { return Err(NetError::Closed) };
        let (sender, receiver) = oneshot::channel();
        {
            let mut calls = self.calls.lock();
            if calls.ended {
                return Err(NetError::Closed);
            }
            room.forget();
            bytes.forget();
            calls.last += 1;
            let id = calls.last;
            calls.open.insert(id, (len, sender));
            sent.store(true, Ordering::Relaxed);
            // under the lock, so that numbers go out in their order
            self.queue.push(Frame { of: Type::Request, kind, id, payload });
        }
        receiver.await.unwrap_or_else(|_| Err(NetError::Lost("nobody waits for its answer".into())))
    }

    pub fn open_calls(&self) -> usize {
        self.calls.lock().open.len()
    }

    /// Wait until no call is open; none is taken from then on.
    pub async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            {
                let mut calls = self.calls.lock();
                if calls.open.is_empty() {
                    calls.ended = true;
                    return;
                }
            }
            idle.await;
        }
    }

    fn end(&self, why: &str) {
        let open = {
            let mut calls = self.calls.lock();
            calls.ended = true;
            std::mem::take(&mut calls.open)
        };
        self.room_calls.close();
        self.room_bytes.close();
        for (_, sender) in open.into_values() {
            let _ = sender.send(Err(NetError::Lost(why.to_owned())));
        }
        self.idle.notify_waiters();
    }

    async fn read(
        &self,
        incoming: &mut Reader,
        net: &Net,
        purpose: Purpose,
        pinged: &Pinged,
    ) -> Result<Infallible, NetError> {
        let len_max = net.options.limits(purpose).frame_len_max;
        loop {
            let frame = incoming.next(|of| match of {
                Type::Answer => Some(len_max),
                Type::Failed | Type::Refused => Some(WORD_LEN_MAX),
                Type::Pong => Some(0),
                _ => None,
            });
            let frame = frame.await?;
            match frame.of {
                Type::Answer => self.answer(frame.id, Ok(frame.payload))?,
                Type::Failed => {
                    let why = String::from_utf8_lossy(&frame.payload).replace(char::is_control, "?");
                    self.answer(frame.id, Err(NetError::Failed(why)))?;
                }
                Type::Refused => return Err(NetError::Refused(decode_refusal(&frame.payload))),
                _ if frame.id == pinged.id.load(Ordering::Relaxed) => {
                    let spent = micros(&*net.clock).saturating_sub(pinged.at_us.load(Ordering::Relaxed));
                    self.rtt_us.store(spent.max(1), Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    fn answer(&self, id: u64, answer: Answer) -> Result<(), NetError> {
        let (len, sender, idle) = {
            let mut calls = self.calls.lock();
            let call = calls.open.remove(&id);
            let (len, sender) = call.ok_or_else(|| NetError::Malformed(format!("an answer to no call: id={id}")))?;
            (len, sender, calls.open.is_empty())
        };
        self.room_calls.add_permits(1);
        self.room_bytes.add_permits(len);
        // its caller may have given up
        let _ = sender.send(answer);
        if idle {
            self.idle.notify_waiters();
        }
        Ok(())
    }

    async fn ping(&self, net: &Net, pinged: &Pinged) -> Result<Infallible, NetError> {
        loop {
            pinged.at_us.store(micros(&*net.clock), Ordering::Relaxed);
            let id = pinged.id.fetch_add(1, Ordering::Relaxed) + 1;
            self.queue.push(Frame::new(Type::Ping, id, &b""[..]));
            tokio::time::sleep(Duration::from_millis(net.options.ping_ms)).await;
        }
    }
}

fn micros(clock: &dyn Clock) -> u64 {
    clock.monotonic().as_micros() as u64
}
