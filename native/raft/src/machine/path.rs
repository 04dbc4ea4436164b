//! Paths as the bytes of their rows' keys.
//!
//! Invariant: a path's bytes begin with those of its parent, and siblings stand in term order. Each
//! component is a term's key bytes with `00` written as `00 ff`, then `00 01`; since no other pair
//! begins with `00`, the end of a component is found without knowing what stands in it.

use super::codec::bytes;
use super::MachineError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most components of a path.
pub const COMPONENTS_MAX: usize = 64;

/// The longest path, in bytes of its key.
pub const PATH_BYTES_MAX: usize = 32 << 10;

const END: [u8; 2] = [0x00, 0x01];
const ZERO: [u8; 2] = [0x00, 0xff];

/// One component of a path, as the bytes that stand in a row's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Component(Vec<u8>);

/// Where a node stands in the tree: one component or more. Ordered as the components' terms.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<u8>);

impl Component {
    /// From a term in the External Term Format.
    pub fn new(etf: &[u8]) -> Result<Self, MachineError> {
        let mut key = Vec::new();
        push(&mut key, etf)?;
        Ok(Self(key))
    }

    /// The term, in the External Term Format.
    pub fn term(&self) -> Result<Vec<u8>, MachineError> {
        term_of(&self.0)
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.0
    }

    fn from_key(key: Vec<u8>) -> Result<Self, MachineError> {
        checked_len(&key)?;
        if components(&key).count() != 1 {
            return Err(MachineError::malformed("component", "it is not one"));
        }
        term_of(&key)?;
        Ok(Self(key))
    }
}

impl Path {
    /// From terms in the External Term Format.
    pub fn new<C: AsRef<[u8]>>(terms: &[C]) -> Result<Self, MachineError> {
        checked_depth(terms.len())?;
        let mut key = Vec::new();
        for etf in terms {
            push(&mut key, etf.as_ref())?;
        }
        Ok(Self(key))
    }

    /// From what [`key`](Self::key) gave.
    pub fn from_key(key: Vec<u8>) -> Result<Self, MachineError> {
        checked_len(&key)?;
        let mut depth = 0;
        for component in components(&key) {
            term_of(component)?;
            depth += 1;
        }
        checked_depth(depth)?;
        Ok(Self(key))
    }

    /// Of a row that the machine wrote.
    pub(super) fn of_row(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    /// The bytes by which paths are ordered.
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// The terms, in the External Term Format.
    pub fn terms(&self) -> Result<Vec<Vec<u8>>, MachineError> {
        components(&self.0).map(term_of).collect()
    }

    /// The last component.
    pub fn last(&self) -> Component {
        Component(self.0[parent_len(&self.0)..].to_vec())
    }

    /// All components.
    pub fn components(&self) -> Vec<Component> {
        components(&self.0).map(|key| Component(key.to_vec())).collect()
    }

    /// The path without its last component; none of a path of one.
    pub fn parent(&self) -> Option<Self> {
        match parent_len(&self.0) {
            0 => None,
            len => Some(Self(self.0[..len].to_vec())),
        }
    }

    /// A child's path.
    pub fn child(&self, name: &Component) -> Result<Self, MachineError> {
        let key = [self.0.as_slice(), name.key()].concat();
        checked_len(&key)?;
        checked_depth(components(&key).count())?;
        Ok(Self(key))
    }
}

fn checked_len(key: &[u8]) -> Result<(), MachineError> {
    match key.len() {
        len if len > PATH_BYTES_MAX => Err(MachineError::TooLarge { what: "path", len, len_max: PATH_BYTES_MAX }),
        _ => Ok(()),
    }
}

fn checked_depth(len: usize) -> Result<(), MachineError> {
    match len {
        0 => Err(MachineError::malformed("path", "it has no component")),
        len if len > COMPONENTS_MAX => Err(MachineError::TooLarge { what: "depth", len, len_max: COMPONENTS_MAX }),
        _ => Ok(()),
    }
}

fn push(key: &mut Vec<u8>, etf: &[u8]) -> Result<(), MachineError> {
    for run in macula_term::encode(etf)?.split_inclusive(|byte| *byte == 0) {
        key.extend_from_slice(run);
        if run.last() == Some(&0) {
            key.push(ZERO[1]);
        }
    }
    key.extend_from_slice(&END);
    checked_len(key)
}

fn term_of(component: &[u8]) -> Result<Vec<u8>, MachineError> {
    let malformed = || MachineError::malformed("path", "a component does not end as one");
    let escaped = component.strip_suffix(&END).ok_or_else(malformed)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&rest[..=at]);
        rest = rest[at + 1..].strip_prefix(&ZERO[1..]).ok_or_else(malformed)?;
    }
    key.extend_from_slice(rest);
    Ok(macula_term::decode(&key)?)
}

/// The components, each with its end; of bytes that are no path, the last one has none.
pub(super) fn components(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = key;
    std::iter::from_fn(move || {
        let len = rest.windows(2).position(|pair| pair == END).map_or(rest.len(), |at| at + 2);
        let (component, after) = rest.split_at(len);
        rest = after;
        (!component.is_empty()).then_some(component)
    })
}

/// How long the parent's key is.
pub(super) fn parent_len(key: &[u8]) -> usize {
    let before = &key[..key.len().saturating_sub(END.len())];
    before.windows(2).rposition(|pair| pair == END).map_or(0, |at| at + 2)
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_key(bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_key(bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
