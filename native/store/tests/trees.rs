//! What a backup takes of an app's tree: damage that is noticed, modes that are kept, locks that are
//! left alone, programs that change names meanwhile.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use macula_archive::{ManifestEntry, Remark};
use macula_core::{Disk, DiskFile, Kind, Kinded, Open, RealDisk, RelPath, Task};
use macula_store::{App, BackupOptions, Base, RestoreOptions};
use std::os::unix::fs::{symlink, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use support::{app, base_at};

struct Fixture {
    dir: tempfile::TempDir,
    base: Arc<Base>,
    app: Arc<App>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = base_at(dir.path());
        let app = base.app(&app()).unwrap();
        Self { dir, base, app }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.app.path().join(path)
    }

    fn plant(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let at = self.at(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, bytes).unwrap();
        at
    }

    fn backup(&self) -> Result<macula_store::BackupInfo, macula_store::StoreError> {
        self.base.backup(self.app.name(), &BackupOptions::default(), &Task::quiet())
    }

    fn restore(&self, archive: &Path) {
        self.base.restore(self.app.name(), archive, &RestoreOptions::default(), &Task::quiet()).unwrap();
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

fn open(path: &Path) -> Arc<dyn DiskFile> {
    let name = RelPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
    RealDisk::at(path.parent().unwrap()).unwrap().open(&name, Open::Read).unwrap()
}

fn listed(archive: &Path) -> Vec<ManifestEntry> {
    let mut entries = Vec::new();
    macula_archive::list(&open(archive), &Task::quiet(), &mut |entry| entries.push(entry)).unwrap();
    entries
}

/// One bit, and the time as it was: what a disk does that rots.
fn rot(path: &Path) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
    file.set_modified(time).unwrap();
}

/// A file with a flipped bit went into a backup that called itself verified, and a restore gave it a
/// fresh digest: the damage was sealed in as good. The backup fails now and names the file.
#[test]
fn a_backup_of_a_damaged_file_fails_and_names_it() {
    let fixture = Fixture::new();
    let files = fixture.app.files().unwrap();
    for (name, len) in [("d/small", 100), ("large", 9 << 20)] {
        files.write(&rel(name), &vec![7; len]).unwrap();
        fixture.backup().unwrap();
        rot(&fixture.at(&format!("data/files/{name}")));
        let error = fixture.backup().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.hint().unwrap().contains("write it anew"), "{:?}", error.hint());
        // written anew it is good again; changed by another program it is not ours to judge
        files.write(&rel(name), &vec![8; len]).unwrap();
        fixture.backup().unwrap();
        std::fs::write(fixture.at(&format!("data/files/{name}")), vec![9; len]).unwrap();
        fixture.backup().unwrap();
    }
    assert_eq!(fixture.base.backups(fixture.app.name()).unwrap().len(), 6, "a failed backup is none");
}

/// Claims that `rotten` should hold something else.
struct Knows(macula_archive::DiskTree);
impl macula_archive::Tree for Knows {
    fn open(&self, item: &macula_archive::Item) -> std::io::Result<Option<Arc<dyn DiskFile>>> {
        self.0.open(item)
    }
    fn digest(&self, item: &macula_archive::Item, _: &dyn DiskFile) -> std::io::Result<Option<[u8; 32]>> {
        Ok((item.path.name() == "rotten").then_some([0; 32]))
    }
}

/// An archive that keeps a damaged file says so; restored, nothing vouches for that file.
#[test]
fn a_file_that_was_damaged_is_restored_without_a_digest() {
    let fixture = Fixture::new();
    // packed by hand, as the front door has no option for it
    let from = tempfile::tempdir().unwrap();
    for name in ["good", "rotten"] {
        std::fs::create_dir_all(from.path().join("data/files")).unwrap();
        std::fs::write(from.path().join("data/files").join(name), name).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(from.path()).unwrap());
    let mut options = macula_archive::PackOptions::new("shop");
    options.keep_corrupt = true;
    options.about = serde_json::json!({ "app": "shop" });
    let archive = fixture.dir.path().join("kept.tar.zst");
    let out = RealDisk::at(fixture.dir.path()).unwrap().open(&rel("kept.tar.zst"), Open::CreateNew).unwrap();
    let mut items = macula_archive::Walk::new(&disk, |_, _| true).unwrap();
    let tree = Knows(macula_archive::DiskTree(disk.clone()));
    let packed = macula_archive::pack(&mut items, &tree, &*out, &options, &Task::quiet()).unwrap();
    assert_eq!(packed.totals.corrupt, 1);
    fixture.restore(&archive);
    let files = fixture.app.files().unwrap();
    assert!(files.stat(&rel("good")).unwrap().blake3.is_some());
    assert_eq!(files.stat(&rel("rotten")).unwrap().blake3, None);
    assert_eq!(files.read(&rel("rotten"), 100).unwrap(), b"rotten");
    let remarks: Vec<_> = listed(&archive).into_iter().filter_map(|entry| entry.remark).collect();
    assert_eq!(remarks, [Remark::Corrupt]);
}

/// A database that only its owner could read came back readable by everybody.
#[test]
fn copies_have_the_mode_of_what_they_stand_for() {
    let fixture = Fixture::new();
    fixture.app.kv().unwrap().write(macula_store::kv::Batch::put("a", "1")).unwrap();
    let database = fixture.app.sqlite().unwrap();
    database.backup(&fixture.at("data/own.db"), &Task::quiet()).unwrap();
    let mode = |path: &str| std::fs::metadata(fixture.at(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("data/app.db"), 0o600);
    std::fs::set_permissions(fixture.at("data/own.db"), PermissionsExt::from_mode(0o640)).unwrap();
    let info = fixture.backup().unwrap();
    let modes: Vec<(String, u32)> = listed(&info.path)
        .into_iter()
        .map(|entry| (String::from_utf8(entry.path()).unwrap(), entry.mode))
        .filter(|(path, _)| path.ends_with(".db") || path.ends_with("kv.records"))
        .collect();
    let mut sorted = modes.clone();
    sorted.sort();
    let expected = [("data/.macula/kv.records", 0o600), ("data/app.db", 0o600), ("data/own.db", 0o640)];
    assert_eq!(sorted, expected.map(|(path, mode)| (path.to_owned(), mode)));
    drop(database);
    fixture.restore(&info.path);
    assert_eq!((mode("data/app.db"), mode("data/own.db")), (0o600, 0o640));
}

/// An empty file may be a database that other code of this process has just made and locked. The
/// backup opened and closed it as a plain file, which dropped those locks.
#[test]
fn the_locks_on_an_empty_file_stay() {
    let fixture = Fixture::new();
    let at = fixture.plant("uploads/new.db", b"");
    std::fs::set_permissions(&at, PermissionsExt::from_mode(0o640)).unwrap();
    let held = std::fs::OpenOptions::new().read(true).write(true).open(&at).unwrap();
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let ino = format!(":{} ", held.metadata().unwrap().ino());
    let locked = || std::fs::read_to_string("/proc/locks").unwrap().contains(&ino);
    assert!(locked());
    let info = fixture.backup().unwrap();
    assert!(locked(), "the backup dropped the lock");
    let entry = listed(&info.path).into_iter().find(|entry| entry.path() == b"uploads/new.db").unwrap();
    assert_eq!((entry.len, entry.mode, entry.remark), (0, 0o640, None));
}

/// A backup that left things out said nothing of most of them: only the first thousand of all that was
/// remarked on were named, and files that merely vanished or changed took their places.
#[test]
fn what_is_left_out_is_named_and_counted() {
    let fixture = Fixture::new();
    fixture.plant("uploads/plain", b"x");
    for n in 0..1200 {
        symlink("/etc", fixture.at(&format!("uploads/link{n}"))).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(fixture.at("uploads/socket")).unwrap();
    let info = fixture.backup().unwrap();
    assert_eq!(info.left_out.len(), 1001);
    assert_eq!(info.left_out[0], "uploads/socket: not a file, directory or link");
    assert!(info.left_out[1].starts_with("uploads/link0: a link that leads outside"), "{}", info.left_out[1]);
    assert_eq!(info.left_out[1000], "and 201 more");
}

/// Programs that make a name now a file, now a directory, a link or a fifo, ended every backup that met
/// them between two looks.
#[test]
fn names_that_change_their_kind_meanwhile() {
    let fixture = Fixture::new();
    fixture.plant("uploads/steady", &[1; 4096]);
    let database = fixture.app.sqlite().unwrap();
    let (own, model) = (fixture.at("uploads/flips/own.db"), fixture.dir.path().join("model.db"));
    let other = fixture.dir.path().join("other.db");
    database.backup(&model, &Task::quiet()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let (dir, link) = (fixture.at("uploads/flips"), fixture.dir.path().join("elsewhere"));
            while !stop.load(Ordering::Acquire) {
                std::fs::create_dir(&dir).unwrap();
                // renamed and not written there: this process itself must not have it open
                std::fs::copy(&model, &other).unwrap();
                std::fs::rename(&other, &own).unwrap();
                std::fs::create_dir(dir.join("x")).unwrap();
                std::fs::remove_dir(dir.join("x")).unwrap();
                std::fs::write(dir.join("x"), [0; 1024]).unwrap();
                std::fs::remove_file(dir.join("x")).unwrap();
                symlink(&link, dir.join("x")).unwrap();
                std::fs::remove_dir_all(&dir).unwrap();
                symlink("steady", &dir).unwrap();
                std::fs::remove_file(&dir).unwrap();
                std::fs::write(&dir, [0; 512]).unwrap();
                std::fs::remove_file(&dir).unwrap();
            }
        });
        let backups: Vec<_> = (0..40).map(|_| fixture.backup()).collect();
        stop.store(true, Ordering::Release);
        for backup in backups {
            backup.unwrap_or_else(|error| panic!("{error}"));
        }
    });
}
