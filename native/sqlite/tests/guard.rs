//! Beside a second, real copy of SQLite in this process: the system's shared library.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // files are made by hand

mod common;

use common::*;
use macula_core::{Kind, Kinded, Task};
use macula_sqlite::{copy_other, guard, Request, SqliteError};
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;
use std::ptr::null_mut;

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, *mut c_void, *mut *mut c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The other copy, as exqlite would be.
struct Other {
    open: Open,
    exec: Exec,
    close: Close,
}

impl Other {
    fn load() -> Option<Self> {
        // SAFETY: the library's functions have the signatures above (sqlite3.h)
        unsafe {
            let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND;
            let library = libc::dlopen(c"libsqlite3.so.0".as_ptr(), flags);
            if library.is_null() {
                println!("skipped: no libsqlite3.so.0 on this machine");
                return None;
            }
            let symbol = |name: &CStr| {
                let found = libc::dlsym(library, name.as_ptr());
                assert!(!found.is_null(), "{name:?}");
                found
            };
            let version: unsafe extern "C" fn() -> *const c_char = std::mem::transmute(symbol(c"sqlite3_libversion"));
            let ours = rusqlite::version();
            assert_ne!(CStr::from_ptr(version()).to_str().unwrap(), ours, "this must be another copy");
            Some(Self {
                open: std::mem::transmute::<*mut c_void, Open>(symbol(c"sqlite3_open")),
                exec: std::mem::transmute::<*mut c_void, Exec>(symbol(c"sqlite3_exec")),
                close: std::mem::transmute::<*mut c_void, Close>(symbol(c"sqlite3_close")),
            })
        }
    }

    fn open<'a>(&'a self, path: &Path) -> Foreign<'a> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut handle = null_mut();
        // SAFETY: a NUL-terminated path and a place for the handle
        assert_eq!(unsafe { (self.open)(path.as_ptr(), &raw mut handle) }, 0);
        Foreign { other: self, handle }
    }
}

struct Foreign<'a> {
    other: &'a Other,
    handle: *mut c_void,
}

impl Foreign<'_> {
    fn exec(&self, sql: &str) -> c_int {
        let sql = CString::new(sql).unwrap();
        // SAFETY: a live handle, a NUL-terminated text, no callback
        unsafe { (self.other.exec)(self.handle, sql.as_ptr(), null_mut(), null_mut(), null_mut()) }
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        // SAFETY: a live handle, closed once
        unsafe { (self.other.close)(self.handle) };
    }
}

#[test]
fn a_file_that_another_copy_has_open_is_refused() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    drop(fixture.open());

    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("CREATE TABLE t(x); INSERT INTO t VALUES (1)"), 0);
    let error = fixture.try_open().unwrap_err();
    assert!(matches!(error, SqliteError::OpenedByOther(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::OpenedByOtherSqlite);
    assert!(error.hint().unwrap().contains("exqlite"));
    let dest = fixture.dir.path().join("copy.db");
    assert!(matches!(copy_other(&fixture.path(), &dest, &Task::quiet()), Err(SqliteError::OpenedByOther(_))));
    assert!(!dest.exists());
    drop(foreign);

    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
    assert!(!guard::opened_elsewhere(&fixture.path()).unwrap(), "ours do not count");
    let again = fixture.try_open().unwrap();
    assert_eq!(int(&again, "SELECT count(*) FROM t"), 1);
    drop(again);
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("SELECT * FROM t"), 0);
    assert!(guard::opened_elsewhere(&fixture.path()).unwrap(), "found also when it came later");
}

/// Asking whether a file is a database must not drop the locks of who has it open: a plain open and
/// close of the file in this process would.
#[test]
fn looking_at_a_file_keeps_the_locks_of_who_has_it_open() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("CREATE TABLE t(x)"), 0);
    assert_eq!(foreign.exec("BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)"), 0);
    let locks = || {
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(fixture.path()).unwrap());
        let text = std::fs::read_to_string("/proc/locks").unwrap();
        text.lines().filter(|line| line.contains(&format!(":{inode} "))).count()
    };
    let before = locks();
    assert!(before > 0);
    assert!(guard::looks_like_sqlite(&fixture.path()).unwrap());
    assert!(guard::opened_elsewhere(&fixture.path()).unwrap());
    assert_eq!(guard::other_processes(&fixture.path()).unwrap(), Vec::<u32>::new());
    assert_eq!(locks(), before);
    assert_eq!(foreign.exec("COMMIT"), 0);

    // and ours
    let ours = Fixture::new();
    let db = ours.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    assert!(guard::looks_like_sqlite(&ours.path()).unwrap());
    assert_eq!(db.run(Request::query("SELECT 1")).unwrap().rows.len(), 1);
    let plain = ours.dir.path().join("plain");
    std::fs::write(&plain, vec![7; 1024]).unwrap();
    assert!(!guard::looks_like_sqlite(&plain).unwrap());
    assert!(!guard::looks_like_sqlite(&ours.dir.path().join("absent")).unwrap());
    assert!(!guard::looks_like_sqlite(ours.dir.path()).unwrap());
    // two openers of a plain file do not make it stay open forever
    let held = std::fs::File::open(&plain).unwrap();
    assert!(guard::opened_elsewhere(&plain).unwrap());
    drop(held);
    assert!(!guard::opened_elsewhere(&plain).unwrap());
}
