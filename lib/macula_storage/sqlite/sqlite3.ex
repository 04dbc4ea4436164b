defmodule MaculaStorage.SQLite.Sqlite3 do
  @moduledoc """
  SQLite itself: connections and statements in your hands, with the functions of `Exqlite.Sqlite3`.

  A program written against exqlite runs with `alias MaculaStorage.SQLite.Sqlite3`. What differs is where
  the work is done: no call waits on a scheduler of the VM, dirty ones included. A step that memory can
  answer is answered at once; all that may wait (for a disk, a lock, a long query) runs on a thread of the
  connection's own. A call whose process dies is interrupted.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> :ok = Sqlite3.execute(conn, "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
      iex> {:ok, insert} = Sqlite3.prepare(conn, "INSERT INTO t VALUES (?, ?)")
      iex> :ok = Sqlite3.bind(insert, [1, "Ada"])
      iex> Sqlite3.step(conn, insert)
      :done
      iex> {:ok, select} = Sqlite3.prepare(conn, "SELECT * FROM t")
      iex> Sqlite3.step(conn, select)
      {:row, [1, "Ada"]}
      iex> Sqlite3.close(conn)
      :ok

  On a file that is open as an app's database (`MaculaStorage.SQLite.db_path/1`) transactions that write
  take their turn in the app's one queue: from `BEGIN IMMEDIATE`, or the first statement that writes, to
  the commit. One that is idle for five seconds is rolled back, which its next call is told. Checkpoints
  of that file are its own writer's: `PRAGMA wal_checkpoint` and setting the journal's mode are refused.
  When the app is closed or restored the connection answers `{:error, :connection_closed}`: open another.
  A deferred transaction that read before others wrote gets `:busy`, as SQLite must answer: begin with
  `BEGIN IMMEDIATE` what is going to write.

  What exqlite has not: `last_error/1`, `backup/3`, `restore/3`, `listen/3`, `prepare_cached/2`, limits,
  checkpoints, and beneath this module `Blob` (values in pieces), `Session` (changesets) and `Functions`.

  A statement of a closed connection answers `{:error, :connection_closed}` (exqlite's goes on, on a file
  that it cannot close).

  `ATTACH` takes every file but one that is open as an app's database, or by another copy of SQLite in this
  VM; a `file:` URI does not choose among SQLite's ways to lock (`vfs=unix-…`), nor, of an app's file, none.

  Errors: `{:error, message}` with SQLite's words, `{:error, :connection_closed}`, `{:error, :invalid_statement}`,
  `{:error, :opened_by_other_sqlite}`, `{:error, :busy}` when 1,024 calls of the connection wait. On an app's
  file also those of a write there, by their messages: an unknown result, a poisoned app, a full disk; details
  by `last_error/1`.

  Durability: as the connection's pragmas say; SQLite's own defaults, `synchronous=FULL`, sync each commit.

  Cost: `step/2` of a read whose pages are in memory, `bind/2`, `columns/2`, `changes/1` and their like
  are a few microseconds; everything else is a thread of ours and some thirty.
  """

  alias MaculaStorage.{Call, Native, Options}
  alias MaculaStorage.SQLite.Bind
  alias MaculaStorage.SQLite.Sqlite3.{Functions, Mode}

  @type db :: reference
  @type statement :: reference
  @type reason :: atom | String.t()
  @type row :: list
  @type open_mode :: :readwrite | :readonly | :nomutex | :create
  @type open_opt :: {:mode, :readwrite | :readonly | :create | [open_mode]}
  @type bind_value :: Bind.value()

  @chunk_size 50
  # what is copied on a scheduler at once
  @large_bytes 65_536

  @doc """
  Opens a database: a path, `":memory:"`, `""` (a temporary file) or a `file:` URI.

  Options: `:mode`, one of `:readwrite`, `:readonly`, `:create`, or a list of them (default
  `[:readwrite, :create]`); `:nomutex` in a list is taken and means nothing, every connection has its own
  lock.

  Durability: a new file is empty until something is written. Cost: a thread of ours opens a file.
  Errors: `:database_open_failed`; `:opened_by_other_sqlite` when another copy of SQLite in this VM
  (exqlite's) has the file open.
  """
  @spec open(String.t(), [open_opt]) :: {:ok, db} | {:error, reason}
  def open(path, opts \\ []) do
    {write, create} = Mode.parse!(opts[:mode] || [:readwrite, :create])
    path = IO.chardata_to_string(path)

    case own_thread(&Native.sqlite3_open(&1, path, write, create)) do
      {:error, message} when is_binary(message) -> {:error, :database_open_failed}
      other -> other
    end
  end

  @doc """
  Closes a connection. What runs on it is interrupted, other processes' calls answer
  `{:error, :connection_closed}`, an open transaction is rolled back. Closing twice is fine.
  """
  @spec close(db | nil) :: :ok | {:error, reason}
  def close(nil), do: :ok

  def close(conn) do
    case own_thread(&Native.sqlite3_close(conn, &1)) do
      {:error, :connection_closed} -> :ok
      other -> other
    end
  end

  @doc "Stops the query that runs on a connection, a wait for a lock included. Cost: memory."
  @spec interrupt(db | nil) :: :ok
  def interrupt(nil), do: :ok
  def interrupt(conn), do: Native.sqlite3_interrupt(conn)

  @doc "As `interrupt/1`: here both wake a wait for a lock."
  @spec cancel(db | nil) :: :ok
  def cancel(conn), do: interrupt(conn)

  @doc """
  How long a step waits for a lock that others hold, in milliseconds (2,000 when opened); the turn among an
  app's writers is waited for 30 s whatever this says, as those who have it lose it after 5 s. Cost: memory.
  """
  @spec set_busy_timeout(db, integer) :: :ok | {:error, reason}
  def set_busy_timeout(conn, timeout_ms) when is_integer(timeout_ms),
    do: plain(Native.sqlite3_set_busy_timeout(conn, max(timeout_ms, 0)))

  @doc """
  Takes what exqlite's function takes and changes nothing: every query can be interrupted, and is asked
  each 1,000 steps of SQLite's machine.
  """
  @spec set_progress_handler_steps(db, integer) :: :ok | {:error, reason}
  def set_progress_handler_steps(conn, steps) when is_integer(steps) do
    with {:ok, _facts} <- facts(conn), do: :ok
  end

  @doc """
  What the last call on this connection that failed left, `nil` when none did; a step that answered
  `:busy` failed, too. See `t:MaculaStorage.Error.details/0`. Cost: memory.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> {:error, _} = Sqlite3.execute(conn, "CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1), (1)")
      iex> error = Sqlite3.last_error(conn)
      iex> {error.reason, error.code, error.constraint}
      {:constraint, 2067, %{kind: :unique, names: ["t.a"]}}
  """
  @spec last_error(db) :: MaculaStorage.Error.details() | nil | {:error, reason}
  def last_error(conn),
    do: with({:ok, details} <- plain(Native.sqlite3_last_error(conn)), do: details)

  @doc "Runs all statements of a text; rows are left out. Durability: the connection's. Cost: a thread of ours."
  @spec execute(db, iodata) :: :ok | {:error, reason}
  def execute(conn, sql) do
    sql = IO.iodata_to_binary(sql)

    if byte_size(sql) > @large_bytes,
      do: own_thread(&Native.sqlite3_execute_large(conn, &1, sql)),
      else: own_thread(&Native.sqlite3_execute(conn, &1, sql))
  end

  @doc "Rows that the last insert, update or delete changed. Cost: memory."
  @spec changes(db) :: {:ok, non_neg_integer} | {:error, reason}
  def changes(conn), do: with({:ok, {changes, _, _}} <- facts(conn), do: {:ok, changes})

  @doc "The row id of the last insert. Cost: memory."
  @spec last_insert_rowid(db) :: {:ok, integer} | {:error, reason}
  def last_insert_rowid(conn), do: with({:ok, {_, rowid, _}} <- facts(conn), do: {:ok, rowid})

  @doc "Whether a transaction is open. Cost: memory."
  @spec transaction_status(db) :: {:ok, :idle | :transaction | :error}
  def transaction_status(conn) do
    case facts(conn) do
      {:ok, {_, _, true}} -> {:ok, :transaction}
      {:ok, {_, _, false}} -> {:ok, :idle}
      # as exqlite's of a closed connection
      {:error, _} -> {:ok, :error}
    end
  end

  defp facts(conn), do: plain(Native.sqlite3_facts(conn))

  @doc "Prepares the first statement of a text. Cost: memory, or a thread of ours that reads the schema."
  @spec prepare(db, iodata) :: {:ok, statement} | {:error, reason}
  def prepare(conn, sql), do: prepare(conn, IO.iodata_to_binary(sql), false)

  @doc """
  As `prepare/2`, by taking a statement of the same text that was released before, if one is there: each
  connection keeps the 64 that were used last, reset and cleared. Released, or referred to by nobody any more,
  it is kept, too. Cost: mostly memory.
  """
  @spec prepare_cached(db, iodata) :: {:ok, statement} | {:error, reason}
  def prepare_cached(conn, sql), do: prepare(conn, IO.iodata_to_binary(sql), true)

  defp prepare(conn, sql, cached) when byte_size(sql) > @large_bytes,
    do: own_thread(&Native.sqlite3_prepare_large(conn, &1, sql, cached))

  defp prepare(conn, sql, cached) do
    hot =
      if byte_size(sql) <= 4096, do: Native.sqlite3_prepare_hot(conn, sql, cached), else: :cold

    case hot do
      :cold -> own_thread(&Native.sqlite3_prepare(conn, &1, sql, cached))
      found -> plain(found)
    end
  end

  @doc "Begins a statement anew; what is bound stays. Cost: memory."
  @spec reset(statement) :: :ok | {:error, reason}
  def reset(stmt) when not is_reference(stmt), do: bad_argument!(stmt)
  def reset(stmt), do: plain(Native.sqlite3_reset(stmt))

  @doc "How many parameters a statement has. Cost: memory."
  @spec bind_parameter_count(statement) :: non_neg_integer | {:error, reason}
  def bind_parameter_count(stmt) when not is_reference(stmt), do: bad_argument!(stmt)

  def bind_parameter_count(stmt) do
    with {:ok, names} <- param_names(stmt), do: length(names)
  end

  @doc "Names of a statement's parameters, prefix included; `nil` for those that have none. Cost: memory."
  @spec parameter_names(statement) :: [String.t() | nil] | {:error, reason}
  def parameter_names(stmt), do: with({:ok, names} <- param_names(stmt), do: names)

  @doc """
  Resets a statement and binds values to its parameters: a list by position, a map by name (prefix
  included), `nil` for none. Takes what exqlite takes: numbers, strings and iodata, `{:blob, iodata}`,
  atoms (as text; `nil` and `:undefined` as `NULL`), dates and times. Cost: memory.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> {:ok, stmt} = Sqlite3.prepare(conn, "SELECT :a, @b")
      iex> Sqlite3.bind(stmt, %{":a" => 1, "@b" => {:blob, <<0>>}})
      :ok
      iex> Sqlite3.step(conn, stmt)
      {:row, [1, <<0>>]}
  """
  @spec bind(statement, [bind_value] | %{optional(String.t() | atom) => bind_value} | nil) ::
          :ok | {:error, reason}
  def bind(stmt, nil), do: bind(stmt, [])

  def bind(stmt, args) when is_list(args) do
    values = Enum.map(args, &Bind.value!/1)

    case Bind.all(stmt, values) do
      {:error, expected} when is_integer(expected) ->
        raise ArgumentError, "expected #{expected} arguments, got #{length(args)}"

      other ->
        plain(other)
    end
  end

  def bind(stmt, args) when is_map(args) do
    with {:ok, names} <- param_names(stmt) do
      if map_size(args) != length(names) do
        raise ArgumentError,
              "expected #{length(names)} named arguments, got #{map_size(args)}: #{inspect(Map.keys(args))}"
      end

      args = Map.new(args, fn {name, value} -> {to_string(name), value} end)

      case Map.keys(args) -- names do
        [] -> bind(stmt, Enum.map(names, &Map.fetch!(args, &1)))
        [name | _] -> raise ArgumentError, "unknown named parameter: #{inspect(name)}"
      end
    end
  end

  @doc "Binds text to one parameter, counted from 1. Cost: memory."
  @spec bind_text(statement, pos_integer, String.t()) :: :ok | {:error, reason}
  def bind_text(stmt, index, text), do: bind_one(stmt, index, text, is_binary(text))

  @doc "Binds bytes to one parameter, counted from 1. Cost: memory."
  @spec bind_blob(statement, pos_integer, binary) :: :ok | {:error, reason}
  def bind_blob(stmt, index, blob), do: bind_one(stmt, index, {:blob, blob}, is_binary(blob))

  @doc "Binds an integer to one parameter, counted from 1. Cost: memory."
  @spec bind_integer(statement, pos_integer, integer) :: :ok | {:error, reason}
  def bind_integer(stmt, index, integer),
    do: bind_one(stmt, index, integer, Bind.int64?(integer))

  @doc "Binds a float to one parameter, counted from 1. Cost: memory."
  @spec bind_float(statement, pos_integer, float) :: :ok | {:error, reason}
  def bind_float(stmt, index, float), do: bind_one(stmt, index, float, is_float(float))

  @doc "Binds `NULL` to one parameter, counted from 1. Cost: memory."
  @spec bind_null(statement, pos_integer) :: :ok | {:error, reason}
  def bind_null(stmt, index), do: bind_one(stmt, index, nil, true)

  defp bind_one(stmt, _index, _value, _fits) when not is_reference(stmt), do: bad_argument!(stmt)
  defp bind_one(_stmt, _index, {:blob, value}, false), do: bad_argument!(value)
  defp bind_one(_stmt, _index, value, false), do: bad_argument!(value)

  defp bind_one(_stmt, index, _value, _fits) when not (is_integer(index) and index >= 0),
    do: bad_argument!(index)

  defp bind_one(stmt, index, value, true) do
    case plain(Bind.one(stmt, index, value)) do
      {:error, message} when is_binary(message) ->
        raise %MaculaStorage.Error{kind: :sql, op: :bind, app: nil, message: message, hint: nil}

      other ->
        other
    end
  end

  defp bad_argument!(value), do: raise(ArgumentError, "argument error: #{inspect(value)}")

  @doc "Column names of a statement, as of when it was prepared. Cost: memory."
  @spec columns(db, statement) :: {:ok, [String.t()]} | {:error, reason}
  def columns(conn, stmt), do: same_connection!(plain(Native.sqlite3_columns(conn, stmt)))

  defp param_names(stmt), do: plain(Native.sqlite3_param_names(stmt))

  @doc "One step: a row, or `:done`, or `:busy` when another connection held a lock for too long."
  @spec step(db, statement) :: :done | :busy | {:row, row} | {:error, reason}
  def step(conn, stmt) do
    case Native.sqlite3_step_hot(conn, stmt) do
      :cold -> own_thread(&Native.sqlite3_step(conn, &1, stmt))
      stepped -> plain(stepped)
    end
    |> same_connection!()
  end

  @doc """
  Several steps: rows, at most `chunk_size` (default #{@chunk_size}) and about 1 MiB, or the last of them.
  """
  @spec multi_step(db, statement, pos_integer) ::
          :busy | {:rows, [row]} | {:done, [row]} | {:error, reason}
  def multi_step(conn, stmt, chunk_size \\ @chunk_size)

  def multi_step(conn, stmt, chunk_size) when is_integer(chunk_size) and chunk_size > 0 do
    same_connection!(own_thread(&Native.sqlite3_multi_step(conn, &1, stmt, chunk_size)))
  end

  def multi_step(_conn, _stmt, _chunk_size), do: {:error, :invalid_chunk_size}

  @doc false
  # with a deadline, at which it is interrupted; the statement is not to be stepped again
  @spec multi_step(db, statement, pos_integer, timeout | nil) ::
          :busy | {:rows, [row]} | {:done, [row]} | {:error, reason}
  def multi_step(conn, stmt, chunk_size, timeout) do
    start = &Native.sqlite3_multi_step(conn, &1, stmt, chunk_size)
    same_connection!(plain(Call.run(start, timeout: timeout)))
  end

  @doc "All rows that are left, in the memory of the caller. Cost: a thread of ours for each 1 MiB."
  @spec fetch_all(db, statement, pos_integer) :: {:ok, [row]} | {:error, reason}
  def fetch_all(conn, stmt, chunk_size \\ @chunk_size)

  # a chunk is what crosses at once: in memory of the caller's it makes no difference
  def fetch_all(conn, stmt, chunk_size) when is_integer(chunk_size) and chunk_size > 0,
    do: fetch(conn, stmt, max(chunk_size, 1000), [])

  def fetch_all(_conn, _stmt, _chunk_size), do: {:error, :invalid_chunk_size}

  defp fetch(conn, stmt, chunk_size, pages) do
    case multi_step(conn, stmt, chunk_size) do
      {:done, rows} -> {:ok, Enum.concat(Enum.reverse([rows | pages]))}
      {:rows, rows} -> fetch(conn, stmt, chunk_size, [rows | pages])
      :busy -> {:error, "Database busy"}
      {:error, _} = error -> error
    end
  end

  defp same_connection!({:error, :other_connection}) do
    raise ArgumentError, "Statement was prepared for a different connection, which is illegal"
  end

  defp same_connection!(stepped), do: stepped

  @doc "Frees as much of the connection's memory as it can."
  @spec shrink_memory(db) :: :ok | {:error, reason}
  def shrink_memory(conn), do: execute(conn, "PRAGMA shrink_memory")

  @doc "The database as bytes, as a file would hold it. Cost: a thread of ours; its size three times in memory."
  @spec serialize(db, String.t()) :: {:ok, binary} | {:error, reason}
  def serialize(conn, database \\ "main") do
    case own_thread(&Native.sqlite3_serialize(conn, &1, database)) do
      {:error, message} when is_binary(message) -> {:error, :serialization_failed}
      other -> other
    end
  end

  @doc "Puts the bytes of a database in place of what is open, in memory. Cost: a thread of ours; their size twice."
  @spec deserialize(db, String.t(), binary) :: :ok | {:error, reason}
  def deserialize(conn, database \\ "main", serialized) when is_binary(serialized),
    do: own_thread(&Native.sqlite3_deserialize(conn, &1, database, serialized))

  @doc """
  Copies the database, as of what is committed, to a file or over another connection's database, by SQLite's
  online backup. The connection's other calls, and writers, go on meanwhile: a copy of a file with a
  write-ahead log is of the instant when it began; of memory, and of a file without a log, it is of its end,
  and begins anew when another connection writes.

  `dest` is a path (a new file, else `{:error, :exists}`) or a connection, in the place of whose database the
  copy is put, in one transaction; its own calls wait.

  Options: `:overwrite` (default `false`): what the database at the path holds is replaced likewise, others may
  have it open; `:timeout` (default `:infinity`; then `{:error, :timeout}`, and nothing is left behind), as the
  caller's death does; `:progress`, a function of one argument or a pid, which gets `{:macula_progress, map}`,
  with `%{bytes_done: n, bytes_total: n}`.

  Durability: `:ok` of a path means that the copy is synced; of a connection, what its own commits mean.
  Cost: reads the database once, 1 MiB at a time. Errors: `{:error, :exists}`, `{:error, :timeout}`, SQLite's
  words; the file of an open app is never replaced (`MaculaStorage.restore/3` does that).

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> [{:ok, one}, {:ok, two}] = for _ <- 1..2, do: Sqlite3.open(":memory:")
      iex> :ok = Sqlite3.execute(one, "CREATE TABLE t (a)")
      iex> Sqlite3.backup(one, two)
      :ok
      iex> Sqlite3.execute(two, "INSERT INTO t VALUES (1)")
      :ok
  """
  @spec backup(db, Path.t() | db, keyword) :: :ok | {:error, reason}
  def backup(conn, dest, opts \\ [])

  def backup(conn, dest, opts) when is_reference(dest) do
    opts = Options.validate!(opts, timeout: {:infinity, :timeout}, progress: {nil, :progress})
    own_thread(&Native.sqlite3_backup_to(conn, &1, dest), Map.to_list(opts))
  end

  def backup(conn, dest, opts) do
    opts =
      Options.validate!(opts,
        overwrite: {false, :boolean},
        timeout: {:infinity, :timeout},
        progress: {nil, :progress}
      )

    {overwrite, opts} = Map.pop!(opts, :overwrite)
    dest = Path.expand(dest)
    own_thread(&Native.sqlite3_backup(conn, &1, dest, overwrite), Map.to_list(opts))
  end

  @doc """
  Puts what the database in a file holds in the place of this connection's, in one transaction; others that
  have either open see one or the other.

  Options: `:timeout` and `:progress` as of `backup/3`.

  Durability: what the connection's own commits mean. Cost: reads the file once; the connection's other calls
  wait. Errors: SQLite's words; the file of an open app is never replaced.
  """
  @spec restore(db, Path.t(), keyword) :: :ok | {:error, reason}
  def restore(conn, from, opts \\ []) do
    opts = Options.validate!(opts, timeout: {:infinity, :timeout}, progress: {nil, :progress})
    from = Path.expand(from)
    own_thread(&Native.sqlite3_restore(conn, &1, from), Map.to_list(opts))
  end

  @limits ~w(length sql_length column expr_depth compound_select vdbe_op function_arg attached
             like_pattern_length variable_number trigger_depth worker_threads)a

  @typedoc "SQLite's limits of one connection, <https://www.sqlite.org/c3ref/c_limit_attached.html>."
  @type limit ::
          :length
          | :sql_length
          | :column
          | :expr_depth
          | :compound_select
          | :vdbe_op
          | :function_arg
          | :attached
          | :like_pattern_length
          | :variable_number
          | :trigger_depth
          | :worker_threads

  @doc "A limit of this connection. Cost: a thread of ours."
  @spec limit(db, limit) :: {:ok, non_neg_integer} | {:error, reason}
  def limit(conn, name), do: change_limit(conn, name, nil)

  @doc """
  Sets a limit of this connection, to what SQLite was compiled with at most; gives what it was before.

      iex> alias MaculaStorage.SQLite.Sqlite3
      iex> {:ok, conn} = Sqlite3.open(":memory:")
      iex> {:ok, _before} = Sqlite3.set_limit(conn, :variable_number, 2)
      iex> Sqlite3.prepare(conn, "SELECT ?, ?, ?")
      {:error, "too many SQL variables"}
      iex> Sqlite3.limit(conn, :variable_number)
      {:ok, 2}
  """
  @spec set_limit(db, limit, non_neg_integer) :: {:ok, non_neg_integer} | {:error, reason}
  def set_limit(conn, name, value) when is_integer(value) and value >= 0,
    do: change_limit(conn, name, min(value, 0x7FFF_FFFF))

  defp change_limit(conn, name, value) when name in @limits,
    do: own_thread(&Native.sqlite3_limit(conn, &1, Atom.to_string(name), value))

  defp change_limit(_conn, name, _value) do
    raise ArgumentError, "expected a limit out of #{inspect(@limits)}, got: #{inspect(name)}"
  end

  @doc """
  Brings the write-ahead log into the database file: `:passive` as far as nobody is in the way, `:full` all of
  it, `:restart` so that the next writer begins the log anew, `:truncate` so that its file is empty; the last
  three wait for others, as long as a step does. Pages in the log, and how many of them are in the file;
  `nil` for both without a log.

  Durability: what was committed is in the database file, synced. Cost: reads the log, writes the file.
  Errors: SQLite's words; the log of an open app's file is the app's own writer's business.
  """
  @spec wal_checkpoint(db, :passive | :full | :restart | :truncate) ::
          {:ok, %{log_pages: non_neg_integer | nil, checkpointed_pages: non_neg_integer | nil}}
          | {:error, reason}
  def wal_checkpoint(conn, mode \\ :passive)
      when mode in [:passive, :full, :restart, :truncate] do
    with {:ok, pages} <- own_thread(&Native.sqlite3_checkpoint(conn, &1, mode)) do
      {log, done} = pages || {nil, nil}
      {:ok, %{log_pages: log, checkpointed_pages: done}}
    end
  end

  @doc "Adds SQL functions of ours, see `MaculaStorage.SQLite.Sqlite3.Functions.add/2`."
  @spec add_functions(db, [Functions.name()] | :all) :: :ok | {:error, reason}
  defdelegate add_functions(conn, names \\ :all), to: Functions, as: :add

  @doc "Lets go of a statement; one that nobody refers to any more is let go of by itself. Cost: memory."
  @spec release(db, statement | nil) :: :ok | {:error, reason}
  def release(_conn, nil), do: :ok
  def release(_conn, stmt), do: Native.sqlite3_release(stmt)

  @doc "Lets `SELECT load_extension(…)` load code into the VM, or not (the default). Cost: a thread of ours."
  @spec enable_load_extension(db, boolean) :: :ok | {:error, reason}
  def enable_load_extension(conn, flag) when is_boolean(flag),
    do: own_thread(&Native.sqlite3_enable_load_extension(conn, &1, flag))

  @doc """
  Sends `{action, database, table, rowid}` to a process for each row that this connection inserts, updates
  or deletes, before the commit; `action` is `:insert`, `:update` or `:delete`. One process at a time:
  `listen/3` has any number.
  """
  @spec set_update_hook(db, pid) :: :ok | {:error, reason}
  def set_update_hook(conn, pid) when is_pid(pid),
    do: own_thread(&Native.sqlite3_set_update_hook(conn, &1, pid))

  @doc """
  Denies actions to statements, by SQLite's names for them in lower case (`:attach`, `:pragma`, `:insert`,
  `:drop_table`, …); an empty list allows all again.
  """
  @spec set_authorizer(db, [atom]) :: :ok | {:error, reason}
  def set_authorizer(conn, deny_list) when is_list(deny_list) do
    names = Enum.map(deny_list, &Atom.to_string/1)

    case own_thread(&Native.sqlite3_set_authorizer(conn, &1, names)) do
      {:error, {:unknown_action, name}} ->
        raise ArgumentError, "unknown action: #{inspect(name)}"

      other ->
        other
    end
  end

  @doc "Sends `{:log, code, message}` to a process for each entry of SQLite's log; one process of the VM."
  @spec set_log_hook(pid) :: :ok
  def set_log_hook(pid) when is_pid(pid), do: Native.sqlite3_set_log_hook(pid)

  @doc """
  Sends events of a connection to a process (default the caller) from now on, as
  `{MaculaStorage.SQLite.Sqlite3, id, event}`; any number may listen.

  Kinds: `:update` (`{action, database, table, rowid}`), `:commit`, `:rollback`, `:wal`
  (`{:wal, database, pages}`), and `:preupdate`, before a row changes, with its values:
  `{:preupdate, action, database, table, rowid_old, rowid_new, old_row, new_row}`, `nil` for what is not (and
  for the new row of what a blob handle writes). `:commit` is sent before the commit, which may still fail.

  Setting `PRAGMA wal_autocheckpoint` ends `:wal`, for which SQLite has the same place.
  While somebody listens to `:preupdate`, `DELETE FROM t` looks at each row. A connection either has such
  listeners or sessions (`MaculaStorage.SQLite.Sqlite3.Session`).
  """
  @spec listen(db, [:update | :commit | :rollback | :wal | :preupdate], pid) ::
          {:ok, pos_integer} | {:error, reason}
  def listen(conn, kinds, pid \\ self()) when is_list(kinds) and is_pid(pid) do
    known = [:update, :commit, :rollback, :wal, :preupdate]

    for kind <- kinds, kind not in known do
      raise ArgumentError,
            "expected kinds of events out of #{inspect(known)}, got: #{inspect(kind)}"
    end

    own_thread(&Native.sqlite3_listen(conn, &1, pid, kinds))
  end

  @doc "Ends what `listen/3` began. Cost: a thread of ours."
  @spec unlisten(db, pos_integer) :: :ok | {:error, reason}
  def unlisten(conn, id) when is_integer(id),
    do: own_thread(&Native.sqlite3_unlisten(conn, &1, id))

  @doc false
  @spec own_thread((reference -> Native.call()), keyword) :: term
  def own_thread(start, opts \\ [timeout: :infinity]), do: plain(Call.run(start, opts))

  # `{:sqlite, code, message, offset}` is exqlite's message
  @doc false
  @spec plain(term) :: term
  def plain({:error, {:sqlite, _code, message, _offset}}), do: {:error, message}
  def plain({:error, %MaculaStorage.Error{message: message}}), do: {:error, message}
  def plain(other), do: other
end
