//! The External Term Format that `decode` writes: the form that OTP 26 and later write themselves.

use crate::tag;

pub(crate) fn float(out: &mut Vec<u8>, value: f64) {
    out.push(tag::NEW_FLOAT);
    out.extend_from_slice(&value.to_bits().to_be_bytes());
}

/// An integer of less than 64 bits.
#[inline]
pub(crate) fn small(out: &mut Vec<u8>, negative: bool, magnitude: u64) {
    // magnitude is below 2^63
    let value = if negative { -(magnitude as i64) } else { magnitude as i64 };
    if let Ok(byte) = u8::try_from(value) {
        out.extend_from_slice(&[tag::SMALL_INTEGER, byte]);
    } else if let Ok(int) = i32::try_from(value) {
        integer(out, int);
    } else {
        let length = 8 - magnitude.leading_zeros() as usize / 8;
        big_header(out, negative, length);
        out.extend_from_slice(&magnitude.to_le_bytes()[..length]);
    }
}

pub(crate) fn integer(out: &mut Vec<u8>, value: i32) {
    out.push(tag::INTEGER);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Tag, length and sign of a big integer; answers where its bytes, little-endian, will begin.
pub(crate) fn big_header(out: &mut Vec<u8>, negative: bool, length: usize) -> usize {
    match u8::try_from(length) {
        Ok(byte) => out.extend_from_slice(&[tag::SMALL_BIG, byte]),
        Err(_) => {
            out.push(tag::LARGE_BIG);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    out.push(u8::from(negative));
    out.len()
}

/// Where the tag stands of a big integer of `length` bytes which begin at `from`.
pub(crate) fn big_start(from: usize, length: usize) -> usize {
    from - if length < 256 { 3 } else { 6 }
}

/// Room for the head of an atom whose text follows; to be given to `atom_end`.
pub(crate) fn atom_begin(out: &mut Vec<u8>) -> usize {
    let from = out.len();
    out.extend_from_slice(&[tag::SMALL_ATOM_UTF8, 0]);
    from
}

/// Fills in the head of the atom whose text was appended, of at most 1,020 bytes.
pub(crate) fn atom_end(out: &mut Vec<u8>, from: usize) {
    let length = out.len() - from - 2;
    match u8::try_from(length) {
        Ok(byte) => out[from + 1] = byte,
        Err(_) => {
            let [high, low] = (length as u16).to_be_bytes();
            out[from] = tag::ATOM_UTF8;
            out[from + 1] = high;
            out.insert(from + 2, low);
        }
    }
}

pub(crate) fn tuple(out: &mut Vec<u8>, arity: u32) {
    match u8::try_from(arity) {
        Ok(byte) => out.extend_from_slice(&[tag::SMALL_TUPLE, byte]),
        Err(_) => counted(out, tag::LARGE_TUPLE, arity),
    }
}

/// A tag followed by a count of four bytes.
pub(crate) fn counted(out: &mut Vec<u8>, tag: u8, count: u32) {
    out.push(tag);
    out.extend_from_slice(&count.to_be_bytes());
}
