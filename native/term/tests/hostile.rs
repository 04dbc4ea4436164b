//! Bytes that nobody meant: mutated terms, mutated keys, noise, bombs. Nothing panics, nothing
//! overflows the stack, and whatever `decode` accepts is what `encode` makes.
//!
//! `MACULA_SEED=n` replays a run, `MACULA_TORTURE=1` makes it long.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod support;

use macula_core::{Kind, Kinded};
use macula_term::{bound, decode, encode, Side, TermError, DEPTH_MAX, KEY_BYTES_MAX};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::{etf, term};

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 16] = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff, 0x13, 0x14, 0x48, 0x50, 0x58, 0x60, 97, 106];
        match self.below(2) {
            0 => TELLING[self.below(16)],
            _ => self.below(256) as u8,
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 => bytes.truncate(at),
                1 if !bytes.is_empty() => bytes[at] = self.byte(),
                2 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                3 if !bytes.is_empty() => drop(bytes.remove(at)),
                4 => bytes.insert(at, self.byte()),
                5 if !bytes.is_empty() => bytes[at] = bytes[at].wrapping_add(1),
                _ => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + self.below(12)).min(other.len())];
                    bytes.splice(at..at, part.iter().copied());
                }
            }
        }
    }
}

fn settings() -> (u64, usize) {
    let seed = std::env::var("MACULA_SEED").map_or(1, |seed| seed.parse().unwrap());
    let torture = std::env::var("MACULA_TORTURE").is_ok();
    println!("MACULA_SEED={seed}");
    (seed, if torture { 50_000_000 } else { 1_000_000 })
}

/// External forms of random terms, the same for the same seed.
fn corpus(seed: u64) -> Vec<Vec<u8>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = term();
    (0..2_000).map(|at| etf(&strategy.new_tree(&mut runner).unwrap().current(), at)).collect()
}

/// Whether the key was accepted.
fn check_key(key: &[u8]) -> bool {
    match decode(key) {
        Ok(etf) => {
            assert_eq!(encode(&etf).as_deref(), Ok(key), "not canonical: key={key:02x?}");
            true
        }
        Err(error) => {
            let kind = error.kind();
            assert!(matches!(kind, Kind::Corrupt | Kind::TooLarge), "{error} key={key:02x?}");
            false
        }
    }
}

#[test]
fn mutated_terms() {
    let (seed, count) = settings();
    let (corpus, mut chance) = (corpus(seed), Chance(seed));
    let mut accepted = 0;
    for _ in 0..count {
        let mut etf = corpus[chance.below(corpus.len())].clone();
        let other = &corpus[chance.below(corpus.len())];
        chance.mutate(&mut etf, other);
        match encode(&etf) {
            Ok(key) => {
                accepted += 1;
                assert!(check_key(&key), "not decoded: etf={etf:?} key={key:02x?}");
                let below = bound(&etf, Side::Below).unwrap();
                assert!(key.starts_with(&below) && key < bound(&etf, Side::Above).unwrap());
            }
            Err(error) => assert_ne!(error.kind(), Kind::Corrupt, "{error} etf={etf:?}"),
        }
    }
    println!("terms: mutated={count} accepted={accepted}");
    assert!(accepted > count / 20);
}

#[test]
fn mutated_keys() {
    let (seed, count) = settings();
    let mut chance = Chance(seed ^ 0xabcd);
    let keys: Vec<_> = corpus(seed).iter().map(|etf| encode(etf).unwrap()).collect();
    let mut accepted = 0;
    for _ in 0..count {
        let mut key = keys[chance.below(keys.len())].clone();
        let other = &keys[chance.below(keys.len())];
        chance.mutate(&mut key, other);
        accepted += usize::from(check_key(&key));
    }
    println!("keys: mutated={count} accepted={accepted}");
    assert!(accepted > count / 20);
}

#[test]
fn noise() {
    let (seed, count) = settings();
    let mut chance = Chance(seed ^ 0x1234);
    for _ in 0..count {
        let mut bytes: Vec<u8> = (0..chance.below(24)).map(|_| chance.byte()).collect();
        check_key(&bytes);
        bytes.insert(0, 131);
        if let Ok(key) = encode(&bytes) {
            assert!(check_key(&key));
        }
    }
}

#[test]
fn every_beginning_of_a_term_or_key_is_refused() {
    for etf in corpus(7) {
        let key = encode(&etf).unwrap();
        assert!((0..etf.len()).all(|end| encode(&etf[..end]).is_err()), "{etf:?}");
        let whole = bound(&etf, Side::Below).unwrap().len();
        assert!((0..whole).all(|end| decode(&key[..end]).is_err()), "{key:02x?}");
    }
}

/// Each way to nest, `depth` deep.
fn nested(depth: usize) -> Vec<Vec<u8>> {
    let wrap = |before: &[u8], after: &[u8]| [&[131][..], &before.repeat(depth), &[106], &after.repeat(depth)].concat();
    let mut fun = vec![106];
    for _ in 0..depth {
        let mut body = vec![0; 21];
        body.extend([0, 0, 0, 1, 119, 1, b'm', 97, 0, 97, 0, 88, 119, 1, b'n']);
        body.extend([0; 12]);
        body.extend(&fun);
        fun = [&[112][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat();
    }
    vec![
        wrap(&[104, 1], &[]),
        wrap(&[105, 0, 0, 0, 1], &[]),
        wrap(&[108, 0, 0, 0, 1], &[106]),
        wrap(&[116, 0, 0, 0, 1], &[97, 1]),
        wrap(&[116, 0, 0, 0, 1, 97, 1], &[]),
        wrap(&[108, 0, 0, 0, 1, 97, 1, 104, 1], &[]),
        [vec![131], fun].concat(),
    ]
}

#[test]
fn deep_nesting_is_refused_on_a_small_stack() {
    // a dirty scheduler of the BEAM has 320 KiB of stack by default, not all of it ours
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let run = || {
        let too_deep = Err(TermError::TooDeep { depth_max: DEPTH_MAX });
        for (at, etf) in nested(DEPTH_MAX).iter().enumerate() {
            assert!(check_key(&encode(etf).unwrap()), "kind of nesting: {at}");
        }
        for depth in [DEPTH_MAX + 1, DEPTH_MAX + 2, 5_000] {
            for (at, etf) in nested(depth).iter().enumerate() {
                let tuples_in_tails = at == 5;
                assert!(tuples_in_tails || encode(etf) == too_deep, "kind of nesting: {at}");
            }
        }
        for tag in [0x48, 0x50, 0x60] {
            let key = match tag {
                0x60 => vec![tag],
                tag => vec![tag, 1],
            };
            assert_eq!(decode(&key.repeat(20_000)), too_deep);
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_list_as_the_tail_of_a_list_is_one_list() {
    let mut chained = vec![131];
    chained.extend([108, 0, 0, 0, 1, 97, 1].repeat(5_000));
    chained.push(106);
    let string = [&[131, 107, 0x13, 0x88][..], &[1; 5_000]].concat();
    assert_eq!(encode(&chained).unwrap(), encode(&string).unwrap());
    // lists of nothing, as tails
    let nothing = [&[131][..], &[108, 0, 0, 0, 0].repeat(5_000), &[97, 7]].concat();
    assert_eq!(encode(&nothing).unwrap(), encode(&[131, 97, 7]).unwrap());
}

#[test]
fn a_key_has_a_longest_length() {
    let binary = |length: usize| [&[131, 109][..], &(length as u32).to_be_bytes(), &vec![b'x'; length]].concat();
    let longest = binary(KEY_BYTES_MAX - 2);
    assert!(check_key(&encode(&longest).unwrap()));
    assert_eq!(bound(&longest, Side::Above).unwrap().len(), KEY_BYTES_MAX + 1);
    let too_large = Err(TermError::TooLarge { bytes_max: KEY_BYTES_MAX });
    for length in [KEY_BYTES_MAX - 1, KEY_BYTES_MAX, 1_000_000] {
        assert_eq!(encode(&binary(length)), too_large);
        assert_eq!(bound(&binary(length), Side::Below), too_large);
    }
    assert_eq!(decode(&vec![0x68; KEY_BYTES_MAX + 1]), too_large);
    // the tie-break counts: 20,000 floats of three bytes each, and a byte more for each
    let floats = |count: u32| {
        let one = [70, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0].repeat(count as usize);
        [&[131, 108][..], &count.to_be_bytes(), &one, &[106]].concat()
    };
    assert!(check_key(&encode(&floats(16_383)).unwrap()));
    assert_eq!(encode(&floats(16_384)), too_large);
}

#[test]
fn what_can_not_be_a_key_is_refused_by_name() {
    let compressed = encode(&[131, 80, 0, 0, 0, 100, 1, 2, 3]).unwrap_err();
    assert_eq!(compressed.kind(), Kind::Unsupported);
    assert!(compressed.to_string().contains("compressed"), "{compressed}");
    for tag in [82, 101, 102, 103, 114, 117, 121] {
        assert_eq!(encode(&[131, tag, 0, 0, 0, 0]).unwrap_err().kind(), Kind::Unsupported);
    }
    let malformed: [&[u8]; 16] = [
        b"",
        &[130, 97, 1],
        &[131],
        &[131, 97, 1, 0],
        &[131, 255],
        &[131, 70, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0],
        &[131, 70, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
        &[131, 119, 1, 0xff],
        &[131, 77, 0, 0, 0, 1, 0, 1],
        &[131, 77, 0, 0, 0, 1, 9, 1],
        &[131, 77, 0, 0, 0, 0, 3],
        &[131, 90, 0, 0, 119, 1, b'n', 0, 0, 0, 0],
        &[131, 90, 0, 6, 119, 1, b'n', 0, 0, 0, 0],
        &[131, 116, 0, 0, 0, 2, 97, 1, 97, 1, 98, 0, 0, 0, 1, 97, 2],
        &[131, 105, 255, 255, 255, 255, 106],
        &[131, 116, 255, 255, 255, 255, 106, 106],
    ];
    for etf in malformed {
        assert_eq!(encode(etf).map_err(|error| error.kind()), Err(Kind::Invalid), "{etf:?}");
    }
    let long_atom =
        |tag: u8, text: &[u8]| encode(&[&[131, tag][..], &(text.len() as u16).to_be_bytes(), text].concat());
    assert!(long_atom(118, "é".repeat(255).as_bytes()).is_ok());
    assert!(long_atom(118, "é".repeat(256).as_bytes()).is_err());
    assert!(long_atom(100, &[0xe9; 255]).is_ok());
    assert!(long_atom(100, &[0xe9; 256]).is_err());
    assert!(long_atom(118, &[b'a'; 256]).is_err());
}
