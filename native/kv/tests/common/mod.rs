//! What the tests of the key-value engine share.
#![allow(dead_code, clippy::disallowed_methods)]

use macula_core::{Clock, Disk, Gate, RealDisk, SystemChance, SystemClock};
use macula_kv::{KvError, Options, PageLimits, Seams, Snapshot, Store, Threads};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub const ALL: (Bound<Vec<u8>>, Bound<Vec<u8>>) = (Bound::Unbounded, Bound::Unbounded);

pub fn options() -> Options {
    // values that compress well would not fill a disk
    let compress_len_min = usize::MAX;
    Options { cache_bytes: 1 << 20, reserve_bytes: 0, drain_bytes: 0, compress_len_min, ..Options::default() }
}

pub fn open_with(disk: Arc<dyn Disk>, options: Options) -> Result<Store, KvError> {
    open_on(disk, threads(), options)
}

pub fn open_on(disk: Arc<dyn Disk>, threads: Threads, options: Options) -> Result<Store, KvError> {
    open_at(disk, threads, Arc::new(SystemClock), options)
}

/// The threads keep their own time: what is due by `clock` is looked for every 10 ms.
pub fn open_at(
    disk: Arc<dyn Disk>,
    threads: Threads,
    clock: Arc<dyn Clock>,
    options: Options,
) -> Result<Store, KvError> {
    let (gate, chance) = (Arc::new(Gate::new()), Arc::new(SystemChance));
    let options = Options { sweep_interval: Duration::from_millis(10), ..options };
    Store::open(Seams { disk, gate, clock, chance, threads }, options)
}

/// Look until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = SystemClock.monotonic();
    while !is_so() {
        assert!(SystemClock.monotonic() - begun < Duration::from_secs(60), "did not come: {what}");
        SystemClock.sleep(Duration::from_millis(1));
    }
}

/// One writer, and what is drained is drained at once: operations come in the same order each time.
pub fn threads() -> Threads {
    static THREADS: OnceLock<Threads> = OnceLock::new();
    THREADS.get_or_init(|| Threads::start(2, 0, Arc::new(SystemClock)).expect("threads")).clone()
}

/// As in life: drained meanwhile.
pub fn drained_meanwhile() -> Threads {
    static THREADS: OnceLock<Threads> = OnceLock::new();
    THREADS.get_or_init(|| Threads::start(2, 2, Arc::new(SystemClock)).expect("threads")).clone()
}

pub fn open(disk: Arc<dyn Disk>) -> Result<Store, KvError> {
    open_with(disk, options())
}

pub fn real_disk(dir: &tempfile::TempDir) -> Arc<dyn Disk> {
    Arc::new(RealDisk::at(dir.path()).expect("a fresh directory"))
}

/// Everything that a snapshot shows, page by page.
pub fn everything(snapshot: &Snapshot) -> Result<Model, KvError> {
    let mut model = Model::new();
    let mut range = ALL;
    loop {
        let page = snapshot.page(
            &range,
            false,
            PageLimits { entries_max: 7, bytes_max: 1 << 20, value_len_max: usize::MAX },
        )?;
        model.extend(page.entries);
        match page.next {
            Some(last) => range.0 = Bound::Excluded(last),
            None => return Ok(model),
        }
    }
}

pub fn contents(store: &Store) -> Result<Model, KvError> {
    let snapshot = store.snapshot()?;
    let model = everything(&snapshot)?;
    assert_eq!(snapshot.len()?, model.len() as u64, "the count of entries");
    Ok(model)
}

/// Full counts with MACULA_TORTURE=1, a slice otherwise.
pub fn count(slice: u64, full: u64) -> u64 {
    match torture() {
        true => full,
        false => slice,
    }
}

pub fn torture() -> bool {
    std::env::var("MACULA_TORTURE").is_ok_and(|v| v == "1")
}

/// The seed of this run, printed, from MACULA_SEED when given.
pub fn seed() -> u64 {
    let seed = std::env::var("MACULA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MACULA_SEED={seed}");
    seed
}

/// A panic of redb's that we catch should not fill the output of a test that provokes it.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        if std::thread::current().name().is_some_and(|name| !name.starts_with("macula-kv")) {
            eprintln!("{info}");
        }
    }));
}
