defmodule MaculaStorage.Native do
  @moduledoc false
  # Stubs of the NIFs in native/nif, one section per noun. Nothing else lives here: a loaded NIF
  # module cannot be upgraded in place, so this file changes only when a NIF does.
  #
  # Classes (design section 4), by the shape of the spec:
  #   own thread: takes a reference, returns `call()`; the reply `{reference, reply}` comes as a message
  #   dirty io:   bounded local disk, returns its answer
  #   memory:     returns its answer at once

  @on_load :load

  @type handle :: reference
  @type failure ::
          {:error, atom}
          | {:error, {atom, String.t(), String.t() | nil}}
          | {:error, {atom, String.t(), String.t() | nil, map}}
  @type call :: {:ok, handle} | failure
  @type key :: binary
  # `nil` is the store's own
  @type durability :: :sync | :async | :none | nil
  # with a time to live in milliseconds, from now on
  @type write :: {:put, key, binary} | {:put, key, binary, pos_integer} | {:delete, key} | :clear
  @type condition :: {:absent, key} | {:is, key, binary | nil}
  # of a list the strictest counts
  @type bound :: :none | edge | [edge]
  @type edge :: {:incl | :excl | :exact, key} | {:prefix, key, pos_integer | nil} | {:raw, binary}

  @doc false
  def load do
    path = :filename.join([:code.priv_dir(:macula_storage), ~c"native", ~c"macula_nif"])
    :erlang.load_nif(path, 0)
  end

  # calls

  @spec call_cancel(handle) :: :cancelled | :replied
  def call_cancel(_call), do: missing()

  @spec probe(handle, reference, non_neg_integer, boolean) :: call
  def probe(_base, _ref, _wait_ms, _panics), do: missing()

  @spec probe_heap() :: non_neg_integer
  def probe_heap, do: missing()

  # the replicated state: paths are lists of terms in the External Term Format; shapes in Khepri.Wire

  @spec state_open(handle, reference, String.t(), binary | nil) :: call
  def state_open(_base, _ref, _name, _joins), do: missing()

  @spec state_close(handle, reference) :: call
  def state_close(_base, _ref), do: missing()

  @spec state_command(handle, reference, tuple, non_neg_integer) :: call
  def state_command(_state, _ref, _command, _timeout_ms), do: missing()

  @spec state_command_large(handle, reference, tuple, non_neg_integer) :: call
  def state_command_large(_state, _ref, _command, _timeout_ms), do: missing()

  @spec state_query(
          handle,
          reference,
          tuple | :status,
          :linearizable | :local | non_neg_integer,
          non_neg_integer
        ) :: call
  def state_query(_state, _ref, _query, _consistency, _timeout_ms), do: missing()

  @spec state_query_hot(handle, tuple, non_neg_integer | nil) :: {:ok, term} | :cold | failure
  def state_query_hot(_state, _query, _age_ms), do: missing()

  @spec state_query_here(handle, tuple | :status) :: {:ok, term} | failure
  def state_query_here(_state, _query), do: missing()

  # sends the calling process `:state_changed`
  @spec state_watch(handle, {list, nil}, non_neg_integer | nil) ::
          {:ok, {handle, non_neg_integer}} | failure
  def state_watch(_state, _pattern, _after), do: missing()

  @spec state_open_client(
          handle,
          reference,
          String.t(),
          [{String.t(), String.t()}],
          String.t() | nil
        ) ::
          call
  def state_open_client(_base, _ref, _name, _members, _certificates), do: missing()

  @spec state_client_watch(handle, reference, {list, nil}, non_neg_integer, non_neg_integer) ::
          call
  def state_client_watch(_state, _ref, _pattern, _after, _wait_ms), do: missing()

  @spec state_watch_next(handle) :: {:ok, {[tuple], non_neg_integer, boolean}} | failure
  def state_watch_next(_watch), do: missing()

  @spec state_watch_next_hot(handle) ::
          {:ok, {[tuple], non_neg_integer, boolean}} | :cold | failure
  def state_watch_next_hot(_watch), do: missing()

  @spec state_view(handle, reference, :linearizable | :local, non_neg_integer) :: call
  def state_view(_state, _ref, _consistency, _timeout_ms), do: missing()

  @spec state_view_query(handle, tuple | :status) :: {:ok, term} | failure
  def state_view_query(_view, _query), do: missing()

  @spec state_view_release(handle) :: :ok
  def state_view_release(_view), do: missing()

  # the members of its cluster: {cluster, number, leader, {term, last, applied, checkpoint}, address, members}
  @spec state_node(handle) :: {:ok, tuple} | failure
  def state_node(_state), do: missing()

  @spec state_listen(
          handle,
          handle,
          reference,
          {String.t(), String.t(), :inet.port_number() | nil},
          String.t(),
          String.t() | nil
        ) ::
          call
  def state_listen(_base, _state, _ref, _at, _name, _certificates), do: missing()

  @spec state_invite(handle, reference, pos_integer, non_neg_integer) :: call
  def state_invite(_state, _ref, _ttl_ms, _timeout_ms), do: missing()

  @spec state_invitation(binary) :: {:ok, binary} | failure
  def state_invitation(_invitation), do: missing()

  @spec state_join(handle, reference, binary, non_neg_integer) :: call
  def state_join(_state, _ref, _invitation, _timeout_ms), do: missing()

  @spec state_change(handle, reference, {:leave | :lead, pos_integer}, non_neg_integer) :: call
  def state_change(_state, _ref, _change, _timeout_ms), do: missing()

  @spec state_wait_for_leader(handle, reference, non_neg_integer) :: call
  def state_wait_for_leader(_state, _ref, _timeout_ms), do: missing()

  @spec state_tell(handle, String.t(), String.t()) :: :ok
  def state_tell(_state, _name, _address), do: missing()

  @spec state_set_aside(handle, reference, boolean) :: call
  def state_set_aside(_base, _ref, _is_kept), do: missing()

  # certificates: directories are absolute, `base` is this node's own

  @spec authority_create(reference, binary, binary, binary | nil, pos_integer) :: call
  def authority_create(_ref, _dir, _base, _before, _days), do: missing()

  @spec authority_issue(
          reference,
          binary,
          binary,
          binary,
          {String.t(), :member | :client, pos_integer},
          [binary]
        ) :: call
  def authority_issue(_ref, _dir, _base, _out, _node, _trust), do: missing()

  @spec authority_read(reference, binary) :: call
  def authority_read(_ref, _dir), do: missing()

  # base and apps

  @spec base_open(binary, pos_integer, non_neg_integer, :full | :normal, pos_integer) ::
          {:ok, handle} | failure
  def base_open(_path, _kv_cache_bytes, _kv_history_bytes, _sqlite_synchronous, _usage_ms),
    do: missing()

  @spec base_close(handle, reference) :: call
  def base_close(_base, _ref), do: missing()

  @spec base_apps(handle) :: {:ok, [String.t()]} | failure
  def base_apps(_base), do: missing()

  @spec app_dirs(handle, reference, String.t()) :: call
  def app_dirs(_base, _ref, _app), do: missing()

  @spec app_open(handle, reference, String.t()) :: call
  def app_open(_base, _ref, _app), do: missing()

  @spec app_close(handle, reference, String.t()) :: call
  def app_close(_base, _ref, _app), do: missing()

  @spec app_owner(handle, String.t()) :: {:ok, pos_integer | nil} | failure
  def app_owner(_base, _app), do: missing()

  # stores in directories of their own, each its caller's

  @spec dir_open(reference, binary, pos_integer, non_neg_integer, non_neg_integer) :: call
  def dir_open(_ref, _path, _kv_cache_bytes, _kv_history_bytes, _wait_ms), do: missing()

  @spec dir_close(handle, reference) :: call
  def dir_close(_dir, _ref), do: missing()

  @spec dir_owner(binary) :: {:ok, pos_integer | nil} | failure
  def dir_owner(_path), do: missing()

  # key-value: `store` is an app or a directory's, `source` that, a snapshot or a transaction

  @spec kv_open(handle, reference) :: call
  def kv_open(_app, _ref), do: missing()

  @spec kv_get_hot(handle, key) :: {:ok, term} | {:etf, binary} | :cold | failure
  def kv_get_hot(_source, _key), do: missing()

  @spec kv_get(handle, key) :: {:ok, term} | {:etf, binary} | failure
  def kv_get(_source, _key), do: missing()

  @spec kv_get_long(handle, reference, key) :: call
  def kv_get_long(_source, _ref, _key), do: missing()

  @spec kv_get_many(handle, [key]) :: {:ok, [{:ok, term} | {:etf, binary} | nil]} | failure
  def kv_get_many(_source, _keys), do: missing()

  @spec kv_get_many_raw(handle, [key]) :: {:ok, [{:etf, binary} | nil]} | failure
  def kv_get_many_raw(_source, _keys), do: missing()

  @spec kv_get_many_long(handle, reference, [key]) :: call
  def kv_get_many_long(_source, _ref, _keys), do: missing()

  @spec kv_has(handle, key) :: {:ok, boolean} | failure
  def kv_has(_source, _key), do: missing()

  @spec kv_ttl(handle, key) :: {:ok, pos_integer | :infinity} | failure
  def kv_ttl(_source, _key), do: missing()

  @spec kv_page(handle, bound, bound, boolean, pos_integer) ::
          {:ok, [{term, term}], binary | nil} | failure
  def kv_page(_source, _min, _max, _reverse, _entries_max), do: missing()

  @spec kv_page_long(handle, reference, bound, bound, boolean) :: call
  def kv_page_long(_source, _ref, _min, _max, _reverse), do: missing()

  @spec kv_count(handle, reference, bound, bound) :: call
  def kv_count(_source, _ref, _min, _max), do: missing()

  @spec kv_write(handle, reference, [write], [condition], durability) :: call
  def kv_write(_store, _ref, _ops, _conditions, _durability), do: missing()

  @spec kv_write_large(handle, reference, [write], [condition], durability) :: call
  def kv_write_large(_store, _ref, _ops, _conditions, _durability), do: missing()

  @spec kv_snapshot(handle) :: {:ok, handle} | failure
  def kv_snapshot(_store), do: missing()

  @spec kv_snapshot_release(handle) :: :ok
  def kv_snapshot_release(_snapshot), do: missing()

  @spec kv_begin(handle, reference, pos_integer) :: call
  def kv_begin(_store, _ref, _deadline_ms), do: missing()

  @spec kv_tx_write(handle, [write]) :: :ok | failure
  def kv_tx_write(_tx, _ops), do: missing()

  @spec kv_tx_write_long(handle, reference, [write]) :: call
  def kv_tx_write_long(_tx, _ref, _ops), do: missing()

  @spec kv_tx_commit(handle, reference) :: call
  def kv_tx_commit(_tx, _ref), do: missing()

  @spec kv_tx_abort(handle) :: :ok
  def kv_tx_abort(_tx), do: missing()

  # messages `{MaculaStorage.CubDB, handle, ...}` to the caller from then on
  @spec kv_subscribe(handle, reference, bound, bound, non_neg_integer | nil) :: call
  def kv_subscribe(_store, _ref, _min, _max, _from), do: missing()

  @spec kv_unsubscribe(handle) :: :ok
  def kv_unsubscribe(_subscription), do: missing()

  @spec kv_revision(handle) :: {:ok, non_neg_integer} | failure
  def kv_revision(_source), do: missing()

  @spec kv_back_up(handle, reference, binary) :: call
  def kv_back_up(_source, _ref, _path), do: missing()

  @spec kv_check(handle, reference) :: call
  def kv_check(_store, _ref), do: missing()

  @spec kv_sync(handle, reference) :: call
  def kv_sync(_store, _ref), do: missing()

  @spec kv_compact(handle, reference) :: call
  def kv_compact(_store, _ref), do: missing()

  @spec kv_compact_later(handle) :: :ok | failure
  def kv_compact_later(_store), do: missing()

  @spec kv_halt_compaction(handle) :: {:ok, boolean} | failure
  def kv_halt_compaction(_store), do: missing()

  @spec kv_is_compacting(handle) :: {:ok, boolean} | failure
  def kv_is_compacting(_store), do: missing()

  @spec kv_set_auto_compact(handle, :default | nil | {non_neg_integer, float}) :: :ok | failure
  def kv_set_auto_compact(_store, _auto), do: missing()

  @spec kv_set_durability(handle, durability) :: :ok | failure
  def kv_set_durability(_store, _durability), do: missing()

  @spec kv_stats(handle) :: {:ok, map} | failure
  def kv_stats(_store), do: missing()

  # SQLite: `target` is a connection or a transaction

  @spec sqlite_open(handle, reference) :: call
  def sqlite_open(_app, _ref), do: missing()

  @spec sqlite_close(handle) :: :ok
  def sqlite_close(_conn), do: missing()

  @spec sqlite_run(
          handle,
          reference,
          binary,
          {:positional | :named, list},
          :execute | :query,
          non_neg_integer
        ) :: call
  def sqlite_run(_target, _ref, _sql, _params, _kind, _timeout_ms), do: missing()

  @spec sqlite_run_large(
          handle,
          reference,
          binary,
          {:positional | :named, list},
          :execute | :query,
          non_neg_integer
        ) :: call
  def sqlite_run_large(_target, _ref, _sql, _params, _kind, _timeout_ms), do: missing()

  @spec sqlite_query_hot(handle, binary, list) ::
          {:ok, {[String.t()], [list], non_neg_integer, integer}} | :cold | failure
  def sqlite_query_hot(_conn, _sql, _values), do: missing()

  @spec sqlite_run_many(handle, reference, binary, [list], non_neg_integer) :: call
  def sqlite_run_many(_target, _ref, _sql, _sets, _timeout_ms), do: missing()

  @spec sqlite_batch(
          handle,
          reference,
          [{binary, {:positional | :named, list}}],
          non_neg_integer
        ) :: call
  def sqlite_batch(_target, _ref, _statements, _timeout_ms), do: missing()

  @spec sqlite_begin(handle, reference, pos_integer) :: call
  def sqlite_begin(_conn, _ref, _deadline_ms), do: missing()

  @spec sqlite_commit(handle, reference) :: call
  def sqlite_commit(_tx, _ref), do: missing()

  @spec sqlite_rollback(handle, reference) :: call
  def sqlite_rollback(_tx, _ref), do: missing()

  # messages `{MaculaStorage.SQLite, handle, ...}` to the caller from then on
  @spec sqlite_subscribe(handle, String.t() | nil, boolean) ::
          {:ok, {handle, non_neg_integer}} | failure
  def sqlite_subscribe(_conn, _table, _images), do: missing()

  @spec sqlite_unsubscribe(handle) :: :ok
  def sqlite_unsubscribe(_subscription), do: missing()

  @spec sqlite_stats(handle) :: {:ok, map} | failure
  def sqlite_stats(_conn), do: missing()

  @spec sqlite_vacuum(handle, reference, non_neg_integer) :: call
  def sqlite_vacuum(_conn, _ref, _timeout_ms), do: missing()

  @spec sqlite_check(handle, reference) :: call
  def sqlite_check(_conn, _ref), do: missing()

  @spec sqlite_backup(handle, reference, binary, boolean) :: call
  def sqlite_backup(_conn, _ref, _dest, _overwrite), do: missing()

  @spec sqlite_bridge_status() :: :ok | {:error, String.t() | nil}
  def sqlite_bridge_status(), do: missing()

  # SQLite's low-level floor: `conn` and `stmt` are a caller's own

  @type sqlite3_failure ::
          {:error, atom} | {:error, {:sqlite, integer, String.t(), non_neg_integer | nil}}

  @spec sqlite3_open(reference, String.t(), boolean, boolean) :: call
  def sqlite3_open(_ref, _path, _write, _create), do: missing()

  @spec sqlite3_close(handle, reference) :: call
  def sqlite3_close(_conn, _ref), do: missing()

  @spec sqlite3_interrupt(handle) :: :ok
  def sqlite3_interrupt(_conn), do: missing()

  @spec sqlite3_set_busy_timeout(handle, non_neg_integer) :: :ok | sqlite3_failure
  def sqlite3_set_busy_timeout(_conn, _timeout_ms), do: missing()

  @spec sqlite3_facts(handle) :: {:ok, {non_neg_integer, integer, boolean}} | sqlite3_failure
  def sqlite3_facts(_conn), do: missing()

  @spec sqlite3_last_error(handle) :: {:ok, map | nil} | sqlite3_failure
  def sqlite3_last_error(_conn), do: missing()

  @spec sqlite3_execute(handle, reference, String.t()) :: call
  def sqlite3_execute(_conn, _ref, _sql), do: missing()

  @spec sqlite3_execute_large(handle, reference, String.t()) :: call
  def sqlite3_execute_large(_conn, _ref, _sql), do: missing()

  @spec sqlite3_prepare(handle, reference, String.t(), boolean) :: call
  def sqlite3_prepare(_conn, _ref, _sql, _cached), do: missing()

  @spec sqlite3_prepare_large(handle, reference, String.t(), boolean) :: call
  def sqlite3_prepare_large(_conn, _ref, _sql, _cached), do: missing()

  @spec sqlite3_prepare_hot(handle, String.t(), boolean) ::
          {:ok, handle} | :cold | sqlite3_failure
  def sqlite3_prepare_hot(_conn, _sql, _cached), do: missing()

  @spec sqlite3_param_names(handle) :: {:ok, [String.t() | nil]} | sqlite3_failure
  def sqlite3_param_names(_stmt), do: missing()

  @spec sqlite3_columns(handle, handle) :: {:ok, [String.t()]} | sqlite3_failure
  def sqlite3_columns(_conn, _stmt), do: missing()

  @spec sqlite3_bind_all(handle, list) :: :ok | {:error, non_neg_integer} | sqlite3_failure
  def sqlite3_bind_all(_stmt, _values), do: missing()

  @spec sqlite3_bind_all_large(handle, list) :: :ok | {:error, non_neg_integer} | sqlite3_failure
  def sqlite3_bind_all_large(_stmt, _values), do: missing()

  @spec sqlite3_bind(handle, non_neg_integer, term) :: :ok | sqlite3_failure
  def sqlite3_bind(_stmt, _index, _value), do: missing()

  @spec sqlite3_bind_large(handle, non_neg_integer, term) :: :ok | sqlite3_failure
  def sqlite3_bind_large(_stmt, _index, _value), do: missing()

  @spec sqlite3_reset(handle) :: :ok | sqlite3_failure
  def sqlite3_reset(_stmt), do: missing()

  @spec sqlite3_step_hot(handle, handle) :: {:row, list} | :done | :cold | sqlite3_failure
  def sqlite3_step_hot(_conn, _stmt), do: missing()

  @spec sqlite3_step(handle, reference, handle) :: call
  def sqlite3_step(_conn, _ref, _stmt), do: missing()

  @spec sqlite3_multi_step(handle, reference, handle, pos_integer) :: call
  def sqlite3_multi_step(_conn, _ref, _stmt, _rows_max), do: missing()

  @spec sqlite3_release(handle) :: :ok
  def sqlite3_release(_stmt), do: missing()

  @spec sqlite3_serialize(handle, reference, String.t()) :: call
  def sqlite3_serialize(_conn, _ref, _database), do: missing()

  @spec sqlite3_deserialize(handle, reference, String.t(), binary) :: call
  def sqlite3_deserialize(_conn, _ref, _database, _bytes), do: missing()

  @spec sqlite3_backup(handle, reference, binary, boolean) :: call
  def sqlite3_backup(_conn, _ref, _dest, _overwrite), do: missing()

  @spec sqlite3_backup_to(handle, reference, handle) :: call
  def sqlite3_backup_to(_conn, _ref, _dest), do: missing()

  @spec sqlite3_restore(handle, reference, binary) :: call
  def sqlite3_restore(_conn, _ref, _path), do: missing()

  # `{database, table, column}`
  @spec sqlite3_blob_open(handle, reference, {binary, binary, binary}, integer, boolean) :: call
  def sqlite3_blob_open(_conn, _ref, _place, _rowid, _write), do: missing()

  @spec sqlite3_blob_size(handle) :: {:ok, non_neg_integer} | sqlite3_failure
  def sqlite3_blob_size(_blob), do: missing()

  @spec sqlite3_blob_read(handle, reference, non_neg_integer, non_neg_integer) :: call
  def sqlite3_blob_read(_blob, _ref, _offset, _len), do: missing()

  @spec sqlite3_blob_write(handle, reference, non_neg_integer, binary) :: call
  def sqlite3_blob_write(_blob, _ref, _offset, _bytes), do: missing()

  @spec sqlite3_blob_reopen(handle, reference, integer) :: call
  def sqlite3_blob_reopen(_blob, _ref, _rowid), do: missing()

  @spec sqlite3_blob_close(handle, reference) :: call
  def sqlite3_blob_close(_blob, _ref), do: missing()

  @spec sqlite3_session_create(handle, reference, String.t()) :: call
  def sqlite3_session_create(_conn, _ref, _database), do: missing()

  # `nil`: all tables
  @spec sqlite3_session_attach(handle, reference, String.t() | nil) :: call
  def sqlite3_session_attach(_session, _ref, _table), do: missing()

  @spec sqlite3_session_changes(handle, reference, boolean) :: call
  def sqlite3_session_changes(_session, _ref, _patchset), do: missing()

  @spec sqlite3_session_delete(handle, reference) :: call
  def sqlite3_session_delete(_session, _ref), do: missing()

  # what to do with changes that do not fit: data, not found, conflict, constraint, foreign key
  @spec sqlite3_changeset_apply(handle, reference, binary, {atom, atom, atom, atom, atom}) :: call
  def sqlite3_changeset_apply(_conn, _ref, _changeset, _policy), do: missing()

  @spec sqlite3_changeset_invert(binary) :: {:ok, binary} | sqlite3_failure
  def sqlite3_changeset_invert(_changeset), do: missing()

  @spec sqlite3_changeset_concat(binary, binary) :: {:ok, binary} | sqlite3_failure
  def sqlite3_changeset_concat(_first, _then), do: missing()

  @spec sqlite3_changeset_info(binary) ::
          {:ok, [{String.t(), atom, list | nil, list | nil}]} | sqlite3_failure
  def sqlite3_changeset_info(_changeset), do: missing()

  # `nil` leaves it as it is
  @spec sqlite3_limit(handle, reference, String.t(), non_neg_integer | nil) :: call
  def sqlite3_limit(_conn, _ref, _name, _value), do: missing()

  # `nil`: all
  @spec sqlite3_add_functions(handle, reference, [String.t()] | nil) :: call
  def sqlite3_add_functions(_conn, _ref, _names), do: missing()

  @spec sqlite3_checkpoint(handle, reference, :passive | :full | :restart | :truncate) :: call
  def sqlite3_checkpoint(_conn, _ref, _mode), do: missing()

  @spec sqlite3_enable_load_extension(handle, reference, boolean) :: call
  def sqlite3_enable_load_extension(_conn, _ref, _on), do: missing()

  @spec sqlite3_set_authorizer(handle, reference, [String.t()]) :: call
  def sqlite3_set_authorizer(_conn, _ref, _names), do: missing()

  # messages `{action, database, table, rowid}`
  @spec sqlite3_set_update_hook(handle, reference, pid | nil) :: call
  def sqlite3_set_update_hook(_conn, _ref, _pid), do: missing()

  # messages `{MaculaStorage.SQLite.Sqlite3, id, event}`
  @spec sqlite3_listen(handle, reference, pid, [atom]) :: call
  def sqlite3_listen(_conn, _ref, _pid, _kinds), do: missing()

  @spec sqlite3_unlisten(handle, reference, pos_integer) :: call
  def sqlite3_unlisten(_conn, _ref, _id), do: missing()

  # messages `{log, code, message}`
  @spec sqlite3_set_log_hook(pid) :: :ok
  def sqlite3_set_log_hook(_pid), do: missing()

  # files

  @spec files_write(handle, reference, binary, binary) :: call
  def files_write(_app, _ref, _path, _content), do: missing()

  @spec files_read(handle, reference, binary, pos_integer) :: call
  def files_read(_app, _ref, _path, _bytes_max), do: missing()

  @spec files_delete(handle, reference, binary) :: call
  def files_delete(_app, _ref, _path), do: missing()

  @spec files_stat(handle, reference, binary) :: call
  def files_stat(_app, _ref, _path), do: missing()

  @spec files_list(handle, reference, binary | nil, binary | nil, pos_integer) :: call
  def files_list(_app, _ref, _prefix, _after, _limit), do: missing()

  @spec files_reader(handle, reference, binary) :: call
  def files_reader(_app, _ref, _path), do: missing()

  @spec files_read_at(handle, reference, non_neg_integer, pos_integer) :: call
  def files_read_at(_reader, _ref, _offset, _len), do: missing()

  @spec files_writer(handle, reference, binary) :: call
  def files_writer(_app, _ref, _path), do: missing()

  @spec files_writer_chunk(handle, reference, binary) :: call
  def files_writer_chunk(_writer, _ref, _bytes), do: missing()

  @spec files_writer_commit(handle, reference) :: call
  def files_writer_commit(_writer, _ref), do: missing()

  @spec files_writer_abort(handle) :: :ok
  def files_writer_abort(_writer), do: missing()

  # replicated files
  use MaculaStorage.Native.Mesh

  # commands: performed here, or by the process that owns the app

  @spec usage(handle, reference, String.t(), boolean, non_neg_integer) :: call
  def usage(_base, _ref, _app, _fresh, _timeout_ms), do: missing()

  @spec archive(handle, reference, String.t(), binary | nil, map, non_neg_integer) :: call
  def archive(_base, _ref, _app, _dest, _options, _timeout_ms), do: missing()

  @spec restore(handle, reference, String.t(), binary, map, non_neg_integer) :: call
  def restore(_base, _ref, _app, _path, _options, _timeout_ms), do: missing()

  @spec backups(handle, reference, String.t()) :: call
  def backups(_base, _ref, _app), do: missing()

  defp missing, do: :erlang.nif_error(:not_loaded)
end
