//! Verified blocks under redb: each read is compared with its tag, redb's errors and panics become ours.
//!
//! Invariant: what redb is given is what it wrote, or an error; whoever calls redb over these blocks does
//! so inside [`fence`] or [`catch`].

mod error;
mod fence;
mod file;
mod format;
mod hot;

pub use error::BlockError;
pub use fence::{catch, fence, translate};
pub use file::{Backend, BlockFile};
pub use format::{Brand, BLOCK};
pub use hot::only;
