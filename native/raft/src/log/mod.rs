//! Raft's log: entries since the last snapshot in memory, all of them in a [`macula_wal::Log`].
//!
//! Invariant: what openraft is told to be flushed was synced, entries and votes alike; entries become
//! durable in the order in which they were appended, many with one sync. A log whose sync failed says
//! so for ever; a log without room waits for it, and acknowledges nothing meanwhile.

mod appender;
mod meta;
mod store;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use appender::{Appender, Job, Jobs, ROOM_PAUSE};
pub(crate) use meta::Meta;
pub(crate) use store::{len_of, InMemory, LogStore, Opened};
