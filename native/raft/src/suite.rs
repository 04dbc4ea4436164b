//! openraft's own suite for storages, over ours.

use crate::log::{LogStore, Opened};
use crate::state::{Machine, State};
use crate::types::Types;
use macula_core::{Disk, RealDisk, RelPath, SystemChance, SystemClock};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::StorageError;
use std::sync::Arc;

struct Fresh;

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for Fresh {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("opens"));
        disk.create_dir(&RelPath::literal("log")).expect("makes");
        let of_log = disk.subtree(&RelPath::literal("log")).expect("is there");
        let options = macula_wal::Options::default();
        let opened = Opened::open(of_log, Arc::new(SystemClock), &SystemChance, options, None).expect("opens");
        let log = opened.start().expect("starts");
        let machine = Machine {
            state: State::open(disk, Arc::new(SystemChance), || {}).expect("opens"),
            listener: Box::new(|_| {}),
        };
        Ok((dir, log, machine))
    }
}

#[test]
fn the_log_and_the_machine_are_what_openraft_expects() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runs");
    runtime.block_on(Suite::test_all(Fresh)).expect("fits");
}
