//! A cluster's authority, its nodes and their listeners, for the tests of links.

#![allow(dead_code)] // each test file uses its part

pub mod raw;

use bytes::Bytes;
use macula_core::{Clock, Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_net::{
    Admit, Authority, Caller, Handler, Identity, Issue, Link, Listener, Net, NetError, NodeName, Options, Peer,
    Purpose, Reason, Refusal, Reply, Role, Transport,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

pub const SOON: Duration = Duration::from_secs(5);

pub fn name(text: &str) -> NodeName {
    NodeName::new(text.as_bytes()).expect("allowed")
}

pub fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts")
}

/// A directory with an authority in it, which goes with the test.
pub struct Cluster {
    _dir: tempfile::TempDir,
    pub disk: Arc<dyn Disk>,
    pub authority: Authority,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("opens"));
        let authority = Authority::create(&*disk, &path("authority"), &SystemClock, &SystemChance).expect("created");
        Self { _dir: dir, disk, authority }
    }

    pub fn issue(&self, node: &str, role: Role) -> RelPath {
        self.issue_from(&self.authority, node, role, &[&self.authority], &SystemClock)
    }

    pub fn issue_from(
        &self,
        authority: &Authority,
        node: &str,
        role: Role,
        trust: &[&Authority],
        clock: &dyn Clock,
    ) -> RelPath {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let dir = path(&format!("node-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let wanted = Issue { node: &name(node), role, days: 1, trust };
        authority.issue(&*self.disk, &dir, &wanted, clock, &SystemChance).expect("issued");
        dir
    }

    pub fn identity(&self, dir: &RelPath) -> Arc<Identity> {
        Identity::load(self.disk.clone(), dir.clone(), Arc::new(SystemClock)).expect("loads")
    }

    /// A node's side, by TLS.
    pub fn net(&self, node: &str, role: Role, options: Options) -> Net {
        let identity = self.identity(&self.issue(node, role));
        net(Transport::Tls(identity), options)
    }

    pub fn member(&self, node: &str) -> Net {
        self.net(node, Role::Member, options())
    }
}

pub fn net(transport: Transport, options: Options) -> Net {
    let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
    Net { runtime: Handle::current(), clock, chance, transport, options }
}

/// The defaults, but quicker.
pub fn options() -> Options {
    Options { ping_ms: 100, silence_ms_max: 1000, retry_ms_min: 10, renew_ms_max: 300, ..Options::default() }
}

/// Wants everyone but those who left.
#[derive(Default)]
pub struct Members {
    left: Mutex<BTreeSet<NodeName>>,
    generation: AtomicU64,
}

impl Members {
    pub fn leave(&self, node: &str) {
        self.left.lock().expect("whole").insert(name(node));
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Admit for Members {
    fn admit(&self, peer: &Peer, _purpose: Purpose) -> Result<(), Refusal> {
        match self.left.lock().expect("whole").contains(&peer.node) {
            true => Err(Refusal::new(Reason::NotAdmitted, "it left")),
            false => Ok(()),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// Kinds that [`Echo`] knows.
pub const ECHO: u8 = 1;
pub const DROP: u8 = 2;
pub const KEEP: u8 = 3;
pub const LONG: u8 = 4;
pub const PANIC: u8 = 5;

/// Answers with what it got, at once; drops, keeps, or answers with as many bytes as asked.
#[derive(Default)]
pub struct Echo {
    pub seen: Mutex<Vec<(Arc<Peer>, Bytes)>>,
    pub kept: Mutex<Vec<Reply>>,
    pub count: AtomicU64,
}

impl Handler for Echo {
    fn handle(&self, caller: &Caller, kind: u8, payload: Bytes, reply: Reply) {
        self.count.fetch_add(1, Ordering::SeqCst);
        match kind {
            ECHO => reply.send(payload),
            KEEP => {
                self.seen.lock().expect("whole").push((caller.peer.clone(), payload));
                self.kept.lock().expect("whole").push(reply);
            }
            LONG => {
                let len = u32::from_le_bytes(payload[..4].try_into().expect("four")) as usize;
                reply.send(vec![7; len]);
            }
            PANIC => panic!("a defect of the handler's"),
            _ => drop(reply),
        }
    }
}

/// A listener with what stands behind it.
pub struct Node {
    pub net: Net,
    pub listener: Listener,
    pub members: Arc<Members>,
    pub echo: Arc<Echo>,
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn listen(net: Net) -> Node {
    listen_at(net, any_port())
}

pub fn listen_at(net: Net, address: SocketAddr) -> Node {
    let (members, echo) = (Arc::new(Members::default()), Arc::new(Echo::default()));
    let listener = net.listen(address, members.clone(), echo.clone()).expect("listens");
    Node { net, listener, members, echo }
}

impl Node {
    /// A link of `from` to it.
    pub fn link(&self, from: &Net, to: &str, purpose: Purpose) -> Link {
        from.link(name(to), self.listener.address().to_string(), purpose)
    }
}

pub async fn echo(link: &Link, text: &[u8]) -> Result<Bytes, NetError> {
    link.call(ECHO, text.to_vec(), SOON).await
}

/// Wait until `what` holds, by a deadline.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON * 2, waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// What the link's tries end with.
pub async fn refused(link: &Link) -> NetError {
    until("a try fails", || link.status().failures > 0).await;
    link.status().last_error.expect("an error")
}

#[allow(clippy::disallowed_methods)] // no configuration of ours
pub fn seed() -> u64 {
    let given = std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1_000_000));
    eprintln!("MACULA_SEED={seed}");
    seed
}

/// How often, in `bin/test` and in `bin/torture`.
#[allow(clippy::disallowed_methods)]
pub fn count(slice: u64, torture: u64) -> u64 {
    if std::env::var("MACULA_TORTURE").is_ok() {
        torture
    } else {
        slice
    }
}
