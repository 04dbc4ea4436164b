//! A log without room: it waits, says so, goes on when there is some, and lets itself be closed.

use super::{LogStore, Opened};
use crate::types::{Blob, Entry, LeaderId, LogId, Proposal, Types};
use macula_core::SystemClock;
use macula_testkit::{FaultDisk, SeededChance};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::EntryPayload;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot::Receiver;

const SOON: Duration = Duration::from_secs(10);

struct Full {
    disk: FaultDisk,
    log: LogStore,
    is_full: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    waiting: Receiver<std::io::Result<()>>,
}

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: 7 }, index }
}

async fn append(log: &mut LogStore, index: u64, len: usize) -> Receiver<std::io::Result<()>> {
    let proposal = Proposal { time_ms: 0, command: Blob(vec![7; len].into()) };
    let (told, flushed) = Types::oneshot();
    let entry = Entry::new(id(index), EntryPayload::Normal(proposal));
    log.append([entry], IOFlushed::signal(told)).await.expect("taken");
    flushed
}

/// One entry is in the log, a second one waits for room.
async fn full() -> Full {
    let disk = FaultDisk::new();
    let options = macula_wal::Options { segment_bytes_min: 8192, segment_bytes_max: 32_768, ..Default::default() };
    let opened = Opened::open(Arc::new(disk.clone()), Arc::new(SystemClock), &SeededChance::new(1), options, None);
    let opened = opened.expect("opens");
    let (is_full, closing) = (opened.is_full(), opened.closing());
    let mut log = opened.start().expect("starts");
    append(&mut log, 0, 10).await.await.expect("told").expect("flushed");
    disk.set_capacity(Some(0));
    let waiting = append(&mut log, 1, 1 << 20).await;
    let until = tokio::time::timeout(SOON, async {
        while !is_full.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    });
    until.await.expect("it says that it is full");
    Full { disk, log, is_full, closing, waiting }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_when_there_is_room() {
    let Full { disk, is_full, mut waiting, mut log, .. } = full().await;
    assert!(waiting.try_recv().is_err(), "nobody is told before it is there");
    disk.set_capacity(None);
    tokio::time::timeout(SOON, waiting).await.expect("in time").expect("told").expect("flushed");
    assert!(!is_full.load(Ordering::Acquire));
    append(&mut log, 2, 10).await.await.expect("told").expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_no_room() {
    let Full { closing, waiting, mut log, .. } = full().await;
    // Raft waits for this one behind it, and would not end before
    let purged = tokio::spawn(async move { log.purge(id(0)).await });
    closing.store(true, Ordering::Release);
    let told = tokio::time::timeout(SOON, waiting).await.expect("in time").expect("told");
    assert!(told.is_err(), "it is not there");
    tokio::time::timeout(SOON, purged).await.expect("in time").expect("ends").expect("purged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_the_memory_is_the_oldest() {
    let options = macula_wal::Options::default();
    let opened = Opened::open(Arc::new(FaultDisk::new()), Arc::new(SystemClock), &SeededChance::new(1), options, None);
    let mut log = opened.expect("opens").start().expect("starts");
    for index in 0..20 {
        append(&mut log, index, 1000).await.await.expect("told").expect("flushed");
    }
    let memory = log.in_memory();
    assert_eq!(memory.surplus(1 << 20), None);
    let surplus = memory.surplus(5_500).expect("more than that");
    assert!((13..=15).contains(&surplus), "five or so stay: surplus={surplus}");
    log.purge(id(surplus)).await.expect("purged");
    assert_eq!(memory.surplus(5_500), None, "then it is little enough");
}
