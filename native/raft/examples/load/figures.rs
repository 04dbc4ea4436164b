//! What the machine did meanwhile: syncs of the disk, CPU, switches of threads, latencies.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often this disk syncs a record of so many bytes, each behind the one before, in a second.
pub fn syncs_per_s(dir: &Path, len: usize, span: Duration) -> f64 {
    let path = dir.join("syncs");
    let file = std::fs::File::create(&path).expect("creates");
    let record = vec![7; len];
    // written once before, as the log's room is
    file.write_all_at(&vec![0; 4 << 20], 0).expect("writes");
    file.sync_all().expect("syncs");
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < span {
        file.write_all_at(&record, count * len as u64 % (4 << 20)).expect("writes");
        file.sync_data().expect("syncs");
        count += 1;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path).expect("removes");
    rate
}

/// Of this process since it began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Of threads that are there still.
    pub cpu_us: u64,
    pub switches: u64,
    pub rss_kb: u64,
}

impl Spent {
    pub fn now() -> Self {
        // the kernel's count by ticks is far off for who wakes up with them
        let (mut cpu_ns, mut switches) = (0, 0);
        for task in std::fs::read_dir("/proc/self/task").expect("lists").flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            cpu_ns += read("schedstat").split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            switches += field(&read("status"), "voluntary_ctxt_switches:");
        }
        let status = std::fs::read_to_string("/proc/self/status").expect("reads");
        Self { cpu_us: cpu_ns / 1000, switches, rss_kb: field(&status, "VmRSS:") }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The one at so many thousandths.
pub fn at(sorted_us: &[u32], thousandths: usize) -> u32 {
    sorted_us.get((sorted_us.len().max(1) - 1) * thousandths / 1000).copied().unwrap_or(0)
}
