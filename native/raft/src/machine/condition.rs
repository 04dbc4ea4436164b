//! What may be asked of one node.
//!
//! Of a node that is absent every number is 0 and nothing is held. On the wire a condition is the flat
//! list of its parts, each before its own, so that reading one can be refused at a stated depth.

use super::codec::bytes;
use super::row::NodeRef;
use super::{etf, MachineError};
use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// How deep conditions may nest.
pub const CONDITION_DEPTH_MAX: usize = 16;

/// Of how many parts one condition may be.
pub const CONDITION_PARTS_MAX: usize = 1024;

/// How a number of the node stands to the one given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// What must hold of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The node is there, with data or as a parent.
    Exists,
    /// It has data.
    HasData,
    /// Its data is this term (`=:=`), in the External Term Format.
    ValueIs(Vec<u8>),
    /// Its data matches this pattern; see [`matches`](super::matches).
    Matches(Vec<u8>),
    /// How often its data was put since it was created: 0 for a parent without data.
    Version(Compare, u64),
    /// The revision that created it.
    Created(Compare, u64),
    /// The revision that last put its data, or else created it. A transaction that read a node asks that this is what
    /// it read, 0 for a node that was not there.
    Modified(Compare, u64),
    /// The number of its children.
    Children(Compare, u64),
    /// It does not hold.
    Not(Box<Condition>),
    /// All of them hold.
    All(Vec<Condition>),
    /// One of them holds.
    Any(Vec<Condition>),
}

impl Compare {
    fn holds(self, a: u64, b: u64) -> bool {
        match self {
            Self::Eq => a == b,
            Self::Ne => a != b,
            Self::Lt => a < b,
            Self::Le => a <= b,
            Self::Gt => a > b,
            Self::Ge => a >= b,
        }
    }
}

impl Condition {
    /// Whether the answer can change while the node's `modified` stays.
    pub(super) fn asks_for_children(&self) -> bool {
        match self {
            Self::Children(..) => true,
            Self::Not(inner) => inner.asks_for_children(),
            Self::All(inner) | Self::Any(inner) => inner.iter().any(Self::asks_for_children),
            Self::Exists | Self::HasData | Self::ValueIs(_) | Self::Matches(_) => false,
            Self::Version(..) | Self::Created(..) | Self::Modified(..) => false,
        }
    }

    pub(super) fn holds(&self, node: Option<&NodeRef<'_>>) -> bool {
        let payload = node.and_then(|node| node.payload);
        let compared =
            |compare: Compare, number: fn(&NodeRef<'_>) -> u64, with: u64| compare.holds(node.map_or(0, number), with);
        match self {
            Self::Exists => node.is_some(),
            Self::HasData => payload.is_some(),
            Self::ValueIs(value) => payload.is_some_and(|payload| etf::equals(value, payload)),
            Self::Matches(pattern) => payload.is_some_and(|payload| etf::matches(pattern, payload)),
            Self::Version(compare, with) => compared(*compare, |node| node.head.version, *with),
            Self::Created(compare, with) => compared(*compare, |node| node.head.created, *with),
            Self::Modified(compare, with) => compared(*compare, |node| node.head.modified, *with),
            Self::Children(compare, with) => compared(*compare, |node| node.head.children, *with),
            Self::Not(inner) => !inner.holds(node),
            Self::All(inner) => inner.iter().all(|inner| inner.holds(node)),
            Self::Any(inner) => inner.iter().any(|inner| inner.holds(node)),
        }
    }

    /// Refuses what nests deeper, or has more parts, than a peer would read.
    pub(super) fn check(&self) -> Result<(), MachineError> {
        let mut parts = 0;
        self.check_at(0, &mut parts)
    }

    fn check_at(&self, depth: usize, parts: &mut usize) -> Result<(), MachineError> {
        *parts += 1;
        checked(depth, *parts)?;
        match self {
            Self::Not(inner) => inner.check_at(depth + 1, parts),
            Self::All(inner) | Self::Any(inner) => inner.iter().try_for_each(|inner| inner.check_at(depth + 1, parts)),
            _ => Ok(()),
        }
    }

    fn parts<'a>(&'a self, parts: &mut Vec<Token<'a>>) {
        parts.push(match self {
            Self::Exists => Token::Exists,
            Self::HasData => Token::HasData,
            Self::ValueIs(value) => Token::ValueIs(Cow::Borrowed(value)),
            Self::Matches(pattern) => Token::Matches(Cow::Borrowed(pattern)),
            Self::Version(compare, with) => Token::Version(*compare, *with),
            Self::Created(compare, with) => Token::Created(*compare, *with),
            Self::Modified(compare, with) => Token::Modified(*compare, *with),
            Self::Children(compare, with) => Token::Children(*compare, *with),
            Self::Not(_) => Token::Not,
            Self::All(inner) => Token::All(inner.len() as u64),
            Self::Any(inner) => Token::Any(inner.len() as u64),
        });
        match self {
            Self::Not(inner) => inner.parts(parts),
            Self::All(inner) | Self::Any(inner) => inner.iter().for_each(|inner| inner.parts(parts)),
            _ => {}
        }
    }

    fn of_parts(tokens: &mut std::vec::IntoIter<Token<'_>>, depth: usize) -> Result<Self, MachineError> {
        checked(depth, 0)?;
        let cut = || MachineError::malformed("condition", "it ends early");
        Ok(match tokens.next().ok_or_else(cut)? {
            Token::Exists => Self::Exists,
            Token::HasData => Self::HasData,
            Token::ValueIs(value) => Self::ValueIs(value.into_owned()),
            Token::Matches(pattern) => Self::Matches(pattern.into_owned()),
            Token::Version(compare, with) => Self::Version(compare, with),
            Token::Created(compare, with) => Self::Created(compare, with),
            Token::Modified(compare, with) => Self::Modified(compare, with),
            Token::Children(compare, with) => Self::Children(compare, with),
            Token::Not => Self::Not(Box::new(Self::of_parts(tokens, depth + 1)?)),
            Token::All(len) => Self::All(Self::run_of_parts(tokens, len, depth + 1)?),
            Token::Any(len) => Self::Any(Self::run_of_parts(tokens, len, depth + 1)?),
        })
    }

    fn run_of_parts(
        tokens: &mut std::vec::IntoIter<Token<'_>>,
        len: u64,
        depth: usize,
    ) -> Result<Vec<Self>, MachineError> {
        // ends at the first part that is missing, whatever the length says
        (0..len).map(|_| Self::of_parts(tokens, depth)).collect()
    }
}

fn checked(depth: usize, parts: usize) -> Result<(), MachineError> {
    if depth > CONDITION_DEPTH_MAX {
        let what = "depth of a condition";
        return Err(MachineError::TooLarge { what, len: depth, len_max: CONDITION_DEPTH_MAX });
    }
    if parts > CONDITION_PARTS_MAX {
        let what = "parts of a condition";
        return Err(MachineError::TooLarge { what, len: parts, len_max: CONDITION_PARTS_MAX });
    }
    Ok(())
}

/// A part as it stands on the wire; the order of the variants is a format.
#[derive(Serialize, Deserialize)]
enum Token<'a> {
    Exists,
    HasData,
    ValueIs(#[serde(with = "bytes")] Cow<'a, [u8]>),
    Matches(#[serde(with = "bytes")] Cow<'a, [u8]>),
    Version(Compare, u64),
    Created(Compare, u64),
    Modified(Compare, u64),
    Children(Compare, u64),
    Not,
    All(u64),
    Any(u64),
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = Vec::new();
        self.parts(&mut parts);
        parts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tokens = Vec::<Token<'static>>::deserialize(deserializer)?;
        checked(0, tokens.len()).map_err(D::Error::custom)?;
        let mut tokens = tokens.into_iter();
        let condition = Self::of_parts(&mut tokens, 0).map_err(D::Error::custom)?;
        match tokens.next() {
            None => Ok(condition),
            Some(_) => Err(D::Error::custom("parts follow a condition")),
        }
    }
}
