//! Unpacking as a user who is not root, whom the system refuses what it lets root do.
//!
//! Run by root, the test runs itself again as nobody.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{Format, UnpackOptions, Written, WrittenFn, SLICE};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const NOBODY: u32 = 65_534;

/// A verified backup could not be restored but by root: files were created with their final mode, and
/// the kernel refuses `fsetxattr(user.*)` on a file of mode 0444 to its own owner.
#[test]
fn files_that_nobody_may_write_are_marked_all_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    if std::fs::metadata(tmp.path()).unwrap().uid() == 0 {
        return again_as_nobody(tmp.path());
    }
    let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    let lens = [("small", 10), ("large", 2 * SLICE + 1)];
    for mode in [0o444, 0o400, 0o555, 0o644] {
        for (name, len) in lens {
            let path = from.join(format!("{name}-{mode:o}"));
            std::fs::write(&path, vec![7; len]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    let before = picture(&from);
    let (archive, _) = pack_dir(&from, &options(Format::Zst, 2));
    let written: WrittenFn = Arc::new(|_, file, hash| file.set_tag("b3", hash.unwrap()));
    let limits = UnpackOptions { written: Some(Written(written)), ..foreign() };
    unpack_to(&archive, &to, &limits).unwrap();
    same(&picture(&to), &before, "modes and times are those of before");
    // who packed it may have been root, who reads what nobody may
    let locked = Raw { mode: 0, ..Raw::file("locked", b"content") };
    unpack_to(&zst(&tar(&[locked])), &to, &limits).unwrap();
    assert_eq!(std::fs::metadata(to.join("locked")).unwrap().mode() & 0o7777, 0);
}

fn again_as_nobody(dir: &Path) {
    let own = dir.join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    for path in [dir, &own] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let test = "files_that_nobody_may_write_are_marked_all_the_same";
    let mut command = Command::new(&own);
    command.args(["--exact", test, "--nocapture"]).env("TMPDIR", dir).current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
