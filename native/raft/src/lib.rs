//! Replicated hot state: a tree of terms that a quorum of nodes agrees on.

#![forbid(unsafe_code)]

mod calls;
mod client;
mod deadlines;
mod engine;
mod entry;
mod error;
mod feed;
mod links;
mod log;
pub mod machine;
mod members;
mod network;
mod node;
mod propose;
mod query;
mod rounds;
mod rpc;
mod runtime;
mod serve;
#[cfg(test)]
mod simulation;
mod state;
#[cfg(test)]
mod suite;
mod types;
mod upkeep;
mod way;
mod write;

pub use client::{Client, ClientOptions, ClientSeams};
pub use engine::{Engine, LinkOptions, Listener, HOT_BYTES_MAX};
pub use macula_net as net;

pub use error::RaftError;
pub use feed::{FeedPage, Feeds, Waker};
pub use members::{Change, Invitation, NodeStatus, Secret, Standing};
pub use network::{Alone, Transport, Unreached};
pub use node::{Node, Options, Seams};
pub use query::{Consistency, Found, Query};
pub use state::Reading;
pub use types::{Answer, Blob, ClusterId, Member, Proposal};
