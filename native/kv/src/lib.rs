//! The ordered key-value engine: opaque bytes in a log, in memory and in redb, every read verified.
//!
//! Writers put batches into a bounded queue; one thread at a time takes what waits there as one group,
//! appends it to the log, syncs once, lays it over what is in memory and answers each batch exactly
//! once. Another drains memory into redb. Readers use an immutable view and wait for nobody.
//! Invariant: a batch that was answered `Committed` is found by every later opening; one answered
//! with an error other than `UnknownResult` is not; a read gives what was written or an error.

mod base;
mod batch;
mod compact;
mod compress;
mod drain;
mod engine;
mod error;
mod fence;
mod open;
mod queue;
mod record;
mod records;
mod reply;
mod room;
mod scan;
mod shared;
mod stats;
mod store;
mod subscribe;
mod sweep;
mod table;
mod tasks;
mod threads;
mod turn;
mod value;
mod verify;
mod view;
mod writer;

pub use batch::{Batch, Committed, Condition, Durability, Expired, Op, KEY_LEN_MAX, VALUE_LEN_MAX};
pub use compact::{AutoCompact, Compacted};
pub use engine::FILE_NAME;
pub use error::KvError;
pub use records::{Exported, Imported};
pub use stats::Stats;
pub use store::{Options, Seams, Snapshot, Store};
pub use subscribe::{Sink, Subscription, Told};
pub use table::NEVER_MS;
pub use threads::Threads;
pub use turn::Tx;
pub use verify::Verified;
pub use view::{Counted, Entry, KeyRange, Page, PageLimits};
