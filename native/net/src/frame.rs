//! Frames: sixteen bytes of head, then a payload (docs/formats.md, "Links").
//!
//! Invariant: memory grows with the bytes that have arrived, never with the length that a head
//! announces; each type has a limit, and a frame that began must be whole by a deadline.

use crate::{NetError, Options};
use bytes::{Bytes, BytesMut};
use macula_core::Clock;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of the protocol that this code speaks.
pub(crate) const VERSION: u8 = 1;
/// Bytes before the payload.
pub(crate) const HEAD_LEN: usize = 16;
/// Longest payload of hello, welcome, refused and failed, bytes.
pub(crate) const WORD_LEN_MAX: u32 = 1024;

/// A payload up to this is copied out, so that it does not keep the buffer that it came in.
const COPY_LEN_MAX: usize = 32 << 10;
/// Kept by an idle connection.
const READ_LEN_MIN: usize = 16 << 10;
const READ_LEN: usize = 64 << 10;
const BATCH_LEN: usize = 64 << 10;
const INLINE_LEN_MAX: usize = 16 << 10;
/// What one side of a connection handles before the other side of it gets its turn.
const TURN_LEN: usize = 256 << 10;
/// And reads in it: fewer than tokio's budget of a task, or nothing would be left for the other side.
const READS_MAX: usize = 64;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// The dialler's first frame.
    Hello = 1,
    /// The listener's answer to it.
    Welcome = 2,
    /// The last frame of a side that does not want the other.
    Refused = 3,
    /// Dialler: a call.
    Request = 4,
    /// Listener: its answer.
    Answer = 5,
    /// Listener: there will be none.
    Failed = 6,
    /// Dialler: are you there?
    Ping = 7,
    /// Listener: yes. With id 0: nobody asked, a long frame is still arriving.
    Pong = 8,
}

impl Type {
    const ALL: [Self; 8] =
        [Self::Hello, Self::Welcome, Self::Refused, Self::Request, Self::Answer, Self::Failed, Self::Ping, Self::Pong];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|of| *of as u8 == byte)
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub len: u32,
    pub of: Type,
    /// The caller's number for what a request is; 0 in all else.
    pub kind: u8,
    pub id: u64,
}

impl Head {
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.of as u8;
        bytes[6] = self.kind;
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, NetError> {
        let [l0, l1, l2, l3, version, of, kind, zero, id @ ..] = *bytes;
        if version != VERSION {
            return Err(NetError::Malformed(format!("version={version}")));
        }
        let known = Type::of(of).ok_or_else(|| NetError::Malformed(format!("type={of}")))?;
        if zero != 0 || (kind != 0 && known != Type::Request) {
            return Err(NetError::Malformed(format!("kind={kind} zero={zero} type={of}")));
        }
        Ok(Self { len: u32::from_le_bytes([l0, l1, l2, l3]), of: known, kind, id: u64::from_le_bytes(id) })
    }
}

/// A frame: one that arrived whole, or one to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub of: Type,
    pub kind: u8,
    pub id: u64,
    pub payload: Bytes,
}

impl Frame {
    pub fn new(of: Type, id: u64, payload: impl Into<Bytes>) -> Self {
        Self { of, kind: 0, id, payload: payload.into() }
    }

    pub fn len(&self) -> usize {
        HEAD_LEN + self.payload.len()
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// Between two bytes.
    pub silence: Duration,
    /// For a frame from its first byte to its last, and for one to be taken; and a second for each MiB of it.
    pub frame: Duration,
}

impl Waits {
    pub fn of(options: &Options) -> Self {
        let ms = Duration::from_millis;
        Self { silence: ms(options.silence_ms_max), frame: ms(options.frame_ms_max) }
    }

    fn for_bytes(&self, len: usize) -> Duration {
        self.frame + Duration::from_millis((len >> 10) as u64)
    }
}

/// What passed, for whoever watches a connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub requests: AtomicU64,
}

/// Frames as they arrive.
pub(crate) struct Incoming<R> {
    io: R,
    buffer: BytesMut,
    waits: Waits,
    clock: Arc<dyn Clock>,
    traffic: Arc<Traffic>,
    turn: usize,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub fn new(io: R, waits: Waits, clock: Arc<dyn Clock>, traffic: Arc<Traffic>) -> Self {
        Self { io, buffer: BytesMut::new(), waits, clock, traffic, turn: 0 }
    }

    /// The next frame. `len_max` says how long one of a type may be now, `None` that it is not due.
    pub async fn next(&mut self, len_max: impl Fn(Type) -> Option<u32>) -> Result<Frame, NetError> {
        let mut began = None;
        loop {
            let head = self.head(&len_max)?;
            let needed = head.map_or(HEAD_LEN, |head| HEAD_LEN + head.len as usize);
            if let Some(head) = head.filter(|_| self.buffer.len() >= needed) {
                return self.take(head).await;
            }
            let mut wait = self.waits.silence;
            if !self.buffer.is_empty() {
                let now = self.clock.monotonic();
                let spent = now.saturating_sub(*began.get_or_insert(now));
                let left = self.waits.for_bytes(needed).saturating_sub(spent);
                if left.is_zero() {
                    return Err(NetError::Silent("a frame did not end"));
                }
                wait = wait.min(left);
            }
            self.read(needed, wait).await?;
        }
    }

    fn head(&self, len_max: &impl Fn(Type) -> Option<u32>) -> Result<Option<Head>, NetError> {
        let Some(bytes) = self.buffer.first_chunk::<HEAD_LEN>() else { return Ok(None) };
        let head = Head::decode(bytes)?;
        match len_max(head.of) {
            None => Err(NetError::Malformed(format!("not due: {:?}", head.of))),
            Some(len_max) if head.len > len_max => {
                Err(NetError::TooLarge { len: u64::from(head.len), len_max: u64::from(len_max) })
            }
            Some(_) => Ok(Some(head)),
        }
    }

    async fn take(&mut self, head: Head) -> Result<Frame, NetError> {
        let mut bytes = self.buffer.split_to(HEAD_LEN + head.len as usize);
        let payload = match head.len as usize {
            len if len <= COPY_LEN_MAX => Bytes::copy_from_slice(&bytes[HEAD_LEN..]),
            _ => bytes.split_off(HEAD_LEN).freeze(),
        };
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * READ_LEN {
            // what one long frame needed is not kept for the life of the connection
            self.buffer = BytesMut::new();
        }
        self.turn += HEAD_LEN + payload.len();
        if self.turn > TURN_LEN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        Ok(Frame { of: head.of, kind: head.kind, id: head.id, payload })
    }

    async fn read(&mut self, needed: usize, wait: Duration) -> Result<(), NetError> {
        let missing = needed.saturating_sub(self.buffer.len());
        // doubles with what is there
        self.buffer.reserve(missing.clamp(READ_LEN_MIN, self.buffer.len().max(READ_LEN)));
        let read = within(wait, "nothing arrived", self.io.read_buf(&mut self.buffer)).await?;
        match read.map_err(|error| NetError::of_stream("read from a link", error))? {
            0 => Err(NetError::Lost("the other side ended it".into())),
            len => {
                self.traffic.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
                self.turn += TURN_LEN / READS_MAX;
                Ok(())
            }
        }
    }

    /// Read and forget, so that what was written before is not lost to a reset.
    pub async fn drain(&mut self) {
        for _ in 0..64 {
            self.buffer.clear();
            self.buffer.reserve(READ_LEN);
            if !matches!(self.io.read_buf(&mut self.buffer).await, Ok(1..)) {
                return;
            }
        }
    }
}

/// Frames as they go.
pub(crate) struct Outgoing<W> {
    io: W,
    batch: Vec<u8>,
    waits: Waits,
    traffic: Arc<Traffic>,
    /// A write was begun and its end not seen: nothing sensible can follow.
    torn: bool,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    pub fn new(io: W, waits: Waits, traffic: Arc<Traffic>) -> Self {
        Self { io, batch: Vec::new(), waits, traffic, torn: false }
    }

    /// Write what waits, small frames together, and flush once.
    pub async fn write(&mut self, frames: &mut VecDeque<Frame>) -> Result<(), NetError> {
        while let Some(Frame { of, kind, id, payload }) = frames.pop_front() {
            let head = Head { len: payload.len() as u32, of, kind, id };
            self.batch.extend_from_slice(&head.encode());
            if payload.len() <= INLINE_LEN_MAX {
                self.batch.extend_from_slice(&payload);
            } else {
                self.write_batch().await?;
                self.write_all(&payload).await?;
            }
            if self.batch.len() >= BATCH_LEN {
                self.write_batch().await?;
            }
        }
        self.write_batch().await?;
        let flushed = within(self.waits.frame, "it takes nothing", self.io.flush()).await?;
        flushed.map_err(|error| NetError::of_stream("write to a link", error))
    }

    pub async fn write_one(&mut self, frame: Frame) -> Result<(), NetError> {
        self.write(&mut VecDeque::from([frame])).await
    }

    /// The last frame, when one can still be understood, and the end of the stream.
    pub async fn close_with(&mut self, frame: Option<Frame>) {
        if self.torn {
            return;
        }
        self.batch.clear();
        if let Some(frame) = frame {
            if self.write_one(frame).await.is_err() {
                return;
            }
        }
        let _ = self.io.shutdown().await;
    }

    async fn write_batch(&mut self) -> Result<(), NetError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        let written = self.write_all(&batch).await;
        batch.clear();
        batch.shrink_to(2 * BATCH_LEN);
        self.batch = batch;
        written
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        self.torn = true;
        let written = within(self.waits.for_bytes(bytes.len()), "it takes nothing", self.io.write_all(bytes)).await?;
        written.map_err(|error| NetError::of_stream("write to a link", error))?;
        self.torn = false;
        self.traffic.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// `what` by a deadline; `None` of it is an error that says `late`.
pub(crate) async fn within<T>(
    wait: Duration,
    late: &'static str,
    what: impl Future<Output = T>,
) -> Result<T, NetError> {
    tokio::time::timeout(wait, what).await.map_err(|_| NetError::Silent(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_these_bytes_and_no_others() {
        let head = Head { len: 0x0102, of: Type::Request, kind: 9, id: 7 };
        let bytes = [2, 1, 0, 0, 1, 4, 9, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!((head.encode(), Head::decode(&bytes).expect("good")), (bytes, head));
        for (at, byte) in (0..HEAD_LEN).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
            let mut other = bytes;
            other[at] = byte;
            let good = match at {
                4 => byte == VERSION,
                5 => byte == 4,
                7 => byte == 0,
                _ => true,
            };
            assert_eq!(Head::decode(&other).is_ok(), good, "at={at} byte={byte}");
        }
    }
}
