//! Replicated hot state: a tree of terms that a quorum of nodes agrees on.

#![forbid(unsafe_code)]

mod engine;
mod entry;
mod error;
mod feed;
mod log;
pub mod machine;
mod network;
mod node;
mod state;
#[cfg(test)]
mod suite;
mod types;

pub use engine::{Consistency, Engine, Found, Listener, Query};
pub use error::RaftError;
pub use feed::{FeedPage, Feeds, Waker};
pub use node::{Node, Options, Seams};
pub use state::Reading;
pub use types::{Answer, Blob, Member, Proposal};
