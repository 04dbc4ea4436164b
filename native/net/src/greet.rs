//! The hello from both sides: from a TCP connection to one on which frames may go.
//!
//! Invariant: whoever is refused with a reason has proven its certificate before; everyone else gets
//! TLS's alert or nothing.

use crate::frame::{Incoming, Outgoing, Traffic, Type, Waits};
use crate::hello::{decode_refusal, encode_refusal, word_len_max, Hello, Welcome};
use crate::registry::Place;
use crate::transport::{Io, Secured};
use crate::{Admit, Net, NetError, NodeName, Peer, Purpose, Reason, Refusal, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;

pub(crate) type Reader = Incoming<ReadHalf<Box<dyn Io>>>;
pub(crate) type Writer = Outgoing<WriteHalf<Box<dyn Io>>>;

/// How long a refusal may take to be taken.
const FAREWELL: Duration = Duration::from_millis(500);

/// A connection on which frames may go.
pub(crate) struct Greeted {
    pub incoming: Reader,
    pub outgoing: Writer,
    pub traffic: Arc<Traffic>,
    pub peer: Arc<Peer>,
    pub purpose: Purpose,
    /// Longest payload that the other side takes, bytes.
    pub len_max: u32,
    /// Of the identity that we showed.
    pub generation: u64,
    /// Of [`Admit`], when it was asked.
    pub admitted_at: u64,
    pub calls_max: u32,
    pub calls_bytes_max: u32,
}

fn halves(net: &Net, io: Box<dyn Io>) -> (Reader, Writer, Arc<Traffic>) {
    let (waits, traffic) = (Waits::of(&net.options), Arc::new(Traffic::default()));
    let (read, write) = tokio::io::split(io);
    let incoming = Incoming::new(read, waits, net.clock.clone(), traffic.clone());
    (incoming, Outgoing::new(write, waits, traffic.clone()), traffic)
}

/// The listener's side. An error that is a refusal has been told.
pub(crate) async fn receive(net: &Net, admit: &dyn Admit, place: &Place, tcp: TcpStream) -> Result<Greeted, NetError> {
    let Secured { io, proven, own, generation } = net.transport.accept(tcp).await?;
    let (mut incoming, mut outgoing, traffic) = halves(net, io);
    let first = incoming.next(|of| word_len_max(of, &[Type::Hello])).await;
    let hello = first.and_then(|frame| Hello::decode(&frame.payload));
    let admitted_at = admit.generation();
    let judged = hello.and_then(|hello| {
        let peer = Arc::new(proven.unwrap_or_else(|| hello.from.clone()));
        let purpose = hello.judge(&peer, &own).map_err(NetError::Refused)?;
        admit.admit(&peer, purpose).map_err(NetError::Refused)?;
        place.link(&peer, purpose, &traffic, &net.options).map_err(NetError::Refused)?;
        Ok((peer, purpose, hello.answer_len_max))
    });
    let (peer, purpose, len_max) = match judged {
        Ok(judged) => judged,
        Err(error) => {
            farewell(&mut incoming, &mut outgoing, &error).await;
            return Err(error);
        }
    };
    let welcome = Welcome::new(own, net.options.limits(purpose));
    outgoing.write_one(welcome.encode()).await?;
    let (calls_max, calls_bytes_max) = (welcome.calls_max, welcome.calls_bytes_max);
    Ok(Greeted {
        incoming,
        outgoing,
        traffic,
        peer,
        purpose,
        len_max,
        generation,
        admitted_at,
        calls_max,
        calls_bytes_max,
    })
}

/// The dialler's side, to the member `node`.
pub(crate) async fn send(net: &Net, tcp: TcpStream, node: &NodeName, purpose: Purpose) -> Result<Greeted, NetError> {
    let Secured { io, proven, own, generation } = net.transport.dial(tcp, node).await?;
    let cluster = own.cluster;
    let (mut incoming, mut outgoing, traffic) = halves(net, io);
    outgoing.write_one(Hello::new(own, node.clone(), purpose, net.options.limits(purpose)).encode()).await?;
    let answer = incoming.next(|of| word_len_max(of, &[Type::Welcome, Type::Refused])).await?;
    if answer.of == Type::Refused {
        return Err(NetError::Refused(decode_refusal(&answer.payload)));
    }
    let welcome = Welcome::decode(&answer.payload)?;
    let expected = Peer { node: node.clone(), role: Role::Member, cluster };
    if welcome.from != expected || proven.is_some_and(|proven| proven != expected) {
        let reason = if welcome.from.cluster == cluster { Reason::Node } else { Reason::Cluster };
        let message = format!("another node answers: dialled={node} answers={}", welcome.from.node);
        return Err(NetError::Refused(Refusal::new(reason, message)));
    }
    Ok(Greeted {
        incoming,
        outgoing,
        traffic,
        peer: Arc::new(welcome.from),
        purpose,
        len_max: welcome.request_len_max,
        generation,
        admitted_at: 0,
        calls_max: welcome.calls_max,
        calls_bytes_max: welcome.calls_bytes_max,
    })
}

/// Tell why, when it is for the other side to know, and end.
pub(crate) async fn farewell(incoming: &mut Reader, outgoing: &mut Writer, error: &NetError) {
    let refusal = match error {
        NetError::Refused(refusal) => Some(refusal.clone()),
        NetError::Malformed(_) | NetError::TooLarge { .. } => Some(Refusal::new(Reason::Malformed, error.to_string())),
        _ => None,
    };
    let told = async {
        outgoing.close_with(refusal.as_ref().map(encode_refusal)).await;
        incoming.drain().await;
    };
    let _ = tokio::time::timeout(FAREWELL, told).await;
}
