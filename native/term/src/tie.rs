//! The tie-break at the end of key bytes: which of several equal (`==`) terms this one is.
//!
//! Each position of the term that has more than one form of the same value appends one byte (a
//! number: 0 integer, 1 float, zero has 1 for -0.0 and 2 for 0.0) or, for a local fun, 22. Zero
//! bytes at the end are cut off, so that a key without such floats and funs has no tie-break at
//! all. Invariant: the first byte is below 0xff, the last is not zero.

/// The tie-break under construction. Zeros are only counted until something follows them.
#[derive(Default)]
pub(crate) struct Ties {
    bytes: Vec<u8>,
    zeros: usize,
    pinned: usize,
}

impl Ties {
    #[inline]
    pub(crate) fn push(&mut self, tie: u8) {
        if tie == 0 && self.pinned == 0 {
            self.zeros += 1;
        } else {
            self.push_slow(tie);
        }
    }

    #[cold]
    fn push_slow(&mut self, tie: u8) {
        self.flush();
        self.bytes.push(tie);
    }

    fn flush(&mut self) {
        if self.zeros > 0 {
            self.bytes.resize(self.bytes.len() + self.zeros, 0);
            self.zeros = 0;
        }
    }

    /// From here on every byte is written, so that a map can put them in order, until `unpin`.
    pub(crate) fn pin(&mut self) {
        self.flush();
        self.pinned += 1;
    }

    pub(crate) fn unpin(&mut self) {
        self.pinned -= 1;
    }

    /// The bytes written while pinned.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Vec<u8> {
        self.bytes.split_off(at)
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The whole tie-break, cut after the last byte that is not zero.
    pub(crate) fn finish(&self) -> &[u8] {
        let end = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &self.bytes[..end]
    }
}

/// The tie-break of a key that is being decoded: first unknown, because it stands after the term.
pub(crate) struct TieBreak<'a> {
    bytes: Option<&'a [u8]>,
    at: usize,
}

impl<'a> TieBreak<'a> {
    pub(crate) fn unknown() -> Self {
        Self { bytes: None, at: 0 }
    }

    pub(crate) fn known(bytes: &'a [u8]) -> Self {
        Self { bytes: Some(bytes), at: 0 }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.bytes.is_some()
    }

    /// The next byte; zero beyond the end and while unknown.
    pub(crate) fn next(&mut self) -> u8 {
        let tie = self.peek(self.at);
        self.at += 1;
        tie
    }

    fn peek(&self, at: usize) -> u8 {
        self.bytes.and_then(|bytes| bytes.get(at).copied()).unwrap_or(0)
    }

    /// How many bytes were asked for.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Orders two ranges of equal length.
    pub(crate) fn compare(&self, a: (usize, usize), b: (usize, usize)) -> std::cmp::Ordering {
        let bytes = |(from, to): (usize, usize)| (from..to).map(|at| self.peek(at));
        bytes(a).cmp(bytes(b))
    }
}
