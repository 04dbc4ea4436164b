//! Patterns of paths: exact components, `*` for any one, `**` for any number.
//!
//! Pure shape; `matching` walks the tree with it. The places in a pattern that a path can have reached
//! are the bits of one number.

use super::path::components;
use super::{Component, Condition, MachineError, Path};
use serde::{Deserialize, Deserializer, Serialize};

/// The most parts of a pattern.
pub const PARTS_MAX: usize = 64;

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// This component.
    Exact(Component),
    /// `*`: any one component, of a node of which the condition holds.
    Any(Option<Condition>),
    /// `**`: any number of components, none too.
    AnyDepth,
}

/// Which nodes are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pattern {
    parts: Vec<Part>,
    filter: Option<Condition>,
}

/// The places in a pattern that are reached: bit n is "before part n", the bit after the last part "at its end".
pub(super) type Places = u128;

impl Pattern {
    /// Of parts, and of a condition that must hold of each node that is found.
    pub fn new(parts: Vec<Part>, filter: Option<Condition>) -> Result<Self, MachineError> {
        match parts.len() {
            len if len > PARTS_MAX => {
                Err(MachineError::TooLarge { what: "parts of a pattern", len, len_max: PARTS_MAX })
            }
            _ => Ok(Self { parts, filter }),
        }
    }

    /// The one node at a path.
    pub fn exact(path: &Path) -> Self {
        let parts = components_of(path);
        Self { parts, filter: None }
    }

    /// The children of a node, or of the tree's root.
    pub fn children(path: Option<&Path>) -> Result<Self, MachineError> {
        Self::beneath(path, Part::Any(None))
    }

    /// A node and everything beneath it, or everything.
    pub fn under(path: Option<&Path>) -> Result<Self, MachineError> {
        Self::beneath(path, Part::AnyDepth)
    }

    fn beneath(path: Option<&Path>, last: Part) -> Result<Self, MachineError> {
        let mut parts = path.map(components_of).unwrap_or_default();
        parts.push(last);
        Self::new(parts, None)
    }

    /// Its parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What must hold of the nodes that are found.
    pub fn filter(&self) -> Option<&Condition> {
        self.filter.as_ref()
    }

    /// It asks for more than paths.
    pub fn has_conditions(&self) -> bool {
        self.conditions().next().is_some()
    }

    /// Whether a path matches, as if all conditions held.
    pub fn matches(&self, path: &Path) -> bool {
        let mut places = self.place(0);
        for component in components(path.key()) {
            places = self.step(places, component, &|_| true);
            if places == 0 {
                return false;
            }
        }
        self.is_end(places)
    }

    pub(super) fn check(&self) -> Result<(), MachineError> {
        self.conditions().try_for_each(Condition::check)
    }

    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let inner = self.parts.iter().filter_map(|part| match part {
            Part::Any(condition) => condition.as_ref(),
            Part::Exact(_) | Part::AnyDepth => None,
        });
        inner.chain(&self.filter)
    }

    /// The longest path that all matches begin with, as key bytes, and of how many parts it is.
    pub(super) fn exact_prefix(&self) -> (Vec<u8>, usize) {
        let mut key = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            match part {
                Part::Exact(component) => key.extend_from_slice(component.key()),
                Part::Any(_) | Part::AnyDepth => return (key, at),
            }
        }
        (key, self.parts.len())
    }

    /// Everything beneath the longest exact prefix.
    pub(super) fn widened(&self) -> Self {
        let (_, len) = self.exact_prefix();
        let mut parts = self.parts[..len.min(PARTS_MAX - 1)].to_vec();
        parts.push(Part::AnyDepth);
        Self { parts, filter: None }
    }

    /// Place n, and what can be reached from it through `**` that match nothing.
    pub(super) fn place(&self, mut at: usize) -> Places {
        let mut places = 1 << at;
        while matches!(self.parts.get(at), Some(Part::AnyDepth)) {
            at += 1;
            places |= 1 << at;
        }
        places
    }

    /// The places after one more component.
    pub(super) fn step(&self, places: Places, component: &[u8], holds: &dyn Fn(&Condition) -> bool) -> Places {
        let mut after = 0;
        for (at, part) in self.parts.iter().enumerate() {
            if places & (1 << at) == 0 {
                continue;
            }
            after |= match part {
                Part::Exact(exact) if exact.key() == component => self.place(at + 1),
                Part::Any(condition) if condition.as_ref().is_none_or(holds) => self.place(at + 1),
                Part::AnyDepth => self.place(at),
                Part::Exact(_) | Part::Any(_) => 0,
            };
        }
        after
    }

    /// The path so far is matched.
    pub(super) fn is_end(&self, places: Places) -> bool {
        places & (1 << self.parts.len()) != 0
    }

    /// A longer path may be.
    pub(super) fn goes_on(&self, places: Places) -> bool {
        places & ((1 << self.parts.len()) - 1) != 0
    }
}

fn components_of(path: &Path) -> Vec<Part> {
    path.components().into_iter().map(Part::Exact).collect()
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (parts, filter) = Deserialize::deserialize(deserializer)?;
        Self::new(parts, filter).map_err(serde::de::Error::custom)
    }
}
