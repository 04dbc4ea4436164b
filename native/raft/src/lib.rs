//! Replicated hot state: a tree of terms that a quorum of nodes agrees on.

#![forbid(unsafe_code)]

mod engine;
mod entry;
mod error;
mod feed;
mod forward;
mod links;
mod log;
pub mod machine;
mod network;
mod node;
mod rounds;
mod rpc;
mod serve;
mod state;
#[cfg(test)]
mod suite;
mod types;

pub use engine::{Consistency, Engine, Found, LinkOptions, Listener, Query, HOT_BYTES_MAX};
pub use macula_net as net;

pub use error::RaftError;
pub use feed::{FeedPage, Feeds, Waker};
pub use network::{Alone, Transport, Unreached};
pub use node::{Node, Options, Seams};
pub use state::Reading;
pub use types::{Answer, Blob, Member, Proposal};
