//! References, ports and pids: identities that belong to one run (creation) of one node.
//!
//! Field by field in the order in which the BEAM compares them, numbers unsigned and big-endian.
//! A reference is a number of up to five words; Erlang takes no notice of zero words above it.

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::{atom, tag, write, TermError};

const REFERENCE_WORDS_MAX: usize = 5;
const REFERENCE_WORDS_USUAL: usize = 3;

impl Encoder<'_> {
    pub(crate) fn reference(&mut self) -> Result<(), TermError> {
        let count = usize::from(self.etf.u16()?);
        if count == 0 || count > REFERENCE_WORDS_MAX {
            return Err(self.etf.fail("a reference has no word, or more than five"));
        }
        self.out.push(tag::KEY_REFERENCE);
        atom::expect(&mut self.etf, &mut self.out)?;
        let creation: [u8; 4] = self.etf.array()?;
        let words = self.etf.take(count * 4)?;
        let length = words.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 4 + 1);
        self.out.extend_from_slice(&creation);
        self.out.push(length as u8);
        for word in words[..length * 4].rchunks(4) {
            self.out.extend_from_slice(word);
        }
        Ok(())
    }

    pub(crate) fn port(&mut self, tag: u8) -> Result<(), TermError> {
        self.out.push(tag::KEY_PORT);
        atom::expect(&mut self.etf, &mut self.out)?;
        let id = match tag {
            tag::V4_PORT => self.etf.u64()?,
            _ => u64::from(self.etf.u32()?),
        };
        let creation: [u8; 4] = self.etf.array()?;
        self.out.extend_from_slice(&creation);
        self.out.extend_from_slice(&id.to_be_bytes());
        Ok(())
    }

    pub(crate) fn pid(&mut self) -> Result<(), TermError> {
        self.out.push(tag::KEY_PID);
        // serial and id come before the node in the order, after it in the external format
        let from = self.out.len();
        self.out.extend_from_slice(&[0; 8]);
        atom::expect(&mut self.etf, &mut self.out)?;
        let id: [u8; 4] = self.etf.array()?;
        let serial: [u8; 4] = self.etf.array()?;
        let creation: [u8; 4] = self.etf.array()?;
        self.out[from..from + 4].copy_from_slice(&serial);
        self.out[from + 4..from + 8].copy_from_slice(&id);
        self.out.extend_from_slice(&creation);
        Ok(())
    }
}

impl Decoder<'_> {
    pub(crate) fn reference(&mut self) -> Result<(), TermError> {
        let from = self.out.len();
        self.out.extend_from_slice(&[tag::NEWER_REFERENCE, 0, 0]);
        self.atom()?;
        let creation: [u8; 4] = self.key.array()?;
        self.out.extend_from_slice(&creation);
        let length = usize::from(self.key.u8()?);
        if length > REFERENCE_WORDS_MAX {
            return Err(self.key.fail("a reference has more than five words"));
        }
        let words = self.key.take(length * 4)?;
        if words.first_chunk() == Some(&[0; 4]) {
            return Err(self.key.fail("a reference is longer than it need be"));
        }
        words.rchunks(4).for_each(|word| self.out.extend_from_slice(word));
        // the two lengths that the BEAM itself makes
        let usual = match length <= REFERENCE_WORDS_USUAL {
            true => REFERENCE_WORDS_USUAL,
            false => REFERENCE_WORDS_MAX,
        };
        self.out.resize(self.out.len() + (usual - length) * 4, 0);
        self.out[from + 2] = usual as u8;
        Ok(())
    }

    pub(crate) fn port(&mut self) -> Result<(), TermError> {
        let from = self.out.len();
        self.out.push(tag::NEW_PORT);
        self.atom()?;
        let creation: [u8; 4] = self.key.array()?;
        let id = self.key.u64()?;
        if id < 1 << 28 {
            self.out.extend_from_slice(&(id as u32).to_be_bytes());
        } else {
            self.out[from] = tag::V4_PORT;
            self.out.extend_from_slice(&id.to_be_bytes());
        }
        self.out.extend_from_slice(&creation);
        Ok(())
    }

    pub(crate) fn pid(&mut self) -> Result<(), TermError> {
        let serial: [u8; 4] = self.key.array()?;
        let id: [u8; 4] = self.key.array()?;
        self.out.push(tag::NEW_PID);
        self.atom()?;
        let creation: [u8; 4] = self.key.array()?;
        self.out.extend_from_slice(&id);
        self.out.extend_from_slice(&serial);
        self.out.extend_from_slice(&creation);
        Ok(())
    }

    /// Some pid, where the format asks for one and the term has none of its own.
    pub(crate) fn no_pid(&mut self) {
        self.out.push(tag::NEW_PID);
        let from = write::atom_begin(&mut self.out);
        self.out.extend_from_slice(b"nonode@nohost");
        write::atom_end(&mut self.out, from);
        self.out.extend_from_slice(&[0; 12]);
    }
}
