//! Funs: local ones (with what they hold) and external ones (`fun m:f/a`).
//!
//! The BEAM compares a local fun by module, index, old uniq and what it holds. Arity, code
//! checksum and old index are needed to make it again, so they stand in the tie-break. The pid
//! of the process that made it is no part of its identity (`=:=`) and is left out.

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::{atom, count, tag, write, TermError};

/// Begins a fun's part of the tie-break, so that this can never begin with 0xff.
const TIE_MARK: u8 = 1;
const SIGN: u32 = 1 << 31;

impl Encoder<'_> {
    pub(crate) fn export(&mut self) -> Result<(), TermError> {
        self.out.push(tag::KEY_EXPORT);
        atom::expect(&mut self.etf, &mut self.out)?;
        atom::expect(&mut self.etf, &mut self.out)?;
        let arity = self.small_integer()?;
        match u8::try_from(arity) {
            Ok(arity) => self.out.push(arity),
            Err(_) => return Err(self.etf.fail("a fun has more than 255 arguments")),
        }
        Ok(())
    }

    /// An integer of at most 32 bits with its tag.
    fn small_integer(&mut self) -> Result<i32, TermError> {
        match self.etf.u8()? {
            tag::SMALL_INTEGER => Ok(i32::from(self.etf.u8()?)),
            tag::INTEGER => Ok(i32::from_be_bytes(self.etf.array()?)),
            _ => Err(self.etf.fail("a small integer was expected")),
        }
    }

    pub(crate) fn fun(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        let from = self.etf.at();
        let size = self.etf.u32()? as usize;
        let arity = self.etf.u8()?;
        let uniq: [u8; 16] = self.etf.array()?;
        let index = self.etf.u32()?;
        let held = self.etf.u32()?;
        self.out.push(tag::KEY_FUN);
        atom::expect(&mut self.etf, &mut self.out)?;
        let old_index = self.small_integer()?;
        let old_uniq = self.small_integer()?;
        self.skip_pid()?;
        self.out.extend_from_slice(&(index ^ SIGN).to_be_bytes());
        self.out.extend_from_slice(&(old_uniq as u32 ^ SIGN).to_be_bytes());
        count::put(&mut self.out, held);
        for byte in [TIE_MARK, arity].iter().chain(&uniq).chain(&old_index.to_be_bytes()) {
            self.ties.push(*byte);
        }
        for _ in 0..held {
            self.term(depth, in_map_key)?;
        }
        if self.etf.at() - from != size {
            return Err(self.etf.fail("a fun has another size than it says"));
        }
        Ok(())
    }

    fn skip_pid(&mut self) -> Result<(), TermError> {
        if self.etf.u8()? != tag::NEW_PID {
            return Err(self.etf.fail("a pid was expected"));
        }
        let end = self.out.len();
        self.pid()?;
        self.out.truncate(end);
        Ok(())
    }
}

impl Decoder<'_> {
    pub(crate) fn export(&mut self) -> Result<(), TermError> {
        self.out.push(tag::EXPORT);
        self.atom()?;
        self.atom()?;
        let arity = self.key.u8()?;
        write::small(&mut self.out, false, u64::from(arity));
        Ok(())
    }

    pub(crate) fn fun(&mut self, depth: usize, in_map_key: bool) -> Result<(), TermError> {
        let depth = Self::deeper(depth)?;
        let tie: [u8; 22] = std::array::from_fn(|_| self.ties.next());
        self.needs_ties = true;
        if self.ties.is_known() && tie[0] != TIE_MARK {
            return Err(self.key.fail("a fun without its tie-break"));
        }
        self.out.push(tag::NEW_FUN);
        let from = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&tie[1..18]);
        let held_from = self.out.len();
        self.out.extend_from_slice(&[0; 8]);
        self.atom()?;
        let index = self.key.u32()? ^ SIGN;
        let old_uniq = self.key.u32()? ^ SIGN;
        let held = count::take(&mut self.key)?;
        self.out[held_from..held_from + 4].copy_from_slice(&index.to_be_bytes());
        self.out[held_from + 4..held_from + 8].copy_from_slice(&held.to_be_bytes());
        let [.., a, b, c, d] = tie;
        write::integer(&mut self.out, i32::from_be_bytes([a, b, c, d]));
        write::integer(&mut self.out, old_uniq as i32);
        self.no_pid();
        for _ in 0..held {
            self.term(depth, in_map_key)?;
        }
        // below the key's limit times the few bytes that a byte can become
        let size = (self.out.len() - from) as u32;
        self.out[from..from + 4].copy_from_slice(&size.to_be_bytes());
        Ok(())
    }
}
