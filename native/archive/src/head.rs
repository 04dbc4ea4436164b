//! The first entry, `<prefix>/macula.json`: what the archive is and who made it.
//!
//! Invariant: an archive of a newer version is refused by that version before anything else of it is
//! looked at.

use crate::codec;
use crate::error::{corrupt, io_at, ArchiveError, Result};
use crate::header::{self, EntryKind};
use crate::input::{Input, StreamInput};
use crate::item::{Format, PackOptions};
use macula_core::{DiskFile, RelPath};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The head's path below the top directory.
pub(crate) const HEAD: &[u8] = b"macula.json";
/// The manifest's.
pub(crate) const MANIFEST: &[u8] = b"manifest.jsonl";
/// The format that this code writes, and the newest that it reads.
pub const VERSION: u64 = 1;
const MAGIC: &str = "macula archive";
const LEN_MAX: u64 = 64 << 10;

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    magic: String,
    /// Format version.
    pub version: u64,
    /// Its top directory.
    pub prefix: String,
    /// Whether an index must stand at its end; without it the archive is cut short.
    pub indexed: bool,
    /// What the packer's caller said ([`PackOptions::about`]).
    pub about: serde_json::Value,
}

impl Head {
    /// The head that options ask for.
    pub(crate) fn of(options: &PackOptions) -> Result<Self> {
        prefix(options.prefix.as_bytes())?;
        Ok(Self {
            magic: MAGIC.to_owned(),
            version: VERSION,
            prefix: options.prefix.clone(),
            indexed: true,
            about: options.about.clone(),
        })
    }

    /// As it stands in the archive.
    pub(crate) fn text(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        if !self.about.is_object() || text.len() as u64 > LEN_MAX / 2 {
            let got = self.about.to_string().chars().take(80).collect();
            return Err(ArchiveError::Invalid { what: "about must be an object of at most 32 KiB", got });
        }
        Ok(text)
    }
}

fn prefix(bytes: &[u8]) -> Result<RelPath> {
    let invalid = |got: String| ArchiveError::Invalid { what: "the top directory must be one path component", got };
    let path = RelPath::new(bytes).map_err(|error| invalid(error.path))?;
    if path.parent().is_root() && bytes.len() <= 100 {
        Ok(path)
    } else {
        Err(invalid(path.to_string()))
    }
}

/// What an archive says about itself, from its first entry alone: cheap, and nothing else of it is
/// verified.
///
/// Errors: `NotOurs` when its first entry is not a head, `Newer`, `Corrupt`, `Truncated`, `Io`.
pub fn peek(archive: &Arc<dyn DiskFile>) -> Result<Head> {
    read(codec::detect(&**archive)?, archive)
}

pub(crate) fn read(format: Format, archive: &Arc<dyn DiskFile>) -> Result<Head> {
    let no_head = ArchiveError::NotOurs { what: "its first entry is no macula.json" };
    let mut input = StreamInput::new(codec::stream(format, archive)?);
    let meta = match header::read(&mut input) {
        Ok(Some(meta)) => meta,
        Ok(None) | Err(ArchiveError::Refused { .. }) => return Err(no_head),
        Err(error) => return Err(error),
    };
    let top = meta.path.strip_suffix(HEAD).and_then(|rest| rest.strip_suffix(b"/"));
    let Some(top) = top.filter(|_| meta.kind == EntryKind::File && meta.len <= LEN_MAX) else {
        return Err(no_head);
    };
    let text = input.take(meta.len as usize)?;
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(text) else { return Err(no_head) };
    if value["magic"] != MAGIC {
        return Err(no_head);
    }
    match value["version"].as_u64() {
        Some(version) if version > VERSION => return Err(ArchiveError::Newer { version, known: VERSION }),
        Some(_) => {}
        None => return corrupt("the head has no version", HEAD),
    }
    match serde_json::from_value::<Head>(value) {
        Ok(head) if head.prefix.as_bytes() == top && prefix(top).is_ok() => Ok(head),
        _ => corrupt("the head does not fit its version", HEAD),
    }
}

/// Length of the archive file, bytes.
pub(crate) fn archive_len(archive: &dyn DiskFile) -> Result<u64> {
    archive.len().map_err(io_at("reading the archive", b""))
}
