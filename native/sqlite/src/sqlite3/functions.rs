//! SQL functions of ours, the same on every machine, without side effects.
//!
//! Invariant: each is deterministic, so that it may stand in an index, and bounded in what it takes: SQLite
//! cannot stop a function. A connection that has them answers nothing on a scheduler of the VM.

use super::{Session, Sqlite3Error};
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::Error;
use std::sync::atomic::Ordering;

/// Characters that `levenshtein` compares: some 20 ms.
const COMPARED_MAX: usize = 4_096;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

type Function = fn(&Context<'_>) -> Result<Value, Error>;

/// Name, number of arguments, and what it does.
const FUNCTIONS: [(&str, i32, Function); 5] = [
    ("blake3", 1, |context| {
        Ok(bytes(context, 0)?.map_or(Value::Null, |bytes| Value::Blob(blake3::hash(bytes).as_bytes().to_vec())))
    }),
    ("crc32", 1, |context| Ok(bytes(context, 0)?.map_or(Value::Null, |bytes| Value::Integer(crc32(bytes).into())))),
    ("base64", 1, |context| Ok(bytes(context, 0)?.map_or(Value::Null, |bytes| Value::Text(base64(bytes))))),
    ("unbase64", 1, |context| {
        let text = bytes(context, 0)?;
        // what is no base64 has no value
        Ok(text.and_then(unbase64).map_or(Value::Null, Value::Blob))
    }),
    ("levenshtein", 2, |context| {
        let (Some(one), Some(other)) = (text(context, 0)?, text(context, 1)?) else { return Ok(Value::Null) };
        let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
        if one.len().max(other.len()) > COMPARED_MAX {
            return Err(refused("levenshtein compares at most 4096 characters"));
        }
        Ok(Value::Integer(levenshtein(&one, &other)))
    }),
];

impl Session {
    /// Add functions by their names, or all of them. Fails with the first name that is of none.
    pub fn add_functions(&mut self, names: Option<&[String]>) -> Result<Result<(), String>, Sqlite3Error> {
        if let Some(unknown) = names.and_then(|names| names.iter().find(|name| !is_known(name))) {
            return Ok(Err(unknown.clone()));
        }
        let conn = self.conn()?;
        let wanted = |name: &str| names.is_none_or(|names| names.iter().any(|wanted| wanted == name));
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
        for (name, arity, function) in FUNCTIONS.into_iter().filter(|(name, ..)| wanted(name)) {
            let call = move |context: &mut Context<'_>| function(context);
            let added = self.db().create_scalar_function(name, arity, flags, call);
            added.map_err(|error| Sqlite3Error::from(crate::error::classify(error)))?;
            conn.is_cold.store(true, Ordering::Release);
        }
        Ok(Ok(()))
    }
}

fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, ..)| *known == name)
}

fn refused(message: &str) -> Error {
    Error::UserFunctionError(message.into())
}

/// The bytes of text or a blob; a number has none.
fn bytes<'c>(context: &'c Context<'_>, index: usize) -> Result<Option<&'c [u8]>, Error> {
    match context.get_raw(index) {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes)),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(refused("expected text or a blob, got a number")),
    }
}

fn text<'c>(context: &'c Context<'_>, index: usize) -> Result<Option<&'c str>, Error> {
    let text = bytes(context, index)?.map(std::str::from_utf8).transpose();
    text.map_err(|_| refused("expected UTF-8"))
}

/// Of gzip and zlib.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

fn base64(bytes: &[u8]) -> String {
    let quad = |three: &[u8]| {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = move |at: usize| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]);
        let len = three.len();
        (0..4).map(move |at| if at <= len { digit(at) } else { '=' })
    };
    bytes.chunks(3).flat_map(quad).collect()
}

/// With or without padding; nothing else is let in.
fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if digits.len() % 4 == 1 || padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut plain = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for four in digits.chunks(4) {
        let mut bits = 0;
        for byte in four {
            bits = bits << 6 | ALPHABET.iter().position(|digit| digit == byte)?;
        }
        bits <<= 6 * (4 - four.len());
        let three = [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8];
        plain.extend_from_slice(&three[..four.len() - 1]);
    }
    Some(plain)
}

fn levenshtein(one: &[char], other: &[char]) -> i64 {
    let mut above: Vec<i64> = (0..=other.len() as i64).collect();
    for (row, from) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut above[0], row as i64 + 1);
        for (column, to) in other.iter().enumerate() {
            let best = (above[column].min(above[column + 1]) + 1).min(diagonal + i64::from(from != to));
            diagonal = std::mem::replace(&mut above[column + 1], best);
        }
    }
    above[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded.as_bytes()).unwrap(), plain.as_bytes());
            assert_eq!(unbase64(coded.trim_end_matches('=').as_bytes()).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(base64(&all).as_bytes()).unwrap(), all);
        for bad in ["Z", "Zg=", "Zg===", "Z g=", "====", "Zm9v\n", "Zm9vY"] {
            assert_eq!(unbase64(bad.as_bytes()), None, "{bad:?}");
        }
        let distance =
            |one: &str, other: &str| levenshtein(&one.chars().collect::<Vec<_>>(), &other.chars().collect::<Vec<_>>());
        for (one, other, expected) in [("kitten", "sitting", 3), ("", "abc", 3), ("é", "e", 1), ("abc", "abc", 0)] {
            assert_eq!(distance(one, other), expected);
            assert_eq!(distance(other, one), expected);
        }
    }
}
