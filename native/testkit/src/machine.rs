//! The simulated machine: its tree, its room, its planned faults, and what each call does to them.

use crate::content::{Change, PAGE};
use crate::tree::*;
use macula_core::{FileKind, RelPath, Stat};
use std::collections::{BTreeMap, HashSet};
use std::io;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: this and every later operation, reads too, fails; nothing changes any more.
    Crash,
    /// This operation fails once. A write leaves its first half; a sync leaves its data in limbo:
    /// visible, perhaps durable, and never written by a later sync that succeeds.
    Io,
    /// From here on no operation that takes room succeeds, until [`FaultDisk::heal`].
    Full,
    /// This operation is refused once, as by a file system that does not have it.
    Unsupported,
}

pub(crate) fn fault_error(fault: Fault) -> io::Error {
    match fault {
        Fault::Crash => io::Error::other("the simulated machine has crashed"),
        Fault::Io => errno(EIO),
        Fault::Full => errno(ENOSPC),
        Fault::Unsupported => io::ErrorKind::Unsupported.into(),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Core {
    pub tree: Tree,
    pub operations: Vec<&'static str>,
    pub faults: BTreeMap<u64, Fault>,
    pub crashed: bool,
    pub full: bool,
    pub lacks: HashSet<&'static str>,
    /// Directories of another user.
    pub others: HashSet<u64>,
    pub forgets: bool,
    pub capacity: Option<u64>,
    pub pages: u64,
    pub ticks: i128,
}

impl Core {
    /// Count an operation and let it meet its fault.
    pub fn step(&mut self, operation: &'static str) -> Result<(), Fault> {
        if self.crashed {
            return Err(Fault::Crash);
        }
        self.operations.push(operation);
        // a planned fault is met also where the operation would be refused: a crash at every n is one
        match self.faults.get(&(self.operations.len() as u64)) {
            Some(Fault::Crash) => {
                self.crashed = true;
                return Err(Fault::Crash);
            }
            Some(fault @ (Fault::Io | Fault::Unsupported)) => return Err(*fault),
            Some(Fault::Full) => self.full = true,
            None => {}
        }
        if self.lacks.contains(operation) {
            return Err(Fault::Unsupported);
        }
        Ok(())
    }

    pub fn check(&self) -> io::Result<()> {
        if self.crashed {
            return Err(io::Error::other("the simulated machine has crashed"));
        }
        Ok(())
    }

    /// The next instant: one millisecond after the last.
    pub fn now(&mut self) -> i128 {
        self.ticks += 1;
        1_700_000_000_000_000_000 + self.ticks * 1_000_000
    }

    /// Pages that may still be taken.
    pub fn pages_free(&self) -> u64 {
        let limit = self.capacity.map_or(u64::MAX, |bytes| bytes / PAGE as u64);
        if self.full {
            0
        } else {
            limit.saturating_sub(self.pages)
        }
    }

    /// Change a file's content and account for its pages.
    pub fn change_file(&mut self, ino: u64, change: Change) -> io::Result<()> {
        let now = self.now();
        let node = self.tree.nodes.get_mut(&ino).ok_or_else(|| errno(ENOENT))?;
        let Body::File(data) = &mut node.body else { return Err(errno(EINVAL)) };
        let before = data.live.pages.len() as u64;
        data.change(change);
        self.pages = self.pages + data.live.pages.len() as u64 - before;
        (node.meta.mtime_ns, node.meta.ctime_ns) = (now, now);
        Ok(())
    }

    pub fn sync_file(&mut self, ino: u64) {
        if self.forgets {
            return;
        }
        if let Some(Body::File(data)) = self.tree.nodes.get_mut(&ino).map(|node| &mut node.body) {
            data.sync();
        }
    }

    pub fn release(&mut self, ino: u64) {
        if let Some(node) = self.tree.nodes.get_mut(&ino) {
            node.handles -= 1;
        }
        self.forget(ino);
    }

    /// Return the room of a file that has no name and no handle left.
    pub fn forget(&mut self, ino: u64) {
        let Some(node) = self.tree.nodes.get_mut(&ino) else { return };
        if let (Body::File(data), 0, 0) = (&mut node.body, node.links, node.handles) {
            self.pages -= data.live.pages.len() as u64;
            data.live = Default::default();
            self.tree.collect(ino);
        }
    }

    pub fn locate(&self, root: u64, path: &RelPath) -> io::Result<Spot> {
        let mut at = root;
        for name in path.parent().as_path().iter().filter(|name| *name != ".") {
            at = *self.tree.dir(at)?.live.get(name).ok_or_else(|| errno(ENOENT))?;
        }
        self.tree.dir(at)?;
        Ok((at, path.name().to_owned()))
    }

    /// What `path` stands for, symlinks not followed.
    pub fn find(&self, root: u64, path: &RelPath) -> io::Result<u64> {
        if path.is_root() {
            return self.tree.node(root).map(|_| root);
        }
        self.tree.lookup(&self.locate(root, path)?)?.ok_or_else(|| errno(ENOENT))
    }

    pub fn find_dir(&self, root: u64, path: &RelPath) -> io::Result<u64> {
        let ino = self.find(root, path)?;
        self.tree.dir(ino).map(|_| ino)
    }

    /// Whether the names in a directory, and its mode, may be changed.
    pub fn is_ours(&self, dir: u64) -> io::Result<()> {
        if self.others.contains(&dir) {
            return Err(errno(EACCES));
        }
        Ok(())
    }

    /// A place for a new name.
    pub fn vacancy(&self, root: u64, path: &RelPath) -> io::Result<Spot> {
        if path.is_root() {
            return Err(errno(EEXIST));
        }
        let spot = self.locate(root, path)?;
        if self.tree.lookup(&spot)?.is_some() {
            return Err(errno(EEXIST));
        }
        if spot.0 != ROOT && self.tree.node(spot.0)?.links == 0 {
            return Err(errno(ENOENT));
        }
        self.is_ours(spot.0)?;
        Ok(spot)
    }

    pub fn create(&mut self, spot: Spot, body: Body, mode: u32) -> u64 {
        let now = self.now();
        let ino = self.tree.next_ino;
        self.tree.next_ino += 1;
        let meta = Meta { mode, mtime_ns: now, ctime_ns: now, tags: BTreeMap::new() };
        self.tree.nodes.insert(ino, Node { body, meta_durable: meta.clone(), meta, links: 0, handles: 0 });
        let dirs = self.tree.node(ino).is_ok_and(Node::is_dir);
        self.tree.change(NameChange { sets: vec![(spot, ino)], dirs, ..Default::default() }, now);
        ino
    }

    pub fn remove(&mut self, spot: Spot, ino: u64) -> io::Result<()> {
        let gone_dir = self.tree.node(ino)?.is_dir().then_some(ino);
        let now = self.now();
        let dirs = gone_dir.is_some();
        self.tree.change(NameChange { clears: vec![(spot, ino)], gone_dir, dirs, ..Default::default() }, now);
        self.forget(ino);
        Ok(())
    }

    pub fn stat(&self, ino: u64) -> io::Result<Stat> {
        let node = self.tree.node(ino)?;
        let (kind, len) = match &node.body {
            Body::File(data) => (FileKind::File, data.live.len),
            Body::Dir(_) => (FileKind::Dir, PAGE as u64),
            Body::Symlink(target) => (FileKind::Symlink, target.as_os_str().len() as u64),
            Body::Other => (FileKind::Other, 0),
        };
        let Meta { mode, mtime_ns, ctime_ns, .. } = node.meta;
        let below = |dir: &DirData| dir.live.values().filter(|ino| self.tree.nodes[ino].is_dir()).count() as u64;
        let nlink = match &node.body {
            Body::Dir(dir) => 2 + below(dir),
            _ => node.links,
        };
        Ok(Stat { kind, len, mode, mtime_ns, ctime_ns, dev: 1, ino, nlink })
    }

    /// A directory cannot move into itself.
    pub fn may_move_to(&self, ino: u64, mut dir: u64) -> io::Result<()> {
        if dir != ROOT && self.tree.node(dir)?.links == 0 {
            return Err(errno(ENOENT));
        }
        loop {
            if dir == ino {
                return Err(errno(EINVAL));
            }
            if dir == ROOT {
                return Ok(());
            }
            dir = self.tree.dir(dir)?.parent;
        }
    }

    pub fn sync_meta(&mut self, ino: u64) {
        if let Some(node) = self.tree.nodes.get_mut(&ino) {
            node.meta_durable = node.meta.clone();
        }
    }
}
