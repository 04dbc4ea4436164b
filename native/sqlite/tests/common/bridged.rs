//! Two copies with the bridge between them. It stays for the life of a process, so each test that builds
//! one runs in a child process of its own.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // children, what they count

use super::other::{Entry, Foreign, Other};
use macula_sqlite::bridge::{self, Status};
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

const CHILD: &str = "MACULA_SQLITE_BRIDGE_CHILD";

/// Whether this process was started for that test.
pub fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// A process for that test.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD, name);
    command
}

/// Run the rest of that test in a process of its own; `false` in the parent, when it is done.
pub fn in_own_process(name: &str) -> bool {
    if is_child(name) {
        return true;
    }
    let child = command(name).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    said.lines().filter(|line| line.starts_with("  ")).for_each(|line| println!("{name}:{line}"));
    let ran = child.status.success() && said.contains("test result: ok. 1 passed");
    assert!(ran, "{said}{}", String::from_utf8_lossy(&child.stderr));
    false
}

/// A place in the table of functions, and how many of them are looked at.
pub const VERSION: usize = 67;
pub const PLACES: usize = 162;

/// A version that is bridged.
pub unsafe extern "C" fn young() -> c_int {
    3_051_003
}

/// As an extension is loaded. The system's copy may be older than what is bridged: what is tested is what
/// it does, not what it is called. To be kept loaded is no error here.
unsafe extern "C" fn load(db: *mut c_void, message: *mut *mut c_char, api: *const c_void) -> c_int {
    static TABLE: OnceLock<[usize; PLACES]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        // SAFETY: SQLite's table of functions, which is longer than that
        let mut table = unsafe { *api.cast::<[usize; PLACES]>() };
        table[VERSION] = young as *const () as usize;
        table
    });
    // SAFETY: passed on from SQLite
    match unsafe { bridge::enter(db, message, table.as_ptr().cast()) } {
        256 => 0,
        code => code,
    }
}

/// A copy whose connections load the bridge.
pub fn bridged() -> Option<Other> {
    let other = Other::load()?;
    assert_eq!(bridge::status(), Status::NotLoaded);
    let entry: Entry = load;
    other.extend(entry);
    Some(other)
}

/// As exqlite opens a file for Ecto.
pub fn open<'a>(other: &'a Other, path: &Path) -> Foreign<'a> {
    let foreign = other.open(path);
    assert_eq!(foreign.exec("PRAGMA busy_timeout=60000; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"), 0);
    foreign
}
