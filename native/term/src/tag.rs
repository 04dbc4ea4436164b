//! The first bytes of terms: ours in key bytes (`KEY_*`), Erlang's in the External Term Format.
//!
//! The numeric order of the key tags is the order of Erlang's types. They are a file format: no
//! tag may ever change its value or meaning. `0x00` and `0xff` are never tags.

/// Negative integer of 64 bits or more, or float below -2^63.
pub(crate) const KEY_NEG_BIG: u8 = 0x08;
/// `KEY_NEG_BASE - n`: negative number with an integer part of `n` bytes, n in 1..=8.
pub(crate) const KEY_NEG_BASE: u8 = 0x11;
/// Float in (-1, 0).
pub(crate) const KEY_NEG_FRACTION: u8 = 0x11;
/// 0, -0.0 and 0.0.
pub(crate) const KEY_ZERO: u8 = 0x12;
/// Float in (0, 1).
pub(crate) const KEY_POS_FRACTION: u8 = 0x13;
/// `KEY_POS_BASE + n`: positive number with an integer part of `n` bytes, n in 1..=8.
pub(crate) const KEY_POS_BASE: u8 = 0x13;
/// Positive integer of 64 bits or more, or float from 2^63.
pub(crate) const KEY_POS_BIG: u8 = 0x1c;
/// Any float inside a map key, where all floats come after all integers.
pub(crate) const KEY_MAP_KEY_FLOAT: u8 = 0x1f;
pub(crate) const KEY_ATOM: u8 = 0x20;
pub(crate) const KEY_REFERENCE: u8 = 0x28;
pub(crate) const KEY_FUN: u8 = 0x30;
pub(crate) const KEY_EXPORT: u8 = 0x31;
pub(crate) const KEY_PORT: u8 = 0x38;
pub(crate) const KEY_PID: u8 = 0x40;
pub(crate) const KEY_TUPLE: u8 = 0x48;
pub(crate) const KEY_MAP: u8 = 0x50;
pub(crate) const KEY_NIL: u8 = 0x58;
pub(crate) const KEY_LIST: u8 = 0x60;
pub(crate) const KEY_BITSTRING: u8 = 0x68;

/// Ends the key bytes of an upper bound; greater than any first byte of a tie-break.
pub(crate) const ABOVE: u8 = 0xff;

pub(crate) const VERSION: u8 = 131;
pub(crate) const NEW_FLOAT: u8 = 70;
pub(crate) const BIT_BINARY: u8 = 77;
pub(crate) const COMPRESSED: u8 = 80;
pub(crate) const NEW_PID: u8 = 88;
pub(crate) const NEW_PORT: u8 = 89;
pub(crate) const NEWER_REFERENCE: u8 = 90;
pub(crate) const SMALL_INTEGER: u8 = 97;
pub(crate) const INTEGER: u8 = 98;
pub(crate) const FLOAT: u8 = 99;
pub(crate) const ATOM: u8 = 100;
pub(crate) const SMALL_TUPLE: u8 = 104;
pub(crate) const LARGE_TUPLE: u8 = 105;
pub(crate) const NIL: u8 = 106;
pub(crate) const STRING: u8 = 107;
pub(crate) const LIST: u8 = 108;
pub(crate) const BINARY: u8 = 109;
pub(crate) const SMALL_BIG: u8 = 110;
pub(crate) const LARGE_BIG: u8 = 111;
pub(crate) const NEW_FUN: u8 = 112;
pub(crate) const EXPORT: u8 = 113;
pub(crate) const SMALL_ATOM: u8 = 115;
pub(crate) const MAP: u8 = 116;
pub(crate) const ATOM_UTF8: u8 = 118;
pub(crate) const SMALL_ATOM_UTF8: u8 = 119;
pub(crate) const V4_PORT: u8 = 120;

/// The name of a tag that exists in the format but can not be in a key.
pub(crate) fn refused_name(tag: u8) -> Option<&'static str> {
    match tag {
        COMPRESSED => Some("compressed term"),
        82 => Some("ATOM_CACHE_REF"),
        101 => Some("REFERENCE_EXT of OTP before 23"),
        102 => Some("PORT_EXT of OTP before 23"),
        103 => Some("PID_EXT of OTP before 23"),
        114 => Some("NEW_REFERENCE_EXT of OTP before 23"),
        117 => Some("FUN_EXT of OTP before 23"),
        121 => Some("LOCAL_EXT, readable by one running node only"),
        _ => None,
    }
}
