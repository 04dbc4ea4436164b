//! Plain files of one app, which ordinary tools can read, under `files/` of its `data/`.
//!
//! Every write goes to a temporary and is renamed when it is durable, so no half file is ever
//! visible; memory does not grow with a file. A snapshot pins an instant without walking anything:
//! from then on writers set a version aside before they replace or remove it. Other programs may
//! write there too: what they do is neither verified nor set aside, and never harms what we do.
//! Content of others is staged beside the tree, and what it replaces can be kept: see
//! [`macula_core::AppFiles`].

mod app_files;
mod aside;
mod error;
mod files;
mod inner;
mod kept;
mod reader;
mod snapshot;
mod staged;
mod syncs;
mod tag;
mod temporary;
mod tree_mark;
mod unsynced;
mod walk;
mod writer;

pub use error::FilesError;
pub use files::{digest, mark, unmark, Files, Page};
pub use reader::{FileStat, Reader};
pub use snapshot::{FileSnapshot, SnapEntry};
pub use staged::StagedFile;
pub use writer::{Writer, Written};
