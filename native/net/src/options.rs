//! Limits and times, with defaults for a few machines on links that come and go.
//!
//! Invariant: what one connection can make us hold is bounded by its [`Limits`]: one request being
//! read, those without an answer, and the answers that wait to be taken.

use crate::Purpose;

/// What one connection may hold, by its purpose. The listener's count for requests, the dialler's for
/// answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest request or answer, bytes.
    pub frame_len_max: u32,
    /// Requests without an answer; further calls wait at the dialler.
    pub calls_max: u32,
    /// Bytes of them; at least one of the longest is allowed.
    pub calls_bytes_max: u32,
    /// Answers that the dialler has not taken, bytes: beyond, a call gets none.
    pub answers_bytes_max: usize,
}

impl Limits {
    /// Of Raft's links: the longest are what one command wrote, and its results.
    pub fn raft() -> Self {
        Self { frame_len_max: 144 << 20, calls_max: 1024, calls_bytes_max: 144 << 20, answers_bytes_max: 160 << 20 }
    }

    /// Of links for chunks of at most 1 MiB.
    pub fn bulk() -> Self {
        Self { frame_len_max: 2 << 20, calls_max: 32, calls_bytes_max: 32 << 20, answers_bytes_max: 64 << 20 }
    }

    /// Of clients' links.
    pub fn client() -> Self {
        Self { frame_len_max: 16 << 20, calls_max: 1024, calls_bytes_max: 32 << 20, answers_bytes_max: 64 << 20 }
    }

    pub(crate) fn calls_bytes(&self) -> u32 {
        self.calls_bytes_max.max(self.frame_len_max)
    }
}

/// How links and listeners behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Of [`Purpose::Raft`].
    pub raft: Limits,
    /// Of [`Purpose::Bulk`].
    pub bulk: Limits,
    /// Of [`Purpose::Client`].
    pub client: Limits,
    /// A TCP connection, milliseconds.
    pub connect_ms_max: u64,
    /// TLS and hello, milliseconds.
    pub handshake_ms_max: u64,
    /// Connections of a listener that have not said hello; a newer one displaces the oldest.
    pub handshakes_max: usize,
    /// Links of a listener.
    pub links_max: usize,
    /// Links of a listener from one peer.
    pub links_per_peer_max: usize,
    /// From the first byte of a frame to its last, and for a frame to be taken, milliseconds; one more
    /// for each KiB of it.
    pub frame_ms_max: u64,
    /// Between two pings of a dialler, milliseconds.
    pub ping_ms: u64,
    /// Without a byte from the other side, milliseconds: the link is given up.
    pub silence_ms_max: u64,
    /// The first wait between two tries to connect, milliseconds; each later one is twice as long.
    pub retry_ms_min: u64,
    /// The longest wait between two tries to connect, milliseconds.
    pub retry_ms_max: u64,
    /// A link shakes hands again at this age, milliseconds, without an interruption. The listener cuts
    /// off at twice that.
    pub link_age_ms_max: u64,
    /// And within this time, milliseconds, of a reload of the identity.
    pub renew_ms_max: u64,
    /// How long a renewed link's former connection waits for the answers to its calls, milliseconds.
    pub drain_ms_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            raft: Limits::raft(),
            bulk: Limits::bulk(),
            client: Limits::client(),
            connect_ms_max: 1500,
            handshake_ms_max: 5000,
            handshakes_max: 128,
            links_max: 1024,
            links_per_peer_max: 16,
            frame_ms_max: 10_000,
            ping_ms: 1000,
            silence_ms_max: 4000,
            retry_ms_min: 50,
            retry_ms_max: 1000,
            link_age_ms_max: 3_600_000,
            renew_ms_max: 60_000,
            drain_ms_max: 30_000,
        }
    }
}

impl Options {
    pub(crate) fn limits(&self, purpose: Purpose) -> &Limits {
        match purpose {
            Purpose::Raft => &self.raft,
            Purpose::Bulk => &self.bulk,
            Purpose::Client => &self.client,
        }
    }
}
