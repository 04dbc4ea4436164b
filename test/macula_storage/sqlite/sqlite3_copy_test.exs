defmodule MaculaStorage.SQLite.Sqlite3CopyTest do
  @moduledoc "Copies, restores, limits and checkpoints of low-level connections."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3

  @rows "CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t SELECT value, zeroblob(3000) FROM " <>
          "(WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM c LIMIT 2000) SELECT value FROM c)"

  defp open(path) do
    {:ok, conn} = Sqlite3.open(path)
    conn
  end

  defp one(conn, sql) do
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    {:row, [found]} = Sqlite3.step(conn, stmt)
    Sqlite3.release(conn, stmt)
    found
  end

  test "into a new file, into one that is there, and back" do
    dir = unique_dir()
    conn = open(":memory:")
    :ok = Sqlite3.execute(conn, @rows)
    dest = Path.join(dir, "copy.db")
    test = self()
    tell = fn progress -> send(test, {:told, progress}) end
    assert :ok = Sqlite3.backup(conn, dest, progress: tell)
    assert_received {:told, %{bytes_done: done, bytes_total: total}} when done <= total
    assert {:error, :exists} = Sqlite3.backup(conn, dest)
    copy = open(dest)
    assert one(copy, "SELECT count(*) FROM t") == 2000
    :ok = Sqlite3.execute(conn, "DELETE FROM t WHERE id > 10")
    assert :ok = Sqlite3.backup(conn, dest, overwrite: true)
    # who had it open sees it
    assert one(copy, "SELECT count(*) FROM t") == 10
    :ok = Sqlite3.execute(conn, "DROP TABLE t")
    assert :ok = Sqlite3.restore(conn, dest)
    assert one(conn, "SELECT count(*) FROM t") == 10
    assert {:error, message} = Sqlite3.restore(conn, Path.join(dir, "none.db"))
    assert message =~ "unable to open"
    assert one(conn, "SELECT count(*) FROM t") == 10
    File.write!(Path.join(dir, "no.db"), String.duplicate("not a database", 100))

    assert {:error, "file is not a database"} =
             Sqlite3.backup(conn, Path.join(dir, "no.db"), overwrite: true)

    assert %{reason: :notadb} = Sqlite3.last_error(conn)
    assert {:error, _} = Sqlite3.backup(conn, Path.join(dir, "no/such.db"))
    assert_raise ArgumentError, fn -> Sqlite3.backup(conn, copy, overwrite: true) end
    assert {:error, _} = Sqlite3.backup(conn, conn)
  end

  test "while it is made, others write and its own connection answers; given up, it leaves nothing" do
    dir = unique_dir()
    path = Path.join(dir, "a.db")
    [conn, other] = [open(path), open(path)]
    :ok = Sqlite3.execute(conn, "PRAGMA journal_mode=WAL; " <> @rows)

    write = fn _progress ->
      :ok = Sqlite3.execute(other, "INSERT INTO t(b) VALUES (1)")
      true = one(conn, "SELECT count(*) FROM t") > 2000
    end

    assert :ok = Sqlite3.backup(conn, Path.join(dir, "copy.db"), progress: write)
    assert one(open(Path.join(dir, "copy.db")), "SELECT count(*) FROM t") == 2000

    # a progress function that raises gives it up, if it is not done by then
    given_up = Path.join(dir, "given_up.db")

    assert_raise RuntimeError, fn ->
      Sqlite3.backup(conn, given_up, progress: fn _ -> raise "enough" end)
    end

    # locked by others for longer than it waits
    [conn, other] = for _ <- 1..2, do: open(Path.join(dir, "b.db"))
    :ok = Sqlite3.execute(other, "CREATE TABLE t(x); BEGIN EXCLUSIVE")
    :ok = Sqlite3.set_busy_timeout(conn, 60_000)
    late = Path.join(dir, "late.db")
    assert {:error, :timeout} = Sqlite3.backup(conn, late, timeout: 100)
    :ok = Sqlite3.set_busy_timeout(conn, 0)
    assert {:error, "database is locked"} = Sqlite3.backup(conn, Path.join(dir, "busy.db"))
    :ok = Sqlite3.execute(other, "COMMIT")

    MaculaStorage.Wait.until("nothing is left", fn ->
      Enum.all?(["late", "busy"], &(Path.wildcard("#{dir}/#{&1}*") == []))
    end)
  end

  test "an app's file is copied from, never over, and checkpointed by itself" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t(x)")
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1)")
    path = SQLite.db_path(app)
    conn = open(path)
    dest = Path.join(unique_dir(), "copy.db")
    assert :ok = Sqlite3.backup(conn, dest)

    for refused <- [
          Sqlite3.restore(conn, dest),
          Sqlite3.backup(open(dest), path, overwrite: true),
          Sqlite3.backup(open(dest), conn),
          Sqlite3.wal_checkpoint(conn, :truncate)
        ] do
      assert {:error, "not authorized: " <> _hint} = refused
    end

    assert %{reason: :auth} = Sqlite3.last_error(conn)
    assert {:ok, %{rows: [[1]]}} = SQLite.query(app, "SELECT x FROM t")
  end

  test "checkpoints and limits" do
    path = Path.join(unique_dir(), "a.db")
    conn = open(path)
    none = %{log_pages: nil, checkpointed_pages: nil}
    assert {:ok, ^none} = Sqlite3.wal_checkpoint(conn, :full)
    :ok = Sqlite3.execute(conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
    {:ok, reader} = Sqlite3.open(path)
    :ok = Sqlite3.execute(reader, "BEGIN; SELECT * FROM t")
    :ok = Sqlite3.execute(conn, "INSERT INTO t VALUES (1)")
    {:ok, %{log_pages: log, checkpointed_pages: done}} = Sqlite3.wal_checkpoint(conn)
    assert log > done
    :ok = Sqlite3.set_busy_timeout(conn, 0)
    assert {:error, "database is locked"} = Sqlite3.wal_checkpoint(conn, :truncate)
    :ok = Sqlite3.execute(reader, "COMMIT")

    assert {:ok, %{log_pages: 0, checkpointed_pages: 0}} = Sqlite3.wal_checkpoint(conn, :truncate)

    for name <-
          ~w(length sql_length column expr_depth compound_select vdbe_op function_arg attached
                   like_pattern_length variable_number trigger_depth worker_threads)a do
      assert {:ok, before} = Sqlite3.limit(conn, name)
      assert {:ok, ^before} = Sqlite3.set_limit(conn, name, 3)
    end

    assert {:ok, 3} = Sqlite3.limit(conn, :variable_number)
    assert {:ok, 3} = Sqlite3.set_limit(conn, :attached, 1_000_000_000_000)
    assert {:ok, most} = Sqlite3.limit(conn, :attached)
    assert most <= 125
    assert_raise ArgumentError, fn -> Sqlite3.limit(conn, :other) end
    assert_raise FunctionClauseError, fn -> Sqlite3.set_limit(conn, :column, -1) end
  end
end
