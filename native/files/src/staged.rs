//! Content put together in `.macula/staged`, in any order, until it is put in the place of a file.
//!
//! Invariant: only content that takes no more bytes leaves that directory. It belongs to no process:
//! the next one goes on with what it finds. After a failed sync nobody can say what is on the disk,
//! so the content is removed and begun anew.

use crate::files::Files;
use crate::inner::{Inner, Names, STAGED};
use crate::reader::fill;
use crate::writer::finish;
use crate::FilesError;
use macula_core::{Disk, DiskFile, Expected, Ledger, Look, Open, Part, RelPath};
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Longest name of staged and kept content, in bytes.
const NAME_LEN_MAX: usize = 100;

/// Where content of that name lies in `dir`.
pub(crate) fn content_at(dir: &'static str, name: &str) -> Result<RelPath, FilesError> {
    let refuse = |reason| Err(FilesError::BadContentName { reason, name: name.chars().take(80).collect() });
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return refuse("not of 1 to 100 characters");
    }
    if !name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return refuse("not of 0-9 and a-f only");
    }
    RelPath::literal(dir).join(name).or_else(|_| refuse("no path"))
}

/// Names of the content in `dir`; what else lies there is not ours.
pub(crate) fn content_names(data: &dyn Disk, dir: &'static str) -> Result<Vec<String>, FilesError> {
    let at = RelPath::literal(dir);
    let entries = match data.list(&at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| FilesError::of("list", &at, e))?,
    };
    let names = entries.into_iter().filter_map(|entry| entry.name.into_string().ok());
    Ok(names.filter(|name| content_at(dir, name).is_ok()).collect())
}

/// What all handles of one content share.
#[derive(Debug)]
pub(crate) struct Content {
    at: RelPath,
    file: Arc<dyn DiskFile>,
    /// Held shared over each write, alone to seal.
    writing: RwLock<()>,
    /// Whether the name is known to be durable.
    named: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of it in the ledger.
    len: u64,
    sealed: bool,
    /// Put in place, kept or removed.
    ended: bool,
}

impl Content {
    fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Its file is that long now, or was a moment ago.
    fn grew_to(&self, len: u64, ledger: &Ledger) {
        let mut state = self.state.lock();
        if !state.ended && len > state.len {
            ledger.add(Part::Other, (len - state.len) as i64);
            state.len = len;
        }
    }

    fn cut_to(&self, len: u64, ledger: &Ledger) {
        let mut state = self.state.lock();
        if !state.ended && len < state.len {
            ledger.add(Part::Other, -((state.len - len) as i64));
            state.len = len;
        }
    }
}

impl Names {
    /// What somebody has open of the staged content that lies there.
    fn open_content(&self, at: &RelPath) -> Option<Arc<Content>> {
        self.staged.get(at)?.upgrade().filter(|content| !content.is_ended())
    }

    /// Refuse staged content that somebody may still write to.
    pub fn check_sealed(&self, at: &RelPath) -> Result<(), FilesError> {
        match self.open_content(at) {
            Some(content) if !content.state.lock().sealed => Err(FilesError::NotSealed { path: at.clone() }),
            _ => Ok(()),
        }
    }

    /// Let nobody write any more to what lies there; gives the bytes that the ledger counts for it, if
    /// somebody has it open.
    pub fn end_staged(&mut self, at: &RelPath) -> Option<u64> {
        let content = self.staged.remove(at)?.upgrade()?;
        let mut state = content.state.lock();
        let was_open = !std::mem::replace(&mut state.ended, true);
        was_open.then_some(state.len)
    }
}

impl Inner {
    fn stage(&self, at: RelPath) -> Result<Arc<Content>, FilesError> {
        let of = |error| FilesError::of("stage", &at, error);
        let _pass = self.gate.pass();
        self.check_usable()?;
        let mut names = self.names();
        if let Some(content) = names.open_content(&at) {
            return Ok(content);
        }
        let file = match self.data.open(&at, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = at.parent();
                self.make_dirs(&mut names, &at, &dir)?;
                self.growing(&dir, || self.data.open(&at, Open::CreateNew))
            }
            file => file,
        };
        let file = file.map_err(of)?;
        // the ledger counts what a former process left
        let state = State { len: file.len().map_err(of)?, ..State::default() };
        let (at_key, named, writing) = (at.clone(), AtomicBool::new(false), RwLock::new(()));
        let content = Arc::new(Content { at, file, writing, named, state: Mutex::new(state) });
        names.staged.retain(|_, content| content.strong_count() > 0);
        names.staged.insert(at_key, Arc::downgrade(&content));
        Ok(content)
    }

    fn unstage(&self, names: &mut Names, at: &RelPath) -> io::Result<()> {
        let counted = names.end_staged(at);
        self.remove_beside(names, at, counted)
    }

    /// Where power was lost in the middle of a rename both names can be left, and who went on with the
    /// staged one would write to what is in its place.
    pub fn sweep_staged(&self) -> Result<(), FilesError> {
        let mut names = self.names();
        for name in content_names(&*self.data, STAGED)? {
            let at = content_at(STAGED, &name)?;
            let swept = match self.data.stat(&at) {
                Ok(stat) if stat.nlink > 1 => self.unstage(&mut names, &at),
                known => known.map(drop),
            };
            swept.map_err(|e| FilesError::of("clear", &at, e))?;
        }
        Ok(())
    }
}

/// Content that is being put together. Dropped, it stays, and is found again under its name.
#[derive(Debug)]
pub struct StagedFile {
    inner: Arc<Inner>,
    content: Arc<Content>,
}

impl StagedFile {
    fn failed(&self, op: &'static str) -> impl Fn(io::Error) -> FilesError + '_ {
        move |error| FilesError::of(op, &self.content.at, error)
    }

    /// Refuses when what lies under the name is no longer this content.
    fn check(&self) -> Result<(), FilesError> {
        self.inner.check_usable()?;
        if self.content.is_ended() {
            return Err(FilesError::Ended { path: self.content.at.clone() });
        }
        Ok(())
    }

    /// Write at `offset`, in any order. After an error bytes of it may be there, and it can be tried again.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FilesError> {
        let _writing = self.content.writing.read();
        self.check()?;
        if self.content.state.lock().sealed {
            return Err(FilesError::Ended { path: self.content.at.clone() });
        }
        let written = self.content.file.write_all_at(bytes, offset);
        let len = match &written {
            Ok(()) if bytes.is_empty() => 0,
            Ok(()) => offset + bytes.len() as u64,
            // a part of it can be there
            Err(_) => self.content.file.len().unwrap_or(0),
        };
        self.content.grew_to(len, &self.inner.ledger);
        written.map_err(self.failed("write"))
    }

    /// Fill `bytes` from `offset`; fewer at the end.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, FilesError> {
        fill(&*self.content.file, bytes, offset).map_err(self.failed("read"))
    }

    /// Its length in bytes now.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> Result<u64, FilesError> {
        self.content.file.len().map_err(self.failed("stat"))
    }

    /// Make what was written so far durable. After an error the content is gone, unless it is
    /// [`FilesError::UnknownResult`]: then its name may not survive a power loss.
    pub fn sync(&self) -> Result<(), FilesError> {
        self.check()?;
        self.sync_data()?;
        if self.content.named.load(Ordering::Acquire) {
            return Ok(());
        }
        let owed = self.inner.owe(&self.inner.names(), [self.content.at.parent()]);
        self.inner.settle(owed, &self.content.at)?;
        self.content.named.store(true, Ordering::Release);
        Ok(())
    }

    /// It is whole and takes no more bytes: cut to `len` bytes, marked with the digest that the caller
    /// knows it to have, if it knows one, and synced. May be called again.
    ///
    /// # Errors
    /// [`FilesError::TooShort`] when there are fewer. After a failed sync the content is gone.
    pub fn seal(&self, len: u64, blake3: Option<&[u8; 32]>) -> Result<(), FilesError> {
        let _alone = self.content.writing.write();
        self.check()?;
        let file = &*self.content.file;
        let now = self.len()?;
        if now < len {
            return Err(FilesError::TooShort { path: self.content.at.clone(), len: now, wanted: len });
        }
        if now > len {
            file.set_len(len).map_err(self.failed("cut"))?;
            self.content.cut_to(len, &self.inner.ledger);
        }
        finish(file, blake3).map_err(self.failed("mark"))?;
        self.sync_data()?;
        self.content.state.lock().sealed = true;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), FilesError> {
        self.content.file.sync_data().map_err(|error| {
            let mut names = self.inner.names();
            if names.open_content(&self.content.at).is_some_and(|content| Arc::ptr_eq(&content, &self.content)) {
                // what cannot be removed now is found again, and wrong in what its digest says
                let _ = self.inner.unstage(&mut names, &self.content.at);
            }
            self.failed("sync")(error)
        })
    }
}

impl Files {
    /// Begin content under `name`, or go on with what a former process left of it. While somebody has
    /// it open it is the same content.
    ///
    /// # Errors
    /// [`FilesError::BadContentName`] unless `name` is of `[0-9a-f]`, 1 to 100 long; so do all that
    /// take one.
    pub fn stage(&self, name: &str) -> Result<StagedFile, FilesError> {
        let content = self.0.stage(content_at(STAGED, name)?)?;
        Ok(StagedFile { inner: self.0.clone(), content })
    }

    /// Remove staged content; nothing there is fine. Not synced.
    pub fn unstage(&self, name: &str) -> Result<(), FilesError> {
        let at = content_at(STAGED, name)?;
        let _pass = self.0.gate.pass();
        self.0.check_usable()?;
        let removed = self.0.unstage(&mut self.0.names(), &at);
        removed.map_err(|e| FilesError::of("remove", &at, e))
    }

    /// Give staged content another name there, in the place of what has it. Whoever has either open writes to it no
    /// more: stage it again. Not synced.
    ///
    /// # Errors
    /// [`FilesError::NotFound`].
    pub fn restage(&self, from: &str, to: &str) -> Result<(), FilesError> {
        let (source, target) = (content_at(STAGED, from)?, content_at(STAGED, to)?);
        let inner = &self.0;
        let of = |error| FilesError::of("give another name to", &source, error);
        let _pass = inner.gate.pass();
        inner.check_usable()?;
        let mut names = inner.names();
        inner.data.stat(&source).map_err(of)?;
        if source == target {
            return Ok(());
        }
        inner.unstage(&mut names, &target).map_err(of)?;
        names.end_staged(&source);
        inner.growing(&source.parent(), || inner.data.rename(&source, &target)).map_err(of)
    }

    /// Names of staged content, in byte order.
    pub fn staged(&self) -> Result<Vec<String>, FilesError> {
        content_names(&*self.0.data, STAGED)
    }

    /// Put sealed content in the place of `path`, and keep the regular file that was there under `keep`;
    /// gives how the file looks now. `Ok`: all of it is durable. [`FilesError::UnknownResult`]: it is in
    /// its place, but may not survive a power loss. Any other error: nothing changed, and the content
    /// is still staged.
    ///
    /// # Errors
    /// [`FilesError::NotSealed`] while somebody has it open and has not sealed it;
    /// [`FilesError::Changed`] when there is not what is `expected`, or the file became another while it
    /// was being kept.
    pub fn put(
        &self,
        path: &RelPath,
        staged: &str,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, FilesError> {
        self.put_from(&content_at(STAGED, staged)?, path, keep, expected)
    }
}
