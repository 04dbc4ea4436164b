//! A link to one member, kept up: it connects, renews, and connects again when it was cut.
//!
//! Invariant: a call goes out at most once, on the connection that is there when it is made; without
//! one it fails at once. A renewed connection stands before its predecessor goes, which still gets the
//! answers to its calls.

use crate::live::{Driver, Live};
use crate::{greet, Net, NetError, NodeName, Purpose};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{watch, Notify};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// A link to one member. Cloning is for an `Arc` around it; dropped, it is closed.
pub struct Link {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// How a link is.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Since when there has been a connection, monotonic; renewals do not count. `None`: there is none.
    pub connected_since: Option<Duration>,
    /// What the last connection or try ended with.
    pub last_error: Option<NetError>,
    /// Of the last ping, microseconds.
    pub rtt_us: Option<u64>,
    /// Connections that were made, renewals among them.
    pub connections: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Calls without an answer now.
    pub calls_now: usize,
    /// Bytes of this link, before TLS.
    pub bytes_in: u64,
    /// Bytes of this link, before TLS.
    pub bytes_out: u64,
}

struct Shared {
    net: Net,
    node: NodeName,
    purpose: Purpose,
    address: Mutex<String>,
    state: Mutex<State>,
    poke: Notify,
    connected: watch::Sender<bool>,
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    since: Option<Duration>,
    last_error: Option<NetError>,
    connections: u64,
    /// Of connections before this one.
    bytes_in: u64,
    bytes_out: u64,
}

/// A connection that is driven; dropped, it is cut.
struct Running {
    live: Arc<Live>,
    task: JoinHandle<NetError>,
    /// When it was made.
    since: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(crate) fn open(net: Net, node: NodeName, address: String, purpose: Purpose) -> Self {
        let runtime = net.runtime.clone();
        let shared = Arc::new(Shared {
            net,
            node,
            purpose,
            address: Mutex::new(address),
            state: Mutex::default(),
            poke: Notify::new(),
            connected: watch::Sender::new(false),
            failures: AtomicU64::new(0),
        });
        let task = runtime.spawn(shared.clone().keep_up()).abort_handle();
        Self { shared, task }
    }

    /// Whom it is to.
    pub fn node(&self) -> &NodeName {
        &self.shared.node
    }

    /// Send a request and wait for its answer. Calls made one after the other by one task arrive in that
    /// order, but for those around a renewal.
    ///
    /// # Errors
    /// Nothing was sent: [`NetError::Unreachable`] at once when there is no connection;
    /// [`NetError::Busy`] when the other side has as many as it takes until the deadline;
    /// [`NetError::TooLarge`]. Sent, and its result unknown: [`NetError::Timeout`], [`NetError::Lost`],
    /// [`NetError::Failed`].
    pub async fn call(&self, kind: u8, payload: impl Into<Bytes>, deadline: Duration) -> Result<Bytes, NetError> {
        let sent = AtomicBool::new(false);
        let answer = tokio::time::timeout(deadline, self.call_on_any(kind, payload.into(), &sent)).await;
        let waited_ms = deadline.as_millis() as u64;
        match answer {
            Ok(answer) => answer,
            Err(_) if sent.load(Ordering::Relaxed) => Err(NetError::Timeout { waited_ms }),
            Err(_) => Err(NetError::Busy { waited_ms }),
        }
    }

    /// On the connection that is there; on its successor when it was renewed before anything was sent.
    async fn call_on_any(&self, kind: u8, payload: Bytes, sent: &AtomicBool) -> Result<Bytes, NetError> {
        let mut tried = None;
        loop {
            let live = self.shared.state.lock().live.clone();
            let live = live.filter(|live| !tried.as_ref().is_some_and(|tried| Arc::ptr_eq(tried, live)));
            let Some(live) = live else { return Err(self.shared.unreachable()) };
            match live.call(kind, payload.clone(), sent).await {
                Err(NetError::Closed) => tried = Some(live),
                answer => return answer,
            }
        }
    }

    /// Try to connect now rather than at the end of the present wait.
    pub fn poke(&self) {
        self.shared.poke.notify_one();
    }

    /// Connect to another address from the next time on.
    pub fn set_address(&self, address: impl Into<String>) {
        *self.shared.address.lock() = address.into();
        self.poke();
    }

    /// Wait until there is a connection; whether there was one by the deadline.
    pub async fn connected(&self, deadline: Duration) -> bool {
        self.reaches(true, deadline).await
    }

    /// Wait until there is none; whether that came by the deadline.
    pub async fn disconnected(&self, deadline: Duration) -> bool {
        self.reaches(false, deadline).await
    }

    async fn reaches(&self, wanted: bool, deadline: Duration) -> bool {
        let mut connected = self.shared.connected.subscribe();
        let reached = tokio::time::timeout(deadline, connected.wait_for(|connected| *connected == wanted)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// How it is.
    pub fn status(&self) -> LinkStatus {
        let state = self.shared.state.lock();
        let live = state.live.as_ref();
        let of_live = |read: fn(&Live) -> &AtomicU64| live.map_or(0, |live| read(live).load(Ordering::Relaxed));
        LinkStatus {
            connected_since: state.since,
            last_error: state.last_error.clone(),
            rtt_us: Some(of_live(|live| &live.rtt_us)).filter(|rtt| *rtt > 0),
            connections: state.connections,
            failures: self.shared.failures.load(Ordering::Relaxed),
            calls_now: live.map_or(0, |live| live.open_calls()),
            bytes_in: state.bytes_in + of_live(|live| &live.traffic.bytes_in),
            bytes_out: state.bytes_out + of_live(|live| &live.traffic.bytes_out),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { node, purpose, .. } = &*self.shared;
        f.debug_struct("Link").field("node", node).field("purpose", purpose).finish_non_exhaustive()
    }
}

impl Shared {
    async fn keep_up(self: Arc<Self>) {
        let mut former = JoinSet::new();
        let mut tries = 0;
        loop {
            match self.establish().await {
                Ok(running) => {
                    let since = running.since;
                    self.publish(&running.live, since);
                    let error = self.stay(running, &mut former).await;
                    let lived = self.net.clock.monotonic().saturating_sub(since);
                    // one that is cut at once is as good as none
                    tries = if lived > Duration::from_millis(self.net.options.retry_ms_max) { 0 } else { tries + 1 };
                    self.lost(error);
                }
                Err(error) => {
                    tries += 1;
                    self.failed(error);
                }
            }
            while former.try_join_next().is_some() {}
            self.or_poke(self.backoff(tries)).await;
        }
    }

    /// Keep a connection, and renew it when it is due, until it is lost.
    async fn stay(&self, mut running: Running, former: &mut JoinSet<()>) -> NetError {
        let mut due = self.age_max();
        let mut tries = 0;
        loop {
            tokio::select! {
                ended = &mut running.task => {
                    return ended.unwrap_or_else(|error| NetError::Lost(error.to_string()));
                }
                () = self.renewal(running.live.generation, due) => {}
            }
            // established beside the one that goes on; an end of that is seen on the next round
            match self.establish().await {
                Ok(fresh) => {
                    tries = 0;
                    due = self.age_max();
                    self.publish(&fresh.live, fresh.since);
                    let old = std::mem::replace(&mut running, fresh);
                    let drain = Duration::from_millis(self.net.options.drain_ms_max);
                    former.spawn(async move {
                        let _ = tokio::time::timeout(drain, old.live.drained()).await;
                    });
                }
                Err(error) => {
                    tries += 1;
                    self.failed(error);
                    due = self.backoff(tries);
                    tokio::select! {
                        ended = &mut running.task => {
                            return ended.unwrap_or_else(|error| NetError::Lost(error.to_string()));
                        }
                        () = self.or_poke(due) => due = Duration::ZERO,
                    }
                }
            }
        }
    }

    /// Wait until a connection that showed the identity of `generation` must be renewed: at its age, or
    /// some time after a reload, not all links in one moment.
    async fn renewal(&self, generation: u64, due: Duration) {
        let reloaded = async {
            let Some(mut generations) = self.net.transport.generations() else {
                return std::future::pending().await;
            };
            if generations.wait_for(|now| *now != generation).await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(self.share(Duration::from_millis(self.net.options.renew_ms_max))).await;
        };
        tokio::select! {
            () = tokio::time::sleep(due) => {}
            () = reloaded => {}
        }
    }

    async fn establish(&self) -> Result<Running, NetError> {
        let net = &self.net;
        let address = self.address.lock().clone();
        let tcp = net.transport.connect(&address, Duration::from_millis(net.options.connect_ms_max)).await?;
        let greeting = greet::send(net, tcp, &self.node, self.purpose);
        let wait = Duration::from_millis(net.options.handshake_ms_max);
        let greeted = crate::frame::within(wait, "it does not shake hands", greeting).await??;
        let driver = Driver::new(greeted);
        let live = driver.live.clone();
        let task = net.runtime.spawn(driver.run(net.clone()));
        Ok(Running { live, task, since: net.clock.monotonic() })
    }

    fn publish(&self, live: &Arc<Live>, since: Duration) {
        let mut state = self.state.lock();
        state.keep_bytes();
        state.live = Some(live.clone());
        state.since.get_or_insert(since);
        state.connections += 1;
        drop(state);
        self.connected.send_replace(true);
    }

    fn lost(&self, error: NetError) {
        let mut state = self.state.lock();
        state.keep_bytes();
        state.live = None;
        state.since = None;
        state.last_error = Some(error);
        drop(state);
        self.connected.send_replace(false);
    }

    fn failed(&self, error: NetError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.state.lock().last_error = Some(error);
    }

    fn unreachable(&self) -> NetError {
        let reason = match &self.state.lock().last_error {
            Some(error) => error.to_string(),
            None => "not connected yet".to_owned(),
        };
        NetError::Unreachable { node: self.node.clone(), reason }
    }

    /// Twice as long each time up to the maximum, of which at least half.
    fn backoff(&self, tries: u32) -> Duration {
        let options = &self.net.options;
        let doubled = options.retry_ms_min.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let most = Duration::from_millis(doubled.min(options.retry_ms_max));
        most / 2 + self.share(most / 2)
    }

    /// Renewed at nine tenths of the age or later.
    fn age_max(&self) -> Duration {
        let most = Duration::from_millis(self.net.options.link_age_ms_max);
        most - self.share(most / 10)
    }

    /// Some part of a span.
    fn share(&self, span: Duration) -> Duration {
        let parts = (self.net.chance.next_u64() % 1024) as u32;
        span / 1024 * parts
    }

    async fn or_poke(&self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.poke.notified() => {}
        }
    }
}

impl State {
    fn keep_bytes(&mut self) {
        if let Some(live) = &self.live {
            self.bytes_in += live.traffic.bytes_in.load(Ordering::Relaxed);
            self.bytes_out += live.traffic.bytes_out.load(Ordering::Relaxed);
        }
    }
}
