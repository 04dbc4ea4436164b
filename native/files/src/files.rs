//! The engine's front door.

use crate::inner::{place_of, Inner, ASIDE, FILES, TEMPORARIES};
use crate::reader::{look_of, FileStat, Reader};
use crate::snapshot::{live_look, live_names, FileSnapshot};
use crate::tag;
use crate::walk::{Found, Source, Walk};
use crate::writer::{Writer, Written};
use crate::FilesError;
use macula_core::{
    create_dir_all, remove_tree, Chance, Clock, Disk, DiskFile, Expected, FileKind, Gate, Ledger, Look, Looks, Open,
    Part, RelPath, Watcher,
};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Names of files, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The names.
    pub names: Vec<RelPath>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// The plain files of one app. Clones share them.
#[derive(Debug, Clone)]
pub struct Files(pub(crate) Arc<Inner>);

impl Files {
    /// The files below `data`, the tree of the app's `data/`. Makes the directories that are missing
    /// and removes what a killed process left unfinished; staged and kept content stays. One process at
    /// a time.
    pub fn open(
        data: Arc<dyn Disk>,
        gate: Arc<Gate>,
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Self, FilesError> {
        for (dir, part) in
            [(FILES, Part::Files), (".macula", Part::Other), (TEMPORARIES, Part::Other), (ASIDE, Part::Other)]
        {
            make_dir(&*data, &RelPath::literal(dir), &ledger, part)
                .map_err(|e| FilesError::of("create a directory", &RelPath::literal(dir), e))?;
        }
        for dir in [TEMPORARIES, ASIDE] {
            let dir = RelPath::literal(dir);
            clear(&*data, &dir).map_err(|e| FilesError::of("clear", &dir, e))?;
        }
        let inner = Inner::new(data, gate, ledger, clock, chance);
        inner.sweep_staged()?;
        Ok(Self(Arc::new(inner)))
    }

    /// Write a whole file, replacing what is there. Promises as [`Writer::commit`].
    pub fn write(&self, path: &RelPath, bytes: &[u8]) -> Result<Written, FilesError> {
        let mut writer = self.writer(path)?;
        writer.write_chunk(bytes)?;
        writer.commit()
    }

    /// Begin to write a file, of any size, in chunks.
    pub fn writer(&self, path: &RelPath) -> Result<Writer, FilesError> {
        Writer::new(self.0.clone(), path)
    }

    /// A whole file of at most `len_max` bytes, verified when it is as we wrote it.
    pub fn read(&self, path: &RelPath, len_max: u64) -> Result<Vec<u8>, FilesError> {
        let reader = self.reader(path)?;
        let len = reader.len();
        if len > len_max {
            return Err(FilesError::TooLarge { path: path.clone(), len, len_max });
        }
        let mut bytes = vec![0; len as usize];
        let read = reader.read_at(&mut bytes, 0)?;
        // shorter only when another program cut it meanwhile
        bytes.truncate(read);
        Ok(bytes)
    }

    /// At most `len` bytes from `offset`; fewer at the end. Not verified.
    pub fn range(&self, path: &RelPath, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
        let reader = self.reader(path)?;
        let len = reader.len().saturating_sub(offset).min(len as u64);
        let mut bytes = vec![0; len as usize];
        let read = reader.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Open a file for reading.
    pub fn reader(&self, path: &RelPath) -> Result<Reader, FilesError> {
        let file = self.0.data.open(&place_of(path)?, Open::Read);
        Reader::new(file.map_err(|e| FilesError::of("open", path, e))?, path.clone())
    }

    /// What is known about a file.
    pub fn stat(&self, path: &RelPath) -> Result<FileStat, FilesError> {
        Ok(self.reader(path)?.stat())
    }

    /// Delete a file, and the directories that become empty. `Ok`: durable.
    pub fn delete(&self, path: &RelPath) -> Result<(), FilesError> {
        self.remove(path, None, Expected::Anything)
    }

    /// Give a file another name in one step, replacing a file that has it. `Ok`: durable.
    pub fn rename(&self, from: &RelPath, to: &RelPath) -> Result<(), FilesError> {
        self.rename_keeping(from, to, None).map(drop)
    }

    /// Make a name durable as it is now, be there a file or not, and the names of what is kept: a change of a
    /// killed process may be there, and not be. [`FilesError::UnknownResult`]: it still may not survive a
    /// power loss.
    pub fn settle(&self, path: &RelPath) -> Result<(), FilesError> {
        let owed = self.0.owe_name(path)?;
        self.0.settle(owed, path)
    }

    /// Files at or below `prefix` (whole components: `my` does not list `my_app`) whose names sort
    /// after `after`, at most `limit`, in byte order of the whole name. Symlinks, devices and the
    /// like are passed over. Holds the names of the directories on its way in memory, not the tree.
    pub fn list(&self, prefix: Option<&RelPath>, after: Option<&RelPath>, limit: usize) -> Result<Page, FilesError> {
        let (found, more) = self.find(prefix, after, limit)?;
        Ok(Page { names: found.into_iter().map(|found| found.path).collect(), more })
    }

    /// As [`Files::list`] of everything, with how each file looks.
    pub fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Looks, FilesError> {
        let (found, more) = self.find(None, after, limit)?;
        let files = found.into_iter().map(|found| (found.path, look_of(&found.stat))).collect();
        Ok(Looks { files, more })
    }

    /// How a file looks; `None` when no regular file has that name.
    pub fn look(&self, path: &RelPath) -> Result<Option<Look>, FilesError> {
        let found = live_look(&self.0, path)?.filter(|found| found.stat.kind == FileKind::File);
        Ok(found.map(|found| look_of(&found.stat)))
    }

    /// Have what happens in a directory told.
    ///
    /// # Errors
    /// [`FilesError::NotFound`] when there is no such directory.
    pub fn watch(&self, dir: &RelPath, watcher: &Watcher) -> Result<i32, FilesError> {
        self.0.data.watch(&place_of(dir)?, watcher).map_err(|error| FilesError::of("watch", dir, error))
    }

    /// Files and directories in a directory, and whether each is one; none when it is gone.
    pub fn names(&self, dir: &RelPath) -> Result<Vec<(RelPath, bool)>, FilesError> {
        let (live, mut found) = (Live(&self.0), Vec::new());
        for name in live.names(dir)? {
            let Ok(path) = dir.join(name.as_bytes()) else { continue };
            match live.look(&path)?.map(|found| found.stat.kind) {
                Some(FileKind::Dir) => found.push((path, true)),
                Some(FileKind::File) => found.push((path, false)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Regular files, and whether there are more.
    fn find(
        &self,
        prefix: Option<&RelPath>,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Result<(Vec<Found>, bool), FilesError> {
        let live = Live(&self.0);
        let mut walk = Walk::new(&live, after);
        let mut files = Vec::new();
        let start = prefix.cloned().unwrap_or_else(RelPath::root);
        match live.look(&start)? {
            Some(found) if found.stat.kind == FileKind::Dir => walk.enter(start)?,
            Some(found) if found.stat.kind == FileKind::File && walk.is_after(&start) => files.push(found),
            _ => {}
        }
        while files.len() <= limit {
            match walk.step()? {
                Some(found) if found.stat.kind == FileKind::File => files.push(found),
                Some(_) => {}
                None => break,
            }
        }
        let more = files.len() > limit;
        files.truncate(limit);
        Ok((files, more))
    }

    /// Read every file that carries a digest and compare.
    ///
    /// # Errors
    /// [`FilesError::Corrupt`] names the first that differs.
    pub fn verify(&self, cancelled: &dyn Fn() -> bool) -> Result<(), FilesError> {
        const NAMES_MAX: usize = 1_000;
        let mut bytes = vec![0; 1 << 20];
        let mut after = None;
        loop {
            let page = self.list(None, after.as_ref(), NAMES_MAX)?;
            for path in &page.names {
                match self.reader(path) {
                    Ok(reader) => read_through(&reader, &mut bytes, cancelled)?,
                    // deleted since it was listed
                    Err(FilesError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            after = page.names.last().cloned();
            if !page.more || cancelled() {
                return Ok(());
            }
        }
    }

    /// Refuse every change from now on with [`FilesError::Closed`]; what was under way is in its
    /// place when this returns. Waits for the app's gate.
    pub fn close(&self) {
        self.0.close();
    }

    /// Pin this instant; to be called while the gate is closed, so that it is the same instant for
    /// all engines. Walks nothing.
    pub fn snapshot(&self) -> FileSnapshot {
        FileSnapshot::take(self.0.clone())
    }
}

/// The tree as it is.
struct Live<'a>(&'a Inner);

impl Source for Live<'_> {
    fn names(&self, dir: &RelPath) -> Result<Vec<OsString>, FilesError> {
        live_names(self.0, dir)
    }

    fn look(&self, path: &RelPath) -> Result<Option<Found>, FilesError> {
        live_look(self.0, path)
    }
}

fn make_dir(data: &dyn Disk, dir: &RelPath, ledger: &Ledger, part: Part) -> io::Result<()> {
    match data.stat(dir) {
        Ok(stat) if stat.kind == FileKind::Dir => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::InvalidInput.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    create_dir_all(data, dir)?;
    ledger.add(part, data.stat(dir)?.len as i64);
    Ok(())
}

fn clear(data: &dyn Disk, dir: &RelPath) -> io::Result<()> {
    for entry in data.list(dir)? {
        remove_tree(data, &dir.join(entry.name.as_bytes()).map_err(io::Error::other)?)?;
    }
    Ok(())
}

/// From the first byte to the last, which compares the digest.
fn read_through(reader: &Reader, bytes: &mut [u8], cancelled: &dyn Fn() -> bool) -> Result<(), FilesError> {
    let mut offset = 0;
    while !cancelled() {
        match reader.read_at(bytes, offset)? {
            0 => break,
            n => offset += n as u64,
        }
    }
    Ok(())
}

/// Let a file that was put in place by other means than [`Files`] (a restore) be verified like one
/// of ours: record its digest. To be called when its modification time is final.
pub fn mark(file: &dyn DiskFile, blake3: &[u8; 32]) -> io::Result<()> {
    tag::set(file, blake3, &file.stat()?)
}

/// The digest that a file was marked with, while it is of that length and modification time.
pub fn digest(file: &dyn DiskFile, len: u64, mtime_ns: i128) -> io::Result<Option<[u8; 32]>> {
    tag::get_for(file, len, mtime_ns)
}

/// Take the mark back: nobody knows what the file should hold, so it is read unverified.
pub fn unmark(file: &dyn DiskFile) -> io::Result<()> {
    tag::clear(file)
}
