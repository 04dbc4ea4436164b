//! Values that lie compressed in the file are read as they were written, in every way.

mod common;

use common::{everything, open_with, options, real_disk, Model};
use macula_core::{Kind, Kinded, Task};
use macula_kv::{Batch, Condition, Op, Options, Store};

fn compressing() -> Options {
    Options { compress_len_min: 1024, auto_compact: None, ..options() }
}

/// Text that repeats itself, and noise that does not.
fn value(n: u32) -> Vec<u8> {
    let len = if n.is_multiple_of(50) { 100_000 } else { 3_000 + n as usize };
    if n % 10 == 7 {
        let mut noise = vec![0; len];
        fastrand::Rng::with_seed(n.into()).fill(&mut noise);
        return noise;
    }
    format!("user {n} is here, ").into_bytes().into_iter().cycle().take(len).collect()
}

fn filled(store: &Store, keys: u32) -> Model {
    let model: Model = (0..keys).map(|n| (n.to_be_bytes().to_vec(), value(n))).collect();
    let ops = model.iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone() }).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("written");
    store.checkpoint().expect("drains");
    model
}

fn bytes(model: &Model) -> u64 {
    model.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

#[test]
fn values_are_smaller_in_the_file_and_the_same_everywhere_else() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open_with(real_disk(&dir), compressing()).expect("opens");
    let model = filled(&store, 1_000);
    let stats = store.stats().expect("open");
    assert_eq!(stats.live_bytes, bytes(&model), "as the caller counts");
    assert_eq!(everything(&store.snapshot().expect("snapshot")).expect("reads"), model);
    store.compact(&Task::quiet()).expect("compacts");
    let file = store.stats().expect("open").file_bytes;
    assert!(file * 3 < stats.live_bytes, "file={file} live={}", stats.live_bytes);
    store.verify(&Task::quiet()).expect("sound");
    store.close();
    let store = open_with(real_disk(&dir), compressing()).expect("opens");
    for (key, value) in &model {
        assert_eq!(store.get(key).expect("reads").as_ref(), Some(value));
        let hot = store.get_hot(key, value.len(), <[u8]>::to_vec).expect("just read");
        assert_eq!(hot.as_ref(), Some(value));
        let short = store.get_with(key, value.len() - 1, <[u8]>::to_vec).expect_err("too long for the caller");
        assert_eq!(short.kind(), Kind::TooLarge);
    }
}

#[test]
fn conditions_look_at_the_value_and_nothing_is_left_when_all_is_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open_with(real_disk(&dir), compressing()).expect("opens");
    let model = filled(&store, 200);
    for n in 0..200_u32 {
        let (key, value) = (n.to_be_bytes().to_vec(), Some(value(n)));
        let batch = |value| Batch {
            ops: vec![Op::Delete { key: key.clone() }],
            conditions: vec![Condition::Is { key: key.clone(), value }],
            ..Batch::default()
        };
        store.write(batch(Some(vec![1; 3_000]))).expect_err("another value");
        store.write(batch(value)).expect("as it is");
    }
    store.checkpoint().expect("drains");
    assert_eq!(model.len(), 200);
    assert!(everything(&store.snapshot().expect("snapshot")).expect("reads").is_empty());
    assert_eq!(store.stats().expect("open").live_bytes, 0);
    store.compact(&Task::quiet()).expect("compacts");
    assert!(store.stats().expect("open").file_bytes < 200_000);
}

/// A store whose values were not compressed goes on, both ways.
#[test]
fn it_can_be_turned_on_and_off() {
    let dir = tempfile::tempdir().expect("dir");
    let mut model = Model::new();
    for (at, compress_len_min) in [usize::MAX, 1024, usize::MAX, 1].into_iter().enumerate() {
        let store = open_with(real_disk(&dir), Options { compress_len_min, ..compressing() }).expect("opens");
        model.extend(filled(&store, 100 - 20 * at as u32));
        assert_eq!(everything(&store.snapshot().expect("snapshot")).expect("reads"), model);
        assert_eq!(store.stats().expect("open").live_bytes, bytes(&model));
        store.close();
    }
}
