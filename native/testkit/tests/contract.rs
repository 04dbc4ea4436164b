//! The disk contract over both disks, and what hostile hands can plant in a real directory.
#![allow(clippy::disallowed_methods)] // plants files behind the seam's back

use macula_core::{Disk, FileKind, Open, RealDisk, RelPath};
use macula_testkit::{disk_contract, path, FaultDisk};
use std::cell::RefCell;
use std::os::unix::fs::symlink;
use std::sync::Arc;

#[test]
fn simulated_disk_keeps_the_contract() {
    disk_contract(|| Arc::new(FaultDisk::new()));
}

#[test]
fn subtree_of_a_simulated_disk_keeps_the_contract() {
    disk_contract(|| {
        let disk = FaultDisk::new();
        disk.create_dir(&path("sub")).unwrap();
        disk.subtree(&path("sub")).unwrap()
    });
}

#[test]
fn real_disk_keeps_the_contract() {
    let dirs = RefCell::new(Vec::new());
    disk_contract(|| {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::at(dir.path()).unwrap();
        dirs.borrow_mut().push(dir);
        Arc::new(disk)
    });
}

#[test]
fn nothing_planted_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::at(dir.path()).unwrap();
    symlink(outside.path(), dir.path().join("dir")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("final")).unwrap();
    symlink("/proc/self/root", dir.path().join("magic")).unwrap();
    symlink("..", dir.path().join("up")).unwrap();
    for name in ["dir/secret", "final", "magic/etc/passwd", "up/x", "dir/new"] {
        for how in [Open::Read, Open::ReadWrite] {
            assert_eq!(disk.open(&path(name), how).unwrap_err().raw_os_error(), Some(40), "{name}");
        }
        assert!(disk.open(&path(name), Open::CreateNew).is_err(), "{name}");
        assert!(disk.remove_dir(&path(name)).is_err());
    }
    assert!(disk.remove_file(&path("dir/secret")).is_err());
    assert!(disk.rename(&path("dir/secret"), &path("mine")).is_err());
    assert!(disk.hard_link(&path("dir/secret"), &path("mine")).is_err());
    macula_core::remove_tree(&disk, &path("dir")).unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_fifo_is_refused_without_waiting_for_its_other_end() {
    let dir = tempfile::tempdir().unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let simulated = FaultDisk::new();
    simulated.plant_other(&path("fifo")).unwrap();
    let disks: [Arc<dyn Disk>; 2] = [Arc::new(RealDisk::at(dir.path()).unwrap()), Arc::new(simulated)];
    for disk in disks {
        assert!(disk.open(&path("fifo"), Open::Read).is_err());
        assert!(disk.open(&path("fifo"), Open::ReadWrite).is_err());
        assert_eq!(disk.stat(&path("fifo")).unwrap().kind, FileKind::Other);
        disk.remove_file(&path("fifo")).unwrap();
        assert!(disk.list(&RelPath::root()).unwrap().is_empty());
    }
}
