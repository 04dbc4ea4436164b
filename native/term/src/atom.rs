//! Atoms, in any of the four external forms; in the key always UTF-8, whose byte order is the
//! order of the code points and so Erlang's.

use crate::decode::Decoder;
use crate::reader::Reader;
use crate::{tag, text, write, TermError};

const CHARS_MAX: usize = 255;

/// Copies the text of an atom whose tag was read.
pub(crate) fn put(etf: &mut Reader<'_>, tag: u8, out: &mut Vec<u8>) -> Result<(), TermError> {
    let length = match tag {
        tag::SMALL_ATOM | tag::SMALL_ATOM_UTF8 => usize::from(etf.u8()?),
        _ => usize::from(etf.u16()?),
    };
    let bytes = etf.take(length)?;
    if bytes.is_ascii() {
        if length > CHARS_MAX {
            return Err(etf.fail("an atom has more than 255 characters"));
        }
        text::put(out, bytes);
        return Ok(());
    }
    match tag {
        tag::ATOM | tag::SMALL_ATOM if length <= CHARS_MAX => {
            let wide: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            text::put(out, wide.as_bytes());
            Ok(())
        }
        tag::ATOM_UTF8 | tag::SMALL_ATOM_UTF8 => match std::str::from_utf8(bytes) {
            Ok(atom) if atom.chars().count() <= CHARS_MAX => {
                text::put(out, bytes);
                Ok(())
            }
            Ok(_) => Err(etf.fail("an atom has more than 255 characters")),
            Err(_) => Err(etf.fail("an atom is not UTF-8")),
        },
        _ => Err(etf.fail("an atom has more than 255 characters")),
    }
}

/// An atom with its tag, where the format asks for one (names of nodes and modules).
pub(crate) fn expect(etf: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), TermError> {
    match etf.u8()? {
        tag @ (tag::ATOM | tag::SMALL_ATOM | tag::ATOM_UTF8 | tag::SMALL_ATOM_UTF8) => put(etf, tag, out),
        _ => Err(etf.fail("an atom was expected")),
    }
}

impl Decoder<'_> {
    /// The text of an atom, to an atom.
    pub(crate) fn atom(&mut self) -> Result<(), TermError> {
        let from = write::atom_begin(&mut self.out);
        text::take_whole(&mut self.key, &mut self.out)?;
        let atom = &self.out[from + 2..];
        if !atom.is_ascii() || atom.len() > CHARS_MAX {
            match std::str::from_utf8(atom) {
                Ok(atom) if atom.chars().count() <= CHARS_MAX => {}
                _ => return Err(self.key.fail("not an atom")),
            }
        }
        write::atom_end(&mut self.out, from);
        Ok(())
    }
}
