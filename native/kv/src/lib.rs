//! The ordered key-value engine of one store: opaque bytes over redb, every read verified.
//!
//! Writers put batches into one bounded queue; one thread per store takes what waits there as one
//! group, makes it durable with one commit and answers each batch exactly once. Readers use an
//! immutable view and never wait for the writer.
//! Invariant: a batch that was answered `Committed` is found by every later opening; one answered
//! with an error other than `UnknownResult` is not; a read gives what was written or an error.

mod batch;
mod blocks;
mod engine;
mod error;
mod fence;
mod format;
mod records;
mod reply;
mod store;
mod turn;
mod value;
mod verify;
mod view;
mod writer;

pub use batch::{Batch, Committed, Condition, Op, KEY_LEN_MAX, VALUE_LEN_MAX};
pub use engine::FILE_NAME;
pub use error::KvError;
pub use records::{Exported, Imported};
pub use store::{Options, Snapshot, Store};
pub use turn::Tx;
pub use verify::Verified;
pub use view::{Entry, KeyRange, Page, PageLimits};
