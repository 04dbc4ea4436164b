//! Links between the nodes of a cluster: TLS 1.3 with certificates on both sides, a hello, frames,
//! calls. Used by Raft and by file replication.
//!
//! [`Authority`] issues what [`Identity`] reads; a [`Net`] opens a [`Listener`] and [`Link`]s.
//! Invariant: nobody without a certificate of the cluster gets a byte of ours after TLS's alert, and
//! what one peer sends, however false, ends its own connection only. Formats: docs/formats.md, "Links".

#![forbid(unsafe_code)]

mod about;
pub mod authority;
mod error;
mod frame;
mod greet;
mod hello;
mod identity;
mod link;
mod listener;
mod live;
mod name;
mod options;
mod queue;
mod registry;
mod renew;
mod serve;
mod transport;
mod validity;

pub use about::{About, AuthorityFacts, NodeFacts};
pub use authority::{Authority, Issue};
pub use error::{NetError, Reason, Refusal};
pub use identity::Identity;
pub use link::{Link, LinkStatus};
pub use listener::Listener;
pub use name::{AuthorityId, ClusterId, NodeName, Peer, Purpose, Role, NODE_NAME_LEN_MAX};
pub use options::{Limits, Options};
pub use queue::Reply;
pub use registry::ListenerStats;
pub use transport::Transport;
pub use validity::Validity;

use bytes::Bytes;
use macula_core::{Chance, Clock};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What a node's listener and links have in common.
#[derive(Debug, Clone)]
pub struct Net {
    /// Where their tasks run.
    pub runtime: Handle,
    /// Readings of time; waits are tokio's.
    pub clock: Arc<dyn Clock>,
    /// The jitter of retries.
    pub chance: Arc<dyn Chance>,
    /// Who this node is, and how it proves it.
    pub transport: Transport,
    /// Limits and times.
    pub options: Options,
}

impl Net {
    /// Listen on `address`; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`NetError::PlainNotLoopback`]; [`NetError::Io`] when the address cannot be had.
    pub fn listen(
        &self,
        address: SocketAddr,
        admit: Arc<dyn Admit>,
        handler: Arc<dyn Handler>,
    ) -> Result<Listener, NetError> {
        Listener::open(self.clone(), address, admit, handler)
    }

    /// A link to the member `node` at `address` (`host:port`), kept up until it is dropped. Connects in
    /// the background.
    pub fn link(&self, node: NodeName, address: impl Into<String>, purpose: Purpose) -> Link {
        Link::open(self.clone(), node, address.into(), purpose)
    }
}

/// Who of those with a certificate of the cluster is wanted now.
pub trait Admit: Send + Sync {
    /// Asked at each hello, and again on each of its connections when [`Admit::generation`] changed:
    /// before the next frame of it is handled, or within [`Options::ping_ms`]. Must not block.
    ///
    /// # Errors
    /// The reason that the peer is told before it is cut off.
    fn admit(&self, peer: &Peer, purpose: Purpose) -> Result<(), Refusal>;

    /// Changes with every change of what [`Admit::admit`] would answer. Read for each frame.
    fn generation(&self) -> u64;
}

/// Where a request came in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    /// What the link is for: a request of another purpose is to be refused.
    pub purpose: Purpose,
}

/// What requests are for.
pub trait Handler: Send + Sync {
    /// A request, in the order in which those of a connection arrived. Called on the task that reads:
    /// must not block; the answer may be given later, from anywhere. A `reply` that is dropped tells the
    /// caller that there is none.
    fn handle(&self, caller: &Caller, kind: u8, payload: Bytes, reply: Reply);
}
