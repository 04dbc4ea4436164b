//! Archives: tar in zstd or gzip with a manifest, one pass from disk to compressed stream and back.
//!
//! Groups of about 4 MiB are read, hashed and compressed by parallel workers and written in order;
//! an index behind the archive lets restore do the same in reverse. Stock `tar` reads it all.
//! Invariant: what unpacks is exactly what was packed, name by name and byte by byte; anything else
//! is refused before it can reach outside the destination. docs/formats.md describes each byte.

mod codec;
mod error;
mod group;
mod head;
mod header;
mod index;
mod input;
mod item;
mod manifest;
mod names;
mod pack;
mod parallel;
mod place;
mod plan;
mod slices;
mod spool;
mod unpack;
mod walk;

pub use error::ArchiveError;
pub use head::{peek, Head, VERSION};
pub use item::{workers_default, Format, Item, PackOptions, Source, Tree, UnpackOptions, Written, WrittenFn};
pub use item::{DEPTH_MAX, DIR_BYTES};
pub use manifest::{ManifestEntry, ManifestKind, Remark, Totals};
pub use pack::{pack, Packed};
pub use slices::SLICE;
pub use unpack::{list, unpack, verify, Unpacked};
pub use walk::{is_gone, DiskTree, Walk};
