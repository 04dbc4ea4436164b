//! What the tests of a node share.
#![allow(dead_code, clippy::disallowed_methods)]

use macula_core::{Cancel, Disk, SystemChance, SystemClock};
use macula_raft::machine::{Command, Node, Op, Path, Response};
use macula_raft::{
    Alone, Change, Consistency, Engine, Found, Invitation, Member, Options, Query, RaftError, Seams, Standing,
};
use std::sync::{mpsc, Arc};
use std::time::Duration;

/// Small, so that short runs meet checkpoints and purges.
pub fn options() -> Options {
    let log = macula_wal::Options { segment_bytes_min: 8192, segment_bytes_max: 32_768, ..Default::default() };
    Options { log, checkpoint_entries: 12, kept_entries: 3, ..Options::of("one@test") }
}

pub fn seams(disk: Arc<dyn Disk>) -> Seams {
    Seams { disk, clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), transport: Arc::new(Alone) }
}

pub fn open(disk: Arc<dyn Disk>) -> Result<Engine, RaftError> {
    Engine::open(seams(disk), options(), Box::new(|_| {}))
}

/// A binary as External Term Format.
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut etf = vec![131, 109];
    etf.extend((bytes.len() as u32).to_be_bytes());
    etf.extend(bytes);
    etf
}

pub fn path(names: &[&str]) -> Path {
    let terms: Vec<_> = names.iter().map(|name| binary(name.as_bytes())).collect();
    Path::new(&terms).expect("a path")
}

pub fn put(names: &[&str], value: &[u8], ttl_ms: Option<u64>) -> Command {
    let op = Op::Put { path: path(names), value: binary(value), ttl_ms, lease: None, keep_while: vec![] };
    Command::Txn { conditions: vec![], then: vec![op], otherwise: vec![] }
}

pub fn propose(engine: &Engine, command: Command) -> Result<Response, RaftError> {
    propose_within(engine, command, Duration::from_secs(5))
}

pub fn propose_within(engine: &Engine, command: Command, deadline: Duration) -> Result<Response, RaftError> {
    let (answer, answered) = mpsc::channel();
    let deadline = Some(deadline);
    engine.propose(command, deadline, Cancel::new(), move |result| drop(answer.send(result)))?;
    answered.recv_timeout(Duration::from_secs(20)).expect("an answer")
}

pub fn query(engine: &Engine, query: Query, consistency: Consistency) -> Result<Found, RaftError> {
    let (answer, answered) = mpsc::channel();
    let deadline = Some(Duration::from_secs(5));
    engine.query(query, consistency, deadline, Cancel::new(), move |result| drop(answer.send(result)))?;
    answered.recv_timeout(Duration::from_secs(20)).expect("an answer")
}

/// What a call that ends in a callback gave.
pub fn answer<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, RaftError>) + Send>) -> Result<(), RaftError>,
) -> Result<T, RaftError> {
    let (answer, answered) = mpsc::channel();
    ask(Box::new(move |result| drop(answer.send(result))))?;
    answered.recv_timeout(Duration::from_secs(30)).expect("an answer")
}

pub const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

pub fn invite(engine: &Engine) -> Result<Invitation, RaftError> {
    answer(|reply| engine.invite(Duration::from_secs(60), PATIENCE, Cancel::new(), reply))
}

pub fn change(engine: &Engine, change: Change) -> Result<(), RaftError> {
    answer(|reply| engine.change(change, PATIENCE, Cancel::new(), reply))
}

pub fn join(engine: &Engine, invitation: Invitation) -> Result<(), RaftError> {
    answer(|reply| engine.join(invitation, PATIENCE, Cancel::new(), reply))
}

/// Take a node in that is not asked, and wait until it votes.
pub fn let_in(leader: &Engine, new: &Engine, name: &str) {
    let member = Member { name: name.to_owned(), address: String::new() };
    change(leader, invite(leader).expect("invites").join(new.number(), member)).expect("joins");
    until("it votes", || is_voter(leader, new.number()));
}

pub fn is_voter(engine: &Engine, number: u64) -> bool {
    engine.status().members.get(&number).is_some_and(|(_, standing)| *standing == Standing::Voter)
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn get(engine: &Engine, names: &[&str]) -> Result<Option<Node>, RaftError> {
    match query(engine, Query::Get(path(names)), Consistency::Linearizable)? {
        Found::Node(node) => Ok(node),
        found => panic!("{found:?}"),
    }
}

/// The seed of this run, printed; `MACULA_SEED` replays one.
pub fn seed() -> u64 {
    let given = std::env::var("MACULA_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..) >> 32);
    eprintln!("MACULA_SEED={seed}");
    seed
}

pub fn count(slice: u64, all: u64) -> u64 {
    if std::env::var_os("MACULA_TORTURE").is_some() {
        all
    } else {
        slice
    }
}
