//! The pure state machine: a tree of terms, changed by one command of the log after the other.
//!
//! [`apply`] reads and writes rows of a [`Table`] and nothing else: no clock, chance, disk, thread or
//! hash-map order. Invariant: the same commands with the same stamps leave the same rows, byte by
//! byte, on every node; a command that is refused changes nothing but the machine's time.
//! `docs/formats.md`, "Replicated state", tells each row and each byte of a command.

mod apply;
mod change;
mod codec;
mod command;
mod condition;
mod draft;
mod error;
mod etf;
mod history;
mod keep;
mod key;
mod lease;
mod matching;
mod path;
mod pattern;
pub mod read;
mod response;
mod row;
mod table;
mod verify;

pub use apply::{apply, Applied, Stamp};
pub use command::{Command, Guard, ImportEntry, Op, COMMAND_VERSION};
pub use condition::{Compare, Condition, CONDITION_DEPTH_MAX, CONDITION_PARTS_MAX};
pub use error::MachineError;
pub use etf::{equals, matches};
pub use history::{history, HISTORY_BYTES_MAX};
pub(crate) use key::is_scattered;
pub use lease::{lease, leases, next_expiry, Lease, TICK_ENTRIES_MAX};
pub use path::{Component, Path, COMPONENTS_MAX, PATH_BYTES_MAX};
pub use pattern::{Part, Pattern, PARTS_MAX};
pub use response::{Event, EventKind, Limit, Node, OpResult, Refusal, Response, RESPONSE_VERSION};
pub use row::{status, Status, FORMAT_VERSION};
pub(crate) use table::{merge, Layered};
pub use table::{MemoryTable, Table, TableError, View, Visit};
pub use verify::verify;

/// The longest value, in bytes of External Term Format.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// What one command may write at most, keys and values of nodes together.
pub const WRITE_BYTES_MAX: usize = 64 << 20;

/// The longest command, encoded: with what it writes go conditions and paths. Longer ones do not get into the log.
pub const COMMAND_BYTES_MAX: usize = 128 << 20;

/// What the results of one command hold at most, paths and values together; a page of nodes is cut at half of it.
pub const RESULT_BYTES_MAX: usize = 128 << 20;

/// The most conditions that keep one node.
pub const KEEP_WHILE_MAX: usize = 64;
