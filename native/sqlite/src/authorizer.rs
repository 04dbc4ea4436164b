//! What a caller's SQL may not do on a shared connection, decided by SQLite's own parser.
//!
//! Invariant: a caller's statement reaches no other file, loads no code and changes no setting that
//! the next caller would inherit. Off only around the few statements that are ours.

use crate::SqliteError;
use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::sync::atomic::{AtomicBool, Ordering};

/// Pragmas that only report; their argument names a table, an index or a number of rows.
const REPORTS: &[&str] = &[
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "defer_foreign_keys",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "optimize",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];
/// Pragmas that may be read, not set.
const READABLE: &[&str] = &[
    "analysis_limit",
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "journal_mode",
    "journal_size_limit",
    "max_page_count",
    "mmap_size",
    "page_count",
    "page_size",
    "query_only",
    "recursive_triggers",
    "schema_version",
    "secure_delete",
    "synchronous",
    "temp_store",
    "wal_autocheckpoint",
];

/// The judge of one connection.
#[derive(Default)]
pub(crate) struct Policy {
    trusted: AtomicBool,
    denied: Mutex<Option<SqliteError>>,
}

impl Policy {
    /// Run statements of our own.
    pub(crate) fn trusted<T>(&self, act: impl FnOnce() -> T) -> T {
        struct Until<'a>(&'a AtomicBool);
        impl Drop for Until<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.trusted.store(true, Ordering::Relaxed);
        let _until = Until(&self.trusted);
        act()
    }

    /// What the last refusal was about, once.
    pub(crate) fn take_denied(&self) -> Option<SqliteError> {
        self.denied.lock().take()
    }

    pub(crate) fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        if self.trusted.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        match objection(context) {
            None => Authorization::Allow,
            Some(error) => {
                *self.denied.lock() = Some(error);
                Authorization::Deny
            }
        }
    }
}

fn objection(context: &AuthContext<'_>) -> Option<SqliteError> {
    if makes_temporary(context) {
        let what = "a temporary table, index, trigger or view".to_owned();
        let hint = "connections are shared: a temporary object would be seen by others and not by the readers";
        return Some(SqliteError::Refused { what, hint });
    }
    let (what, hint) = match context.action {
        AuthAction::Attach { .. } => ("ATTACH".to_owned(), "one connection works on one app's database"),
        AuthAction::Detach { .. } => ("DETACH".to_owned(), "one connection works on one app's database"),
        AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            ("load_extension".to_owned(), "loading code into the VM by SQL is off")
        }
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
            return Some(SqliteError::invalid("transactions are not begun or ended by statements, use transaction/2"))
        }
        AuthAction::Pragma { pragma_name, pragma_value } if !is_harmless(pragma_name, pragma_value) => {
            (format!("PRAGMA {pragma_name}"), "settings of the connection are made when the database is opened")
        }
        _ => return None,
    };
    Some(SqliteError::Refused { what, hint })
}

/// Whether a temporary object is made or dropped: by the word `TEMP`, for which SQLite has actions of
/// its own, or by the name `temp.x`, for which the ordinary actions name that database. All begin with
/// a row in its schema. `ALTER` of an ordinary table reads and updates that schema, which is let be.
fn makes_temporary(context: &AuthContext<'_>) -> bool {
    match context.action {
        AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => true,
        AuthAction::Insert { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropVtable { .. } => context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp")),
        _ => false,
    }
}

fn is_harmless(name: &str, value: Option<&str>) -> bool {
    let listed = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    listed(REPORTS) || (value.is_none() && listed(READABLE))
}
