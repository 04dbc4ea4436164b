//! Order, identity, bounds and round trip against a naive comparison written a second time.
//!
//! `MACULA_TORTURE=1` runs many more cases. proptest prints what failed, shrunk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use macula_term::{bound, decode, encode, Side};
use proptest::prelude::*;
use std::cmp::Ordering;
use support::{compare, etf, number, pair, term, tie, Term};

fn config(cases: u32) -> ProptestConfig {
    let torture = std::env::var("MACULA_TORTURE").is_ok();
    let cases = if torture { cases * 50 } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check(a: &Term, b: &Term, spelling: u64) -> Result<(), TestCaseError> {
    let (etf_a, etf_b) = (etf(a, spelling), etf(b, !spelling));
    let (key_a, key_b) = (encode(&etf_a).unwrap(), encode(&etf_b).unwrap());
    let order = compare(a, b, false);
    prop_assert_eq!(key_a.cmp(&key_b), order.then(tie(a, b)), "{:02x?} {:02x?}", key_a, key_b);
    let (low, high) = (bound(&etf_b, Side::Below).unwrap(), bound(&etf_b, Side::Above).unwrap());
    let seen = match (key_a < low, key_a < high) {
        (true, _) => Ordering::Less,
        (false, true) => Ordering::Equal,
        (false, false) => Ordering::Greater,
    };
    prop_assert_eq!(seen, order, "{:02x?} in {:02x?} .. {:02x?}", key_a, low, high);
    prop_assert!(key_b >= low && key_b < high);
    Ok(())
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn keys_compare_as_terms((a, b) in pair(), spelling: u64) {
        check(&a, &b, spelling)?;
    }

    #[test]
    fn numbers_compare_by_value(a in number(), b in number(), spelling: u64) {
        check(&a, &b, spelling)?;
    }

    #[test]
    fn a_key_is_the_same_for_every_spelling_and_decodes_to_its_term(a in term(), spelling: u64, other: u64) {
        let key = encode(&etf(&a, spelling)).unwrap();
        prop_assert_eq!(&key, &encode(&etf(&a, other)).unwrap());
        let again = decode(&key).unwrap();
        prop_assert_eq!(&key, &encode(&again).unwrap());
    }
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn many_keys_sort_as_their_terms(terms in prop::collection::vec(term(), 2..30)) {
        let mut by_term = terms.clone();
        by_term.sort_by(|a, b| compare(a, b, false).then(tie(a, b)));
        let mut keys: Vec<_> = terms.iter().map(|term| encode(&etf(term, 1)).unwrap()).collect();
        keys.sort();
        let expected: Vec<_> = by_term.iter().map(|term| encode(&etf(term, 2)).unwrap()).collect();
        prop_assert_eq!(keys, expected);
    }
}
