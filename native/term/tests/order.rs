//! Order, identity, bounds and round trip against a naive comparison written a second time.
//!
//! `MACULA_TORTURE=1` runs many more cases. proptest prints what failed, shrunk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use macula_term::{bound, decode, encode, prefix, Side, TermError};
use proptest::prelude::*;
use std::cmp::Ordering;
use support::{atom, compare, etf, float, int, number, pair, term, tie, Term};

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

fn same(a: &[Term], b: &[Term]) -> bool {
    a.len() <= b.len() && a.iter().zip(b).all(|(a, b)| compare(a, b, false).is_eq())
}

fn check_prefix(begin: &Term, arity: Option<u32>, whole: &Term) -> Result<(), TestCaseError> {
    let expected = match (begin, whole) {
        (Term::Tuple(begin), Term::Tuple(whole)) => arity == Some(whole.len() as u32) && same(begin, whole),
        (Term::List(begin, _), Term::List(whole, _)) => same(begin, whole),
        (Term::Bits(begin), Term::Bits(whole)) => whole.starts_with(begin),
        _ => false,
    };
    let (low, high) = prefix(&etf(begin, 0), arity).unwrap();
    let key = encode(&etf(whole, 0)).unwrap();
    prop_assert_eq!(key >= low && key < high, expected, "{:02x?} in {:02x?} .. {:02x?}", key, low, high);
    Ok(())
}

/// Terms of few kinds, so that many begin as others do.
fn few() -> impl Strategy<Value = Term> {
    let leaf = prop_oneof![
        (0..3i128).prop_map(int),
        (0..3u8).prop_map(|n| float(n.into())),
        Just(atom("a")),
        Just(Term::Nil),
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(97), Just(255)], 0..3)
            .prop_flat_map(|bytes| (Just(bytes), 0..9usize))
            .prop_map(|(bytes, cut)| {
                let mut bits: Vec<bool> =
                    bytes.iter().flat_map(|b| (0..8).map(move |n| b >> (7 - n) & 1 == 1)).collect();
                bits.truncate(bits.len().saturating_sub(cut));
                Term::Bits(bits)
            }),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let some = proptest::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Term::Tuple),
            some.prop_map(|elements| Term::List(elements, Box::new(Term::Nil))),
        ]
    })
}

proptest! {
    #![proptest_config(config(40_000))]

    #[test]
    fn a_prefix_is_what_begins_with_it((a, b) in (few(), few()), arity in 0..4u32) {
        match &a {
            Term::Tuple(elements) => check_prefix(&a, Some(arity.max(elements.len() as u32)), &b)?,
            Term::List(..) => check_prefix(&a, None, &b)?,
            Term::Bits(bits) if bits.len() % 8 == 0 => check_prefix(&a, None, &b)?,
            _ => {}
        }
    }
}

#[test]
fn what_is_no_prefix_is_refused() {
    let one = Term::Tuple(vec![int(1)]);
    for (term, arity) in
        [(&int(1), None), (&Term::Nil, None), (&one, None), (&one, Some(0)), (&Term::Bits(vec![]), Some(1))]
    {
        assert!(matches!(prefix(&etf(term, 0), arity), Err(TermError::Malformed { .. })), "{term:?} {arity:?}");
    }
    let (low, high) = prefix(&etf(&one, 0), Some(300)).unwrap();
    let many = |n| encode(&etf(&Term::Tuple(vec![int(1); n]), 0)).unwrap();
    assert!(many(300) >= low && many(300) < high && many(299) < low && many(301) >= high);
}
