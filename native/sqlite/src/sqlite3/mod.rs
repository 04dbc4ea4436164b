//! The low-level floor: connections and statements in a caller's hands, with the names of SQLite's own API.
//!
//! Invariant: no call waits on the caller's thread. What may wait (for a disk, a lock, a long query, the
//! app's other writers) runs on a thread of ours, one job of a connection at a time; [`Conn::hot`] does
//! what memory alone can answer, or declines. A connection to a file that is open as an app's database
//! takes its turn among the app's writers, so that neither meets `SQLITE_BUSY`.

mod blob;
mod commit;
mod conn;
mod copy;
mod crew;
mod error;
mod functions;
mod hooks;
mod log;
mod open;
mod raw;
mod record;
mod session;
mod settings;
mod stmt;
mod turn;

pub use blob::{Blob, BlobPlace};
pub use conn::{Conn, Job};
pub use copy::on_thread;
pub use error::Sqlite3Error;
pub use hooks::{action_code, Action, Change, Event, RowChange, Wants};
pub(crate) use hooks::{image, RowImage};
pub use log::set_log;
pub use open::OpenMode;
pub(crate) use raw::{prepare, Code, RawStmt};
pub use record::{changes_in, concat, invert, Image, Policy, Recorded, Recorder, Resolve};
pub use session::{Session, Step};
pub use settings::{limit_code, CheckpointMode};
pub use stmt::{Stmt, StmtInfo};
pub(crate) use turn::{Lend, Turn};
