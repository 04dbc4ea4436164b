//! A commit that the disk fails: nobody is told a lie, and nothing more is written until reopened.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a child process of its own limits

mod common;

use common::*;
use macula_core::{Cancel, Kind, Kinded, Task};
use macula_sqlite::{Params, Request, Value};
use std::sync::mpsc::channel;
use std::time::Duration;

const CHILD: &str = "MACULA_SQLITE_POISON_CHILD";

/// From here on no file of this process grows beyond `bytes`: a write fails with EFBIG, as a failing disk.
fn limit_files(bytes: libc::rlim_t) {
    // SAFETY: plain system calls on values of ours; only the soft limit is lowered, so it can be lifted
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

fn blob(id: i64, len: usize) -> Request {
    let params = Params::Positional(vec![Value::Integer(id), Value::Blob(vec![7; len])]);
    Request::execute("INSERT INTO t VALUES (?, ?)").params(params)
}

/// The limit is the whole process's, so this runs in one of its own.
#[test]
fn child() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    for together in [false, true] {
        let fixture = Fixture::new();
        let db = fixture.open();
        exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
        db.run(blob(1, 100)).unwrap();
        let held = together.then(|| begin(&db));
        let answers: Vec<_> = (2..if together { 5 } else { 3 })
            .map(|id| {
                let (answer, answered) = channel();
                let request = blob(id, 400_000).deadline(Duration::from_secs(60));
                if !together {
                    limit_files(100_000);
                }
                db.submit(request, move |result| answer.send(result).unwrap()).unwrap();
                answered
            })
            .collect();
        limit_files(100_000);
        drop(held);
        for answered in answers {
            assert_eq!(answered.recv().unwrap().unwrap_err().kind(), Kind::UnknownResult);
        }
        assert_eq!(db.run(blob(9, 1)).unwrap_err().kind(), Kind::Poisoned);
        assert_eq!(db.run(Request::query("SELECT 1")).unwrap_err().kind(), Kind::Poisoned);
        assert_eq!(db.transaction(Duration::from_secs(1), Cancel::new()).unwrap_err().kind(), Kind::Poisoned);
        let copy = fixture.dir.path().join("copy.db");
        assert_eq!(db.backup(&copy, &Task::quiet()).unwrap_err().kind(), Kind::Poisoned);
        db.close();
        limit_files(libc::RLIM_INFINITY);
        let db = fixture.open();
        db.check(&Cancel::new()).unwrap();
        assert_eq!(int(&db, "SELECT min(id) FROM t"), 1, "what was acknowledged is there");
        db.run(blob(9, 400_000)).unwrap();
    }
}

#[test]
fn a_failed_commit_poisons_until_reopened() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
}
