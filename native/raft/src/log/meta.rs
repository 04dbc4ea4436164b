//! The small record beside the log: who this node is, what it voted, and where its log begins.
//!
//! Invariant: it is replaced as a whole and durably. A log without it is nobody's.

use crate::entry::{from_bytes, to_bytes, Ballot, Place};
use crate::types::ClusterId;
use crate::RaftError;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// This incarnation's number, random.
    pub(crate) node: u64,
    /// The cluster that this node is of, or is to be of.
    pub(crate) cluster: ClusterId,
    /// It did not begin the cluster: until it hears of it, it waits.
    pub(crate) is_invited: bool,
    pub(crate) vote: Option<Ballot>,
    /// The last entry that is no longer here because a snapshot holds it.
    pub(crate) purged: Option<Place>,
    /// Records of the log up to this sequence are of no use.
    pub(crate) purged_sequence: u64,
}

impl Meta {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, RaftError> {
        let mut bytes = vec![VERSION];
        bytes.extend(to_bytes(self)?);
        Ok(bytes)
    }

    /// `None`: of a log that was just made.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, RaftError> {
        match bytes {
            [] => Ok(None),
            [VERSION, rest @ ..] => from_bytes("meta record of the log", rest).map(Some),
            [found, ..] => {
                let (what, found, known) = ("meta record of the log", u32::from(*found), u32::from(VERSION));
                Err(RaftError::NewerFormat { what, found, known })
            }
        }
    }
}
