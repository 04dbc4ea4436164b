//! External Term Format to key bytes, in one pass.
//!
//! Each term writes one self-delimiting run of bytes, so that comparing the runs of a compound
//! term one after the other is comparing their concatenation. Only maps are put in order
//! afterwards. Invariant: two terms that Erlang finds equal (`==`) write the same bytes, and
//! differ in the tie-break only.

use crate::reader::{Reader, Source};
use crate::tie::Ties;
use crate::{atom, tag, text, TermError, DEPTH_MAX, KEY_BYTES_MAX};

pub(crate) struct Encoder<'a> {
    pub(crate) etf: Reader<'a>,
    pub(crate) out: Vec<u8>,
    pub(crate) ties: Ties,
}

impl<'a> Encoder<'a> {
    /// Encodes the one term in `etf`, without its tie-break.
    pub(crate) fn run(etf: &'a [u8]) -> Result<Self, TermError> {
        let out = Vec::with_capacity(etf.len().min(KEY_BYTES_MAX) + 16);
        let mut this = Self { etf: Reader::new(etf, Source::Etf), out, ties: Ties::default() };
        if this.etf.u8()? != tag::VERSION {
            return Err(this.etf.fail("the version byte is not 131"));
        }
        this.term(0, false)?;
        match this.etf.remaining() {
            0 => Ok(this),
            _ => Err(this.etf.fail("bytes follow the term")),
        }
    }

    /// One term. `in_map_key`: integers before floats, no tie between them.
    pub(crate) fn term(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let tag = self.etf.u8()?;
        match tag {
            tag::SMALL_INTEGER => {
                let value = self.etf.u8()?;
                self.small(false, u64::from(value), in_map_key);
            }
            tag::INTEGER => {
                let value = i32::from_be_bytes(self.etf.array()?);
                self.small(value < 0, u64::from(value.unsigned_abs()), in_map_key);
            }
            tag::BINARY => {
                let length = self.etf.u32()? as usize;
                let data = self.data(length)?;
                self.out.push(tag::KEY_BITSTRING);
                text::put(&mut self.out, data);
            }
            tag::ATOM | tag::SMALL_ATOM | tag::ATOM_UTF8 | tag::SMALL_ATOM_UTF8 => {
                self.out.push(tag::KEY_ATOM);
                atom::put(&mut self.etf, tag, &mut self.out)?;
            }
            tag::SMALL_TUPLE => {
                let arity = self.etf.u8()?;
                self.tuple(u32::from(arity), depth, in_map_key)?;
            }
            tag::LARGE_TUPLE => {
                let arity = self.etf.u32()?;
                self.tuple(arity, depth, in_map_key)?;
            }
            tag::NIL => self.out.push(tag::KEY_NIL),
            tag::LIST => return self.list(depth, in_map_key),
            tag::MAP => self.map(depth, in_map_key)?,
            _ => self.rarer_term(tag, depth, in_map_key)?,
        }
        self.check_size()
    }

    fn rarer_term(&mut self, tag: u8, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        match tag {
            tag::NEW_FLOAT => {
                let bits = self.etf.u64()?;
                self.float(f64::from_bits(bits), in_map_key)
            }
            tag::FLOAT => self.text_float(in_map_key),
            tag::SMALL_BIG => {
                let length = usize::from(self.etf.u8()?);
                self.big_integer(length, in_map_key)
            }
            tag::LARGE_BIG => {
                let length = self.etf.u32()? as usize;
                self.big_integer(length, in_map_key)
            }
            tag::STRING => self.string(depth, in_map_key),
            tag::BIT_BINARY => self.bits(),
            tag::NEW_PID => self.pid(),
            tag::NEW_PORT | tag::V4_PORT => self.port(tag),
            tag::NEWER_REFERENCE => self.reference(),
            tag::NEW_FUN => self.fun(depth, in_map_key),
            tag::EXPORT => self.export(),
            _ => match tag::refused_name(tag) {
                Some(what) => Err(TermError::Unsupported { what, tag }),
                None => Err(self.etf.fail("no such tag")),
            },
        }
    }

    pub(crate) fn check_size(&self) -> Result<(), TermError> {
        if self.out.len() > KEY_BYTES_MAX {
            return Err(TermError::TooLarge { bytes_max: KEY_BYTES_MAX });
        }
        Ok(())
    }

    /// The depth of what is inside a term at `depth`.
    pub(crate) fn deeper(depth: usize) -> Result<usize, TermError> {
        if depth >= DEPTH_MAX {
            return Err(TermError::TooDeep { depth_max: DEPTH_MAX });
        }
        Ok(depth + 1)
    }

    /// Data that goes into the key, refused before it is copied when it can not fit.
    fn data(&mut self, length: usize) -> Result<&'a [u8], TermError> {
        let data = self.etf.take(length)?;
        match data.len() <= KEY_BYTES_MAX {
            true => Ok(data),
            false => Err(TermError::TooLarge { bytes_max: KEY_BYTES_MAX }),
        }
    }

    fn bits(&mut self) -> Result<(), TermError> {
        let length = self.etf.u32()? as usize;
        let bits = self.etf.u8()?;
        let data = self.data(length)?;
        self.out.push(tag::KEY_BITSTRING);
        match data.split_last() {
            None if bits == 0 => text::put(&mut self.out, data),
            Some(_) if bits == 8 => text::put(&mut self.out, data),
            Some((last, head)) if (1..8).contains(&bits) => {
                text::put_partial(&mut self.out, head, *last, bits);
            }
            _ => return Err(self.etf.fail("a bitstring has no such last byte")),
        }
        Ok(())
    }

    fn big_integer(&mut self, length: usize, in_map_key: bool) -> Result<(), TermError> {
        let negative = self.etf.u8()? != 0;
        let magnitude = self.data(length)?;
        self.integer(negative, magnitude, in_map_key);
        Ok(())
    }

    /// FLOAT_EXT: 31 bytes of text, padded with zeros.
    fn text_float(&mut self, in_map_key: bool) -> Result<(), TermError> {
        let bytes = self.etf.take(31)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let digits = bytes[..end].iter().all(|byte| b"0123456789+-.eE".contains(byte));
        let text = std::str::from_utf8(&bytes[..end]).ok().filter(|_| digits);
        match text.and_then(|text| text.parse().ok()) {
            Some(value) => self.float(value, in_map_key),
            None => Err(self.etf.fail("a float is not a number")),
        }
    }
}
