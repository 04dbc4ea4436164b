//! Counts (sizes of tuples and maps): up to 247 in one byte, else `f7 + n` and `n` bytes, minimal.

use crate::reader::Reader;
use crate::TermError;

const ONE_BYTE_MAX: u8 = 0xf7;

#[inline]
pub(crate) fn put(out: &mut Vec<u8>, count: u32) {
    match u8::try_from(count) {
        Ok(byte) if byte <= ONE_BYTE_MAX => out.push(byte),
        _ => {
            let bytes = count.to_be_bytes();
            let zeros = count.leading_zeros() as usize / 8;
            out.push(ONE_BYTE_MAX + (4 - zeros) as u8);
            out.extend_from_slice(&bytes[zeros..]);
        }
    }
}

pub(crate) fn take(key: &mut Reader<'_>) -> Result<u32, TermError> {
    let first = key.u8()?;
    if first <= ONE_BYTE_MAX {
        return Ok(u32::from(first));
    }
    let length = usize::from(first - ONE_BYTE_MAX);
    if length > 4 {
        return Err(key.fail("a count has more than four bytes"));
    }
    let bytes = key.take(length)?;
    let count = bytes.iter().fold(0u32, |count, byte| count << 8 | u32::from(*byte));
    if bytes[0] == 0 || count <= u32::from(ONE_BYTE_MAX) {
        return Err(key.fail("a count is longer than it need be"));
    }
    Ok(count)
}
