//! Which names an archive has given so far, whatever the order in which threads see them.
//!
//! Invariant: no name twice, nothing below a file or symlink, and at the end exactly the names of the
//! manifest. Memory: about 80 bytes per entry, whatever the names' length.

use crate::error::{corrupt, refused, Result};
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

fn key(path: &[u8]) -> Key {
    short(blake3::hash(path))
}

impl Names {
    /// Takes a name before anything is written to it; gives how many names there are now, implied
    /// directories included. `parent_known`: an entry beside it was taken before.
    pub(crate) fn take(&mut self, path: &RelPath, is_dir: bool, parent_known: bool) -> Result<u64> {
        let bytes = path.as_bytes();
        let above = if parent_known { &[] } else { bytes };
        for (at, _) in above.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = self.seen.entry(key(&bytes[..at])).or_insert(Seen::Implied);
            if !above.holds_others() {
                return refused("an entry below a file or symlink", bytes);
            }
        }
        let empty = [0; 16];
        let new = if is_dir { Seen::Dir(empty) } else { Seen::Leaf(empty) };
        match self.seen.entry(key(bytes)) {
            Slot::Vacant(slot) => {
                slot.insert(new);
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
        Ok(self.seen.len() as u64)
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

/// Symlinks of a tree, by path, to find out where each leads.
pub(crate) struct Links<'a>(pub(crate) HashMap<&'a [u8], &'a [u8]>);

impl Links<'_> {
    /// Whether following the link at `path` stays in the tree at every step, through every other
    /// link on the way. Checking the text alone is not enough: where `s` leads to the top, `s/../x`
    /// leads out. A chain of more than 40 links goes nowhere (`ELOOP`), so it stays.
    pub(crate) fn stays_inside(&self, path: &RelPath, target: &[u8]) -> bool {
        let mut at: Vec<Vec<u8>> = match path.parent() {
            parent if parent.is_root() => Vec::new(),
            parent => parent.as_bytes().split(|b| *b == b'/').map(<[u8]>::to_vec).collect(),
        };
        if target.first() == Some(&b'/') {
            return false;
        }
        // what is still to be walked, its next component last
        let mut todo: Vec<Vec<u8>> = components(target);
        let mut hops = 0;
        while let Some(component) = todo.pop() {
            if component == b".." {
                if at.pop().is_none() {
                    return false;
                }
                continue;
            }
            at.push(component);
            let Some(next) = self.0.get(at.join(&b'/').as_slice()) else { continue };
            hops += 1;
            if next.first() == Some(&b'/') {
                return false;
            }
            if hops > 40 {
                return true;
            }
            at.pop();
            todo.extend(components(next));
        }
        true
    }
}

/// A path's components, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".");
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
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
}
