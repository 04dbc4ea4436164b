//! Which copies of SQLite are bridged, and what a second one does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // children

mod common;

use common::bridged::*;
use common::*;
use macula_core::{Kind, Kinded};
use macula_sqlite::bridge::{self, Status};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

const MALLOC: usize = 68;
const FILE_CONTROL: usize = 127;
const MUTEX_TRY: usize = 134;

/// A table of functions in which some are replaced.
struct Table(Vec<*const c_void>);

impl Table {
    fn refusal(&self) -> String {
        let mut message = std::ptr::null_mut();
        // SAFETY: a table whose functions ignore the connection, or are not reached
        let code = unsafe { bridge::enter(std::ptr::null_mut(), &raw mut message, self.0.as_ptr().cast()) };
        assert_eq!(code, 1);
        assert!(matches!(bridge::status(), Status::Refused(_)));
        // SAFETY: made with the table's own malloc, which is libc's
        unsafe {
            let text = std::ffi::CStr::from_ptr(message).to_str().unwrap().to_owned();
            libc::free(message.cast());
            text
        }
    }
}

unsafe extern "C" fn old() -> c_int {
    3_051_002
}

unsafe extern "C" fn allocate(len: c_int) -> *mut c_void {
    // SAFETY: any length may be asked for
    unsafe { libc::malloc(len as usize) }
}

/// Another VFS than `unix` has locks of its own, which the bridge would not see.
unsafe extern "C" fn on_dotfiles(_: *mut c_void, _: *const c_char, _: c_int, into: *mut c_void) -> c_int {
    // SAFETY: asked for one pointer; our own copy's VFS of that name, which lives on
    unsafe { *into.cast() = rusqlite::ffi::sqlite3_vfs_find(c"unix-dotfile".as_ptr()) };
    0
}

unsafe extern "C" fn on_our_own(_: *mut c_void, _: *const c_char, _: c_int, into: *mut c_void) -> c_int {
    // SAFETY: as above
    unsafe { *into.cast() = rusqlite::ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    0
}

#[test]
fn copies_that_cannot_be_bridged_are_told_why() {
    if !in_own_process("copies_that_cannot_be_bridged_are_told_why") {
        return;
    }
    let _ours = Fixture::new().open();
    let mut table = Table(vec![std::ptr::null(); PLACES]);
    table.0[MALLOC] = allocate as *const c_void;
    assert!(table.refusal().contains("lacks a function"));
    table.0[VERSION] = old as *const c_void;
    assert!(table.refusal().starts_with("macula_storage: this copy of SQLite has the WAL-reset bug"));
    table.0[VERSION] = young as *const c_void;
    assert!(table.refusal().contains("lacks a function"));
    table.0[FILE_CONTROL] = on_dotfiles as *const c_void;
    assert!(table.refusal().contains("not on SQLite's VFS `unix`"));
    // without mutexes
    table.0[FILE_CONTROL] = on_our_own as *const c_void;
    assert!(table.refusal().contains("lacks a function"));
    let mutex: [(usize, *const c_void); 6] = {
        use rusqlite::ffi::*;
        [
            (130, sqlite3_mutex_alloc as *const c_void),
            (131, sqlite3_mutex_enter as *const c_void),
            (132, sqlite3_mutex_free as *const c_void),
            (133, sqlite3_mutex_leave as *const c_void),
            (134, sqlite3_mutex_try as *const c_void),
            (161, sqlite3_compileoption_used as *const c_void),
        ]
    };
    mutex.iter().for_each(|(place, function)| table.0[*place] = *function);
    assert!(table.refusal().contains("own copy"));
    unsafe extern "C" fn let_all_in(_: *mut c_void) -> c_int {
        0
    }
    table.0[MUTEX_TRY] = let_all_in as *const c_void;
    assert!(table.refusal().contains("one thread only"));
    // SAFETY: refused before anything is read
    unsafe {
        assert_eq!(bridge::enter(std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null()), 1);
    }
    assert!(matches!(bridge::status(), Status::Refused(why) if why.contains("no functions")));
}

/// A new version of the host's library, loaded into a running VM, is another copy of SQLite: which of them a
/// descriptor belongs to cannot be told, so nothing is written beside any.
#[test]
fn a_second_copy_ends_what_is_shared() {
    if !in_own_process("a_second_copy_ends_what_is_shared") {
        return;
    }
    let Some(other) = bridged() else { return };
    let fixture = Fixture::new();
    let foreign = open(&other, &fixture.path());
    let clock = Arc::new(Leaping::default());
    let db = fixture.open_at(clock.clone()).unwrap();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    db.run(insert(1)).unwrap();
    let mut table = Table(vec![std::ptr::null(); PLACES]);
    table.0[MALLOC] = allocate as *const c_void;
    assert!(table.refusal().contains("bridged to another copy"));
    clock.leap(Duration::from_secs(1));
    assert_eq!(error(&db, insert(2)).kind(), Kind::OpenedByOtherSqlite);
    assert_eq!(db.pin().unwrap_err().kind(), Kind::OpenedByOtherSqlite);
    // where the host is not, nobody is: what is opened still goes through it
    let alone = Fixture::new();
    exec(&alone.open(), "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    db.close();
    assert_eq!(foreign.ask("SELECT count(*) FROM t").unwrap(), "1");
    drop(foreign);
    let db = fixture.open();
    db.run(insert(3)).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 2);
}

/// The low level is a third kind of connection to an app's file: past the bridge it would be the second copy.
#[test]
fn the_low_level_goes_through_it() {
    use macula_core::{Cancel, SystemClock};
    use macula_sqlite::sqlite3::{Conn, OpenMode, Session};
    if !in_own_process("the_low_level_goes_through_it") {
        return;
    }
    let Some(other) = bridged() else { return };
    let fixture = Fixture::new();
    let open_low = || {
        let (answer, answered) = std::sync::mpsc::channel();
        let path = fixture.path().to_str().unwrap().to_owned();
        let mode = OpenMode { write: true, create: true };
        Conn::open(path, mode, Arc::new(SystemClock), move |result| answer.send(result).unwrap()).unwrap();
        answered.recv().unwrap()
    };
    let execute = |conn: &Conn, sql: &'static str| {
        let (answer, answered) = std::sync::mpsc::channel();
        let job = move |session: Result<&mut Session, _>| {
            answer.send(session.and_then(|session| session.execute(sql))).unwrap();
        };
        conn.run(Cancel::new(), Box::new(job)).unwrap();
        answered.recv().unwrap()
    };
    let close = |conn: &Conn| {
        let (answer, answered) = std::sync::mpsc::channel();
        conn.close(move || answer.send(()).unwrap()).unwrap();
        answered.recv().unwrap();
    };
    // one from before is in the way of what goes through it
    let before = open_low().unwrap();
    execute(&before, "CREATE TABLE t(id INTEGER PRIMARY KEY)").unwrap();
    let foreign = other.open(&fixture.path());
    assert_eq!(bridge::status(), Status::Built);
    assert_eq!(fixture.try_open().unwrap_err().kind(), Kind::OpenedByOtherSqlite);
    assert!(open_low().is_err());
    close(&before);
    drop(before);
    assert_eq!(foreign.exec("PRAGMA journal_mode=WAL"), 0);
    let db = fixture.open();
    let low = open_low().unwrap();
    for _ in 0..50 {
        execute(&low, "INSERT INTO t(id) VALUES (NULL)").unwrap();
        exec(&db, "INSERT INTO t(id) VALUES (NULL)");
        assert_eq!(foreign.exec("INSERT INTO t(id) VALUES (NULL)"), 0);
    }
    close(&low);
    drop(low);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 150);
    assert_eq!(foreign.ask("PRAGMA integrity_check").unwrap(), "ok");
}
