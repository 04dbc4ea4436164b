//! Replicated hot state: a tree of terms that a quorum of nodes agrees on.

#![forbid(unsafe_code)]

mod entry;
mod error;
mod log;
pub mod machine;
mod state;
#[cfg(test)]
mod suite;
mod types;

pub use error::RaftError;
pub use types::{Answer, Blob, Member, Proposal};
