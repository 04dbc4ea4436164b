# The sides of the SQLite benches: ours on both floors and its rivals behind one behaviour.
#
# Invariant: all run with the pragmas of `pragmas/1`, which are ours: SQLite's own settings but for WAL,
# 2 MiB of cache, foreign keys, and a checkpoint at 4 MiB of log. Each is used in the way that its documents
# give and that is its fastest: statements are prepared once where it can, one row is fetched in one call.
defmodule MaculaStorage.Bench.Sqlite.Side do
  @moduledoc false

  @type store :: term
  @type client :: term
  @type statement :: term
  @type row :: list | tuple

  @doc "Its name in reports."
  @callback name() :: String.t()

  @doc "What a reader of its figures must know; may be empty."
  @callback note() :: String.t()

  @doc "Makes its database in a directory, or says why it cannot."
  @callback open(dir :: String.t(), :full | :normal) :: {:ok, store} | {:missing, String.t()}

  @doc "Runs statements that give nothing."
  @callback run(store, sql :: String.t()) :: :ok | {:error, term}

  @doc "What a process of its own calls the functions below with, and ends with."
  @callback client(store) :: client
  @callback leave(client) :: :ok

  @callback prepare(client, sql :: String.t()) :: statement
  @callback write(client, statement, params :: list) :: :ok | {:error, term}

  @doc "All rows, fetched `chunk` at a time by those who have such a choice."
  @callback rows(client, statement, params :: list, chunk :: pos_integer) ::
              [row] | {:error, term}

  @doc "Inserts rows in one transaction."
  @callback insert_many(store, sql :: String.t(), [list]) :: :ok

  @doc "Calls `fun` with each row in turn, none of which is kept; `:unsupported` is one that has no such way."
  @callback each(store, sql :: String.t(), (row -> term)) :: :ok | :unsupported

  @callback close(store) :: :ok

  @busy_ms 5000
  @checkpoint_pages 1000
  @cache_kib 2048

  @doc "The settings of each connection, as statements."
  def pragmas(synchronous) do
    [
      "PRAGMA busy_timeout=#{@busy_ms}",
      "PRAGMA journal_mode=WAL",
      "PRAGMA synchronous=#{synchronous}",
      "PRAGMA cache_size=-#{@cache_kib}",
      "PRAGMA foreign_keys=ON",
      "PRAGMA wal_autocheckpoint=#{@checkpoint_pages}"
    ]
  end

  @doc "The same, as exqlite's pool takes them."
  def options(synchronous) do
    [
      busy_timeout: @busy_ms,
      journal_mode: :wal,
      synchronous: synchronous,
      cache_size: -@cache_kib,
      foreign_keys: :on,
      wal_auto_check_point: @checkpoint_pages
    ]
  end

  def busy_ms, do: @busy_ms

  @doc "An error, so that equal ones are counted together."
  def reason(%{__exception__: true} = error), do: reason(Exception.message(error))
  def reason(text) when is_binary(text), do: Regex.replace(~r/\d+/, text, "N")
  def reason(other), do: other

  defmacro __using__(_) do
    quote do
      @behaviour unquote(__MODULE__)
      alias MaculaStorage.Bench.Sqlite.Side
      # Rivals are not there when this is compiled, and some of ours only in later versions.
      @compile {:no_warn_undefined,
                [
                  :sqlite3,
                  DBConnection,
                  Elixir.Exqlite,
                  Elixir.Exqlite.Sqlite3,
                  MaculaStorage.SQLite,
                  MaculaStorage.SQLite.Sqlite3
                ]}

      def note, do: ""
      def leave(_client), do: :ok
      def prepare(_client, sql), do: sql
      def each(_store, _sql, _fun), do: :unsupported
      defoverridable note: 0, leave: 1, prepare: 2, each: 3
    end
  end
end

defmodule MaculaStorage.Bench.Sqlite.Ours do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Side

  alias MaculaStorage.SQLite

  @app "bench"
  @numbers %{full: 2, normal: 1}

  def name, do: "MaculaStorage.SQLite"
  def note, do: "wal_autocheckpoint=0: it checkpoints by itself, at 4 MiB or when idle."

  # Its place is the base directory of the application, and so is its setting.
  def open(_dir, synchronous) do
    {:ok, %{rows: [[number]]}} = SQLite.query(@app, "PRAGMA synchronous")

    if number == @numbers[synchronous],
      do: {:ok, @app},
      else: {:missing, "no way yet to set synchronous=#{synchronous}"}
  end

  def run(app, sql), do: SQLite.execute(app, sql)
  def client(app), do: app

  def write(app, sql, params) do
    with {:error, reason} <- SQLite.execute(app, sql, params), do: {:error, Side.reason(reason)}
  end

  def rows(app, sql, params, _chunk) do
    case SQLite.query(app, sql, params) do
      {:ok, result} -> result.rows
      {:error, reason} -> {:error, Side.reason(reason)}
    end
  end

  def insert_many(app, sql, rows) do
    {:ok, _} = SQLite.execute_many(app, sql, rows, timeout: :infinity)

    # the others checkpoint within the commit, our writer after its answer: it is done when it takes this
    {:ok, _} = SQLite.transaction(app, fn _tx -> :ok end)
    :ok
  end

  def each(app, sql, fun), do: app |> SQLite.stream(sql) |> Enum.each(fun)

  def close(app), do: :ok = MaculaStorage.close_app(app)
end

defmodule MaculaStorage.Bench.Sqlite.Direct do
  @moduledoc false
  # A library with the functions of Exqlite.Sqlite3, each client with a connection of its own.

  alias MaculaStorage.Bench.Sqlite.Side

  @values_rows 500

  defmacro __using__(lib: lib) do
    quote do
      use MaculaStorage.Bench.Sqlite.Side
      alias MaculaStorage.Bench.Sqlite.Direct

      @lib unquote(lib)

      def run({_path, _synchronous, conn}, sql), do: @lib.execute(conn, sql)
      def client({path, synchronous, _conn}), do: Direct.connect(@lib, path, synchronous)
      def leave(conn), do: @lib.close(conn)

      # Each process that prepares ends with its connection.
      def prepare(conn, sql) do
        {:ok, statement} = @lib.prepare(conn, sql)
        {conn, statement}
      end

      def write(_client, {conn, statement}, params) do
        :ok = @lib.bind(statement, params)

        case @lib.step(conn, statement) do
          :done -> :ok
          :busy -> {:error, "busy"}
          {:error, reason} -> {:error, Side.reason(reason)}
        end
      end

      def rows(_client, {conn, statement}, params, chunk) do
        :ok = @lib.bind(statement, params)

        case @lib.fetch_all(conn, statement, chunk) do
          {:ok, rows} -> rows
          {:error, reason} -> {:error, Side.reason(reason)}
        end
      end

      def insert_many({_, _, conn}, sql, rows), do: Direct.insert_many(@lib, conn, sql, rows)
      def insert_values({_, _, conn}, sql, rows), do: Direct.insert_values(@lib, conn, sql, rows)
      def each({_, _, conn}, sql, fun), do: Direct.each(@lib, conn, sql, fun)
      def close({_, _, conn}), do: @lib.close(conn)
    end
  end

  @doc "The store: its connection stays open, so that no client's is the last, which would checkpoint."
  def open(lib, dir, synchronous) do
    path = Path.join(dir, "bench.db")
    {:ok, {path, synchronous, connect(lib, path, synchronous)}}
  end

  # The pragma would take exqlite's own waiting away.
  def connect(lib, path, synchronous) do
    {:ok, conn} = lib.open(path)
    :ok = lib.set_busy_timeout(conn, Side.busy_ms())

    for "PRAGMA " <> setting = pragma <- Side.pragmas(synchronous),
        not String.starts_with?(setting, "busy_timeout"),
        do: :ok = lib.execute(conn, pragma)

    conn
  end

  def insert_many(lib, conn, sql, rows) do
    {:ok, statement} = lib.prepare(conn, sql)
    :ok = lib.execute(conn, "BEGIN IMMEDIATE")

    for row <- rows do
      :ok = lib.bind(statement, row)
      :done = lib.step(conn, statement)
    end

    :ok = lib.execute(conn, "COMMIT")
    :ok = lib.release(conn, statement)
  end

  @doc "As `insert_many/4`, hundreds of rows in each statement: `sql` ends with the values of one."
  def insert_values(lib, conn, sql, rows) do
    [insert, one] = String.split(sql, " VALUES ")
    :ok = lib.execute(conn, "BEGIN IMMEDIATE")

    # The last may be a shorter one.
    for {count, chunks} <- rows |> Enum.chunk_every(@values_rows) |> Enum.group_by(&length/1) do
      values = List.duplicate(one, count) |> Enum.join(", ")
      {:ok, statement} = lib.prepare(conn, "#{insert} VALUES #{values}")

      for chunk <- chunks do
        :ok = lib.bind(statement, Enum.concat(chunk))
        :done = lib.step(conn, statement)
      end

      :ok = lib.release(conn, statement)
    end

    :ok = lib.execute(conn, "COMMIT")
  end

  @chunk 500

  def each(lib, conn, sql, fun) do
    {:ok, statement} = lib.prepare(conn, sql)
    :ok = steps(lib, conn, statement, fun)
    :ok = lib.release(conn, statement)
  end

  defp steps(lib, conn, statement, fun) do
    case lib.multi_step(conn, statement, @chunk) do
      {:rows, rows} ->
        Enum.each(rows, fun)
        steps(lib, conn, statement, fun)

      {:done, rows} ->
        Enum.each(rows, fun)
    end
  end
end

defmodule MaculaStorage.Bench.Sqlite.Exqlite do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Direct, lib: Elixir.Exqlite.Sqlite3

  def name, do: "exqlite, own connections"
  def note, do: "One for each client; checkpoints at 1,000 pages."

  def open(dir, synchronous) do
    if Code.ensure_loaded?(@lib),
      do: Direct.open(@lib, dir, synchronous),
      else: {:missing, "MACULA_BENCH_PEERS names no directory that has it"}
  end
end

defmodule MaculaStorage.Bench.Sqlite.LowLevel do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Direct, lib: MaculaStorage.SQLite.Sqlite3

  def name, do: "MaculaStorage, low level"
  def note, do: "A connection for each client."

  def open(dir, synchronous) do
    if Code.ensure_loaded?(@lib),
      do: Direct.open(@lib, dir, synchronous),
      else: {:missing, "not there yet"}
  end
end

defmodule MaculaStorage.Bench.Sqlite.Pool do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Side

  alias MaculaStorage.Bench.Sqlite.Direct
  alias Elixir.Exqlite, as: Lib

  @pool 5

  def name, do: "exqlite, pool of #{@pool}"
  def note, do: "DBConnection with its own settings; checkpoints at 1,000 pages."

  def open(dir, synchronous) do
    if Code.ensure_loaded?(Lib) and Code.ensure_loaded?(DBConnection) do
      {:ok, _} = Application.ensure_all_started(:db_connection)
      path = Path.join(dir, "bench.db")
      # Five that make it at once would be in each other's way.
      :ok = path |> then(&Direct.connect(Lib.Sqlite3, &1, synchronous)) |> Lib.Sqlite3.close()
      Lib.start_link([database: path, pool_size: @pool] ++ Side.options(synchronous))
    else
      {:missing, "MACULA_BENCH_PEERS names no directory that has it and db_connection"}
    end
  end

  def run(pool, sql) do
    with {:ok, _} <- Lib.query(pool, sql), do: :ok
  end

  def client(pool), do: pool

  def prepare(pool, sql) do
    {:ok, query} = Lib.prepare(pool, "", sql, timeout: :infinity, queue: true)
    {pool, query}
  end

  def write(_pool, {pool, query}, params) do
    case Lib.execute(pool, query, params) do
      {:ok, _, _} -> :ok
      {:error, reason} -> {:error, Side.reason(reason)}
    end
  end

  # How many rows it takes at a time is a setting of the pool, 50 unless told.
  def rows(_pool, {pool, query}, params, _chunk) do
    case Lib.execute(pool, query, params) do
      {:ok, _, result} -> result.rows
      {:error, reason} -> {:error, Side.reason(reason)}
    end
  end

  def insert_many(pool, sql, rows) do
    insert = fn conn ->
      {:ok, query} = Lib.prepare(conn, "", sql)
      for row <- rows, do: {:ok, _, _} = Lib.execute(conn, query, row)
      :ok
    end

    {:ok, :ok} = Lib.transaction(pool, insert, timeout: :infinity, mode: :immediate)
    :ok
  end

  def each(pool, sql, fun) do
    read = fn conn ->
      {:ok, query} = Lib.prepare(conn, "", sql)

      conn
      |> DBConnection.stream(query, [])
      |> Enum.each(fn result -> Enum.each(result.rows, fun) end)
    end

    {:ok, :ok} = Lib.transaction(pool, read, timeout: :infinity)
    :ok
  end

  def close(pool), do: GenServer.stop(pool)
end

defmodule MaculaStorage.Bench.Sqlite.P1 do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Side

  def name, do: "p1_sqlite3"

  def note,
    do: "One connection in a process that all share; checkpoints at 1,000 pages."

  def open(dir, synchronous) do
    if Code.ensure_loaded?(:sqlite3) do
      {:ok, db} = :sqlite3.open(:anonymous, file: ~c"#{dir}/bench.db")
      for pragma <- Side.pragmas(synchronous), do: :ok = run(db, pragma)
      {:ok, db}
    else
      {:missing, "not on this machine (Debian's package erlang-p1-sqlite3)"}
    end
  end

  def run(db, sql), do: done(:sqlite3.sql_exec_timeout(db, sql, :infinity))
  def client(db), do: db
  # To prepare takes more messages than it spares.
  def write(db, sql, params), do: done(:sqlite3.sql_exec_timeout(db, sql, params, :infinity))

  def rows(db, sql, params, _chunk) do
    case :sqlite3.sql_exec_timeout(db, sql, params, :infinity) do
      [columns: _, rows: rows] -> rows
      error -> done(error)
    end
  end

  defp done({:error, code, message}), do: {:error, Side.reason("#{code} #{message}")}
  defp done({:error, reason}), do: {:error, reason}
  defp done(_), do: :ok

  def insert_many(db, sql, rows) do
    :ok = run(db, "BEGIN IMMEDIATE")
    {:ok, statement} = :sqlite3.prepare(db, sql)

    for row <- rows do
      :ok = :sqlite3.bind_timeout(db, statement, row, :infinity)
      :done = :sqlite3.next_timeout(db, statement, :infinity)
      :ok = :sqlite3.reset_timeout(db, statement, :infinity)
    end

    :ok = :sqlite3.finalize(db, statement)
    :ok = run(db, "COMMIT")
  end

  def close(db), do: :ok = :sqlite3.close(db)
end

defmodule MaculaStorage.Bench.Sqlite.Cli do
  @moduledoc false
  use MaculaStorage.Bench.Sqlite.Side

  alias MaculaStorage.Bench.Tree

  # What it prints of its own settings is none of ours; as ours, it leaves the log when it ends.
  @quiet ".output /dev/null"
  @loud ".output stdout"
  @leave_log ".dbconfig no_ckpt_on_close on"

  def name, do: "sqlite3 command line"
  def note, do: "A process for each call, its start included; checkpoints at 1,000 pages."

  def open(dir, synchronous) do
    if System.find_executable("sqlite3"),
      do: {:ok, {Path.join(dir, "bench.db"), synchronous}},
      else: {:missing, "not on this machine (Debian's package sqlite3)"}
  end

  def run(store, sql) do
    "" = commands(store, ["#{sql};"])
    :ok
  end

  def client(store), do: store
  def write(store, sql, []), do: run(store, sql)

  # As text, which nobody decodes.
  def rows(store, sql, [], _chunk),
    do: store |> commands(["#{sql};"]) |> String.split("\n", trim: true) |> Enum.map(&[&1])

  @doc "Lines that it reads from a file of commands; what it prints."
  def commands({path, _} = store, lines) do
    script = "#{path}.commands"
    File.write!(script, Enum.intersperse(settings(store) ++ lines, "\n"))
    read(store, script)
  end

  @doc "The lines that must come before any others."
  def settings({_path, synchronous}) do
    pragmas = Enum.map(Side.pragmas(synchronous), &"#{&1};")
    [".bail on", @quiet, @leave_log] ++ pragmas ++ [@loud]
  end

  @doc "Has it read a file of commands; what it prints."
  def read({path, _}, script),
    do: Tree.run!("sh", ["-c", "sqlite3 -batch \"$0\" < \"$1\"", path, script])

  # The text of values is not what is measured.
  def insert_many(store, sql, rows) do
    [insert, _] = String.split(sql, " VALUES ")
    inserts = for row <- rows, do: "#{insert} VALUES (#{Enum.map_join(row, ", ", &literal/1)});"
    "" = commands(store, ["BEGIN;"] ++ inserts ++ ["COMMIT;"])
    :ok
  end

  @doc "A value as SQL text."
  def literal({:blob, bytes}), do: "x'#{Base.encode16(bytes)}'"
  def literal(text) when is_binary(text), do: "'#{String.replace(text, "'", "''")}'"
  def literal(number), do: "#{number}"

  def close(_store), do: :ok
end
