defmodule MaculaStorage.SQLite.Connection do
  @moduledoc """
  A connection for DBConnection, on this library's copy of SQLite: what `Exqlite.Connection` is on exqlite's.

  It takes `Exqlite.Query` and gives `Exqlite.Result` and `Exqlite.Error`, the structs that ecto_sqlite3
  works with; exqlite's NIF is not called. A Repo uses it through `MaculaStorage.SQLite.Pool`, other code as
  `DBConnection.start_link(MaculaStorage.SQLite.Connection, database: path)`.

  Options are exqlite's (`docs/guides/ecto.md` lists those that differ). When `:database` is an app's
  `MaculaStorage.SQLite.db_path/1`, the app is opened first: transactions take their turn in its one queue,
  the log and its checkpoints stay its own, and transactions begin as `:immediate` unless they are told
  otherwise, so that none fails because it read before another wrote.

  Invariant: after a transaction was ended by anybody but its owner, its connection runs nothing more. A write
  to a file that is an app's no more, because the app was closed or restored meanwhile, is not acknowledged.

  `Durability:` `{:ok, ...}` of a statement or commit on an app's file is synced, as `sqlite_synchronous`
  says (the option `:synchronous` goes first); on other files `synchronous=NORMAL`, exqlite's default.

  `Cost:` a short read of what is in memory is answered by the caller's scheduler; everything else is a
  thread of ours. Statements that Ecto names are kept prepared, a hundred a connection.

  Errors: `{:error, exception, state}` with SQLite's words, `{:disconnect, exception, state}` when the
  connection is of no use any more.
  """

  alias MaculaStorage.{Apps, Options, SQLite}
  alias MaculaStorage.SQLite.{Settings, Sqlite3}

  # exqlite is there when this is used
  @compile {:no_warn_undefined, [Exqlite.Error, Exqlite.Result]}

  defstruct [
    :db,
    :path,
    :app,
    :owner,
    :options,
    :default_transaction_mode,
    :chunk_size,
    :before_disconnect,
    transaction_status: :idle,
    statements: %{},
    uses: 0
  ]

  @type t :: %__MODULE__{
          db: Sqlite3.db(),
          path: String.t(),
          app: String.t() | nil,
          # the app's own connection, as it was when this one was opened
          owner: SQLite.conn() | nil,
          options: keyword,
          default_transaction_mode: :deferred | :immediate | :exclusive,
          chunk_size: pos_integer,
          before_disconnect: (Exception.t(), t -> any) | {module, atom, [any]} | nil,
          transaction_status: :idle | :transaction,
          # by their SQL: when they were used last, and they
          statements: %{String.t() => {non_neg_integer, Sqlite3.statement()}},
          uses: non_neg_integer
        }
  @type query :: struct
  @type result :: struct
  @type failure :: {:error, Exception.t(), t} | {:disconnect, Exception.t(), t}

  @statements_max 100
  @writes [:insert, :update, :delete]
  @savepoint "macula_savepoint"

  @doc "Opens the database, and its app first. Cost: threads of ours open files; directories are made."
  @spec connect(keyword) :: {:ok, t} | {:error, Exception.t()}
  def connect(options) do
    with {:ok, path} <- path(options[:database]) do
      app = app_of(path)
      pragmas = Settings.pragmas!(options, app)

      with {:ok, owner} <- make_ready(app, path),
           {:ok, db} <- Sqlite3.open(path, Keyword.take(options, [:mode])) do
        set_up(db, pragmas, options, %{new(db, path, app, options) | owner: owner})
      end
    end
    |> told()
  rescue
    # DBConnection hides the words of what is raised, and shows those of what is returned
    misuse in ArgumentError -> {:error, misuse}
  end

  defp told({:ok, state}), do: {:ok, state}
  defp told({:error, reason}), do: {:error, error(reason, nil)}

  defp path(nil), do: {:error, "expected option :database to be a path or :memory, got: nil"}
  defp path(:memory), do: {:ok, ":memory:"}
  defp path(path), do: {:ok, IO.chardata_to_string(path)}

  # whose file it is, when the path is an app's `db_path/1`
  defp app_of(path) do
    with ["app.db", "data", app | _] <- path |> Path.expand() |> Path.split() |> Enum.reverse(),
         true <- SQLite.db_path(Options.app!(app)) == Path.expand(path) do
      app
    else
      _ -> nil
    end
  rescue
    ArgumentError -> nil
  end

  defp make_ready(nil, ":memory:"), do: {:ok, nil}
  defp make_ready(nil, "file:" <> uri), do: make_ready(nil, URI.parse(uri).path || ":memory:")

  defp make_ready(nil, path),
    do: with(:ok <- File.mkdir_p(Path.dirname(path)), do: {:ok, nil})

  # a handle that a restore has closed is asked for again
  defp make_ready(app, _path) do
    Apps.with_conn(app, fn conn ->
      if open?(conn), do: {:ok, conn}, else: {:error, :closed}
    end)
  end

  # A full queue, or a late answer, is one of an open database.
  defp open?(nil), do: true
  defp open?(owner), do: SQLite.query(owner, "SELECT 1") not in [error: :closed, error: :poisoned]

  defp new(db, path, app, options) do
    mode = if app, do: :immediate, else: :deferred

    %__MODULE__{
      db: db,
      path: path,
      app: app,
      options: options,
      default_transaction_mode: options[:default_transaction_mode] || mode,
      chunk_size: options[:chunk_size] || 50,
      before_disconnect: options[:before_disconnect]
    }
  end

  defp set_up(db, pragmas, options, state) do
    with :ok <- Sqlite3.set_busy_timeout(db, options[:busy_timeout] || 2000),
         :ok <- each(pragmas, &Sqlite3.execute(db, &1)),
         :ok <- load(db, Settings.extensions(options)),
         :ok <- deserialize(db, options[:serialized]) do
      {:ok, state}
    else
      {:error, reason} ->
        Sqlite3.close(db)
        {:error, reason}
    end
  end

  defp load(_db, []), do: :ok

  defp load(db, extensions) do
    with :ok <- Sqlite3.enable_load_extension(db, true),
         :ok <- each(extensions, &load_one(db, &1)),
         do: Sqlite3.enable_load_extension(db, false)
  end

  defp load_one(db, path) do
    with {:ok, stmt} <- Sqlite3.prepare(db, "SELECT load_extension(?)"),
         :ok <- Sqlite3.bind(stmt, [path]),
         {:ok, _rows} <- Sqlite3.fetch_all(db, stmt),
         do: Sqlite3.release(db, stmt)
  end

  defp deserialize(_db, nil), do: :ok
  defp deserialize(db, serialized), do: Sqlite3.deserialize(db, serialized)

  defp each(things, act) do
    Enum.reduce_while(things, :ok, fn thing, :ok ->
      case act.(thing) do
        :ok -> {:cont, :ok}
        {:error, reason} -> {:halt, {:error, "#{reason}: #{thing}"}}
      end
    end)
  end

  @doc """
  Closes: what runs is interrupted, an open transaction rolled back. Durability: what was committed stays so.
  Cost: a thread of ours.
  """
  @spec disconnect(Exception.t() | atom, t) :: :ok
  def disconnect(reason, state) do
    case state.before_disconnect do
      nil -> :ok
      {module, function, args} -> apply(module, function, [reason, state | args])
      function -> function.(reason, state)
    end

    _ = Sqlite3.close(state.db)
    :ok
  end

  @doc "Hands the connection out. Cost: none."
  @spec checkout(t) :: {:ok, t}
  def checkout(state), do: {:ok, state}

  @doc """
  Whether the connection is open still. One whose app was closed or restored lets go of the old file, and opens
  the app again when it is used. Cost: memory.
  """
  @spec ping(t) :: {:ok, t} | failure
  def ping(%{db: db} = state) do
    if open?(state.owner) do
      case Sqlite3.transaction_status(db) do
        {:ok, :error} -> {:disconnect, error(:connection_closed, nil), state}
        {:ok, _} -> {:ok, state}
      end
    else
      _ = Sqlite3.close(db)
      {:ok, state}
    end
  end

  # Before a statement, outside of a transaction: the app was closed, or restored, and this is its old file.
  defp ready(%{transaction_status: :idle, owner: owner} = state) when owner != nil do
    if open?(owner), do: {:ok, state}, else: reopen(state)
  end

  defp ready(state), do: {:ok, state}

  defp reopen(state) do
    _ = Sqlite3.close(state.db)

    case connect(state.options) do
      {:ok, state} -> {:ok, state}
      {:error, error} -> {:disconnect, error, state}
    end
  end

  # After it: what was written before the app was closed is in its file, what came later may be nowhere.
  defp acknowledge(%{transaction_status: :idle} = state, statement) do
    if open?(state.owner) do
      {:ok, state}
    else
      message = "the app was closed or restored meanwhile, this may or may not have happened"
      {:disconnect, error(message, statement), state}
    end
  end

  defp acknowledge(state, _statement), do: {:ok, state}

  @doc """
  Begins a transaction, of the connection's mode or option `:mode`; inside of one, a savepoint. Cost: a thread
  of ours; on an app's file `:immediate` waits for its turn.
  """
  @spec handle_begin(keyword, t) :: {:ok, result, t} | {:idle, t} | failure
  def handle_begin(_options, %{transaction_status: :transaction} = state),
    do: control(:begin, "SAVEPOINT #{@savepoint}", state)

  def handle_begin(options, state) do
    with {:ok, state} <- ready(state), do: begin(options[:mode], state)
  end

  defp begin(mode, state) do
    case mode || state.default_transaction_mode do
      mode when mode in [:deferred, :transaction] -> control(:begin, "BEGIN TRANSACTION", state)
      :immediate -> control(:begin, "BEGIN IMMEDIATE TRANSACTION", state)
      :exclusive -> control(:begin, "BEGIN EXCLUSIVE TRANSACTION", state)
      # a savepoint of nothing: DBConnection is told that there is no transaction
      :savepoint -> {:idle, state}
    end
  end

  @doc "Commits, or releases the savepoint (`mode: :savepoint`). Cost: one sync on an app's file."
  @spec handle_commit(keyword, t) :: {:ok, result, t} | {:idle, t} | failure
  def handle_commit(options, state) do
    case options[:mode] do
      :savepoint -> control(:commit_savepoint, "RELEASE SAVEPOINT #{@savepoint}", state)
      _mode -> commit(state)
    end
  end

  defp commit(state) do
    with {:ok, result, state} <- control(:commit, "COMMIT", state),
         {:ok, state} <- acknowledge(state, "COMMIT"),
         do: {:ok, result, state}
  end

  @doc """
  Rolls back, or back to the savepoint (`mode: :savepoint`). One that was rolled back already, by SQLite or
  because it was idle for too long, is what was asked for. Cost: a thread of ours.
  """
  @spec handle_rollback(keyword, t) :: {:ok, result, t} | failure
  def handle_rollback(options, state) do
    if options[:mode] == :savepoint do
      sql = "ROLLBACK TO SAVEPOINT #{@savepoint}; RELEASE SAVEPOINT #{@savepoint}"
      control(:rollback_savepoint, sql, state)
    else
      case control(:rollback, "ROLLBACK TRANSACTION", state) do
        {:disconnect, error, state} -> rolled_back(error, state)
        done -> done
      end
    end
  end

  defp rolled_back(error, state) do
    case Sqlite3.transaction_status(state.db) do
      {:ok, :idle} -> {:ok, result(:rollback), %{state | transaction_status: :idle}}
      _other -> {:disconnect, error, state}
    end
  end

  defp control(command, sql, state) do
    with :ok <- Sqlite3.execute(state.db, sql),
         {:ok, status} when status != :error <- Sqlite3.transaction_status(state.db) do
      {:ok, result(command), %{state | transaction_status: status}}
    else
      {:error, reason} -> {:disconnect, error(reason, sql), state}
      {:ok, :error} -> {:disconnect, error(:connection_closed, sql), state}
    end
  end

  defp result(command),
    do: Exqlite.Result.new(command: command, columns: [], rows: [], num_rows: 0)

  @doc "Whether a transaction is open. Cost: none."
  @spec handle_status(keyword, t) :: {:idle | :transaction, t}
  def handle_status(_options, state), do: {state.transaction_status, state}

  @doc """
  Prepares a query; one with a name is kept. Its `ref` says that it was prepared, and is not the statement: Ecto
  keeps it for longer than a connection may last. Cost: memory for one that is kept, else SQLite's parser.
  """
  @spec handle_prepare(query, keyword, t) :: {:ok, query, t} | failure
  def handle_prepare(query, options, state) do
    with {:ok, state} <- ready(state),
         {:ok, stmt, state} <- statement(query, options, state) do
      unless kept?(query, options), do: Sqlite3.release(state.db, stmt)
      {:ok, %{with_command(query, options) | ref: make_ref()}, state}
    end
  end

  @doc """
  Runs a query and gives all its rows. Durability: of one that writes outside of a transaction, synced as the
  moduledoc says. Cost: of a short read, memory; else a thread of ours.
  """
  @spec handle_execute(query, list | map, keyword, t) :: {:ok, query, result, t} | failure
  def handle_execute(query, params, options, state) do
    query = with_command(query, options)

    with {:ok, state} <- ready(state),
         {:ok, stmt, state} <- statement(query, options, state),
         {:ok, result, state} <- run_kept(stmt, query, params, options, state),
         {:ok, state} <- acknowledge(state, query.statement),
         do: {:ok, query, result, state}
  end

  defp run_kept(stmt, query, params, options, state) do
    ran = run(stmt, params, query, state)
    unless kept?(query, options), do: Sqlite3.release(state.db, stmt)

    case ran do
      {:ok, result, status} -> {:ok, result, %{state | transaction_status: status}}
      {:error, reason} -> failed(reason, query, state)
    end
  end

  defp run(stmt, params, %{command: command, statement: sql}, %{db: db}) do
    with :ok <- bind(stmt, params),
         {:ok, columns} <- Sqlite3.columns(db, stmt),
         {:ok, rows} <- rows(db, stmt, command),
         {:ok, columns} <- as_stepped(columns, rows, sql, db),
         {:ok, status} when status != :error <- Sqlite3.transaction_status(db) do
      {:ok, result(command, columns, rows, db), status}
    else
      {:error, reason} -> {:error, reason}
      {:ok, :error} -> {:error, :connection_closed}
    end
  end

  # Others had changed the table, and SQLite learnt it at the step: `*` is more columns, or fewer, than were named.
  defp as_stepped(columns, [row | _], sql, db) when length(row) != length(columns) do
    with {:ok, stmt} <- Sqlite3.prepare(db, sql), do: Sqlite3.columns(db, stmt)
  end

  defp as_stepped(columns, _rows, _sql, _db), do: {:ok, columns}

  # exqlite's shapes: no rows of a write that can give none is nil
  defp result(command, columns, rows, db) when command in @writes do
    {:ok, changes} = Sqlite3.changes(db)
    rows = if rows == [] and columns == [], do: nil, else: rows
    Exqlite.Result.new(command: :execute, num_rows: changes, rows: rows)
  end

  defp result(_command, columns, rows, _db),
    do:
      Exqlite.Result.new(command: :execute, columns: columns, rows: rows, num_rows: length(rows))

  defp bind(stmt, params) do
    Sqlite3.bind(stmt, params)
  rescue
    misuse in [ArgumentError, MaculaStorage.Error] -> {:error, Exception.message(misuse)}
  end

  # one crossing for a write; a read of a row or two is answered by memory, step by step
  defp rows(db, stmt, command) when command in @writes, do: Sqlite3.fetch_all(db, stmt)

  defp rows(db, stmt, _command) do
    with {:row, first} <- Sqlite3.step(db, stmt),
         {:row, second} <- then_step(db, stmt, first),
         {:ok, rest} <- Sqlite3.fetch_all(db, stmt) do
      {:ok, [first, second | rest]}
    else
      :done -> {:ok, []}
      :busy -> {:error, "Database busy"}
      other -> other
    end
  end

  defp then_step(db, stmt, first) do
    with :done <- Sqlite3.step(db, stmt), do: {:ok, [first]}
  end

  @doc "Lets go of a kept statement. Cost: memory."
  @spec handle_close(query, keyword, t) :: {:ok, nil, t}
  def handle_close(query, _options, state) do
    case Map.pop(state.statements, IO.iodata_to_binary(query.statement)) do
      {nil, _} ->
        {:ok, nil, state}

      {{_used, stmt}, statements} ->
        Sqlite3.release(state.db, stmt)
        {:ok, nil, %{state | statements: statements}}
    end
  end

  @doc "Begins a stream of rows, with a statement of its own. Cost: SQLite's parser."
  @spec handle_declare(query, list | map, keyword, t) :: {:ok, query, reference, t} | failure
  def handle_declare(query, params, _options, state) do
    with {:ok, stmt} <- Sqlite3.prepare(state.db, query.statement),
         :ok <- bind(stmt, params) do
      {:ok, query, stmt, state}
    else
      {:error, reason} -> failed(reason, query, state)
    end
  end

  @doc "Rows of a stream: `:chunk_size` or `:max_rows`, and about 1 MiB, at most. Cost: a thread of ours."
  @spec handle_fetch(query, reference, keyword, t) :: {:cont | :halt, result, t} | failure
  def handle_fetch(query, cursor, options, state) do
    chunk_size = options[:chunk_size] || options[:max_rows] || state.chunk_size

    case Sqlite3.multi_step(state.db, cursor, chunk_size) do
      {:rows, rows} -> {:cont, fetched(rows), state}
      {:done, rows} -> {:halt, fetched(rows), state}
      :busy -> failed("Database busy", query, state)
      {:error, reason} -> failed(reason, query, state)
    end
  end

  defp fetched(rows), do: Exqlite.Result.new(command: :fetch, rows: rows, num_rows: length(rows))

  @doc "Ends a stream. Cost: memory."
  @spec handle_deallocate(query, reference, keyword, t) :: {:ok, nil, t}
  def handle_deallocate(_query, cursor, _options, state) do
    _ = Sqlite3.release(state.db, cursor)
    {:ok, nil, state}
  end

  # Column names are those of when a statement was prepared. So what is kept is what names its columns:
  # what Ecto made from a schema, and named; `SELECT *` of `Repo.query/3` has no name.
  defp kept?(query, options), do: query.name not in [nil, ""] or options[:cache_statement] != nil

  defp statement(query, options, state) do
    sql = IO.iodata_to_binary(query.statement)
    kept? = kept?(query, options)

    case state.statements do
      %{^sql => {_used, stmt}} when kept? -> {:ok, stmt, keep(sql, stmt, state)}
      _ -> prepare(sql, kept?, query, state)
    end
  end

  defp prepare(sql, kept?, query, state) do
    case Sqlite3.prepare(state.db, sql) do
      {:ok, stmt} when kept? -> {:ok, stmt, keep(sql, stmt, make_room(state))}
      {:ok, stmt} -> {:ok, stmt, state}
      {:error, reason} -> failed(reason, query, state)
    end
  end

  defp keep(sql, stmt, state) do
    statements = Map.put(state.statements, sql, {state.uses, stmt})
    %{state | statements: statements, uses: state.uses + 1}
  end

  defp make_room(state) when map_size(state.statements) < @statements_max, do: state

  defp make_room(state) do
    {sql, {_used, stmt}} = Enum.min_by(state.statements, fn {_sql, {used, _}} -> used end)
    Sqlite3.release(state.db, stmt)
    %{state | statements: Map.delete(state.statements, sql)}
  end

  defp with_command(query, options) do
    case options[:command] do
      nil -> query
      command -> %{query | command: command}
    end
  end

  # A transaction that is no more must not go on as statements by themselves, each committed.
  defp failed(reason, query, state) do
    error = error(reason, query.statement)

    case {Sqlite3.transaction_status(state.db), state.transaction_status} do
      {{:ok, :error}, _} -> {:disconnect, error, state}
      {{:ok, :idle}, :transaction} -> {:disconnect, error, state}
      {{:ok, status}, _} -> {:error, error, %{state | transaction_status: status}}
    end
  end

  defp error(%MaculaStorage.Error{} = error, statement),
    do: error(Exception.message(error), statement)

  defp error(:connection_closed, statement), do: error("the connection is closed", statement)

  defp error(:closed, statement),
    do: error("the app was closed, or is being restored", statement)

  defp error(:locked, statement),
    do: error("another OS process owns the app (MaculaStorage.app_owner/1)", statement)

  defp error(:opened_by_other_sqlite, statement) do
    error("another copy of SQLite (exqlite's?) in this VM has the file open", statement)
  end

  defp error(reason, statement) do
    statement = statement && IO.iodata_to_binary(statement)
    Exqlite.Error.exception(message: to_string(reason), statement: statement)
  end
end
