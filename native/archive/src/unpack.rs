//! Unpacking and verifying: which way an archive is read, and what must hold at its end.
//!
//! Invariant: an archive is taken only when its tar ended, its manifest lists exactly what was there
//! with the right BLAKE3s, and nothing follows. Only archives that the caller calls foreign may lack
//! manifest or index. Memory: see [`crate::pack`], with two groups per worker.

use crate::codec;
use crate::error::{corrupt, guarded, refused, ArchiveError, Result};
use crate::head::{archive_len, read as read_head, Head, MANIFEST};
use crate::header::{self, EntryKind, Meta};
use crate::index::Index;
use crate::input::{Input, StreamInput};
use crate::item::UnpackOptions;
use crate::manifest::{Lines, ManifestEntry, Totals};
use crate::parallel::{self, GroupRead};
use crate::place::{Hand, Place, Turn};
use macula_core::{Disk, DiskFile, Task};
use std::io::Read;
use std::sync::Arc;

/// Zero bytes after the end of a foreign tar: its last record's rest.
const ZEROS_MAX: usize = 1 << 20;
/// Bytes of a manifest that are looked at at once.
const PIECE: u64 = 256 << 10;
/// The longest manifest line that this code writes, for a limit of the whole.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// What was unpacked or verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// What the archive says about itself; `None` for a foreign one.
    pub head: Option<Head>,
    /// The manifest's totals; `None` for a foreign archive without one.
    pub totals: Option<Totals>,
    /// BLAKE3 of the manifest.
    pub manifest_blake3: Option<[u8; 32]>,
    /// Entries, the head included.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Unpacks into `dest`, a fresh and empty directory, verifying everything. Nothing is synced: the
/// caller does that once for the tree. After an error `dest` holds some of the entries and is to be
/// discarded.
///
/// Errors: `Refused` hostile entries, `Corrupt`, `Truncated`, `TooLarge`, `Newer`, `NotOurs`,
/// `Cancelled`, `Io`.
pub fn unpack(
    archive: &Arc<dyn DiskFile>,
    dest: &Arc<dyn Disk>,
    options: &UnpackOptions,
    task: &Task,
) -> Result<Unpacked> {
    guarded(|| read(archive, Some(dest), options, task))
}

/// Reads and checks everything as [`unpack`] does, writes nothing.
pub fn verify(archive: &Arc<dyn DiskFile>, options: &UnpackOptions, task: &Task) -> Result<Unpacked> {
    guarded(|| read(archive, None, options, task))
}

fn read(
    archive: &Arc<dyn DiskFile>,
    dest: Option<&Arc<dyn Disk>>,
    options: &UnpackOptions,
    task: &Task,
) -> Result<Unpacked> {
    if !(1..=64).contains(&options.workers) {
        return Err(ArchiveError::Invalid { what: "workers must be 1 to 64", got: options.workers.to_string() });
    }
    let format = codec::detect(&**archive)?;
    let head = match read_head(format, archive) {
        Err(ArchiveError::NotOurs { .. }) if options.foreign => None,
        result => Some(result?),
    };
    let place = Place::new(dest, head.as_ref(), options, task);
    let index = match &head {
        Some(head) if head.indexed => Index::find(&**archive, format)?,
        _ => None,
    };
    let manifest = match index {
        Some(index) => {
            parallel::place_groups(archive, format, &index, &place, options.workers)?;
            let mut input = StreamInput::new(GroupRead::manifest(archive, format, &index));
            match header::read(&mut input)? {
                Some(meta) if matches!(place.turn(&meta), Turn::Manifest) => {
                    let manifest = read_manifest(&meta, &mut input, &place)?;
                    expect_end(&mut input, 0)?;
                    Some(manifest)
                }
                _ => return corrupt("the manifest is not where the index says", MANIFEST),
            }
        }
        None if head.as_ref().is_some_and(|head| head.indexed) && !options.foreign => {
            return Err(ArchiveError::Truncated { what: "no index at its end" });
        }
        None => {
            let mut input = StreamInput::new(codec::stream(format, archive)?);
            read_stream(&mut input, &place, archive_len(&**archive)?)?
        }
    };
    if manifest.is_none() && !options.foreign {
        return Err(ArchiveError::Truncated { what: "no manifest" });
    }
    place.finish()?;
    let (entries, bytes) = place.counts();
    let (totals, hash) = manifest.unzip();
    drop(place);
    Ok(Unpacked { head, totals, manifest_blake3: hash.map(|hash| *hash.as_bytes()), entries, bytes })
}

type Manifest = (Totals, blake3::Hash);

/// One entry after the other, as any tar is read.
fn read_stream(input: &mut StreamInput<impl Read>, place: &Place<'_>, bytes_total: u64) -> Result<Option<Manifest>> {
    let mut hand = Hand::new(place);
    let mut manifest = None;
    while let Some(meta) = header::read(input)? {
        if manifest.is_some() {
            return refused("an entry after the manifest", &meta.path);
        }
        match place.turn(&meta) {
            Turn::Manifest => manifest = Some(read_manifest(&meta, input, place)?),
            Turn::Entry => hand.entry(meta, input)?,
        }
        place.report(bytes_total);
    }
    input.expect_end(ZEROS_MAX)?;
    Ok(manifest)
}

fn expect_end(input: &mut StreamInput<impl Read>, zeros_max: usize) -> Result<()> {
    match header::read(input)? {
        None => input.expect_end(zeros_max),
        Some(meta) => refused("an entry after the manifest", &meta.path),
    }
}

/// Compares the manifest, whose text is next, with what was placed.
fn read_manifest(meta: &Meta, input: &mut impl Input, place: &Place<'_>) -> Result<Manifest> {
    let (entries, _) = place.counts();
    // vanished entries have lines too, so there may be more lines than entries
    let len_max = entries.saturating_mul(2).saturating_add(4096).saturating_mul(LINE_BYTES_MAX);
    if meta.kind != EntryKind::File || meta.len > len_max {
        return refused("the manifest is too long, or no file", MANIFEST);
    }
    let manifest = read_lines(meta, input, &mut |entry| {
        place.check_cancelled()?;
        place.check_listed(&entry)
    })?;
    place.check_all_listed()?;
    Ok(manifest)
}

fn read_lines(
    meta: &Meta,
    input: &mut impl Input,
    each: &mut dyn FnMut(ManifestEntry) -> Result<()>,
) -> Result<Manifest> {
    let mut lines = Lines::default();
    let mut left = meta.len;
    while left > 0 {
        let piece = left.min(PIECE);
        lines.feed(input.take(piece as usize)?, each)?;
        left -= piece;
    }
    input.take(header::padding(meta.len))?;
    lines.finish()
}

/// The lines of an archive's manifest, given to `each` in order, and their totals. Only head and
/// manifest are read and checked, not the entries: [`verify`] does that. An archive without an index
/// is read as a whole.
///
/// Errors: as [`unpack`]; `NotOurs` for an archive without a head.
pub fn list(archive: &Arc<dyn DiskFile>, task: &Task, each: &mut dyn FnMut(ManifestEntry)) -> Result<(Head, Totals)> {
    let format = codec::detect(&**archive)?;
    let head = read_head(format, archive)?;
    let mut each = |entry| {
        if task.cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        each(entry);
        Ok(())
    };
    let path = [head.prefix.as_bytes(), b"/", MANIFEST].concat();
    let index = if head.indexed { Index::find(&**archive, format)? } else { None };
    if let Some(index) = index {
        let mut input = StreamInput::new(GroupRead::manifest(archive, format, &index));
        return match header::read(&mut input)? {
            Some(meta) if meta.path == path => Ok((head, read_lines(&meta, &mut input, &mut each)?.0)),
            _ => corrupt("the manifest is not where the index says", MANIFEST),
        };
    }
    let mut input = StreamInput::new(codec::stream(format, archive)?);
    while let Some(meta) = header::read(&mut input)? {
        if meta.path == path {
            return Ok((head, read_lines(&meta, &mut input, &mut each)?.0));
        }
        let mut left = meta.len + header::padding(meta.len) as u64;
        while left > 0 {
            if task.cancel.is_cancelled() {
                return Err(ArchiveError::Cancelled);
            }
            let piece = left.min(PIECE);
            input.take(piece as usize)?;
            left -= piece;
        }
    }
    Err(ArchiveError::Truncated { what: "no manifest" })
}
