//! The seam to other members: who carries requests to them. Our own links, or an application's.
//!
//! Invariant: a request is answered at most once, and nothing is taken from an answer that the request did not
//! ask for; so a carrier may lose, double and delay. Who a request came from is the carrier's word.

use crate::MeshError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use macula_core::MemberAt;
use macula_net::{Link, Net, NodeName, Purpose};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest request, and longest answer, bytes.
pub const MESSAGE_LEN_MAX: usize = 2 << 20;
/// Between two looks for a member that nobody has told of.
const PAUSE: Duration = Duration::from_millis(200);
/// One wait for a link, of many.
const WAIT: Duration = Duration::from_secs(60);
/// The one kind of request of ours on a link.
pub const KIND_REQUEST: u8 = 2;

/// Carries requests to other members.
pub trait Carrier: Send + Sync {
    /// Send a request of at most [`MESSAGE_LEN_MAX`] bytes to a member, and wait for its answer.
    ///
    /// # Errors
    /// [`MeshError::Net`] or [`MeshError::Internal`]: it may or may not have been heard.
    fn call(&self, to: &str, request: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, MeshError>>;

    /// Ends when the member can be reached, as far as one can know.
    fn reachable(&self, to: &str) -> BoxFuture<'static, ()>;

    /// Ends when it cannot be reached any more, as far as one can know.
    fn lost(&self, to: &str) -> BoxFuture<'static, ()>;

    /// These are the others from now on.
    fn learn(&self, others: &[MemberAt]);
}

/// By member: where it is, and the link there.
type Open = Arc<Mutex<BTreeMap<String, (String, Arc<Link>)>>>;

/// Our links: one for each member, for blocks and what goes with them.
pub struct Links {
    net: Net,
    open: Open,
}

impl Links {
    /// Links of this net.
    pub fn new(net: Net) -> Self {
        Self { net, open: Arc::default() }
    }
}

impl Carrier for Links {
    fn call(&self, to: &str, request: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, MeshError>> {
        let link = self.open.lock().get(to).map(|(_, link)| link.clone());
        let to = to.to_owned();
        Box::pin(async move {
            let link = link.ok_or_else(|| MeshError::Internal(format!("no link to {to}")))?;
            Ok(link.call(KIND_REQUEST, request, deadline).await?)
        })
    }

    fn reachable(&self, to: &str) -> BoxFuture<'static, ()> {
        let (open, to) = (self.open.clone(), to.to_owned());
        Box::pin(async move {
            loop {
                let link = open.lock().get(&to).map(|(_, link)| link.clone());
                match link {
                    Some(link) if link.connected(WAIT).await => return,
                    Some(_) => {}
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
        })
    }

    fn lost(&self, to: &str) -> BoxFuture<'static, ()> {
        let link = self.open.lock().get(to).map(|(_, link)| link.clone());
        Box::pin(async move {
            let Some(link) = link else { return };
            while !link.disconnected(WAIT).await {}
        })
    }

    fn learn(&self, others: &[MemberAt]) {
        let mut open = self.open.lock();
        open.retain(|name, _| others.iter().any(|other| other.name == *name));
        for MemberAt { name, address } in others.iter().filter(|other| !other.address.is_empty()) {
            match open.get_mut(name) {
                Some((known, link)) if known != address => {
                    link.set_address(address.clone());
                    known.clone_from(address);
                }
                Some(_) => {}
                None => {
                    // what is no node's name has no link
                    let Ok(node) = NodeName::new(name.as_bytes()) else { continue };
                    let link = Arc::new(self.net.link(node, address.clone(), Purpose::Bulk));
                    open.insert(name.clone(), (address.clone(), link));
                }
            }
        }
    }
}
