//! Takes connections and gives each a task of its own.
//!
//! Invariant: nothing that one connection does, or does not do, keeps the listener from taking the
//! next: connections that have not said hello are few, short-lived, and the oldest gives way.

use crate::greet::receive;
use crate::registry::{Place, Registry};
use crate::serve::Serving;
use crate::{Admit, Handler, ListenerStats, Net, NetError, Peer, Purpose};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// After an error of accept (no descriptors left, for one): not a reason to spin.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel keeps for us until we take them.
const BACKLOG: u32 = 1024;
/// For links to hear that the listener stops.
const CLOSE: Duration = Duration::from_secs(2);

/// Takes links. Dropped, it cuts all of them.
pub struct Listener {
    address: SocketAddr,
    registry: Arc<Registry>,
    accepting: AbortHandle,
    stop: watch::Sender<bool>,
}

impl Listener {
    pub(crate) fn open(
        net: Net,
        address: SocketAddr,
        admit: Arc<dyn Admit>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, NetError> {
        net.transport.refuse_address(address)?;
        let failed = NetError::io("listen");
        let socket = {
            let _runtime = net.runtime.enter();
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = socket.map_err(&failed)?;
            socket.set_reuseaddr(true).map_err(&failed)?;
            socket.bind(address).map_err(&failed)?;
            socket.listen(BACKLOG).map_err(&failed)?
        };
        let address = socket.local_addr().map_err(&failed)?;
        let registry = Arc::new(Registry::default());
        let (stop, stopping) = watch::channel(false);
        let runtime = net.runtime.clone();
        let serving = Arc::new(Serving { net, admit, handler, stopping });
        let accepting = runtime.spawn(accept(socket, registry.clone(), serving)).abort_handle();
        Ok(Self { address, registry, accepting, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen, and has now.
    pub fn stats(&self) -> ListenerStats {
        self.registry.stats()
    }

    /// Its links now.
    pub fn links(&self) -> Vec<(Arc<Peer>, Purpose)> {
        self.registry.links()
    }

    /// Take no more, tell the links that it stops, and wait until they are gone (2 s at most).
    pub async fn close(self) {
        self.accepting.abort();
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(CLOSE, self.registry.emptied()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        self.registry.abort_all();
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(socket: TcpListener, registry: Arc<Registry>, serving: Arc<Serving>) {
    loop {
        match socket.accept().await {
            Ok((tcp, _)) => registry.begin(serving.net.options.handshakes_max, |place| {
                let task = connection(registry.clone(), place, serving.clone(), tcp);
                serving.net.runtime.spawn(task).abort_handle()
            }),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn connection(registry: Arc<Registry>, place: Place, serving: Arc<Serving>, tcp: TcpStream) {
    let wait = Duration::from_millis(serving.net.options.handshake_ms_max);
    let mut stopping = serving.stopping.clone();
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(wait, receive(&serving.net, &*serving.admit, &place, tcp)) => greeted,
        _ = stopping.wait_for(|stopping| *stopping) => return,
    };
    match greeted {
        Ok(Ok(greeted)) => {
            let ended = serving.run(greeted).await;
            let cut = matches!(
                ended,
                NetError::Refused(_) | NetError::Malformed(_) | NetError::TooLarge { .. } | NetError::Silent(_)
            );
            registry.count(|stats| stats.cut += u64::from(cut));
        }
        Ok(Err(NetError::Refused(_))) => registry.count(|stats| stats.refused += 1),
        Ok(Err(_)) | Err(_) => registry.count(|stats| stats.unproven += 1),
    }
    drop(place);
}
