//! Any bytes as edits of a log's files: refused, or a run without a gap. tests/hostile.rs does the same
//! with random bytes and the stable compiler.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/hostile.rs"]
mod hostile;

fuzz_target!(|edits: &[u8]| {
    hostile::check(edits);
});
