//! What a connection runs over: TLS 1.3 with two certificates, or plain TCP on this machine.
//!
//! Invariant: a stream that leaves here either proved who is at its other end (`proven`) or ends at a
//! loopback address, and then only because the caller asked for plain links.

use crate::identity::server_name;
use crate::{Identity, NetError, NodeName, Peer, Reason, Refusal};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// For an alert to be taken.
const LINGER: Duration = Duration::from_millis(300);

/// How a node's links are secured.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TLS 1.3, both sides by certificate.
    Tls(Arc<Identity>),
    /// Plain TCP between loopback addresses, for tests and demonstrations on one machine: each side is
    /// who it says to be.
    PlainLoopback(Peer),
}

/// A byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection before its hello.
pub(crate) struct Secured {
    pub io: Box<dyn Io>,
    /// What the other side's certificate says; `None` over plain TCP.
    pub proven: Option<Peer>,
    /// Who we are on it.
    pub own: Peer,
    /// Of the identity that was shown.
    pub generation: u64,
}

impl Transport {
    /// Who this node is.
    pub fn own(&self) -> Peer {
        match self {
            Self::Tls(identity) => identity.peer(),
            Self::PlainLoopback(peer) => peer.clone(),
        }
    }

    /// Which reading of the identity is in use.
    pub(crate) fn generation(&self) -> u64 {
        match self {
            Self::Tls(identity) => identity.keys().generation,
            Self::PlainLoopback(_) => 0,
        }
    }

    pub(crate) fn generations(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Tls(identity) => Some(identity.generations()),
            Self::PlainLoopback(_) => None,
        }
    }

    pub(crate) fn refuse_address(&self, address: SocketAddr) -> Result<(), NetError> {
        match self {
            Self::PlainLoopback(_) if !address.ip().to_canonical().is_loopback() => {
                Err(NetError::PlainNotLoopback(address.to_string()))
            }
            Self::PlainLoopback(_) | Self::Tls(_) => Ok(()),
        }
    }

    /// A TCP connection to the first of the address's that takes one, by a deadline for all.
    pub(crate) async fn connect(&self, address: &str, wait: Duration) -> Result<TcpStream, NetError> {
        let connect = async {
            let mut failed = NetError::Invalid(format!("no such address: {address}"));
            for address in tokio::net::lookup_host(address).await.map_err(NetError::io("look up an address"))? {
                self.refuse_address(address)?;
                match TcpStream::connect(address).await {
                    Ok(tcp) => return Ok(tcp),
                    Err(error) => failed = NetError::io("connect")(error),
                }
            }
            Err(failed)
        };
        let tcp = crate::frame::within(wait, "it does not take connections", connect).await??;
        tcp.set_nodelay(true).map_err(NetError::io("set up a connection"))?;
        Ok(tcp)
    }

    /// The dialler's side, to the member `node`.
    pub(crate) async fn dial(&self, tcp: TcpStream, node: &NodeName) -> Result<Secured, NetError> {
        let identity = match self {
            Self::Tls(identity) => identity,
            Self::PlainLoopback(own) => {
                return Ok(Secured { io: Box::new(tcp), proven: None, own: own.clone(), generation: 0 });
            }
        };
        let keys = identity.keys();
        let name = server_name(&keys.peer, node)?;
        let connected = TlsConnector::from(keys.client.clone()).connect(name, tcp).await;
        let tls = connected.map_err(|error| other_name(&keys.peer, node, error))?;
        let proven = proven(tls.get_ref().1.peer_certificates())?;
        let (own, generation) = (keys.peer.clone(), keys.generation);
        Ok(Secured { io: Box::new(tls), proven: Some(proven), own, generation })
    }

    /// The listener's side.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<Secured, NetError> {
        tcp.set_nodelay(true).map_err(NetError::io("set up a connection"))?;
        let identity = match self {
            Self::Tls(identity) => identity,
            Self::PlainLoopback(own) => {
                self.refuse_address(tcp.peer_addr().map_err(NetError::io("accept a connection"))?)?;
                return Ok(Secured { io: Box::new(tcp), proven: None, own: own.clone(), generation: 0 });
            }
        };
        let keys = identity.keys();
        let tls = match TlsAcceptor::from(keys.server.clone()).accept(tcp).into_fallible().await {
            Ok(tls) => tls,
            Err((error, tcp)) => {
                linger(tcp).await;
                return Err(NetError::of_stream("accept a connection", error));
            }
        };
        let proven = proven(tls.get_ref().1.peer_certificates())?;
        let (own, generation) = (keys.peer.clone(), keys.generation);
        Ok(Secured { io: Box::new(tls), proven: Some(proven), own, generation })
    }
}

/// TLS has sent its alert: what the other side sent meanwhile is read, or a reset would overtake it.
async fn linger(mut tcp: TcpStream) {
    let read = async {
        let _ = tcp.shutdown().await;
        let mut bytes = [0; 4096];
        for _ in 0..16 {
            if !matches!(tcp.read(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}

fn proven(certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Result<Peer, NetError> {
    match certificates.and_then(|chain| chain.first()) {
        Some(certificate) => Peer::of_certificate(certificate),
        None => Err(NetError::Tls("no certificate was shown".into())),
    }
}

/// A certificate that is good, but of another node, is told apart from one that is not.
fn other_name(own: &Peer, node: &NodeName, error: io::Error) -> NetError {
    use rustls::{CertificateError::NotValidForNameContext, Error::InvalidCertificate};
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(InvalidCertificate(NotValidForNameContext { presented, .. })) => {
            let cluster = own.cluster.to_string();
            let reason = match presented.iter().any(|name| name.contains(&cluster)) {
                true => Reason::Node,
                false => Reason::Cluster,
            };
            NetError::Refused(Refusal::new(reason, format!("its certificate is not of the member {node} of {cluster}")))
        }
        _ => NetError::of_stream("shake hands", error),
    }
}
