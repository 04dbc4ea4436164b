//! Nodes over real sockets and TLS: a cluster grows from one node, heals, and lets nobody in who is not invited.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{
    answer, binary, change, invite, join, options, path, propose, propose_within, put, query, seams, until, PATIENCE,
};
use macula_core::{Cancel, Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_raft::machine::{Command, Op, Pattern};
use macula_raft::net::{Authority, Identity, Issue, Net, NetError, NodeName, Purpose, Role, Transport};
use macula_raft::{
    Change, Client, ClientOptions, ClientSeams, Consistency, Engine, Found, Invitation, LinkOptions, Options, Query,
    RaftError,
};
use std::sync::Arc;
use std::time::Duration;

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
        self.identity_as(name, dir, Role::Member)
    }

    fn identity_as(&self, name: &str, dir: &str, role: Role) -> Arc<Identity> {
        let certificates = rel(&format!("{dir}-certificates"));
        if self.disk.stat(&certificates).is_err() {
            let node = NodeName::new(name.as_bytes()).expect("a name");
            let wanted = Issue { node: &node, role, days: 1, trust: &[&self.authority] };
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
        let host = "127.0.0.1".to_owned();
        let links = LinkOptions { listen, host, port: None, transport: Transport::Tls(identity), options: net };
        let engine = Engine::open(seams, Options { name: name.to_owned(), ..options }, Box::new(|_| {}));
        let engine = engine.expect("opens");
        engine.listen(links).expect("listens");
        engine
    }

    /// Who is no member, and asks these.
    fn client(&self, name: &str, role: Role, members: &[(&str, &Engine)]) -> Client {
        let transport = Transport::Tls(self.identity_as(name, &format!("{name}-client"), role));
        let address = |engine: &Engine| engine.address().expect("listens");
        let members = members.iter().map(|(name, engine)| ((*name).to_owned(), address(engine))).collect();
        let options = macula_raft::net::Options { retry_ms_min: 10, ..Default::default() };
        let seams = ClientSeams { clock: Arc::new(SystemClock), chance: Arc::new(SystemChance) };
        Client::open(seams, ClientOptions { members, transport, options }).expect("opens")
    }

    /// What a node answers to a request on a link of that purpose, from whoever has that name's certificate.
    fn answer(&self, name: &str, to: &Engine, purpose: Purpose, request: Vec<u8>) -> Result<Vec<u8>, NetError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runs");
        let transport = Transport::Tls(self.identity(name, &name[..1]));
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
        let options = macula_raft::net::Options::default();
        let net = Net { runtime: runtime.handle().clone(), clock, chance, transport, options };
        runtime.block_on(async {
            let link = net.link(NodeName::new(b"a@test").expect("a name"), to.address().expect("listens"), purpose);
            link.connected(Duration::from_secs(2)).await;
            link.call(1, request, Duration::from_secs(5)).await.map(|bytes| bytes.to_vec())
        })
    }
}

/// A read index, asked of a node by another: version, cluster, from, to, and the seventh of the requests.
fn read_index(from: &Engine, to: &Engine) -> Vec<u8> {
    let mut bytes = [&[1][..], &to.status().cluster.0].concat();
    for mut number in [from.number(), to.number()] {
        while number > 127 {
            bytes.push((number & 127) as u8 | 128);
            number >>= 7;
        }
        bytes.push(number as u8);
    }
    bytes.push(7);
    bytes
}

fn rel(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

/// To be let into the cluster of this one.
fn invited_by(engine: &Engine) -> Options {
    Options { joins: Some(engine.status().cluster), ..options() }
}

fn value(engine: &Engine, name: &str) -> Result<Option<Vec<u8>>, RaftError> {
    match query(engine, Query::Get(path(&["k", name])), Consistency::Linearizable)? {
        Found::Node(node) => Ok(node.and_then(|node| node.value)),
        found => panic!("{found:?}"),
    }
}

#[test]
fn a_cluster_grows_from_one_node_and_outlives_the_one_that_began_it() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    propose(&first, put(&["k", "before"], b"1", None)).expect("alone already");
    let others: Vec<_> = ["b", "c"]
        .into_iter()
        .map(|dir| {
            let other = site.node(&format!("{dir}@test"), dir, invited_by(&first));
            join(&other, invite(&first).expect("invites")).expect("joins");
            assert_eq!(value(&other, "before").expect("reads"), Some(binary(b"1")));
            other
        })
        .collect();
    propose(&others[1], put(&["k", "by_follower"], b"2", None)).expect("forwarded");
    assert_eq!(value(&first, "by_follower").expect("reads"), Some(binary(b"2")));
    drop(first);
    propose(&others[0], put(&["k", "after"], b"3", None)).expect("another leads");
    assert_eq!(value(&others[1], "after").expect("reads"), Some(binary(b"3")));
    // it comes back as itself, at another port: it is told where the others are, and they agree on where it is
    let again = site.node("a@test", "a", options());
    let address = again.address().expect("listens");
    others.iter().for_each(|other| other.tell("a@test", &address));
    until("it has caught up", || matches!(value(&again, "after"), Ok(Some(value)) if value == binary(b"3")));
    until("all know where it is", || {
        others.iter().all(|other| other.status().members[&again.number()].0.address == address)
    });
}

#[test]
fn an_invitation_is_good_once_for_one_cluster_and_for_a_while() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    let second = site.node("b@test", "b", invited_by(&first));
    let invitation = invite(&first).expect("invites");
    let bytes = invitation.encode().expect("encodes");
    assert_eq!(Invitation::decode(&bytes).expect("decodes"), invitation);
    join(&second, invitation.clone()).expect("joins");
    // asked again because an answer was lost: it is in
    join(&second, invitation.clone()).expect("is in");
    let third = site.node("c@test", "c", invited_by(&first));
    let refused = |result| matches!(result, Err(RaftError::Refused(_)));
    assert!(refused(join(&third, invitation)), "it was used");
    let mut guessed = invite(&first).expect("invites");
    guessed.secret.0[0] ^= 1;
    assert!(refused(join(&third, guessed.clone())), "another secret");
    guessed.secret.0[0] ^= 1;
    // the wrong guess did not use it up; another cluster's is no use
    join(&third, guessed).expect("joins");
    let stranger = site.node("d@test", "d", options());
    assert!(refused(join(&stranger, invite(&first).expect("invites"))), "it is of a cluster of its own");
    assert_eq!(first.status().members.len(), 3);
    let short = answer(|reply| first.invite(Duration::from_millis(1), PATIENCE, Cancel::new(), reply));
    let fourth = site.node("e@test", "e", invited_by(&first));
    std::thread::sleep(Duration::from_millis(10));
    assert!(refused(join(&fourth, short.expect("invites"))), "its time is over");
}

#[test]
fn a_wiped_node_is_another_and_takes_the_place_of_its_former_self() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    let second = site.node("b@test", "b", invited_by(&first));
    join(&second, invite(&first).expect("invites")).expect("joins");
    propose(&first, put(&["k", "x"], b"1", None)).expect("applies");
    let third = site.node("c@test", "c", invited_by(&first));
    join(&third, invite(&first).expect("invites")).expect("joins");
    let (before, place) = (second.number(), second.address().expect("listens"));
    drop((second, third));
    // the same name and certificate, the disk empty
    let wiped = site.node_at("b@test", "b2", invited_by(&first), &place);
    assert_ne!(wiped.number(), before);
    // it listens where its former self did, and does not answer for it: there is no majority
    assert!(matches!(value(&first, "x"), Err(RaftError::NoQuorum)), "{place}");
    // with a majority, it is let in and its former self is gone
    let third = site.node("c@test", "c", options());
    first.tell("c@test", &third.address().expect("listens"));
    until("a majority", || value(&first, "x").is_ok());
    join(&wiped, invite(&first).expect("invites")).expect("joins");
    let members = first.status().members;
    assert!(members.len() == 3 && !members.contains_key(&before), "{members:?}");
    assert_eq!(value(&wiped, "x").expect("reads"), Some(binary(b"1")));
    // one that joins later goes through a past in which that name was somebody else's, whoever leads
    change(&first, Change::Lead { number: wiped.number() }).expect("leads");
    let fourth = site.node("d@test", "d", invited_by(&first));
    join(&fourth, invite(&first).expect("invites")).expect("joins");
}

#[test]
fn who_is_no_member_and_who_left_is_not_heard() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    let second = site.node("b@test", "b", invited_by(&first));
    join(&second, invite(&first).expect("invites")).expect("joins");
    let asked = read_index(&second, &first);
    let is_heard = |name, purpose| site.answer(name, &first, purpose, asked.clone()).map(|answer| answer[1] == 8);
    assert!(matches!(is_heard("b@test", Purpose::Raft), Ok(true)));
    // a certificate of the same authority, of nobody who was invited; on clients' links, members' business is not done
    let not_admitted = |result: Result<bool, NetError>| {
        result.is_err_and(|error| error.to_string().contains("no member of the cluster"))
    };
    assert!(not_admitted(is_heard("z@test", Purpose::Raft)));
    assert!(matches!(is_heard("z@test", Purpose::Client), Ok(false)));
    assert!(matches!(is_heard("b@test", Purpose::Client), Ok(false)));
    change(&first, Change::Leave { number: second.number() }).expect("leaves");
    assert!(not_admitted(is_heard("b@test", Purpose::Raft)));
    propose(&first, put(&["k", "x"], b"1", None)).expect("alone again");
    assert!(propose_within(&second, put(&["k", "x"], b"2", None), Duration::from_secs(1)).is_err());
}

fn told(client: &Client, command: Command) -> Result<(), RaftError> {
    let wait = Some(Duration::from_secs(3));
    answer(|reply| client.propose(command, wait, Cancel::new(), reply)).map(drop)
}

fn seen(client: &Client, name: &str) -> Result<Option<Vec<u8>>, RaftError> {
    let (query, wait) = (Query::Get(path(&["k", name])), Some(Duration::from_secs(3)));
    let found = answer(|reply| client.query(query, Consistency::Linearizable, wait, Cancel::new(), reply));
    match found? {
        Found::Node(node) => Ok(node.and_then(|node| node.value)),
        found => panic!("{found:?}"),
    }
}

#[test]
fn a_client_writes_reads_and_watches_whoever_leads() {
    let site = Site::new();
    let first = site.node("a@test", "a", options());
    let others = ["b", "c"].map(|dir| {
        let other = site.node(&format!("{dir}@test"), dir, invited_by(&first));
        join(&other, invite(&first).expect("invites")).expect("joins");
        other
    });
    let members = [("a@test", &first), ("b@test", &others[0]), ("c@test", &others[1])];
    let client = site.client("x@test", Role::Client, &members);
    told(&client, put(&["k", "x"], b"1", None)).expect("written");
    assert_eq!(seen(&client, "x").expect("reads"), Some(binary(b"1")));
    assert_eq!(value(&others[0], "x").expect("a member reads it"), Some(binary(b"1")));
    let events = |after, wait| {
        let pattern = Pattern::under(None).expect("a pattern");
        answer(|reply| client.watch(pattern, after, wait, Cancel::new(), reply)).expect("is told")
    };
    let page = events(0, Duration::ZERO);
    assert_eq!(page.events.len(), 1);
    // one that has seen all is told of the next when it happens
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| events(page.through, Duration::from_secs(8)));
        std::thread::sleep(Duration::from_millis(100));
        propose(&others[1], put(&["k", "y"], b"2", None)).expect("applies");
        assert_eq!(waiting.join().expect("waits").events.len(), 1);
    });
    assert!(begun.elapsed() < Duration::from_secs(6), "it was woken");
    // whose certificate is a member's and who is none has nothing to say
    let stranger = site.client("z@test", Role::Member, &members[1..]);
    assert!(matches!(told(&stranger, put(&["k", "x"], b"4", None)), Err(RaftError::Refused(_))));
    assert!(matches!(seen(&stranger, "x"), Err(RaftError::Refused(_))));
    // what fits into no frame of its own is told at once
    let (begun, long) = (std::time::Instant::now(), vec![7; 8 << 20]);
    let op = |n: &str| Op::Put {
        path: path(&["k", n]),
        value: binary(&long[..7 << 20]),
        ttl_ms: None,
        lease: None,
        keep_while: vec![],
    };
    let txn = |then: Vec<Op>| Command::Txn { conditions: vec![], then, otherwise: vec![] };
    let refused = told(&client, txn(["1", "2", "3"].map(op).to_vec())).expect_err("21 MiB");
    assert!(refused.to_string().contains("len_max"), "{refused}");
    for n in ["1", "2", "3"] {
        told(&client, txn(vec![op(n)])).expect("7 MiB");
    }
    let (all, wait) = (Pattern::children(Some(&path(&["k"]))).expect("a pattern"), Some(Duration::from_secs(30)));
    let query = Query::GetMany(all, None, 100);
    let refused = answer(|reply| client.query(query, Consistency::Linearizable, wait, Cancel::new(), reply));
    assert!(matches!(refused, Err(RaftError::Refused(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "none of it waits for a deadline");
    // who answered it is gone
    drop(first);
    until("another leads", || told(&client, put(&["k", "z"], b"3", None)).is_ok());
    assert_eq!(seen(&client, "z").expect("reads"), Some(binary(b"3")));
}

/// What is longer than a frame was once would never have arrived anywhere else.
#[test]
fn the_largest_command_goes_to_all_and_a_larger_one_nowhere() {
    let site = Site::new();
    let first = site.node("a@test", "a", Options { log: Default::default(), ..options() });
    let second = site.node("b@test", "b", Options { log: Default::default(), ..invited_by(&first) });
    join(&second, invite(&first).expect("invites")).expect("joins");
    let many = |count: usize, len: usize| {
        let value = binary(&vec![7; len]);
        let op = |n: usize| Op::Put {
            path: path(&["k", &n.to_string()]),
            value: value.clone(),
            ttl_ms: None,
            lease: None,
            keep_while: vec![],
        };
        Command::Txn { conditions: vec![], then: (0..count).map(op).collect(), otherwise: vec![] }
    };
    let wait = Duration::from_secs(20);
    propose_within(&second, many(9, 7 << 20), wait).expect("63 MiB, from one that does not lead");
    assert_eq!(value(&second, "8").expect("reads").map(|value| value.len()), Some((7 << 20) + 6));
    let refused = propose_within(&first, many(19, 7 << 20), wait).expect_err("133 MiB");
    assert!(refused.to_string().contains("len_max"), "{refused}");
    propose(&second, put(&["k", "x"], b"1", None)).expect("it goes on");
}
