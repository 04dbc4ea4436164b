//! Files of a log that somebody changed on purpose, checksums included: refused, or read without a
//! gap. The same check as the fuzz target's (native/wal/fuzz), which finds more in more time.
#![allow(clippy::disallowed_methods)]

mod common;
#[path = "common/hostile.rs"]
mod hostile;

#[test]
fn edited_files_are_refused_or_read_without_a_gap() {
    let mut rng = fastrand::Rng::with_seed(common::seed());
    let (mut opened, runs) = (0, common::count(3000, 300_000));
    for _ in 0..runs {
        let mut edits = vec![0; rng.usize(..40)];
        rng.fill(&mut edits);
        opened += u64::from(hostile::check(&edits));
    }
    eprintln!("wal hostile: runs={runs} opened={opened} wrong=0");
    assert!(opened > runs / 20 && opened < runs, "runs={runs} opened={opened}");
}
