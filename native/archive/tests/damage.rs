//! Damaged archives: every cut is refused, every flipped bit is refused or changes nothing.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{verify, Format, UnpackOptions};
use macula_core::{Kind, Kinded, Task};

fn torture() -> bool {
    std::env::var("MACULA_TORTURE").is_ok()
}

/// A tree with an entry of each kind and a file of three slices that compresses to little.
fn small(format: Format) -> (tempfile::TempDir, Vec<u8>) {
    let tmp = tempfile::tempdir().unwrap();
    plant(tmp.path(), &mut fastrand::Rng::with_seed(5), 12, 3000);
    std::fs::write(tmp.path().join("large"), vec![b'z'; 9 << 20]).unwrap();
    let (archive, _) = pack_dir(tmp.path(), &options(format, 2));
    (tmp, archive)
}

#[test]
fn every_cut_is_refused() {
    for format in [Format::Zst, Format::Gz] {
        let (_tree, archive) = small(format);
        let options = UnpackOptions { workers: 1, ..UnpackOptions::default() };
        verify(&MemFile::of(&archive), &options, &Task::quiet()).unwrap();
        // each of the last and first 2,000, else a few in a thousand
        let step = if torture() { 1 } else { archive.len() / 1000 + 1 };
        let near = |cut: &usize| *cut < 2000 || *cut + 2000 > archive.len() || cut.is_multiple_of(step);
        let mut cuts = 0;
        for cut in (0..archive.len()).filter(near) {
            let error = verify(&MemFile::of(&archive[..cut]), &options, &Task::quiet()).expect_err("cut short");
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Invalid), "cut={cut} {error}");
            cuts += 1;
        }
        eprintln!("{format:?}: {cuts} cuts of {} bytes", archive.len());
    }
}

/// Cuts of an archive that is read as a stream: ours that was recompressed, and stock tar's.
#[test]
fn every_cut_of_a_stream_is_refused() {
    let entries = [Raw::file("a", &[b'a'; 700]), Raw::dir("d"), Raw::file("d/b", b"b")];
    let tar = tar(&entries);
    for archive in [zst(&tar), gz(&tar)] {
        unpack_to(&archive, tempfile::tempdir().unwrap().path(), &foreign()).unwrap();
        for cut in 0..archive.len() {
            let result = verify(&MemFile::of(&archive[..cut]), &foreign(), &Task::quiet());
            assert!(result.is_err(), "cut={cut}");
        }
    }
    // cut in the tar, then compressed in good order
    let ends = tar.len() - 1024;
    for cut in (0..ends + 1024).step_by(if torture() { 1 } else { 7 }) {
        let result = verify(&MemFile::of(&zst(&tar[..cut])), &foreign(), &Task::quiet());
        assert!(result.is_err(), "cut={cut}");
    }
}

#[test]
fn every_flip_is_refused_or_harmless() {
    for format in [Format::Zst, Format::Gz] {
        let (tree, archive) = small(format);
        let before = picture(tree.path());
        let mut rng = fastrand::Rng::with_seed(fastrand::u64(..1 << 40));
        eprintln!("seed={}", rng.get_seed());
        let count = if torture() { 20_000 } else { 400 };
        let mut harmless = 0;
        for round in 0..count {
            // the ends hold what is structure
            let at = match round % 4 {
                0 => rng.usize(..archive.len().min(300)),
                1 => archive.len() - 1 - rng.usize(..archive.len().min(300)),
                _ => rng.usize(..archive.len()),
            };
            let mut flipped = archive.clone();
            flipped[at] ^= 1 << rng.u32(..8);
            let to = tempfile::tempdir().unwrap();
            match unpack_to(&flipped, to.path(), &UnpackOptions::default()) {
                Ok(_) => {
                    same(&picture(to.path()), &before, &format!("at={at}"));
                    harmless += 1;
                }
                Err(error) => assert!(
                    matches!(error.kind(), Kind::Corrupt | Kind::Invalid | Kind::NewerFormat | Kind::TooLarge),
                    "at={at} {error}"
                ),
            }
        }
        eprintln!("{format:?}: {harmless} harmless of {count}");
    }
}

/// Random bytes in place of a run, and archives glued together: never a panic, never half a tree.
#[test]
fn rubbish_is_refused() {
    for format in [Format::Zst, Format::Gz] {
        let (_tree, archive) = small(format);
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..if torture() { 5_000 } else { 200 } {
            let mut bad = archive.clone();
            let at = rng.usize(..bad.len());
            let end = (at + rng.usize(1..200)).min(bad.len());
            bad[at..end].iter_mut().for_each(|b| *b = rng.u8(..));
            let result = verify(&MemFile::of(&bad), &UnpackOptions::default(), &Task::quiet());
            assert!(bad == archive || result.is_err() || end - at < 12, "at={at} end={end}");
        }
        for bad in [[archive.clone(), archive.clone()].concat(), [archive.clone(), vec![0; 512]].concat()] {
            for options in [UnpackOptions::default(), foreign()] {
                let result = verify(&MemFile::of(&bad), &options, &Task::quiet());
                assert!(result.is_err(), "{format:?}");
            }
        }
    }
}
