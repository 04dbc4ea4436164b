defmodule MaculaStorage.SQLiteFullChild do
  @moduledoc """
  What the children of SQLite's full disk test do, told by lines: fill an app's database until the disk is
  full, and look at all that is there.

  Invariant: `ack N` is printed for the last row that was acknowledged before `full`; what is looked at is
  1..N without a gap, each whole and in both tables.
  """
  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3

  @app "full"
  # a checkpoint may make room: writes are tried again for so long before the disk counts as full
  @patience_ms 1_500

  @doc "Fill, then do as told."
  def fill do
    start()
    refill()
    serve()
  end

  @doc "Look, then do as told."
  def look do
    start()
    whole()
    serve()
  end

  defp start do
    {:ok, _} = Application.ensure_all_started(:macula_storage)
  end

  defp serve do
    case IO.gets("") do
      "fill\n" -> refill()
      "look\n" -> whole()
      "refused\n" -> refused()
    end

    serve()
  end

  defp refill do
    schema =
      "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v); " <>
        "CREATE TABLE IF NOT EXISTS twins (n INTEGER PRIMARY KEY)"

    :ok = SQLite.execute(@app, schema)
    n = write_on(count() + 1, now())
    ^n = count()
    IO.puts("ack #{n}")
    IO.puts("full")
  end

  defp write_on(n, since) do
    case write(rem(n, 3), n, {:blob, content(n)}) do
      :ok ->
        write_on(n + 1, now())

      {:error, :disk_full} ->
        if now() - since < @patience_ms, do: write_on(n, since), else: n - 1
    end
  end

  defp write(0, n, v) do
    with {:ok, _} <-
           SQLite.batch(@app, [
             {"INSERT INTO t VALUES (?, ?)", [n, v]},
             {"INSERT INTO twins VALUES (?)", [n]}
           ]),
         do: :ok
  end

  defp write(1, n, v) do
    inside = fn tx ->
      with :ok <- SQLite.execute(tx, "INSERT INTO t VALUES (?, ?)", [n, v]),
           :ok <- SQLite.execute(tx, "INSERT INTO twins VALUES (?)", [n]) do
        :done
      else
        {:error, reason} -> SQLite.rollback(tx, reason)
      end
    end

    with {:ok, :done} <- SQLite.transaction(@app, inside), do: :ok
  end

  defp write(2, n, {:blob, v}) do
    SQLite.execute(
      @app,
      "INSERT INTO t VALUES (#{n}, x'#{Base.encode16(v)}'); INSERT INTO twins VALUES (#{n})"
    )
  end

  # Every way to write says that the disk is full, and what it does not say is done is not done.
  defp refused do
    n = count() + 1
    large = {:blob, :rand.bytes(3_000_000)}
    sql = "INSERT INTO t VALUES (?, ?)"
    {:error, :disk_full} = SQLite.execute(@app, sql, [n, large])
    {:error, :disk_full} = SQLite.query(@app, sql <> " RETURNING n", [n, large])
    {:error, :disk_full} = SQLite.batch(@app, [{sql, [n, large]}])
    {:error, :disk_full} = SQLite.execute_many(@app, sql, [[n, large]])

    {:error, :disk_full} =
      SQLite.transaction(@app, fn tx ->
        {:error, reason} = SQLite.execute(tx, sql, [n, large])
        SQLite.rollback(tx, reason)
      end)

    copy = SQLite.db_path(@app) <> ".copy"
    {:error, :disk_full} = SQLite.backup(@app, copy)
    false = File.exists?(copy)

    {:ok, conn} = Sqlite3.open(SQLite.db_path(@app))
    {:ok, insert} = Sqlite3.prepare(conn, sql)
    :ok = Sqlite3.bind(insert, [n, large])
    {:error, "database or disk is full"} = Sqlite3.step(conn, insert)
    :ok = Sqlite3.close(conn)
    IO.puts("refused to #{count()}")
  end

  defp whole do
    IO.puts("whole #{count()}")
    IO.puts("looked")
  end

  defp count do
    {:ok, %{rows: [["ok"]]}} = SQLite.query(@app, "PRAGMA integrity_check", [], timeout: 60_000)
    sql = "SELECT t.n, v, twins.n FROM t FULL JOIN twins USING (n) ORDER BY t.n"

    Enum.reduce(SQLite.stream(@app, sql), 0, fn [n, value, n], before ->
      true = n == before + 1
      true = value == content(n)
      n
    end)
  end

  # noise, the same each time
  defp content(n) do
    {noise, _} = :rand.bytes_s(500 + rem(n * 37, 5000), :rand.seed_s(:exsss, n))
    noise
  end

  defp now, do: System.monotonic_time(:millisecond)
end
