//! Tuples, lists and maps.
//!
//! A tuple is its arity and its elements. A list is one cell after the other, each with a tag,
//! ended by the tail's term, so that `[]`, improper tails and longer lists compare as terms do.
//! A map is its size, its keys in ascending order, then its values in the order of their keys.

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::{count, tag, write, TermError};

/// Where one association was written: the ends of key and value, in the key bytes and in the ties.
#[derive(Clone, Copy)]
struct Pair {
    out: [usize; 3],
    ties: [usize; 3],
}

impl Encoder<'_> {
    #[inline]
    pub(crate) fn tuple(&mut self, arity: u32, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        self.out.push(tag::KEY_TUPLE);
        count::put(&mut self.out, arity);
        for _ in 0..arity {
            self.term(depth, in_map_key)?;
        }
        Ok(())
    }

    pub(crate) fn list(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let inside = Self::deeper(depth)?;
        loop {
            let length = self.etf.u32()?;
            for _ in 0..length {
                self.out.push(tag::KEY_LIST);
                self.term(inside, in_map_key)?;
            }
            // a list as the tail of a list is more of the same list
            match self.etf.peek() {
                Some(tag::LIST) => self.etf.u8()?,
                _ => return self.term(depth, in_map_key),
            };
        }
    }

    /// STRING_EXT: a list of bytes.
    pub(crate) fn string(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        Self::deeper(depth)?;
        let length = usize::from(self.etf.u16()?);
        for byte in self.etf.take(length)? {
            self.out.push(tag::KEY_LIST);
            self.small(false, u64::from(*byte), in_map_key);
        }
        self.out.push(tag::KEY_NIL);
        Ok(())
    }

    #[inline(never)]
    pub(crate) fn map(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        let size = self.etf.u32()?;
        if size as usize > self.etf.remaining() / 2 {
            return Err(self.etf.fail("it ends early"));
        }
        self.out.push(tag::KEY_MAP);
        count::put(&mut self.out, size);
        if size == 0 {
            return Ok(());
        }
        self.ties.pin();
        let pairs = self.pairs(size, depth, in_map_key)?;
        self.put_in_order(pairs)?;
        self.ties.unpin();
        Ok(())
    }

    // apart from `put_in_order`, so that what that needs is not on the stack at every level
    #[inline(never)]
    fn pairs(&mut self, size: u32, depth: usize, in_map_key: bool) -> Result<Vec<Pair>, TermError> {
        let mut pairs = Vec::new();
        for _ in 0..size {
            let mut pair = Pair { out: [self.out.len(); 3], ties: [self.ties.bytes().len(); 3] };
            self.term(depth, true)?;
            (pair.out[1], pair.ties[1]) = (self.out.len(), self.ties.bytes().len());
            self.term(depth, in_map_key)?;
            (pair.out[2], pair.ties[2]) = (self.out.len(), self.ties.bytes().len());
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// Rewrites the associations just written: keys in ascending order, then their values.
    #[inline(never)]
    fn put_in_order(&mut self, mut pairs: Vec<Pair>) -> Result<(), TermError> {
        let (out_from, ties_from) = match pairs.first() {
            Some(first) => (first.out[0], first.ties[0]),
            None => return Ok(()),
        };
        let out = self.out.split_off(out_from);
        let ties = self.ties.split_off(ties_from);
        let out_part = |pair: &Pair, part: usize| &out[pair.out[part] - out_from..pair.out[part + 1] - out_from];
        let ties_part = |pair: &Pair, part: usize| &ties[pair.ties[part] - ties_from..pair.ties[part + 1] - ties_from];
        let key = |pair: &Pair| (out_part(pair, 0), ties_part(pair, 0));
        pairs.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        if pairs.windows(2).any(|two| key(&two[0]) == key(&two[1])) {
            return Err(self.etf.fail("a map has the same key twice"));
        }
        for part in [0, 1] {
            for pair in &pairs {
                self.out.extend_from_slice(out_part(pair, part));
                self.ties.extend(ties_part(pair, part));
            }
        }
        Ok(())
    }
}

impl Decoder<'_> {
    pub(crate) fn tuple(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        let arity = count::take(&mut self.key)?;
        write::tuple(&mut self.out, arity);
        for _ in 0..arity {
            self.term(depth, in_map_key)?;
        }
        Ok(())
    }

    pub(crate) fn list(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let inside = Self::deeper(depth)?;
        let from = self.out.len();
        write::counted(&mut self.out, tag::LIST, 0);
        let mut length: u32 = 0;
        loop {
            // each cell took at least one byte of the key
            length += 1;
            self.term(inside, in_map_key)?;
            match self.key.peek() {
                Some(tag::KEY_LIST) => self.key.u8()?,
                _ => break,
            };
        }
        self.out[from + 1..from + 5].copy_from_slice(&length.to_be_bytes());
        self.term(depth, in_map_key)
    }

    #[inline(never)]
    pub(crate) fn map(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        let size = count::take(&mut self.key)?;
        if size as usize > self.key.remaining() / 2 {
            return Err(self.key.fail("it ends early"));
        }
        write::counted(&mut self.out, tag::MAP, size);
        let from = self.out.len();
        let ends = self.map_keys(size, depth)?;
        let keys = self.out.split_off(from);
        let mut start = 0;
        for end in ends {
            self.out.extend_from_slice(&keys[start..end]);
            start = end;
            self.term(depth, in_map_key)?;
        }
        Ok(())
    }

    /// Decodes the keys one after the other; answers where each ends.
    fn map_keys(&mut self, size: u32, depth: usize) -> Result<Vec<usize>, TermError> {
        let from = self.out.len();
        let mut ends = Vec::new();
        let mut previous: Option<(&[u8], (usize, usize))> = None;
        for _ in 0..size {
            let (key_from, ties_from) = (self.key.at(), self.ties.at());
            self.term(depth, true)?;
            ends.push(self.out.len() - from);
            let (key, ties) = (self.key.since(key_from), (ties_from, self.ties.at()));
            if let Some((before, before_ties)) = previous {
                let order = before.cmp(key);
                // only the tie-break can still tell them apart
                self.needs_ties |= order.is_eq();
                let known = self.ties.is_known() && order.is_eq();
                if order.is_gt() || (known && self.ties.compare(before_ties, ties).is_ge()) {
                    return Err(self.key.fail("the keys of a map are not in order"));
                }
            }
            previous = Some((key, ties));
        }
        Ok(ends)
    }
}
