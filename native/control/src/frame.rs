//! Frames: six bytes of header, then a body of JSON (`docs/formats.md` says each byte).
//!
//! Invariant: memory grows with the bytes that have arrived, never with the length that a header
//! announces; the version is judged before anything else of a frame, since the rest may differ.

use crate::ControlError;
use serde::de::DeserializeOwned;
use serde::Serialize;

/// The version of the protocol that this code speaks.
pub(crate) const VERSION: u8 = 1;
/// Bytes before the body: length, version, type.
pub(crate) const HEADER_LEN: usize = 6;
/// Longest body of every type but [`Type::Reply`], bytes.
pub(crate) const BODY_LEN_MAX: usize = 64 << 10;
/// Longest body of a reply, bytes.
pub(crate) const REPLY_LEN_MAX: usize = 16 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Client: a command.
    Request = 1,
    /// Server: the command runs, and how far it is.
    Progress = 2,
    /// Server: the outcome; nothing follows.
    Reply = 3,
    /// Client: stop the command.
    Cancel = 4,
    /// Server: the first frame of a connection.
    Hello = 5,
}

impl Type {
    fn of(byte: u8) -> Option<Self> {
        [Self::Request, Self::Progress, Self::Reply, Self::Cancel, Self::Hello].into_iter().find(|t| *t as u8 == byte)
    }

    fn body_len_max(self) -> usize {
        match self {
            Self::Reply => REPLY_LEN_MAX,
            Self::Request | Self::Progress | Self::Cancel | Self::Hello => BODY_LEN_MAX,
        }
    }
}

/// A frame that arrived whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub of: Type,
    pub body: Vec<u8>,
}

impl Frame {
    /// The body, as what its type holds.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        serde_json::from_slice(&self.body).map_err(|error| ControlError::Malformed(error.to_string()))
    }
}

/// The bytes of a frame.
///
/// # Errors
/// [`ControlError::Inexpressible`] when it is too long, or a path in it is not UTF-8.
pub(crate) fn encode(of: Type, body: &impl Serialize) -> Result<Vec<u8>, ControlError> {
    let mut bytes = vec![0; HEADER_LEN];
    serde_json::to_writer(&mut bytes, body).map_err(|error| ControlError::Inexpressible(error.to_string()))?;
    let len = bytes.len() - HEADER_LEN;
    if len > of.body_len_max() {
        return Err(ControlError::Inexpressible(format!("len={len}, len_max={}", of.body_len_max())));
    }
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[4] = VERSION;
    bytes[5] = of as u8;
    Ok(bytes)
}

/// Makes frames of bytes as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Assembler(Vec<u8>);

impl Assembler {
    /// Add bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next frame, when all of it has arrived. `accepted` are the types that the other side may
    /// send now: a length is believed only of them.
    pub fn next(&mut self, accepted: &[Type]) -> Result<Option<Frame>, ControlError> {
        let Some(&theirs) = self.0.get(4) else { return Ok(None) };
        if theirs != VERSION {
            return Err(ControlError::Version { theirs });
        }
        let Some(&byte) = self.0.get(5) else { return Ok(None) };
        let of = Type::of(byte).filter(|of| accepted.contains(of));
        let of = of.ok_or_else(|| ControlError::Malformed(format!("unexpected type={byte}")))?;
        let len = u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]) as usize;
        if len > of.body_len_max() {
            return Err(ControlError::TooLong { len: len as u64, len_max: of.body_len_max() as u64 });
        }
        let end = HEADER_LEN + len;
        if self.0.len() < end {
            return Ok(None);
        }
        let rest = self.0.split_off(end);
        let mut body = std::mem::replace(&mut self.0, rest);
        body.drain(..HEADER_LEN);
        Ok(Some(Frame { of, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    const CLIENT: &[Type] = &[Type::Request, Type::Cancel];

    #[test]
    fn a_frame_is_these_bytes() {
        let bytes = encode(Type::Request, &Command::Ping).expect("short");
        assert_eq!(bytes, b"\x06\0\0\0\x01\x01\"ping\"");
    }

    #[test]
    fn frames_come_whole_however_they_arrive() {
        let mut bytes = encode(Type::Request, &Command::Ping).expect("short");
        bytes.extend(encode(Type::Cancel, &()).expect("short"));
        let mut frames = Assembler::default();
        let mut types = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            while let Some(frame) = frames.next(CLIENT).expect("good") {
                types.push(frame.of);
            }
        }
        assert_eq!(types, CLIENT);
    }

    #[test]
    fn every_single_byte_header_fault_is_named() {
        let good = encode(Type::Request, &Command::Ping).expect("short");
        for (at, byte) in (0..HEADER_LEN).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let mut frames = Assembler::default();
            frames.push(&bytes);
            match (at, frames.next(CLIENT)) {
                (0 | 1, Ok(_)) => {}
                (2, Ok(_)) if byte == 0 => {}
                (2 | 3, Err(ControlError::TooLong { .. })) => assert_ne!(byte, 0),
                (3, Ok(_)) => assert_eq!(byte, 0),
                (4, Err(ControlError::Version { theirs })) => assert_eq!(theirs, byte),
                (4, Ok(Some(_))) => assert_eq!(byte, VERSION),
                (5, Ok(Some(_))) => assert!([1, 4].contains(&byte)),
                (5, Err(ControlError::Malformed(_))) => assert!(![1, 4].contains(&byte)),
                (2, Ok(None)) => assert_eq!(byte, 1, "64 KiB and what the first bytes say"),
                (at, other) => panic!("at={at} byte={byte}: {other:?}"),
            }
            assert!(frames.0.capacity() < 1024, "the announced length was believed");
        }
    }
}
