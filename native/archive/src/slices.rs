//! The BLAKE3 of a large file from slices that different threads hashed.
//!
//! A slice is a subtree of BLAKE3's own tree (its length is a power of two of chunks), so the result
//! is exactly the BLAKE3 of the whole (section 2.1 of the BLAKE3 paper; merging as in its 5.1.2).
//! Invariant: slices may come in any order; those that came early wait, a few in number.

use blake3::hazmat::{merge_subtrees_non_root, merge_subtrees_root, ChainingValue, HasherExt, Mode};
use std::collections::BTreeMap;

/// Bytes of a file that one group holds at most; larger files are split.
pub const SLICE: usize = 4 << 20;

/// The chaining value of slice `index` of a file of two slices or more.
pub(crate) fn slice_value(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * SLICE as u64);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Number of slices of a file.
pub(crate) fn slice_count(len: u64) -> u64 {
    len.div_ceil(SLICE as u64)
}

/// Length of slice `index` of a file of `len` bytes.
pub(crate) fn slice_len(len: u64, index: u64) -> usize {
    len.saturating_sub(index * SLICE as u64).min(SLICE as u64) as usize
}

#[derive(Debug, Default)]
pub(crate) struct SliceHash {
    /// Subtrees not merged yet, largest first.
    stack: Vec<ChainingValue>,
    count: u64,
    early: BTreeMap<u64, ChainingValue>,
}

impl SliceHash {
    /// Takes a slice's value; gives how many slices are in without a gap.
    pub(crate) fn add(&mut self, index: u64, value: ChainingValue) -> u64 {
        self.early.insert(index, value);
        while let Some(value) = self.early.remove(&self.count) {
            // merged only when more follows: the last merge is the root's, which differs
            while self.stack.len() > self.count.count_ones() as usize {
                self.merge();
            }
            self.stack.push(value);
            self.count += 1;
        }
        self.count
    }

    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The hash of the whole; of two slices or more.
    pub(crate) fn finish(&mut self) -> [u8; 32] {
        while self.stack.len() > 2 {
            self.merge();
        }
        match self.stack.as_slice() {
            [left, right] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            _ => [0; 32],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_hash_of_the_whole_in_any_order() {
        for (slices, rest) in [(1, 1), (1, SLICE), (2, 0), (2, 77), (3, 1024), (4, 0), (6, 5), (8, 1), (11, 4097)] {
            let bytes: Vec<u8> = (0..slices * SLICE + rest).map(|i| (i / 997) as u8).collect();
            let mut order: Vec<usize> = (0..slice_count(bytes.len() as u64) as usize).collect();
            fastrand::Rng::with_seed(slices as u64).shuffle(&mut order);
            let mut hash = SliceHash::default();
            for index in order {
                let end = bytes.len().min((index + 1) * SLICE);
                hash.add(index as u64, slice_value(index as u64, &bytes[index * SLICE..end]));
            }
            assert_eq!(hash.finish(), *blake3::hash(&bytes).as_bytes(), "slices={slices} rest={rest}");
        }
    }
}
