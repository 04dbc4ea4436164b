//! What members ask of each other. Formats: docs/formats.md, "Replicated files".
//!
//! Invariant: a request of another version, or longer than [`MESSAGE_LEN_MAX`], is refused before anything is
//! done; what is decoded is checked ([`Record::is_sound`], [`Name::of_key`]) before it is used.

use crate::carrier::MESSAGE_LEN_MAX;
use crate::placement::Card;
use crate::{ranges, ContentId, Floor, MeshError, Name, Record};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
/// First byte of an answer.
const IS_BYTES: u8 = 0;
const IS_ANSWER: u8 = VERSION;

/// Blocks in one answer.
pub const BLOCKS_MAX: u32 = 4;
/// Bytes of blocks in one message.
pub const PIECE_LEN: usize = BLOCKS_MAX as usize * crate::BLOCK_LEN;
/// Bytes of a manifest in one answer.
pub const MANIFEST_PART: usize = 1 << 20;
/// Longest content that goes with its record: one block.
pub const INLINE_MAX: u64 = crate::BLOCK_LEN as u64;
/// Bytes of changes in one request, but for the first.
pub const PUSH_BYTES_MAX: usize = 1 << 20;
/// Changes in one request.
pub const PUSH_MAX: usize = 256;

/// Something that is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? I am this one.
    Greet(Card),
    /// Take these.
    Push(Vec<Pushed>),
    /// What is different?
    Compare(ranges::Question),
    /// What do you know of these?
    Records(Vec<Vec<u8>>),
    /// The blocks of a content that you have under this key: its manifest from this byte.
    Manifest(Of, u64),
    /// Some blocks of it, [`BLOCKS_MAX`] at most.
    Blocks(Of, u64, u32),
    /// The same, for a caller who reads: they are not put off.
    Read(Of, u64, u32),
    /// Of a content that is being written: it will be wanted here. The bytes of a piece are behind the request.
    Ahead(Ahead),
    /// What have you seen of each replica?
    Seen,
}

/// What is told of a content that is being written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ahead {
    /// Some blocks in a row.
    Piece {
        /// Of which file.
        key: Vec<u8>,
        /// Of which content; drawn by who writes it.
        token: u64,
        /// Where the first begins, bytes.
        offset: u64,
    },
    /// It will be none.
    End {
        /// Of which content.
        token: u64,
    },
}

/// A content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Of {
    /// Its key.
    pub key: Vec<u8>,
    /// The content.
    pub id: ContentId,
}

/// What a member says of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// Its key.
    pub key: Vec<u8>,
    /// What is known of it.
    pub record: Record,
    /// The content of the version that it shows, when that is short and the other shall have it.
    #[serde(with = "serde_bytes_opt")]
    pub content: Option<Bytes>,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// I am this one.
    Greeted(Card),
    /// What I know now of each, where that is not what you said.
    Took(Vec<Option<Record>>),
    /// What is different.
    Compared(ranges::Answer),
    /// What I know of each.
    Records(Vec<Option<Record>>),
    /// I do not have that.
    NotHere,
    /// It could not be done; why.
    Refused(String),
    /// Ask again after so many milliseconds.
    Later(u32),
    /// This, and all of it is in what I answer from now on.
    Seen(Floor),
}

/// An answer on its way.
#[derive(Debug)]
pub enum Reply {
    /// Words.
    Answer(Answer),
    /// Bytes of a manifest or of blocks, behind one byte that says so: made in one piece by who reads them.
    Bytes(Vec<u8>),
}

impl Request {
    /// As it is sent.
    ///
    /// # Errors
    /// [`MeshError::Internal`]: it does not fit, a defect.
    pub fn encode(&self) -> Result<Bytes, MeshError> {
        encode(VERSION, self).map(Bytes::from)
    }

    /// Of what came, and the bytes behind it.
    ///
    /// # Errors
    /// [`MeshError::Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<(Self, Bytes), MeshError> {
        refuse_long(bytes)?;
        let (request, rest): (Self, usize) = decode_first(VERSION, bytes)?;
        let behind = bytes.slice(bytes.len() - rest..);
        match &request {
            Self::Push(changes) if !changes.iter().all(|change| change.record.is_sound()) => {
                Err(MeshError::Malformed("a record that cannot be".into()))
            }
            Self::Ahead(Ahead::Piece { .. }) if behind.len() <= PIECE_LEN => Ok((request, behind)),
            _ if behind.is_empty() => Ok((request, behind)),
            _ => Err(MeshError::Malformed("bytes behind a request".into())),
        }
    }
}

impl Reply {
    /// Room for bytes, which are put behind what it has.
    pub fn bytes(len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + len);
        bytes.push(IS_BYTES);
        bytes
    }

    /// As it is sent.
    pub fn encode(self) -> Vec<u8> {
        let answer = match self {
            Self::Bytes(bytes) => return bytes,
            Self::Answer(answer) => answer,
        };
        let refused = |error: MeshError| vec![IS_ANSWER].into_iter().chain(refusal(&error)).collect();
        encode(IS_ANSWER, &answer).unwrap_or_else(refused)
    }
}

fn refusal(error: &MeshError) -> Vec<u8> {
    postcard::to_stdvec(&Answer::Refused(error.to_string())).unwrap_or_default()
}

/// An answer that came: words, or bytes.
///
/// # Errors
/// [`MeshError::Malformed`].
pub fn answer(bytes: Bytes) -> Result<Result<Answer, Bytes>, MeshError> {
    refuse_long(&bytes)?;
    if bytes.first() == Some(&IS_BYTES) {
        return Ok(Err(bytes.slice(1..)));
    }
    let answer: Answer = decode(IS_ANSWER, &bytes)?;
    let records = match &answer {
        Answer::Took(records) | Answer::Records(records) => &records[..],
        _ => &[],
    };
    match records.iter().flatten().all(Record::is_sound) {
        true => Ok(Ok(answer)),
        false => Err(MeshError::Malformed("a record that cannot be".into())),
    }
}

/// The place of [`Request::Compare`] among the requests, and of [`Answer::Compared`] among the answers.
const COMPARISON: u8 = 2;
/// Those of [`Request::Push`] and [`Answer::Took`], of [`Request::Records`] and [`Answer::Records`]: each begins with
/// how many there are.
const CHANGES: u8 = 1;
const RECORDS: u8 = 3;

/// What came may unfold to more than it took on its way.
fn refuse_long(bytes: &[u8]) -> Result<(), MeshError> {
    let refuse = |what: String| Err(MeshError::Malformed(format!("a message of files: {what}")));
    match bytes {
        _ if bytes.len() > MESSAGE_LEN_MAX => refuse(format!("{} bytes", bytes.len())),
        [VERSION, COMPARISON, rest @ ..] if rest.len() > ranges::MESSAGE_BYTES_MAX => {
            refuse(format!("a comparison of {} bytes", rest.len()))
        }
        [VERSION, CHANGES | RECORDS, rest @ ..] => match postcard::take_from_bytes::<u64>(rest) {
            Ok((many, _)) if many > PUSH_MAX as u64 => refuse(format!("{many} records")),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// As many of these as fit into an answer, in their places; nothing of the others: a later comparison finds them.
pub fn fitting(records: Vec<Option<Record>>) -> Vec<Option<Record>> {
    let mut bytes = 0;
    let mut fits = |record: &Record| {
        bytes += record.len_max();
        bytes <= PUSH_BYTES_MAX || bytes == record.len_max()
    };
    records.into_iter().map(|record| record.filter(&mut fits)).collect()
}

/// The name of a key that came from elsewhere.
///
/// # Errors
/// [`MeshError::Malformed`].
pub fn name_of(key: &[u8]) -> Result<Name, MeshError> {
    Name::of_key(key)
}

fn encode(version: u8, value: &impl Serialize) -> Result<Vec<u8>, MeshError> {
    let bytes = postcard::to_extend(value, vec![version]).map_err(|error| MeshError::Internal(error.to_string()))?;
    match bytes.len() {
        len if len > MESSAGE_LEN_MAX => Err(MeshError::Internal(format!("a message of {len} bytes"))),
        _ => Ok(bytes),
    }
}

fn decode<T: for<'a> Deserialize<'a>>(version: u8, bytes: &[u8]) -> Result<T, MeshError> {
    Ok(decode_first(version, bytes)?.0)
}

/// The same, and how many bytes are behind it.
fn decode_first<T: for<'a> Deserialize<'a>>(version: u8, bytes: &[u8]) -> Result<(T, usize), MeshError> {
    let malformed = |what: String| MeshError::Malformed(format!("a message of files: {what}"));
    match bytes.split_first() {
        Some((found, value)) if *found == version => match postcard::take_from_bytes(value) {
            Ok((value, rest)) => Ok((value, rest.len())),
            Err(error) => Err(malformed(error.to_string())),
        },
        found => Err(malformed(format!("version={:?}", found.map(|(found, _)| found)))),
    }
}

/// Bytes as one piece, where serde would take them one by one.
mod serde_bytes_opt {
    use bytes::Bytes;
    use serde::de::{Deserializer, Visitor};
    use serde::{Deserialize, Serialize, Serializer};

    struct Piece(Bytes);

    impl Serialize for Piece {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Piece {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Pieces;
            impl Visitor<'_> for Pieces {
                type Value = Piece;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Piece, E> {
                    Ok(Piece(Bytes::copy_from_slice(bytes)))
                }
            }
            deserializer.deserialize_bytes(Pieces)
        }
    }

    pub fn serialize<S: Serializer>(content: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        content.clone().map(Piece).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<Piece>::deserialize(deserializer)?.map(|piece| piece.0))
    }
}
