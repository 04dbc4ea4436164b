//! Strings of bytes or bits of any length, self-delimiting and in order: bitstrings, atoms, names
//! of nodes and modules.
//!
//! Data bytes 0, 1 and 2 are written as `02 d`; the end is `01`, or `00 b` when only the `b` upper
//! bits (1 to 7) of the last data byte count. An end sorts before any data, and the end inside a
//! byte before the end after it: a prefix is smaller than what continues it.

use crate::reader::Reader;
use crate::TermError;

const END_INSIDE: u8 = 0x00;
const END: u8 = 0x01;
const ESCAPE: u8 = 0x02;

/// Writes whole bytes.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, data: &[u8]) {
    put_data(out, data);
    out.push(END);
}

/// Writes bytes of which the last counts only with its `bits` upper bits, 1 to 7.
pub(crate) fn put_partial(out: &mut Vec<u8>, data: &[u8], last: u8, bits: u8) {
    put_data(out, data);
    put_data(out, &[last & upper(bits)]);
    out.extend_from_slice(&[END_INSIDE, bits]);
}

#[inline]
fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    // a fold, not an early exit, so that it is vectorized
    if data.iter().fold(false, |low, byte| low | (*byte <= ESCAPE)) {
        put_escaped(out, data);
    } else {
        out.extend_from_slice(data);
    }
}

fn put_escaped(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(data.len() * 2);
    for byte in data {
        if *byte <= ESCAPE {
            out.push(ESCAPE);
        }
        out.push(*byte);
    }
}

fn upper(bits: u8) -> u8 {
    !(0xff >> bits)
}

/// Reads one string, appends its data to `out`, and answers how many bits of the last byte count:
/// 8, or fewer. Accepts only what `put` and `put_partial` write.
pub(crate) fn take(key: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<u8, TermError> {
    let start = out.len();
    loop {
        let rest = key.rest();
        let plain = rest.iter().position(|byte| *byte <= ESCAPE).unwrap_or(rest.len());
        out.extend_from_slice(key.take(plain)?);
        match key.u8()? {
            END => return Ok(8),
            END_INSIDE => break,
            _ => match key.u8()? {
                data @ 0..=ESCAPE => out.push(data),
                _ => return Err(key.fail("a byte is escaped that need not be")),
            },
        }
    }
    let bits = key.u8()?;
    match out[start..].last() {
        Some(last) if (1..=7).contains(&bits) && last & !upper(bits) == 0 => Ok(bits),
        _ => Err(key.fail("the last byte has bits that do not count")),
    }
}

/// Reads one string of whole bytes.
pub(crate) fn take_whole(key: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), TermError> {
    match take(key, out)? {
        8 => Ok(()),
        _ => Err(key.fail("a name has a part of a byte")),
    }
}
