//! The digest that a file carries in the extended attribute `user.macula.b3`: version byte 1,
//! BLAKE3 (32 bytes), length (u64 LE), modification time (i128 LE, nanoseconds since 1970).
//!
//! Invariant: it speaks for a file only while length and modification time are still those it
//! names; a file that another program changed is simply not verified.

use macula_core::{DiskFile, Stat};
use std::io;

pub(crate) const NAME: &str = "b3";
const LEN: usize = 57;
const VERSION: u8 = 1;

/// Tell readers what `file` holds; where there are no attributes they read it unverified.
pub(crate) fn set(file: &dyn DiskFile, hash: &[u8; 32], stat: &Stat) -> io::Result<()> {
    let mut value = Vec::with_capacity(LEN);
    value.push(VERSION);
    value.extend_from_slice(hash);
    value.extend_from_slice(&stat.len.to_le_bytes());
    value.extend_from_slice(&stat.mtime_ns.to_le_bytes());
    match file.set_tag(NAME, &value) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

/// The digest of a file that is still as `stat` says.
pub(crate) fn get(file: &dyn DiskFile, stat: &Stat) -> io::Result<Option<[u8; 32]>> {
    get_for(file, stat.len, stat.mtime_ns)
}

/// The digest of a file that is still of that length and modification time.
pub(crate) fn get_for(file: &dyn DiskFile, len: u64, mtime_ns: i128) -> io::Result<Option<[u8; 32]>> {
    Ok(file.tag(NAME)?.and_then(|value| decode(&value, len, mtime_ns)))
}

/// Let readers take a file unverified.
pub(crate) fn clear(file: &dyn DiskFile) -> io::Result<()> {
    match file.set_tag(NAME, &[]) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

fn decode(value: &[u8], wanted_len: u64, wanted_mtime_ns: i128) -> Option<[u8; 32]> {
    let (version, rest) = value.split_first()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let (mtime, rest) = rest.split_first_chunk::<16>()?;
    let same = u64::from_le_bytes(*len) == wanted_len && i128::from_le_bytes(*mtime) == wanted_mtime_ns;
    (*version == VERSION && rest.is_empty() && same).then_some(*hash)
}
