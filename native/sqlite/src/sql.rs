//! The first word of a statement: enough to send it to the right thread and to refuse, with a useful
//! message, what must never reach a shared connection. What a statement really does is decided by
//! SQLite (`sqlite3_stmt_readonly`, the authorizer), not here.

use crate::{Request, SqliteError};

/// The first keyword, upper case; `None` when there is none.
pub(crate) fn first_keyword(sql: &str) -> Option<String> {
    let mut rest = sql;
    loop {
        // all that the cache of statements takes off, too: by it our own would be found
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n')?.1;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/")?.1;
        } else {
            break;
        }
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_ascii_uppercase())
}

/// Whether to try a reader first.
pub(crate) fn looks_read_only(sql: &str, keyword: Option<&str>) -> bool {
    match keyword {
        Some("PRAGMA") => !WRITING_PRAGMAS.iter().any(|name| contains(sql, name)),
        keyword => only_reads(keyword) || keyword == Some("WITH"),
    }
}

/// Whether it may write, as far as the text tells: in doubt it may.
pub(crate) fn may_write(sql: &str) -> bool {
    sql.contains(';') || !only_reads(first_keyword(sql).as_deref())
}

/// Whether a statement that begins so cannot write.
fn only_reads(keyword: Option<&str>) -> bool {
    matches!(keyword, Some("SELECT" | "VALUES" | "EXPLAIN"))
}

/// Pragmas that write while SQLite calls them read-only, by name: another that only mentions the word
/// loses nothing on the writer.
const WRITING_PRAGMAS: [&str; 2] = ["optimize", "incremental_vacuum"];

fn contains(sql: &str, word: &str) -> bool {
    sql.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Refuse what a shared connection must not run: transaction control above all, since our own
/// `BEGIN` and `COMMIT` lie in the same statement cache, past the authorizer.
fn refuse(sql: &str, keyword: Option<&str>) -> Result<(), SqliteError> {
    if sql.contains('\0') {
        return Err(SqliteError::invalid("SQL text holds a NUL byte"));
    }
    let hint = match keyword {
        Some("BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE") => {
            return Err(SqliteError::invalid(format!(
                "transactions are not begun or ended by statements, use transaction/2, got statement={}",
                keyword.unwrap_or_default()
            )))
        }
        Some("ATTACH" | "DETACH") => "one connection works on one app's database; copy data through the caller",
        Some("VACUUM") => "VACUUM holds the whole database and cannot run in a transaction; for a copy use backup/2",
        _ => return Ok(()),
    };
    Err(SqliteError::Refused { what: keyword.unwrap_or_default().to_owned(), hint })
}

/// [`refuse`] for every statement of a request; returns the first keyword.
pub(crate) fn admit(request: &Request) -> Result<Option<String>, SqliteError> {
    let keyword = first_keyword(&request.sql);
    refuse(&request.sql, keyword.as_deref())?;
    for (sql, _) in &request.also {
        refuse(sql, first_keyword(sql).as_deref())?;
    }
    Ok(keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_keyword() {
        let cases = [
            ("select 1", Some("SELECT")),
            ("  -- BEGIN\n /* COMMIT */ ;\u{feff}\x0cInsert into t", Some("INSERT")),
            ("END;", Some("END")),
            ("\u{a0}\u{b}\u{2028}COMMIT", Some("COMMIT")),
            ("", None),
            ("-- only", None),
            ("/* open", None),
            ("(select 1)", None),
            ("é", None),
        ];
        for (sql, keyword) in cases {
            assert_eq!(first_keyword(sql).as_deref(), keyword, "{sql:?}");
        }
    }
}
