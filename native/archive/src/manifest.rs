//! The last entry, `<prefix>/manifest.jsonl`: one JSON line per entry with its BLAKE3, then totals.
//!
//! Invariant: the manifest lists exactly what the archive holds. Entries that vanished or were left
//! out have a line that says so, and no entry.

use crate::error::{corrupt, refused, Result};
use crate::header::{EntryKind, Meta};
use serde::{Deserialize, Serialize};

/// Longest line that is read, bytes: a path of 4,095 bytes in hex, its target and the rest.
const LINE_LEN_MAX: usize = 64 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManifestKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
}

/// Why an entry of the manifest is not in the archive, or not as it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    /// In the archive, but its length or modification time changed while it was packed.
    Changed,
    /// In the archive, but its bytes were not those that its own digest names: damaged where it lay,
    /// before it was packed ([`crate::PackOptions::keep_corrupt`]).
    Corrupt,
    /// Not in the archive: gone before it could be read.
    Vanished,
    /// Not in the archive: a symlink that leads outside it, which no restore would accept.
    LeadsOutside,
    /// Not in the archive: its name is the head's or the manifest's.
    ReservedName,
}

impl Remark {
    /// Whether the archive holds the entry.
    pub fn is_packed(self) -> bool {
        matches!(self, Remark::Changed | Remark::Corrupt)
    }

    /// Whether it was left out because no restore would accept it: unlike what vanished, which is
    /// nowhere any more, it is still there and not in the archive.
    pub fn is_left_out(self) -> bool {
        matches!(self, Remark::LeadsOutside | Remark::ReservedName)
    }
}

/// One line of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// Path below the top directory; absent when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The path's bytes in hex when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// File, directory or symlink.
    pub kind: ManifestKind,
    /// Length of a file in the archive, bytes.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Hex BLAKE3 of a file's content, of a symlink's text; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// What is special about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<Remark>,
}

impl ManifestEntry {
    pub(crate) fn new(meta: &Meta, hash: Option<&[u8; 32]>, remark: Option<Remark>) -> Self {
        let path = String::from_utf8(meta.path.clone());
        Self {
            path_hex: path.is_err().then(|| hex(&meta.path)),
            path: path.ok(),
            kind: match meta.kind {
                EntryKind::File => ManifestKind::File,
                EntryKind::Dir => ManifestKind::Dir,
                EntryKind::Symlink => ManifestKind::Symlink,
            },
            len: meta.len,
            mode: meta.mode,
            mtime_ns: meta.mtime_ns,
            blake3: hash.map(|hash| hex(hash)),
            remark,
        }
    }

    /// The path below the top directory, any bytes.
    pub fn path(&self) -> Vec<u8> {
        match (&self.path, &self.path_hex) {
            (Some(path), _) => path.clone().into_bytes(),
            (None, Some(hex)) => unhex(hex).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// What must be equal between the manifest and the entry itself.
    pub(crate) fn digest(&self) -> [u8; 16] {
        digest(self.kind, self.len, self.mode, self.mtime_ns, self.blake3.as_deref().and_then(unhex).as_deref())
    }

    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        if serde_json::to_writer(&mut *out, self).is_ok() {
            out.push(b'\n');
        }
    }
}

/// Of an entry as it was read from the archive; equals [`ManifestEntry::digest`] of its line.
pub(crate) fn digest_of(meta: &Meta, hash: Option<&[u8; 32]>) -> [u8; 16] {
    let kind = match meta.kind {
        EntryKind::File => ManifestKind::File,
        EntryKind::Dir => ManifestKind::Dir,
        EntryKind::Symlink => ManifestKind::Symlink,
    };
    digest(kind, meta.len, meta.mode, meta.mtime_ns, hash.map(|h| h.as_slice()))
}

fn digest(kind: ManifestKind, len: u64, mode: u32, mtime_ns: i64, hash: Option<&[u8]>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind as u8]).update(&len.to_le_bytes()).update(&mode.to_le_bytes());
    hasher.update(&mtime_ns.to_le_bytes()).update(hash.unwrap_or_default());
    short(hasher.finalize())
}

/// The first half of a BLAKE3: still 64 bits against collisions made on purpose.
pub(crate) fn short(hash: blake3::Hash) -> [u8; 16] {
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// The last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Lines above, each an entry.
    pub entries: u64,
    /// Regular files in the archive, the head included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that changed while they were packed.
    pub changed: u64,
    /// Entries that vanished before they were packed.
    pub vanished: u64,
    /// Entries left out because no restore would accept them.
    pub left_out: u64,
    /// Entries that were damaged before they were packed; told only when there are some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corrupt: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Totals {
    pub(crate) fn count(&mut self, kind: ManifestKind, len: u64, remark: Option<Remark>) {
        self.entries += 1;
        match remark {
            Some(Remark::Changed) => self.changed += 1,
            Some(Remark::Corrupt) => self.corrupt += 1,
            Some(Remark::Vanished) => self.vanished += 1,
            Some(Remark::LeadsOutside | Remark::ReservedName) => self.left_out += 1,
            None => {}
        }
        if kind == ManifestKind::File && remark.is_none_or(Remark::is_packed) {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(len);
        }
    }

    pub(crate) fn add(&mut self, more: &Totals) {
        self.entries += more.entries;
        self.files += more.files;
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.changed += more.changed;
        self.vanished += more.vanished;
        self.left_out += more.left_out;
        self.corrupt += more.corrupt;
    }

    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        if serde_json::to_writer(&mut *out, &Last { totals: *self }).is_ok() {
            out.push(b'\n');
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    totals: Totals,
}

/// Reads a manifest piece by piece.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
    counted: Totals,
    last: Option<Totals>,
    hasher: blake3::Hasher,
}

impl Lines {
    pub(crate) fn feed(&mut self, piece: &[u8], each: &mut dyn FnMut(ManifestEntry) -> Result<()>) -> Result<()> {
        self.hasher.update(piece);
        self.rest.extend_from_slice(piece);
        let mut start = 0;
        while let Some(end) = self.rest[start..].iter().position(|b| *b == b'\n').map(|n| start + n) {
            let line = &self.rest[start..end];
            start = end + 1;
            if self.last.is_some() {
                return corrupt("lines after the totals", crate::head::MANIFEST);
            }
            if line.starts_with(b"{\"totals\"") {
                let Ok(last) = serde_json::from_slice::<Last>(line) else { return bad_line() };
                self.last = Some(last.totals);
                continue;
            }
            let Ok(entry) = serde_json::from_slice::<ManifestEntry>(line) else { return bad_line() };
            if entry.path().is_empty() || (entry.path.is_some() && entry.path_hex.is_some()) {
                return bad_line();
            }
            self.counted.count(entry.kind, entry.len, entry.remark);
            each(entry)?;
        }
        self.rest.drain(..start);
        if self.rest.len() > LINE_LEN_MAX {
            return refused("a manifest line too long", crate::head::MANIFEST);
        }
        Ok(())
    }

    /// The totals, and the BLAKE3 of the whole manifest.
    pub(crate) fn finish(self) -> Result<(Totals, blake3::Hash)> {
        if self.last != Some(self.counted) || !self.rest.is_empty() {
            return corrupt("the manifest's totals are not those of its lines", crate::head::MANIFEST);
        }
        Ok((self.counted, self.hasher.finalize()))
    }
}

fn bad_line<T>() -> Result<T> {
    corrupt("a line of the manifest cannot be read", crate::head::MANIFEST)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| (*b as char).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}
