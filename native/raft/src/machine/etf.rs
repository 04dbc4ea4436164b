//! Comparing values where they lie, in the External Term Format: `=:=`, and a pattern with `_` in it.
//!
//! One pass over both, nothing decoded. A value is a peer's bytes: what is cut short, unknown or nested
//! too deep is equal to nothing but the same bytes, and matches `_` only.

use macula_term::DEPTH_MAX;

const VERSION: u8 = 131;
const NEW_FLOAT: u8 = 70;
const BIT_BINARY: u8 = 77;
const NEW_PID: u8 = 88;
const NEW_PORT: u8 = 89;
const NEWER_REFERENCE: u8 = 90;
const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const FLOAT: u8 = 99;
const ATOM: u8 = 100;
const SMALL_TUPLE: u8 = 104;
const LARGE_TUPLE: u8 = 105;
const NIL: u8 = 106;
const STRING: u8 = 107;
const LIST: u8 = 108;
const BINARY: u8 = 109;
const SMALL_BIG: u8 = 110;
const LARGE_BIG: u8 = 111;
const NEW_FUN: u8 = 112;
const EXPORT: u8 = 113;
const SMALL_ATOM: u8 = 115;
const MAP: u8 = 116;
const ATOM_UTF8: u8 = 118;
const SMALL_ATOM_UTF8: u8 = 119;
const V4_PORT: u8 = 120;

/// Whether two values are the same term (`=:=`), however each was written.
pub fn equals(a: &[u8], b: &[u8]) -> bool {
    a == b || whole(a, b, false)
}

/// Whether a value matches a pattern: the atom `_` anywhere in it matches any term, a map matches one that has
/// its keys (which are compared as they are) with values that match, everything else matches itself.
pub fn matches(pattern: &[u8], value: &[u8]) -> bool {
    whole(pattern, value, true)
}

fn whole(pattern: &[u8], value: &[u8], holes: bool) -> bool {
    let compared = || {
        let mut pair = Pair { pattern: Cursor(pattern), value: Cursor(value), holes };
        let versions = (pair.pattern.u8()?, pair.value.u8()?);
        (versions == (VERSION, VERSION)).then_some(())?;
        pair.term(0)?;
        (pair.pattern.0.is_empty() && pair.value.0.is_empty()).then_some(())
    };
    compared().is_some()
}

/// The rest of what is to be read.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

/// What comes next in a list.
enum Cell {
    Byte(u8),
    Term,
    /// The term after the last element.
    Tail,
    End,
}

/// Where one is in a list: bytes of a string, elements of a list still to come.
#[derive(Default)]
struct Cells {
    bytes: usize,
    terms: usize,
    string_read: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<usize> {
        let bytes = self.take(2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn u32(&mut self) -> Option<usize> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The bytes of the next term.
    fn skip(&mut self) -> Option<&'a [u8]> {
        let from = self.0;
        let mut terms: usize = 1;
        while terms > 0 {
            terms = (terms - 1).checked_add(self.skip_head()?)?;
        }
        Some(&from[..from.len() - self.0.len()])
    }

    /// Skips a term but what it holds; answers how many terms that is.
    fn skip_head(&mut self) -> Option<usize> {
        let len = match self.u8()? {
            NIL => 0,
            SMALL_INTEGER => 1,
            INTEGER => 4,
            NEW_FLOAT => 8,
            FLOAT => 31,
            SMALL_ATOM | SMALL_ATOM_UTF8 => usize::from(self.u8()?),
            ATOM | ATOM_UTF8 | STRING => self.u16()?,
            BINARY => self.u32()?,
            SMALL_BIG => usize::from(self.u8()?) + 1,
            BIT_BINARY | LARGE_BIG => self.u32()?.checked_add(1)?,
            NEW_FUN => self.u32()?.checked_sub(4)?,
            NEW_PORT => self.after_atom(8)?,
            NEW_PID | V4_PORT => self.after_atom(12)?,
            NEWER_REFERENCE => {
                let words = self.u16()?;
                self.after_atom(4 + 4 * words)?
            }
            SMALL_TUPLE => return self.u8().map(usize::from),
            LARGE_TUPLE => return self.u32(),
            LIST => return self.u32()?.checked_add(1),
            MAP => return self.u32()?.checked_mul(2),
            EXPORT => return Some(3),
            _ => return None,
        };
        self.take(len).map(|_| 0)
    }

    fn after_atom(&mut self, len: usize) -> Option<usize> {
        match self.peek()? {
            ATOM | ATOM_UTF8 | SMALL_ATOM | SMALL_ATOM_UTF8 => self.skip().map(|_| len),
            _ => None,
        }
    }

    /// The next term is the atom `_`.
    fn is_hole(&self) -> bool {
        matches!(self.0, [SMALL_ATOM | SMALL_ATOM_UTF8, 1, b'_', ..] | [ATOM | ATOM_UTF8, 0, 1, b'_', ..])
    }

    /// The length of the tuple that comes next.
    fn tuple(&mut self) -> Option<usize> {
        match self.u8()? {
            SMALL_TUPLE => self.u8().map(usize::from),
            LARGE_TUPLE => self.u32(),
            _ => None,
        }
    }

    /// The next of a list; a list as the tail of a list is more of the same list.
    fn cell(&mut self, cells: &mut Cells) -> Option<Cell> {
        loop {
            if cells.bytes > 0 {
                cells.bytes -= 1;
                return self.u8().map(Cell::Byte);
            }
            if cells.terms > 0 {
                cells.terms -= 1;
                return Some(Cell::Term);
            }
            if cells.string_read {
                return Some(Cell::End);
            }
            match self.peek()? {
                NIL => return self.u8().map(|_| Cell::End),
                LIST => (_, cells.terms) = (self.u8()?, self.u32()?),
                STRING => (_, cells.bytes, cells.string_read) = (self.u8()?, self.u16()?, true),
                _ => return Some(Cell::Tail),
            }
        }
    }

    /// A byte of a list as the term that comes next.
    fn is_byte(&mut self, byte: u8) -> Option<()> {
        let is = match self.u8()? {
            SMALL_INTEGER => self.u8()? == byte,
            INTEGER => self.u32()? == usize::from(byte),
            _ => false,
        };
        is.then_some(())
    }

    /// Skips the rest of a list.
    fn skip_cells(&mut self, mut cells: Cells) -> Option<()> {
        loop {
            match self.cell(&mut cells)? {
                Cell::Byte(_) => {}
                Cell::Term => drop(self.skip()?),
                Cell::Tail => return self.skip().map(|_| ()),
                Cell::End => return Some(()),
            }
        }
    }
}

/// Both cursors; `None` is "no match", from where on they stand anywhere.
struct Pair<'a> {
    pattern: Cursor<'a>,
    value: Cursor<'a>,
    holes: bool,
}

impl<'a> Pair<'a> {
    fn hole(&mut self) -> Option<bool> {
        let hole = self.holes && self.pattern.is_hole();
        if hole {
            self.pattern.skip()?;
        }
        Some(hole)
    }

    fn term(&mut self, depth: usize) -> Option<()> {
        if self.hole()? {
            return self.value.skip().map(|_| ());
        }
        if depth > DEPTH_MAX {
            return None;
        }
        match (self.pattern.peek()?, self.value.peek()?) {
            (SMALL_TUPLE | LARGE_TUPLE, _) => {
                let (len, value_len) = (self.pattern.tuple()?, self.value.tuple()?);
                (len == value_len).then_some(())?;
                (0..len).try_for_each(|_| self.term(depth + 1))
            }
            (LIST | STRING | NIL, LIST | STRING | NIL) => self.list(depth + 1),
            (MAP, MAP) => self.map(depth + 1),
            _ => {
                let (pattern, value) = (self.pattern.skip()?, self.value.skip()?);
                (pattern == value || canonical(pattern)? == canonical(value)?).then_some(())
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        let (mut cells, mut value_cells) = (Cells::default(), Cells::default());
        loop {
            // the tail `_` matches whatever is left, a part of a list too
            let pattern = self.pattern.cell(&mut cells)?;
            if matches!(pattern, Cell::Tail) && self.hole()? {
                return self.value.skip_cells(value_cells);
            }
            match (pattern, self.value.cell(&mut value_cells)?) {
                (Cell::End, Cell::End) => return Some(()),
                (Cell::Tail, Cell::Tail) => return self.term(depth),
                (Cell::Term, Cell::Term) => self.term(depth)?,
                (Cell::Byte(a), Cell::Byte(b)) => (a == b).then_some(())?,
                (Cell::Byte(byte), Cell::Term) => self.value.is_byte(byte)?,
                (Cell::Term, Cell::Byte(byte)) if !self.hole()? => self.pattern.is_byte(byte)?,
                (Cell::Term, Cell::Byte(_)) => {}
                _ => return None,
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<()> {
        self.pattern.u8()?;
        self.value.u8()?;
        let (len, value_len) = (self.pattern.u32()?, self.value.u32()?);
        if len > value_len || (!self.holes && len != value_len) {
            return None;
        }
        let mut found: Vec<(Vec<u8>, Cursor<'a>)> = Vec::new();
        for _ in 0..value_len {
            let key = canonical(self.value.skip()?)?;
            found.push((key, self.value));
            self.value.skip()?;
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let after = self.value;
        for _ in 0..len {
            let key = canonical(self.pattern.skip()?)?;
            let at = found.binary_search_by(|pair| pair.0.cmp(&key)).ok()?;
            self.value = found[at].1;
            self.term(depth)?;
        }
        self.value = after;
        Some(())
    }
}

/// Bytes that are the same for the same term. Of a term that is too large for a key they are its own; the
/// first byte keeps the two apart.
fn canonical(term: &[u8]) -> Option<Vec<u8>> {
    let etf = [&[VERSION], term].concat();
    match macula_term::encode(&etf) {
        Ok(key) => Some([&[0], key.as_slice()].concat()),
        Err(macula_term::TermError::TooLarge { .. }) => Some([&[1], term].concat()),
        Err(_) => None,
    }
}
