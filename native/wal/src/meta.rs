//! The log's identity and the user's small durable record, in `wal.meta`: two slots written in turn.
//!
//! Invariant: the slot that is overwritten is never the newest durable one, so that a torn write
//! leaves the record before it.

use crate::record::{le, NUMBER_MAX};
use crate::WalError;
use macula_core::{Chance, Disk, DiskFile, Open, RelPath};
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// The longest record of the user's, bytes.
pub const META_LEN_MAX: usize = 3840;

pub(crate) const NAME: &str = "wal.meta";
const NAME_NEW: &str = "wal.meta.new";
const SLOT: usize = 4096;
/// Of the file.
pub(crate) const META_BYTES: u64 = 2 * SLOT as u64;
const HEAD: usize = 48;
const SUM: usize = SLOT - 16;
const MAGIC: &[u8; 8] = b"MACULAWM";
const VERSION: u16 = 1;
const CIPHER_PLAIN: u16 = 0;

/// The open file.
#[derive(Debug)]
pub(crate) struct Meta {
    file: Arc<dyn DiskFile>,
    pub log_id: [u8; 16],
    generation: u64,
    pub bytes: Vec<u8>,
}

impl Meta {
    /// `None` when there is no log here.
    pub fn open(disk: &dyn Disk) -> Result<Option<Self>, WalError> {
        let file = match disk.open(&RelPath::literal(NAME), Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(WalError::io("open the log"))?,
        };
        let mut newest: Option<Self> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT];
            match file.read_exact_at(&mut bytes, (slot * SLOT) as u64) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read.map_err(WalError::io("open the log"))?,
            }
            let found = Self::decode(&bytes, &file)?;
            newest = match (newest, found) {
                (Some(old), Some(new)) if new.generation <= old.generation => Some(old),
                (old, None) => old,
                (_, new) => new,
            };
        }
        let meta = newest.ok_or_else(|| WalError::corrupt(NAME, 0, "no valid copy of the log's meta record"))?;
        // it may have been found in the page cache only: the other slot is overwritten next
        meta.write(meta.generation, &meta.bytes).map_err(WalError::io("settle the log's meta record"))?;
        Ok(Some(meta))
    }

    /// A new log's, durable on return.
    pub fn create(disk: &dyn Disk, chance: &dyn Chance) -> Result<Self, WalError> {
        let (path, path_new) = (RelPath::literal(NAME), RelPath::literal(NAME_NEW));
        let fail = WalError::io("create the log");
        match disk.remove_file(&path_new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let file = disk.open(&path_new, Open::CreateNew).map_err(&fail)?;
        let mut log_id = [0; 16];
        chance.fill(&mut log_id);
        let meta = Self { file, log_id, generation: 1, bytes: Vec::new() };
        let made = meta.file.allocate(2 * SLOT as u64).and_then(|()| meta.write(1, &[]));
        made.and_then(|()| disk.rename(&path_new, &path)).map_err(&fail)?;
        disk.sync_dir(&RelPath::root()).map_err(|error| {
            // a name whose sync failed may never become durable, and nobody would know
            let _ = disk.remove_file(&path);
            fail(error)
        })?;
        Ok(meta)
    }

    /// Replace the user's record. After an error the newest durable one is unknown.
    pub fn set(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(self.generation + 1, bytes)?;
        self.generation += 1;
        self.bytes = bytes.to_vec();
        Ok(())
    }

    fn write(&self, generation: u64, bytes: &[u8]) -> io::Result<()> {
        let mut slot = vec![0; SLOT];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..10].copy_from_slice(&VERSION.to_le_bytes());
        slot[10..12].copy_from_slice(&CIPHER_PLAIN.to_le_bytes());
        slot[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        slot[16..32].copy_from_slice(&self.log_id);
        slot[32..40].copy_from_slice(&generation.to_le_bytes());
        slot[HEAD..HEAD + bytes.len()].copy_from_slice(bytes);
        let sum = xxh3_128(&slot[..SUM]);
        slot[SUM..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&slot, (generation % 2) * SLOT as u64)?;
        self.file.sync_data()
    }

    fn decode(slot: &[u8; SLOT], file: &Arc<dyn DiskFile>) -> Result<Option<Self>, WalError> {
        if &slot[..8] != MAGIC || xxh3_128(&slot[..SUM]).to_le_bytes() != slot[SUM..] {
            return Ok(None);
        }
        let newer = |what, found, known| Err(WalError::NewerFormat { file: NAME.to_owned(), what, found, known });
        let version = u16::from_le_bytes(le(&slot[8..]));
        if version > VERSION {
            return newer("version", version.into(), VERSION.into());
        }
        let cipher = u16::from_le_bytes(le(&slot[10..]));
        if cipher != CIPHER_PLAIN {
            return newer("cipher", cipher.into(), CIPHER_PLAIN.into());
        }
        let len = u32::from_le_bytes(le(&slot[12..])) as usize;
        let generation = u64::from_le_bytes(le(&slot[32..]));
        if len > META_LEN_MAX || generation > NUMBER_MAX {
            return Ok(None);
        }
        let bytes = slot[HEAD..HEAD + len].to_vec();
        Ok(Some(Self { file: file.clone(), log_id: le(&slot[16..]), generation, bytes }))
    }
}
