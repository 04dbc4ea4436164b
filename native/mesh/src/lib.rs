//! Files that survive machines: each version has a stamp and a history, each change reaches every member,
//! content lies where it is placed, and nothing that two sides wrote at once is lost.
//!
//! A [`Mesh`] knows files only through [`macula_core::AppFiles`], members only through
//! [`macula_core::Members`] and a [`Carrier`]. What is known of each file lies in an index of its own.

#![forbid(unsafe_code)]

mod ahead;
mod arriving;
mod budget;
mod care;
mod carrier;
mod early;
mod error;
mod events;
mod fetch;
mod fingerprints;
mod floor;
pub mod id;
mod in_hand;
mod index;
mod local;
mod merge;
mod mesh;
mod name;
mod near;
mod peers;
mod placement;
pub mod ranges;
mod reading;
mod reconcile;
mod record;
mod refusals;
mod relay;
mod remote;
mod rounds;
mod row;
mod scan;
mod scrub;
mod serve;
mod shared;
mod short_writes;
mod stamp;
mod together;
mod traffic;
mod tree;
mod turn;
mod unsynced;
mod waiters;
mod wanted;
mod watch;
pub mod wire;

pub use care::Cared;
pub use carrier::{Carrier, Links, MESSAGE_LEN_MAX};
pub use error::MeshError;
pub use events::{Event, Listening, Told, What, Wish, UNREAD_MAX};
pub use floor::Floor;
pub use id::{ContentId, Hashing, Manifest, BLOCK_LEN};
pub use index::store_options;
pub use local::{Page, Stat, Writing};
pub use mesh::{Ack, Mesh, Status, Written};
pub use name::Name;
pub use placement::{Card, Class, Place, Rule};
pub use reading::Reading;
pub use record::{Claim, Content, Dot, Record, ReplicaId, Version};
pub use refusals::Refusal;
pub use relay::{Answered, Courier, Relay, UNDER_WAY_MAX};
pub use rounds::{Ended, Round, Rounds, Scrubbed};
pub use scan::Scanned;
pub use serve::Door;
pub use shared::{Options, Seams};
pub use stamp::{Stamp, Stamps};
pub use watch::Watched;
