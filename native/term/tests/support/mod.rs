//! A term as a tree, random ones of it, its external form (in several spellings), and an order
//! written down a second time: naively, without a look at key bytes.
#![allow(dead_code, clippy::unwrap_used)]

use proptest::prelude::*;
use std::cmp::Ordering;

#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// Sign and magnitude, little-endian, without zeros at the end.
    Int(bool, Vec<u8>),
    Float(u64),
    Atom(String),
    /// Node, creation, words (lowest first), three or five.
    Ref(String, u32, Vec<u32>),
    Fun {
        module: String,
        index: i32,
        old_uniq: i32,
        held: Vec<Term>,
        uniq: u8,
    },
    Export(String, String, u8),
    Port(String, u32, u64),
    Pid {
        serial: u32,
        id: u32,
        node: String,
        creation: u32,
    },
    Tuple(Vec<Term>),
    Map(Vec<(Term, Term)>),
    Nil,
    /// At least one element, and a tail that is no list with elements.
    List(Vec<Term>, Box<Term>),
    /// One bool for each bit.
    Bits(Vec<bool>),
}

use Term::*;

pub fn int(value: i128) -> Term {
    let mut magnitude = value.unsigned_abs().to_le_bytes().to_vec();
    trim(&mut magnitude);
    Int(value < 0, magnitude)
}

pub fn float(value: f64) -> Term {
    Float(value.to_bits())
}

pub fn atom(text: &str) -> Term {
    Atom(text.to_owned())
}

fn trim(bytes: &mut Vec<u8>) {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
}

// ---- the order, a second time

/// Erlang's `<`, `==`, `>`; `exact` inside map keys.
pub fn compare(a: &Term, b: &Term, exact: bool) -> Ordering {
    match (a, b) {
        (Int(..) | Float(_), Int(..) | Float(_)) => compare_numbers(a, b, exact),
        (Atom(a), Atom(b)) => a.chars().cmp(b.chars()),
        (Ref(n, c, w), Ref(n2, c2, w2)) => {
            let padded = |w: &[u32]| {
                let mut w = w.to_vec();
                w.resize(5, 0);
                w.reverse();
                w
            };
            (n, c, padded(w)).cmp(&(n2, c2, padded(w2)))
        }
        (
            Fun { module: m, index: i, old_uniq: u, held: h, .. },
            Fun { module: m2, index: i2, old_uniq: u2, held: h2, .. },
        ) => (m, i, u, h.len()).cmp(&(m2, i2, u2, h2.len())).then_with(|| compare_all(h.iter(), h2.iter(), exact)),
        (Export(m, f, a), Export(m2, f2, a2)) => (m, f, a).cmp(&(m2, f2, a2)),
        (Port(n, c, i), Port(n2, c2, i2)) => (n, c, i).cmp(&(n2, c2, i2)),
        (Pid { serial, id, node, creation }, Pid { serial: s2, id: i2, node: n2, creation: c2 }) => {
            (serial, id, node, creation).cmp(&(s2, i2, n2, c2))
        }
        (Tuple(a), Tuple(b)) => a.len().cmp(&b.len()).then_with(|| compare_all(a.iter(), b.iter(), exact)),
        (Map(a), Map(b)) => compare_maps(a, b, exact),
        (List(a, t), List(b, t2)) => compare_lists(a, t, b, t2, exact),
        (Bits(a), Bits(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

fn class(term: &Term) -> u8 {
    match term {
        Int(..) | Float(_) => 0,
        Atom(_) => 1,
        Ref(..) => 2,
        Fun { .. } => 3,
        Export(..) => 4,
        Port(..) => 5,
        Pid { .. } => 6,
        Tuple(_) => 7,
        Map(_) => 8,
        Nil => 9,
        List(..) => 10,
        Bits(_) => 11,
    }
}

fn compare_all<'a>(a: impl Iterator<Item = &'a Term>, b: impl Iterator<Item = &'a Term>, exact: bool) -> Ordering {
    a.zip(b).map(|(a, b)| compare(a, b, exact)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn compare_lists(a: &[Term], t: &Term, b: &[Term], t2: &Term, exact: bool) -> Ordering {
    compare_all(a.iter(), b.iter(), exact).then_with(|| {
        let tail = |list: &[Term], tail: &Term, from: usize| match list.len() == from {
            true => tail.clone(),
            false => List(list[from..].to_vec(), Box::new(tail.clone())),
        };
        let common = a.len().min(b.len());
        compare(&tail(a, t, common), &tail(b, t2, common), exact)
    })
}

pub fn sorted(map: &[(Term, Term)]) -> Vec<&(Term, Term)> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by(|a, b| compare(&a.0, &b.0, true).then(tie(&a.0, &b.0)));
    pairs
}

fn compare_maps(a: &[(Term, Term)], b: &[(Term, Term)], exact: bool) -> Ordering {
    let (x, y) = (sorted(a), sorted(b));
    a.len()
        .cmp(&b.len())
        .then_with(|| compare_all(x.iter().map(|p| &p.0), y.iter().map(|p| &p.0), true))
        .then_with(|| compare_all(x.iter().map(|p| &p.1), y.iter().map(|p| &p.1), exact))
}

fn compare_numbers(a: &Term, b: &Term, exact: bool) -> Ordering {
    if exact {
        match (a, b) {
            (Int(..), Float(_)) => return Ordering::Less,
            (Float(_), Int(..)) => return Ordering::Greater,
            (Float(a), Float(b)) => return f64::from_bits(*a).total_cmp(&f64::from_bits(*b)),
            _ => {}
        }
    }
    let ((neg_a, a), (neg_b, b)) = (scaled(a), scaled(b));
    let magnitudes = a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()));
    match (neg_a && !a.is_empty(), neg_b && !b.is_empty()) {
        (false, false) => magnitudes,
        (true, true) => magnitudes.reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

/// The value times 2^1074, an integer for every double: sign and magnitude, little-endian.
fn scaled(number: &Term) -> (bool, Vec<u8>) {
    let (negative, magnitude, shift) = match number {
        Int(negative, magnitude) => (*negative, magnitude.clone(), 1074),
        Float(bits) => {
            let exponent = (bits >> 52 & 0x7ff) as usize;
            let fraction = bits & ((1 << 52) - 1);
            let (mantissa, shift) = match exponent {
                0 => (fraction, 0),
                _ => (fraction | 1 << 52, exponent - 1),
            };
            (bits >> 63 == 1, mantissa.to_le_bytes().to_vec(), shift)
        }
        _ => unreachable!("not a number"),
    };
    let mut shifted = vec![0; shift / 8];
    let mut carry = 0u16;
    for byte in magnitude {
        let wide = (u16::from(byte) << (shift % 8)) | carry;
        shifted.push(wide as u8);
        carry = wide >> 8;
    }
    shifted.push(carry as u8);
    trim(&mut shifted);
    (negative, shifted)
}

/// Between equal (`==`) terms: the first place where they differ in form decides.
pub fn tie(a: &Term, b: &Term) -> Ordering {
    match (a, b) {
        (Int(..) | Float(_), Int(..) | Float(_)) => {
            let form = |number: &Term| match number {
                Int(..) => 0,
                Float(bits) if *bits == 1 << 63 => 1,
                _ => 2,
            };
            form(a).cmp(&form(b))
        }
        (Fun { uniq: u, held: h, .. }, Fun { uniq: u2, held: h2, .. }) => {
            u.cmp(u2).then_with(|| ties(h.iter(), h2.iter()))
        }
        (Tuple(a), Tuple(b)) => ties(a.iter(), b.iter()),
        (Map(a), Map(b)) => {
            let (x, y) = (sorted(a), sorted(b));
            ties(x.iter().map(|p| &p.0), y.iter().map(|p| &p.0))
                .then_with(|| ties(x.iter().map(|p| &p.1), y.iter().map(|p| &p.1)))
        }
        (List(a, t), List(b, t2)) => ties(a.iter(), b.iter()).then_with(|| tie(t, t2)),
        _ => Ordering::Equal,
    }
}

fn ties<'a>(a: impl Iterator<Item = &'a Term>, b: impl Iterator<Item = &'a Term>) -> Ordering {
    a.zip(b).map(|(a, b)| tie(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

// ---- the external form

/// External Term Format; `spelling` chooses among the forms that mean the same.
pub fn etf(term: &Term, spelling: u64) -> Vec<u8> {
    let mut out = vec![131];
    Speller(spelling).put(&mut out, term);
    out
}

struct Speller(u64);

impl Speller {
    fn choice(&mut self, count: u64) -> u64 {
        self.0 = self.0.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.0 >> 32;
        self.0 % count
    }

    fn put(&mut self, out: &mut Vec<u8>, term: &Term) {
        match term {
            Int(negative, magnitude) => self.int(out, *negative, magnitude),
            Float(bits) if self.choice(4) == 0 => {
                let mut text = format!("{:.20e}", f64::from_bits(*bits)).into_bytes();
                text.resize(31, 0);
                out.push(99);
                out.extend(text);
            }
            Float(bits) => {
                out.push(70);
                out.extend(bits.to_be_bytes());
            }
            Atom(text) => self.atom(out, text),
            Ref(node, creation, words) => {
                out.extend([90, 0, words.len() as u8]);
                self.atom(out, node);
                out.extend(creation.to_be_bytes());
                words.iter().for_each(|word| out.extend(word.to_be_bytes()));
            }
            Fun { .. } => self.fun(out, term),
            Export(module, name, arity) => {
                out.push(113);
                self.atom(out, module);
                self.atom(out, name);
                out.extend([97, *arity]);
            }
            Port(node, creation, id) => {
                let short = u32::try_from(*id).ok().filter(|_| self.choice(2) == 0);
                out.push(if short.is_some() { 89 } else { 120 });
                self.atom(out, node);
                match short {
                    Some(id) => out.extend(id.to_be_bytes()),
                    None => out.extend(id.to_be_bytes()),
                }
                out.extend(creation.to_be_bytes());
            }
            Pid { serial, id, node, creation } => {
                out.push(88);
                self.atom(out, node);
                [id, serial, creation].iter().for_each(|word| out.extend(word.to_be_bytes()));
            }
            Tuple(elements) => {
                match elements.len() {
                    count @ 0..=255 if self.choice(4) > 0 => out.extend([104, count as u8]),
                    count => head(out, 105, count),
                }
                elements.iter().for_each(|element| self.put(out, element));
            }
            Map(pairs) => {
                head(out, 116, pairs.len());
                let turn = self.choice(pairs.len().max(1) as u64) as usize;
                for (key, value) in pairs[turn..].iter().chain(&pairs[..turn]) {
                    self.put(out, key);
                    self.put(out, value);
                }
            }
            Nil => match self.choice(4) {
                0 => out.extend([107, 0, 0]),
                _ => out.push(106),
            },
            List(elements, tail) => self.list(out, elements, tail),
            Bits(bits) => bitstring(out, bits),
        }
    }

    fn int(&mut self, out: &mut Vec<u8>, negative: bool, magnitude: &[u8]) {
        let mut wide = magnitude.to_vec();
        wide.resize(16.max(wide.len()), 0);
        let low = i128::from_le_bytes(wide[..16].try_into().unwrap());
        // of a wide number only the low half, which is not used then
        let value = if negative { low.wrapping_neg() } else { low };
        let small = magnitude.len() <= 4;
        match self.choice(3) {
            0 if small && u8::try_from(value).is_ok() => out.extend([97, value as u8]),
            1 if small && i32::try_from(value).is_ok() => {
                out.push(98);
                out.extend((value as i32).to_be_bytes());
            }
            _ => {
                let zeros = self.choice(3) as usize;
                let length = magnitude.len() + zeros;
                match length {
                    0..=255 => out.extend([110, length as u8]),
                    _ => head(out, 111, length),
                }
                out.push(u8::from(negative));
                out.extend_from_slice(magnitude);
                out.resize(out.len() + zeros, 0);
            }
        }
    }

    fn atom(&mut self, out: &mut Vec<u8>, text: &str) {
        let latin: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        let (bytes, long, short) = match latin.filter(|_| self.choice(2) == 0) {
            Some(latin) => (latin, 100, 115),
            None => (text.as_bytes().to_vec(), 118, 119),
        };
        match bytes.len() {
            length @ 0..=255 if self.choice(2) == 0 => out.extend([short, length as u8]),
            length => {
                out.push(long);
                out.extend((length as u16).to_be_bytes());
            }
        }
        out.extend(bytes);
    }

    fn fun(&mut self, out: &mut Vec<u8>, term: &Term) {
        let Fun { module, index, old_uniq, held, uniq } = term else { unreachable!() };
        let mut body = vec![2];
        body.extend([*uniq; 16]);
        body.extend(index.to_be_bytes());
        body.extend((held.len() as u32).to_be_bytes());
        self.atom(&mut body, module);
        body.push(98);
        body.extend(index.to_be_bytes());
        body.push(98);
        body.extend(old_uniq.to_be_bytes());
        let creator = self.choice(5) as u32;
        self.put(&mut body, &Pid { serial: 0, id: creator, node: "n@h".into(), creation: 1 });
        held.iter().for_each(|term| self.put(&mut body, term));
        head(out, 112, body.len() + 4);
        out.extend(body);
    }

    fn list(&mut self, out: &mut Vec<u8>, elements: &[Term], tail: &Term) {
        let bytes: Option<Vec<u8>> = elements.iter().map(as_byte).collect();
        if let Some(bytes) = bytes.filter(|_| *tail == Nil && self.choice(2) == 0) {
            out.push(107);
            out.extend((bytes.len() as u16).to_be_bytes());
            out.extend(bytes);
            return;
        }
        // now and then in two parts, the second as the tail of the first
        let split = match self.choice(4) {
            0 => self.choice(elements.len() as u64 + 1) as usize,
            _ => elements.len(),
        };
        head(out, 108, split);
        elements[..split].iter().for_each(|element| self.put(out, element));
        if split < elements.len() {
            head(out, 108, elements.len() - split);
            elements[split..].iter().for_each(|element| self.put(out, element));
        }
        self.put(out, tail);
    }
}

fn as_byte(term: &Term) -> Option<u8> {
    match term {
        Int(false, magnitude) if magnitude.len() <= 1 => Some(magnitude.first().copied().unwrap_or(0)),
        _ => None,
    }
}

fn head(out: &mut Vec<u8>, tag: u8, count: usize) {
    out.push(tag);
    out.extend((count as u32).to_be_bytes());
}

fn bitstring(out: &mut Vec<u8>, bits: &[bool]) {
    let bytes: Vec<u8> = bits
        .chunks(8)
        .map(|chunk| chunk.iter().enumerate().map(|(at, bit)| u8::from(*bit) << (7 - at)).sum())
        .collect();
    match bits.len() % 8 {
        0 => head(out, 109, bytes.len()),
        last => {
            head(out, 77, bytes.len());
            out.push(last as u8);
        }
    }
    out.extend(bytes);
}

// ---- random terms

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["", "a", "b", "ab", "a\0", "a\u{1}", "a\u{2}", "a\u{3}", "é", "ÿ", "日", "𝄞", "\u{ffff}"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => (prop::char::any(), 200usize..=255).prop_map(|(c, n)| c.to_string().repeat(n)),
    ]
}

fn node() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a@b", "b@b", "nonode@nohost"]).prop_map(str::to_owned)
}

fn word() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(1 << 31), any::<u32>()]
}

fn power() -> impl Strategy<Value = i128> {
    let near = prop_oneof![-3i128..=3, -1030i128..=1030];
    let bits = prop_oneof![0u32..=100, 51u32..=66];
    (bits, near, any::<bool>()).prop_map(|(bits, near, negative)| {
        let value = (1i128 << bits) + near;
        if negative {
            -value
        } else {
            value
        }
    })
}

fn finite(bits: u64) -> u64 {
    if f64::from_bits(bits).is_finite() {
        bits
    } else {
        bits & !(1 << 62)
    }
}

pub fn number() -> impl Strategy<Value = Term> {
    prop_oneof![
        4 => (-3i128..=3).prop_map(int),
        2 => (-300i128..=300).prop_map(int),
        3 => power().prop_map(int),
        3 => power().prop_map(|value| float(value as f64)),
        3 => (-6i32..=6).prop_map(|half| float(f64::from(half) / 2.0)),
        1 => Just(float(-0.0)),
        2 => any::<u64>().prop_map(|bits| Float(finite(bits))),
        1 => (power(), -3i64..=3).prop_map(|(value, step)| {
            Float(finite((value as f64).to_bits().wrapping_add(step as u64)))
        }),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 1..300)).prop_map(|(negative, mut magnitude)| {
            trim(&mut magnitude);
            Int(negative && !magnitude.is_empty(), magnitude)
        }),
        1 => (any::<bool>(), 0usize..140, any::<u8>()).prop_map(|(negative, zeros, top)| {
            let mut magnitude = vec![0; zeros];
            magnitude.push(top.max(1));
            Int(negative, magnitude)
        }),
        1 => prop::sample::select(vec![f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, 1e308]).prop_map(float),
    ]
}

fn bits() -> impl Strategy<Value = Term> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(255), any::<u8>()];
    (prop::collection::vec(byte, 0..12), 0usize..8).prop_map(|(bytes, cut)| {
        let mut bits: Vec<bool> =
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect();
        bits.truncate(bits.len().saturating_sub(cut));
        Bits(bits)
    })
}

fn scalar() -> impl Strategy<Value = Term> {
    prop_oneof![
        6 => number(),
        3 => name().prop_map(Atom),
        3 => bits(),
        1 => Just(Nil),
        1 => (node(), word(), prop::collection::vec(word(), 5), any::<bool>()).prop_map(|(node, creation, mut words, long)| {
            words.truncate(if long { 5 } else { 3 });
            Ref(node, creation, words)
        }),
        1 => (name(), name(), any::<u8>()).prop_map(|(m, f, a)| Export(m, f, a)),
        1 => (node(), word(), prop_oneof![word().prop_map(u64::from), any::<u64>()]).prop_map(|(n, c, i)| Port(n, c, i)),
        1 => (word(), word(), node(), word())
            .prop_map(|(serial, id, node, creation)| Pid { serial, id, node, creation }),
    ]
}

/// Removes associations whose key is there already.
pub fn unique(pairs: Vec<(Term, Term)>) -> Term {
    let mut kept: Vec<(Term, Term)> = Vec::new();
    for pair in pairs {
        let same = |other: &(Term, Term)| compare(&other.0, &pair.0, true).is_eq() && tie(&other.0, &pair.0).is_eq();
        if !kept.iter().any(same) {
            kept.push(pair);
        }
    }
    Map(kept)
}

fn list(elements: Vec<Term>, tail: Term) -> Term {
    match (elements.is_empty(), tail) {
        (true, tail) => tail,
        (false, List(more, tail)) => List([elements, more].concat(), tail),
        (false, tail) => List(elements, Box::new(tail)),
    }
}

pub fn term() -> impl Strategy<Value = Term> {
    scalar().prop_recursive(5, 40, 6, |inner| {
        let some = || prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            3 => some().prop_map(Tuple),
            3 => some().prop_map(|elements| list(elements, Nil)),
            1 => (some(), inner.clone()).prop_map(|(elements, tail)| list(elements, tail)),
            3 => prop::collection::vec((inner.clone(), inner.clone()), 0..6).prop_map(unique),
            1 => (prop::sample::select(vec!["m", "n"]), -2i32..3, -2i32..3, 0u8..3, some()).prop_map(
                |(module, index, old_uniq, uniq, held)| Fun { module: module.into(), index, old_uniq, held, uniq }),
        ]
    })
}

/// A term and another that mostly differs in one place only.
pub fn pair() -> impl Strategy<Value = (Term, Term)> {
    let kin = (term(), any::<u64>(), scalar()).prop_map(|(term, place, other)| {
        let mut near = term.clone();
        nudge(&mut near, place, &other);
        (term, near)
    });
    prop_oneof![3 => kin, 1 => (term(), term())]
}

fn nudge(term: &mut Term, place: u64, other: &Term) {
    let (here, next) = (place % 7, place / 7);
    let pick = |count: usize| (next % count as u64) as usize;
    match term {
        Tuple(all) | Fun { held: all, .. } if !all.is_empty() && here < 6 => {
            let at = pick(all.len());
            nudge(&mut all[at], next / 6, other);
        }
        List(all, _) if here < 5 => {
            let at = pick(all.len());
            nudge(&mut all[at], next / 6, other);
        }
        Map(pairs) if !pairs.is_empty() && here < 6 => {
            let at = pick(pairs.len());
            match here {
                0..=2 => nudge(&mut pairs[at].1, next / 6, other),
                _ => nudge(&mut pairs[at].0, next / 6, other),
            }
            *term = unique(std::mem::take(pairs));
        }
        Fun { uniq, .. } => *uniq ^= 1,
        Int(negative, magnitude) if magnitude.len() <= 15 && here < 5 => {
            let mut wide = magnitude.clone();
            wide.resize(16, 0);
            let value = i128::from_le_bytes(wide.try_into().unwrap());
            let value = if *negative { -value } else { value };
            *term = match here {
                0 | 1 => float(value as f64),
                2 => int(value + 1),
                3 => int(value - 1),
                _ => int(-value),
            };
        }
        Float(bits) if here < 5 => {
            let value = f64::from_bits(*bits);
            *term = match here {
                0 | 1 if value.abs() < 1e30 => int(value as i128),
                2 => Float(finite(*bits + 1)),
                3 => Float(finite(bits.wrapping_sub(1))),
                _ => float(-value),
            };
        }
        Bits(bits) if here < 6 && !bits.is_empty() => match here {
            0..=2 => bits.truncate(pick(bits.len())),
            3 => bits.push(next % 2 == 1),
            _ => {
                let at = pick(bits.len());
                bits[at] = !bits[at];
            }
        },
        _ => *term = other.clone(),
    }
}
