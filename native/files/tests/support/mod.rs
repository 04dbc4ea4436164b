//! What the tests of files share.
#![allow(dead_code, clippy::unwrap_used)]

use macula_core::{Disk, FileKind, Gate, Ledger, Part, RelPath};
use macula_files::{Files, FilesError};
use macula_testkit::{SeededChance, SimClock};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

pub struct Rig {
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
    pub ledger: Arc<Ledger>,
    pub files: Files,
}

impl Rig {
    pub fn open(disk: Arc<dyn Disk>) -> Result<Rig, FilesError> {
        let (gate, ledger) = (Arc::new(Gate::new()), Arc::new(Ledger::new()));
        let (clock, chance) = (Arc::new(SimClock::default()), Arc::new(SeededChance::new(7)));
        let files = Files::open(disk.clone(), gate.clone(), ledger.clone(), clock, chance)?;
        let rig = Rig { disk, gate, ledger, files };
        let (part, other) = rig.du();
        rig.ledger.set(Part::Files, part);
        rig.ledger.set(Part::Other, other);
        Ok(rig)
    }

    /// What `du -sb` says of `files/` and of the rest.
    pub fn du(&self) -> (u64, u64) {
        let mut seen = HashSet::new();
        // in this order a file that also lies aside counts where users see it
        let files = du(&*self.disk, &RelPath::literal("files"), &mut seen);
        (files, du(&*self.disk, &RelPath::literal(".macula"), &mut seen))
    }

    #[track_caller]
    pub fn check_ledger(&self) {
        let (files, other) = self.du();
        assert_eq!((self.ledger.get(Part::Files), self.ledger.get(Part::Other)), (files, other));
    }

    /// Everything that the public API shows.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let page = self.files.list(None, None, 100_000).unwrap();
        assert!(!page.more);
        let names = page.names.into_iter();
        names.map(|name| (name.as_bytes().to_vec(), self.files.read(&name, 1 << 30).unwrap())).collect()
    }

    /// Temporaries and asides left.
    pub fn leftovers(&self) -> usize {
        let count = |dir: &str| self.disk.list(&RelPath::new(dir).unwrap()).unwrap().len();
        count(".macula/tmp") + count(".macula/aside")
    }
}

fn du(disk: &dyn Disk, path: &RelPath, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(stat) = disk.stat(path) else { return 0 };
    if stat.kind != FileKind::Dir {
        return if seen.insert((stat.dev, stat.ino)) { stat.len } else { 0 };
    }
    let below = disk.list(path).unwrap();
    stat.len + below.iter().map(|e| du(disk, &path.join(e.name.as_bytes()).unwrap(), seen)).sum::<u64>()
}

/// The count for a long family: `full` when asked for by the environment, else a slice.
#[allow(clippy::disallowed_methods)] // the tests' own switch
pub fn count(slice: u64, full: u64) -> u64 {
    if std::env::var("MACULA_TORTURE").is_ok() {
        full
    } else {
        slice
    }
}

/// A content that tells its version and is wrong when torn.
pub fn content(version: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(version);
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|_| rng.u8(1..)));
    bytes
}
