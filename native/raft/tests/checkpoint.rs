//! What is applied lies above the table until a checkpoint brings it there: nobody who reads sees the difference.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{binary, count, options, path, propose, put, query, seams, seed};
use macula_raft::machine::{read, verify, Command, MemoryTable, Op, Part, Pattern, Table};
use macula_raft::{Consistency, Engine, Options, Query, Reading};
use macula_testkit::{CrashMode, FaultDisk};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &FaultDisk) -> Engine {
    // often, so that most reads are of layers and table both
    let options = Options { checkpoint_entries: 7, ..options() };
    Engine::open(seams(Arc::new(disk.clone())), options, Box::new(|_| {})).expect("opens")
}

fn key(n: u8) -> String {
    format!("key-{n:02}")
}

/// All nodes with data, as they are read.
fn nodes(rows: &Reading) -> Model {
    let all = Pattern::new(vec![Part::AnyDepth], None).expect("a pattern");
    let page = rows.look(|view| Ok(read::get_many(view, &all, None, u64::MAX)?)).expect("reads");
    page.nodes.into_iter().filter_map(|(path, node)| Some((path.key().to_vec(), node.value?))).collect()
}

/// The rows keep their own rules too: counts of children, indexes, the history.
fn sound(rows: &Reading) {
    let mut table = MemoryTable::default();
    let copied = rows.look(|view| {
        let mut failed = None;
        view.scan(&[], &[0xff], false, &mut |key, row| match table.put(key.to_vec(), row.to_vec()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    });
    copied.expect("reads");
    verify(&table).expect("sound");
}

/// One command at random, and what is to come of it.
fn step(engine: &Engine, random: &mut fastrand::Rng, model: &mut Model) {
    let name = key(random.u8(0..24));
    let at = path(&["k", &name]);
    if random.u8(0..4) == 0 {
        let then = vec![Op::Delete { path: at.clone() }];
        propose(engine, Command::Txn { conditions: vec![], then, otherwise: vec![] }).expect("applies");
        model.remove(at.key());
    } else {
        let value = vec![random.u8(..); random.usize(0..40)];
        propose(engine, put(&["k", &name], &value, None)).expect("applies");
        model.insert(at.key().to_vec(), binary(&value));
    }
}

/// Whoever began to read goes on with what was there, through checkpoints; who begins sees the newest; and so does
/// who opens it after power loss.
#[test]
fn readers_see_one_moment_whatever_is_applied_and_brought_into_the_table() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut disk = FaultDisk::new();
    let (mut engine, mut model, mut held) = (open(&disk), Model::new(), Vec::new());
    for round in 0..count(500, 20_000) {
        step(&engine, &mut random, &mut model);
        let now = engine.view_here();
        assert_eq!(nodes(&now), model, "round={round}");
        if random.u8(0..8) == 0 {
            held.push((now, model.clone()));
        }
        if held.len() > 12 {
            let (then, was) = held.swap_remove(random.usize(0..held.len()));
            assert_eq!(nodes(&then), was, "round={round}");
            sound(&then);
        }
        if random.u8(0..60) == 0 {
            let after = disk.after_crash(CrashMode::Random(random.u64(..)));
            held.clear();
            drop(engine);
            (engine, disk) = (open(&after), after);
            let latest = query(&engine, Query::Status, Consistency::Linearizable);
            latest.expect("all of the log is applied again");
            assert_eq!(nodes(&engine.view_here()), model, "after power loss, round={round}");
        }
    }
}
