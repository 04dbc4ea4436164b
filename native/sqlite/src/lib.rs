//! One app's SQLite database: a writer thread that gives independent transactions one sync, reader
//! threads beside it, snapshots of an instant, and the guard against a second copy of SQLite.
//!
//! Invariant: nothing waits on the caller's thread. [`Database::submit`] queues or refuses; a reply
//! is called exactly once, from a thread of this crate, and `Ok` for a write means that its commit
//! is durable. Nothing here opens a live database file except through this copy of SQLite.

mod authorizer;
mod backup;
mod batch;
pub mod bridge;
mod checkpoint;
mod connection;
mod database;
mod error;
mod feed;
pub mod guard;
mod hot;
mod options;
mod params;
mod queue;
mod reader;
mod registry;
mod request;
mod rewrite;
mod rival;
mod sql;
pub mod sqlite3;
mod statement;
mod stats;
mod syscalls;
mod transaction;
mod value;
mod watch;
mod writer;

pub use backup::{copy_other, Pinned};
pub use database::Database;
pub use error::{Constraint, ConstraintKind, Failure, SqliteError};
pub use feed::{RowChange, Told};
pub use options::{BeforeCheckpoint, Options, Synchronous};
pub use params::Params;
pub use request::{Mode, Owner, Request, Who};
pub use stats::{Held, Holder, Slow, Stats};
pub use transaction::Transaction;
pub use value::{Cell, Rows, Sink, Value};
