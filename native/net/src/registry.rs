//! The connections of a listener: those that have not said hello, and links.
//!
//! Invariant: a connection is in exactly one of the two from its acceptance to its end, whichever way
//! that comes (its place is a guard), and neither grows beyond its limit.

use crate::frame::Traffic;
use crate::{Options, Peer, Purpose, Reason, Refusal};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What a listener has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerStats {
    /// Connections that were taken.
    pub accepted: u64,
    /// Of those, displaced by newer ones before they said hello.
    pub displaced: u64,
    /// Ended in TLS or before hello: no certificate, none of ours, too slow, not our protocol.
    pub unproven: u64,
    /// Refused at hello, with a reason.
    pub refused: u64,
    /// Became links.
    pub linked: u64,
    /// Links that were cut off: not wanted any more, or false to the protocol.
    pub cut: u64,
    /// Requests that were handled.
    pub requests: u64,
    /// Bytes of links, before TLS.
    pub bytes_in: u64,
    /// Bytes of links, before TLS.
    pub bytes_out: u64,
    /// Now: connections that have not said hello.
    pub handshakes_now: usize,
    /// Now: links.
    pub links_now: usize,
}

struct LinkOf {
    peer: Arc<Peer>,
    purpose: Purpose,
    traffic: Arc<Traffic>,
    abort: Option<AbortHandle>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    handshakes: BTreeMap<u64, Option<AbortHandle>>,
    links: BTreeMap<u64, LinkOf>,
    stats: ListenerStats,
}

#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    emptier: Notify,
}

impl Registry {
    /// Start the connection that `spawn` gives; the oldest without a hello makes room for it.
    pub fn begin(self: &Arc<Self>, handshakes_max: usize, spawn: impl FnOnce(Place) -> AbortHandle) {
        let (id, displaced) = {
            let mut inner = self.inner.lock();
            inner.stats.accepted += 1;
            let id = inner.next;
            inner.next += 1;
            let mut displaced = None;
            if inner.handshakes.len() >= handshakes_max.max(1) {
                displaced = inner.handshakes.pop_first();
                inner.stats.displaced += 1;
            }
            inner.handshakes.insert(id, None);
            (id, displaced)
        };
        if let Some((_, Some(oldest))) = displaced {
            oldest.abort();
        }
        // not under the lock: a runtime that shuts down drops the task, and with it its place, right here
        let handle = spawn(Place { registry: self.clone(), id });
        let mut inner = self.inner.lock();
        if let Some(place) = inner.handshakes.get_mut(&id) {
            *place = Some(handle);
        } else if let Some(link) = inner.links.get_mut(&id) {
            link.abort = Some(handle);
        }
    }

    pub fn count(&self, change: impl FnOnce(&mut ListenerStats)) {
        change(&mut self.inner.lock().stats);
    }

    pub fn stats(&self) -> ListenerStats {
        let inner = self.inner.lock();
        let mut stats = inner.stats;
        (stats.handshakes_now, stats.links_now) = (inner.handshakes.len(), inner.links.len());
        for link in inner.links.values() {
            stats.bytes_in += link.traffic.bytes_in.load(Ordering::Relaxed);
            stats.bytes_out += link.traffic.bytes_out.load(Ordering::Relaxed);
            stats.requests += link.traffic.requests.load(Ordering::Relaxed);
        }
        stats
    }

    pub fn links(&self) -> Vec<(Arc<Peer>, Purpose)> {
        self.inner.lock().links.values().map(|link| (link.peer.clone(), link.purpose)).collect()
    }

    pub fn abort_all(&self) {
        let handles: Vec<AbortHandle> = {
            let inner = self.inner.lock();
            let of_links = inner.links.values().map(|link| &link.abort);
            inner.handshakes.values().chain(of_links).flatten().cloned().collect()
        };
        handles.iter().for_each(AbortHandle::abort);
    }

    /// Wait until there is no connection.
    pub async fn emptied(&self) {
        loop {
            let emptier = self.emptier.notified();
            {
                let inner = self.inner.lock();
                if inner.handshakes.is_empty() && inner.links.is_empty() {
                    return;
                }
            }
            emptier.await;
        }
    }
}

/// A connection's place in the registry, for as long as its task lives.
pub(crate) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

impl Place {
    /// From now on a link, when there is room for one.
    pub fn link(
        &self,
        peer: &Arc<Peer>,
        purpose: Purpose,
        traffic: &Arc<Traffic>,
        options: &Options,
    ) -> Result<(), Refusal> {
        let mut inner = self.registry.inner.lock();
        let of_peer = inner.links.values().filter(|link| link.peer.node == peer.node).count();
        if of_peer >= options.links_per_peer_max || inner.links.len() >= options.links_max {
            let message = format!("as many links as allowed: of_peer={of_peer} all={}", inner.links.len());
            return Err(Refusal::new(Reason::TooMany, message));
        }
        let Some(abort) = inner.handshakes.remove(&self.id) else {
            return Err(Refusal::new(Reason::TooMany, "displaced by newer connections"));
        };
        let link = LinkOf { peer: peer.clone(), purpose, traffic: traffic.clone(), abort };
        inner.links.insert(self.id, link);
        inner.stats.linked += 1;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.registry.inner.lock();
        inner.handshakes.remove(&self.id);
        if let Some(link) = inner.links.remove(&self.id) {
            inner.stats.bytes_in += link.traffic.bytes_in.load(Ordering::Relaxed);
            inner.stats.bytes_out += link.traffic.bytes_out.load(Ordering::Relaxed);
            inner.stats.requests += link.traffic.requests.load(Ordering::Relaxed);
        }
        drop(inner);
        self.registry.emptier.notify_waiters();
    }
}
