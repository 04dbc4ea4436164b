//! The atoms that cross the boundary, made once.

rustler::atoms! {
    ok, error, nil, none, done, progress, cancelled, replied, not_open,
    // expected outcomes
    not_found, exists, conflict, busy, timeout, closed, locked, unsupported, quota_exceeded, too_large,
    no_quorum, disk_full, unknown_result, poisoned, history_gone, opened_by_other_sqlite,
    // what a person must read
    invalid, corrupt, newer_format, permission, io, sql, internal,
    // arguments
    blob, put, delete, clear, absent, incl, excl, raw, etf, positional, named, execute, query,
    zst, gz, file, dir, symlink, other,
}
