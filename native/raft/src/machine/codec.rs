//! Messages as one byte of version and what postcard makes of the rest.
//!
//! Invariant: whatever bytes come, decoding answers; what nests is flat on the wire (`condition`), so
//! that no input can use up the stack.

use super::MachineError;
use serde::{de::DeserializeOwned, Serialize};

/// The bytes of a message.
pub(super) fn encode<T: Serialize>(version: u8, message: &T) -> Vec<u8> {
    // a vector takes all that is written to it, and no message of ours has a length that is not known
    postcard::to_extend(message, vec![version]).unwrap_or_default()
}

/// The message of exactly these bytes.
pub(super) fn decode<T: DeserializeOwned>(what: &'static str, known: u8, bytes: &[u8]) -> Result<T, MachineError> {
    let malformed = |reason: &str| MachineError::malformed(what, reason);
    match bytes.split_first() {
        None => Err(malformed("it is empty")),
        Some((0, _)) => Err(malformed("there is no version 0")),
        Some((found, _)) if *found > known => Err(MachineError::NewerVersion { what, found: *found, known }),
        Some((_, rest)) => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(malformed("bytes follow it")),
            Err(error) => Err(malformed(&error.to_string())),
        },
    }
}

/// Byte strings in one piece; serde would take them byte by byte.
pub(super) mod bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};
    use std::fmt;

    pub fn serialize<T: AsRef<[u8]>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes.as_ref())
    }

    pub fn deserialize<'de, T: From<Vec<u8>>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_byte_buf(Bytes).map(T::from)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    /// The same for what may be missing.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize)]
        struct Ref<'a>(#[serde(with = "super")] &'a [u8]);

        #[derive(Deserialize)]
        struct Owned(#[serde(with = "super")] Vec<u8>);

        pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
            bytes.as_deref().map(Ref).serialize(serializer)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
            Ok(Option::<Owned>::deserialize(deserializer)?.map(|owned| owned.0))
        }
    }
}
