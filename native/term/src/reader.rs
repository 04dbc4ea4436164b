//! A bounds-checked cursor, over External Term Format or over key bytes.
//!
//! Each failure becomes the error that fits the source: the caller's input is malformed, stored
//! key bytes are corrupt.

use crate::TermError;

/// What the bytes are, and so whose fault a failure is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Etf,
    Key,
}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    source: Source,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], source: Source) -> Self {
        Self { bytes, at: 0, source }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes not yet read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The bytes read since `from`.
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..self.at]
    }

    #[cold]
    pub(crate) fn fail(&self, what: &'static str) -> TermError {
        let at = self.at;
        match self.source {
            Source::Etf => TermError::Malformed { what, at },
            Source::Key => TermError::Corrupt { what, at },
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], TermError> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() {
            return Err(self.fail("it ends early"));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], TermError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.fail("it ends early")),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, TermError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, TermError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, TermError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, TermError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// The next byte, not consumed.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}
