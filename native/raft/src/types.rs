//! The words that openraft is given, and nothing else of it.
//!
//! Invariant: a node's number is drawn anew for each incarnation. A wiped node is somebody else, so
//! that it can never deny what its former self promised.

use crate::machine::{Command, MachineError, COMMAND_BYTES_MAX};
use crate::runtime::Runtime;
use crate::RaftError;
use macula_core::Clock;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// What this crate's Raft is made of.
    pub Types:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// The leader under which an entry was proposed.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// Where an entry stands.
pub type LogId = openraft::LogId<LeaderId>;
/// An entry of the log.
pub type Entry = openraft::Entry<LeaderId, openraft::EntryPayload<Proposal, u64, Member>>;
/// What a node voted for.
pub type Vote = openraft::Vote<LeaderId>;
/// The members as of an entry.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;

/// A cluster, by the number that was drawn when it began.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who a node's number is, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name: the Erlang node's.
    pub name: String,
    /// `host:port` of its listener; empty when it has none.
    pub address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// Bytes that many hold at once.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Arc<[u8]>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A command on its way, encoded once by whoever proposed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposer's wall clock, milliseconds since 1970.
    pub time_ms: u64,
    /// [`crate::machine::Command`], encoded.
    pub command: Blob,
}

impl Proposal {
    /// Of a command that may be tried.
    pub(crate) fn of(command: &Command, clock: &dyn Clock) -> Result<Self, RaftError> {
        command.check()?;
        let bytes = command.encode();
        match bytes.len() {
            len if len > COMMAND_BYTES_MAX => {
                Err(MachineError::TooLarge { what: "command", len, len_max: COMMAND_BYTES_MAX }.into())
            }
            _ => Ok(Self { time_ms: clock.wall_ms(), command: Blob(bytes.into()) }),
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.command.0.len())
    }
}

/// What applying a command gave, [`crate::machine::Response`], encoded; empty for entries that are no command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Blob);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answer of {} bytes", self.0 .0.len())
    }
}
