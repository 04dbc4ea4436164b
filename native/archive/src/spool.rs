//! The manifest's text until the end, where it is written: compressed in memory, as its length stands
//! in its header, before it.

use crate::codec::{Packer, Unpacker};
use crate::error::Result;
use crate::item::Format;

/// Text that is compressed as one piece.
const PIECE: usize = 1 << 20;

pub(crate) struct Spool {
    packer: Packer,
    pieces: Vec<(Vec<u8>, usize)>,
    tail: Vec<u8>,
    len: u64,
    hasher: blake3::Hasher,
}

impl Spool {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            packer: Packer::new(Format::Zst, 1)?,
            pieces: Vec::new(),
            tail: Vec::new(),
            len: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    pub(crate) fn push(&mut self, text: &[u8]) -> Result<()> {
        self.hasher.update(text);
        self.len += text.len() as u64;
        self.tail.extend_from_slice(text);
        while self.tail.len() >= PIECE {
            let mut packed = Vec::new();
            self.packer.pack(&self.tail[..PIECE], &mut packed)?;
            packed.shrink_to_fit();
            self.pieces.push((packed, PIECE));
            self.tail.drain(..PIECE);
        }
        Ok(())
    }

    pub(crate) fn len_and_hash(&self) -> (u64, blake3::Hash) {
        (self.len, self.hasher.finalize())
    }

    /// The text again, in pieces of a slice at most.
    pub(crate) fn pieces(self) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
        let mut unpacker = Unpacker::new(Format::Zst);
        let packed = self.pieces.into_iter().map(move |(packed, len)| {
            let mut text = Vec::new();
            unpacker.unpack(&packed, len, &mut text).map(|()| text)
        });
        Ok(packed.chain(std::iter::once(Ok(self.tail))))
    }
}
