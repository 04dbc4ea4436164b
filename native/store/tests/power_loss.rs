//! Power loss at every operation of a short mixed run of key-value and file writes on one disk.
//!
//! The oracle knows what was acknowledged; a write that did not answer may be there or not, whole.
//! The last test replaces every sync by nothing and sees the suite fail: it can.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use macula_core::{Kind, Kinded, RelPath};
use macula_store::kv::Batch;
use macula_store::{App, Base};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use support::{app, base_over, torture};

const STEPS: u64 = 12;
const NAMES: u64 = 3;

/// Versions that each name may hold, in both engines: the last acknowledged one and later attempts.
#[derive(Default)]
struct Oracle(BTreeMap<String, Vec<u64>>);

impl Oracle {
    fn attempt(&mut self, name: &str, version: u64) {
        self.0.entry(name.to_owned()).or_insert_with(|| vec![0]).push(version);
    }

    fn acknowledge(&mut self, name: &str, version: u64) {
        self.0.insert(name.to_owned(), vec![version]);
    }
}

/// Version 0 is absence; any other fills its content, so that no half of two versions fits.
fn content(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(40 + (version as usize * 37) % 400)
}

fn version_of(bytes: Option<Vec<u8>>) -> Result<u64, String> {
    let Some(bytes) = bytes else { return Ok(0) };
    let version = bytes.get(..8).and_then(|head| head.try_into().ok()).map(u64::from_le_bytes);
    match version {
        Some(version) if bytes == content(version) => Ok(version),
        _ => Err(format!("no whole version: {} bytes", bytes.len())),
    }
}

/// Run until the disk ends it; the oracle says what must be there.
fn run(base: &Arc<Base>, oracle: &mut Oracle) -> Result<(), macula_store::StoreError> {
    let app = base.app(&app())?;
    for version in 1..=STEPS {
        let key = format!("kv-{}", version % NAMES);
        oracle.attempt(&key, version);
        app.kv()?.write(Batch::put(key.as_bytes(), content(version)))?;
        oracle.acknowledge(&key, version);
        let name = format!("dir{}/file-{}", version % 2, version % NAMES);
        oracle.attempt(&name, version);
        app.files()?.write(&RelPath::new(&name).unwrap(), &content(version))?;
        oracle.acknowledge(&name, version);
    }
    Ok(())
}

fn complaint(app: &App, oracle: &Oracle) -> Result<(), String> {
    let (kv, files) = (app.kv().map_err(|e| e.to_string())?, app.files().map_err(|e| e.to_string())?);
    for (name, versions) in &oracle.0 {
        let found = if name.starts_with("kv-") {
            kv.get(name.as_bytes()).map_err(|e| e.to_string())?
        } else {
            match files.read(&RelPath::new(name).unwrap(), 1 << 20) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(error) => return Err(error.to_string()),
            }
        };
        let version = version_of(found).map_err(|what| format!("{name}: {what}"))?;
        if !versions.contains(&version) {
            return Err(format!("{name}: found version {version}, expected one of {versions:?}"));
        }
    }
    Ok(())
}

/// Stop at the `n`-th operation, lose power, open again. `None`: the run ended before.
fn crash_at(n: u64, mode: CrashMode, real: &Path, forget: bool) -> Option<Result<(), String>> {
    let disk = FaultDisk::new();
    disk.forget_syncs(forget);
    disk.fail_at(n, Fault::Crash);
    let mut oracle = Oracle::default();
    let ended = base_over(&disk, real, n).and_then(|base| {
        let ended = run(&base, &mut oracle);
        base.close();
        ended
    });
    if ended.is_ok() && !disk.has_crashed() {
        return None;
    }
    let after = disk.after_crash(mode);
    let base = match base_over(&after, real, n + 1) {
        Ok(base) => base,
        Err(error) => return Some(Err(format!("the base does not open: {error}"))),
    };
    let verdict =
        base.app(&app()).map_err(|e| format!("the app does not open: {e}")).and_then(|app| complaint(&app, &oracle));
    base.close();
    Some(verdict)
}

#[test]
fn what_was_acknowledged_survives_power_loss_at_every_operation() {
    let real = tempfile::tempdir().unwrap();
    let seeds = if torture() { 12 } else { 2 };
    let (mut n, mut crashes) = (1, 0);
    loop {
        let random = (0..seeds).map(|seed| CrashMode::Random(n * 1_000 + seed));
        let mut ended = false;
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain(random) {
            match crash_at(n, mode, real.path(), false) {
                Some(Ok(())) => crashes += 1,
                Some(Err(what)) => panic!("stopped at operation {n}, {mode:?}: {what}"),
                None => ended = true,
            }
        }
        if ended {
            break;
        }
        n += 1;
    }
    println!("power_loss: operations={} crashes={crashes} lost=0", n - 1);
    assert!(n > 100, "the run is long enough to mean something");
}

#[test]
fn the_suite_fails_when_sync_does_nothing() {
    let real = tempfile::tempdir().unwrap();
    let failures = (1..).step_by(7).map_while(|n| crash_at(n, CrashMode::LoseAll, real.path(), true));
    let failures = failures.filter(Result::is_err).count();
    assert!(failures > 10, "only {failures} crashes were seen to lose data without syncs");
}
