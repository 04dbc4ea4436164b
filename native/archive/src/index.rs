//! The index after the end of an archive: where each group lies, so that groups are unpacked in
//! parallel. Stock tools skip it: it is a skippable frame (zstd) or empty members whose extra field
//! carries it (gzip). docs/formats.md describes each byte.
//!
//! Invariant: an index that is taken covers the file from its first byte to its own, without a gap,
//! in the order head, entries, manifest, each group within its bounds.

use crate::error::{corrupt, io_at, ArchiveError, Result};
use crate::item::Format;
use crate::slices::SLICE;
use macula_core::DiskFile;

const MAGIC: &[u8; 8] = b"MACULAIX";
const VERSION: u32 = 1;
const FOOTER_LEN: usize = 12;
const GROUP_LEN: usize = 12;
/// The longest group, decompressed: a slice with its headers.
pub(crate) const GROUP_BYTES_MAX: usize = SLICE + (64 << 10);
/// The longest frame: what does not compress grows a little.
const PACKED_BYTES_MAX: usize = GROUP_BYTES_MAX + (128 << 10);
/// Groups at most: 64 TiB of input.
const GROUPS_MAX: usize = 1 << 24;
const SKIPPABLE: [u8; 4] = [0x5d, 0x2a, 0x4d, 0x18];
/// Bytes of index in one gzip member's extra field, which is 16 bits long.
const PIECE: usize = 60_000;
/// An empty final deflate block, then checksum and length of nothing.
const GZ_TAIL: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a group holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupKind {
    /// The first entry alone.
    Head,
    /// Whole entries.
    Entries,
    /// The header and first slice of a large file.
    Large,
    /// A later slice of the large file before it; the last with its padding.
    Slice,
    /// The manifest's header and text, cut anywhere, and the end of the tar.
    Manifest,
}

impl GroupKind {
    const ALL: [GroupKind; 5] = [Self::Head, Self::Entries, Self::Large, Self::Slice, Self::Manifest];

    /// Whether a group of this kind may follow one of kind `before`.
    fn may_follow(self, before: Option<GroupKind>) -> bool {
        use GroupKind::*;
        match before {
            None => self == Head,
            Some(Head | Entries) => matches!(self, Entries | Large | Manifest),
            Some(Large) => self == Slice,
            Some(Slice) => matches!(self, Slice | Entries | Large | Manifest),
            Some(Manifest) => self == Manifest,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) kind: GroupKind,
    pub(crate) offset: u64,
    pub(crate) packed_len: usize,
    pub(crate) len: usize,
    /// Number of the group in which its entry begins.
    pub(crate) first: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) groups: Vec<Group>,
}

impl Index {
    pub(crate) fn push(&mut self, kind: GroupKind, packed_len: usize, len: usize) {
        let first = match self.groups.last() {
            Some(before) if kind == GroupKind::Slice => before.first,
            _ => self.groups.len(),
        };
        self.groups.push(Group { kind, offset: self.end(), packed_len, len, first });
    }

    /// Where the next group would begin.
    pub(crate) fn end(&self) -> u64 {
        self.groups.last().map_or(0, |g| g.offset + g.packed_len as u64)
    }

    /// The first group of the manifest.
    pub(crate) fn manifest(&self) -> usize {
        self.groups.iter().position(|g| g.kind == GroupKind::Manifest).unwrap_or(self.groups.len())
    }

    pub(crate) fn encode(&self, format: Format) -> Vec<u8> {
        let mut data = Vec::with_capacity(16 + GROUP_LEN * self.groups.len() + 32 + FOOTER_LEN);
        data.extend_from_slice(MAGIC);
        data.extend_from_slice(&VERSION.to_le_bytes());
        data.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        for group in &self.groups {
            for number in [group.packed_len as u32, group.len as u32, group.kind as u32] {
                data.extend_from_slice(&number.to_le_bytes());
            }
        }
        let sum = blake3::hash(&data);
        data.extend_from_slice(sum.as_bytes());
        data.extend_from_slice(&(data.len() as u32).to_le_bytes());
        data.extend_from_slice(MAGIC);
        wrap(format, &data)
    }

    /// The index of an archive; `None` when its end is not one.
    pub(crate) fn find(archive: &dyn DiskFile, format: Format) -> Result<Option<Self>> {
        let file_len = archive.len().map_err(io_at("reading the archive", b""))?;
        let tail = if format == Format::Gz { GZ_TAIL.len() as u64 } else { 0 };
        let Some(footer_at) = file_len.checked_sub(tail + FOOTER_LEN as u64) else { return Ok(None) };
        let mut footer = [0; FOOTER_LEN];
        archive.read_exact_at(&mut footer, footer_at).map_err(io_at("reading the archive", b""))?;
        let (len, magic) = footer.split_at(4);
        if magic != MAGIC {
            return Ok(None);
        }
        let data_len = u32_at(len, 0) as usize + FOOTER_LEN;
        if data_len > 64 + GROUP_LEN * GROUPS_MAX {
            return corrupt("the index is too long", b"");
        }
        let wrapped_len = wrapped_len(format, data_len);
        let Some(start) = file_len.checked_sub(wrapped_len as u64) else {
            return corrupt("the index is longer than the archive", b"");
        };
        let mut wrapped = vec![0; wrapped_len];
        archive.read_exact_at(&mut wrapped, start).map_err(io_at("reading the archive", b""))?;
        let data = unwrap(format, &wrapped, data_len);
        if data.is_empty() || wrap(format, &data) != wrapped {
            return corrupt("the index is not well formed", b"");
        }
        Self::decode(&data[..data_len - FOOTER_LEN], start).map(Some)
    }

    fn decode(data: &[u8], start: u64) -> Result<Self> {
        let Some((data, sum)) = data.split_at_checked(data.len().saturating_sub(32)) else {
            return corrupt("the index is too short", b"");
        };
        if blake3::hash(data).as_bytes() != sum || data.len() < 16 || &data[..8] != MAGIC {
            return corrupt("the checksum of the index", b"");
        }
        let version = u32_at(data, 8);
        if version != VERSION {
            return Err(ArchiveError::Newer { version: version.into(), known: VERSION.into() });
        }
        let rows = data[16..].chunks_exact(GROUP_LEN);
        if rows.len() != u32_at(data, 12) as usize || !rows.remainder().is_empty() {
            return corrupt("the length of the index", b"");
        }
        let mut index = Self::default();
        for row in rows {
            let (packed_len, len) = (u32_at(row, 0) as usize, u32_at(row, 4) as usize);
            let kind = GroupKind::ALL.get(u32_at(row, 8) as usize).copied();
            let before = index.groups.last().map(|g| g.kind);
            let Some(kind) = kind.filter(|kind| kind.may_follow(before)) else {
                return corrupt("the order of groups in the index", b"");
            };
            if packed_len == 0 || packed_len > PACKED_BYTES_MAX || len == 0 || len > GROUP_BYTES_MAX {
                return corrupt("a group's length in the index", b"");
            }
            index.push(kind, packed_len, len);
        }
        if index.end() != start || index.groups.last().map(|g| g.kind) != Some(GroupKind::Manifest) {
            return corrupt("the index does not cover the archive", b"");
        }
        Ok(index)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn wrapped_len(format: Format, data_len: usize) -> usize {
    match format {
        Format::Zst => data_len + 8,
        Format::Gz => data_len + data_len.div_ceil(PIECE) * (16 + GZ_TAIL.len()),
    }
}

fn wrap(format: Format, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(wrapped_len(format, data.len()));
    match format {
        Format::Zst => {
            out.extend_from_slice(&SKIPPABLE);
            out.extend_from_slice(&(data.len() as u32).to_le_bytes());
            out.extend_from_slice(data);
        }
        Format::Gz => {
            for piece in data.chunks(PIECE) {
                out.extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255]);
                out.extend_from_slice(&(piece.len() as u16 + 4).to_le_bytes());
                out.extend_from_slice(b"MX");
                out.extend_from_slice(&(piece.len() as u16).to_le_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(&GZ_TAIL);
            }
        }
    }
    out
}

/// The data in a wrapped index of the right length; the caller compares what wrapping it gives.
fn unwrap(format: Format, wrapped: &[u8], data_len: usize) -> Vec<u8> {
    match format {
        Format::Zst => wrapped[8..].to_vec(),
        Format::Gz => {
            let members = wrapped.chunks(PIECE + 16 + GZ_TAIL.len());
            let pieces = members.map(|m| m.get(16..m.len().saturating_sub(GZ_TAIL.len())).unwrap_or_default());
            let data = pieces.collect::<Vec<_>>().concat();
            if data.len() == data_len {
                data
            } else {
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_index_in_gzip_members_comes_back() {
        for groups in [1, 4_000, 5_000, 20_000] {
            let mut index = Index::default();
            index.push(GroupKind::Head, 7, 512);
            for i in 0..groups {
                index.push(GroupKind::Entries, 100 + i, 1000 + i);
            }
            index.push(GroupKind::Manifest, 99, 1024);
            for format in [Format::Zst, Format::Gz] {
                let wrapped = index.encode(format);
                let data_len = 16 + GROUP_LEN * index.groups.len() + 32 + FOOTER_LEN;
                assert_eq!(wrapped.len(), wrapped_len(format, data_len));
                let data = unwrap(format, &wrapped, data_len);
                let decoded = Index::decode(&data[..data_len - FOOTER_LEN], index.end()).expect("good");
                assert_eq!(decoded, index);
            }
        }
    }
}
