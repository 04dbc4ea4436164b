//! An app's files through the seam of core: across a restore, in the usage, in a backup.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::Expected::{self, Anything, Nothing};
use macula_core::{AppFiles, Kind, Task};
use macula_store::{App, AppFilesOf, BackupOptions, RestoreOptions};
use macula_testkit::path;
use std::sync::Arc;
use support::{app, base_at};

fn stage(files: &dyn AppFiles, name: &str, bytes: &[u8]) {
    let staged = files.stage(name).unwrap();
    staged.write_at(bytes, 0).unwrap();
    staged.seal(bytes.len() as u64, Some(blake3::hash(bytes).as_bytes())).unwrap();
}

/// The figures are those of a walk.
#[track_caller]
fn check_usage(app: &App) {
    let kept = app.usage().unwrap().parts;
    app.reconcile().unwrap();
    assert_eq!(kept, app.usage().unwrap().parts);
}

#[test]
fn staged_and_kept_content_is_counted_and_in_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_at(dir.path());
    let app = base.app(&app()).unwrap();
    let files = AppFilesOf::new(app.clone());
    let long = vec![7; 100_000];
    stage(&files, "aa", &long);
    app.reconcile().unwrap();
    files.put(&path("d/a"), "aa", None, Anything).unwrap();
    check_usage(&app);
    stage(&files, "bb", b"new");
    let snapshot = app.files().unwrap().snapshot();
    files.put(&path("d/a"), "bb", Some("0a"), Anything).unwrap();
    check_usage(&app);
    drop(snapshot);
    check_usage(&app);
    // enough names for their directory to grow, on a file system where directories do
    for n in 0..500 {
        files.stage(&format!("{n:0100x}")).unwrap().write_at(b"x", 10).unwrap();
    }
    let before = app.usage().unwrap().total;
    check_usage(&app);
    base.close();
    let base = base_at(dir.path());
    let app = base.app(app.name()).unwrap();
    let files = AppFilesOf::new(app.clone());
    assert_eq!(app.usage().unwrap().total, before, "a next process finds it counted");
    files.stage(&format!("{:0100x}", 0)).unwrap().write_at(b"x", 1_000).unwrap();
    for name in files.staged().unwrap() {
        files.unstage(&name).unwrap();
    }
    files.unkeep("0a").unwrap();
    check_usage(&app);
    stage(&files, "cc", &long);
    files.keep("cc", "0c").unwrap();
    let dest = dir.path().join("backup.tar.zst");
    let info = base.archive(app.name(), &dest, &BackupOptions::default(), &Task::quiet()).unwrap();
    assert!(info.bytes < 100_000, "of the file only");
    base.close();
}

/// A restore exchanges the tree: what comes after it is on the restored data, what was begun before
/// cannot reach it.
#[test]
fn after_a_restore_it_is_the_restored_data() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_at(dir.path());
    let app = base.app(&app()).unwrap();
    let files: Arc<dyn AppFiles> = Arc::new(AppFilesOf::new(app.clone()));
    stage(&*files, "aa", b"old");
    files.put(&path("a"), "aa", None, Anything).unwrap();
    let dest = dir.path().join("backup.tar.zst");
    base.archive(app.name(), &dest, &BackupOptions::default(), &Task::quiet()).unwrap();
    stage(&*files, "aa", b"newer");
    files.put(&path("a"), "aa", Some("0a"), Anything).unwrap();
    let (opened, staged) = (files.open(&path("a")).unwrap(), files.stage("bb").unwrap());
    staged.write_at(b"begun", 0).unwrap();
    base.restore(app.name(), &dest, &RestoreOptions::default(), &Task::quiet()).unwrap();
    let mut bytes = [0; 9];
    assert_eq!((opened.read_at(&mut bytes, 0).unwrap(), &bytes[..5]), (5, &b"newer"[..]));
    assert_eq!(staged.write_at(b"more", 5).unwrap_err().kind, Kind::Closed);
    assert_eq!(files.look(&path("a")).unwrap().unwrap().len, 3);
    assert!(files.staged().unwrap().is_empty() && files.kept().unwrap().is_empty(), "they are in no backup");
    stage(&*files, "cc", b"again");
    for expected in [Nothing, Expected::File(opened.look())] {
        assert_eq!(files.put(&path("a"), "cc", Some("0c"), expected).unwrap_err().kind, Kind::Conflict);
        assert_eq!(files.put_kept(&path("a"), "cc", None, expected).unwrap_err().kind, Kind::NotFound);
        assert_eq!(files.remove(&path("a"), Some("0c"), expected).unwrap_err().kind, Kind::Conflict);
    }
    let now = files.look(&path("a")).unwrap().unwrap();
    files.put(&path("a"), "cc", Some("0c"), Expected::File(now)).unwrap();
    files.settle(&path("a")).unwrap();
    assert_eq!(files.open_kept("0c").unwrap().look().len, 3);
    check_usage(&app);
    base.close();
    assert_eq!(files.look(&path("a")).unwrap_err().kind, Kind::Closed);
    assert_eq!(files.settle(&path("a")).unwrap_err().kind, Kind::Closed);
}
