//! The sorted record stream of backups (`kv.records`): every entry of a snapshot in key order, in
//! chunks with a checksum each, ended by counts and a hash of everything. docs/formats.md has the bytes.
//!
//! Invariant: an import gives exactly what was exported or an error, and nothing is visible before
//! the end record was checked and the new file is durable.

use crate::compress::COMPRESS_LEN_MIN;
use crate::engine::{Engine, Tuning, FILE_NAME};
use crate::scan::Scan;
use crate::value::le;
use crate::value::Loaded;
use crate::view::{Writes, EVERYTHING};
use crate::{KvError, Snapshot, Store, KEY_LEN_MAX, VALUE_LEN_MAX};
use macula_core::{Chance, Disk, Progress, RelPath, Task};
use std::io::{self, Read, Write};
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed, xxh3_64_with_seed};

const MAGIC: &[u8; 8] = b"MACULAKR";
const VERSION: u16 = 1;
const HEADER: usize = 64;
const CHUNK_HEAD: usize = 16;
const SUM: usize = 16;
const KIND_RECORDS: u32 = 1;
const KIND_END: u32 = 2;
const END_LEN: u64 = 48;
const RECORD_HEAD: usize = 16;
/// A chunk is closed when it holds as much.
const CHUNK_LEN: usize = 256 << 10;
const CHUNK_LEN_MAX: u64 = (CHUNK_LEN + RECORD_HEAD + KEY_LEN_MAX + VALUE_LEN_MAX) as u64;
/// Entries are given to redb in transactions of as many bytes.
const LOAD_LEN: usize = 4 << 20;
/// How the file is kept while loading.
const LOAD: Tuning = Tuning { cache_bytes: 64 << 20, compress_len_min: COMPRESS_LEN_MIN };
/// How errors name the stream.
const NAME: &str = "kv.records";

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Entries.
    pub entries: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// BLAKE3 of the stream.
    pub blake3: [u8; 32],
}

/// What an import read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Entries.
    pub entries: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// The revision that the store goes on from.
    pub revision: u64,
}

impl Store {
    /// Write every entry of `snapshot` to `out`, in memory bounded by a chunk and one value.
    pub fn export(&self, snapshot: &Snapshot, out: &mut dyn Write, task: &Task) -> Result<Exported, KvError> {
        let view = snapshot.view()?;
        let mut sink = Sink { out, hash: blake3::Hasher::new(), bytes: 0, index: 0, store_id: snapshot.store_id() };
        sink.header(view.revision)?;
        let nothing = Writes::new();
        let mut scan = Scan::new(&view, &nothing, false, &EVERYTHING, false)?;
        let (mut entries, mut payload_bytes, mut count) = (0_u64, 0_u64, 0_u32);
        let mut chunk = vec![0; CHUNK_HEAD];
        while let Some(item) = scan.next()? {
            let value = scan.value(&item, usize::MAX, <[u8]>::to_vec)?;
            let expires_ms = item.expires_ms();
            let key = item.into_key();
            chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&(value.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&expires_ms.to_le_bytes());
            chunk.extend_from_slice(&key);
            chunk.extend_from_slice(&value);
            entries += 1;
            count += 1;
            payload_bytes += (key.len() + value.len()) as u64;
            if chunk.len() >= CHUNK_LEN {
                if task.cancel.is_cancelled() || snapshot.view().is_err() {
                    return Err(if task.cancel.is_cancelled() { KvError::Cancelled } else { KvError::Closed });
                }
                sink.chunk(&mut chunk, KIND_RECORDS, count)?;
                count = 0;
                task.report(Progress { entries_done: entries, bytes_done: sink.bytes, bytes_total: 0 });
            }
        }
        if count > 0 {
            sink.chunk(&mut chunk, KIND_RECORDS, count)?;
        }
        let total = *sink.hash.finalize().as_bytes();
        chunk.extend_from_slice(&entries.to_le_bytes());
        chunk.extend_from_slice(&payload_bytes.to_le_bytes());
        chunk.extend_from_slice(&total);
        sink.chunk(&mut chunk, KIND_END, 0)?;
        sink.out.flush().map_err(|error| KvError::io("write the records", error))?;
        Ok(Exported { entries, bytes: sink.bytes, blake3: *sink.hash.finalize().as_bytes() })
    }

    /// Build a new store in `disk`, which must have none, from an exported stream. Durable on
    /// return; on an error nothing is there. The new store has an id of its own and goes on from
    /// the revision of the stream.
    ///
    /// # Errors
    /// `Exists`; `Corrupt` for a stream that is cut, damaged, reordered or followed by anything;
    /// `NewerFormat`; `Cancelled`; `DiskFull`; `Io`.
    pub fn import(
        disk: Arc<dyn Disk>,
        chance: &dyn Chance,
        input: &mut dyn Read,
        task: &Task,
    ) -> Result<Imported, KvError> {
        match disk.stat(&RelPath::literal(FILE_NAME)) {
            Ok(_) => return Err(KvError::Exists),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(KvError::io("look for a store", error)),
        }
        let mut source = Source::open(input)?;
        Engine::build(&*disk, chance, LOAD, |engine| fill(engine, &mut source, task))
    }
}

fn fill(engine: &mut Engine, source: &mut Source, task: &Task) -> Result<Imported, KvError> {
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    while let Some(payload) = source.chunk()? {
        batch_bytes += payload.len();
        source.records(&payload, &mut batch)?;
        if batch_bytes >= LOAD_LEN {
            if task.cancel.is_cancelled() {
                return Err(KvError::Cancelled);
            }
            engine.load(&batch)?;
            task.report(Progress { entries_done: source.entries, bytes_done: source.bytes, bytes_total: 0 });
            batch.clear();
            batch_bytes = 0;
        }
    }
    engine.load(&batch)?;
    engine.write_revision(source.revision)?;
    Ok(Imported { entries: source.entries, bytes: source.bytes, revision: source.revision })
}

fn seed(store_id: &[u8; 16], index: u64) -> u64 {
    xxh3_64_with_seed(store_id, index)
}

struct Sink<'a> {
    out: &'a mut dyn Write,
    hash: blake3::Hasher,
    bytes: u64,
    index: u64,
    store_id: [u8; 16],
}

impl Sink<'_> {
    fn header(&mut self, revision: u64) -> Result<(), KvError> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&self.store_id);
        header[32..40].copy_from_slice(&revision.to_le_bytes());
        let sum = xxh3_128(&header[..HEADER - SUM]);
        header[HEADER - SUM..].copy_from_slice(&sum.to_le_bytes());
        self.write(&header)
    }

    /// Completes the head in front of the payload, writes all with its checksum, and begins anew.
    fn chunk(&mut self, chunk: &mut Vec<u8>, kind: u32, count: u32) -> Result<(), KvError> {
        let len = (chunk.len() - CHUNK_HEAD) as u64;
        chunk[..8].copy_from_slice(&len.to_le_bytes());
        chunk[8..12].copy_from_slice(&kind.to_le_bytes());
        chunk[12..16].copy_from_slice(&count.to_le_bytes());
        let sum = xxh3_128_with_seed(chunk, seed(&self.store_id, self.index));
        chunk.extend_from_slice(&sum.to_le_bytes());
        self.index += 1;
        self.write(chunk)?;
        chunk.clear();
        chunk.shrink_to(CHUNK_LEN * 2);
        chunk.resize(CHUNK_HEAD, 0);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| KvError::io("write the records", error))
    }
}

/// A stream being read and checked.
struct Source<'a> {
    input: &'a mut dyn Read,
    hash: blake3::Hasher,
    bytes: u64,
    index: u64,
    count: u32,
    store_id: [u8; 16],
    revision: u64,
    entries: u64,
    payload_bytes: u64,
    last_key: Option<Vec<u8>>,
}

fn corrupt<T>(reason: &str) -> Result<T, KvError> {
    Err(KvError::corrupt(NAME, None, reason))
}

impl<'a> Source<'a> {
    fn open(input: &'a mut dyn Read) -> Result<Self, KvError> {
        let mut source = Self {
            input,
            hash: blake3::Hasher::new(),
            bytes: 0,
            index: 0,
            count: 0,
            store_id: [0; 16],
            revision: 0,
            entries: 0,
            payload_bytes: 0,
            last_key: None,
        };
        let header = source.exactly(HEADER as u64)?;
        if &header[..8] != MAGIC {
            return corrupt("not a record stream: wrong magic");
        }
        if xxh3_128(&header[..HEADER - SUM]).to_le_bytes() != header[HEADER - SUM..] {
            return corrupt("the header does not match its checksum");
        }
        let newer = |what, found, known| {
            Err(KvError::NewerFormat { file: NAME.into(), what, found: u16::from_le_bytes(found).into(), known })
        };
        if u16::from_le_bytes(le(&header[8..10])) > VERSION {
            return newer("version", le(&header[8..10]), VERSION.into());
        }
        if header[10..12] != [0, 0] {
            return newer("cipher", le(&header[10..12]), 0);
        }
        source.store_id = le(&header[16..32]);
        source.revision = u64::from_le_bytes(le(&header[32..40]));
        source.hash.update(&header);
        Ok(source)
    }

    /// Never allocates more than the input has.
    fn exactly(&mut self, len: u64) -> Result<Vec<u8>, KvError> {
        let mut bytes = Vec::with_capacity(len.min(1 << 20) as usize);
        let read = (&mut *self.input).take(len).read_to_end(&mut bytes);
        let read = read.map_err(|error| KvError::io("read the records", error))?;
        self.bytes += read as u64;
        match read as u64 == len {
            true => Ok(bytes),
            false => corrupt("truncated"),
        }
    }

    /// The payload of the next chunk; `None` after the end record, which was checked.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, KvError> {
        let mut chunk = self.exactly(CHUNK_HEAD as u64)?;
        let len = u64::from_le_bytes(le(&chunk));
        let kind = u32::from_le_bytes(le(&chunk[8..]));
        self.count = u32::from_le_bytes(le(&chunk[12..]));
        if len > CHUNK_LEN_MAX {
            return corrupt("a chunk longer than any");
        }
        let rest = self.exactly(len + SUM as u64)?;
        chunk.extend_from_slice(&rest);
        let body = chunk.len() - SUM;
        let sum = xxh3_128_with_seed(&chunk[..body], seed(&self.store_id, self.index));
        if sum.to_le_bytes() != chunk[body..] {
            return corrupt("a chunk does not match its checksum");
        }
        self.index += 1;
        if kind == KIND_END && len == END_LEN {
            return self.end(&chunk[CHUNK_HEAD..body]).map(|()| None);
        }
        if kind != KIND_RECORDS {
            return corrupt("a chunk of unknown kind");
        }
        self.hash.update(&chunk);
        chunk.truncate(body);
        chunk.drain(..CHUNK_HEAD);
        Ok(Some(chunk))
    }

    fn end(&mut self, end: &[u8]) -> Result<(), KvError> {
        let entries = u64::from_le_bytes(le(end));
        let payload_bytes = u64::from_le_bytes(le(&end[8..]));
        if entries != self.entries
            || payload_bytes != self.payload_bytes
            || self.hash.finalize() != le::<32>(&end[16..])
        {
            return corrupt("the end record does not match what came before");
        }
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => corrupt("bytes after the end record"),
            Err(error) => Err(KvError::io("read the records", error)),
        }
    }

    fn records(&mut self, mut payload: &[u8], out: &mut Vec<Loaded>) -> Result<(), KvError> {
        for _ in 0..self.count {
            let Some((head, rest)) = payload.split_at_checked(RECORD_HEAD) else { return corrupt("a record is cut") };
            let key_len = u32::from_le_bytes(le(head)) as usize;
            let value_len = u32::from_le_bytes(le(&head[4..])) as usize;
            let expires_ms = u64::from_le_bytes(le(&head[8..]));
            if key_len > KEY_LEN_MAX || value_len > VALUE_LEN_MAX {
                return corrupt("a record longer than any");
            }
            let Some((record, rest)) = rest.split_at_checked(key_len + value_len) else {
                return corrupt("a record is cut");
            };
            let (key, value) = record.split_at(key_len);
            if self.last_key.as_deref().is_some_and(|last| last >= key) {
                return corrupt("keys out of order");
            }
            self.last_key = Some(key.to_vec());
            self.entries += 1;
            self.payload_bytes += record.len() as u64;
            out.push(Loaded { key: key.to_vec(), value: value.to_vec(), expires_ms });
            payload = rest;
        }
        match payload.is_empty() {
            true => Ok(()),
            false => corrupt("bytes after the last record of a chunk"),
        }
    }
}
