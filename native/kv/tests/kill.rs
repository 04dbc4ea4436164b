//! A real process that acknowledges writes over a pipe, killed with SIGKILL at random moments.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{contents, count, open, seed};
use macula_core::{Disk, RealDisk};
use macula_kv::{Batch, Op};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const DIR: &str = "MACULA_KV_CHILD_DIR";

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::at(path).expect("a directory"))
}

fn pair(n: u64) -> Vec<Op> {
    let key = |half: u8| [&n.to_be_bytes()[..], &[half]].concat();
    let value = vec![n as u8; (n % 700) as usize];
    vec![Op::Put { key: key(0), value: value.clone() }, Op::Put { key: key(1), value }]
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(disk(Path::new(&dir))).expect("opens");
    let first = contents(&store).expect("reads").len() as u64 / 2;
    for n in first.. {
        store.write(Batch { ops: pair(n), ..Batch::default() }).expect("written");
        // one write call per line: what the parent reads was acknowledged
        std::io::stdout().write_all(format!("\nack {n}\n").as_bytes()).expect("the parent listens");
    }
}

#[test]
fn killed_at_random_moments_loses_nothing() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = None;
    for round in 0..count(10, 200) {
        let mut child = Command::new(std::env::current_exe().expect("myself"))
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut acks = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("ack ")?.parse::<u64>().ok());
        for _ in 0..rng.u32(1..60) {
            acknowledged = Some(acks.next().expect("the child acknowledges"));
        }
        child.kill().expect("killed");
        acknowledged = acks.last().or(acknowledged);
        child.wait().expect("gone");
        let store = open(disk(dir.path())).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let found = contents(&store).expect("reads");
        let pairs = found.len() as u64 / 2;
        assert!(pairs > acknowledged.expect("some"), "round {round}: {pairs} pairs, acknowledged={acknowledged:?}");
        let all = (0..pairs).flat_map(pair).map(|op| match op {
            Op::Put { key, value } => (key, value),
            _ => unreachable!("puts only"),
        });
        assert!(found.into_iter().eq(all), "round {round}: a half or a hole");
        // nobody else may open it before it is closed
        store.close();
    }
}
