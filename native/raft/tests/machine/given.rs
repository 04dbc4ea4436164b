//! Commands by chance, on a tree small enough that they meet.

use crate::common::{not, Term};
use crate::naive::{path_of, Naive, Place};
use macula_raft::machine::{Command, Compare, Component, Condition, Guard, ImportEntry, Op, Part, Path, Pattern};

pub struct Given<'a> {
    pub rng: &'a mut fastrand::Rng,
    pub naive: &'a Naive,
}

fn names() -> Vec<Term> {
    let atom = |text: &str| Term::Atom(text.to_owned());
    // bytes that stand at the ends of components, and names that begin as others do
    let bin = |data: &[u8]| Term::Bin(data.to_vec());
    vec![Term::Int(0), Term::Int(7), atom("a"), atom("ab"), bin(b""), bin(&[0]), bin(&[0, 1])]
}

impl Given<'_> {
    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        match of.is_empty() {
            true => None,
            false => Some(of[self.rng.usize(..of.len())].clone()),
        }
    }

    fn name(&mut self) -> Term {
        self.one(&names()).expect("some")
    }

    fn place(&mut self) -> Place {
        let there: Vec<Place> = match self.rng.u8(0..3) {
            0 => self.naive.nodes.keys().cloned().collect(),
            _ => vec![],
        };
        let len = 1 + self.rng.usize(..3).min(self.rng.usize(..4));
        self.one(&there).unwrap_or_else(|| (0..len).map(|_| self.name()).collect())
    }

    pub fn path(&mut self) -> Path {
        path_of(&self.place())
    }

    fn value(&mut self) -> Vec<u8> {
        let int = Term::Int(self.rng.u8(0..3));
        match self.rng.u8(0..4) {
            0 => Term::Pair(Box::new(int), Box::new(Term::Int(1))).etf(),
            1 => Term::Bin(vec![9; self.rng.usize(..40)]).etf(),
            _ => int.etf(),
        }
    }

    fn compare(&mut self) -> Compare {
        let all = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];
        self.one(&all).expect("some")
    }

    pub fn condition(&mut self, depth: usize) -> Condition {
        let hole = Term::Atom("_".to_owned());
        let recent = self.naive.revision.saturating_sub(self.rng.u64(0..40));
        match self.rng.u8(0..if depth < 2 { 16 } else { 13 }) {
            0..3 => Condition::Exists,
            3 => Condition::HasData,
            4 => Condition::ValueIs(self.value()),
            5 => Condition::Matches(hole.etf()),
            6 => Condition::Matches(Term::Pair(Box::new(Term::Int(1)), Box::new(hole)).etf()),
            7 => Condition::Version(self.compare(), self.rng.u64(0..4)),
            8 => Condition::Modified(self.compare(), recent),
            9 => Condition::Created(self.compare(), recent),
            10..13 => Condition::Children(self.compare(), self.rng.u64(0..4)),
            13 => not(self.condition(depth + 1)),
            14 => Condition::All((0..self.rng.usize(0..3)).map(|_| self.condition(depth + 1)).collect()),
            _ => Condition::Any((0..self.rng.usize(0..3)).map(|_| self.condition(depth + 1)).collect()),
        }
    }

    pub fn pattern(&mut self) -> Pattern {
        let len = 1 + self.rng.usize(..4);
        let part = |this: &mut Self| match this.rng.u8(0..8) {
            0..4 => Part::Exact(Component::new(&this.name().etf()).expect("a component")),
            4 | 5 => Part::Any(None),
            6 => Part::Any(Some(this.condition(1))),
            _ => Part::AnyDepth,
        };
        let parts = (0..len).map(|_| part(self)).collect();
        let filter = (self.rng.u8(0..5) == 0).then(|| self.condition(1));
        Pattern::new(parts, filter).expect("a pattern")
    }

    /// Mostly one that there is.
    fn lease(&mut self) -> u64 {
        let there: Vec<u64> = self.naive.leases.keys().copied().collect();
        match self.rng.u8(0..8) {
            0 => self.rng.u64(0..300),
            _ => self.one(&there).unwrap_or(5),
        }
    }

    fn sometimes<T>(&mut self, one_in: u8, given: fn(&mut Self) -> T) -> Option<T> {
        (self.rng.u8(0..one_in) == 0).then(|| given(self))
    }

    /// Conditions that mostly hold at the time.
    fn keep_while(&mut self) -> Vec<(Path, Condition)> {
        let count = if self.rng.u8(0..3) == 0 { self.rng.usize(1..3) } else { 0 };
        let kept = |this: &mut Self| {
            for _ in 0..20 {
                let (place, condition) = (this.place(), this.condition(0));
                if this.naive.holds(&place, &condition) {
                    return (path_of(&place), condition);
                }
            }
            (this.path(), this.condition(0))
        };
        (0..count).map(|_| kept(self)).collect()
    }

    fn op(&mut self) -> Op {
        match self.rng.u8(0..20) {
            0..3 => Op::Delete { path: self.path() },
            3 => Op::PutMany { pattern: self.pattern(), value: self.value() },
            4 => Op::DeleteMany { pattern: self.pattern() },
            5 => Op::Get { path: self.path() },
            6 => Op::GetMany { pattern: self.pattern(), limit: self.rng.u64(0..12) },
            _ => Op::Put {
                path: self.path(),
                value: self.value(),
                ttl_ms: self.sometimes(4, |this| this.rng.u64(0..200)),
                lease: self.sometimes(4, Self::lease),
                keep_while: self.keep_while(),
            },
        }
    }

    fn ops(&mut self) -> Vec<Op> {
        (0..self.rng.usize(1..4)).map(|_| self.op()).collect()
    }

    pub fn command(&mut self) -> Command {
        match self.rng.u8(0..20) {
            0 | 1 => Command::Tick,
            2 => Command::LeaseGrant {
                ttl_ms: self.sometimes(2, |this| this.rng.u64(0..300)),
                owner: vec![1; self.rng.usize(..5)],
                parent: self.sometimes(2, Self::lease),
            },
            3 => Command::LeaseKeepAlive { ids: (0..self.rng.usize(..3)).map(|_| self.lease()).collect() },
            4 if self.rng.bool() => Command::LeaseRevoke { id: self.lease() },
            5 => {
                let entry = |this: &mut Self| {
                    let now_ms = this.naive.time_ms;
                    let (path, value) = (this.path(), this.value());
                    let expires_ms = this.sometimes(3, |this| this.rng.u64(0..200)).map(|ms| now_ms + ms);
                    ImportEntry { path, value, expires_ms }
                };
                Command::Import { entries: (0..self.rng.usize(..4)).map(|_| entry(self)).collect() }
            }
            // asked alone, so that the model knows what the answer was about
            6..8 => {
                let since = self.naive.revision.saturating_sub(self.rng.u64(0..12));
                let conditions = vec![Guard::Unchanged { pattern: self.pattern(), since }];
                Command::Txn { conditions, then: self.ops(), otherwise: vec![] }
            }
            _ => {
                let guard = |this: &mut Self| Guard::Node(this.path(), this.condition(0));
                let conditions = (0..self.rng.usize(..3)).map(|_| guard(self)).collect();
                Command::Txn { conditions, then: self.ops(), otherwise: self.ops() }
            }
        }
    }
}
