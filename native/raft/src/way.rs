//! A node's way to the others: what it was opened with, until it has links of its own.
//!
//! Invariant: links are there once and for all, and stop with the node.

use crate::links::{Links, Listening};
use crate::network::{Transport, Unreached};
use crate::types::Member;
use crate::RaftError;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

pub(crate) struct Way {
    first: Arc<dyn Transport>,
    own: RwLock<Option<Own>>,
    changed: Notify,
}

struct Own {
    listening: Listening,
    links: Arc<Links>,
    address: String,
}

impl Way {
    pub(crate) fn over(first: Arc<dyn Transport>) -> Self {
        Self { first, own: RwLock::default(), changed: Notify::new() }
    }

    /// From now on, by these; where they listen.
    pub(crate) fn take(
        &self,
        listening: Listening,
        links: Arc<Links>,
        host: &str,
        port: Option<u16>,
    ) -> Result<SocketAddr, RaftError> {
        let Some(bound) = listening.address() else { return Err(RaftError::Closed) };
        let mut own = self.own.write();
        if own.is_some() {
            return Err(RaftError::Begun);
        }
        let port = port.unwrap_or(bound.port());
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        *own = Some(Own { listening, links, address });
        drop(own);
        self.changed.notify_one();
        Ok(bound)
    }

    /// Where others find this node.
    pub(crate) fn address(&self) -> Option<String> {
        self.own.read().as_ref().map(|own| own.address.clone())
    }

    /// Ends when there are links.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn links(&self) -> Option<Arc<Links>> {
        self.own.read().as_ref().map(|own| own.links.clone())
    }

    /// Use certificates that were renewed. What is not usable is left for the next time.
    pub(crate) fn reload(&self) {
        if let Some(links) = self.links() {
            crate::engine::blocking(|| links.reload());
        }
    }

    /// The members have changed: who left is cut off.
    pub(crate) fn look_again(&self) {
        if let Some(own) = &*self.own.read() {
            own.listening.look_again();
        }
    }

    pub(crate) async fn close(&self) {
        let own = self.own.write().take();
        if let Some(mut own) = own {
            own.listening.close().await;
        }
    }
}

impl Transport for Way {
    fn call(
        &self,
        to: u64,
        member: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreached>> {
        match self.links() {
            Some(links) => links.call(to, member, request, wait),
            None => self.first.call(to, member, request, wait),
        }
    }
}
