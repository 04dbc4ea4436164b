//! Trees, archives in memory, and tars made by hand.
#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used)]

use macula_archive::{
    pack, unpack, ArchiveError, DiskTree, Format, PackOptions, Packed, UnpackOptions, Unpacked, Walk,
};
use macula_core::{Disk, DiskFile, FileKind, RealDisk, RelPath, Stat, Task};
use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A file in memory.
#[derive(Debug, Default)]
pub struct MemFile(pub Mutex<Vec<u8>>);

impl MemFile {
    pub fn of(bytes: &[u8]) -> Arc<dyn DiskFile> {
        Arc::new(Self(Mutex::new(bytes.to_vec())))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let all = self.0.lock().unwrap();
        let from = all.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(bytes.len());
        bytes[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(self.len()?))
    }

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn set_mtime(&self, _mtime_ns: i128) -> io::Result<()> {
        Ok(())
    }

    fn tag(&self, _name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn set_tag(&self, _name: &str, _value: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// What a file of `len` bytes and time 0 says of itself.
pub fn stat_of(len: u64) -> Stat {
    Stat { kind: FileKind::File, len, mode: 0o644, mtime_ns: 0, ctime_ns: 0, dev: 1, ino: 1, nlink: 1 }
}

pub fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::at(path).unwrap())
}

pub fn pack_dir(dir: &Path, options: &PackOptions) -> (Vec<u8>, Packed) {
    let disk = disk(dir);
    let out = MemFile::default();
    let mut items = Walk::new(&disk, |_, _| true).unwrap();
    let packed = pack(&mut items, &DiskTree(Arc::clone(&disk)), &out, options, &Task::quiet()).unwrap();
    assert_eq!(out.bytes().len() as u64, packed.bytes_out);
    (out.bytes(), packed)
}

pub fn unpack_to(archive: &[u8], dest: &Path, options: &UnpackOptions) -> Result<Unpacked, ArchiveError> {
    unpack(&MemFile::of(archive), &disk(dest), options, &Task::quiet())
}

pub fn foreign() -> UnpackOptions {
    UnpackOptions { foreign: true, ..UnpackOptions::default() }
}

/// Kind, mode, time, text or BLAKE3 of everything in a tree; symlinks without mode and time.
pub fn picture(dir: &Path) -> BTreeMap<String, String> {
    let disk = disk(dir);
    let mut all = BTreeMap::new();
    for item in Walk::new(&disk, |_, _| true).unwrap() {
        let item = item.unwrap();
        let path = dir.join(item.path.as_path());
        let meta = format!("mode={:o} mtime={}", item.mode, item.mtime_ns);
        let what = match &item.source {
            macula_archive::Source::Dir => format!("dir {meta}"),
            macula_archive::Source::Symlink { target } => format!("link {target:?}"),
            _ => format!("file {meta} {} {}", item.len, blake3::hash(&std::fs::read(path).unwrap())),
        };
        all.insert(item.path.as_bytes().escape_ascii().to_string(), what);
    }
    all
}

/// Panics with the first differences.
pub fn same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, about: &str) {
    let names = one.keys().chain(other.keys());
    let differ = |name: &&String| one.get(*name) != other.get(*name);
    let differences: Vec<_> = names.filter(differ).map(|name| (name, one.get(name), other.get(name))).take(5).collect();
    assert!(differences.is_empty(), "{about}: {differences:#?}");
}

/// A random tree: names of every kind, empty and large files, deep paths, links inside.
pub fn plant(dir: &Path, rng: &mut fastrand::Rng, files: usize, len_max: usize) {
    let mut dirs = vec![dir.to_path_buf()];
    for number in 0..files {
        let above = dirs[rng.usize(..dirs.len())].clone();
        let path = above.join(std::ffi::OsStr::from_bytes(&name(rng, number)));
        if path.as_os_str().len() > dir.as_os_str().len() + 3000 {
            continue;
        }
        match rng.u32(..10) {
            0..=1 => {
                std::fs::create_dir(&path).unwrap();
                dirs.push(path);
            }
            2 if number % 2 == 0 => symlink(format!("x{number}/../somewhere"), &path).unwrap(),
            _ => {
                let len = match rng.u32(..12) {
                    0 => 0,
                    1 => rng.usize(..=len_max),
                    2 => 512 * rng.usize(..20),
                    _ => rng.usize(..20_000),
                };
                std::fs::write(&path, content(rng, len)).unwrap();
                let mode = [0o644, 0o600, 0o755, 0o400][rng.usize(..4)];
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
                let file = std::fs::OpenOptions::new().read(true).open(&path).unwrap();
                let seconds = [0, 1, 1_700_000_000, 9_000_000_000][rng.usize(..4)];
                let nanos = [0, 1, 999_999_999, 120_000_000][rng.usize(..4)];
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(seconds, nanos)).unwrap();
            }
        }
    }
}

/// Text that compresses, with noise that does not.
pub fn content(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        if rng.u32(..4) == 0 {
            bytes.extend((0..40).map(|_| rng.u8(..)));
        } else {
            bytes.extend_from_slice(format!("line {} of a file that says little\n", rng.u8(..)).as_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

fn name(rng: &mut fastrand::Rng, number: usize) -> Vec<u8> {
    let mut name = match rng.u32(..6) {
        0 => "naïve-ünïcode-文件-".as_bytes().to_vec(),
        1 => b"\xff\xfe not utf-8 ".to_vec(),
        2 => vec![b'l'; rng.usize(90..240)],
        3 => b"-rf \"$x\" \\n 'q'\n".to_vec(),
        _ => b"plain".to_vec(),
    };
    name.extend_from_slice(number.to_string().as_bytes());
    name
}

pub fn options(format: Format, workers: usize) -> PackOptions {
    PackOptions { workers, ..PackOptions::new("top").format(format) }
}

/// One tar header by hand.
#[derive(Clone)]
pub struct Raw {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub content: Vec<u8>,
    /// Declared length, if not the content's.
    pub len: Option<u64>,
    pub link: Vec<u8>,
}

impl Raw {
    pub fn new(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self { name: name.as_ref().to_vec(), kind, mode: 0o644, content: Vec::new(), len: None, link: Vec::new() }
    }

    pub fn file(name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        Self { content: content.to_vec(), ..Self::new(name, b'0') }
    }

    pub fn link(name: impl AsRef<[u8]>, target: &str) -> Self {
        Self { link: target.as_bytes().to_vec(), ..Self::new(name, b'2') }
    }

    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self { mode: 0o755, ..Self::new(name, b'5') }
    }

    /// A PAX header with one record.
    pub fn pax(key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let len = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
        let content = [format!("{len} {key}=").as_bytes(), value, b"\n"].concat();
        Self { content, ..Self::new("pax", b'x') }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut b = vec![0; 512];
        let cut = self.name.len().min(100);
        b[..cut].copy_from_slice(&self.name[..cut]);
        b[100..107].copy_from_slice(format!("{:07o}", self.mode).as_bytes());
        b[108..115].copy_from_slice(b"0000000");
        b[116..123].copy_from_slice(b"0000000");
        let len = self.len.unwrap_or(self.content.len() as u64);
        if len < 1 << 33 {
            b[124..135].copy_from_slice(format!("{len:011o}").as_bytes());
        } else {
            b[124] = 0x80;
            b[128..136].copy_from_slice(&len.to_be_bytes());
        }
        b[136..147].copy_from_slice(b"00000000000");
        b[156] = self.kind;
        let cut = self.link.len().min(100);
        b[157..157 + cut].copy_from_slice(&self.link[..cut]);
        b[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut b);
        b.extend_from_slice(&self.content);
        b.resize(b.len().next_multiple_of(512), 0);
        b
    }
}

/// Sets the checksum of a header.
pub fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut all: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    all.resize(all.len() + 1024, 0);
    all
}

pub fn zst(tar: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub fn gz(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub fn head_json(version: u64, indexed: bool) -> Vec<u8> {
    format!(
        "{{\"magic\":\"macula archive\",\"version\":{version},\"prefix\":\"top\",\"indexed\":{indexed},\"about\":{{}}}}\n"
    )
    .into_bytes()
}

/// A line of a manifest for a file of mode 0644 and time 0.
pub fn line(path: &str, content: &[u8]) -> String {
    let (len, hash) = (content.len(), blake3::hash(content));
    format!("{{\"path\":{path:?},\"kind\":\"file\",\"len\":{len},\"mode\":420,\"mtime_ns\":0,\"blake3\":\"{hash}\"}}\n")
}

pub fn totals(entries: u64, files: u64, bytes: u64) -> String {
    format!(
        "{{\"totals\":{{\"entries\":{entries},\"files\":{files},\"bytes\":{bytes},\"changed\":0,\"vanished\":0,\"left_out\":0}}}}\n"
    )
}

/// An archive of ours without index that holds `entries`, and the manifest `lines` for them.
pub fn ours(entries: &[Raw], lines: &str) -> Vec<u8> {
    let head = head_json(1, false);
    let mut all = vec![Raw::file("top/macula.json", &head)];
    all.extend_from_slice(entries);
    let manifest = line("macula.json", &head) + lines;
    all.push(Raw::file("top/manifest.jsonl", manifest.as_bytes()));
    zst(&tar(&all))
}

pub fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}
