//! Pack and unpack a directory beside stock tar, in the same run, all sides ending with a sync.
//!
//! `cargo run --release -p macula_archive --example bench_tree -- DIR [ROUNDS] [LEVEL]`
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use macula_archive::{pack, unpack, verify, DiskTree, Format, PackOptions, UnpackOptions, Walk};
use macula_core::{Disk, DiskFile, Open, RealDisk, RelPath, Task};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: bench_tree DIR [ROUNDS] [LEVEL]")?;
    let rounds: usize = args.next().map_or(Ok(3), |n| n.parse())?;
    let level: Option<i32> = args.next().map(|n| n.parse()).transpose()?;
    let dir = std::fs::canonicalize(dir)?;
    if rounds == 0 {
        return alone(&dir, level);
    }
    let work = tempfile::tempdir_in(dir.parent().ok_or("no parent")?)?;
    let mut times: Vec<(String, Vec<f64>)> = Vec::new();
    for round in 0..rounds {
        let mut step = |name: &str, act: &mut dyn FnMut() -> Outcome<()>| -> Outcome<()> {
            run("sync", &[])?;
            let start = Instant::now();
            act()?;
            let seconds = start.elapsed().as_secs_f64();
            match times.iter_mut().find(|(n, _)| n == name) {
                Some((_, all)) => all.push(seconds),
                None => times.push((name.to_owned(), vec![seconds])),
            }
            Ok(())
        };
        one_round(&dir, work.path(), round, level, &mut step)?;
    }
    report(&times, work.path())
}

/// Ours only, for a profiler: ROUNDS is 0.
fn alone(dir: &Path, level: Option<i32>) -> Outcome<()> {
    let work = tempfile::tempdir_in(dir.parent().ok_or("no parent")?)?;
    let (name, to) = ("ours.tar.zst", work.path().join("out"));
    let start = Instant::now();
    ours_pack(dir, work.path(), name, Format::Zst, level)?;
    println!("pack {:.3} s", start.elapsed().as_secs_f64());
    std::fs::create_dir(&to)?;
    let start = Instant::now();
    ours_unpack(work.path(), name, &to.to_string_lossy())?;
    println!("unpack {:.3} s", start.elapsed().as_secs_f64());
    Ok(())
}

type Step<'a> = dyn FnMut(&str, &mut dyn FnMut() -> Outcome<()>) -> Outcome<()> + 'a;

fn one_round(dir: &Path, work: &Path, round: usize, level: Option<i32>, step: &mut Step<'_>) -> Outcome<()> {
    let (parent, name) = (dir.parent().ok_or("no parent")?, dir.file_name().ok_or("no name")?);
    let (parent, name) = (parent.to_string_lossy().into_owned(), name.to_string_lossy().into_owned());
    let file = |name: &str| work.join(name).to_string_lossy().into_owned();
    let (gz, zst) = (file("stock.tar.gz"), file("stock.tar.zst"));
    for format in [Format::Zst, Format::Gz] {
        let name = format!("ours{}", format.extension());
        let _ = std::fs::remove_file(work.join(&name));
        step(&format!("pack {name}"), &mut || ours_pack(dir, work, &name, format, level))?;
    }
    step("tar -I 'zstd -T0' -cf", &mut || {
        run("tar", &["-I", "zstd -T0", "-cf", &zst, "-C", &parent, &name])?;
        run("sync", &[&zst])
    })?;
    step("tar -czf", &mut || {
        run("tar", &["-czf", &gz, "-C", &parent, &name])?;
        run("sync", &[&gz])
    })?;
    for (number, (name, tar)) in
        [("ours.tar.zst", None), ("ours.tar.gz", None), ("zst", Some(&zst)), ("gz", Some(&gz))].into_iter().enumerate()
    {
        let to = file(&format!("out{round}{number}"));
        std::fs::create_dir(&to)?;
        match tar {
            None => step(&format!("unpack {name}"), &mut || ours_unpack(work, name, &to))?,
            Some(tar) if name == "gz" => step("tar -xzf", &mut || {
                run("tar", &["-xzf", tar, "-C", &to])?;
                run("sync", &["-f", &to])
            })?,
            Some(tar) => step("tar -I 'zstd -T0' -xf", &mut || {
                run("tar", &["-I", "zstd -T0", "-xf", tar, "-C", &to])?;
                run("sync", &["-f", &to])
            })?,
        }
        // trees stay until the end: ext4 looks at each recently deleted inode before it takes one
    }
    let archive = open(work, "ours.tar.zst")?;
    step("verify ours.tar.zst", &mut || {
        verify(&archive, &UnpackOptions::default(), &Task::quiet())?;
        Ok(())
    })
}

fn open(dir: &Path, name: &str) -> Outcome<Arc<dyn DiskFile>> {
    Ok(RealDisk::at(dir)?.open(&RelPath::new(name)?, Open::Read)?)
}

fn ours_pack(dir: &Path, work: &Path, name: &str, format: Format, level: Option<i32>) -> Outcome<()> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir)?);
    let out = RealDisk::at(work)?.open(&RelPath::new(name)?, Open::CreateNew)?;
    let mut options = PackOptions::new("tree").format(format);
    if let (Some(level), Format::Zst) = (level, format) {
        options.level = level;
    }
    let mut items = Walk::new(&disk, |_, _| true)?;
    let start = Instant::now();
    pack(&mut items, &DiskTree(disk), &*out, &options, &Task::quiet())?;
    let packed = start.elapsed();
    out.sync_data()?;
    if std::env::var("STEPS").is_ok() {
        println!("packed {packed:.3?}, synced {:.3?}", start.elapsed() - packed);
    }
    Ok(())
}

fn ours_unpack(work: &Path, name: &str, to: &str) -> Outcome<()> {
    let dest: Arc<dyn Disk> = Arc::new(RealDisk::at(Path::new(to))?);
    let start = Instant::now();
    unpack(&open(work, name)?, &dest, &UnpackOptions::default(), &Task::quiet())?;
    let unpacked = start.elapsed();
    dest.sync_tree()?;
    if std::env::var("STEPS").is_ok() {
        println!("unpacked {unpacked:.3?}, synced {:.3?}", start.elapsed() - unpacked);
    }
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Outcome<()> {
    let status = Command::new(program).args(args).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program} {args:?}: {status}").into())
    }
}

fn report(times: &[(String, Vec<f64>)], work: &Path) -> Outcome<()> {
    let sorted = |name: &str| {
        let mut all = times.iter().find(|(n, _)| n == name).map_or(Vec::new(), |(_, all)| all.clone());
        all.sort_by(f64::total_cmp);
        all
    };
    let median = |name: &str| sorted(name).get(times[0].1.len() / 2).copied().unwrap_or(f64::NAN);
    // least disturbed by whatever else runs on the machine
    let best = |name: &str| sorted(name).first().copied().unwrap_or(f64::NAN);
    for (name, all) in times {
        println!("{name:28} median {:7.3} s best {:7.3} s   {all:.3?}", median(name), best(name));
    }
    for name in ["ours.tar.zst", "ours.tar.gz", "stock.tar.zst", "stock.tar.gz"] {
        println!("{name:28} {:.1} MB", std::fs::metadata(work.join(name))?.len() as f64 / 1e6);
    }
    for (ours, theirs, goal) in [
        ("pack ours.tar.zst", "tar -czf", 10.0),
        ("pack ours.tar.zst", "tar -I 'zstd -T0' -cf", 1.4),
        ("pack ours.tar.gz", "tar -czf", 1.0),
        ("unpack ours.tar.zst", "tar -xzf", 2.0),
        ("unpack ours.tar.zst", "tar -I 'zstd -T0' -xf", 1.4),
        ("unpack ours.tar.gz", "tar -xzf", 1.0),
    ] {
        let (by_median, by_best) = (median(theirs) / median(ours), best(theirs) / best(ours));
        println!("{ours} is {by_median:.2} x as fast as {theirs}, by the best rounds {by_best:.2} x (goal {goal})");
    }
    Ok(())
}
