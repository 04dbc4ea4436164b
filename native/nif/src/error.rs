//! The one map from kinds of error to terms.
//!
//! An expected outcome is `{error, atom}`; what a person must read is
//! `{error, {kind, message, hint | nil}}`, of which Elixir makes a `%MaculaStorage.Error{}`.

use crate::atoms;
use macula_core::{Details, Kind, Kinded};
use rustler::{Atom, Encoder, Env, Term};

/// An error on its way to the BEAM.
#[derive(Debug)]
pub enum Failure {
    /// Of a kind that Elixir's callers see.
    Of {
        /// What the caller can do.
        kind: Kind,
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// What a program may tell apart.
        details: Option<Box<Details>>,
    },
    /// The engine is not open yet: Elixir opens it, on a thread of ours, and asks again.
    NotOpen,
}

impl Failure {
    /// A defect of ours, with what is known of it.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Of { kind: Kind::Internal, message: message.into(), hint: None, details: None }
    }

    /// Input that Elixir should have refused.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Of { kind: Kind::Invalid, message: message.into(), hint: None, details: None }
    }

    /// An expected outcome.
    /// With what a person can do about it.
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Of { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    pub fn outcome(kind: Kind) -> Self {
        Self::Of { kind, message: String::new(), hint: None, details: None }
    }

    /// Whether it is of this kind.
    pub fn is(&self, wanted: Kind) -> bool {
        matches!(self, Self::Of { kind, .. } if *kind == wanted)
    }

    /// See [`Failure::NotOpen`].
    pub fn not_open() -> Self {
        Self::NotOpen
    }
}

impl Failure {
    /// Where no function of ours reads it first: the atom of an outcome, or a `%MaculaStorage.Error{}`.
    pub fn reason<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Self::Of { kind, message, hint, details } = self else { return atoms::not_open().encode(env) };
        let (kind, is_outcome) = atom(*kind);
        if is_outcome {
            return kind.encode(env);
        }
        let fields: [(Atom, Term); 8] = [
            (atoms::struct_(), atoms::error_module().encode(env)),
            (atoms::exception(), true.encode(env)),
            (atoms::kind(), kind.encode(env)),
            (atoms::op(), atoms::subscribe().encode(env)),
            (atoms::app(), atoms::nil().encode(env)),
            (atoms::message(), message.encode(env)),
            (atoms::hint(), hint.encode(env)),
            (atoms::details(), details.as_deref().map(Told).encode(env)),
        ];
        Term::map_from_pairs(env, &fields).unwrap_or_else(|_| kind.encode(env))
    }
}

impl<E: Kinded> From<E> for Failure {
    fn from(error: E) -> Self {
        let details = error.details().map(Box::new);
        Self::Of { kind: error.kind(), message: error.to_string(), hint: error.hint(), details }
    }
}

impl Encoder for Failure {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let (kind, message, hint, details) = match self {
            Self::NotOpen => return (atoms::error(), atoms::not_open()).encode(env),
            Self::Of { kind, message, hint, details } => (*kind, message, hint, details),
        };
        match (atom(kind), details) {
            ((atom, true), _) => (atoms::error(), atom).encode(env),
            ((atom, false), None) => (atoms::error(), (atom, message, hint)).encode(env),
            ((atom, false), Some(details)) => (atoms::error(), (atom, message, hint, Told(details))).encode(env),
        }
    }
}

/// Details as a map.
pub struct Told<'d>(pub &'d Details);

impl Encoder for Told<'_> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Details { reason, code, message, offset, rule } = self.0;
        let rule = rule.as_ref().and_then(|(kind, names)| {
            let fields = [(atoms::kind(), word(kind).encode(env)), (atoms::names(), names.encode(env))];
            Term::map_from_pairs(env, &fields).ok()
        });
        let fields = [
            (atoms::reason(), word(reason).encode(env)),
            (atoms::code(), code.encode(env)),
            (atoms::message(), message.encode(env)),
            (atoms::offset(), offset.encode(env)),
            (atoms::constraint(), rule.encode(env)),
        ];
        Term::map_from_pairs(env, &fields).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}

macro_rules! words {
    ($($name:ident),* $(,)?) => {
        /// The atom of an engine's word.
        fn word(word: &str) -> Atom {
            match word {
                $(stringify!($name) => atoms::$name(),)*
                _ => atoms::error(),
            }
        }
    };
}

words! {
    internal, perm, abort, busy, locked, nomem, readonly, interrupt, ioerr, corrupt, notfound, full, cantopen,
    protocol, schema, toobig, constraint, mismatch, misuse, nolfs, auth, range, notadb,
    unique, primary_key, foreign_key, not_null, check, data_type, trigger, other,
}

/// The atom of a kind, and whether it is an expected outcome.
fn atom(kind: Kind) -> (Atom, bool) {
    match kind {
        Kind::NotFound => (atoms::not_found(), true),
        Kind::Exists => (atoms::exists(), true),
        Kind::Conflict => (atoms::conflict(), true),
        Kind::Busy => (atoms::busy(), true),
        Kind::Timeout => (atoms::timeout(), true),
        Kind::Cancelled => (atoms::cancelled(), true),
        Kind::Closed => (atoms::closed(), true),
        Kind::Locked => (atoms::locked(), true),
        Kind::Unsupported => (atoms::unsupported(), true),
        Kind::QuotaExceeded => (atoms::quota_exceeded(), true),
        Kind::TooLarge => (atoms::too_large(), true),
        Kind::NoQuorum => (atoms::no_quorum(), true),
        Kind::DiskFull => (atoms::disk_full(), true),
        Kind::UnknownResult => (atoms::unknown_result(), true),
        Kind::Poisoned => (atoms::poisoned(), true),
        Kind::HistoryGone => (atoms::history_gone(), true),
        Kind::OpenedByOtherSqlite => (atoms::opened_by_other_sqlite(), true),
        Kind::Invalid => (atoms::invalid(), false),
        Kind::Corrupt => (atoms::corrupt(), false),
        Kind::NewerFormat => (atoms::newer_format(), false),
        Kind::Permission => (atoms::permission(), false),
        Kind::Io => (atoms::io(), false),
        Kind::Sql => (atoms::sql(), false),
        Kind::Unreachable => (atoms::unreachable(), false),
        Kind::LockHeld => (atoms::lock_held(), false),
        Kind::Internal => (atoms::internal(), false),
    }
}

/// `{ok, value}` or the failure's term.
pub fn result<'a, T: Encoder, E: Into<Failure>>(env: Env<'a>, result: Result<T, E>) -> Term<'a> {
    match result {
        Ok(value) => (atoms::ok(), value).encode(env),
        Err(error) => error.into().encode(env),
    }
}

/// `ok` or the failure's term.
pub fn done<'a, E: Into<Failure>>(env: Env<'a>, result: Result<(), E>) -> Term<'a> {
    match result {
        Ok(()) => atoms::ok().encode(env),
        Err(error) => error.into().encode(env),
    }
}
