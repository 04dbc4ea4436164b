//! Parameters of a statement, matched completely: each is bound exactly once or nothing runs.

use crate::{SqliteError, Value};
use rusqlite::Statement;

/// Values for the parameters of one statement.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Params {
    /// The statement has none.
    #[default]
    None,
    /// By position, as many as the statement has.
    Positional(Vec<Value>),
    /// By name, with or without its prefix (`:` `@` `$`); without, it fits any prefix.
    Named(Vec<(String, Value)>),
    /// The statement runs once for each of these, by position.
    Many(Vec<Vec<Value>>),
}

impl Params {
    /// Whether there is nothing to bind.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Positional(values) => values.is_empty(),
            Self::Named(values) => values.is_empty(),
            Self::Many(_) => false,
        }
    }

    /// Bind them. [`SqliteError::Invalid`] says which is missing, left over, doubled, or NaN.
    pub(crate) fn bind(&self, statement: &mut Statement<'_>) -> Result<(), SqliteError> {
        match self {
            Self::None => bind_positional(statement, &[]),
            Self::Positional(values) => bind_positional(statement, values),
            Self::Named(values) => bind_named(statement, values),
            // bound one after the other, see `statement`
            Self::Many(_) => Ok(()),
        }
    }
}

/// Bind values by position, as many as the statement has.
pub(crate) fn bind_positional(statement: &mut Statement<'_>, values: &[Value]) -> Result<(), SqliteError> {
    let expected = statement.parameter_count();
    if expected != values.len() {
        let message = format!("wrong number of parameters expected={expected} got={}", values.len());
        return Err(SqliteError::Invalid(message));
    }
    values.iter().enumerate().try_for_each(|(index, value)| bind_one(statement, index + 1, value))
}

fn bind_named(statement: &mut Statement<'_>, values: &[(String, Value)]) -> Result<(), SqliteError> {
    for (index, (name, _)) in values.iter().enumerate() {
        if values[..index].iter().any(|(other, _)| same(other, name) || same(name, other)) {
            return Err(SqliteError::invalid(format!("parameter given twice name={name}")));
        }
    }
    let mut used = vec![false; values.len()];
    for index in 1..=statement.parameter_count() {
        let Some(wanted) = statement.parameter_name(index).map(str::to_owned) else {
            return Err(SqliteError::invalid(format!("parameter has no name, bind by position index={index}")));
        };
        let Some(at) = values.iter().position(|(name, _)| same(name, &wanted)) else {
            return Err(SqliteError::invalid(format!("parameter is missing name={wanted}")));
        };
        used[at] = true;
        bind_one(statement, index, &values[at].1)?;
    }
    match used.iter().position(|used| !used) {
        Some(at) => Err(SqliteError::invalid(format!("the statement has no such parameter name={}", values[at].0))),
        None => Ok(()),
    }
}

/// Whether a given name means the statement's: equal, or equal but for a prefix left out.
fn same(given: &str, wanted: &str) -> bool {
    given == wanted || wanted.strip_prefix([':', '@', '$', '?']) == Some(given)
}

fn bind_one(statement: &mut Statement<'_>, index: usize, value: &Value) -> Result<(), SqliteError> {
    if value.is_nan() {
        return Err(SqliteError::invalid(format!("NaN is not a value in SQLite, use NULL index={index}")));
    }
    statement.raw_bind_parameter(index, value).map_err(crate::error::classify)
}
