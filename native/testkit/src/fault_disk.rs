//! A disk in memory that forgets what was not synced and fails at the n-th operation.
//!
//! Every operation that changes or syncs counts as one, valid or not; reads do not count. Run a
//! test once to learn how many there are, then again for every n with [`FaultDisk::fail_at`], and
//! look at what [`FaultDisk::after_crash`] leaves. It is stricter than any real file system:
//! `sync_data` promises content and length only (no mode, mtime, tag, name), `sync_dir` only the
//! names of that one directory. Same calls and seeds give the same result.

use crate::content::{CrashMode, FileData, PAGE};
use crate::fault_file::FaultFile;
use crate::machine::{fault_error, Core, Fault};
use crate::tree::*;
use macula_core::{Disk, DiskFile, Entry, Open, RelPath, Space, Stat};
use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The disk. Clones and subtrees share one machine.
#[derive(Debug, Clone)]
pub struct FaultDisk {
    pub(crate) core: Arc<Mutex<Core>>,
    hooks: Arc<Hooks>,
    root: u64,
}

type Hook = (RelPath, Box<dyn FnOnce() + Send>);

/// What tests do in the middle of somebody else's work.
#[derive(Default)]
struct Hooks {
    looks: Mutex<Vec<Hook>>,
    arrivals: Mutex<Vec<Hook>>,
}

/// Run the first hook that waits for `path`.
fn meet(hooks: &Mutex<Vec<Hook>>, path: &RelPath) {
    let mut hooks = hooks.lock();
    let found = hooks.iter().position(|(at, _)| at == path).map(|n| hooks.remove(n));
    drop(hooks);
    if let Some((_, hook)) = found {
        hook();
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("waiting", &(self.looks.lock().len() + self.arrivals.lock().len())).finish()
    }
}

impl Default for FaultDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultDisk {
    /// An empty disk of unlimited size.
    pub fn new() -> Self {
        let meta = Meta { mode: 0o755, ..Meta::default() };
        let body = Body::Dir(DirData { parent: ROOT, ..DirData::default() });
        let mut tree = Tree { next_ino: ROOT + 1, ..Tree::default() };
        tree.nodes.insert(ROOT, Node { body, meta_durable: meta.clone(), meta, links: 1, handles: 0 });
        Self::from_tree(tree, 0)
    }

    fn from_tree(tree: Tree, ticks: i128) -> Self {
        let pages = |node: &Node| if let Body::File(data) = &node.body { data.live.pages.len() as u64 } else { 0 };
        let pages = tree.nodes.values().map(pages).sum();
        let core = Core { tree, pages, ticks, ..Core::default() };
        Self { core: Arc::new(Mutex::new(core)), hooks: Arc::default(), root: ROOT }
    }

    /// Let the operation with this number (the first is 1, see [`FaultDisk::operations`]) fail.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.core.lock().faults.insert(n, fault);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.core.lock().operations.len() as u64
    }

    /// What the n-th operation was, such as `rename`.
    pub fn operation(&self, n: u64) -> Option<&'static str> {
        self.core.lock().operations.get(usize::try_from(n.checked_sub(1)?).ok()?).copied()
    }

    /// Whether a [`Fault::Crash`] was met.
    pub fn has_crashed(&self) -> bool {
        self.core.lock().crashed
    }

    /// Forget all planned faults, and a full disk; a crash stays.
    pub fn heal(&self) {
        let mut core = self.core.lock();
        core.full = false;
        core.faults.clear();
    }

    /// Syncs do nothing from here on, so that a test can be seen to fail.
    pub fn forget_syncs(&self, forget: bool) {
        self.core.lock().forgets = forget;
    }

    /// Room for content in bytes, in whole pages of 4,096; `None` is unlimited.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.core.lock().capacity = bytes;
    }

    /// From here on the operation of that name (see [`FaultDisk::operation`]: `link`, `exchange`,
    /// `set_tag`...) is not supported.
    pub fn lack(&self, operation: &'static str) {
        self.core.lock().lacks.insert(operation);
    }

    /// Run `hook` once, just before the next open, stat, list or subtree of `path`: the worst moment
    /// for whoever looks there.
    pub fn before_look(&self, path: &RelPath, hook: impl FnOnce() + Send + 'static) {
        self.hooks.looks.lock().push((path.clone(), Box::new(hook)));
    }

    /// Run `hook` once, just before the next rename or exchange that puts something at `path`.
    pub fn before_arrival(&self, path: &RelPath, hook: impl FnOnce() + Send + 'static) {
        self.hooks.arrivals.lock().push((path.clone(), Box::new(hook)));
    }

    /// The directory is another user's from here on: its own mode, and the names in it, are not ours
    /// to change.
    pub fn give_away(&self, dir: &RelPath) -> io::Result<()> {
        let mut core = self.core.lock();
        let ino = core.find_dir(self.root, dir)?;
        core.others.insert(ino);
        Ok(())
    }

    fn meet_hook(&self, path: &RelPath) {
        meet(&self.hooks.looks, path);
    }

    /// The disk as found after power loss, with no faults planned. This one stays as it is.
    pub fn after_crash(&self, mode: CrashMode) -> FaultDisk {
        let core = self.core.lock();
        let crashed = Self::from_tree(core.tree.crashed(mode), core.ticks);
        crashed.core.lock().others = core.others.clone();
        Self { root: self.root, ..crashed }
    }

    /// The disk as a next process finds it after `kill -9` of this one: all that was written is
    /// there, what was not synced can still be lost by a later power loss.
    pub fn kill(&self) -> FaultDisk {
        let core = self.core.lock();
        let mut tree = core.tree.clone();
        for node in tree.nodes.values_mut() {
            node.handles = 0;
            if let (Body::File(data), 0) = (&mut node.body, node.links) {
                data.live = Default::default();
            }
        }
        let killed = Self::from_tree(tree, core.ticks);
        killed.core.lock().capacity = core.capacity;
        killed.core.lock().others = core.others.clone();
        Self { root: self.root, ..killed }
    }

    /// Plant something that is neither file, directory nor symlink, as a fifo.
    pub fn plant_other(&self, path: &RelPath) -> io::Result<()> {
        let mut core = self.core.lock();
        let spot = core.vacancy(self.root, path)?;
        core.create(spot, Body::Other, 0o644);
        Ok(())
    }

    /// The core, for an operation that counts, in which a fault is an error at once.
    fn step(&self, operation: &'static str) -> io::Result<MutexGuard<'_, Core>> {
        let mut core = self.core.lock();
        core.step(operation).map_err(fault_error)?;
        Ok(core)
    }

    /// As [`FaultDisk::step`], for operations that take room for a name.
    fn step_for_room(&self, operation: &'static str) -> io::Result<MutexGuard<'_, Core>> {
        let core = self.step(operation)?;
        if core.full {
            return Err(errno(ENOSPC));
        }
        Ok(core)
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Core>> {
        let core = self.core.lock();
        core.check()?;
        Ok(core)
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.meet_hook(path);
        let mut core = if how == Open::CreateNew { self.step_for_room("create")? } else { self.look()? };
        let ino = if how == Open::CreateNew {
            let spot = core.vacancy(self.root, path)?;
            core.create(spot, Body::File(FileData::default()), 0o600)
        } else {
            core.find(self.root, path)?
        };
        let node = core.tree.nodes.get_mut(&ino).ok_or_else(|| errno(ENOENT))?;
        match node.body {
            Body::File(_) => node.handles += 1,
            Body::Dir(_) => return Err(errno(EISDIR)),
            Body::Symlink(_) => return Err(errno(ELOOP)),
            Body::Other => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
        drop(core);
        Ok(Arc::new(FaultFile { core: self.core.clone(), ino, writable: how != Open::Read }))
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        self.meet_hook(path);
        let core = self.look()?;
        core.stat(core.find(self.root, path)?)
    }

    fn list(&self, dir: &RelPath) -> io::Result<Vec<Entry>> {
        self.meet_hook(dir);
        let core = self.look()?;
        let dir = core.tree.dir(core.find(self.root, dir)?)?;
        Ok(dir.live.iter().map(|(name, ino)| Entry { name: name.clone(), ino: *ino }).collect())
    }

    fn create_dir(&self, dir: &RelPath) -> io::Result<()> {
        let mut core = self.step_for_room("create_dir")?;
        let spot = core.vacancy(self.root, dir)?;
        let parent = spot.0;
        core.create(spot, Body::Dir(DirData { parent, ..DirData::default() }), 0o755);
        Ok(())
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        meet(&self.hooks.arrivals, to);
        let mut core = self.step("rename")?;
        if from.is_root() || to.is_root() {
            return Err(errno(EBUSY));
        }
        let (from, to) = (core.locate(self.root, from)?, core.locate(self.root, to)?);
        core.is_ours(from.0).and_then(|()| core.is_ours(to.0))?;
        let ino = core.tree.lookup(&from)?.ok_or_else(|| errno(ENOENT))?;
        let replaced = core.tree.lookup(&to)?;
        if replaced == Some(ino) {
            return Ok(());
        }
        let moves_dir = core.tree.node(ino)?.is_dir();
        core.may_move_to(ino, to.0)?;
        let mut gone_dir = None;
        if let Some(other) = replaced {
            match (&core.tree.node(other)?.body, moves_dir) {
                (Body::Dir(dir), true) if dir.live.is_empty() => gone_dir = Some(other),
                (Body::Dir(_), true) => return Err(errno(ENOTEMPTY)),
                (Body::Dir(_), false) => return Err(errno(EISDIR)),
                (_, true) => return Err(errno(ENOTDIR)),
                _ => {}
            }
        }
        let now = core.now();
        let (clears, sets) = (vec![(from, ino)], vec![(to, ino)]);
        core.tree.change(NameChange { clears, sets, gone_dir, moves: true, dirs: moves_dir, limbo: false }, now);
        if let Some(other) = replaced {
            core.forget(other);
        }
        Ok(())
    }

    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        meet(&self.hooks.arrivals, other);
        let mut core = self.step("exchange")?;
        if one.is_root() || other.is_root() {
            return Err(errno(EBUSY));
        }
        let (one, other) = (core.locate(self.root, one)?, core.locate(self.root, other)?);
        core.is_ours(one.0).and_then(|()| core.is_ours(other.0))?;
        let one_ino = core.tree.lookup(&one)?.ok_or_else(|| errno(ENOENT))?;
        let other_ino = core.tree.lookup(&other)?.ok_or_else(|| errno(ENOENT))?;
        core.may_move_to(one_ino, other.0)?;
        core.may_move_to(other_ino, one.0)?;
        let dirs = core.tree.node(one_ino)?.is_dir() || core.tree.node(other_ino)?.is_dir();
        let now = core.now();
        let sets = vec![(one, other_ino), (other, one_ino)];
        core.tree.change(NameChange { sets, dirs, moves: true, ..Default::default() }, now);
        Ok(())
    }

    fn hard_link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut core = self.step_for_room("link")?;
        let ino = core.find(self.root, from)?;
        let spot = core.vacancy(self.root, to)?;
        if core.tree.node(ino)?.is_dir() {
            return Err(errno(EPERM));
        }
        let now = core.now();
        core.tree.change(NameChange { sets: vec![(spot, ino)], ..Default::default() }, now);
        Ok(())
    }

    fn symlink(&self, target: &Path, path: &RelPath) -> io::Result<()> {
        let mut core = self.step_for_room("symlink")?;
        let spot = core.vacancy(self.root, path)?;
        core.create(spot, Body::Symlink(target.to_owned()), 0o777);
        Ok(())
    }

    fn read_link(&self, path: &RelPath) -> io::Result<PathBuf> {
        let core = self.look()?;
        match &core.tree.node(core.find(self.root, path)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(errno(EINVAL)),
        }
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        let mut core = self.step("remove")?;
        let ino = core.find(self.root, path)?;
        if core.tree.node(ino)?.is_dir() {
            return Err(errno(EISDIR));
        }
        let spot = core.locate(self.root, path)?;
        core.is_ours(spot.0)?;
        core.remove(spot, ino)
    }

    fn remove_dir(&self, dir: &RelPath) -> io::Result<()> {
        let mut core = self.step("remove_dir")?;
        if dir.is_root() {
            return Err(errno(EINVAL));
        }
        let spot = core.locate(self.root, dir)?;
        core.is_ours(spot.0)?;
        let ino = core.tree.lookup(&spot)?.ok_or_else(|| errno(ENOENT))?;
        match &core.tree.node(ino)?.body {
            Body::Dir(dir) if !dir.live.is_empty() => Err(errno(ENOTEMPTY)),
            Body::Dir(_) => core.remove(spot, ino),
            _ => Err(errno(ENOTDIR)),
        }
    }

    fn set_dir_meta(&self, dir: &RelPath, mode: u32, mtime_ns: i128) -> io::Result<()> {
        let mut core = self.step("set_dir_meta")?;
        let ino = core.find_dir(self.root, dir)?;
        core.is_ours(ino)?;
        if let Some(node) = core.tree.nodes.get_mut(&ino) {
            (node.meta.mode, node.meta.mtime_ns) = (mode & 0o7777, mtime_ns);
        }
        Ok(())
    }

    fn dir_tag(&self, dir: &RelPath, name: &str) -> io::Result<Option<Vec<u8>>> {
        let core = self.look()?;
        Ok(core.tree.node(core.find_dir(self.root, dir)?)?.meta.tags.get(name).cloned())
    }

    fn set_dir_tag(&self, dir: &RelPath, name: &str, value: &[u8]) -> io::Result<()> {
        let mut core = self.step_for_room("set_dir_tag")?;
        let ino = core.find_dir(self.root, dir)?;
        core.is_ours(ino)?;
        if let Some(node) = core.tree.nodes.get_mut(&ino) {
            node.meta.tags.insert(name.to_owned(), value.to_vec());
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &RelPath) -> io::Result<()> {
        let mut core = self.core.lock();
        let fault = core.step("sync_dir");
        if fault == Err(Fault::Crash) {
            return fault.map_err(fault_error);
        }
        let ino = core.find_dir(self.root, dir)?;
        match fault {
            Err(_) => core.tree.fail_sync_names(Some(ino)),
            Ok(()) if core.forgets => {}
            Ok(()) => {
                core.tree.sync_names(Some(ino));
                core.sync_meta(ino);
            }
        }
        fault.map_err(fault_error)
    }

    fn sync_tree(&self) -> io::Result<()> {
        let mut core = self.core.lock();
        let fault = core.step("sync_tree");
        let failed = fault.is_err();
        if fault == Err(Fault::Crash) || (core.forgets && !failed) {
            return fault.map_err(fault_error);
        }
        for node in core.tree.nodes.values_mut() {
            match &mut node.body {
                Body::File(data) if failed => data.fail_sync(),
                Body::File(data) => data.sync(),
                _ => {}
            }
            if !failed {
                node.meta_durable = node.meta.clone();
            }
        }
        if failed {
            core.tree.fail_sync_names(None);
        } else {
            core.tree.sync_names(None);
        }
        fault.map_err(fault_error)
    }

    fn space(&self) -> io::Result<Space> {
        let core = self.look()?;
        let total = core.capacity.unwrap_or(1 << 50);
        let free = core.pages_free().saturating_mul(PAGE as u64).min(total);
        Ok(Space { free, total })
    }

    fn subtree(&self, dir: &RelPath) -> io::Result<Arc<dyn Disk>> {
        self.meet_hook(dir);
        let core = self.look()?;
        let root = core.find_dir(self.root, dir)?;
        Ok(Arc::new(FaultDisk { root, ..self.clone() }))
    }
}

/// A name that is known to be good, for tests.
pub fn path(text: &str) -> RelPath {
    match RelPath::new(text) {
        Ok(path) => path,
        Err(error) => panic!("{error}"),
    }
}
