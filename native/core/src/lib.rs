//! What every engine stands on: names that cannot leave their directory, the few kinds an error can
//! have, and the seams to disk, time and chance. Knows nobody: no engine, no BEAM, no format.
//!
//! Invariant: an engine that takes its paths as [`RelPath`] and its disk as [`Disk`] cannot touch a
//! byte outside the directory it was given.

mod app_files;
mod app_name;
mod clock;
mod disk;
mod disk_ops;
mod error;
mod gate;
mod lanes;
mod ledger;
mod members;
mod pool;
mod real_disk;
mod rel_path;
mod task;
mod watcher;

pub use app_files::{AppFiles, AppFilesError, Apps, Expected, Look, Looks, Opened, Staged, TREE_MARK_LEN};
pub use app_name::{AppName, NameError};
pub use clock::{Chance, Clock, SystemChance, SystemClock};
pub use disk::{Disk, DiskFile, Entry, FileKind, Open, Space, Stat};
pub use disk_ops::{create_dir_all, read_all, remove_tree, write_durably};
pub use error::{io_kind, Details, Kind, Kinded};
pub use gate::{Gate, GatePass, OwnedGatePass};
pub use lanes::Lanes;
pub use ledger::{Ledger, Part};
pub use members::{MemberAt, Members};
pub use pool::{Pool, Refused};
pub use real_disk::RealDisk;
pub use rel_path::{PathError, RelPath};
pub use task::{Cancel, Progress, Task};
pub use watcher::{Happened, Noticed, Watcher};
