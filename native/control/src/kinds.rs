//! The kinds of error as words of the wire, both ways from one table.
//!
//! Invariant: a word once released keeps its meaning; a new [`Kind`] does not compile until it has
//! one.

use macula_core::Kind;

macro_rules! table {
    ($($kind:ident = $word:literal,)*) => {
        /// The word of a kind.
        pub(crate) fn word(kind: Kind) -> &'static str {
            match kind { $(Kind::$kind => $word,)* }
        }

        /// The kind of a word; `None` for a word that this version does not know.
        pub(crate) fn kind(word: &str) -> Option<Kind> {
            match word { $($word => Some(Kind::$kind),)* _ => None }
        }

        #[cfg(test)]
        const ALL: &[Kind] = &[$(Kind::$kind,)*];
    };
}

table! {
    NotFound = "not_found",
    Exists = "exists",
    Conflict = "conflict",
    Busy = "busy",
    Timeout = "timeout",
    Cancelled = "cancelled",
    Closed = "closed",
    Locked = "locked",
    Unsupported = "unsupported",
    QuotaExceeded = "quota_exceeded",
    TooLarge = "too_large",
    NoQuorum = "no_quorum",
    DiskFull = "disk_full",
    UnknownResult = "unknown_result",
    Poisoned = "poisoned",
    HistoryGone = "history_gone",
    OpenedByOtherSqlite = "opened_by_other_sqlite",
    Invalid = "invalid",
    Corrupt = "corrupt",
    NewerFormat = "newer_format",
    Permission = "permission",
    Io = "io",
    Sql = "sql",
    Unreachable = "unreachable",
    LockHeld = "lock_held",
    Internal = "internal",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_from_its_word() {
        for &one in ALL {
            assert_eq!(kind(word(one)), Some(one));
        }
        assert_eq!(kind("of_a_later_version"), None);
    }
}
