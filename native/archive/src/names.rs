//! Which names an archive has given so far, whatever the order in which threads see them.
//!
//! Invariant: no name twice, nothing below a file or symlink, and at the end exactly the names of the
//! manifest. Memory: about 80 bytes per entry, whatever the names' length.

use crate::error::{corrupt, refused, Result};
use crate::item::DEPTH_MAX;
use crate::manifest::{short, ManifestEntry, Remark};
use macula_core::RelPath;
use std::collections::hash_map::Entry as Slot;
use std::collections::HashMap;

type Key = [u8; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A directory that a path goes through and that has no entry yet.
    Implied,
    Dir(Key),
    Leaf(Key),
    /// Listed in the manifest too.
    Listed {
        dir: bool,
    },
}

impl Seen {
    fn holds_others(self) -> bool {
        matches!(self, Seen::Implied | Seen::Dir(_) | Seen::Listed { dir: true })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    seen: HashMap<Key, Seen>,
    /// Entries proper.
    given: u64,
    listed: u64,
}

/// What taking a name has come to.
pub(crate) struct Taken {
    /// Names there are now, implied directories included.
    pub(crate) names: u64,
    /// Directories that were not there before, implied ones included.
    pub(crate) dirs_new: u64,
}

/// Whether a path goes through more directories than an archive may hold: each of them costs memory,
/// a block on the disk and, while it is made, a descriptor, and a few bytes can name thousands.
pub(crate) fn is_too_deep(path: &[u8]) -> bool {
    path.iter().filter(|b| **b == b'/').count() > DEPTH_MAX
}

fn key(path: &[u8]) -> Key {
    short(blake3::hash(path))
}

impl Names {
    /// Takes a name before anything is written to it. `parent_known`: an entry beside it was taken
    /// before.
    pub(crate) fn take(&mut self, path: &RelPath, is_dir: bool, parent_known: bool) -> Result<Taken> {
        let bytes = path.as_bytes();
        let before = self.seen.len();
        let above = if parent_known { &[] } else { bytes };
        for (at, _) in above.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = self.seen.entry(key(&bytes[..at])).or_insert(Seen::Implied);
            if !above.holds_others() {
                return refused("an entry below a file or symlink", bytes);
            }
        }
        let empty = [0; 16];
        let new = if is_dir { Seen::Dir(empty) } else { Seen::Leaf(empty) };
        let implied = self.seen.len() - before;
        let mut own = 0;
        match self.seen.entry(key(bytes)) {
            Slot::Vacant(slot) => {
                slot.insert(new);
                own = usize::from(is_dir);
            }
            Slot::Occupied(mut slot) => match slot.get() {
                Seen::Implied if is_dir => {
                    slot.insert(new);
                }
                Seen::Implied => return refused("an entry below a file or symlink", bytes),
                _ => return refused("a name that is there twice", bytes),
            },
        }
        self.given += 1;
        Ok(Taken { names: self.seen.len() as u64, dirs_new: (implied + own) as u64 })
    }

    /// Records what the entry turned out to be.
    pub(crate) fn seal(&mut self, path: &RelPath, digest: Key) {
        if let Some(seen) = self.seen.get_mut(&key(path.as_bytes())) {
            match seen {
                Seen::Dir(d) | Seen::Leaf(d) => *d = digest,
                Seen::Implied | Seen::Listed { .. } => {}
            }
        }
    }

    /// Compares a line of the manifest with what was there.
    pub(crate) fn check_listed(&mut self, entry: &ManifestEntry) -> Result<()> {
        let path = entry.path();
        let seen = self.seen.get_mut(&key(&path));
        if !entry.remark.is_none_or(Remark::is_packed) {
            return match seen {
                None | Some(Seen::Implied) => Ok(()),
                Some(_) => corrupt("the manifest lists as missing what is there", &path),
            };
        }
        match seen {
            Some(found @ (Seen::Dir(_) | Seen::Leaf(_))) => {
                let (digest, dir) = match *found {
                    Seen::Dir(digest) => (digest, true),
                    Seen::Leaf(digest) => (digest, false),
                    Seen::Implied | Seen::Listed { .. } => ([0; 16], false),
                };
                if digest != entry.digest() {
                    return corrupt("an entry is not what the manifest says", &path);
                }
                *found = Seen::Listed { dir };
                self.listed += 1;
                Ok(())
            }
            Some(Seen::Listed { .. }) => corrupt("the manifest lists an entry twice", &path),
            Some(Seen::Implied) | None => corrupt("the manifest lists what is not there", &path),
        }
    }

    /// After the manifest's last line.
    pub(crate) fn check_all_listed(&self) -> Result<()> {
        if self.given != self.listed {
            return corrupt("the archive holds entries that the manifest does not list", crate::head::MANIFEST);
        }
        Ok(())
    }
}

/// Components on a link's whole way, over all links on it. Longer ways exist only to cost time.
const STEPS_MAX: u32 = 1024;

/// Symlinks of a tree, by path, to find out where each leads.
pub(crate) struct Links<'a>(pub(crate) HashMap<&'a [u8], &'a [u8]>);

impl Links<'_> {
    /// Whether following the link at `path` stays in the tree at every step, through every other
    /// link on the way. Checking the text alone is not enough: where `s` leads to the top, `s/../x`
    /// leads out. A chain of more than 40 links goes nowhere (`ELOOP`), so it stays. What takes more
    /// than [`STEPS_MAX`] steps is not followed to its end and does not count as staying.
    pub(crate) fn stays_inside<'t>(&'t self, path: &RelPath, target: &'t [u8]) -> bool {
        // where it has come to, as bytes, so that a step costs no copy
        let mut at: Vec<u8> = match path.parent() {
            parent if parent.is_root() => Vec::new(),
            parent => parent.as_bytes().to_vec(),
        };
        if target.first() == Some(&b'/') {
            return false;
        }
        // what is still to be walked, its next component last
        let mut todo: Vec<&[u8]> = components(target);
        let (mut hops, mut steps) = (0, 0);
        while let Some(component) = todo.pop() {
            steps += 1;
            if steps > STEPS_MAX {
                return false;
            }
            if component == b".." {
                if at.is_empty() {
                    return false;
                }
                at.truncate(at.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            let above = at.len();
            if above > 0 {
                at.push(b'/');
            }
            at.extend_from_slice(component);
            // no entry has a longer path: nothing to look for
            if at.len() > RelPath::LEN_MAX {
                continue;
            }
            let Some(next) = self.0.get(at.as_slice()) else { continue };
            hops += 1;
            if next.first() == Some(&b'/') {
                return false;
            }
            if hops > 40 {
                return true;
            }
            at.truncate(above);
            todo.extend(components(next));
        }
        true
    }
}

/// A path's components, last first.
fn components(path: &[u8]) -> Vec<&[u8]> {
    path.rsplit(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stays(links: &[(&str, &str)], path: &str, target: &str) -> bool {
        let map = links.iter().map(|(p, t)| (p.as_bytes(), t.as_bytes())).collect();
        Links(map).stays_inside(&RelPath::new(path).expect("good"), target.as_bytes())
    }

    #[test]
    fn links_are_followed_through_links() {
        assert!(stays(&[], "a/b", "../c/./d"));
        assert!(stays(&[], "a/b/c", "../../x/../y"));
        assert!(!stays(&[], "a/b", "../../x"));
        assert!(!stays(&[], "a", "/etc/passwd"));
        assert!(!stays(&[], "a", ".."));
        // `a/s` is the top itself, so that its `..` is outside although the text looks inside
        assert!(!stays(&[("a/s", "..")], "t", "a/s/../x"));
        assert!(stays(&[("a/s", "..")], "t", "a/s/x"));
        assert!(stays(&[("a", "b"), ("b", "a")], "a", "b"), "a loop goes nowhere");
        assert!(!stays(&[("out", "/etc")], "t", "out/passwd"));
    }

    /// Forty links of 2,000 components each, one after the other, took 80,000 steps, each of which
    /// copied the whole way so far: a few hundred bytes of archive kept a thread busy for minutes.
    #[test]
    fn a_way_of_many_steps_is_not_followed() {
        let text = |next: usize| format!("{}l{next}", "d/../".repeat(800));
        let texts: Vec<(String, String)> = (0..39).map(|n| (format!("l{n}"), text(n + 1))).collect();
        let links: Vec<(&str, &str)> = texts.iter().map(|(path, target)| (path.as_str(), target.as_str())).collect();
        assert!(!stays(&links, "a", "l0"));
        assert!(stays(&[], "a", &"d/../".repeat(500)), "as long as a path may be");
        assert!(!is_too_deep("d/".repeat(128).as_bytes()) && is_too_deep("d/".repeat(129).as_bytes()));
    }
}
