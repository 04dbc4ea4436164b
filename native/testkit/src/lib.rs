//! What the tests of every engine stand on: a disk that loses power, a clock and a chance that
//! obey, and the contract that any disk fulfils. A dev-dependency only.

mod content;
mod contract;
mod fault_disk;
mod fault_file;
mod machine;
mod seams;
mod sqlite_disk;
mod sqlite_model;
mod sqlite_vfs;
mod tree;

pub use content::CrashMode;
pub use contract::disk_contract;
pub use fault_disk::{path, FaultDisk};
pub use machine::Fault;
pub use seams::{SeededChance, SimClock};
pub use sqlite_disk::SqliteDisk;
