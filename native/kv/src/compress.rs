//! Values that lie compressed in the file: zstd, where that pays.
//!
//! Invariant: what was compressed is taken back to exactly the length that its cell names, or is an error.

use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

/// Shorter values are left as they are, bytes: of a page of 4,096 there would be little to gain.
pub(crate) const COMPRESS_LEN_MIN: usize = 1024;
/// The fastest of zstd's own: a drain waits for it.
const LEVEL: i32 = 1;
/// Of a long value, so much is tried first, bytes.
const SAMPLE_LEN: usize = 16 << 10;

thread_local! {
    // 150 KB that would be set up for each value
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses the values of one drain.
pub(crate) struct Compress {
    /// Shorter values stay as they are, bytes.
    pub len_min: usize,
    /// Made when needed.
    zstd: Option<Compressor<'static>>,
}

impl Compress {
    /// Values of `len_min` bytes and more.
    pub fn new(len_min: usize) -> Self {
        Self { len_min, zstd: None }
    }

    /// `None`: it does not pay.
    pub fn try_on(&mut self, value: &[u8]) -> Option<Vec<u8>> {
        if value.len() < self.len_min {
            return None;
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Compressor::new(LEVEL).ok()?),
        };
        let mut smaller = |bytes: &[u8]| zstd.compress(bytes).ok().filter(|smaller| pays(bytes.len(), smaller.len()));
        match value.get(..SAMPLE_LEN).filter(|_| value.len() >= 4 * SAMPLE_LEN) {
            Some(sample) => smaller(sample).and_then(|_| smaller(value)),
            None => smaller(value),
        }
    }
}

/// An eighth less, at least.
fn pays(len: usize, compressed_len: usize) -> bool {
    compressed_len <= len - len / 8
}

/// The value of `len` bytes that was compressed.
pub(crate) fn decompress(bytes: &[u8], len: u64) -> Result<Vec<u8>, redb::Error> {
    let wrong = |what: String| redb::Error::Corrupted(format!("a compressed value: {what}"));
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let zstd = match kept {
            Some(zstd) => zstd,
            none => none.insert(Decompressor::new().map_err(|error| wrong(error.to_string()))?),
        };
        match usize::try_from(len).map(|len| zstd.decompress(bytes, len)) {
            Ok(Ok(value)) if value.len() as u64 == len => Ok(value),
            Ok(Ok(value)) => Err(wrong(format!("len={len} found={}", value.len()))),
            Ok(Err(error)) => Err(wrong(format!("len={len}: {error}"))),
            Err(_) => Err(wrong(format!("len={len}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pays_is_compressed_and_comes_back() {
        let mut compress = Compress::new(100);
        let mut noise = vec![0; 200_000];
        fastrand::Rng::with_seed(7).fill(&mut noise);
        let mixed = [&[7; 20_000][..], &noise].concat();
        for (value, pays) in [(&[7; 99][..], false), (&[7; 100], true), (&noise, false), (&[7; 1 << 20], true)] {
            let found = compress.try_on(value);
            assert_eq!(found.is_some(), pays, "{}", value.len());
            if let Some(bytes) = found {
                assert_eq!(decompress(&bytes, value.len() as u64).expect("reads"), value);
                for wrong in [0, value.len() as u64 - 1, value.len() as u64 + 1] {
                    assert!(decompress(&bytes, wrong).is_err(), "{wrong}");
                }
                assert!(decompress(&bytes[..bytes.len() / 2], value.len() as u64).is_err());
            }
        }
        // the sample promised more than there was
        assert!(compress.try_on(&mixed).is_none());
    }
}
