//! What the store's tests share: a base over a disk that forgets, and one over the real disk.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use macula_core::{AppName, Disk, RealDisk, SystemClock};
use macula_store::{Base, Options, Owner, Seams};
use macula_testkit::{FaultDisk, SeededChance};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub fn app() -> AppName {
    AppName::new("shop").unwrap()
}

pub fn options() -> Options {
    let owner = Owner { pid: std::process::id(), socket: None };
    Options { kv_cache_bytes: 1 << 20, usage_interval: Duration::from_secs(3600), owner }
}

pub fn seams(seed: u64) -> Seams {
    Seams { clock: Arc::new(SystemClock), chance: Arc::new(SeededChance::new(seed)) }
}

/// A base over `disk`; only the owner locks, which are flocks, lie on the real disk under `real`.
pub fn base_over(disk: &FaultDisk, real: &Path, seed: u64) -> Result<Arc<Base>, macula_store::StoreError> {
    std::fs::create_dir_all(real.join("run")).unwrap();
    Base::over(Arc::new(disk.clone()), real, options(), seams(seed))
}

/// A base on the real disk.
pub fn base_at(dir: &Path) -> Arc<Base> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir).unwrap());
    Base::over(disk, dir, options(), seams(7)).unwrap()
}

/// The slice that runs by default, or everything.
pub fn torture() -> bool {
    std::env::vars_os().any(|(name, value)| name == "MACULA_TORTURE" && value == "1")
}
