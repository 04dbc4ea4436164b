//! Key bytes back to External Term Format.
//!
//! The tie-break stands behind the term, and where that ends is known only after reading it. Most
//! keys have none, so the first pass supposes zeros; only when bytes follow is there a second.
//! Invariant: what is accepted is exactly what `encode` writes.

use crate::reader::{Reader, Source};
use crate::tie::TieBreak;
use crate::{tag, text, write, TermError, DEPTH_MAX, KEY_BYTES_MAX};

pub(crate) struct Decoder<'a> {
    pub(crate) key: Reader<'a>,
    pub(crate) out: Vec<u8>,
    pub(crate) ties: TieBreak<'a>,
    /// The term can not be right without its tie-break.
    pub(crate) needs_ties: bool,
}

/// Decodes the one term that `key` holds.
pub(crate) fn run(key: &[u8]) -> Result<Vec<u8>, TermError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(TermError::TooLarge { bytes_max: KEY_BYTES_MAX });
    }
    let first = Decoder::pass(key, TieBreak::unknown(), Vec::new())?;
    let tie_bytes = first.key.rest();
    if tie_bytes.is_empty() && !first.needs_ties {
        return Ok(first.out);
    }
    let second = Decoder::pass(key, TieBreak::known(tie_bytes), first.out)?;
    if tie_bytes.last() == Some(&0) || tie_bytes.len() > second.ties.at() {
        return Err(second.key.fail("the tie-break is longer than it need be"));
    }
    Ok(second.out)
}

impl<'a> Decoder<'a> {
    fn pass(key: &'a [u8], ties: TieBreak<'a>, mut out: Vec<u8>) -> Result<Self, TermError> {
        out.clear();
        out.reserve(key.len() + 16);
        out.push(tag::VERSION);
        let key = Reader::new(key, Source::Key);
        let mut this = Self { key, out, ties, needs_ties: false };
        this.term(0, false)?;
        Ok(this)
    }

    /// One term. `in_map_key`: integers before floats, no tie between them.
    pub(crate) fn term(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        match self.key.u8()? {
            tag::KEY_ATOM => self.atom(),
            tag::KEY_BITSTRING => self.bitstring(),
            tag::KEY_TUPLE => self.tuple(depth, in_map_key),
            tag::KEY_NIL => {
                self.out.push(tag::NIL);
                Ok(())
            }
            tag::KEY_LIST => self.list(depth, in_map_key),
            tag::KEY_MAP => self.map(depth, in_map_key),
            tag::KEY_REFERENCE => self.reference(),
            tag::KEY_PORT => self.port(),
            tag::KEY_PID => self.pid(),
            tag::KEY_FUN => self.fun(depth, in_map_key),
            tag::KEY_EXPORT => self.export(),
            tag => self.number(tag, in_map_key),
        }
    }

    /// The depth of what is inside a term at `depth`.
    pub(crate) fn deeper(depth: usize) -> Result<usize, TermError> {
        if depth >= DEPTH_MAX {
            return Err(TermError::TooDeep { depth_max: DEPTH_MAX });
        }
        Ok(depth + 1)
    }

    fn bitstring(&mut self) -> Result<(), TermError> {
        let from = self.out.len();
        write::counted(&mut self.out, tag::BINARY, 0);
        let bits = text::take(&mut self.key, &mut self.out)?;
        // below the key's limit
        let length = (self.out.len() - from - 5) as u32;
        self.out[from + 1..from + 5].copy_from_slice(&length.to_be_bytes());
        if bits < 8 {
            self.out[from] = tag::BIT_BINARY;
            self.out.insert(from + 5, bits);
        }
        Ok(())
    }
}
