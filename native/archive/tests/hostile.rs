//! Archives made to do harm: each refused with its reason, nothing written outside the staging
//! directory.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{peek, verify, ArchiveError, Format, UnpackOptions, DIR_BYTES};
use macula_core::{Kind, Kinded, Task};
use std::os::unix::fs::symlink;

/// Unpacks beside canaries; they and everything else outside must be as before.
fn attempt(archive: &[u8], options: &UnpackOptions) -> Result<(), ArchiveError> {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("canary"), "untouched").unwrap();
    std::fs::create_dir_all(tmp.path().join("app/staging")).unwrap();
    std::fs::write(tmp.path().join("app/canary"), "untouched").unwrap();
    let mut before = picture(tmp.path());
    let result = unpack_to(archive, &tmp.path().join("app/staging"), options);
    let mut after = picture(tmp.path());
    for all in [&mut before, &mut after] {
        all.retain(|name, _| !name.starts_with("app/staging"));
    }
    same(&after, &before, "outside the staging directory");
    let checked = verify(&MemFile::of(archive), options, &Task::quiet());
    assert_eq!(result.is_ok(), checked.is_ok(), "verify and unpack disagree: {result:?} {checked:?}");
    result.map(drop)
}

#[track_caller]
fn refused(archive: &[u8], options: &UnpackOptions, kind: Kind, reason: &str) {
    let error = attempt(archive, options).expect_err(reason);
    assert!(error.to_string().contains(reason), "expected {reason:?}, got {error}");
    assert_eq!(error.kind(), kind, "{error}");
}

/// Refused as a foreign archive, in zstd and gzip, and within an archive of ours.
#[track_caller]
fn refused_entries(entries: &[Raw], reason: &str) {
    let tar = tar(entries);
    for archive in [zst(&tar), gz(&tar)] {
        refused(&archive, &foreign(), Kind::Invalid, reason);
    }
    let below: Vec<Raw> = entries
        .iter()
        .map(|raw| match raw.kind {
            b'x' | b'L' | b'K' | b'g' => raw.clone(),
            _ if raw.name.starts_with(b"/") => raw.clone(),
            _ => Raw { name: [b"top/", raw.name.as_slice()].concat(), ..raw.clone() },
        })
        .collect();
    refused(&ours(&below, ""), &UnpackOptions::default(), Kind::Invalid, reason);
}

#[test]
fn names_that_lead_outside() {
    refused_entries(&[Raw::file("/etc/cron.d/x", b"x")], "absolute");
    refused_entries(&[Raw::file("../canary", b"x")], "`..`");
    refused_entries(&[Raw::file("a/../../canary", b"x")], "`..`");
    refused_entries(&[Raw::file("a/..", b"x")], "`..`");
    refused_entries(&[Raw::dir("..")], "`..`");
    refused_entries(&[Raw::link("../canary", "x")], "`..`");
    refused_entries(&[Raw::file("a//b", b"x")], "empty component");
    refused_entries(&[Raw::file("a/./b", b"x")], "`.`");
    refused_entries(&[Raw::file("a/", b"x")], "empty component");
    refused(&zst(&tar(&[Raw::file("", b"x")])), &foreign(), Kind::Invalid, "empty");
    refused(&zst(&tar(&[Raw::dir("/")])), &foreign(), Kind::Invalid, "absolute");
}

#[test]
fn names_that_lead_outside_in_extensions() {
    let long = |kind, text: &[u8]| Raw { content: text.to_vec(), ..Raw::new("././@LongLink", kind) };
    for (extension, reason) in [
        (Raw::pax("path", b"/etc/passwd"), "absolute"),
        (Raw::pax("path", b"../canary"), "`..`"),
        (long(b'L', b"../canary\0"), "`..`"),
        (Raw::pax("path", b"a\0b"), "NUL"),
        (Raw::pax("path", b""), "empty"),
        (Raw::pax("path", &[b'a'; 300]), "longer than 255"),
        (Raw::pax("path", "ab/".repeat(1400).as_bytes()), "longer than 4095"),
        (Raw::pax("GNU.sparse.major", b"1"), "sparse"),
    ] {
        let archive = zst(&tar(&[extension, Raw::file("good", b"x")]));
        refused(&archive, &foreign(), Kind::Invalid, reason);
    }
    let link = [long(b'K', b"/etc/passwd\0"), Raw::link("good", "x")];
    refused(&zst(&tar(&link)), &foreign(), Kind::Invalid, "leads outside");
    let huge = Raw { len: Some(1 << 30), ..Raw::new("pax", b'x') };
    refused(&zst(&tar(&[huge])), &foreign(), Kind::Invalid, "too long");
    let many: Vec<Raw> = (0..20).map(|_| Raw::pax("path", b"x")).collect();
    refused(&zst(&tar(&many)), &foreign(), Kind::Invalid, "too long");
}

#[test]
fn entries_outside_the_top_directory_of_an_archive_of_ours() {
    for name in ["other/file", "file", "topper/file", "top"] {
        refused(&ours(&[Raw::file(name, b"x")], ""), &UnpackOptions::default(), Kind::Invalid, "top directory");
    }
}

/// As foreign archives and with a manifest that fits: where links lead is known at the end.
#[track_caller]
fn refused_links(links: &[(&str, &str)]) {
    let entries: Vec<Raw> = links.iter().map(|(path, target)| Raw::link(path, target)).collect();
    for archive in [zst(&tar(&entries)), gz(&tar(&entries))] {
        refused(&archive, &foreign(), Kind::Invalid, "leads outside");
    }
    let below: Vec<Raw> = links.iter().map(|(path, target)| Raw::link(format!("top/{path}"), target)).collect();
    let line = |(path, target): &(&str, &str)| {
        let hash = blake3::hash(target.as_bytes());
        format!(
            "{{\"path\":{path:?},\"kind\":\"symlink\",\"len\":0,\"mode\":420,\"mtime_ns\":0,\"blake3\":\"{hash}\"}}\n"
        )
    };
    let lines: String = links.iter().map(line).collect();
    let head_len = head_json(1, false).len() as u64;
    let lines = lines + &totals(1 + links.len() as u64, 1, head_len);
    refused(&ours(&below, &lines), &UnpackOptions::default(), Kind::Invalid, "leads outside");
}

#[test]
fn symlinks_that_lead_outside() {
    refused_entries(&[Raw::link("l", "/etc/passwd")], "leads outside");
    refused_entries(&[Raw::link("l", "")], "without a target");
    refused_links(&[("l", "..")]);
    refused_links(&[("a/l", "../../canary")]);
    refused_links(&[("l", "a/../../canary")]);
    // through another link, although its own text stays inside
    refused_links(&[("a/up", ".."), ("l", "a/up/../canary")]);
    refused_links(&[("l", "a/up/../canary"), ("a/up", "..")]);
}

#[test]
fn entries_through_or_below_what_is_no_directory() {
    refused_entries(&[Raw::link("d", "e"), Raw::file("d/x", b"x")], "below a file or symlink");
    refused_entries(&[Raw::file("d/x", b"x"), Raw::link("d", "e")], "below a file or symlink");
    refused_entries(&[Raw::file("d", b""), Raw::file("d/x", b"x")], "below a file or symlink");
    refused_entries(&[Raw::file("d/x", b"x"), Raw::file("d", b"")], "below a file or symlink");
    refused_entries(&[Raw::file("d", b""), Raw::dir("d/x/y")], "below a file or symlink");
}

#[test]
fn duplicates() {
    refused_entries(&[Raw::file("x", b"1"), Raw::file("x", b"2")], "there twice");
    refused_entries(&[Raw::dir("x"), Raw::dir("x")], "there twice");
    refused_entries(&[Raw::dir("x"), Raw::file("x", b"2")], "there twice");
    refused_entries(&[Raw::link("x", "y"), Raw::file("x", b"2")], "there twice");
    refused_entries(&[Raw::file("x", b"2"), Raw::link("x", "y")], "there twice");
}

#[test]
fn types_that_no_app_has() {
    for (kind, reason) in [
        (b'1', "hard link"),
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "fifo"),
        (b'S', "sparse"),
        (b'D', "unknown type"),
        (b'M', "unknown type"),
        (b'V', "unknown type"),
        (b'Z', "unknown type"),
        (b'g', "unknown type"),
    ] {
        refused_entries(&[Raw { link: b"x".to_vec(), ..Raw::new("entry", kind) }], reason);
    }
    refused_entries(&[Raw { content: b"x".to_vec(), ..Raw::dir("d") }], "with content");
}

#[test]
fn more_than_the_limits() {
    let limits = |bytes_max, entries_max| UnpackOptions { bytes_max, entries_max, ..foreign() };
    let two = zst(&tar(&[Raw::file("a", &[0; 600]), Raw::file("b", &[0; 600])]));
    attempt(&two, &limits(1202, 2)).unwrap();
    refused(&two, &limits(1201, 2), Kind::TooLarge, "bytes");
    refused(&two, &limits(1202, 1), Kind::TooLarge, "entries");
    // declared, not there: refused by what is declared
    let declared = Raw { len: Some(1 << 40), ..Raw::file("big", b"x") };
    refused(&zst(&tar(std::slice::from_ref(&declared))), &limits(1 << 30, 10), Kind::TooLarge, "bytes");
    refused(&zst(&tar(&[declared])), &foreign(), Kind::Corrupt, "");
    let endless = Raw { len: Some(u64::MAX), ..Raw::file("big", b"x") };
    refused(&zst(&tar(&[endless])), &limits(1 << 30, 10), Kind::TooLarge, "bytes");
}

fn below(levels: usize) -> Vec<Raw> {
    let path = format!("{}x", "d/".repeat(levels));
    vec![Raw::pax("path", path.as_bytes()), Raw::file("x", b"")]
}

/// A path of 2,045 levels, 5 kB of tar, cost 100 kB of memory, 8 MB of disk and thousands of open
/// directories, none of which any limit counted; a hundred of them in an archive of 1 kB filled a disk.
#[test]
fn paths_through_many_directories() {
    let tar_of = |levels| zst(&tar(&below(levels)));
    attempt(&tar_of(128), &foreign()).unwrap();
    refused(&tar_of(129), &foreign(), Kind::Invalid, "deeper than 128");
    refused(&tar_of(2045), &foreign(), Kind::Invalid, "deeper than 128");
    let mut names_in_ours = below(129);
    names_in_ours[0] = Raw::pax("path", format!("top/{}x", "d/".repeat(129)).as_bytes());
    refused(&ours(&names_in_ours, ""), &UnpackOptions::default(), Kind::Invalid, "deeper than 128");
}

/// Directories have no content, so an archive of nothing else passed any limit of bytes.
#[test]
fn directories_count_also_when_they_are_only_implied() {
    let limits = |bytes_max, entries_max| UnpackOptions { bytes_max, entries_max, ..foreign() };
    let implied = zst(&tar(&below(100)));
    let cost = 100 * DIR_BYTES + 201;
    attempt(&implied, &limits(cost, 101)).unwrap();
    refused(&implied, &limits(cost - 1, 101), Kind::TooLarge, "bytes");
    refused(&implied, &limits(cost, 100), Kind::TooLarge, "entries");
    // implied first, then with an entry of its own: one directory
    let both = zst(&tar(&[Raw::file("d/x", b""), Raw::dir("d"), Raw::dir("e")]));
    attempt(&both, &limits(2 * DIR_BYTES + 5, 3)).unwrap();
    refused(&both, &limits(2 * DIR_BYTES + 4, 3), Kind::TooLarge, "bytes");
}

/// Empty files and links cost names, and links and directories are remembered until the end.
#[test]
fn names_and_the_text_of_links_count() {
    let limits = |bytes_max, names_bytes_max| UnpackOptions { bytes_max, names_bytes_max, ..foreign() };
    let name = "n".repeat(90);
    let empty = zst(&tar(&[Raw::file(&name, b"")]));
    attempt(&empty, &limits(90, 0)).unwrap();
    refused(&empty, &limits(89, 0), Kind::TooLarge, "bytes");
    let link = zst(&tar(&[Raw::link(&name, &"t".repeat(80))]));
    attempt(&link, &limits(170, 170 + 64)).unwrap();
    refused(&link, &limits(169, 170 + 64), Kind::TooLarge, "bytes");
    refused(&link, &limits(170, 170 + 63), Kind::TooLarge, "names of directories and links");
    let dir = zst(&tar(&[Raw::dir(&name)]));
    attempt(&dir, &limits(DIR_BYTES + 90, 90 + 64)).unwrap();
    refused(&dir, &limits(DIR_BYTES + 90, 90 + 63), Kind::TooLarge, "names of directories and links");
    // the default stops a directory of names before the machine's memory ends
    assert!(UnpackOptions::default().entries_max < 1 << 32 && UnpackOptions::default().names_bytes_max <= 1 << 30);
}

/// Links whose way to their end is made long on purpose: refused after a bounded number of steps.
#[test]
fn links_that_only_cost_time() {
    let long = |kind, text: String| Raw { content: text.into_bytes(), ..Raw::new("././@LongLink", kind) };
    let mut entries = Vec::new();
    for n in 0..39 {
        entries.push(long(b'K', format!("{}l{}", "d/../".repeat(800), n + 1)));
        entries.push(Raw::link(format!("l{n}"), ""));
    }
    refused(&zst(&tar(&entries)), &foreign(), Kind::Invalid, "leads outside");
}

/// 1 GiB of zeros in 40 kB: stopped by the limit before anything of it is written.
#[test]
fn a_bomb() {
    let mut bomb = Raw { len: Some(1 << 30), ..Raw::file("bomb", b"") }.bytes();
    bomb.truncate(512);
    bomb.resize(512 + (8 << 20), 0);
    let options = UnpackOptions { bytes_max: 1 << 20, ..foreign() };
    refused(&zst(&bomb), &options, Kind::TooLarge, "bytes");
    // the same as zeros behind the end
    let mut tail = tar(&[Raw::file("x", b"")]);
    tail.resize(64 << 20, 0);
    refused(&zst(&tail), &foreign(), Kind::Corrupt, "after the end");
}

#[test]
fn headers_that_are_wrong() {
    let mut flipped = tar(&[Raw::file("x", b"hello")]);
    flipped[0] ^= 1;
    refused(&zst(&flipped), &foreign(), Kind::Corrupt, "header checksum");
    let mut number = tar(&[Raw::file("x", b"hello")]);
    number[124..130].copy_from_slice(b"zzzzzz");
    seal(&mut number);
    refused(&zst(&number), &foreign(), Kind::Corrupt, "a number");
    let mut record = Raw::pax("path", b"x");
    record.content[0] = b'7';
    refused(&zst(&tar(&[record, Raw::file("y", b"")])), &foreign(), Kind::Corrupt, "PAX record");
    let mut single = Raw::file("x", b"hello").bytes();
    single.resize(single.len() + 512, 0);
    single.extend_from_slice(&Raw::file("y", b"").bytes());
    refused(&zst(&single), &foreign(), Kind::Corrupt, "zero block");
    let no_end = Raw::file("x", b"hello").bytes();
    refused(&zst(&no_end), &foreign(), Kind::Corrupt, "cut short");
}

#[test]
fn not_archives() {
    refused(b"", &foreign(), Kind::Corrupt, "cut short");
    refused(b"PK\x03\x04 a zip", &foreign(), Kind::Invalid, "neither");
    refused(&tar(&[Raw::file("x", b"")]), &foreign(), Kind::Invalid, "neither");
    refused(&zst(b"not a tar at all"), &foreign(), Kind::Corrupt, "cut short");
    refused(&zst(&[7; 4096]), &foreign(), Kind::Corrupt, "");
    let plain = zst(&tar(&[Raw::file("x", b"")]));
    refused(&plain, &UnpackOptions::default(), Kind::Invalid, "not an archive of ours");
    let mut garbage = zst(&tar(&[Raw::file("x", b"")]));
    garbage.extend_from_slice(b"garbage");
    refused(&garbage, &foreign(), Kind::Corrupt, "cannot be read");
    let mut garbage = gz(&tar(&[Raw::file("x", b"")]));
    garbage.extend_from_slice(b"garbage, longer than a header");
    refused(&garbage, &foreign(), Kind::Corrupt, "");
}

#[test]
fn newer_versions_are_refused_by_name() {
    let archive = zst(&tar(&[Raw::file("top/macula.json", &head_json(2, true))]));
    refused(&archive, &UnpackOptions::default(), Kind::NewerFormat, "version=2 known=1");
    refused(&archive, &foreign(), Kind::NewerFormat, "version=2 known=1");
    assert_eq!(peek(&MemFile::of(&archive)).unwrap_err().kind(), Kind::NewerFormat);
}

#[test]
fn manifests_that_do_not_fit() {
    let (a, b) = (Raw::file("top/a", b"one"), Raw::file("top/b", b"two"));
    let head = head_json(1, false).len() as u64;
    let (line_a, line_b) = (line("a", b"one"), line("b", b"two"));
    let both = [a.clone(), b.clone()];
    let good = format!("{line_a}{line_b}{}", totals(3, 3, head + 6));
    attempt(&ours(&both, &good), &UnpackOptions::default()).unwrap();
    let options = UnpackOptions::default();
    let refuse = |entries: &[Raw], lines: &str, reason: &str| {
        refused(&ours(entries, lines), &options, Kind::Corrupt, reason);
    };
    refuse(&both, &format!("{line_a}{}", totals(2, 2, head + 3)), "does not list");
    refuse(std::slice::from_ref(&a), &good, "what is not there");
    refuse(&both, &format!("{line_a}{line_a}{}", totals(3, 3, head + 6)), "an entry twice");
    refuse(&both, &format!("{line_a}{}{}", line("b", b"owt"), totals(3, 3, head + 6)), "not what the manifest");
    refuse(&both, &good.replace("\"mode\":420", "\"mode\":493"), "not what the manifest");
    refuse(&both, &good.replace("\"mtime_ns\":0", "\"mtime_ns\":1"), "not what the manifest");
    refuse(&both, &format!("{line_a}{line_b}{}", totals(3, 3, head + 7)), "totals");
    refuse(&both, &format!("{line_a}{line_b}"), "totals");
    refuse(&both, &format!("{good}{line_a}"), "after the totals");
    refuse(&both, "{}\n", "cannot be read");
    refuse(&both, "\u{0}\n", "cannot be read");
    let gone = line_a.replace("\"blake3\"", "\"remark\":\"vanished\",\"blake3\"");
    refuse(std::slice::from_ref(&a), &format!("{gone}{}", totals(2, 1, head)), "as missing what is there");
    // no manifest: an archive cut between two entries
    let cut = zst(&tar(&[Raw::file("top/macula.json", &head_json(1, false)), a.clone()]));
    refused(&cut, &options, Kind::Corrupt, "no manifest");
    attempt(&cut, &foreign()).unwrap();
    // a name that JSON escapes in another way is the same name
    let late = tar(&[Raw::file("top/macula.json", &head_json(1, false)), Raw::file("top/manifest.jsonl", b""), b]);
    refused(&zst(&late), &options, Kind::Corrupt, "totals");
}

#[test]
fn an_archive_whose_index_is_gone_is_cut_short() {
    let archive = zst(&tar(&[Raw::file("top/macula.json", &head_json(1, true)), Raw::file("top/a", b"one")]));
    refused(&archive, &UnpackOptions::default(), Kind::Corrupt, "no index");
}

/// The index of a good archive, forged with a good checksum.
#[test]
fn indexes_that_lie() {
    let tmp = tempfile::tempdir().unwrap();
    plant(tmp.path(), &mut fastrand::Rng::with_seed(3), 40, 9 << 20);
    std::fs::write(tmp.path().join("large"), vec![7; 10 << 20]).unwrap();
    let (archive, _) = pack_dir(tmp.path(), &options(Format::Zst, 2));
    let data_len = u32::from_le_bytes(archive[archive.len() - 12..archive.len() - 8].try_into().unwrap()) as usize;
    let start = archive.len() - 12 - data_len;
    let rows: Vec<[u32; 3]> = archive[start + 16..archive.len() - 12 - 32]
        .chunks(12)
        .map(|row| [0, 4, 8].map(|at| u32::from_le_bytes(row[at..at + 4].try_into().unwrap())))
        .collect();
    let forge = |rows: &[[u32; 3]]| {
        let mut data = archive[start..start + 12].to_vec();
        data.extend_from_slice(&(rows.len() as u32).to_le_bytes());
        data.extend(rows.iter().flatten().flat_map(|n| n.to_le_bytes()));
        let sum = blake3::hash(&data);
        data.extend_from_slice(sum.as_bytes());
        let len = data.len() as u32;
        data.extend_from_slice(&len.to_le_bytes());
        data.extend_from_slice(b"MACULAIX");
        let frame = [&[0x5d, 0x2a, 0x4d, 0x18][..], &(data.len() as u32).to_le_bytes(), &data].concat();
        [&archive[..start - 8], &frame].concat()
    };
    assert!(forge(&rows) == archive);
    attempt(&archive, &UnpackOptions::default()).unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..300 {
        let mut forged = rows.clone();
        let (at, other) = (rng.usize(..rows.len()), rng.usize(..rows.len()));
        match rng.u32(..7) {
            0 => forged[at][0] = rng.u32(..1 << 22),
            1 => forged[at][1] = rng.u32(..1 << 23),
            2 => forged[at][2] = rng.u32(..7),
            3 => forged.swap(at, other),
            4 => drop(forged.remove(at)),
            5 => forged.insert(at, rows[other]),
            _ => {
                // two groups as one
                let next = (at + 1).min(rows.len() - 1);
                forged[at] = [rows[at][0] + rows[next][0], rows[at][1] + rows[next][1], rows[at][2]];
                forged.remove(next);
            }
        }
        if forged != rows {
            let error = attempt(&forge(&forged), &UnpackOptions::default()).expect_err("a forged index");
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        }
    }
}

/// A destination that is not empty, with a link planted in it: written neither through nor over.
#[test]
fn links_planted_in_the_destination_are_not_followed() {
    let tmp = tempfile::tempdir().unwrap();
    let (outside, dest) = (tmp.path().join("outside"), tmp.path().join("dest"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&dest).unwrap();
    symlink(&outside, dest.join("d")).unwrap();
    symlink(outside.join("f"), dest.join("f")).unwrap();
    for entry in [Raw::file("d/x", b"x"), Raw::file("f", b"x"), Raw::dir("d")] {
        assert!(unpack_to(&zst(&tar(&[entry])), &dest, &foreign()).is_err());
        assert!(picture(&outside).is_empty());
    }
}
