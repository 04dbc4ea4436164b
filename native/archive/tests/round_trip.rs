//! What was packed comes back, by our own unpacking and by stock tools, and theirs by ours.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{list, peek, verify, Format, ManifestKind, PackOptions, UnpackOptions};
use macula_core::Task;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Seeds to try; `MACULA_TORTURE=1` tries many, `MACULA_SEED=n` that one.
fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return vec![seed];
    }
    let count = if std::env::var("MACULA_TORTURE").is_ok() { 25 } else { 2 };
    let start = fastrand::u64(..1 << 40);
    (start..start + count).collect()
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn random_trees_come_back() {
    for seed in seeds() {
        eprintln!("seed={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        std::fs::create_dir(&from).unwrap();
        plant(&from, &mut rng, 200, 6 << 20);
        std::fs::write(from.join("large"), content(&mut rng, 20 << 20)).unwrap();
        std::fs::write(from.join("exact"), content(&mut rng, 8 << 20)).unwrap();
        std::fs::write(from.join("slice"), content(&mut rng, 4 << 20)).unwrap();
        std::fs::write(from.join("slice and one"), content(&mut rng, (4 << 20) + 1)).unwrap();
        let before = picture(&from);
        for format in [Format::Zst, Format::Gz] {
            let options = PackOptions { about: serde_json::json!({"app": "x"}), ..options(format, rng.usize(1..5)) };
            let (archive, packed) = pack_dir(&from, &options);
            let to = tmp.path().join(format!("to{format:?}"));
            std::fs::create_dir(&to).unwrap();
            let limits = UnpackOptions { workers: rng.usize(1..5), ..UnpackOptions::default() };
            let unpacked = unpack_to(&archive, &to, &limits).unwrap();
            same(&picture(&to), &before, &format!("seed={seed} {format:?}"));
            assert_eq!(unpacked.totals, Some(packed.totals));
            assert_eq!(unpacked.manifest_blake3, Some(packed.manifest_blake3));
            assert_eq!(packed.totals.entries, before.len() as u64 + 1, "the head is an entry");
            assert_eq!((packed.totals.changed, packed.totals.vanished, packed.totals.left_out), (0, 0, 0));
            let file = MemFile::of(&archive);
            assert_eq!(verify(&file, &limits, &Task::quiet()).unwrap(), unpacked);
            assert_eq!(peek(&file).unwrap().about, serde_json::json!({"app": "x"}));
            let mut listed = Vec::new();
            let (_, totals) = list(&file, &Task::quiet(), &mut |entry| listed.push(entry)).unwrap();
            assert_eq!(totals, packed.totals);
            for entry in listed.iter().skip(1) {
                let path = entry.path().escape_ascii().to_string();
                let found = before.get(&path).unwrap_or_else(|| panic!("{path:?}"));
                let hash = entry.blake3.as_deref().unwrap_or_default();
                assert!(entry.kind != ManifestKind::File || found.ends_with(hash));
            }
        }
    }
}

/// The same tree by way of stock tar, either direction.
#[test]
fn stock_tar_reads_ours_and_we_read_its() {
    if !has("tar") || !has("zstd") || !has("gzip") {
        return;
    }
    let mut rng = fastrand::Rng::with_seed(fastrand::u64(..1 << 40));
    eprintln!("seed={}", rng.get_seed());
    let tmp = tempfile::tempdir().unwrap();
    let from = tmp.path().join("top");
    std::fs::create_dir(&from).unwrap();
    plant(&from, &mut rng, 200, 9 << 20);
    std::fs::create_dir(from.join("dir")).unwrap();
    symlink("../dir", from.join("dir/loop")).unwrap();
    let before = picture(&from);
    for (format, flag) in [(Format::Zst, "--zstd"), (Format::Gz, "--gzip")] {
        let (archive, _) = pack_dir(&from, &options(format, 2));
        let file = tmp.path().join(format!("ours{}", format.extension()));
        std::fs::write(&file, &archive).unwrap();
        let to = tmp.path().join(format!("by tar {format:?}"));
        std::fs::create_dir(&to).unwrap();
        run(Command::new("tar").args(["-x", "-p", flag, "-f"]).arg(&file).arg("-C").arg(&to));
        std::fs::remove_file(to.join("top/macula.json")).unwrap();
        std::fs::remove_file(to.join("top/manifest.jsonl")).unwrap();
        // links come last, and stock tar sets a directory's time before it
        let timeless = |all| without_dir_times(all);
        same(&timeless(picture(&to.join("top"))), &timeless(before.clone()), &format!("stock tar, {format:?}"));
        for kind in ["gnu", "posix", "ustar"] {
            stock_to_ours(tmp.path(), flag, kind, &from);
        }
    }
}

fn without_dir_times(
    mut all: std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    for what in all.values_mut().filter(|what| what.starts_with("dir")) {
        what.truncate(what.find(" mtime").unwrap());
    }
    all
}

fn stock_to_ours(tmp: &Path, flag: &str, kind: &str, from: &Path) {
    let file = tmp.join("theirs");
    let mut make = Command::new("tar");
    make.args(["-c", flag, "--format", kind, "-f"]).arg(&file).arg("-C").arg(tmp).arg("top");
    if kind == "ustar" {
        // names that ustar cannot hold are left out by tar, with an error
        let _ = make.output().unwrap();
    } else {
        run(&mut make);
    }
    let archive = std::fs::read(&file).unwrap();
    let to = tempfile::tempdir_in(tmp).unwrap();
    let error = unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not an archive of ours"), "{error}");
    let unpacked = unpack_to(&archive, to.path(), &foreign()).unwrap();
    assert_eq!((unpacked.head, unpacked.totals), (None, None));
    let (ours, theirs) = (picture(&to.path().join("top")), picture(from));
    if kind == "posix" {
        same(&ours, &theirs, kind);
    } else {
        // whole seconds only
        let names = |all: &std::collections::BTreeMap<String, String>| all.keys().cloned().collect::<Vec<_>>();
        assert!(kind == "ustar" || names(&ours) == names(&theirs), "{kind}");
        assert!(!ours.is_empty());
    }
}

/// The `tar` crate as another reader: names, modes, lengths.
#[test]
fn the_tar_crate_reads_ours() {
    let tmp = tempfile::tempdir().unwrap();
    plant(tmp.path(), &mut fastrand::Rng::with_seed(7), 100, 5 << 20);
    let (archive, packed) = pack_dir(tmp.path(), &options(Format::Zst, 2));
    let stream = zstd::stream::read::Decoder::new(archive.as_slice()).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(stream).entries().unwrap() {
        names.push(entry.unwrap().path_bytes().into_owned());
    }
    assert_eq!(names.len() as u64, packed.totals.entries + 1);
    assert_eq!(names.first().unwrap(), b"top/macula.json");
    assert_eq!(names.last().unwrap(), b"top/manifest.jsonl");
}

#[test]
fn an_empty_tree_comes_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for format in [Format::Zst, Format::Gz] {
        let (archive, packed) = pack_dir(from.path(), &options(format, 2));
        assert_eq!(packed.totals.entries, 1);
        unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
        assert!(picture(to.path()).is_empty());
    }
}

/// Directories come back with their own mode and time although files were written into them after
/// they were made, and set-user-id does not come back at all.
#[test]
fn directories_keep_mode_and_time_and_bits_of_power_are_dropped() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = from.path().join("d/e");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("tool"), "#!").unwrap();
    for (path, mode) in [("d/e/tool", 0o4755), ("d/e", 0o555), ("d", 0o500)] {
        let path = from.path().join(path);
        let file = std::fs::File::open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000, 5)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = picture(from.path());
    let (archive, _) = pack_dir(from.path(), &options(Format::Zst, 1));
    unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
    let after = picture(to.path());
    assert_eq!(after["d"], before["d"]);
    assert_eq!(after["d/e"], before["d/e"]);
    assert!(after["d/e/tool"].contains("mode=755"), "{after:?}");
    for path in [from.path(), to.path()] {
        for dir in ["d", "d/e"] {
            std::fs::set_permissions(path.join(dir), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}
