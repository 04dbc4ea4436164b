//! What every [`Disk`] does, as one test body run over the simulated and the real one. Where the
//! two differ, a crash test over the simulated disk would prove nothing about the real one.

use crate::path;
use macula_core::{create_dir_all, read_all, remove_tree, write_durably};
use macula_core::{Disk, DiskFile, FileKind, Open};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Run the whole contract; `make` gives an empty disk each time.
///
/// # Panics
/// When the disk breaks it.
pub fn disk_contract(make: impl Fn() -> Arc<dyn Disk>) {
    for part in [files, names, renames, links, directories, exchanges, tags_and_times, helpers, subtrees] {
        part(&*make());
    }
}

fn put(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = good(disk.open(&path(name), Open::CreateNew));
    good(file.write_all_at(bytes, 0));
    file
}

fn get(disk: &dyn Disk, name: &str) -> Vec<u8> {
    good(read_all(disk, &path(name), 1 << 20))
}

fn good<T>(result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: i32) {
    let code = result.err().map(|error| error.raw_os_error().unwrap_or(named(error.kind())));
    assert_eq!(code, Some(errno));
}

/// The number of an error that was made without one.
fn named(kind: io::ErrorKind) -> i32 {
    match kind {
        io::ErrorKind::IsADirectory => 21,
        io::ErrorKind::InvalidInput => 22,
        _ => -1,
    }
}

fn names_of(disk: &dyn Disk, dir: &macula_core::RelPath) -> Vec<Vec<u8>> {
    good(disk.list(dir)).into_iter().map(|entry| entry.name.as_bytes().to_vec()).collect()
}

fn files(disk: &dyn Disk) {
    let file = put(disk, "a", b"hello");
    good(file.write_all_at(b"J", 0));
    good(file.write_all_at(b"!", 7));
    assert_eq!(get(disk, "a"), b"Jello\0\0!");
    let mut bytes = [9; 4];
    assert_eq!(good(file.read_at(&mut bytes, 6)), 2);
    assert_eq!(good(file.read_at(&mut bytes, 8)), 0);
    assert_eq!(good(file.read_at(&mut bytes, 800)), 0);
    refused(
        file.read_exact_at(&mut bytes, 6).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::from_raw_os_error(0),
            _ => e,
        }),
        0,
    );
    good(file.set_len(2));
    good(file.set_len(4));
    assert_eq!(get(disk, "a"), b"Je\0\0", "cut bytes come back as zeros");
    good(file.allocate(6000));
    assert_eq!(good(file.len()), 6000);
    good(file.allocate(10));
    assert_eq!(good(file.len()), 6000, "allocate never cuts");
    good(file.set_len(1 << 30));
    assert_eq!(good(file.read_at(&mut bytes, (1 << 30) - 4)), 4, "a hole of a gigabyte costs nothing");
    assert_eq!(bytes, [0; 4]);
    good(file.sync_data());
    let reader = good(disk.open(&path("a"), Open::Read));
    assert!(reader.write_all_at(b"x", 0).is_err() && reader.set_len(0).is_err());
    refused(disk.open(&path("a"), Open::CreateNew), 17);
    refused(disk.open(&path("b"), Open::Read), 2);
    refused(disk.open(&path("b"), Open::ReadWrite), 2);
    refused(disk.open(&path("a/b"), Open::Read), 20);
    refused(disk.open(&path("a/b"), Open::CreateNew), 20);
    refused(disk.open(&path("no/b"), Open::CreateNew), 2);
    good(disk.remove_file(&path("a")));
    good(file.set_len(0));
    good(file.write_all_at(b"still here", 0));
    assert_eq!(good(reader.len()), 10, "a handle outlives the name");
    assert_eq!(good(reader.stat()).nlink, 0);
    assert!(good(disk.space()).total >= good(disk.space()).free);
}

fn names(disk: &dyn Disk) {
    let long = "n".repeat(255);
    for name in ["b", "a-b", "a.b", "B", "ü", " ", long.as_str(), "a:b\n"] {
        put(disk, name, name.as_bytes());
    }
    good(disk.create_dir(&path("a")));
    let odd = good(macula_core::RelPath::new([0xff, 0xfe]).map_err(io::Error::other));
    good(disk.open(&odd, Open::CreateNew));
    let listed = names_of(disk, &macula_core::RelPath::root());
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted, "a list is in byte order");
    assert_eq!(listed.len(), 10);
    assert_eq!(get(disk, &long), long.as_bytes());
    for entry in good(disk.list(&macula_core::RelPath::root())) {
        let at = good(macula_core::RelPath::new(entry.name.as_bytes()).map_err(io::Error::other));
        assert_eq!(good(disk.stat(&at)).ino, entry.ino);
    }
    refused(disk.list(&path("b")), 20);
    refused(disk.list(&path("none")), 2);
    good(disk.sync_dir(&macula_core::RelPath::root()));
    good(disk.sync_tree());
    refused(disk.sync_dir(&path("none")), 2);
}

fn renames(disk: &dyn Disk) {
    put(disk, "a", b"a");
    put(disk, "b", b"b");
    good(disk.rename(&path("a"), &path("b")));
    assert_eq!(get(disk, "b"), b"a");
    refused(disk.stat(&path("a")), 2);
    refused(disk.rename(&path("a"), &path("c")), 2);
    refused(disk.rename(&path("b"), &path("no/c")), 2);
    good(disk.rename(&path("b"), &path("b")));
    for dir in ["d", "d/e", "f"] {
        good(disk.create_dir(&path(dir)));
    }
    refused(disk.rename(&path("b"), &path("d")), 21);
    refused(disk.rename(&path("d"), &path("b")), 20);
    refused(disk.rename(&path("f"), &path("d")), 39);
    refused(disk.rename(&path("d"), &path("d/e/d")), 22);
    good(disk.rename(&path("b"), &path("d/e/b")));
    good(disk.rename(&path("d/e"), &path("f")));
    assert_eq!(get(disk, "f/b"), b"a");
    assert!(names_of(disk, &path("d")).is_empty());
    good(disk.hard_link(&path("f/b"), &path("same")));
    good(disk.rename(&path("f/b"), &path("same")));
    assert_eq!(get(disk, "f/b"), b"a", "a rename between two names of one file does nothing");
}

fn links(disk: &dyn Disk) {
    put(disk, "a", b"one");
    good(disk.hard_link(&path("a"), &path("b")));
    assert_eq!(good(disk.stat(&path("a"))).nlink, 2);
    refused(disk.hard_link(&path("a"), &path("b")), 17);
    refused(disk.hard_link(&path("none"), &path("c")), 2);
    good(good(disk.open(&path("b"), Open::ReadWrite)).write_all_at(b"two", 0));
    good(disk.remove_file(&path("b")));
    assert_eq!(get(disk, "a"), b"two");
    good(disk.create_dir(&path("d")));
    refused(disk.hard_link(&path("d"), &path("e")), 1);

    good(disk.symlink(Path::new("a"), &path("final")));
    good(disk.symlink(Path::new("gone"), &path("dangling")));
    good(disk.symlink(Path::new("d"), &path("dir")));
    good(disk.symlink(Path::new("/"), &path("outside")));
    assert_eq!(good(disk.stat(&path("dangling"))).kind, FileKind::Symlink);
    assert_eq!(good(disk.stat(&path("dangling"))).len, 4);
    assert_eq!(good(disk.read_link(&path("outside"))), Path::new("/"));
    refused(disk.read_link(&path("a")), 22);
    for name in ["final", "dangling", "dir", "outside"] {
        refused(disk.open(&path(name), Open::Read), 40);
        refused(disk.open(&path(name), Open::ReadWrite), 40);
        refused(disk.open(&path(name), Open::CreateNew), 17);
        refused(disk.create_dir(&path(name)), 17);
    }
    put(disk, "d/x", b"x");
    for name in ["dir/x", "outside/etc"] {
        refused(disk.open(&path(name), Open::Read), 40);
        refused(disk.open(&path(name), Open::CreateNew), 40);
        refused(disk.stat(&path(name)), 40);
        refused(disk.create_dir(&path(name)), 40);
        refused(disk.remove_file(&path(name)), 40);
        refused(disk.rename(&path(name), &path("y")), 40);
        refused(disk.rename(&path("a"), &path(name)), 40);
        refused(disk.hard_link(&path("a"), &path(name)), 40);
        refused(disk.symlink(Path::new("a"), &path(name)), 40);
    }
    for name in ["dir", "outside"] {
        assert!(disk.list(&path(name)).is_err() && disk.subtree(&path(name)).is_err());
        assert!(disk.sync_dir(&path(name)).is_err() && disk.set_dir_meta(&path(name), 0o755, 0).is_err());
        refused(disk.remove_dir(&path(name)), 20);
    }
    good(disk.rename(&path("a"), &path("final")));
    assert_eq!(get(disk, "final"), b"two", "a rename replaces the link, not what it points to");
    good(disk.remove_file(&path("outside")));
}

fn directories(disk: &dyn Disk) {
    good(disk.create_dir(&path("d")));
    refused(disk.create_dir(&path("d")), 17);
    refused(disk.create_dir(&path("no/d")), 2);
    assert_eq!(good(disk.stat(&path("d"))).kind, FileKind::Dir);
    assert_eq!(good(disk.stat(&macula_core::RelPath::root())).kind, FileKind::Dir);
    refused(disk.open(&path("d"), Open::Read), 21);
    refused(disk.open(&path("d"), Open::ReadWrite), 21);
    put(disk, "d/x", b"x");
    refused(disk.remove_dir(&path("d")), 39);
    refused(disk.remove_file(&path("d")), 21);
    refused(disk.remove_dir(&path("d/x")), 20);
    refused(disk.remove_dir(&path("none")), 2);
    refused(disk.remove_file(&path("none")), 2);
    good(disk.set_dir_meta(&path("d"), 0o750, 1_234_567_890_123_000_000));
    let stat = good(disk.stat(&path("d")));
    assert_eq!((stat.mode, stat.mtime_ns), (0o750, 1_234_567_890_123_000_000));
    good(disk.remove_file(&path("d/x")));
    good(disk.remove_dir(&path("d")));
    assert!(names_of(disk, &macula_core::RelPath::root()).is_empty());
}

fn exchanges(disk: &dyn Disk) {
    put(disk, "a", b"a");
    good(disk.create_dir(&path("d")));
    put(disk, "d/x", b"x");
    refused(disk.exchange(&path("a"), &path("none")), 2);
    good(disk.exchange(&path("a"), &path("d")));
    assert_eq!(get(disk, "d"), b"a");
    assert_eq!(get(disk, "a/x"), b"x");
    assert!(disk.exchange(&path("a"), &path("a/x")).is_err(), "a directory cannot go into itself");
}

fn tags_and_times(disk: &dyn Disk) {
    let file = put(disk, "a", b"a");
    assert_eq!(good(file.stat()).mode, 0o600);
    good(file.set_mode(0o644));
    good(file.set_mtime(-1_500_000_000));
    let stat = good(disk.stat(&path("a")));
    assert_eq!((stat.mode, stat.mtime_ns, stat.len, stat.kind), (0o644, -1_500_000_000, 1, FileKind::File));
    let ctime = stat.ctime_ns;
    good(file.write_all_at(b"b", 0));
    let stat = good(file.stat());
    assert!(stat.mtime_ns > 0 && stat.ctime_ns >= ctime);
    assert_eq!(good(file.tag("b3")), None);
    match file.set_tag("b3", &[7; 57]) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        Ok(()) => {
            good(file.set_tag("b3", &[8; 57]));
            good(disk.rename(&path("a"), &path("b")));
            let again = good(disk.open(&path("b"), Open::Read));
            assert_eq!(good(again.tag("b3")), Some(vec![8; 57]));
            assert_eq!(good(again.tag("other")), None);
        }
    }
    good(disk.create_dir(&path("d")));
    assert_eq!(good(disk.dir_tag(&path("d"), "tree")), None);
    match disk.set_dir_tag(&path("d"), "tree", b"1") {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        Ok(()) => {
            good(disk.set_dir_tag(&path("d"), "tree", b"22"));
            good(disk.rename(&path("d"), &path("e")));
            good(disk.create_dir(&path("d")));
            assert_eq!(good(disk.dir_tag(&path("e"), "tree")), Some(b"22".to_vec()));
            assert_eq!(good(disk.dir_tag(&path("d"), "tree")), None, "it is of the directory, not of its name");
            good(disk.remove_dir(&path("e")));
        }
    }
    refused(disk.dir_tag(&path("none"), "tree"), 2);
    good(disk.remove_dir(&path("d")));
}

fn helpers(disk: &dyn Disk) {
    good(create_dir_all(disk, &path("a/b/c")));
    good(create_dir_all(disk, &path("a/b/c")));
    put(disk, "a/b/c/file", b"x");
    assert!(create_dir_all(disk, &path("a/b/c/file")).is_err());
    assert!(create_dir_all(disk, &path("a/b/c/file/d")).is_err());
    good(write_durably(disk, &path("a/doc"), &path("a/tmp"), b"first"));
    good(write_durably(disk, &path("a/doc"), &path("a/tmp"), b"second"));
    assert_eq!(get(disk, "a/doc"), b"second");
    good(disk.symlink(Path::new("/"), &path("a/link")));
    good(remove_tree(disk, &path("a")));
    good(remove_tree(disk, &path("a")));
    assert!(names_of(disk, &macula_core::RelPath::root()).is_empty());
}

fn subtrees(disk: &dyn Disk) {
    good(create_dir_all(disk, &path("a/b")));
    let below = good(disk.subtree(&path("a/b")));
    put(&*below, "x", b"x");
    assert_eq!(get(disk, "a/b/x"), b"x");
    good(disk.rename(&path("a/b"), &path("c")));
    put(&*below, "y", b"y");
    assert_eq!(get(disk, "c/y"), b"y", "a subtree is its directory, whatever its name becomes");
    refused(disk.subtree(&path("c/y")), 20);
    refused(disk.subtree(&path("none")), 2);
    good(remove_tree(disk, &path("c")));
    refused(below.open(&path("z"), Open::CreateNew), 2);
    refused(below.create_dir(&path("z")), 2);
}
