//! A node's certificate brought to where it belongs: a directory that is new, or in the place of the
//! node's certificate before.
//!
//! Invariant: what is put there was read back as the node will read it. A directory is replaced whole,
//! and only when it is that node's and holds nothing else.

use crate::about;
use crate::authority::{install, sibling, CA_FILE, CERT_FILE, KEY_FILE};
use crate::{Authority, Issue, NetError, NodeFacts, Peer};
use macula_core::{remove_tree, Chance, Clock, Disk, FileKind, RelPath};
use std::io;

impl Authority {
    /// As [`Authority::issue`], where the directory `dir` may be there: when it is empty, or this node's,
    /// it is replaced, for every reader wholly the old or wholly the new.
    ///
    /// # Errors
    /// [`NetError::Taken`]; those of [`Authority::issue`]; nothing has changed then.
    pub fn renew(
        &self,
        disk: &dyn Disk,
        dir: &RelPath,
        wanted: &Issue<'_>,
        clock: &dyn Clock,
        chance: &dyn Chance,
    ) -> Result<NodeFacts, NetError> {
        let peer = Peer { node: wanted.node.clone(), role: wanted.role, cluster: self.cluster() };
        let before = replaceable(disk, dir, &peer)?;
        let fresh = sibling(dir, format!(".{:016x}.issued", chance.next_u64()))?;
        self.issue(disk, &fresh, wanted, clock, chance)?;
        let put = about::node(disk, &fresh).and_then(|facts| install(disk, &fresh, dir).map(|()| facts));
        put.inspect_err(|_| {
            // else what is left there is the certificate before, which may be what a crash brings back
            if inode(disk, dir) == before {
                let _ = remove_tree(disk, &fresh);
            }
        })
    }
}

/// The inode of the directory that would be replaced, `None` when there is none.
fn replaceable(disk: &dyn Disk, dir: &RelPath, peer: &Peer) -> Result<Option<u64>, NetError> {
    let failed = NetError::io("look into a directory");
    let stat = match disk.stat(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        stat => stat.map_err(&failed)?,
    };
    if stat.kind != FileKind::Dir {
        return Err(NetError::Taken("not a directory".into()));
    }
    for entry in disk.list(dir).map_err(&failed)? {
        if ![CA_FILE, CERT_FILE, KEY_FILE].iter().any(|ours| entry.name == *ours) {
            return Err(NetError::Taken(format!("it holds something else: name={}", entry.name.display())));
        }
    }
    // one that cannot be read is nobody's: its node could not use it either
    match about::peer(disk, dir) {
        Ok(there) if there != *peer => Err(NetError::Taken(format!(
            "it is another's: node={} role={} cluster={}",
            there.node,
            there.role.label(),
            there.cluster
        ))),
        _ => Ok(Some(stat.ino)),
    }
}

fn inode(disk: &dyn Disk, dir: &RelPath) -> Option<u64> {
    disk.stat(dir).ok().map(|stat| stat.ino)
}
