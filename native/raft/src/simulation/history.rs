//! What clients did and were told, and whether one order explains it: by the checker of another house (WGL).
//!
//! Every write tells what it replaced, so that a wrong order shows. Invariant: calls and returns stand in the
//! order in which they happened; what nobody knows returns at the very end.

use std::collections::BTreeSet;
use todc_utils::linearizability::history::{Action, History as Checked};
use todc_utils::linearizability::WGLChecker;
use todc_utils::specifications::Specification;

/// What is asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Get,
    Put(u64),
    Delete,
    Swap(Option<u64>, u64),
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Done {
    /// In the register before.
    pub seen: Option<u64>,
    /// A swap found what it wanted.
    pub is_done: bool,
}

/// A call and what was told, if anything.
#[derive(Debug, Clone, Copy)]
pub struct Call(Op, Option<Done>);

/// A register by the book.
struct Register;

impl Specification for Register {
    type State = Option<u64>;
    type Operation = Call;

    fn init() -> Option<u64> {
        None
    }

    fn apply(Call(op, done): &Call, state: &Option<u64>) -> (bool, Option<u64>) {
        let (finds, next) = match op {
            Op::Get => (true, *state),
            Op::Put(new) => (true, Some(*new)),
            Op::Delete => (true, None),
            Op::Swap(from, to) if from == state => (true, Some(*to)),
            Op::Swap(..) => (false, *state),
        };
        match done {
            None => (true, next),
            Some(done) => (done.seen == *state && done.is_done == finds, next),
        }
    }
}

enum Step {
    Call(usize),
    Return(usize),
}

/// Of one run.
#[derive(Default)]
pub struct History {
    calls: Vec<(u8, Call, bool)>,
    steps: Vec<Step>,
    fresh: u64,
}

impl History {
    /// A value that nobody wrote.
    pub fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    pub fn call(&mut self, key: u8, op: Op) -> usize {
        self.calls.push((key, Call(op, None), true));
        self.steps.push(Step::Call(self.calls.len() - 1));
        self.calls.len() - 1
    }

    pub fn returned(&mut self, call: usize, done: Done) {
        self.calls[call].1 .1 = Some(done);
        self.steps.push(Step::Return(call));
    }

    /// It did not happen.
    pub fn never(&mut self, call: usize) {
        self.calls[call].2 = false;
    }

    /// The first register whose calls no order explains.
    pub fn check(&self) -> Result<(), String> {
        let keys: BTreeSet<u8> = self.calls.iter().map(|(key, ..)| *key).collect();
        for key in keys {
            let actions = self.actions(key);
            if !actions.is_empty() && !WGLChecker::<Register>::is_linearizable(Checked::from_actions(actions)) {
                return Err(format!("no order explains what was told of register {key}:\n{}", self.text(key)));
            }
        }
        Ok(())
    }

    /// A write that may have happened and that nobody saw is as if it had not: everyone tells what was before.
    fn counts(&self, call: usize, seen: &BTreeSet<u64>) -> bool {
        match &self.calls[call] {
            (_, _, false) | (_, Call(Op::Get, None), true) => false,
            (_, Call(Op::Put(new) | Op::Swap(_, new), None), true) => seen.contains(new),
            _ => true,
        }
    }

    fn actions(&self, key: u8) -> Vec<(usize, Action<Call>)> {
        let seen = self.calls.iter().filter_map(|(_, call, _)| call.1?.seen).collect();
        let of_key = |call: &usize| self.calls[*call].0 == key && self.counts(*call, &seen);
        let mut actions: Vec<_> = (self.steps.iter())
            .filter_map(|step| match step {
                Step::Call(call) if of_key(call) => Some((*call, Action::Call(self.calls[*call].1))),
                Step::Return(call) if of_key(call) => Some((*call, Action::Response(self.calls[*call].1))),
                _ => None,
            })
            .collect();
        let open = (0..self.calls.len()).filter(|call| of_key(call) && self.calls[*call].1 .1.is_none());
        actions.extend(open.map(|call| (call, Action::Response(self.calls[call].1))));
        actions
    }

    fn text(&self, key: u8) -> String {
        let lines = self.steps.iter().filter_map(|step| match step {
            Step::Call(call) if self.calls[*call].0 == key => {
                let note = if self.calls[*call].2 { "" } else { " (never)" };
                Some(format!("  call {call}: {:?}{note}", self.calls[*call].1 .0))
            }
            Step::Return(call) if self.calls[*call].0 == key => {
                Some(format!("    told {call}: {:?}", self.calls[*call].1 .1))
            }
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
