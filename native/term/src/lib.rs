//! Erlang terms as bytes whose order is Erlang's term order, and back.
//!
//! `memcmp` of two keys answers what `<` and `>` answer of the two terms; terms that are equal
//! (`==`) but not identical, such as `1` and `1.0`, have distinct, adjacent keys. Input and output
//! are the External Term Format, so this crate knows no BEAM. The bytes are a file format:
//! `docs/formats.md` describes each one, and none may ever change its meaning.

#![forbid(unsafe_code)]

mod atom;
mod container;
mod count;
mod decode;
mod encode;
mod error;
mod fun;
mod ident;
mod number;
mod prefix;
mod reader;
mod tag;
mod text;
mod tie;
mod write;

pub use error::TermError;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// How deep tuples, lists, maps and funs may nest in a key.
pub const DEPTH_MAX: usize = 256;

/// Which edge of a term's equal class a bound is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Not greater than any key of the class, greater than every key before it.
    Below,
    /// Greater than every key of the class, less than every key after it.
    Above,
}

/// The key of a term, from what `erlang:term_to_binary/1,2` of OTP 25 or later made of it
/// (uncompressed, without `local`).
///
/// One pass; costs time and memory proportional to the input. Errors: [`TermError::Malformed`],
/// [`TermError::Unsupported`], [`TermError::TooLarge`], [`TermError::TooDeep`].
///
/// # The order
///
/// number < atom < reference < fun < port < pid < tuple < map < nil < list < bitstring.
///
/// - Numbers by exact value, integers of any size and floats together. Of equal ones the integer
///   comes first, then -0.0, then 0.0; but this is asked only after the whole key compared equal,
///   at the first place where the two differ: `{1, b} > {1.0, a}`.
/// - Atoms by code points. Tuples by size, then elements. Lists by elements, `[]` before any other;
///   an improper tail compares as a term with the other list's tail.
/// - Maps by size, then keys in ascending order, then values in the order of the keys. Inside keys
///   integers come before floats, and -0.0 before 0.0 (as OTP 27 and later have it; to OTP 25
///   and 26 the two are one map key).
/// - Bitstrings bit by bit; a prefix before what continues it.
/// - References by node, creation, number. Ports by node, creation, id. Pids by serial, id, node,
///   creation. Local funs, before external ones, by module, index, old uniq, number of held terms,
///   held terms; external ones by module, name, arity.
///
/// What the external format can not tell: a pid, port or reference of this node belongs to the node's
/// name and creation at the time of `term_to_binary`; after a restart it is another one. Two local
/// funs that differ in the checksum of their module's code only are `=:=` to the BEAM, but only the
/// right one can be called, so they have two adjacent keys. The process that made a fun is
/// forgotten.
pub fn encode(etf: &[u8]) -> Result<Vec<u8>, TermError> {
    let encoder = encode::Encoder::run(etf)?;
    let mut key = encoder.out;
    key.extend_from_slice(encoder.ties.finish());
    if key.len() > KEY_BYTES_MAX {
        return Err(TermError::TooLarge { bytes_max: KEY_BYTES_MAX });
    }
    Ok(key)
}

/// The term of a key, in the External Term Format: `binary_to_term` makes of it a term identical
/// to the one that was encoded.
///
/// Whatever is accepted, `encode` turns into the same key again. Errors: [`TermError::Corrupt`],
/// [`TermError::TooLarge`], [`TermError::TooDeep`].
pub fn decode(key: &[u8]) -> Result<Vec<u8>, TermError> {
    decode::run(key)
}

/// The edge of the class of terms that are equal (`==`) to this one, to be compared with keys; see
/// the table below. Up to one byte longer than a key may be.
///
/// Errors: as [`encode`].
///
/// # Ranges
///
/// [`bound`] makes the edge of a term's whole equal class, and a range is the keys `k` with
/// `low <= k < high`, where
///
/// | wanted | `low` | wanted | `high` |
/// |---|---|---|---|
/// | from `a` | `bound(a, Side::Below)` | up to `b` | `bound(b, Side::Above)` |
/// | after `a` | `bound(a, Side::Above)` | before `b` | `bound(b, Side::Below)` |
///
/// so that "from 1.0" begins with `1`, and "after 1" leaves out `1.0`.
pub fn bound(etf: &[u8], side: Side) -> Result<Vec<u8>, TermError> {
    let mut key = encode::Encoder::run(etf)?.out;
    if side == Side::Above {
        key.push(tag::ABOVE);
    }
    Ok(key)
}

/// The keys that begin as this term does, as a range `low <= k < high`: of a binary, all bitstrings that
/// begin with its bytes; of a list, all lists that begin with elements equal (`==`) to its elements; of a
/// tuple, all tuples of `arity` elements that do so. Tuples of different sizes do not stand together.
///
/// Errors: as [`encode`]; [`TermError::Malformed`] for another term, an empty or improper list, a tuple
/// without an arity or with one below its own, an arity without a tuple.
pub fn prefix(etf: &[u8], arity: Option<u32>) -> Result<(Vec<u8>, Vec<u8>), TermError> {
    prefix::run(etf, arity)
}
