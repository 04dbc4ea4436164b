//! The keys that begin as a term does, as a range of key bytes.
//!
//! Each term's bytes are self-delimiting, so what begins with the same elements, or the same bytes of a
//! string, begins with the same key bytes, and nothing else does.

use crate::encode::Encoder;
use crate::{count, tag, TermError};

pub(crate) fn run(etf: &[u8], arity: Option<u32>) -> Result<(Vec<u8>, Vec<u8>), TermError> {
    let (first, mut key) = (etf.get(1).copied(), Encoder::run(etf)?.out);
    let low = match (first, arity) {
        (Some(tag::BINARY), None) => {
            // without its end every longer one begins with it; itself it is the least, because bits
            // that end inside its last byte come before
            let low = key.clone();
            key.pop();
            low
        }
        (Some(tag::LIST | tag::STRING), None) if matches!(key[..], [tag::KEY_LIST, .., tag::KEY_NIL]) => {
            // its tail
            key.pop();
            key.clone()
        }
        (Some(tag::SMALL_TUPLE | tag::LARGE_TUPLE), Some(arity)) => {
            key = of_arity(&key, size(etf), arity)?;
            key.clone()
        }
        _ => return Err(TermError::Malformed { what: "no such prefix", at: 1 }),
    };
    Ok((low, after(key)))
}

/// The number of elements of a tuple that was encoded.
fn size(etf: &[u8]) -> u32 {
    match *etf {
        [_, tag::SMALL_TUPLE, size, ..] => size.into(),
        [_, _, a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

fn of_arity(key: &[u8], size: u32, arity: u32) -> Result<Vec<u8>, TermError> {
    if arity < size {
        return Err(TermError::Malformed { what: "a tuple begins with no longer one", at: 1 });
    }
    let mut head = vec![tag::KEY_TUPLE];
    count::put(&mut head, size);
    let elements = key.get(head.len()..).unwrap_or_default();
    head.truncate(1);
    count::put(&mut head, arity);
    head.extend_from_slice(elements);
    Ok(head)
}

/// The least bytes that are greater than all that begin with `bytes`, whose first is no 0xff.
fn after(mut bytes: Vec<u8>) -> Vec<u8> {
    while let Some(last) = bytes.pop() {
        if last < 0xff {
            bytes.push(last + 1);
            break;
        }
    }
    bytes
}
