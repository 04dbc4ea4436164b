//! Order and round trip against the BEAM itself: Erlang makes random pairs and says how they
//! compare, we encode and decode them, Erlang says whether they are still the same.
//!
//! `MACULA_SEED=n` replays a run, `MACULA_TORTURE=1` makes it long. Without `erl` it is skipped.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use macula_term::{bound, decode, encode, Side};
use std::cmp::Ordering;
use std::path::Path;
use std::process::Command;

/// Runs one call of `tests/beam_order.erl`; `None` when there is no Erlang here.
fn erlang(dir: &Path, call: &str) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/beam_order.erl");
    let eval = format!(
        "{{ok, _}} = compile:file({source:?}, [report, {{outdir, {dir:?}}}]), \
         true = code:add_path({dir:?}), beam_order:{call}, halt(0)."
    );
    let output = match Command::new("erl").env("ERL_CRASH_DUMP_BYTES", "0").args(["-noshell", "-eval", &eval]).output()
    {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: no erl on this machine, error={error}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "erl failed: call={call} {said} {errors}");
    Some(said)
}

fn sized<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (head, tail) = rest.split_at(4);
    let size = u32::from_be_bytes(head.try_into().unwrap()) as usize;
    let (part, tail) = tail.split_at(size);
    *rest = tail;
    part
}

/// Checks one pair against the BEAM's verdict and answers both decoded again.
fn check(a: &[u8], b: &[u8], order: Ordering, same: bool) -> [Vec<u8>; 2] {
    let keys = [encode(a).unwrap(), encode(b).unwrap()];
    let [key_a, key_b] = &keys;
    let story = || format!("a={a:?} b={b:?} beam={order:?} key_a={key_a:02x?} key_b={key_b:02x?}");
    assert_eq!(key_a == key_b, same, "identity: {}", story());
    let [below, above] = [Side::Below, Side::Above].map(|side| bound(b, side).unwrap());
    let seen = match (key_a < &below, key_a < &above) {
        (true, _) => Ordering::Less,
        (false, true) => Ordering::Equal,
        (false, false) => Ordering::Greater,
    };
    assert_eq!(seen, order, "against the bounds of b: {}", story());
    if order.is_ne() {
        assert_eq!(key_a.cmp(key_b), order, "order: {}", story());
    }
    keys.map(|key| {
        let etf = decode(&key).unwrap();
        assert_eq!(encode(&etf).as_ref(), Ok(&key), "not canonical: key={key:02x?}");
        etf
    })
}

#[test]
fn the_order_is_the_beams() {
    let seed: u32 = std::env::var("MACULA_SEED").map_or(20_260, |seed| seed.parse().unwrap());
    let torture = std::env::var("MACULA_TORTURE").is_ok();
    let count = if torture { 400_000 } else { 30_000 };
    println!("MACULA_SEED={seed} count={count}");
    let dir = tempfile::tempdir().unwrap();
    let [pairs, decoded] = ["pairs", "decoded"].map(|name| dir.path().join(name));
    let Some(said) = erlang(dir.path(), &format!("write({pairs:?}, {seed}, {count})")) else {
        return;
    };
    println!("{said}");
    let bytes = std::fs::read(&pairs).unwrap();
    let mut rest = &bytes[..];
    let mut again = Vec::new();
    while !rest.is_empty() {
        let (a, b) = (sized(&mut rest), sized(&mut rest));
        let order = [Ordering::Less, Ordering::Equal, Ordering::Greater][usize::from(rest[0])];
        for etf in check(a, b, order, rest[1] == 1) {
            again.extend_from_slice(&(etf.len() as u32).to_be_bytes());
            again.extend_from_slice(&etf);
        }
        rest = &rest[2..];
    }
    std::fs::write(&decoded, again).unwrap();
    let said = erlang(dir.path(), &format!("check({pairs:?}, {decoded:?})")).unwrap();
    println!("{said}");
    assert!(said.contains("same="), "{said}");
}
