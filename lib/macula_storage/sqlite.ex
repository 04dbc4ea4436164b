defmodule MaculaStorage.SQLite do
  @moduledoc """
  The SQLite database of an app: one file, `data/app.db`, in WAL mode with foreign keys on.

  Each app has one writer thread, so that there is no `database is locked` inside the app, and a few
  readers beside it. No call waits on a scheduler of the VM: a short read of `query/4` that has been asked
  before and that memory can answer is answered at once (without options, parameters by position); all else
  runs on threads of ours.

      iex> alias MaculaStorage.SQLite
      iex> SQLite.execute(:sqlite_doc, "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT)")
      :ok
      iex> SQLite.execute(:sqlite_doc, "INSERT OR REPLACE INTO users VALUES (?, ?)", [1, "Ada"])
      :ok
      iex> {:ok, result} = SQLite.query(:sqlite_doc, "SELECT name FROM users WHERE id = :id", id: 1)
      iex> result.rows
      [["Ada"]]

  The first argument of `execute`, `query` and `transaction` is an app or a connection from `open/1`.

  Parameters are a list by position, or a keyword list or map by name (`[blob: x]` is `{:blob, x}` by
  position: use a map there). Values: integers, floats,
  binaries (as TEXT), `{:blob, binary}`, `nil`, booleans (as 1 and 0). In rows TEXT and BLOB are
  binaries; the infinite numbers that SQL can make are `:infinity` and `:neg_infinity`.

  `ATTACH`, `VACUUM INTO`, extensions and pragmas that would weaken durability are refused.

  `Durability:` `:ok` of a write means that it is synced (`synchronous=FULL`). With `config
  :macula_storage, sqlite_synchronous: :normal` it means that it is in the log: power loss may take the
  last commits, never the database; a killed VM loses nothing.

  Errors: `{:error, :timeout}`, `:busy`, `:closed`, `:locked` (another process owns the app),
  a `MaculaStorage.Error` of kind `:lock_held` (another program, such as `sqlite3`, holds the file's lock; its
  process is named), `:disk_full`, `:unknown_result`, `:poisoned`, `:opened_by_other_sqlite` (another copy of SQLite in
  this VM, such as exqlite's, has the file open, see `bridge_path/0`), or a `MaculaStorage.Error`.
  """

  alias MaculaStorage.{Apps, Call, Error, Native, Options}
  alias MaculaStorage.SQLite.{Params, Result}

  @type conn :: reference
  @type tx :: {:tx, reference}
  @type target :: atom | String.t() | conn | tx
  @type failure :: {:error, atom | Error.t()}

  @transaction_ms 30_000
  # of rows that are put in: what is copied at once, and how long all of them may hold the writer
  @rows_per_part 5_000
  @many_ms 3_600_000

  @doc """
  The path of an app's database. Touches no disk.

      iex> MaculaStorage.SQLite.db_path(:my_app) |> Path.basename()
      "app.db"
  """
  @spec db_path(atom | String.t()) :: String.t()
  def db_path(app), do: Path.join(MaculaStorage.app_data_path(app), "app.db")

  @doc """
  The path for `load_extensions` of an Ecto repo, so that it and this module may have one file open.

  Without it two copies of SQLite in one VM must not open the same file, and this module refuses to.
  Another way, without a second copy at work: `MaculaStorage.SQLite.Pool`. Both are in the guide "Ecto"
  (`docs/guides/ecto.md`). Touches no disk.

      config :my_app, MyApp.Repo,
        database: MaculaStorage.SQLite.db_path(:my_app),
        load_extensions: [MaculaStorage.SQLite.bridge_path()]

      iex> MaculaStorage.SQLite.bridge_path() |> Path.split() |> Enum.take(-3)
      ["priv", "native", "macula_nif.so"]
  """
  @spec bridge_path() :: String.t()
  # The very path of Native: when the file was replaced in between, the linker takes two names of it for
  # two libraries.
  def bridge_path, do: Application.app_dir(:macula_storage, "priv/native/macula_nif.so")

  @doc """
  Whether another copy of SQLite in this VM has loaded `bridge_path/0`, or why that did not do.

  exqlite tells nobody of an extension that it could not load; this does. A bridge stays until the VM
  ends. An app that was open here before it was built needs `MaculaStorage.close_app/1` once.

      iex> MaculaStorage.SQLite.bridge_status()
      :not_loaded
  """
  @spec bridge_status() :: :bridged | :not_loaded | {:refused, String.t()}
  def bridge_status do
    case Native.sqlite_bridge_status() do
      :ok -> :bridged
      {:error, nil} -> :not_loaded
      {:error, why} -> {:refused, why}
    end
  end

  @doc """
  Opens an app's database, creating it when it is new.

  A connection is good until `close/1`, and until a restore of the app, after which it answers
  `{:error, :closed}`. Using the app's name instead needs no opening. Options: none yet.

  Durability: a new database is synced. Cost: opens files on a thread of ours.
  """
  @spec open(atom | String.t(), keyword) :: {:ok, conn} | failure
  def open(app, options \\ []) do
    app = Options.app!(app)
    Options.validate!(options, [])

    Apps.with_app(app, fn handle ->
      Call.run(&Native.sqlite_open(handle, &1), op: :open, app: app, timeout: 60_000)
    end)
  end

  @doc "Closes a connection; the app's database stays open for others. Closing twice is fine. Cost: memory."
  @spec close(conn) :: :ok
  def close(conn) when is_reference(conn), do: Native.sqlite_close(conn)

  @doc """
  Runs statements for their effect. Without parameters there may be several, which are one
  transaction.

  Options: `:timeout` in milliseconds, after which the statement is interrupted.
  Durability: `:ok` means synced. Cost: waits for the writer; one sync.
  """
  @spec execute(target, iodata, list | map, keyword) :: :ok | failure
  def execute(target, sql, params \\ [], options \\ []) do
    with {:ok, _result} <- run(target, :execute, sql, params, options), do: :ok
  end

  @doc """
  Runs one statement and returns its rows.

  Statements that only read run beside the writer and see the last committed state. Options:
  `:timeout` in milliseconds, after which the statement is interrupted.
  Durability: `{:ok, result}` of a statement that writes means synced. Cost: a thread of ours.
  """
  @spec query(target, iodata, list | map, keyword) :: {:ok, Result.t()} | failure
  def query(target, sql, params \\ [], options \\ [])

  def query(target, sql, params, []) when is_binary(sql) and byte_size(sql) <= 4096 do
    params = Params.encode!(params)

    case query_hot(target, sql, params) do
      {:ok, _} = found -> result(found)
      # also a connection that is closed: where the app's is asked for again
      _cold -> run_encoded(target, :query, sql, params, nil)
    end
  end

  def query(target, sql, params, options), do: run(target, :query, sql, params, options)

  # a short read that memory answers, at once
  defp query_hot({:tx, _}, _sql, _params), do: :cold
  # INSERT, UPDATE, DELETE, REPLACE
  defp query_hot(_target, <<first, _::binary>>, _params)
       when first in [?I, ?i, ?U, ?u, ?D, ?d, ?R, ?r],
       do: :cold

  defp query_hot(target, sql, {:positional, values} = params) do
    with false <- Params.large?(sql, params),
         {:ok, conn} <- hot_conn(target) do
      Native.sqlite_query_hot(conn, sql, values)
    else
      _ -> :cold
    end
  end

  defp query_hot(_target, _sql, _named), do: :cold

  defp hot_conn(conn) when is_reference(conn), do: {:ok, conn}
  defp hot_conn(app), do: Apps.opened_conn(Options.app!(app))

  @doc """
  Runs one statement once for each list of values, all in one transaction, and returns how many rows
  changed: the fast way to put many rows in.

  `rows` is any enumerable of lists, taken in parts, so that its memory is not the caller's. Rows that
  the statement would return are left out. Options: `:timeout` in milliseconds, of each part.

  Durability: `{:ok, changes}` means synced; an error means that nothing was changed. Cost: a dirty
  scheduler copies the values, a thread of ours runs them; holds the writer, one sync.

      iex> alias MaculaStorage.SQLite
      iex> SQLite.execute(:sqlite_many_doc, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
      :ok
      iex> rows = for n <- 1..1000, do: [n, "value"]
      iex> SQLite.execute_many(:sqlite_many_doc, "INSERT OR REPLACE INTO t VALUES (?, ?)", rows)
      {:ok, 1000}
  """
  @spec execute_many(target, iodata, Enumerable.t(), keyword) ::
          {:ok, non_neg_integer} | failure
  def execute_many(target, sql, rows, options \\ []) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    sql = IO.iodata_to_binary(sql)

    # one more than a part: whether there is another is known before the first is sent
    case Enum.take(rows, @rows_per_part + 1) do
      [] -> {:ok, 0}
      some when length(some) <= @rows_per_part -> run_many(target, sql, some, options)
      _many -> run_parts(target, sql, rows, options)
    end
  end

  defp run_parts({:tx, _} = tx, sql, rows, options) do
    rows
    |> Stream.chunk_every(@rows_per_part)
    |> Enum.reduce_while({:ok, 0}, fn part, {:ok, sum} ->
      case run_many(tx, sql, part, options) do
        {:ok, changes} -> {:cont, {:ok, sum + changes}}
        {:error, _} = error -> {:halt, error}
      end
    end)
  end

  defp run_parts(target, sql, rows, options) do
    inside = fn tx ->
      case run_parts(tx, sql, rows, options) do
        {:ok, changes} -> changes
        {:error, reason} -> rollback(tx, reason)
      end
    end

    transaction(target, inside, timeout: @many_ms)
  end

  defp run_many(target, sql, rows, options) do
    sets = Enum.map(rows, &Params.values!/1)
    {rust_ms, wait_ms} = deadlines(options.timeout)
    start = fn handle -> &Native.sqlite_run_many(handle, &1, sql, sets, rust_ms) end

    with {:ok, {_columns, _rows, changes, _rowid}} <-
           on_target(target, :execute_many, wait_ms, start),
         do: {:ok, changes}
  end

  @doc """
  Runs statements as one transaction, in one crossing, and returns a result for each.

  A statement is SQL, or `{sql, params}`. When one fails nothing of the batch is changed. Batches and
  statements that wait together share a sync, each failing alone. Options: `:timeout` in milliseconds.

  Durability: `{:ok, results}` means synced. Cost: waits for the writer; one sync.

      iex> alias MaculaStorage.SQLite
      iex> {:ok, [_, _, last]} =
      ...>   SQLite.batch(:sqlite_batch_doc, [
      ...>     "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)",
      ...>     {"INSERT OR REPLACE INTO t VALUES (?, ?)", [1, "a"]},
      ...>     "SELECT * FROM t"
      ...>   ])
      iex> last.rows
      [[1, "a"]]
  """
  @spec batch(target, [iodata | {iodata, list | map}], keyword) ::
          {:ok, [Result.t()]} | failure
  def batch(target, statements, options \\ []) when is_list(statements) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    statements = Enum.map(statements, &statement!/1)
    {rust_ms, wait_ms} = deadlines(options.timeout)
    start = fn handle -> &Native.sqlite_batch(handle, &1, statements, rust_ms) end

    with [_ | _] <- statements,
         {:ok, results} <- on_target(target, :batch, wait_ms, start) do
      {:ok, for(found <- results, {:ok, result} = result({:ok, found}), do: result)}
    else
      [] -> {:ok, []}
      {:error, _} = error -> error
    end
  end

  defp statement!({sql, params}), do: {IO.iodata_to_binary(sql), Params.encode!(params)}
  defp statement!(sql), do: {IO.iodata_to_binary(sql), {:positional, []}}

  @doc """
  The rows of a statement that reads, one after the other, as they are asked for: an enumerable of lists,
  whatever its size, in memory of a page.

  It reads what was committed when it was begun, on a connection of its own, which ends with the
  enumeration or its process; meanwhile the write-ahead log can not be reused. Options: `:page_rows`, rows
  that cross at once at most (default 1,000; about 1 MiB in any case); `:timeout` in milliseconds, of each
  page, after which the statement is interrupted. Raises `MaculaStorage.Error` where `query/4` returns an
  error.

  Durability: it sees one instant of what is committed. Cost: opens a connection; a page is a thread of ours.

      iex> alias MaculaStorage.SQLite
      iex> SQLite.stream(:sqlite_stream_doc, "SELECT value FROM json_each('[1, 2, 3]')") |> Enum.to_list()
      [[1], [2], [3]]
  """
  @spec stream(atom | String.t(), iodata, list | map, keyword) :: Enumerable.t()
  def stream(app, sql, params \\ [], options \\ []) do
    app = Options.app!(app)
    options = Options.validate!(options, page_rows: {1000, :positive}, timeout: {nil, :timeout})
    MaculaStorage.SQLite.Stream.new(app, IO.iodata_to_binary(sql), params, options)
  end

  @doc """
  Runs `fun` inside one write transaction and returns `{:ok, its result}`.

  `fun` gets a target for `execute` and `query`; inside it the app's own name would wait for the
  transaction to end. `rollback/2`, an exception, throw or exit, the death of the caller, the deadline
  and five seconds without a statement undo everything. Options: `:timeout`, from the asking to the
  end, the wait for the turn included (default #{@transaction_ms} ms).

  Durability: `{:ok, result}` means synced. Cost: waits for the writer and holds it; one sync.

      iex> alias MaculaStorage.SQLite
      iex> SQLite.execute(:sqlite_tx_doc, "CREATE TABLE IF NOT EXISTS t (n)")
      :ok
      iex> SQLite.transaction(:sqlite_tx_doc, fn tx ->
      ...>   :ok = SQLite.execute(tx, "INSERT INTO t VALUES (1)")
      ...>   SQLite.rollback(tx, :changed_my_mind)
      ...> end)
      {:error, :changed_my_mind}
      iex> {:ok, %{rows: rows}} = SQLite.query(:sqlite_tx_doc, "SELECT count(*) FROM t")
      iex> rows
      [[0]]
  """
  @spec transaction(target, (tx -> result), keyword) :: {:ok, result} | {:error, any}
        when result: any
  def transaction(target, fun, options \\ []) when is_function(fun, 1) do
    options = Options.validate!(options, timeout: {@transaction_ms, :positive})
    timeout = min(options.timeout, 4_294_967_295)
    begin = fn conn -> &Native.sqlite_begin(conn, &1, timeout) end

    with {:ok, tx} <- on_conn(target, :transaction, :infinity, begin),
         do: run_transaction({:tx, tx}, fun)
  end

  @doc "Undoes the transaction: `transaction/3` returns `{:error, reason}`. Only inside its function. Cost: memory."
  @spec rollback(tx, any) :: no_return
  def rollback({:tx, _} = tx, reason), do: throw({__MODULE__, :rollback, tx, reason})

  defp run_transaction({:tx, handle} = tx, fun) do
    try do
      fun.(tx)
    catch
      :throw, {__MODULE__, :rollback, ^tx, reason} ->
        undo(handle)
        {:error, reason}

      kind, reason ->
        undo(handle)
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      result ->
        with :ok <- Call.run(&Native.sqlite_commit(handle, &1), op: :commit, timeout: :infinity),
             do: {:ok, result}
    end
  end

  defp undo(handle),
    do: Call.run(&Native.sqlite_rollback(handle, &1), op: :rollback, timeout: :infinity)

  @doc """
  Copies the database, as it is at one instant, to a new file, by SQLite's online backup.

  Writers go on meanwhile. Options: `:overwrite` (default `false`: an existing file is
  `{:error, :exists}`), `:timeout` (default `:infinity`), `:progress`, a function of one argument
  that gets `%{bytes_done: n, bytes_total: n}`.

  Durability: `:ok` means that the copy is synced. Cost: reads the database once.
  """
  @spec backup(atom | String.t() | conn, Path.t(), keyword) :: :ok | failure
  def backup(target, dest, options \\ []) do
    options =
      Options.validate!(options,
        overwrite: {false, :boolean},
        timeout: {:infinity, :timeout},
        progress: {nil, :progress}
      )

    dest = Path.expand(dest)
    start = fn conn -> &Native.sqlite_backup(conn, &1, dest, options.overwrite) end

    with {:ok, _nothing} <-
           on_conn(target, :backup, options.timeout, start, progress: options.progress),
         do: :ok
  end

  @doc """
  Sends the calling process the committed changes of a table (`:all` for any), from now on: after the commit
  is durable, in the order of commits.

  Answers `{:ok, ref, revision}`; each later commit with a change of its own is one message
  `{MaculaStorage.SQLite, ref, revision, changes}` with a larger revision. A change is `{action, table, rowid}`,
  `action` being `:insert`, `:update` or `:delete`; with `images: true` it is `{action, table, rowid, before,
  after}`, rows as lists, `nil` where there is none. `{MaculaStorage.SQLite, ref, :closed}` is the last message,
  when the database is closed.

  `changes` is `:many` when rows of some tables were changed that are not told one by one: read again. So it is
  of more than 10,000 rows, or 16 MiB of images, in a transaction; of one that began before the subscription
  and ended after it; and of one of a low-level connection (Ecto's, too) that rolled back to a savepoint,
  applied a changeset, was recorded, or kept what `OR FAIL` left.

  A low-level connection whose `PRAGMA synchronous` is less than FULL commits, and is told, before it is durable.
  `rowid` means nothing in a table without row ids. What another program, or exqlite through the bridge, commits
  is not told. It ends with `unsubscribe/1` or its process. While somebody subscribes, `DELETE` of a whole table
  goes row by row.

      iex> alias MaculaStorage.SQLite
      iex> SQLite.execute(:sqlite_feed_doc, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
      iex> {:ok, ref, revision} = SQLite.subscribe(:sqlite_feed_doc, "t")
      iex> SQLite.execute(:sqlite_feed_doc, "INSERT OR REPLACE INTO t VALUES (7, 'a')")
      iex> receive do
      ...>   {SQLite, ^ref, later, [{:insert, "t", 7}]} when later > revision -> :told
      ...> end
      :told
  """
  @spec subscribe(atom | String.t() | conn, String.t() | :all, keyword) ::
          {:ok, reference, non_neg_integer} | failure
  def subscribe(target, table, options \\ []) when is_binary(table) or table == :all do
    options = Options.validate!(options, images: {false, :boolean})
    table = if table == :all, do: nil, else: table
    ask = &Native.sqlite_subscribe(&1, table, options.images)

    with {:ok, {ref, revision}} <- plain_on_conn(target, ask), do: {:ok, ref, revision}
  end

  @doc "Ends a subscription; its messages that are here already are taken out of the mailbox. Cost: the mailbox."
  @spec unsubscribe(reference) :: :ok
  def unsubscribe(ref) when is_reference(ref) do
    :ok = Native.sqlite_unsubscribe(ref)
    flush(ref)
  end

  defp flush(ref) do
    receive do
      {__MODULE__, ^ref, _revision, _changes} -> flush(ref)
      {__MODULE__, ^ref, :closed} -> flush(ref)
    after
      0 -> :ok
    end
  end

  @doc """
  What an app's database tells of itself, as counters since it was opened and what is the case now.

    * `holder`: `{what, ms, pid}` of who has the writer, or `nil`: `:requests`, a `:transaction` and whose, a
      low-level `:connection` and who opened it, `:vacuum`; for how long already. Free as soon as a commit is
      answered, a moment later after other ends. `writes_waiting`, `reads_waiting`
    * `requests`, `commits` (each one sync, shared by `requests / commits` requests), `committed_ns` in all,
      `committed_ns_max`, `batch_len_max`
    * `hot_reads` that memory answered at once, `hot_reads_declined`
    * `log_bytes` in use of the write-ahead log, `file_bytes` of all files, `checkpoints`
    * `slow`: the last requests of 100 ms and more, `%{sql, took_ms, ended_ms}`

  Cost: memory, and two files are looked at by name.

      iex> MaculaStorage.SQLite.execute(:sqlite_stats_doc, "CREATE TABLE IF NOT EXISTS t (n)")
      iex> {:ok, stats} = MaculaStorage.SQLite.stats(:sqlite_stats_doc)
      iex> {stats.holder, stats.commits > 0, stats.slow}
      {nil, true, []}
  """
  @spec stats(atom | String.t() | conn) :: {:ok, map} | failure
  def stats(target), do: plain_on_conn(target, &Native.sqlite_stats/1)

  defp plain_on_conn(conn, ask) when is_reference(conn), do: ask.(conn)
  defp plain_on_conn(app, ask), do: Apps.with_conn(Options.app!(app), ask)

  @doc """
  Lets SQLite look at its statistics and renew those that are out of date (`PRAGMA optimize`). Once a day
  is enough.

  Durability: `:ok` means synced. Cost: waits for the writer; some tables may be read in part.
  """
  @spec optimize(atom | String.t() | conn) :: :ok | failure
  def optimize(target), do: execute(target, "PRAGMA optimize", [], timeout: :infinity)

  @doc """
  Reads the whole database, as it is at one instant, and looks whether it is sound; others read and write
  meanwhile.

  Errors: a `MaculaStorage.Error` of kind `:corrupt` with the first finding. Cost: reads everything, on a
  thread of ours.

      iex> MaculaStorage.SQLite.integrity_check(:sqlite_check_doc)
      :ok
  """
  @spec integrity_check(atom | String.t() | conn) :: :ok | failure
  def integrity_check(target),
    do:
      on_conn(target, :integrity_check, :infinity, fn conn -> &Native.sqlite_check(conn, &1) end)

  @doc """
  Rewrites the file without the room of what was deleted. Holds the writer meanwhile; reads go on.

  Options: `:timeout` in milliseconds, the wait for the writer included (default `:infinity`).
  Durability: `:ok` means synced; interrupted, the database is as before. Cost: reads and writes everything,
  and needs twice the room of what is kept.

      iex> MaculaStorage.SQLite.vacuum(:sqlite_vacuum_doc)
      :ok
  """
  @spec vacuum(atom | String.t() | conn, keyword) :: :ok | failure
  def vacuum(target, options \\ []) do
    options = Options.validate!(options, timeout: {:infinity, :timeout})
    {rust_ms, wait_ms} = deadlines(options.timeout)
    on_conn(target, :vacuum, wait_ms, fn conn -> &Native.sqlite_vacuum(conn, &1, rust_ms) end)
  end

  defp run(target, kind, sql, params, options) do
    options = Options.validate!(options, timeout: {nil, :timeout})
    sql = IO.iodata_to_binary(sql)
    run_encoded(target, kind, sql, Params.encode!(params), options.timeout)
  end

  defp run_encoded(target, kind, sql, params, timeout) do
    {rust_ms, wait_ms} = deadlines(timeout)
    # large arguments are copied on a dirty scheduler
    run =
      if Params.large?(sql, params), do: &Native.sqlite_run_large/6, else: &Native.sqlite_run/6

    start = fn handle -> &run.(handle, &1, sql, params, kind, rust_ms) end

    target |> on_target(kind, wait_ms, start) |> result()
  end

  # Rust interrupts the statement at the deadline; the wait is a little longer, to hear of it
  defp deadlines(timeout) do
    timeout = timeout || MaculaStorage.Config.get().timeout_ms
    {MaculaStorage.rust_ms(timeout), MaculaStorage.wait_ms(timeout)}
  end

  defp on_target({:tx, handle}, op, wait_ms, start),
    do: Call.run(start.(handle), op: op, timeout: wait_ms)

  defp on_target(target, op, wait_ms, start), do: on_conn(target, op, wait_ms, start)

  defp result({:ok, {columns, rows, changes, rowid}}) do
    {:ok, %Result{columns: columns, rows: rows, changes: changes, last_insert_rowid: rowid}}
  end

  defp result({:error, _} = error), do: error

  defp on_conn(target, op, timeout, start, more \\ [])

  defp on_conn(conn, op, timeout, start, more) when is_reference(conn),
    do: Call.run(start.(conn), [op: op, timeout: timeout] ++ more)

  defp on_conn(app, op, timeout, start, more) do
    app = Options.app!(app)
    options = [op: op, app: app, timeout: timeout] ++ more
    Apps.with_conn(app, fn conn -> Call.run(start.(conn), options) end)
  end
end
