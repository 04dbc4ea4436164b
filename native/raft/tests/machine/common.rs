//! Terms, paths and commands in few words, and the seed of a run.

#![allow(clippy::disallowed_methods)]

use macula_raft::machine::{
    apply, verify, Applied, Command, Component, Condition, Event, Guard, MemoryTable, Op, Part, Path, Pattern,
    Response, Stamp,
};

/// A term that the tests use; in Erlang's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    Int(u8),
    Atom(String),
    Pair(Box<Term>, Box<Term>),
    Bin(Vec<u8>),
}

impl Term {
    pub fn etf(&self) -> Vec<u8> {
        let mut etf = vec![131];
        self.put(&mut etf);
        etf
    }

    fn put(&self, etf: &mut Vec<u8>) {
        match self {
            Self::Int(value) => etf.extend([97, *value]),
            Self::Atom(text) => {
                etf.extend([119, text.len() as u8]);
                etf.extend(text.as_bytes());
            }
            Self::Pair(a, b) => {
                etf.extend([104, 2]);
                a.put(etf);
                b.put(etf);
            }
            Self::Bin(data) => {
                etf.push(109);
                etf.extend((data.len() as u32).to_be_bytes());
                etf.extend(data);
            }
        }
    }

    pub fn read(etf: &[u8]) -> Self {
        let (term, rest) = Self::take(&etf[1..]);
        assert!(rest.is_empty() && etf[0] == 131, "one whole term");
        term
    }

    fn take(etf: &[u8]) -> (Self, &[u8]) {
        match etf {
            [97, value, rest @ ..] => (Self::Int(*value), rest),
            [119, len, rest @ ..] => {
                let (text, rest) = rest.split_at(usize::from(*len));
                (Self::Atom(String::from_utf8(text.to_vec()).expect("utf-8")), rest)
            }
            [104, 2, rest @ ..] => {
                let (a, rest) = Self::take(rest);
                let (b, rest) = Self::take(rest);
                (Self::Pair(Box::new(a), Box::new(b)), rest)
            }
            [109, a, b, c, d, rest @ ..] => {
                let (data, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
                (Self::Bin(data.to_vec()), rest)
            }
            _ => panic!("no term of the tests: {etf:?}"),
        }
    }
}

/// A term from a word: digits are an integer, other words an atom.
pub fn term(word: &str) -> Term {
    match word.parse() {
        Ok(value) => Term::Int(value),
        Err(_) => Term::Atom(word.to_owned()),
    }
}

pub fn value(word: &str) -> Vec<u8> {
    term(word).etf()
}

/// A path from words between slashes.
pub fn path(words: &str) -> Path {
    let terms: Vec<Vec<u8>> = words.split('/').map(value).collect();
    Path::new(&terms).expect("a path")
}

/// A path back to words.
pub fn words(path: &Path) -> String {
    let word = |etf: &Vec<u8>| match Term::read(etf) {
        Term::Int(value) => value.to_string(),
        Term::Atom(text) => text,
        other => format!("{other:?}"),
    };
    path.terms().expect("terms").iter().map(word).collect::<Vec<_>>().join("/")
}

pub fn pattern(words: &str) -> Pattern {
    let part = |word: &str| match word {
        "*" => Part::Any(None),
        "**" => Part::AnyDepth,
        word => Part::Exact(Component::new(&value(word)).expect("a component")),
    };
    Pattern::new(words.split('/').filter(|word| !word.is_empty()).map(part).collect(), None).expect("a pattern")
}

pub fn put(at: &str, word: &str) -> Op {
    Op::Put { path: path(at), value: value(word), ttl_ms: None, lease: None, keep_while: vec![] }
}

pub fn put_with(at: &str, ttl_ms: Option<u64>, lease: Option<u64>, keep_while: &[(&str, Condition)]) -> Op {
    let keep_while = keep_while.iter().map(|(at, condition)| (path(at), condition.clone())).collect();
    Op::Put { path: path(at), value: value("1"), ttl_ms, lease, keep_while }
}

pub fn delete(at: &str) -> Op {
    Op::Delete { path: path(at) }
}

pub fn node(at: &str, condition: Condition) -> Guard {
    Guard::Node(path(at), condition)
}

pub fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

/// A machine to which commands are given one after the other; its rows are verified after each.
#[derive(Default)]
pub struct Machine {
    pub table: MemoryTable,
    pub revision: u64,
    pub time_ms: u64,
    pub events: Vec<Event>,
}

impl Machine {
    pub fn command(&mut self, command: &Command) -> Response {
        self.revision += 1;
        let stamp = Stamp { revision: self.revision, time_ms: self.time_ms };
        let Applied { response, events } = apply(&mut self.table, stamp, command).expect("applies");
        verify(&self.table).expect("rows agree");
        self.events = events;
        response
    }

    pub fn txn(&mut self, then: Vec<Op>) -> Response {
        self.command(&Command::Txn { conditions: vec![], then, otherwise: vec![] })
    }

    /// Whether the conditions hold.
    pub fn asks(&mut self, conditions: Vec<Guard>) -> bool {
        match self.command(&Command::Txn { conditions, then: vec![], otherwise: vec![] }) {
            Response::Txn { succeeded, .. } => succeeded,
            other => panic!("{other:?}"),
        }
    }

    pub fn has(&self, at: &str) -> bool {
        macula_raft::machine::read::exists(&self.table, &path(at)).expect("reads")
    }

    /// The last command's events in words.
    pub fn told(&self) -> Vec<String> {
        self.events.iter().map(|event| format!("{:?} {}", event.kind, words(&event.path))).collect()
    }
}

/// Full counts with MACULA_TORTURE=1, a slice otherwise.
pub fn count(slice: u64, full: u64) -> u64 {
    match std::env::var("MACULA_TORTURE").is_ok_and(|v| v == "1") {
        true => full,
        false => slice,
    }
}

/// The seed of this run, printed, from MACULA_SEED when given.
pub fn seed() -> u64 {
    let seed = std::env::var("MACULA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MACULA_SEED={seed}");
    seed
}
