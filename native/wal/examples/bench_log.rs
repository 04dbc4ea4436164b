//! How many durable groups a log takes, beside what the disk itself syncs in the same run.
//!
//! `cargo run --release -p macula_wal --example bench_log -- DIR [SECONDS]`
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use macula_core::{Disk, Open, RealDisk, RelPath, SystemChance, SystemClock};
use macula_wal::{Log, Options, WalError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: bench_log DIR [SECONDS]")?;
    let span = Duration::from_secs(args.next().map_or(Ok(3), |n| n.parse())?);
    let work = tempfile::tempdir_in(&dir)?;
    disk_alone(work.path(), span)?;
    for (records, len) in [(1, 100), (8, 100), (64, 100), (1, 65_536)] {
        log(work.path(), records, len, span)?;
    }
    disk_alone(work.path(), span)
}

/// 4 KiB written over and over, each time synced: what no log can be faster than.
fn disk_alone(dir: &Path, span: Duration) -> Outcome<()> {
    let disk = RealDisk::at(dir)?;
    let path = RelPath::new("alone")?;
    let file = disk.open(&path, Open::CreateNew)?;
    let page = [1; 4096];
    for nth in 0..256 {
        file.write_all_at(&page, nth * 4096)?;
    }
    file.sync_data()?;
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span {
        let start = Instant::now();
        file.write_all_at(&page, times.len() as u64 % 256 * 4096)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    disk.remove_file(&path)?;
    report("disk alone, 4 KiB and fdatasync", 1, times);
    Ok(())
}

/// Groups of `records`, one sync each. Room is made by another thread, as an engine does it.
fn log(dir: &Path, records: usize, len: usize, span: Duration) -> Outcome<()> {
    let disk = Arc::new(RealDisk::create_at(&dir.join(format!("log-{records}-{len}")))?);
    let clock = Arc::new(SystemClock);
    let mut log = Log::open::<WalError>(disk, clock, &SystemChance, Options::default(), 0, &mut |_| Ok(()))?;
    let (ask, asked) = std::sync::mpsc::sync_channel::<()>(1);
    let spares = log.spares();
    let maker = std::thread::spawn(move || while asked.recv().is_ok() && spares.refill().is_ok() {});
    let payload = vec![7; len];
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span {
        let start = Instant::now();
        for _ in 0..records {
            log.append(1, 1, &[&payload])?;
        }
        log.sync()?;
        times.push(start.elapsed());
        log.purge_prefix(log.next_sequence())?;
        let _ = ask.try_send(());
    }
    drop(ask);
    let _ = maker.join();
    report(&format!("log, groups of {records} of {len} bytes"), records, times);
    Ok(())
}

fn report(name: &str, records: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    let rate = times.len() as f64 / total.as_secs_f64();
    println!(
        "{name:34} {rate:8.0} groups/s {:9.0} records/s   p50 {} us p99 {} us max {} us",
        rate * records as f64,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
