//! Nodes over real sockets and TLS: a cluster grows from one node, heals, and lets nobody in who is not invited.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{binary, options, path, propose, put, query, seams};
use macula_core::{Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_raft::net::{Authority, Identity, Issue, Net, NetError, NodeName, Purpose, Role, Transport};
use macula_raft::{Consistency, Engine, Found, LinkOptions, Member, Options, Query, RaftError};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Site {
    dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("opens"));
        let authority = Authority::create(&*disk, &rel("authority"), &SystemClock, &SystemChance).expect("created");
        Self { dir, disk, authority }
    }

    /// A node of that name, in a directory of its own, with a certificate of the site's authority.
    fn node(&self, name: &str, dir: &str, options: Options) -> Engine {
        self.node_at(name, dir, options, "127.0.0.1:0")
    }

    fn identity(&self, name: &str, dir: &str) -> Arc<Identity> {
        let certificates = rel(&format!("{dir}-certificates"));
        if self.disk.stat(&certificates).is_err() {
            let node = NodeName::new(name.as_bytes()).expect("a name");
            let wanted = Issue { node: &node, role: Role::Member, days: 1, trust: &[&self.authority] };
            self.authority.issue(&*self.disk, &certificates, &wanted, &SystemClock, &SystemChance).expect("issued");
        }
        Identity::load(self.disk.clone(), certificates, Arc::new(SystemClock)).expect("loads")
    }

    fn node_at(&self, name: &str, dir: &str, options: Options, listen: &str) -> Engine {
        let identity = self.identity(name, dir);
        let state = self.dir.path().join(format!("{dir}-state"));
        std::fs::create_dir_all(&state).expect("makes");
        let seams = seams(Arc::new(RealDisk::at(&state).expect("opens")));
        let listen = listen.parse().expect("an address");
        let net = macula_raft::net::Options { retry_ms_min: 10, ..Default::default() };
        let links = LinkOptions { listen, transport: Transport::Tls(identity), options: net };
        Engine::open_linked(seams, Options { name: name.to_owned(), ..options }, Box::new(|_| {}), links)
            .expect("opens")
    }
}

fn rel(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

fn waiting() -> Options {
    Options { begins_alone: false, ..options() }
}

fn member(engine: &Engine, name: &str) -> Member {
    Member { name: name.to_owned(), address: engine.address().expect("listens").to_string() }
}

fn value(engine: &Engine, name: &str) -> Result<Option<Vec<u8>>, RaftError> {
    match query(engine, Query::Get(path(&["k", name])), Consistency::Linearizable)? {
        Found::Node(node) => Ok(node.and_then(|node| node.value)),
        found => panic!("{found:?}"),
    }
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cluster_grows_from_one_node_and_outlives_the_one_that_began_it() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    propose(&first, put(&["k", "before"], b"1", None)).expect("alone already");
    first.set_member(first.number(), member(&first, "a@test")).expect("tells where it is");
    let others: Vec<_> = ["b", "c"].into_iter().map(|dir| site.node(&format!("{dir}@test"), dir, waiting())).collect();
    for (other, name) in others.iter().zip(["b@test", "c@test"]) {
        first.join(other.number(), member(other, name)).expect("joins");
        assert_eq!(value(other, "before").expect("reads"), Some(binary(b"1")));
    }
    propose(&others[1], put(&["k", "by_follower"], b"2", None)).expect("forwarded");
    assert_eq!(value(&first, "by_follower").expect("reads"), Some(binary(b"2")));
    drop(first);
    propose(&others[0], put(&["k", "after"], b"3", None)).expect("another leads");
    assert_eq!(value(&others[1], "after").expect("reads"), Some(binary(b"3")));
    // it comes back as itself, at another port, and is told to the others
    let again = site.node("a@test", "a", options());
    let leader = others.iter().find(|other| other.is_leader()).expect("one leads");
    leader.set_member(again.number(), member(&again, "a@test")).expect("tells where it is");
    soon("it has caught up", || matches!(value(&again, "after"), Ok(Some(value)) if value == binary(b"3")));
}

#[test]
fn a_wiped_node_is_another_and_a_stranger_is_not_heard() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    first.set_member(first.number(), member(&first, "a@test")).expect("tells where it is");
    let second = site.node("b@test", "b", waiting());
    first.join(second.number(), member(&second, "b@test")).expect("joins");
    propose(&first, put(&["k", "x"], b"1", None)).expect("applies");
    let (before, place) = (second.number(), second.address().expect("listens"));
    drop(second);
    // the same name and certificate, the disk empty
    let wiped = site.node_at("b@test", "b2", waiting(), &place.to_string());
    assert_ne!(wiped.number(), before);
    // it listens where its former self did, and does not answer for it: there is no majority
    assert!(matches!(value(&first, "x"), Err(RaftError::NoQuorum)), "{place}");
    drop(wiped);
    // a certificate of the same authority, of nobody who was invited
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runs");
    let (runtime_of, options) = (runtime.handle().clone(), macula_raft::net::Options::default());
    let transport = Transport::Tls(site.identity("z@test", "z"));
    let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
    let net = Net { runtime: runtime_of, clock, chance, transport, options };
    runtime.block_on(async {
        let to = NodeName::new(b"a@test").expect("a name");
        let link = net.link(to, first.address().expect("listens").to_string(), Purpose::Raft);
        let refused = |error: &NetError| error.to_string().contains("no member of the cluster");
        let begun = Instant::now();
        loop {
            let error = link.call(1, vec![1, 2, 3], Duration::from_secs(1)).await.expect_err("not heard");
            if refused(&error) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
