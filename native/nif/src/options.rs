//! Arguments that several NIFs share: names, paths, spans.
//!
//! Elixir has validated shapes already; what is wrong here is answered, never trusted.

use crate::atoms;
use crate::error::Failure;
use macula_core::{AppName, RelPath};
use macula_sqlite::Synchronous;
use rustler::{Atom, Binary, Term};
use std::path::PathBuf;
use std::time::Duration;

/// An app's name.
pub fn app_name(name: &str) -> Result<AppName, Failure> {
    Ok(AppName::new(name)?)
}

/// A path inside an app.
pub fn rel_path(path: &Binary) -> Result<RelPath, Failure> {
    Ok(RelPath::new(path.as_slice())?)
}

/// A path on the machine, given by its owner.
pub fn machine_path(path: &Binary) -> Result<PathBuf, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_slice();
    if bytes.is_empty() || bytes[0] != b'/' || bytes.contains(&0) {
        return Err(Failure::invalid(format!(
            "not an absolute path: path={:?}",
            String::from_utf8_lossy(bytes).chars().take(80).collect::<String>()
        )));
    }
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

/// The elements of a proper list; rustler's own decoding panics on an improper one.
pub fn list(term: Term) -> Result<Vec<Term>, Failure> {
    let len = term.list_length().map_err(|_| Failure::invalid("expected a proper list"))?;
    let mut elements = Vec::with_capacity(len);
    elements.extend(term.into_list_iterator().map_err(|_| Failure::invalid("expected a list"))?);
    Ok(elements)
}

/// How a key-value store behaves, as far as Elixir says.
pub fn kv_options(cache_bytes: usize, history_bytes: u64) -> macula_store::kv::Options {
    macula_store::kv::Options { cache_bytes, ..Default::default() }.keeping(history_bytes)
}

/// How an app's database behaves, as far as Elixir says.
pub fn sqlite_options(synchronous: Atom) -> macula_sqlite::Options {
    let normal = synchronous == atoms::normal();
    let synchronous = if normal { Synchronous::Normal } else { Synchronous::Full };
    macula_sqlite::Options { synchronous, ..Default::default() }
}

/// Milliseconds; 0 is no limit.
pub fn span(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}
