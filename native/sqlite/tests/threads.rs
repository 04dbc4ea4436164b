//! A machine that gives no more threads.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a child process of its own limits

mod common;

use common::*;
use macula_sqlite::Request;
use std::sync::mpsc::channel;

const CHILD: &str = "MACULA_SQLITE_THREADS_CHILD";

/// From here on this process gets so few bytes of address space that no thread's stack fits.
fn limit_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let used: libc::rlim_t = used.trim().trim_end_matches(" kB").parse().unwrap();
    // SAFETY: plain system calls on values of ours
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
        limit.rlim_cur = (used << 10) + (1536 << 10);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
    }
    assert!(std::thread::Builder::new().spawn(|| {}).is_err(), "a thread's stack is 2 MiB");
}

/// The limit is the whole process's, so this runs in one of its own.
#[test]
fn child() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    limit_memory();
    let (answer, answered) = channel();
    for _ in 0..50 {
        let answer = answer.clone();
        db.submit(Request::query("SELECT id FROM t"), move |result| answer.send(result).unwrap()).unwrap();
    }
    drop(answer);
    let rows: Vec<_> = answered.iter().map(|result| result.unwrap().rows.len()).collect();
    assert_eq!(rows, [1; 50]);
}

/// The first reader was started by the first read; when that failed, the queue of reads was closed for as
/// long as the database was open, and who waited was answered from a thread whose messages go nowhere.
#[test]
fn reads_are_answered_when_no_more_readers_can_be_started() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(child.status.success(), "{}{}", told(&child.stdout), told(&child.stderr));
}
