//! The mark of a tree: it stays with the directory, and with nothing that comes into its place.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::{remove_tree, Disk, RealDisk, RelPath, TREE_MARK_LEN};
use macula_testkit::{path, CrashMode, Fault, FaultDisk};
use std::sync::Arc;
use support::Rig;

const MARK: [u8; TREE_MARK_LEN] = [7; TREE_MARK_LEN];

fn rig(disk: &FaultDisk) -> Rig {
    Rig::open(Arc::new(disk.clone()) as Arc<dyn Disk>).unwrap()
}

fn stays_with_its_directory(rig: &Rig) {
    assert_eq!(rig.files.tree_mark().unwrap(), None);
    rig.files.mark_tree(&[1; TREE_MARK_LEN]).unwrap();
    rig.files.mark_tree(&MARK).unwrap();
    rig.files.write(&path("dir/a"), b"a").unwrap();
    rig.files.delete(&path("dir/a")).unwrap();
    assert_eq!(rig.files.tree_mark().unwrap(), Some(MARK));
    assert_eq!(rig.contents().len(), 0, "no file of the app");
    rig.check_ledger();
}

#[test]
fn on_real_and_simulated_disks() {
    let (simulated, lacking) = (FaultDisk::new(), FaultDisk::new());
    lacking.lack("set_dir_tag");
    stays_with_its_directory(&rig(&simulated));
    stays_with_its_directory(&rig(&lacking));
    let dir = tempfile::tempdir().unwrap();
    stays_with_its_directory(&Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap());
}

#[test]
fn a_directory_in_its_place_is_another() {
    let disk = FaultDisk::new();
    let other = rig(&disk);
    other.files.mark_tree(&MARK).unwrap();
    remove_tree(&*other.disk, &RelPath::literal("files")).unwrap();
    assert_eq!(other.files.tree_mark().unwrap(), None);
    other.files.write(&path("dir/a"), b"a").unwrap();
    assert_eq!(other.files.tree_mark().unwrap(), None, "made anew by a write");
    remove_tree(&*other.disk, &RelPath::literal("files")).unwrap();
    assert_eq!(rig(&disk).files.tree_mark().unwrap(), None, "made anew by the next process");
    other.files.mark_tree(&MARK).unwrap();
    assert_eq!(other.files.tree_mark().unwrap(), Some(MARK));
}

#[test]
fn what_returned_ok_survives_a_power_loss_at_every_operation() {
    for lacks in [false, true] {
        for n in 1.. {
            let disk = FaultDisk::new();
            if lacks {
                disk.lack("set_dir_tag");
            }
            let marked = rig(&disk);
            disk.fail_at(disk.operations() + n, Fault::Crash);
            let is_marked = marked.files.mark_tree(&MARK).is_ok();
            let found = rig(&disk.after_crash(CrashMode::LoseAll)).files.tree_mark().unwrap();
            assert!(found.is_none() || found == Some(MARK));
            assert!(!is_marked || found == Some(MARK), "n={n} lacks={lacks}");
            if is_marked {
                break;
            }
        }
    }
}
