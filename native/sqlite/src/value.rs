//! SQLite's five kinds of values, and a result made of them.
//!
//! Invariant: what was stored comes back as the same bytes. Text is bytes because a database file
//! may hold text that is not UTF-8; a number that SQLite cannot hold is refused, never rounded.

use crate::SqliteError;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::ToSql;

/// A value in a row or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A 64-bit float. SQLite has no NaN (it would store `NULL`), so a NaN parameter is refused.
    Real(f64),
    /// Text, as stored; bytes are not checked to be UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Text from a string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self, Self::Real(real) if real.is_nan())
    }
}

/// A value in a row, as long as its statement is not stepped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// SQL `NULL`.
    Null,
    /// An integer.
    Integer(i64),
    /// A float; infinite ones exist.
    Real(f64),
    /// Text, of which nothing says that it is UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Cell<'_> {
    /// Bytes it holds, for the bound on a result: 16 for the value itself and its content.
    pub fn size(self) -> u64 {
        16 + match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len() as u64,
        }
    }

    /// A copy that lasts.
    pub fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Integer(integer) => Value::Integer(integer),
            Self::Real(real) => Value::Real(real),
            Self::Text(bytes) => Value::Text(bytes.to_vec()),
            Self::Blob(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

impl Value {
    /// What it looks like in a row.
    pub fn as_cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Integer(integer) => Cell::Integer(*integer),
            Self::Real(real) => Cell::Real(*real),
            Self::Text(bytes) => Cell::Text(bytes),
            Self::Blob(bytes) => Cell::Blob(bytes),
        }
    }
}

/// Where rows go as they come, in place of [`Rows::rows`].
pub trait Sink: Send + Sync {
    /// The statement begins, perhaps again: what came before is forgotten.
    fn begin(&self);
    /// The next row; lists are made from their end.
    fn row(&self, cells: &mut dyn DoubleEndedIterator<Item = Cell<'_>>);
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

/// Fails with [`SqliteError::Invalid`] above `i64::MAX`: SQLite's integers are signed.
impl TryFrom<u64> for Value {
    type Error = SqliteError;

    fn try_from(integer: u64) -> Result<Self, SqliteError> {
        let too_large = |_| SqliteError::invalid(format!("integer does not fit 64 signed bits, got integer={integer}"));
        i64::try_from(integer).map(Self::Integer).map_err(too_large)
    }
}

impl<'a> From<ValueRef<'a>> for Cell<'a> {
    fn from(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            ValueRef::Text(bytes) => Self::Text(bytes),
            ValueRef::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What a statement returned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// Column names, once; empty for a statement without a result.
    pub columns: Vec<String>,
    /// Rows in order, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
    /// Rows that the statement itself inserted, updated or deleted (not its triggers); the sum for
    /// several statements.
    pub changes: u64,
    /// The row id of the last insert on the writer, 0 for a read.
    pub last_insert_rowid: i64,
    /// How many there are, wherever they went.
    pub count: usize,
    /// Whether rows beyond `rows_max` were left out.
    pub more: bool,
    /// Of the statements that the request has after its first.
    pub also: Vec<Rows>,
}
