//! What the store's tests share: a base over a disk that forgets, and one over the real disk.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use macula_core::{AppName, Disk, RealDisk, RelPath, SystemClock, Task};
use macula_store::kv::{Batch, Threads};
use macula_store::{App, BackupOptions, Base, Options, Owner, Seams};
use macula_testkit::{FaultDisk, SeededChance};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub fn app() -> AppName {
    AppName::new("shop").unwrap()
}

pub fn options() -> Options {
    let owner = Owner { pid: std::process::id(), socket: None };
    let kv = macula_store::kv::Options { cache_bytes: 1 << 20, ..Default::default() };
    Options { kv, sqlite: Default::default(), usage_interval: Duration::from_secs(3600), owner }
}

pub fn seams(seed: u64) -> Seams {
    // drained at once, so that operations come in the same order each time
    let kv_threads = Threads::start(2, 0, Arc::new(SystemClock)).unwrap();
    Seams { clock: Arc::new(SystemClock), chance: Arc::new(SeededChance::new(seed)), kv_threads }
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

/// Of each kind in [`fill`].
pub const ENTRIES: u64 = 6;

pub fn fill(app: &App, what: &str) {
    for i in 0..ENTRIES {
        app.kv().unwrap().write(Batch::put(format!("k{i}"), format!("{what}-{i}"))).unwrap();
        let name = RelPath::new(format!("d{}/f{i}-{what}", i % 2)).unwrap();
        app.files().unwrap().write(&name, format!("{what}-{i}").as_bytes()).unwrap();
    }
}

/// Which of the two fills the app holds, wholly.
pub fn holds(app: &App) -> Result<String, String> {
    let kv = app.kv().map_err(|e| e.to_string())?;
    let first = kv.get(b"k0").map_err(|e| e.to_string())?.ok_or("k0 is gone")?;
    let what = String::from_utf8_lossy(&first).trim_end_matches("-0").to_owned();
    for i in 0..ENTRIES {
        let value = kv.get(format!("k{i}").as_bytes()).map_err(|e| e.to_string())?;
        if value != Some(format!("{what}-{i}").into_bytes()) {
            return Err(format!("k{i} is not of {what}"));
        }
    }
    let files = app.files().map_err(|e| e.to_string())?;
    let names = files.list(None, None, 100).map_err(|e| e.to_string())?.names;
    for name in &names {
        let bytes = files.read(name, 1 << 20).map_err(|e| e.to_string())?;
        if !bytes.starts_with(what.as_bytes()) {
            return Err(format!("{name} is not of {what}"));
        }
    }
    match names.len() as u64 {
        ENTRIES => Ok(what),
        other => Err(format!("{other} files of {what}")),
    }
}

/// An archive of the new app, on the real disk.
pub fn archive(dir: &Path) -> PathBuf {
    let base = base_at(dir);
    fill(&base.app(&app()).unwrap(), "new");
    let dest = dir.join("new.tar.zst");
    base.archive(&app(), &dest, &BackupOptions::default(), &Task::quiet()).unwrap();
    base.close();
    dest
}
