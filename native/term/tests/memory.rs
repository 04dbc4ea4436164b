//! Memory stays proportional to the input, whatever sizes the input claims.
#![allow(unsafe_code, clippy::unwrap_used)]

mod support;

use macula_term::{decode, encode};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// Adds up what this thread allocates; nothing is subtracted, so it is an upper bound.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn taken(work: impl FnOnce()) -> usize {
    let before = TAKEN.get();
    work();
    TAKEN.get() - before
}

#[test]
fn sizes_that_are_lies_take_no_memory() {
    for tag in [105, 108, 109, 111, 112, 116] {
        for rest in [&[][..], &[97, 1], &[106; 30]] {
            let etf = [&[131, tag, 255, 255, 255, 255][..], rest].concat();
            assert!(taken(|| assert!(encode(&etf).is_err())) < 4_096, "etf={etf:?}");
        }
    }
    for key in [
        vec![0x48, 0xfb, 255, 255, 255, 255, 0x58],
        vec![0x50, 0xfb, 255, 255, 255, 255, 0x58],
        vec![0x1c, 255, 255, 255, 255, 1],
        vec![0x08, 0, 0, 0, 0, 1],
    ] {
        assert!(taken(|| assert!(decode(&key).is_err())) < 4_096, "key={key:02x?}");
    }
}

#[test]
fn memory_grows_with_the_input_only() {
    // many associations, small: the worst ratio there is
    let map = |count: u32| {
        let pairs = (0..count).flat_map(|at| {
            let [_, a, b, c] = at.to_be_bytes();
            [98, 0, a, b, c, 106]
        });
        [131, 116].into_iter().chain(count.to_be_bytes()).chain(pairs).collect::<Vec<u8>>()
    };
    for count in [10, 100, 1_000, 9_000] {
        let etf = map(count);
        let mut key = Vec::new();
        let used = taken(|| key = encode(&etf).unwrap());
        assert!(used < 40 * etf.len() + 4_096, "count={count} used={used}");
        let used = taken(|| drop(decode(&key).unwrap()));
        assert!(used < 40 * key.len() + 4_096, "count={count} used={used}");
    }
    // each float becomes an integer of 128 bytes, up to the limit of a key
    let floats = [70, 0x7f, 0xe0, 0, 0, 0, 0, 0, 1].repeat(400);
    let etf = [&[131, 108, 0, 0, 1, 144][..], &floats, &[106]].concat();
    assert!(taken(|| drop(encode(&etf).unwrap())) < 60 * etf.len());
}
