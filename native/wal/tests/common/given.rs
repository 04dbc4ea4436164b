//! What reading a log gives, kept, so that two readings can be compared.

use macula_wal::Replayed;

/// What a log gave, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    Record(u64, Vec<u8>),
    Truncated(u64),
}

/// A copy of it.
pub fn given(replayed: Replayed<'_>) -> Given {
    match replayed {
        Replayed::Record(record) => Given::Record(record.sequence, record.payload.to_vec()),
        Replayed::Truncated { from } => Given::Truncated(from),
    }
}
