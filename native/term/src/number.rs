//! Integers of any size and floats, ordered by exact value.
//!
//! |v| >= 1 is written as the number of bytes of its integer part (in the tag), the integer part,
//! and, only when a bit beside it says so, a fraction of 56 bits; a float below 1 as its IEEE bits.
//! A negative number is the positive one with every byte complemented. Whether an integer or the
//! float of the same value was meant stands in the tie-break, at the end of the key. Inside map
//! keys integers come before floats, and floats are written as ordered IEEE bits.

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::tag;
use crate::{write, TermError};

const SIGN: u64 = 1 << 63;
const ONE_BITS: u64 = 0x3ff0_0000_0000_0000;
const INFINITY_BITS: u64 = 0x7ff0_0000_0000_0000;
/// 2^63, from where numbers are written as `KEY_*_BIG`.
const BIG_FROM: f64 = 9_223_372_036_854_775_808.0;
/// 2^56: a fraction of a double that is at least 1 has no more than 52 bits.
const FRACTION_UNIT: f64 = 72_057_594_037_927_936.0;
const MANTISSA_BITS: u32 = 53;

/// Whether a double has exactly this value.
#[inline]
fn small_has_float(magnitude: u64) -> bool {
    magnitude == 0 || 64 - magnitude.leading_zeros() - magnitude.trailing_zeros() <= MANTISSA_BITS
}

/// Whether a double has exactly this value (big-endian, no zero in front).
fn big_has_float(bytes: &[u8]) -> bool {
    let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return true };
    let length = bytes.len() * 8 - bytes[0].leading_zeros() as usize;
    let zeros = (bytes.len() - 1 - last) * 8 + bytes[last].trailing_zeros() as usize;
    length <= 1024 && length - zeros <= MANTISSA_BITS as usize
}

impl Encoder<'_> {
    /// An integer of less than 64 bits.
    #[inline]
    pub(crate) fn small(&mut self, negative: bool, magnitude: u64, in_map_key: bool) {
        if magnitude == 0 {
            self.out.push(tag::KEY_ZERO);
        } else {
            self.class(negative, magnitude << 1);
        }
        if !in_map_key && small_has_float(magnitude) {
            self.ties.push(0);
        }
    }

    /// The tag that tells the length, and the integer part with the bit for a fraction.
    #[inline]
    fn class(&mut self, negative: bool, doubled: u64) {
        let zeros = doubled.leading_zeros() / 8;
        let length = (8 - zeros) as u8;
        let (tag, value) = match negative {
            false => (tag::KEY_POS_BASE + length, doubled),
            true => (tag::KEY_NEG_BASE - length, !doubled),
        };
        let mut bytes = [0; 9];
        bytes[0] = tag;
        bytes[1..].copy_from_slice(&(value << (zeros * 8)).to_be_bytes());
        self.out.extend_from_slice(&bytes[..1 + usize::from(length)]);
    }

    /// An integer of any size, magnitude little-endian as in the external format.
    pub(crate) fn integer(&mut self, negative: bool, magnitude: &[u8], in_map_key: bool) {
        let length = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let magnitude = &magnitude[..length];
        if length < 8 || (length == 8 && magnitude[7] < 0x80) {
            let value = magnitude.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            return self.small(negative, value, in_map_key);
        }
        let from = self.big(negative, length);
        self.out.extend(magnitude.iter().rev());
        if !in_map_key && big_has_float(&self.out[from..]) {
            self.ties.push(0);
        }
        self.complement(negative, from);
    }

    /// Tag and length of a big number; answers where its bytes will begin.
    fn big(&mut self, negative: bool, length: usize) -> usize {
        self.out.push(if negative { tag::KEY_NEG_BIG } else { tag::KEY_POS_BIG });
        // the length of an input is below 2^32: its tag holds at most so much
        let length = length as u32;
        let length = if negative { !length } else { length };
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.len()
    }

    fn complement(&mut self, negative: bool, from: usize) {
        if negative {
            self.out[from..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }

    /// A float; infinities and NaN are not Erlang terms.
    pub(crate) fn float(&mut self, value: f64, in_map_key: bool) -> Result<(), TermError> {
        if !value.is_finite() {
            return Err(self.etf.fail("a float is not finite"));
        }
        if in_map_key {
            let bits = value.to_bits();
            let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
            self.out.push(tag::KEY_MAP_KEY_FLOAT);
            self.out.extend_from_slice(&ordered.to_be_bytes());
            return Ok(());
        }
        let negative = value.is_sign_negative();
        let size = value.abs();
        if size == 0.0 {
            self.out.push(tag::KEY_ZERO);
            self.ties.push(if negative { 1 } else { 2 });
        } else if size < 1.0 {
            let (tag, bits) = match negative {
                false => (tag::KEY_POS_FRACTION, size.to_bits()),
                true => (tag::KEY_NEG_FRACTION, !size.to_bits()),
            };
            self.out.push(tag);
            self.out.extend_from_slice(&bits.to_be_bytes());
        } else if size < BIG_FROM {
            let whole = size as u64;
            let fraction = ((size - whole as f64) * FRACTION_UNIT) as u64;
            self.class(negative, whole << 1 | u64::from(fraction != 0));
            if fraction == 0 {
                self.ties.push(1);
            } else {
                let fraction = if negative { !fraction } else { fraction };
                self.out.extend_from_slice(&fraction.to_be_bytes()[1..]);
            }
        } else {
            self.big_float(negative, size);
        }
        Ok(())
    }

    /// A float from 2^63: its exact integer, so that it sorts among the integers.
    fn big_float(&mut self, negative: bool, size: f64) {
        let bits = size.to_bits();
        let mantissa = u128::from(bits & ((1 << 52) - 1) | 1 << 52);
        let shift = (bits >> 52) as usize - 1075;
        let bytes = (mantissa << (shift % 8)).to_be_bytes();
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
        let from = self.big(negative, 16 - first + shift / 8);
        self.out.extend_from_slice(&bytes[first..]);
        self.out.resize(self.out.len() + shift / 8, 0);
        self.complement(negative, from);
        self.ties.push(1);
    }
}

impl Decoder<'_> {
    /// A number whose tag was read.
    pub(crate) fn number(&mut self, tag: u8, in_map_key: bool) -> Result<(), TermError> {
        match tag {
            tag::KEY_ZERO if in_map_key => self.int(false, 0),
            tag::KEY_ZERO => match self.ties.next() {
                0 => self.int(false, 0),
                1 => write::float(&mut self.out, -0.0),
                2 => write::float(&mut self.out, 0.0),
                _ => return Err(self.key.fail("no such zero")),
            },
            tag::KEY_POS_BIG | tag::KEY_NEG_BIG => return self.big(tag == tag::KEY_NEG_BIG, in_map_key),
            tag::KEY_POS_FRACTION | tag::KEY_NEG_FRACTION if !in_map_key => {
                let negative = tag == tag::KEY_NEG_FRACTION;
                let bits = self.key.u64()?;
                let bits = if negative { !bits } else { bits };
                if bits == 0 || bits >= ONE_BITS {
                    return Err(self.key.fail("not a float between 0 and 1"));
                }
                self.signed_float(negative, f64::from_bits(bits));
            }
            tag::KEY_MAP_KEY_FLOAT if in_map_key => {
                let ordered = self.key.u64()?;
                let bits = if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN };
                if bits & !SIGN >= INFINITY_BITS {
                    return Err(self.key.fail("a float is not finite"));
                }
                write::float(&mut self.out, f64::from_bits(bits));
            }
            _ if tag > tag::KEY_POS_BASE && tag < tag::KEY_POS_BIG => {
                return self.class(false, tag - tag::KEY_POS_BASE, in_map_key)
            }
            _ if tag < tag::KEY_NEG_BASE && tag > tag::KEY_NEG_BIG => {
                return self.class(true, tag::KEY_NEG_BASE - tag, in_map_key)
            }
            _ => return Err(self.key.fail("no such tag")),
        }
        Ok(())
    }

    fn int(&mut self, negative: bool, magnitude: u64) {
        write::small(&mut self.out, negative, magnitude);
    }

    fn signed_float(&mut self, negative: bool, size: f64) {
        write::float(&mut self.out, if negative { -size } else { size });
    }

    fn class(&mut self, negative: bool, length: u8, in_map_key: bool) -> Result<(), TermError> {
        let flip = if negative { 0xff } else { 0 };
        let bytes = self.key.take(usize::from(length))?;
        let doubled = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(byte ^ flip));
        let whole = doubled >> 1;
        if whole == 0 || bytes[0] ^ flip == 0 {
            return Err(self.key.fail("a number is longer than it need be"));
        }
        if doubled & 1 == 1 {
            return self.with_fraction(negative, whole, in_map_key);
        }
        if in_map_key || !small_has_float(whole) {
            self.int(negative, whole);
            return Ok(());
        }
        match self.ties.next() {
            0 => self.int(negative, whole),
            1 => self.signed_float(negative, whole as f64),
            _ => return Err(self.key.fail("neither integer nor float")),
        }
        Ok(())
    }

    fn with_fraction(&mut self, negative: bool, whole: u64, in_map_key: bool) -> Result<(), TermError> {
        let bytes: [u8; 7] = self.key.array()?;
        let flip = if negative { 0xff } else { 0 };
        let fraction = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(byte ^ flip));
        let whole_bits = 64 - whole.leading_zeros();
        // of 56 bits, only those that a double with this integer part can hold
        if in_map_key || fraction == 0 || fraction.trailing_zeros() < 3 + whole_bits {
            return Err(self.key.fail("no such fraction"));
        }
        self.signed_float(negative, whole as f64 + fraction as f64 / FRACTION_UNIT);
        Ok(())
    }

    fn big(&mut self, negative: bool, in_map_key: bool) -> Result<(), TermError> {
        let length = self.key.u32()?;
        let length = if negative { !length } else { length } as usize;
        let bytes = self.key.take(length)?;
        let flip = if negative { 0xff } else { 0 };
        if length < 8 || bytes[0] ^ flip == 0 || (length == 8 && bytes[0] ^ flip < 0x80) {
            return Err(self.key.fail("a number is longer than it need be"));
        }
        let from = write::big_header(&mut self.out, negative, length);
        self.out.extend(bytes.iter().rev().map(|byte| byte ^ flip));
        // no float is longer than 1,024 bits
        if in_map_key || length > 128 {
            return Ok(());
        }
        let magnitude: Vec<u8> = bytes.iter().map(|byte| byte ^ flip).collect();
        if !big_has_float(&magnitude) {
            return Ok(());
        }
        match self.ties.next() {
            0 => Ok(()),
            1 => {
                self.out.truncate(write::big_start(from, length));
                // at most 53 bits are set, so that both steps are exact
                let size = magnitude.iter().fold(0.0, |size, byte| size * 256.0 + f64::from(*byte));
                self.signed_float(negative, size);
                Ok(())
            }
            _ => Err(self.key.fail("neither integer nor float")),
        }
    }
}
