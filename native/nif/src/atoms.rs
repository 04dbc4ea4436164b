//! The atoms that cross the boundary, made once.

rustler::atoms! {
    ok, error, nil, none, done, progress, cancelled, replied, not_open, cold, expired,
    // expected outcomes
    not_found, exists, conflict, shown, former, busy, timeout, closed, locked, unsupported, quota_exceeded, too_large,
    no_quorum, disk_full, unknown_result, poisoned, history_gone, opened_by_other_sqlite,
    // what a person must read
    invalid, corrupt, newer_format, permission, io, sql, unreachable, lock_held, internal,
    // arguments
    leave, lead, voter, learner,
    sync, r#async = "async",
    blob, incl, raw, etf, named, query, gz,
    format, level, cache, verify, overwrite, foreign, from_other_app, bytes_max,
    // answers
    revision, live_bytes, file_bytes, log_bytes, memory_bytes, cache_bytes, groups, batches, syncs, synced_ns,
    synced_ns_max, drains, drained_ns_max, cache_hits, cache_misses, blocks_read, writes_since_compaction,
    dirt_factor, bytes_before, bytes_after,
    size, mtime_ms, mode, blake3, entries_done, bytes_done, bytes_total,
    total, parts, age_ms, kv, sqlite, files, uploads, other,
    put, delete, clear, exact,
    cub_db = "Elixir.MaculaStorage.CubDB", error_module = "Elixir.MaculaStorage.Error", subscribe,
    struct_ = "__struct__", exception = "__exception__", kind, op, app, message, hint,
    normal, connection_closed, invalid_statement, unknown_action, other_connection, row, rows, insert, update, commit, rollback, wal, log,
    sqlite3_module = "Elixir.MaculaStorage.SQLite.Sqlite3",
    sqlite_module = "Elixir.MaculaStorage.SQLite", many,
    holder, writes_waiting, reads_waiting, requests, commits, committed_ns, committed_ns_max, batch_len_max,
    hot_reads, hot_reads_declined, checkpoints, slow, took_ms, ended_ms, transaction, connection, vacuum,
    passive, restart, truncate, preupdate, unchanged, omit, replace,
    // why a statement failed
    details, reason, code, offset, names, perm, abort, nomem, readonly, interrupt, ioerr, notfound, full, cantopen,
    protocol, schema, toobig, constraint, mismatch, misuse, nolfs, auth, range, notadb,
    unique, primary_key, foreign_key, not_null, check, data_type, trigger,
    // the replicated state
    local, has_data, value, matches, version, created, modified, children, not, all, any, eq, ne, lt, le, gt, ge,
    node, nodes, put_many, delete_many, get, get_many, txn, lease_grant, lease_keep_alive, lease_revoke, import,
    count, list, history, status, refused, lease_unknown, lease_without_end, keep_while_not_met, time_ms, leases,
    history_first, history_bytes, state_changed,
    // replicated files
    bulk, fast, quorum, carry, call_back, mesh_events, deleted, rotten, mended,
    // certificates
    authority, certificate, cluster, id, has_key, role, member, client, issued_by, trusts, from_ms, until_ms,
    infinity, neg_infinity, name, path, bytes, at_us, verified, entries, blocks, bytes_in, changed, left_out,
}
