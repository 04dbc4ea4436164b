//! Any bytes as a term: refused, or a key that decodes to the same key's term, within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use macula_term::{bound, decode, encode, Side};

fuzz_target!(|bytes: &[u8]| {
    // most inputs would fail on the version byte alone
    let etf = [&[131], bytes].concat();
    if let Ok(key) = encode(&etf) {
        let again = decode(&key).expect("a key decodes");
        assert_eq!(encode(&again).as_ref(), Ok(&key));
        let [low, high] = [Side::Below, Side::Above].map(|side| bound(&etf, side).expect("has bounds"));
        assert!(low <= key && key < high);
    }
});
