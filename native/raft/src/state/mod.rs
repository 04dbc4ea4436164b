//! The machine's table on disk, what of the log is in it, and what is in memory above it.
//!
//! Invariant: applying writes to memory only. A checkpoint brings the rows, the place of the last entry that made
//! them and the members as of it into the table in one durable transaction, on another thread, which applying does
//! not wait for; a crash falls back to the last one, behind which the log still has everything.

mod checkpoint;
mod database;
mod overlay;
mod room;
mod rows;
mod snapshot;
mod store;

pub use rows::Reading;
pub(crate) use snapshot::{piece, Arrival, SnapshotData};
pub(crate) use store::{Machine, State};
