//! Content has an address: what it is, whoever has it and under whatever name.
//!
//! An id is what the Macula mesh uses: `<<1, codec, BLAKE3-256>>`, codec 0x55 for one block of up to
//! 262,144 bytes, 0x56 for a manifest, the list of a longer content's blocks. Invariant: two contents
//! of one id are the same bytes, and a manifest that a peer sent is taken only if it has that id.

use crate::MeshError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a block; the last one of a content may be shorter.
pub const BLOCK_LEN: usize = 262_144;
/// Longest content, bytes: 2^40.
pub const CONTENT_LEN_MAX: u64 = 1 << 40;

const VERSION: u8 = 1;
const CODEC_BLOCK: u8 = 0x55;
const CODEC_MANIFEST: u8 = 0x56;
const MANIFEST_MAGIC: &[u8; 8] = b"MACULAMF";
const MANIFEST_VERSION: u8 = 1;
/// Magic, version, length of the content.
const MANIFEST_HEAD: usize = 8 + 1 + 8;

/// BLAKE3-256 of some bytes.
pub type Hash = [u8; 32];

/// What a content is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId {
    /// Whether it has several blocks: then `hash` is its manifest's.
    pub is_manifest: bool,
    /// Of the only block, or of the manifest.
    pub hash: Hash,
}

impl ContentId {
    /// Bytes of an id.
    pub const LEN: usize = 34;

    /// Of a content of one block.
    pub fn of_block(bytes: &[u8]) -> Self {
        Self { is_manifest: false, hash: *blake3::hash(bytes).as_bytes() }
    }

    /// As the mesh writes it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = VERSION;
        bytes[1] = if self.is_manifest { CODEC_MANIFEST } else { CODEC_BLOCK };
        bytes[2..].copy_from_slice(&self.hash);
        bytes
    }

    /// Of bytes; `None` when they are no id of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, hash) = bytes.split_first_chunk::<2>()?;
        let is_manifest = match head {
            [VERSION, CODEC_BLOCK] => false,
            [VERSION, CODEC_MANIFEST] => true,
            _ => return None,
        };
        Some(Self { is_manifest, hash: hash.try_into().ok()? })
    }

    /// The hash in hexadecimal: the name of staged and kept content.
    pub fn name(&self) -> String {
        hex(&self.hash)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.to_bytes()))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // writing to a string cannot fail
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The blocks of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    len: u64,
    blocks: Vec<Hash>,
}

impl Manifest {
    /// Of a content of `len` bytes in these blocks; `None` when their number is another.
    pub fn new(len: u64, blocks: Vec<Hash>) -> Option<Self> {
        (blocks.len() as u64 == blocks_of(len)).then_some(Self { len, blocks })
    }

    /// Bytes of the content.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the content is empty: one block without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hashes of its blocks, in their order.
    pub fn blocks(&self) -> &[Hash] {
        &self.blocks
    }

    /// Offset and length of a block, bytes.
    pub fn place(&self, block: usize) -> (u64, usize) {
        let offset = block as u64 * BLOCK_LEN as u64;
        (offset, self.len.saturating_sub(offset).min(BLOCK_LEN as u64) as usize)
    }

    /// The digest of the whole content, where that is one block.
    pub fn whole(&self) -> Option<&Hash> {
        match &self.blocks[..] {
            [hash] => Some(hash),
            _ => None,
        }
    }

    /// What its content is.
    pub fn id(&self) -> ContentId {
        match self.blocks[..] {
            [hash] => ContentId { is_manifest: false, hash },
            _ => ContentId { is_manifest: true, hash: *blake3::hash(&self.encode()).as_bytes() },
        }
    }

    /// As it is addressed, stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MANIFEST_HEAD + self.blocks.len() * 32);
        bytes.extend(MANIFEST_MAGIC);
        bytes.push(MANIFEST_VERSION);
        bytes.extend(self.len.to_le_bytes());
        self.blocks.iter().for_each(|hash| bytes.extend(hash));
        bytes
    }

    /// Of what was encoded, checked against the id that was asked for.
    ///
    /// # Errors
    /// [`MeshError::Malformed`] for anything else.
    pub fn decode(bytes: &[u8], id: &ContentId) -> Result<Self, MeshError> {
        let not = |what: &str| MeshError::Malformed(format!("a manifest {what}: id={id}"));
        if !id.is_manifest || *blake3::hash(bytes).as_bytes() != id.hash {
            return Err(not("of another content"));
        }
        let (head, hashes) = bytes.split_at_checked(MANIFEST_HEAD).ok_or_else(|| not("that is too short"))?;
        if head[..8] != *MANIFEST_MAGIC || head[8] != MANIFEST_VERSION {
            return Err(not("of another format"));
        }
        let len = head[9..].iter().rev().fold(0, |len, byte| len << 8 | u64::from(*byte));
        let (blocks, rest) = hashes.as_chunks::<32>();
        match Self::new(len, blocks.to_vec()) {
            Some(manifest) if rest.is_empty() && len <= CONTENT_LEN_MAX => Ok(manifest),
            _ => Err(not("whose length is not that of its blocks")),
        }
    }

    /// Of a content of one block, which has none of its own.
    pub fn of_one(len: u64, id: &ContentId) -> Option<Self> {
        if id.is_manifest {
            None
        } else {
            Self::new(len, vec![id.hash])
        }
    }
}

/// Bytes that a content of `len` bytes has as its manifest; 0 for one block.
pub fn manifest_len(len: u64) -> u64 {
    match blocks_of(len) {
        1 => 0,
        blocks => MANIFEST_HEAD as u64 + blocks * 32,
    }
}

/// An empty content has one block without bytes.
fn blocks_of(len: u64) -> u64 {
    len.div_ceil(BLOCK_LEN as u64).max(1)
}

/// Makes a manifest of a content that passes by.
#[derive(Debug, Default)]
pub struct Hashing {
    block: blake3::Hasher,
    in_block: usize,
    len: u64,
    blocks: Vec<Hash>,
}

impl Hashing {
    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - self.in_block));
            self.block.update(now);
            self.in_block += now.len();
            if self.in_block == BLOCK_LEN {
                self.end_block();
            }
            bytes = rest;
        }
    }

    /// The hash of the block that the last bytes ended, if they did.
    pub fn ended_block(&self) -> Option<&Hash> {
        self.blocks.last().filter(|_| self.in_block == 0)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The manifest.
    pub fn finish(mut self) -> Manifest {
        if self.in_block > 0 || self.blocks.is_empty() {
            self.end_block();
        }
        Manifest { len: self.len, blocks: self.blocks }
    }

    fn end_block(&mut self) {
        self.blocks.push(*self.block.finalize().as_bytes());
        self.block.reset();
        self.in_block = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_has_one_id_however_it_comes() {
        let block = |n: u64| blake3::hash(&n.to_le_bytes()).as_bytes().repeat(BLOCK_LEN / 32);
        let content: Vec<u8> = (0..3).flat_map(block).chain([7; 100]).collect();
        for step in [1 << 20, BLOCK_LEN, 4_097] {
            let mut hashing = Hashing::default();
            content.chunks(step).for_each(|bytes| hashing.update(bytes));
            let manifest = hashing.finish();
            assert_eq!((manifest.blocks().len(), manifest.place(3)), (4, (3 * BLOCK_LEN as u64, 100)));
            assert_eq!(manifest.blocks()[1], *blake3::hash(&block(1)).as_bytes());
            assert_eq!(Manifest::decode(&manifest.encode(), &manifest.id()).expect("its own"), manifest);
            assert_eq!(manifest.encode().len() as u64, manifest_len(content.len() as u64));
        }
        let empty = Hashing::default().finish();
        assert_eq!((empty.id(), empty.is_empty()), (ContentId::of_block(b""), true));
        let id = ContentId::of_block(b"a");
        assert_eq!(ContentId::from_bytes(&id.to_bytes()), Some(id));
        assert_eq!(id.to_bytes()[..2], [1, 0x55]);
    }

    #[test]
    fn what_a_peer_made_up_is_no_manifest() {
        let mut hashing = Hashing::default();
        hashing.update(&vec![1; BLOCK_LEN + 1]);
        let manifest = hashing.finish();
        let (id, bytes) = (manifest.id(), manifest.encode());
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(Manifest::decode(&other, &id).is_err());
            // one that was addressed as it is, and says what cannot be
            let named = ContentId { is_manifest: true, hash: *blake3::hash(&other).as_bytes() };
            // two blocks may hold other lengths, too
            let len = u64::from_le_bytes(other[9..17].try_into().expect("eight"));
            let can_be = other[..9] == bytes[..9] && blocks_of(len) == 2;
            assert_eq!(Manifest::decode(&other, &named).is_ok(), can_be, "at={at}");
        }
        let cut = ContentId { is_manifest: true, hash: *blake3::hash(&bytes[..40]).as_bytes() };
        assert!(Manifest::decode(&bytes[..40], &cut).is_err());
    }
}
