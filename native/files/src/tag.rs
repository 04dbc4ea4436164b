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
    Ok(file.tag(NAME)?.and_then(|value| decode(&value, stat)))
}

fn decode(value: &[u8], stat: &Stat) -> Option<[u8; 32]> {
    let (version, rest) = value.split_first()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let (mtime, rest) = rest.split_first_chunk::<16>()?;
    let same = u64::from_le_bytes(*len) == stat.len && i128::from_le_bytes(*mtime) == stat.mtime_ns;
    (*version == VERSION && rest.is_empty() && same).then_some(*hash)
}
