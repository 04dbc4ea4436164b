//! The state machine again, as it would be written if nothing cost anything: one map of paths, every
//! question answered by looking at all of it. It knows nothing of rows, keys or indexes.

use crate::common::Term;
use macula_raft::machine::{
    Command, Compare, Condition, Event, EventKind, Guard, ImportEntry, Node, Op, OpResult, Part, Path, Pattern,
    Refusal, Response,
};
use std::collections::BTreeMap;

pub type Place = Vec<Term>;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    pub value: Option<Vec<u8>>,
    pub version: u64,
    pub created: u64,
    pub modified: u64,
    pub expires_ms: Option<u64>,
    pub lease: Option<u64>,
    pub keep_while: Vec<(Path, Condition)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub parent: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Naive {
    pub nodes: BTreeMap<Place, Kept>,
    pub leases: BTreeMap<u64, Held>,
    pub revision: u64,
    pub time_ms: u64,
    pub events: Vec<Event>,
}

pub fn place(path: &Path) -> Place {
    path.terms().expect("terms").iter().map(|etf| Term::read(etf)).collect()
}

pub fn path_of(place: &[Term]) -> Path {
    Path::new(&place.iter().map(Term::etf).collect::<Vec<_>>()).expect("a path")
}

/// What a pattern of the tests matches: an integer, `_`, or a pair of those.
pub fn fits(pattern: &Term, value: &Term) -> bool {
    match (pattern, value) {
        (Term::Atom(hole), _) if hole == "_" => true,
        (Term::Pair(a, b), Term::Pair(c, d)) => fits(a, c) && fits(b, d),
        _ => pattern == value,
    }
}

impl Naive {
    pub fn children(&self, at: &[Term]) -> u64 {
        self.under(at).filter(|place| place.len() == at.len() + 1).count() as u64
    }

    /// The node and those beneath it: they stand together.
    fn under<'a>(&'a self, at: &'a [Term]) -> impl Iterator<Item = &'a Place> {
        self.nodes.range(at.to_vec()..).map(|(place, _)| place).take_while(move |place| place.starts_with(at))
    }

    pub fn node(&self, at: &[Term]) -> Option<Node> {
        let kept = self.nodes.get(at)?;
        Some(Node {
            value: kept.value.clone(),
            version: kept.version,
            created: kept.created,
            modified: kept.modified,
            children: self.children(at),
            expires_ms: kept.expires_ms,
            lease: kept.lease,
        })
    }

    pub fn holds(&self, at: &[Term], condition: &Condition) -> bool {
        let node = self.node(at);
        let number = |compare: &Compare, number: fn(&Node) -> u64, with: &u64| {
            let (a, b) = (node.as_ref().map_or(0, number), *with);
            match compare {
                Compare::Eq => a == b,
                Compare::Ne => a != b,
                Compare::Lt => a < b,
                Compare::Le => a <= b,
                Compare::Gt => a > b,
                Compare::Ge => a >= b,
            }
        };
        let value = node.as_ref().and_then(|node| node.value.as_ref());
        match condition {
            Condition::Exists => node.is_some(),
            Condition::HasData => value.is_some(),
            Condition::ValueIs(other) => value == Some(other),
            Condition::Matches(pattern) => value.is_some_and(|value| fits(&Term::read(pattern), &Term::read(value))),
            Condition::Version(compare, with) => number(compare, |node| node.version, with),
            Condition::Created(compare, with) => number(compare, |node| node.created, with),
            Condition::Modified(compare, with) => number(compare, |node| node.modified, with),
            Condition::Children(compare, with) => number(compare, |node| node.children, with),
            Condition::Not(inner) => !self.holds(at, inner),
            Condition::All(inner) => inner.iter().all(|inner| self.holds(at, inner)),
            Condition::Any(inner) => inner.iter().any(|inner| self.holds(at, inner)),
        }
    }

    fn fits_parts(&self, at: &[Term], from: usize, parts: &[Part]) -> bool {
        match parts.split_first() {
            None => from == at.len(),
            Some((Part::AnyDepth, rest)) => (from..=at.len()).any(|from| self.fits_parts(at, from, rest)),
            Some(_) if from == at.len() => false,
            Some((Part::Exact(exact), rest)) => {
                Term::read(&exact.term().expect("a term")) == at[from] && self.fits_parts(at, from + 1, rest)
            }
            Some((Part::Any(condition), rest)) => {
                let holds = condition.as_ref().is_none_or(|condition| self.holds(&at[..=from], condition));
                holds && self.fits_parts(at, from + 1, rest)
            }
        }
    }

    pub fn found(&self, pattern: &Pattern) -> Vec<Place> {
        let fits = |at: &&Place| {
            self.fits_parts(at, 0, pattern.parts())
                && pattern.filter().is_none_or(|condition| self.holds(at, condition))
        };
        self.nodes.keys().filter(fits).cloned().collect()
    }

    fn event(&mut self, at: &[Term], kind: EventKind) {
        let kept = &self.nodes[at];
        let value = kept.value.clone().filter(|_| kind == EventKind::Put);
        let (path, version, created) = (path_of(at), kept.version, kept.created);
        self.events.push(Event { revision: self.revision, path, kind, value, version, created });
    }

    fn put(&mut self, at: &Place, value: &[u8], terms: Option<Kept>) -> (u64, u64, Option<Node>) {
        let previous = self.node(at);
        let (created, modified) = (self.revision, self.revision);
        for len in 1..=at.len() {
            let made = Kept { created, modified, ..Kept::default() };
            self.nodes.entry(at[..len].to_vec()).or_insert(made);
        }
        let old = self.nodes[at].clone();
        let terms = terms.unwrap_or_else(|| old.clone());
        let (version, created) = (old.version + 1, old.created);
        let kept = Kept { value: Some(value.to_vec()), version, created, modified: self.revision, ..terms };
        self.nodes.insert(at.clone(), kept);
        self.event(at, EventKind::Put);
        (version, created, previous)
    }

    fn remove(&mut self, at: &Place, kind: EventKind) -> u64 {
        let gone: Vec<Place> = self.under(at).cloned().collect();
        let before = self.nodes.len();
        for place in gone {
            if self.nodes[&place].value.is_some() {
                self.event(&place, kind);
            }
            self.nodes.remove(&place);
        }
        let mut at = at.as_slice();
        while before > self.nodes.len() && at.len() > 1 {
            at = &at[..at.len() - 1];
            if self.nodes[at].value.is_some() || self.children(at) > 0 {
                break;
            }
            self.nodes.remove(at);
        }
        (before - self.nodes.len()) as u64
    }

    fn end(&mut self, id: u64, kind: EventKind) -> u64 {
        if !self.leases.contains_key(&id) {
            return 0;
        }
        let mut removed = 0;
        let with: Vec<Place> =
            self.nodes.iter().filter(|(_, kept)| kept.lease == Some(id)).map(|(at, _)| at.clone()).collect();
        for at in with {
            removed += self.remove(&at, kind);
        }
        let under: Vec<u64> =
            self.leases.iter().filter(|(_, held)| held.parent == Some(id)).map(|(id, _)| *id).collect();
        for child in under {
            removed += self.end(child, kind);
        }
        self.leases.remove(&id);
        removed
    }

    pub fn next_expiry(&self) -> Option<u64> {
        let nodes = self.nodes.values().filter_map(|kept| kept.expires_ms);
        nodes.chain(self.leases.values().filter_map(|held| held.expires_ms)).min()
    }

    fn tick(&mut self) -> Response {
        let now = |expires_ms: Option<u64>| expires_ms.filter(|expires_ms| *expires_ms <= self.time_ms);
        let nodes = self.nodes.iter().filter_map(|(at, kept)| Some((now(kept.expires_ms)?, 1, at.clone(), 0)));
        let leases = self.leases.iter().filter_map(|(id, held)| Some((now(held.expires_ms)?, 2, vec![], *id)));
        let mut due: Vec<(u64, u8, Place, u64)> = nodes.chain(leases).collect();
        due.sort();
        let mut removed = 0;
        for (_, kind, at, id) in due {
            removed += match kind {
                1 => self.remove(&at, EventKind::Expired),
                _ => self.end(id, EventKind::Expired),
            };
        }
        Response::Ticked { removed, more: false }
    }

    fn unmet(&self, at: &[Term]) -> Option<Path> {
        let keep_while = self.nodes.get(at)?.keep_while.iter();
        keep_while.clone().find(|(path, condition)| !self.holds(&place(path), condition)).map(|(path, _)| path.clone())
    }

    fn settle(&mut self) {
        while let Some(at) = self.nodes.keys().find(|at| self.unmet(at).is_some()).cloned() {
            self.remove(&at, EventKind::Deleted);
        }
    }

    /// `unchanged` is what the machine says of the guards that this model does not foretell.
    pub fn apply(&mut self, command: &Command, revision: u64, time_ms: u64, unchanged: bool) -> Response {
        self.revision = revision;
        self.time_ms = self.time_ms.max(time_ms);
        self.events.clear();
        let before = self.clone();
        match self.run(command, unchanged) {
            Ok(response) => {
                self.settle();
                response
            }
            Err(refusal) => {
                *self = before;
                Response::Refused(refusal)
            }
        }
    }

    fn run(&mut self, command: &Command, unchanged: bool) -> Result<Response, Refusal> {
        Ok(match command {
            Command::Txn { conditions, then, otherwise } => {
                let succeeded = conditions.iter().all(|guard| match guard {
                    Guard::Node(path, condition) => self.holds(&place(path), condition),
                    Guard::Unchanged { .. } => unchanged,
                });
                let ops = if succeeded { then } else { otherwise };
                let results = ops.iter().map(|op| self.op(op)).collect::<Result<_, _>>()?;
                Response::Txn { succeeded, results }
            }
            Command::LeaseGrant { ttl_ms, parent, .. } => {
                match parent {
                    Some(id) if !self.leases.contains_key(id) => return Err(Refusal::LeaseUnknown { id: *id }),
                    None if ttl_ms.is_none() => return Err(Refusal::LeaseWithoutEnd),
                    _ => {}
                }
                let expires_ms = ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms);
                self.leases.insert(self.revision, Held { ttl_ms: *ttl_ms, expires_ms, parent: *parent });
                Response::LeaseGranted { id: self.revision, expires_ms }
            }
            Command::LeaseKeepAlive { ids } => {
                let gone = ids.iter().filter(|id| !self.leases.contains_key(id)).copied().collect();
                for id in ids {
                    if let Some(held) = self.leases.get_mut(id) {
                        held.expires_ms = held.ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms);
                    }
                }
                Response::LeasesKept { gone }
            }
            Command::LeaseRevoke { id } => {
                let found = self.leases.contains_key(id);
                Response::LeaseRevoked { found, removed: self.end(*id, EventKind::Deleted) }
            }
            Command::Tick => self.tick(),
            Command::Import { entries } => {
                for ImportEntry { path, value, expires_ms } in entries {
                    self.put(&place(path), value, Some(Kept { expires_ms: *expires_ms, ..Kept::default() }));
                }
                Response::Imported { entries: entries.len() as u64 }
            }
        })
    }

    fn op(&mut self, op: &Op) -> Result<OpResult, Refusal> {
        Ok(match op {
            Op::Put { path, value, ttl_ms, lease, keep_while } => {
                if let Some(id) = lease.filter(|id| !self.leases.contains_key(id)) {
                    return Err(Refusal::LeaseUnknown { id });
                }
                let expires_ms = ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms);
                let terms = Kept { expires_ms, lease: *lease, keep_while: keep_while.clone(), ..Kept::default() };
                let at = place(path);
                let (version, created, previous) = self.put(&at, value, Some(terms));
                if let Some(watched) = self.unmet(&at) {
                    return Err(Refusal::KeepWhileNotMet { watched });
                }
                OpResult::Put { version, created, previous }
            }
            Op::Delete { path } => {
                let at = place(path);
                let previous = self.node(&at);
                OpResult::Deleted { removed: self.remove(&at, EventKind::Deleted), previous }
            }
            Op::PutMany { pattern, value } => {
                let found = self.found(pattern);
                for at in &found {
                    self.put(at, value, None);
                }
                OpResult::PutMany { count: found.len() as u64 }
            }
            Op::DeleteMany { pattern } => {
                let found = self.found(pattern);
                let removed = found.iter().map(|at| self.remove(at, EventKind::Deleted)).sum();
                OpResult::DeletedMany { removed }
            }
            Op::Get { path } => OpResult::Got { node: self.node(&place(path)) },
            Op::GetMany { pattern, limit } => {
                let found = self.found(pattern);
                let more = found.len() as u64 > *limit;
                let first = found.iter().take(*limit as usize);
                let nodes = first.map(|at| (path_of(at), self.node(at).expect("found"))).collect();
                OpResult::GotMany { nodes, more }
            }
        })
    }
}
