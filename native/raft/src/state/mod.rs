//! The machine's table on disk, and what of the log is in it.
//!
//! Invariant: the rows, the place of the last entry that made them and the members as of it change in one
//! transaction. Applying is not synced: a crash falls back to the last checkpoint, behind which the log
//! still has everything.

mod database;
mod room;
mod rows;
mod snapshot;
mod store;

pub use rows::Reading;
pub(crate) use snapshot::{piece, Arrival, SnapshotData};
pub(crate) use store::{Machine, State};
