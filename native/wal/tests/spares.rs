//! Room for segments that is made on another thread than the log's.

mod common;

use common::{append, open, open_with, options, Model};
use macula_core::RelPath;
use macula_testkit::FaultDisk;
use macula_wal::Log;
use std::sync::{Arc, Mutex};

fn grow(log: &mut Log, model: &mut Model, records: usize) {
    for _ in 0..records {
        let (sequence, bytes) = append(log, 500).expect("appends");
        model.insert(sequence, bytes);
    }
    log.sync().expect("syncs");
}

/// A spare's number was given out before it was made, on another thread; the log meanwhile ran out of
/// room and began the number after it (its own, or a recycled one). The late spare was begun next, and
/// in the order of numbers the log's records were out of order: it did not open any more.
#[test]
fn a_spare_that_comes_late_is_not_begun_after_a_higher_number() {
    for purges in [false, true] {
        let disk = FaultDisk::new();
        let (mut log, mut model) = open(&disk).expect("opens");
        grow(&mut log, &mut model, 60);
        let highest = (1..100).rev().find(|number| there(&disk, *number)).expect("a segment");
        let spares = log.spares();
        let shared = Arc::new(Mutex::new((log, model)));
        let busy = shared.clone();
        disk.before_look(&path(highest + 1), move || {
            let mut shared = busy.lock().expect("locks");
            let (log, model) = &mut *shared;
            if purges {
                log.purge_prefix(log.next_sequence()).expect("releases");
            }
            grow(log, model, 200);
        });
        spares.refill().expect("makes room");
        assert!(there(&disk, highest + 2), "the log went on meanwhile");
        let mut shared = shared.lock().expect("locks");
        let (log, model) = &mut *shared;
        grow(log, model, 200);
        let first = log.first_sequence();
        let (_, found) = open_with(&disk.kill(), options(), first - 1).expect("opens");
        assert_eq!(found, model.split_off(&first), "purges={purges}");
    }
}

fn path(number: u64) -> RelPath {
    RelPath::new(format!("wal-{number:016x}").as_bytes()).expect("a name")
}

fn there(disk: &FaultDisk, number: u64) -> bool {
    macula_core::Disk::stat(disk, &path(number)).is_ok()
}
