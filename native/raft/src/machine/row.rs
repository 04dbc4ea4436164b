//! The values of rows. A reader refuses, as corrupt, what this code would not have written.

use super::codec::bytes;
use super::{key, Condition, Path, TableError, View};
use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// The format of the rows.
pub const FORMAT_VERSION: u8 = 1;

/// The row of the machine itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The newest command's.
    pub revision: u64,
    /// The greatest stamp so far: the only time that the machine knows.
    pub time_ms: u64,
    pub nodes: u64,
    pub payload_bytes: u64,
    pub leases: u64,
    /// Rows of the index of conditions; with none there is nothing to look for.
    pub keep_rows: u64,
    pub root_children: u64,
    /// The revision that last removed a child of the root.
    pub root_pruned: u64,
    pub history_first: u64,
    pub history_bytes: u64,
}

/// What stands before the payload in a node's row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub has_payload: bool,
    pub version: u64,
    pub created: u64,
    pub modified: u64,
    pub children: u64,
    /// The revision that last removed a child: what is no more has no other trace.
    pub pruned: u64,
    pub expires_ms: Option<u64>,
    pub lease: Option<u64>,
    pub keep_while: Vec<(Path, Condition)>,
}

/// A node as it lies in its row.
pub(super) struct NodeRef<'a> {
    pub head: Head,
    pub payload: Option<&'a [u8]>,
}

/// A lease's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRow {
    pub ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub parent: Option<u64>,
    #[serde(with = "bytes")]
    pub owner: Vec<u8>,
}

/// What the machine holds, in figures. Costs one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The newest command's revision; 0 before the first.
    pub revision: u64,
    /// The machine's time, milliseconds since 1970.
    pub time_ms: u64,
    /// Nodes, those without data too.
    pub nodes: u64,
    /// Bytes of all data.
    pub payload_bytes: u64,
    /// Leases.
    pub leases: u64,
    /// The revision from which on all events are kept.
    pub history_first: u64,
    /// Bytes of the history's rows.
    pub history_bytes: u64,
}

/// The machine's figures.
pub fn status(view: &dyn View) -> Result<Status, TableError> {
    let meta = Meta::load(view)?;
    Ok(Status {
        revision: meta.revision,
        time_ms: meta.time_ms,
        nodes: meta.nodes,
        payload_bytes: meta.payload_bytes,
        leases: meta.leases,
        history_first: meta.history_first,
        history_bytes: meta.history_bytes,
    })
}

impl Meta {
    pub fn load(view: &dyn View) -> Result<Self, TableError> {
        let Some(row) = view.get(&[key::META])? else { return Ok(Self::default()) };
        match row.split_first() {
            Some((&FORMAT_VERSION, rest)) => exactly(rest, "the machine's row"),
            Some((version, _)) if *version > FORMAT_VERSION => Err(TableError(format!(
                "written by a newer version: what=replicated state found={version} known={FORMAT_VERSION}"
            ))),
            _ => Err(TableError::corrupt("the machine's row")),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        super::codec::encode(FORMAT_VERSION, self)
    }
}

impl<'a> NodeRef<'a> {
    pub fn parse(row: &'a [u8]) -> Result<Self, TableError> {
        let (head, rest) = postcard::take_from_bytes::<Head>(row).map_err(|_| TableError::corrupt("a node's row"))?;
        match head.has_payload {
            true => Ok(Self { head, payload: Some(rest) }),
            false if rest.is_empty() => Ok(Self { head, payload: None }),
            false => Err(TableError::corrupt("a node without data has some")),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let payload = self.payload.unwrap_or_default();
        let row = Vec::with_capacity(64 + payload.len());
        // a vector takes all that is written to it
        let mut row = postcard::to_extend(&self.head, row).unwrap_or_default();
        row.extend_from_slice(payload);
        row
    }
}

impl LeaseRow {
    pub fn parse(row: &[u8]) -> Result<Self, TableError> {
        exactly(row, "a lease's row")
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::new()).unwrap_or_default()
    }
}

pub(super) fn exactly<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, TableError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(TableError::corrupt(what)),
    }
}
