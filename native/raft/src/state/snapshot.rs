//! A snapshot: a version of the table that is read while it is sent, or one that arrived.
//!
//! Invariant: taking one copies nothing and holds up no writer; what arrives is a table of its own until it
//! is whole and durable. It travels as pieces of rows in the order of their keys, see docs/formats.md,
//! "Replicated state: snapshots".

use super::database::Database;
use super::room::OWN_BYTES;
use super::rows::{Reading, ROWS};
use crate::RaftError;
use redb::Durability;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Above every key of the machine.
const END: &[u8] = &[0xff];

/// What openraft carries about.
pub(crate) enum SnapshotData {
    /// Rows of this node, as of the snapshot's place.
    Here(Arc<Reading>),
    /// A table that was received and lies beside the one in use.
    Arrived(Arc<Database>),
}

/// Rows, and the last key in them.
type Piece = (Vec<u8>, Vec<u8>);

/// Rows behind a key as one piece of about so many bytes, and the last key in it; `None` when there is none.
pub(crate) fn piece(rows: &Reading, behind: &[u8], bytes_max: usize) -> Result<Option<Piece>, RaftError> {
    let (mut piece, mut last) = (Vec::new(), Vec::new());
    let mut from = behind.to_vec();
    // the next possible key
    from.push(0);
    let from = if behind.is_empty() { &[][..] } else { &from };
    let visit = &mut |key: &[u8], value: &[u8]| {
        piece.extend((key.len() as u32).to_le_bytes());
        piece.extend((value.len() as u32).to_le_bytes());
        piece.extend(key);
        piece.extend(value);
        last = key.to_vec();
        if piece.len() >= bytes_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    rows.look(|rows| Ok(rows.scan(from, END, false, visit)?))?;
    Ok((!piece.is_empty()).then_some((piece, last)))
}

/// A table that is arriving. Dropped, it is left behind and removed by the next one.
pub(crate) struct Arrival {
    db: Database,
    last: Vec<u8>,
}

impl Arrival {
    pub(super) fn new(db: Database) -> Self {
        Self { db, last: Vec::new() }
    }

    /// Take the next piece.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(), RaftError> {
        let (db, last) = (&self.db, &mut self.last);
        // all of it becomes durable at the end
        db.write(Durability::None, |txn| {
            let mut table = txn.open_table(ROWS).map_err(|error| db.said(error))?;
            let mut rest = piece;
            while !rest.is_empty() {
                let (key, value, left) = row(rest).ok_or_else(|| RaftError::corrupt("snapshot", "a torn row"))?;
                if key <= &last[..] && !last.is_empty() {
                    return Err(RaftError::corrupt("snapshot", "a row out of its order"));
                }
                table.insert(key, value).map_err(|error| db.said(error))?;
                *last = key.to_vec();
                rest = left;
            }
            Ok(())
        })
    }

    /// No more comes. What taking it over needs of the disk is taken here, where a full one only has it sent again:
    /// behind this openraft would stop the node for it (seen by the simulation, seed 20461).
    pub(crate) fn end(self) -> Result<SnapshotData, RaftError> {
        self.db.blocks().reserve(OWN_BYTES)?;
        Ok(SnapshotData::Arrived(Arc::new(self.db)))
    }
}

fn row(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_len, rest) = bytes.split_first_chunk::<4>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    Some((key, value, rest))
}
