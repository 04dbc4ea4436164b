//! The physical layout of a file of blocks (docs/formats.md, "kv.redb", has it byte by byte):
//! a header, two slots for logical block 0, then every other logical block with its trailer.
//!
//! Invariant: a block and its tag are one contiguous write, and the tag covers the block's content,
//! its reserved bytes, its number and the store's id, so that a flipped, moved or foreign block
//! does not verify.

use crate::BlockError;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed, xxh3_64_with_seed};

/// Bytes of a logical block: redb's page.
pub const BLOCK: usize = 4096;
/// Bytes of the trailer: 16 reserved, 16 tag.
pub(crate) const TRAILER: usize = 32;
/// Bytes of a block with its trailer.
pub(crate) const CELL: usize = BLOCK + TRAILER;
/// Where the two slots of logical block 0 begin. Each has 8 KiB to itself, so that a torn write of
/// one never shares a sector with the other.
pub(crate) const SLOT_OFFSET: [u64; 2] = [4096, 12_288];
/// Where logical block 1 begins.
pub(crate) const CELLS_OFFSET: u64 = 20_480;
/// Bytes of the header: two copies of one sector, the rest zeros. Written in one piece.
pub(crate) const HEADER: usize = 4096;
const SECTOR: usize = 512;
const COPY_OFFSET: [usize; 2] = [0, 2048];

const VERSION: u16 = 1;
const CIPHER_PLAIN: u16 = 0;
const SUM: usize = SECTOR - 16;

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brand {
    /// Its first bytes.
    pub magic: &'static [u8; 8],
    /// Its name in messages.
    pub name: &'static str,
}

/// What the header sector says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub store_id: [u8; 16],
    /// The store was closed, and nothing was written since.
    pub clean: Option<Clean>,
}

/// What a closed store must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clean {
    /// Generation of the slot that holds block 0.
    pub generation: u64,
    /// Physical length of the file, bytes.
    pub len: u64,
}

impl Header {
    pub fn encode(&self, brand: Brand) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        for offset in COPY_OFFSET {
            out[offset..offset + SECTOR].copy_from_slice(&self.encode_sector(brand));
        }
        out
    }

    fn encode_sector(&self, brand: Brand) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        out[..8].copy_from_slice(brand.magic);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&CIPHER_PLAIN.to_le_bytes());
        out[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        out[16..20].copy_from_slice(&(TRAILER as u32).to_le_bytes());
        out[24..40].copy_from_slice(&self.store_id);
        if let Some(clean) = self.clean {
            out[20] = 1;
            out[40..48].copy_from_slice(&clean.generation.to_le_bytes());
            out[48..56].copy_from_slice(&clean.len.to_le_bytes());
        }
        let sum = xxh3_128(&out[..SUM]);
        out[SUM..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// A copy that is damaged, or not like the other, is what a write leaves that was interrupted:
    /// then the store counts as not closed.
    pub fn decode(bytes: &[u8; HEADER], brand: Brand, file: &str) -> Result<Self, BlockError> {
        let copies = COPY_OFFSET.map(|offset| Self::decode_sector(&le(&bytes[offset..]), brand, file));
        match copies {
            [Ok(one), Ok(other)] if one == other => Ok(one),
            [Err(BlockError::NewerFormat { file, what, found, known }), _]
            | [_, Err(BlockError::NewerFormat { file, what, found, known })] => {
                Err(BlockError::NewerFormat { file, what, found, known })
            }
            [Ok(one), Ok(other)] if one.store_id != other.store_id => {
                Err(BlockError::corrupt(file, None, "the copies of the header are of two stores"))
            }
            [Ok(one), _] | [_, Ok(one)] => Ok(Self { clean: None, ..one }),
            [Err(error), Err(_)] => Err(error),
        }
    }

    /// The places of magic, version and checksum are the same in every version, so that a flipped
    /// bit is not taken for a newer version.
    fn decode_sector(bytes: &[u8; SECTOR], brand: Brand, file: &str) -> Result<Self, BlockError> {
        let refuse = |reason: &str| Err(BlockError::corrupt(file, None, reason));
        if &bytes[..8] != brand.magic {
            return refuse(&format!("not a {} file: wrong magic", brand.name));
        }
        if xxh3_128(&bytes[..SUM]).to_le_bytes() != bytes[SUM..] {
            return refuse("the header does not match its checksum");
        }
        let newer = |what, found, known| Err(BlockError::NewerFormat { file: file.to_owned(), what, found, known });
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return newer("version", version.into(), VERSION.into());
        }
        let cipher = u16::from_le_bytes([bytes[10], bytes[11]]);
        if cipher != CIPHER_PLAIN {
            return newer("cipher", cipher.into(), CIPHER_PLAIN.into());
        }
        let clean =
            Clean { generation: u64::from_le_bytes(le(&bytes[40..48])), len: u64::from_le_bytes(le(&bytes[48..56])) };
        let header = Self { store_id: le(&bytes[24..40]), clean: (bytes[20] == 1).then_some(clean) };
        if header.encode_sector(brand) != *bytes {
            return refuse("the header holds bytes that this version does not write");
        }
        Ok(header)
    }
}

/// The first bytes of `bytes`, which must be long enough.
pub(crate) fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// Which place of the file a cell belongs to; part of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A slot of logical block 0.
    Slot(usize),
    /// Any other logical block.
    Block(u64),
}

impl Place {
    /// Where its cell begins in the file.
    pub fn offset(self) -> u64 {
        match self {
            Place::Slot(slot) => SLOT_OFFSET[slot],
            Place::Block(number) => CELLS_OFFSET + (number - 1) * CELL as u64,
        }
    }

    fn number(self) -> u64 {
        match self {
            Place::Slot(slot) => u64::MAX - slot as u64,
            Place::Block(number) => number,
        }
    }
}

/// What a cell turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// All zero: never written.
    Blank,
    Bad,
}

/// Writes the reserved bytes and the tag behind the content that is already in `cell`.
pub(crate) fn seal(cell: &mut [u8], place: Place, store_id: &[u8; 16]) {
    seal_head(cell, place, store_id, 0, 0);
}

/// As [`seal`], for block 0: with its generation, and the logical length of the store, bytes.
pub(crate) fn seal_head(cell: &mut [u8], place: Place, store_id: &[u8; 16], generation: u64, len: u64) {
    cell[BLOCK..].fill(0);
    cell[BLOCK..BLOCK + 8].copy_from_slice(&generation.to_le_bytes());
    cell[BLOCK + 8..BLOCK + 16].copy_from_slice(&len.to_le_bytes());
    let tag = tag(cell, place, store_id);
    cell[CELL - 16..].copy_from_slice(&tag);
}

/// Whether the cell is what [`seal`] left.
pub(crate) fn check(cell: &[u8], place: Place, store_id: &[u8; 16]) -> Verdict {
    if tag(cell, place, store_id) == cell[CELL - 16..CELL] {
        Verdict::Good
    } else if cell.iter().all(|b| *b == 0) {
        Verdict::Blank
    } else {
        Verdict::Bad
    }
}

/// The generation in a cell of block 0.
pub(crate) fn generation(cell: &[u8]) -> u64 {
    u64::from_le_bytes(le(&cell[BLOCK..]))
}

/// The logical length in a cell of block 0, bytes.
pub(crate) fn len_logical(cell: &[u8]) -> u64 {
    u64::from_le_bytes(le(&cell[BLOCK + 8..]))
}

fn tag(cell: &[u8], place: Place, store_id: &[u8; 16]) -> [u8; 16] {
    let seed = xxh3_64_with_seed(store_id, place.number());
    xxh3_128_with_seed(&cell[..CELL - 16], seed).to_le_bytes()
}

/// Physical length of a file that holds `logical` bytes.
pub(crate) fn physical_len(logical: u64) -> u64 {
    CELLS_OFFSET + (logical / BLOCK as u64).saturating_sub(1) * CELL as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRAND: Brand = Brand { magic: b"MACULA??", name: "test" };

    #[test]
    fn a_cell_verifies_in_its_own_place_and_store_only() {
        let id = [7; 16];
        let mut cell = vec![3; CELL];
        seal(&mut cell, Place::Block(5), &id);
        assert_eq!(check(&cell, Place::Block(5), &id), Verdict::Good);
        assert_eq!(check(&cell, Place::Block(6), &id), Verdict::Bad, "moved");
        assert_eq!(check(&cell, Place::Block(5), &[8; 16]), Verdict::Bad, "of another store");
        for at in 0..CELL {
            cell[at] ^= 1;
            assert_eq!(check(&cell, Place::Block(5), &id), Verdict::Bad, "flip at {at}");
            cell[at] ^= 1;
        }
        assert_eq!(check(&[0; CELL], Place::Block(5), &id), Verdict::Blank);
    }

    #[test]
    fn header_reads_back_and_names_what_is_newer() {
        let header = Header { store_id: [9; 16], clean: Some(Clean { generation: 4, len: 20_480 }) };
        let bytes = header.encode(BRAND);
        assert_eq!(Header::decode(&bytes, BRAND, "f").expect("reads"), header);
        for (at, what) in [(8, "version"), (10, "cipher")] {
            let mut newer = bytes;
            for offset in COPY_OFFSET {
                newer[offset + at] = 9;
                let sum = xxh3_128(&newer[offset..offset + SUM]);
                newer[offset + SUM..offset + SECTOR].copy_from_slice(&sum.to_le_bytes());
            }
            match Header::decode(&newer, BRAND, "f") {
                Err(BlockError::NewerFormat { what: named, found: 9, .. }) => assert_eq!(named, what),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(Header::decode(&[0; HEADER], BRAND, "f"), Err(BlockError::Corrupt { .. })));
    }

    #[test]
    fn an_interrupted_header_counts_as_not_closed() {
        let closed = Header { store_id: [9; 16], clean: Some(Clean { generation: 4, len: 20_480 }) };
        let open = Header { clean: None, ..closed };
        for (old, new) in [(closed, open), (open, closed)] {
            for written in [SECTOR / 2, SECTOR, HEADER / 2] {
                let mut bytes = old.encode(BRAND);
                bytes[..written].copy_from_slice(&new.encode(BRAND)[..written]);
                assert_eq!(Header::decode(&bytes, BRAND, "f").expect("reads"), open, "written={written}");
            }
        }
        let mut bytes = closed.encode(BRAND);
        bytes[COPY_OFFSET[1]..]
            .copy_from_slice(&Header { store_id: [8; 16], clean: None }.encode(BRAND)[COPY_OFFSET[1]..]);
        assert!(matches!(Header::decode(&bytes, BRAND, "f"), Err(BlockError::Corrupt { .. })));
    }

    #[test]
    fn a_length_ends_behind_its_last_block() {
        assert_eq!(physical_len(0), CELLS_OFFSET);
        assert_eq!(Place::Block(1).offset(), CELLS_OFFSET);
        for blocks in [1, 2, 3, 1000] {
            assert_eq!(physical_len(blocks * BLOCK as u64), Place::Block(blocks).offset());
        }
    }
}
