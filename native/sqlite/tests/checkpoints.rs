//! What is asked before the log's frames go back into the file, and may be overwritten.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use macula_core::{Clock, SystemClock};
use macula_sqlite::{guard, BeforeCheckpoint, SqliteError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Asked {
    refuses: AtomicBool,
    panics: AtomicBool,
    count: AtomicUsize,
}

fn fixture() -> (Fixture, Arc<Asked>) {
    let (mut fixture, asked) = (Fixture::new(), Arc::<Asked>::default());
    let hook = asked.clone();
    let before = move |log: &Path| {
        assert!(log.ends_with("app.db-wal"));
        hook.count.fetch_add(1, Ordering::SeqCst);
        assert!(!hook.panics.load(Ordering::SeqCst), "on purpose");
        match hook.refuses.load(Ordering::SeqCst) {
            true => Err(SqliteError::Invalid("not yet".to_owned())),
            false => Ok(()),
        }
    };
    fixture.options.before_checkpoint = Some(BeforeCheckpoint(Arc::new(before)));
    (fixture, asked)
}

fn log_bytes(fixture: &Fixture) -> u64 {
    std::fs::metadata(&guard::companions(&fixture.path())[0]).map_or(0, |meta| meta.len())
}

/// The last connection to close checkpointed all the same, and removed the log; and what a crash had left was
/// checkpointed before anybody could ask to be asked.
#[test]
fn what_is_refused_stays_in_the_log() {
    let (mut fixture, asked) = fixture();
    fixture.options.wal_bytes_max = 64 << 10;
    asked.refuses.store(true, Ordering::SeqCst);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(b)");
    for _ in 0..20 {
        exec(&db, "INSERT INTO t VALUES (zeroblob(20000))");
    }
    assert!(asked.count.load(Ordering::SeqCst) > 3, "as it grew");
    db.close();
    let kept = log_bytes(&fixture);
    assert!(kept > 400_000, "{kept}");
    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 20);
    assert!(log_bytes(&fixture) >= kept, "what was there when it was opened");
    asked.refuses.store(false, Ordering::SeqCst);
    let count = asked.count.load(Ordering::SeqCst);
    db.close();
    assert!(asked.count.load(Ordering::SeqCst) > count);
    assert_eq!(fixture.names(), ["app.db"]);
    assert_eq!(int(&fixture.open(), "SELECT count(*) FROM t"), 20);
}

/// The writer's thread ended with its queue open: every write waited for ever.
#[test]
fn a_panic_while_idle_poisons() {
    let (mut fixture, asked) = fixture();
    fixture.options.checkpoint_after_idle = Duration::from_millis(1);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(b)");
    asked.panics.store(true, Ordering::SeqCst);
    let begun = SystemClock.monotonic();
    let poisoned = loop {
        match db.run(macula_sqlite::Request::execute("INSERT INTO t VALUES (1)")) {
            Ok(_) => assert!(SystemClock.monotonic() - begun < Duration::from_secs(20)),
            Err(error) => break error,
        }
        SystemClock.sleep(Duration::from_millis(5));
    };
    assert!(matches!(poisoned, SqliteError::Poisoned(_)), "{poisoned}");
}
