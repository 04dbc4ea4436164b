//! `equals` and `matches`, on what the BEAM writes and on what it does not.

use crate::common::{seed, Term};
use macula_raft::machine::{equals, matches};

/// ETF of a term written as its bytes behind the version.
fn etf(bytes: &[u8]) -> Vec<u8> {
    [&[131], bytes].concat()
}

fn atom(text: &str) -> Vec<u8> {
    [&[119, text.len() as u8], text.as_bytes()].concat()
}

fn map(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = vec![116];
    bytes.extend((pairs.len() as u32).to_be_bytes());
    for (key, value) in pairs {
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    bytes
}

fn list(elements: &[&[u8]], tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![108];
    bytes.extend((elements.len() as u32).to_be_bytes());
    elements.iter().for_each(|element| bytes.extend_from_slice(element));
    bytes.extend_from_slice(tail);
    bytes
}

const NIL: &[u8] = &[106];
const ONE: &[u8] = &[97, 1];
const TWO: &[u8] = &[97, 2];
const ONE_POINT_0: &[u8] = &[70, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0];
/// `[1, 2]` as a string.
const STRING: &[u8] = &[107, 0, 2, 1, 2];

fn is_match(pattern: &[u8], value: &[u8]) -> bool {
    matches(&etf(pattern), &etf(value))
}

fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (etf(a), etf(b));
    assert_eq!(equals(&a, &b), equals(&b, &a));
    equals(&a, &b)
}

#[test]
fn a_term_is_itself_however_it_is_written() {
    assert!(is_equal(STRING, &list(&[ONE, TWO], NIL)));
    assert!(is_equal(STRING, &list(&[ONE], &list(&[TWO], NIL))));
    assert!(is_equal(&list(&[ONE], STRING), &list(&[ONE, ONE, TWO], NIL)));
    assert!(is_equal(ONE, &[98, 0, 0, 0, 1]));
    assert!(is_equal(ONE, &[110, 1, 0, 1]));
    assert!(is_equal(&atom("a"), &[100, 0, 1, b'a']));
    assert!(is_equal(&[104, 1, 97, 1], &[105, 0, 0, 0, 1, 97, 1]));
    let (ab, ba) = (map(&[(ONE, TWO), (TWO, STRING)]), map(&[(TWO, &list(&[ONE, TWO], NIL)), (ONE, TWO)]));
    assert!(is_equal(&ab, &ba));

    assert!(!is_equal(ONE, ONE_POINT_0));
    assert!(!is_equal(ONE, TWO));
    assert!(!is_equal(&map(&[(ONE, TWO)]), &map(&[(ONE_POINT_0, TWO)])));
    assert!(!is_equal(&map(&[(ONE, TWO)]), &ab));
    assert!(!is_equal(&ab, &map(&[(ONE, TWO)])));
    assert!(!is_equal(&list(&[ONE], NIL), &list(&[ONE], TWO)));
    assert!(!is_equal(&list(&[ONE], TWO), &list(&[ONE, TWO], NIL)));
    assert!(!is_equal(STRING, NIL));
    assert!(!is_equal(&atom("_"), ONE));
}

#[test]
fn a_hole_matches_anything_and_a_map_its_keys() {
    let hole = atom("_");
    for value in [ONE, STRING, NIL, &map(&[(ONE, TWO)]), &hole, &list(&[ONE], TWO)] {
        assert!(is_match(&hole, value));
        assert!(is_match(&[&[104, 2], hole.as_slice(), TWO].concat(), &[&[104, 2], value, TWO].concat()));
        assert!(!is_match(&[&[104, 2], hole.as_slice(), TWO].concat(), &[&[104, 2], value, ONE].concat()));
    }
    assert!(!is_match(&[104, 1, 97, 1], ONE));
    assert!(!is_match(ONE, &hole));

    let value = map(&[(ONE, STRING), (TWO, &map(&[(&atom("k"), ONE)]))]);
    assert!(is_match(&map(&[]), &value));
    assert!(is_match(&map(&[(TWO, &map(&[]))]), &value));
    assert!(is_match(&map(&[(TWO, &map(&[(&atom("k"), &hole)])), (ONE, &hole)]), &value));
    assert!(!is_match(&map(&[(TWO, &map(&[(&atom("x"), &hole)]))]), &value));
    // a hole as a key is the key `_`
    assert!(!is_match(&map(&[(&hole, &hole)]), &value));
    // what follows a map is read behind all of it
    let pair = |a: &[u8], b: &[u8]| [&[104, 2], a, b].concat();
    assert!(is_match(&pair(&map(&[(ONE, &hole)]), ONE), &pair(&value, ONE)));
    assert!(!is_match(&pair(&map(&[(ONE, &hole)]), ONE), &pair(&value, TWO)));
}

#[test]
fn lists_match_by_element_and_by_tail() {
    let hole = atom("_");
    assert!(is_match(&list(&[&hole, TWO], NIL), STRING));
    assert!(is_match(&list(&[ONE, &hole], NIL), STRING));
    assert!(!is_match(&list(&[&hole], NIL), STRING));
    // [1 | _]
    for value in [STRING, &list(&[ONE], NIL), &list(&[ONE], TWO), &list(&[ONE, STRING, NIL], ONE)] {
        assert!(is_match(&list(&[ONE], &hole), value));
        let pair = |a: &[u8], b: &[u8]| [&[104, 2], a, b].concat();
        assert!(is_match(&pair(&list(&[ONE], &hole), TWO), &pair(value, TWO)));
        assert!(!is_match(&pair(&list(&[ONE], &hole), TWO), &pair(value, ONE)));
    }
    assert!(!is_match(&list(&[ONE], &hole), NIL));
    assert!(!is_match(&list(&[TWO], &hole), STRING));
    assert!(is_match(STRING, &list(&[ONE, &[98, 0, 0, 0, 2]], NIL)));
}

/// A value may be 128 times as long as a key, and is compared all the same.
#[test]
fn what_is_too_large_for_a_key_is_compared() {
    let binary = |byte: u8, len: u32| [&[109], &len.to_be_bytes()[..], &vec![byte; len as usize]].concat();
    let (big, other) = (binary(1, 200_000), binary(2, 200_000));
    let pair = |a: &[u8], b: &[u8]| map(&[(a, ONE), (b, TWO)]);
    assert!(is_equal(&map(&[(ONE, &big), (TWO, &other)]), &map(&[(TWO, &other), (ONE, &big)])));
    assert!(!is_equal(&map(&[(ONE, &big), (TWO, &other)]), &map(&[(TWO, &big), (ONE, &other)])));
    assert!(is_equal(&pair(&big, &other), &map(&[(&other, TWO), (&big, ONE)])));
    assert!(!is_equal(&pair(&big, &other), &pair(&other, &big)));
    let long = |last: &[u8]| list(&[vec![ONE; 300_000], vec![last]].concat(), NIL);
    assert!(is_equal(&list(&[&long(ONE)], STRING), &list(&[&long(&[98, 0, 0, 0, 1]), ONE, TWO], NIL)));
    assert!(!is_equal(&long(ONE), &long(TWO)));
}

#[test]
fn identities_and_funs_are_skipped_whole() {
    let node = atom("n@h");
    let pid = [&[88], node.as_slice(), &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]].concat();
    let port = [&[120], node.as_slice(), &[0; 12]].concat();
    let old_port = [&[89], node.as_slice(), &[0; 8]].concat();
    let reference = [&[90, 0, 2], node.as_slice(), &[0; 12]].concat();
    let export = [&[113], atom("lists").as_slice(), &atom("map"), &[97, 2]].concat();
    let fun = [&[112, 0, 0, 0, 9], &[1u8, 2, 3, 4, 5][..]].concat();
    let bits = [77, 0, 0, 0, 1, 3, 0xe0];
    for term in [&pid, &port, &old_port, &reference, &export, &fun, &bits[..].to_vec()] {
        let pair = |a: &[u8], b: &[u8]| [&[104, 2], a, b].concat();
        assert!(is_match(&pair(&atom("_"), ONE), &pair(term, ONE)), "{term:?}");
        assert!(!is_match(&pair(&atom("_"), ONE), &pair(term, TWO)), "{term:?}");
        assert!(is_match(&pair(term, &atom("_")), &pair(term, TWO)), "{term:?}");
    }
    assert!(!is_equal(&pid, &[&pid[..pid.len() - 1], &[4]].concat()));
}

/// Depth and lengths are a peer's word.
#[test]
fn hostile_bytes_match_nothing() {
    let hole = etf(&atom("_"));
    for bytes in
        [&[][..], &[131], &[131, 108, 255, 255, 255, 255], &[131, 116, 255, 255, 255, 255, 97], &[131, 104, 3, 97]]
    {
        assert!(!matches(&hole, bytes), "{bytes:?}");
        assert!(!matches(bytes, &hole), "{bytes:?}");
        assert!(!equals(bytes, &hole));
    }
    assert!(!matches(&hole, &[131, 97, 1, 97]), "bytes follow");
    let deep = etf(&[[104, 1].repeat(1 << 20), vec![106]].concat());
    let other = etf(&[[104, 1].repeat(1 << 20), vec![97, 1]].concat());
    assert!(matches(&hole, &deep) && equals(&deep, &deep));
    assert!(!equals(&deep, &other));
    let maps = etf(&[[116, 0, 0, 0, 1].repeat(1 << 18), vec![106]].concat());
    assert!(!equals(&maps, &deep) && !matches(&maps, &maps[..maps.len() - 1]));

    let mut rng = fastrand::Rng::with_seed(seed());
    let tags =
        [70, 77, 88, 89, 90, 97, 98, 99, 100, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 115, 116, 118, 119];
    for _ in 0..60_000 {
        let mut random = || {
            let byte = |rng: &mut fastrand::Rng| match rng.u8(0..3) {
                0 => tags[rng.usize(..tags.len())],
                1 => rng.u8(0..3),
                _ => rng.u8(..),
            };
            let len = rng.usize(..40);
            etf(&(0..len).map(|_| byte(&mut rng)).collect::<Vec<u8>>())
        };
        let (a, b) = (random(), random());
        assert!(equals(&a, &a));
        assert_eq!(equals(&a, &b), equals(&b, &a), "{a:?} {b:?}");
        let _ = matches(&a, &b);
    }
}

/// On terms of the tests a match is what the naive model says.
#[test]
fn terms_match_as_erlang_would() {
    let mut rng = fastrand::Rng::with_seed(seed());
    fn term(rng: &mut fastrand::Rng, depth: u8) -> Term {
        match rng.u8(0..if depth < 3 { 6 } else { 4 }) {
            0 => Term::Int(rng.u8(0..2)),
            1 => Term::Atom("_".into()),
            2 => Term::Atom("a".into()),
            3 => Term::Bin(vec![rng.u8(0..2)]),
            _ => Term::Pair(Box::new(term(rng, depth + 1)), Box::new(term(rng, depth + 1))),
        }
    }
    let mut matched = 0;
    for _ in 0..20_000 {
        let (a, b) = (term(&mut rng, 0), term(&mut rng, 0));
        assert_eq!(matches(&a.etf(), &b.etf()), crate::naive::fits(&a, &b), "{a:?} {b:?}");
        assert_eq!(equals(&a.etf(), &b.etf()), a == b, "{a:?} {b:?}");
        matched += u64::from(crate::naive::fits(&a, &b) && a != b);
    }
    assert!(matched > 500);
}
