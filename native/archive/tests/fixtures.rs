//! Archives of every released format version, read by today's code. They are written once, by
//! `MACULA_WRITE_FIXTURES=1 cargo test -p macula_archive --test fixtures`, and never again.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{pack, peek, Format, Item, PackOptions, Source, Tree, UnpackOptions};
use macula_core::{DiskFile, Task};
use std::io;
use std::path::Path;
use std::sync::Arc;

struct Content;

fn bytes_of(path: &str) -> Vec<u8> {
    match path {
        "data/large" => (0..9u32 << 20).map(|n| (n >> 16) as u8).collect(),
        _ => format!("content of {path}\n").into_bytes(),
    }
}

impl Tree for Content {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        Ok(Some(MemFile::of(&bytes_of(&item.path.to_string()))))
    }
}

fn items() -> Vec<Item> {
    let item = |path: &str, source, mode, len| Item { path: rel(path), source, mode, mtime_ns: 0, len, token: 0 };
    let file = |path: &str| item(path, Source::File, 0o640, bytes_of(path).len() as u64);
    let long = format!("data/{}", "n".repeat(200));
    vec![
        item("data", Source::Dir, 0o750, 0),
        file("data/a"),
        file("data/ünïcode"),
        file("data/large"),
        file(&long),
        Item { mtime_ns: 1_700_000_000_000_000_001, ..item("data/empty", Source::Bytes(Vec::new()), 0o600, 0) },
        item("link", Source::Symlink { target: "data/a".into() }, 0o777, 0),
    ]
}

#[test]
fn version_1() {
    for format in [Format::Zst, Format::Gz] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v1{}", format.extension()));
        if std::env::var("MACULA_WRITE_FIXTURES").is_ok() && !path.exists() {
            let (out, about) = (MemFile::default(), serde_json::json!({"app": "fixture"}));
            let options = PackOptions { about, ..options(format, 2) };
            pack(&mut items().into_iter().map(Ok), &Content, &out, &options, &Task::quiet()).unwrap();
            std::fs::write(&path, out.bytes()).unwrap();
        }
        let archive = std::fs::read(&path).unwrap();
        let head = peek(&MemFile::of(&archive)).unwrap();
        assert_eq!((head.version, head.about["app"].as_str()), (1, Some("fixture")));
        let to = tempfile::tempdir().unwrap();
        let unpacked = unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
        assert_eq!(unpacked.entries, items().len() as u64 + 1);
        let found = picture(to.path());
        assert_eq!(found.len(), items().len());
        for item in items() {
            let name = item.path.as_bytes().escape_ascii().to_string();
            let times = format!("mode={:o} mtime={}", item.mode, item.mtime_ns);
            let what = match item.source {
                Source::Dir => format!("dir {times}"),
                Source::Symlink { target } => format!("link {target:?}"),
                Source::Bytes(bytes) => format!("file {times} {} {}", bytes.len(), blake3::hash(&bytes)),
                Source::File => {
                    format!("file {times} {} {}", item.len, blake3::hash(&bytes_of(&item.path.to_string())))
                }
            };
            assert_eq!(found.get(&name), Some(&what), "{format:?} {name}");
        }
    }
}
