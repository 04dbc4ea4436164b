//! Where tar bytes come from: a group in memory, or a decompressed stream.
//!
//! Invariant: an input gives exactly the bytes asked for or an error that says that the end is
//! missing; it never gives fewer.

use crate::error::{corrupt, ArchiveError, Result};
use std::io::{self, Read};

pub(crate) trait Input {
    /// The next `len` bytes, a slice's length and a few headers at most.
    fn take(&mut self, len: usize) -> Result<&[u8]>;
}

/// One group, whole entries or a slice.
pub(crate) struct GroupInput<'a>(pub(crate) &'a [u8]);

impl GroupInput<'_> {
    pub(crate) fn at_end(&self) -> bool {
        self.0.is_empty()
    }
}

impl Input for GroupInput<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return corrupt("a group ends inside an entry", b"");
        };
        self.0 = rest;
        Ok(taken)
    }
}

/// A decompressed stream.
pub(crate) struct StreamInput<R> {
    from: R,
    bytes: Vec<u8>,
}

impl<R: Read> StreamInput<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// The end of the archive: nothing but `zeros_max` zero bytes may follow.
    pub(crate) fn expect_end(&mut self, zeros_max: usize) -> Result<()> {
        let mut zeros = 0;
        let mut bytes = [0; 4096];
        loop {
            let n = self.from.read(&mut bytes).map_err(broken)?;
            zeros += n;
            if n == 0 {
                return Ok(());
            }
            if zeros > zeros_max || bytes[..n].iter().any(|b| *b != 0) {
                return corrupt("bytes after the end", b"");
            }
        }
    }
}

impl<R: Read> Input for StreamInput<R> {
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.from.read_exact(&mut self.bytes[..len]).map_err(broken)?;
        Ok(&self.bytes[..len])
    }
}

/// What a reader's error says about the archive: a decompressor's own errors carry no system code.
pub(crate) fn broken(error: io::Error) -> ArchiveError {
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Carried>()) {
        if let Some(error) = inner.0.lock().take() {
            return error;
        }
    }
    match error.kind() {
        _ if error.raw_os_error().is_some() => {
            ArchiveError::Io { doing: "reading the archive", entry: String::new(), source: error }
        }
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated { what: "the compressed stream has no end" },
        _ => ArchiveError::Corrupt { what: "the compressed stream cannot be read", entry: String::new() },
    }
}

/// An error of ours on its way through a [`Read`].
#[derive(Debug)]
pub(crate) struct Carried(parking_lot::Mutex<Option<ArchiveError>>);

pub(crate) fn carried(error: ArchiveError) -> io::Error {
    io::Error::other(Carried(parking_lot::Mutex::new(Some(error))))
}

impl std::fmt::Display for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an archive error")
    }
}

impl std::error::Error for Carried {}
