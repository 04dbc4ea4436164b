//! Any bytes as a key: refused, or exactly what `encode` makes of the term.
#![no_main]

use libfuzzer_sys::fuzz_target;
use macula_term::{decode, encode};

fuzz_target!(|key: &[u8]| {
    if let Ok(etf) = decode(key) {
        assert_eq!(encode(&etf).as_deref(), Ok(key));
    }
});
