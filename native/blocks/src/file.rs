//! The verified block device under redb: every read is checked, block 0 is never torn.
//!
//! Invariant: a header slot is overwritten only while the other slot is durable. redb rewrites
//! block 0 in place and only block 0; a torn write of it falls back to the other slot, which is the
//! state before a write that was not synced, and that redb is made to survive.
//! Assumed of the disk: a 512-byte sector is written wholly or not at all, and a write changes no
//! byte outside its range.

use crate::format::{self, check, generation, physical_len, seal, seal_head, Clean, Header, Place, Verdict};
use crate::format::{BLOCK, CELL, CELLS_OFFSET, HEADER};
use crate::hot;
use crate::{BlockError, Brand};
use macula_core::DiskFile;
use parking_lot::Mutex;
use redb::StorageBackend;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// Blocks moved by one system call at most.
const RUN_BLOCKS: usize = 64;
/// Of a long sync, bytes that the device gets at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Room is taken from the disk in steps of a sixteenth of the file, but not less and not more, bytes.
const ROOM_STEP: [u64; 2] = [64 << 10, 16 << 20];

/// One open file.
#[derive(Debug)]
pub struct BlockFile {
    file: Arc<dyn DiskFile>,
    name: String,
    brand: Brand,
    store_id: [u8; 16],
    /// As redb wants it: it doubles its file before it needs to.
    len_logical: AtomicU64,
    /// What is taken from the disk; everything beyond was never written.
    len_physical: AtomicU64,
    /// Held by who changes the length: room is taken by writers, and by who has some reserved for them.
    room: Mutex<()>,
    /// Where the last block ends that was written.
    len_used: AtomicU64,
    /// Where something was written since the last sync, and how much: physical offset, bytes.
    written: Mutex<Vec<(u64, u64)>>,
    blocks_read: AtomicU64,
    head: Mutex<Head>,
    first_error: Mutex<Option<BlockError>>,
    full: AtomicBool,
    /// redb met an error and refuses to write from now on.
    latched: AtomicBool,
    detached: AtomicBool,
    /// Under a temporary name still: one sync at the end is enough.
    is_building: AtomicBool,
}

/// Logical block 0 and where it is.
#[derive(Debug)]
struct Head {
    block: Box<[u8; BLOCK]>,
    generation: u64,
    /// The slot that holds `generation`; the other one when nothing was written yet.
    slot: usize,
    /// Written since the last successful sync.
    dirty: bool,
}

impl BlockFile {
    /// Lay out an empty store in an empty file. Nothing is durable before [`BlockFile::close_clean`].
    pub fn create(file: Arc<dyn DiskFile>, name: &str, brand: Brand, store_id: [u8; 16]) -> Result<Self, BlockError> {
        let fail = |error| BlockError::io("create the store", error);
        file.allocate(CELLS_OFFSET).map_err(fail)?;
        file.write_all_at(&Header { store_id, clean: None }.encode(brand), 0).map_err(fail)?;
        let head = Head { block: Box::new([0; BLOCK]), generation: 0, slot: 1, dirty: false };
        let blocks = Self::new(file, (name, brand, store_id), (0, CELLS_OFFSET), head);
        blocks.is_building.store(true, Ordering::Release);
        Ok(blocks)
    }

    /// Open an existing store. Returns whether it was closed properly.
    pub fn open(file: Arc<dyn DiskFile>, name: &str, brand: Brand) -> Result<(Self, bool), BlockError> {
        let fail = |error| BlockError::io("open the store", error);
        let len = file.len().map_err(fail)?;
        if len < CELLS_OFFSET {
            return Err(BlockError::corrupt(name, None, format!("truncated: len={len}")));
        }
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(fail)?;
        let header = Header::decode(&bytes, brand, name)?;
        if let Some(clean) = header.clean.filter(|clean| clean.len != len) {
            let reason = format!("closed with len={} found len={len}", clean.len);
            return Err(BlockError::corrupt(name, None, reason));
        }
        let (head, len_logical) = Self::read_head(&*file, name, &header)?;
        let blocks = Self::new(file, (name, brand, header.store_id), (len_logical, len), head);
        match header.clean {
            Some(_) => blocks.write_header(None)?,
            None => blocks.adopt(len)?,
        }
        Ok((blocks, header.clean.is_some()))
    }

    fn new(
        file: Arc<dyn DiskFile>,
        (name, brand, store_id): (&str, Brand, [u8; 16]),
        (len_logical, len_physical): (u64, u64),
        head: Head,
    ) -> Self {
        Self {
            file,
            name: name.to_owned(),
            brand,
            store_id,
            len_logical: len_logical.into(),
            len_physical: len_physical.into(),
            room: Mutex::default(),
            len_used: len_physical.into(),
            written: Mutex::default(),
            blocks_read: AtomicU64::new(0),
            head: Mutex::new(head),
            first_error: Mutex::default(),
            full: AtomicBool::new(false),
            latched: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            is_building: AtomicBool::new(false),
        }
    }

    fn read_head(file: &dyn DiskFile, name: &str, header: &Header) -> Result<(Head, u64), BlockError> {
        let mut best: Option<(Head, u64)> = None;
        for slot in 0..2 {
            let mut cell = vec![0; CELL];
            let read = file.read_exact_at(&mut cell, Place::Slot(slot).offset());
            read.map_err(|error| BlockError::io("read the store's first block", error))?;
            let found = generation(&cell);
            let wanted = header.clean.is_none_or(|clean| clean.generation == found);
            let newer = best.as_ref().is_none_or(|(head, _)| head.generation < found);
            if wanted && newer && check(&cell, Place::Slot(slot), &header.store_id) == Verdict::Good {
                let block = Box::new(format::le::<BLOCK>(&cell));
                let head = Head { block, generation: found, slot, dirty: false };
                best = Some((head, format::len_logical(&cell)));
            }
        }
        best.ok_or_else(|| match header.clean {
            Some(_) => BlockError::corrupt(name, Some(0), "the copy recorded at closing does not match its tag"),
            None => BlockError::corrupt(name, Some(0), "neither copy matches its tag"),
        })
    }

    /// After a crash or a failed sync, what was read may be in the page cache only: write the header
    /// and the slot that was chosen again (the same bytes, so that they cannot be torn) and sync,
    /// before the other slot, perhaps the only durable one, may be overwritten. Decides an unknown
    /// result for good.
    fn adopt(&self, len: u64) -> Result<(), BlockError> {
        let fail = |error| BlockError::io("settle the store after a crash", error);
        let head = self.head.lock();
        self.file.set_len(len).map_err(fail)?;
        let cell = self.head_cell(&head);
        self.file.write_all_at(&cell, Place::Slot(head.slot).offset()).map_err(fail)?;
        self.write_header(None)
    }

    fn head_cell(&self, head: &Head) -> Vec<u8> {
        let mut cell = vec![0; CELL];
        cell[..BLOCK].copy_from_slice(&head.block[..]);
        let len = self.len_logical.load(Ordering::Acquire);
        seal_head(&mut cell, Place::Slot(head.slot), &self.store_id, head.generation, len);
        cell
    }

    fn write_header(&self, clean: Option<Clean>) -> Result<(), BlockError> {
        let header = Header { store_id: self.store_id, clean }.encode(self.brand);
        let written = self.file.write_all_at(&header, 0).and_then(|()| self.file.sync_data());
        written.map_err(|error| BlockError::io("write the store's header", error))
    }

    /// End of building: everything that was written is durable on return, and what comes is synced when
    /// redb says so.
    pub fn end_building(&self) -> Result<(), BlockError> {
        self.is_building.store(false, Ordering::Release);
        self.sync_early()
    }

    /// Make durable what was written so far, though nobody relies on it yet.
    pub fn sync_early(&self) -> Result<(), BlockError> {
        self.sync().map_err(|error| BlockError::io("make the new file durable", error))
    }

    /// Record that everything was written and synced. Nothing may be written afterwards.
    pub fn close_clean(&self) -> Result<(), BlockError> {
        let head = self.head.lock();
        if head.dirty || self.first_error.lock().is_some() {
            return Ok(());
        }
        let len = self.len_physical.load(Ordering::Acquire);
        self.write_header(Some(Clean { generation: head.generation, len }))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store's id.
    pub fn store_id(&self) -> [u8; 16] {
        self.store_id
    }

    /// Bytes of it that were ever written, without what is only reserved.
    pub fn used_bytes(&self) -> u64 {
        self.len_used.load(Ordering::Acquire)
    }

    /// Physical length, bytes.
    pub fn file_bytes(&self) -> u64 {
        self.len_physical.load(Ordering::Acquire)
    }

    /// Blocks that redb did not have in its cache.
    pub fn blocks_read(&self) -> u64 {
        self.blocks_read.load(Ordering::Relaxed)
    }

    /// The first block that did not verify, if any did not.
    pub fn corruption(&self) -> Option<BlockError> {
        self.first_error.lock().clone()
    }

    /// The same, if redb met it: then nothing can be drained any more.
    pub fn latched(&self) -> Option<BlockError> {
        self.latched.load(Ordering::Acquire).then(|| self.corruption()).flatten()
    }

    /// Whether the disk was full since [`BlockFile::forget_full`].
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// There may be room again.
    pub fn forget_full(&self) {
        self.full.store(false, Ordering::Release);
    }

    /// Block 0 and the logical length as they are now.
    pub fn frozen_head(&self) -> (Box<[u8; BLOCK]>, u64) {
        (self.head.lock().block.clone(), self.len_logical.load(Ordering::Acquire))
    }

    /// From now on, other handles may write to the file: what is read here counts no more.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }

    /// Read `count` blocks from `first`, not block 0, into `out`, each verified.
    pub fn read_blocks(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        for (nth, part) in out.chunks_mut(RUN_BLOCKS * BLOCK).enumerate() {
            let from = first + (nth * RUN_BLOCKS) as u64;
            let mut cells = vec![0; part.len() / BLOCK * CELL];
            if hot::is_only() && !self.read_now(&mut cells, from) {
                hot::end_cold();
            }
            self.blocks_read.fetch_add((cells.len() / CELL) as u64, Ordering::Relaxed);
            match self.read_cells(&mut cells, from) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.refuse(from, "is missing: the file ends before it"));
                }
                read => read?,
            }
            for (at, (cell, block)) in cells.chunks(CELL).zip(part.chunks_mut(BLOCK)).enumerate() {
                let number = from + at as u64;
                match check(cell, Place::Block(number), &self.store_id) {
                    Verdict::Good => block.copy_from_slice(&cell[..BLOCK]),
                    // redb reads no page that it did not write, so zeros are lost data
                    Verdict::Blank => return Err(self.refuse(number, "holds zeros where data was written")),
                    Verdict::Bad => return Err(self.refuse(number, "does not match its tag")),
                }
            }
        }
        Ok(())
    }

    fn read_now(&self, cells: &mut [u8], from: u64) -> bool {
        hot::fits(cells.len()) && self.file.read_now_at(cells, Place::Block(from).offset()).unwrap_or(false)
    }

    /// Unless they were read already.
    fn read_cells(&self, cells: &mut [u8], from: u64) -> io::Result<()> {
        match hot::is_only() {
            true => Ok(()),
            false => self.file.read_exact_at(cells, Place::Block(from).offset()),
        }
    }

    fn refuse(&self, block: u64, reason: &str) -> io::Error {
        if self.detached.load(Ordering::Acquire) {
            return io::Error::other("the store is closed");
        }
        let error = BlockError::corrupt(&self.name, Some(block), format!("a block {reason}"));
        let text = error.to_string();
        self.first_error.lock().get_or_insert(error);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    fn write_blocks(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let end = Place::Block(first).offset() + (bytes.len() / BLOCK * CELL) as u64;
        self.take_room(end)?;
        for (nth, part) in bytes.chunks(RUN_BLOCKS * BLOCK).enumerate() {
            let from = first + (nth * RUN_BLOCKS) as u64;
            let mut cells = vec![0; part.len() / BLOCK * CELL];
            for (at, (cell, block)) in cells.chunks_mut(CELL).zip(part.chunks(BLOCK)).enumerate() {
                cell[..BLOCK].copy_from_slice(block);
                seal(cell, Place::Block(from + at as u64), &self.store_id);
            }
            let offset = Place::Block(from).offset();
            self.note_full(self.file.write_all_at(&cells, offset))?;
            self.written.lock().push((offset, cells.len() as u64));
            // a commit writes thousands, one after the other
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Sync, in pieces: a log on the same device that syncs meanwhile waits for one piece, not for all.
    fn sync(&self) -> io::Result<()> {
        let mut written = std::mem::take(&mut *self.written.lock());
        written.sort_unstable();
        let (mut from, mut bytes) = (None, 0);
        for (offset, len) in written {
            let from_here = *from.get_or_insert(offset);
            bytes += len;
            if bytes >= PIECE_BYTES {
                self.file.write_out(from_here, offset + len - from_here)?;
                (from, bytes) = (None, 0);
            }
        }
        self.file.sync_data()
    }

    /// Have the disk's room up to `end`, and some more, so that a write does not meet a full disk.
    fn take_room(&self, end: u64) -> io::Result<()> {
        let _room = self.room.lock();
        let have = self.len_physical.load(Ordering::Acquire);
        if end <= have {
            self.len_used.fetch_max(end, Ordering::AcqRel);
            return Ok(());
        }
        let limit = physical_len(self.len_logical.load(Ordering::Acquire)).max(end);
        let wanted = (have + (have / 16).clamp(ROOM_STEP[0], ROOM_STEP[1])).clamp(end, limit);
        let mut taken = self.file.allocate(wanted).map(|()| wanted);
        if taken.as_ref().is_err_and(is_full) {
            // redb may go on far behind: then there may be room for its page and not for all before it
            taken = self.file.set_len(end).map(|()| end);
        }
        let len = self.note_full(taken)?;
        self.len_physical.store(len, Ordering::Release);
        self.len_used.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Have the disk's room for so many bytes behind everything that was written, before redb needs it.
    ///
    /// # Errors
    /// [`BlockError::DiskFull`]: nothing changed.
    pub fn reserve(&self, bytes: u64) -> Result<(), BlockError> {
        let _room = self.room.lock();
        let wanted = self.len_used.load(Ordering::Acquire) + bytes;
        if wanted > self.len_physical.load(Ordering::Acquire) {
            let fail = |error| BlockError::io("make room for the store", error);
            if let Err(error) = self.file.allocate(wanted) {
                // some of it may have been taken
                let len = self.file.len().map_err(fail)?;
                self.len_physical.fetch_max(len, Ordering::AcqRel);
                self.give_back();
                return Err(fail(error));
            }
            self.len_physical.store(wanted, Ordering::Release);
        }
        Ok(())
    }

    /// Let go of room that was reserved and is not needed.
    pub fn give_room_back(&self) {
        let _room = self.room.lock();
        self.give_back();
    }

    fn give_back(&self) {
        let used = self.len_used.load(Ordering::Acquire);
        if self.len_physical.load(Ordering::Acquire) > used + ROOM_STEP[1] || self.is_full() {
            // what stays costs room only
            if self.file.set_len(used).is_ok() {
                self.len_physical.store(used, Ordering::Release);
            }
        }
    }

    fn write_head(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut head = self.head.lock();
        head.block[at..at + bytes.len()].copy_from_slice(bytes);
        head.generation += 1;
        if !head.dirty {
            head.slot ^= 1;
            head.dirty = true;
        }
        let cell = self.head_cell(&head);
        self.note_full(self.file.write_all_at(&cell, Place::Slot(head.slot).offset()))
    }

    fn note_full<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(is_full) {
            self.full.store(true, Ordering::Release);
        }
        result
    }

    /// The parts of a range that lie in block 0, in one partial block each, or in whole blocks:
    /// (block, offset in it, range of the buffer).
    fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let left = len - done;
            let whole = block > 0 && within == 0 && left >= BLOCK;
            let part = if whole { left / BLOCK * BLOCK } else { left.min(BLOCK - within) };
            done += part;
            Some((block, within, done - part..done))
        })
    }

    fn read_parts(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inside(offset, out.len())?;
        for (block, within, range) in Self::parts(offset, out.len()) {
            let part = &mut out[range];
            if block == 0 {
                part.copy_from_slice(&self.head.lock().block[within..within + part.len()]);
            } else if part.len().is_multiple_of(BLOCK) {
                self.read_blocks(block, part)?;
            } else {
                let mut whole = [0; BLOCK];
                self.read_blocks(block, &mut whole)?;
                part.copy_from_slice(&whole[within..within + part.len()]);
            }
        }
        Ok(())
    }

    fn inside(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.len_logical.load(Ordering::Acquire)) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("beyond the end of the store: offset={offset}")))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What redb holds; the file outlives it.
#[derive(Debug, Clone)]
pub struct Backend(pub Arc<BlockFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len_logical.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_parts(offset, out);
        if read.is_err() {
            self.0.latched.store(true, Ordering::Release);
        }
        read
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _room = self.0.room.lock();
        let physical = physical_len(len);
        if physical < self.0.len_physical.load(Ordering::Acquire) {
            self.0.file.set_len(physical)?;
            self.0.len_physical.store(physical, Ordering::Release);
            self.0.len_used.fetch_min(physical, Ordering::AcqRel);
        }
        self.0.len_logical.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut head = self.0.head.lock();
        if !self.0.is_building.load(Ordering::Acquire) {
            self.0.sync()?;
        }
        head.dirty = false;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.inside(offset, data.len())?;
        for (block, within, range) in BlockFile::parts(offset, data.len()) {
            let part = &data[range];
            if block == 0 {
                self.0.write_head(within, part)?;
            } else if part.len().is_multiple_of(BLOCK) {
                self.0.write_blocks(block, part)?;
            } else {
                let mut whole = [0; BLOCK];
                self.0.read_blocks(block, &mut whole)?;
                whole[within..within + part.len()].copy_from_slice(part);
                self.0.write_blocks(block, &whole)?;
            }
        }
        Ok(())
    }
}
