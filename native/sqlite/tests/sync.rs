//! A sync that fails inside a statement, by an `fdatasync` of ours: what SQLite is compiled to call (.cargo/config.toml).
#![allow(clippy::unwrap_used)]

mod common;

use common::low;
use common::*;
use macula_core::{Cancel, Clock, Kind, Kinded, SystemClock};
use macula_sqlite::Request;
use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Which of the next calls fails; 0 for none.
static FAILS: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Takes the place of libc's in this process.
#[no_mangle]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    if FAILS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1) {
        FAILED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the place of this thread's errno
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: the system call on the caller's descriptor
    unsafe { libc::syscall(libc::SYS_fdatasync, fd) as c_int }
}

/// One test at a time uses the two.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A low-level statement with rows left commits when it is reset, and that says nothing to its caller: the
/// sync that failed then was lost, and the app went on writing.
#[test]
fn a_failed_sync_of_a_commit_by_reset_poisons() {
    let _one = ONE.lock().unwrap();
    for releases in [false, true] {
        let fixture = Fixture::new();
        let db = fixture.open();
        exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
        let conn = low::open(&fixture.path());
        let stmt = low::prepare(&conn, "INSERT INTO t VALUES (1), (2) RETURNING id");
        low::step(&conn, &stmt).unwrap();
        FAILED.store(0, Ordering::SeqCst);
        FAILS.store(1, Ordering::SeqCst);
        if releases {
            drop(stmt);
        } else {
            low::run(&conn, move |session| {
                stmt.reset_in(session);
                Ok(())
            })
            .unwrap();
        }
        // a release is done by a thread of ours, as soon as nobody has the statement any more
        let done = || FAILED.load(Ordering::SeqCst) == 1;
        (0..500).take_while(|_| !done()).for_each(|_| SystemClock.sleep(Duration::from_millis(10)));
        let _ = low::execute(&conn, "SELECT 1");
        assert_eq!(FAILED.load(Ordering::SeqCst), 1, "releases {releases}");
        assert_eq!(db.run(insert(3)).unwrap_err().kind(), Kind::Poisoned, "releases {releases}");
        FAILED.store(0, Ordering::SeqCst);
    }
}

/// A statement that outgrows the cache writes its first pages into the log, whose header is synced
/// before. When that sync failed the statement was answered an error and the next one went on writing.
#[test]
fn a_failed_sync_inside_a_statement_poisons() {
    let _one = ONE.lock().unwrap();
    let large = "INSERT INTO t(b) SELECT zeroblob(100000) FROM json_each('[1,2,3,4,5,6,7,8,9]')";
    for in_transaction in [false, true] {
        let mut fixture = Fixture::new();
        fixture.options.cache_bytes = 64 << 10;
        exec(&fixture.open(), "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
        // opened anew, so that the log is empty and its header is yet to be written
        let db = fixture.open();
        let begun = in_transaction.then(|| begin(&db));
        FAILS.store(1, Ordering::SeqCst);
        let failed = match &begun {
            None => db.run(Request::execute(large)),
            Some(tx) => tx.run(Request::execute(large)),
        };
        let error = failed.unwrap_err();
        assert_eq!(error.kind(), Kind::Io, "{error}");
        assert!(error.to_string().contains("code=1034"), "SQLITE_IOERR_FSYNC: {error}");
        if let Some(tx) = begun {
            // whether SQLite kept the transaction or not
            commit(&tx).unwrap_err();
        }
        assert_eq!(db.run(insert(1)).unwrap_err().kind(), Kind::Poisoned);
        assert_eq!(db.run(Request::query("SELECT 1")).unwrap_err().kind(), Kind::Poisoned);
        db.close();
        let db = fixture.open();
        db.check(&Cancel::new()).unwrap();
        db.run(insert(1)).unwrap();
        assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
    }
    assert_eq!((FAILED.load(Ordering::SeqCst), FAILS.load(Ordering::SeqCst)), (2, 0));
}
