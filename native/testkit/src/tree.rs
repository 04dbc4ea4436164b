//! The simulated tree of names: as everybody sees it, and as the platter has it.
//!
//! Invariant: changes of names wait in one ordered list until a sync of their directory. A crash may
//! drop any of them, but keeps the order of changes to one name, never splits a rename so that
//! neither name is left, and never keeps the removal of a directory whose content was to move out
//! first. A name is durable only when every directory above it is.

use crate::content::{CrashMode, FileData};
use fastrand::Rng;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

pub(crate) const ROOT: u64 = 2;

pub(crate) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EBADF: i32 = 9;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENOTDIR: i32 = 20;
pub(crate) const EISDIR: i32 = 21;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const ENOTEMPTY: i32 = 39;
pub(crate) const ELOOP: i32 = 40;

/// A name in a directory.
pub(crate) type Spot = (u64, OsString);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub mode: u32,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
    pub tags: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DirData {
    pub live: BTreeMap<OsString, u64>,
    pub durable: BTreeMap<OsString, u64>,
    /// The directory that holds it, to tell a move into itself.
    pub parent: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    File(FileData),
    Dir(DirData),
    Symlink(PathBuf),
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub body: Body,
    pub meta: Meta,
    pub meta_durable: Meta,
    /// Live names that stand for it.
    pub links: u64,
    pub handles: u64,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }
}

/// A change of names that is not durable yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameChange {
    pub clears: Vec<(Spot, u64)>,
    pub sets: Vec<(Spot, u64)>,
    /// Something that was there already moves: never ahead of an earlier change of directories,
    /// or it could end where nothing leads to.
    pub moves: bool,
    /// A directory that this removes.
    pub gone_dir: Option<u64>,
    /// It makes, moves or removes a directory.
    pub dirs: bool,
    pub limbo: bool,
}

impl NameChange {
    fn spots(&self) -> impl Iterator<Item = &Spot> {
        self.clears.iter().chain(&self.sets).map(|(spot, _)| spot)
    }

    fn touches(&self, dir: u64) -> bool {
        self.spots().any(|(d, _)| *d == dir)
    }

    /// A file's rename from another directory into `dir`.
    fn enters(&self, dir: u64) -> bool {
        !self.dirs
            && matches!((&self.clears[..], &self.sets[..]),
                ([((from, _), _)], [((to, _), _)]) if *to == dir && *from != dir)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    pub nodes: HashMap<u64, Node>,
    pub pending: Vec<NameChange>,
    pub next_ino: u64,
}

impl Tree {
    pub fn node(&self, ino: u64) -> io::Result<&Node> {
        self.nodes.get(&ino).ok_or_else(|| errno(ENOENT))
    }

    pub fn dir(&self, ino: u64) -> io::Result<&DirData> {
        match &self.node(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::Symlink(_) => Err(errno(ELOOP)),
            _ => Err(errno(ENOTDIR)),
        }
    }

    pub fn dir_mut(&mut self, ino: u64) -> Option<&mut DirData> {
        match &mut self.nodes.get_mut(&ino)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn lookup(&self, spot: &Spot) -> io::Result<Option<u64>> {
        Ok(self.dir(spot.0)?.live.get(&spot.1).copied())
    }

    /// A change of names, now and once it is synced.
    pub fn change(&mut self, change: NameChange, now: i128) {
        for ((dir, name), ino) in &change.clears {
            if let Some(dir) = self.dir_mut(*dir) {
                dir.live.remove(name);
            }
            self.link(*ino, -1);
        }
        for ((dir, name), ino) in &change.sets {
            let replaced = self.dir_mut(*dir).and_then(|dir| dir.live.insert(name.clone(), *ino));
            if let Some(replaced) = replaced {
                self.link(replaced, -1);
            }
            self.link(*ino, 1);
            if let Some(moved) = self.dir_mut(*ino) {
                moved.parent = *dir;
            }
        }
        let dirs: Vec<u64> = change.spots().map(|(dir, _)| *dir).collect();
        let inos: Vec<u64> = change.clears.iter().chain(&change.sets).map(|(_, ino)| *ino).collect();
        for dir in dirs {
            if let Some(node) = self.nodes.get_mut(&dir) {
                (node.meta.mtime_ns, node.meta.ctime_ns) = (now, now);
            }
        }
        for ino in inos {
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.meta.ctime_ns = now;
            }
        }
        self.pending.push(change);
    }

    fn link(&mut self, ino: u64, by: i64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.links = node.links.saturating_add_signed(by);
        }
    }

    /// What a sync of `dir` (of everything: `None`) makes durable, as marks on `pending`, with what
    /// must go along: earlier changes of the same names, and of directories before a move.
    fn marks(&self, dir: Option<u64>) -> Vec<bool> {
        let mut marks = vec![false; self.pending.len()];
        let (mut names, mut emptied, mut dirs) = (HashSet::new(), HashSet::new(), false);
        for (mark, change) in marks.iter_mut().zip(&self.pending).rev() {
            let asked = !change.limbo && dir.is_none_or(|dir| change.touches(dir));
            let needed = change.spots().any(|spot| names.contains(spot) || emptied.contains(&spot.0));
            let needed = needed || (dirs && change.dirs);
            if !asked && !needed {
                continue;
            }
            *mark = true;
            if dir.is_some_and(|dir| change.enters(dir)) && !needed {
                names.extend(change.sets.iter().map(|(spot, _)| spot.clone()));
                continue;
            }
            names.extend(change.spots().cloned());
            emptied.extend(change.gone_dir);
            dirs |= change.moves;
        }
        marks
    }

    /// Make the names in `dir` (everywhere: `None`) durable.
    pub fn sync_names(&mut self, dir: Option<u64>) {
        let marks = self.marks(dir);
        let pending = std::mem::take(&mut self.pending);
        let mut cleared = Vec::new();
        for (mut change, mark) in pending.into_iter().zip(marks) {
            if !mark {
                self.pending.push(change);
                continue;
            }
            // only the arrival is promised by a sync of the directory it arrived in
            let halved = dir.is_some_and(|dir| change.enters(dir));
            for ((dir, name), ino) in change.sets.drain(..) {
                let replaced = self.dir_mut(dir).and_then(|dir| dir.durable.insert(name, ino));
                cleared.extend(replaced);
            }
            if halved {
                self.pending.push(change);
                continue;
            }
            for ((dir, name), ino) in change.clears {
                if let Some(dir) = self.dir_mut(dir).filter(|d| d.durable.get(&name) == Some(&ino)) {
                    dir.durable.remove(&name);
                }
                cleared.push(ino);
            }
        }
        for ino in cleared {
            self.collect(ino);
        }
    }

    pub fn fail_sync_names(&mut self, dir: Option<u64>) {
        for (mark, change) in self.marks(dir).into_iter().zip(&mut self.pending) {
            change.limbo |= mark;
        }
    }

    /// Forget a node that nothing can reach any more, live or durable.
    pub fn collect(&mut self, ino: u64) {
        let unused = self.nodes.get(&ino).is_some_and(|n| n.links == 0 && n.handles == 0 && !n.is_dir());
        let pending = |t: &Self| t.pending.iter().any(|c| c.clears.iter().chain(&c.sets).any(|(_, i)| *i == ino));
        let durable = |t: &Self| {
            t.nodes.values().any(|n| matches!(&n.body, Body::Dir(d) if d.durable.values().any(|i| *i == ino)))
        };
        if unused && !pending(self) && !durable(self) {
            self.nodes.remove(&ino);
        }
    }

    /// The tree as found after power loss.
    pub fn crashed(&self, mode: CrashMode) -> Tree {
        let mut rng = Rng::with_seed(if let CrashMode::Random(seed) = mode { seed } else { 0 });
        let mut dirs: HashMap<u64, BTreeMap<OsString, u64>> = HashMap::new();
        for (ino, node) in &self.nodes {
            if let Body::Dir(dir) = &node.body {
                let names = if mode == CrashMode::KeepAll { &dir.live } else { &dir.durable };
                dirs.insert(*ino, names.clone());
            }
        }
        if let CrashMode::Random(_) = mode {
            self.replay(&mut dirs, &mut rng);
        }
        let mut tree = Tree { next_ino: self.next_ino, ..Tree::default() };
        self.rescue(ROOT, ROOT, &dirs, mode, &mut rng, &mut tree);
        tree
    }

    /// Replay a possible subset of the pending changes.
    fn replay(&self, dirs: &mut HashMap<u64, BTreeMap<OsString, u64>>, rng: &mut Rng) {
        let odds = rng.u8(1..=9);
        let (mut skipped, mut dirs_skipped) = (HashSet::new(), false);
        for change in &self.pending {
            let blocked = change.spots().any(|spot| skipped.contains(spot))
                || change.gone_dir.is_some_and(|dir| skipped.iter().any(|(d, _)| *d == dir))
                || (change.moves && dirs_skipped);
            if blocked || rng.u8(0..10) >= odds {
                skipped.extend(change.spots().cloned());
                dirs_skipped |= change.dirs;
                continue;
            }
            for ((dir, name), ino) in &change.sets {
                dirs.entry(*dir).or_default().insert(name.clone(), *ino);
            }
            let halved = change.sets.iter().any(|((dir, _), _)| change.enters(*dir)) && rng.u8(0..4) == 0;
            for (spot, ino) in &change.clears {
                let names = dirs.entry(spot.0).or_default();
                if halved {
                    skipped.insert(spot.clone());
                } else if names.get(&spot.1) == Some(ino) {
                    names.remove(&spot.1);
                }
            }
        }
    }

    /// Copy what can be reached from `ino`.
    fn rescue(
        &self,
        ino: u64,
        parent: u64,
        dirs: &HashMap<u64, BTreeMap<OsString, u64>>,
        mode: CrashMode,
        rng: &mut Rng,
        tree: &mut Tree,
    ) {
        if let Some(known) = tree.nodes.get_mut(&ino) {
            known.links += 1;
            return;
        }
        let Some(node) = self.nodes.get(&ino) else { return };
        let live = match mode {
            CrashMode::LoseAll => false,
            CrashMode::KeepAll => true,
            CrashMode::Random(_) => rng.bool(),
        };
        let meta = if live { node.meta.clone() } else { node.meta_durable.clone() };
        let names = dirs.get(&ino).cloned().unwrap_or_default();
        let body = match &node.body {
            Body::File(data) => Body::File(FileData::at_rest(data.crashed(mode, rng))),
            Body::Dir(_) => Body::Dir(DirData { live: names.clone(), durable: names.clone(), parent }),
            other => other.clone(),
        };
        tree.nodes.insert(ino, Node { body, meta_durable: meta.clone(), meta, links: 1, handles: 0 });
        for below in names.values() {
            self.rescue(*below, ino, dirs, mode, rng, tree);
        }
    }
}
