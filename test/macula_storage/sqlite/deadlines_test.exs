defmodule MaculaStorage.SQLite.DeadlinesTest do
  @moduledoc "SQL that never ends is interrupted by its deadline, whoever runs it, and the writer goes on at once."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite}
  alias MaculaStorage.SQLite.Sqlite3

  @deadline_ms 200
  # from the deadline to the answer, on a machine with other work
  @late_ms 5_000

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"

  # one row, then none for ever
  @one_and_no_more "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) " <>
                     "SELECT n FROM c WHERE n = 1"

  setup do
    app = unique_app()

    :ok =
      SQLite.execute(app, """
      CREATE TABLE t (n);
      CREATE TABLE trap (n);
      CREATE VIEW endless AS #{@endless};
      CREATE TRIGGER trapped AFTER INSERT ON trap BEGIN INSERT INTO t SELECT * FROM endless; END;
      """)

    {:ok, app: app}
  end

  defp interrupted(app, run) do
    {us, result} = :timer.tc(run)
    assert result == {:error, :timeout}
    assert us < (@deadline_ms + @late_ms) * 1000
    goes_on(app)
  end

  # nothing of it is there, and nothing of it runs: the writer and both readers are free
  defp goes_on(app) do
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (1)", [], timeout: @late_ms)
    reads = for _ <- 1..4, do: Task.async(fn -> count(app) end)
    assert Enum.uniq(Task.await_many(reads, @late_ms)) == [{1, 0}]
    assert :ok = SQLite.execute(app, "DELETE FROM t", [], timeout: @late_ms)
  end

  defp count(app) do
    sql = "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM trap)"
    {:ok, %{rows: [[n, trapped]]}} = SQLite.query(app, sql, [], timeout: @late_ms)
    {n, trapped}
  end

  for {what, sql} <- [
        reads: @endless,
        "reads a view": "SELECT * FROM endless",
        "writes and returns": "INSERT INTO trap VALUES (1) RETURNING n",
        "gives one row": @one_and_no_more
      ] do
    test "query: it #{what}", %{app: app} do
      interrupted(app, fn -> SQLite.query(app, unquote(sql), [], timeout: @deadline_ms) end)
    end
  end

  for {what, sql} <- [
        "one statement": "INSERT INTO t " <> @endless,
        "a trigger": "INSERT INTO trap VALUES (1)",
        "the last of several":
          "INSERT INTO t VALUES (7); UPDATE t SET n = 8; SELECT * FROM endless",
        "a condition": "DELETE FROM t WHERE n < (SELECT * FROM endless)",
        "an index": "CREATE TABLE u AS SELECT * FROM endless"
      ] do
    test "execute: #{what}", %{app: app} do
      :ok = SQLite.execute(app, "INSERT INTO t VALUES (0)")

      assert {:error, :timeout} = SQLite.execute(app, unquote(sql), [], timeout: @deadline_ms)

      assert {1, 0} = count(app)
      :ok = SQLite.execute(app, "DELETE FROM t")
      goes_on(app)
    end
  end

  test "batch", %{app: app} do
    statements = ["INSERT INTO t VALUES (5)", {"INSERT INTO trap VALUES (?)", [1]}]
    interrupted(app, fn -> SQLite.batch(app, statements, timeout: @deadline_ms) end)
  end

  test "execute_many", %{app: app} do
    rows = for n <- 1..10, do: [n]
    sql = "INSERT INTO trap VALUES (?)"
    interrupted(app, fn -> SQLite.execute_many(app, sql, rows, timeout: @deadline_ms) end)
  end

  test "a read in a transaction, which goes on without it", %{app: app} do
    result =
      SQLite.transaction(app, fn tx ->
        :ok = SQLite.execute(tx, "INSERT INTO t VALUES (5)")
        assert {:error, :timeout} = SQLite.query(tx, @endless, [], timeout: @deadline_ms)
        assert {:ok, %{rows: [[1]]}} = SQLite.query(tx, "SELECT count(*) FROM t")
        :ok = SQLite.execute(tx, "DELETE FROM t")
      end)

    assert result == {:ok, :ok}
    goes_on(app)
  end

  # SQLite undoes all of a transaction when it interrupts a write of it
  test "a write in a transaction, which is undone and says so", %{app: app} do
    for run <- [&SQLite.execute/4, &SQLite.query/4, &run_many/4, &run_batch/4] do
      result =
        SQLite.transaction(app, fn tx ->
          :ok = SQLite.execute(tx, "INSERT INTO t VALUES (5)")
          sql = "INSERT INTO trap VALUES (?)"
          assert {:error, :timeout} = run.(tx, sql, [1], timeout: @deadline_ms)
          assert {:error, error} = SQLite.execute(tx, "INSERT INTO t VALUES (6)")
          assert Exception.message(error) =~ "rolled back by an earlier failure: deadline passed"
          :committed
        end)

      assert {:error, _} = result
      goes_on(app)
    end
  end

  defp run_many(tx, sql, row, options), do: SQLite.execute_many(tx, sql, [row], options)
  defp run_batch(tx, sql, row, options), do: SQLite.batch(tx, [{sql, row}], options)

  test "a transaction's own deadline, whatever its statement has", %{app: app} do
    {us, result} =
      :timer.tc(fn ->
        SQLite.transaction(
          app,
          fn tx ->
            :ok = SQLite.execute(tx, "INSERT INTO t VALUES (5)")
            SQLite.query(tx, @endless, [], timeout: 3_600_000)
          end,
          timeout: 1_000
        )
      end)

    assert {:error, reason} = result
    assert reason in [:timeout, :closed]
    assert us < (1_000 + @late_ms) * 1000
    goes_on(app)
  end

  test "a stream", %{app: app} do
    {us, error} =
      :timer.tc(fn ->
        assert_raise Error, fn ->
          app |> SQLite.stream(@one_and_no_more, [], timeout: @deadline_ms) |> Enum.to_list()
        end
      end)

    assert error.kind == :timeout
    assert us < (@deadline_ms + @late_ms) * 1000
    goes_on(app)

    # each page has its own time: a slow reader has all the time of the world
    slow =
      app
      |> SQLite.stream("SELECT value FROM json_each('[1, 2, 3, 4]')", [],
        timeout: @deadline_ms,
        page_rows: 1
      )
      |> Stream.each(fn _ -> receive do: (:never -> :ok), after: (@deadline_ms -> :ok) end)

    assert Enum.to_list(slow) == [[1], [2], [3], [4]]
  end

  test "a stream that never ends is ended with its process", %{app: app} do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        app
        |> SQLite.stream(@one_and_no_more, [], page_rows: 1, timeout: 3_600_000)
        |> Enum.each(&send(test, {:row, &1}))
      end)

    assert_receive {:row, [1]}, 60_000
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    goes_on(app)
  end

  test "a low-level step is interrupted by another process, and by the end of its own", %{
    app: app
  } do
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))
    {:ok, insert} = Sqlite3.prepare(conn, "INSERT INTO trap VALUES (1)")
    step = Task.async(fn -> Sqlite3.step(conn, insert) end)
    assert {:error, "interrupted"} = interrupted_step(conn, step)
    goes_on(app)

    {pid, ref} = spawn_monitor(fn -> Sqlite3.step(conn, insert) end)
    # it runs when a write of the app's has to wait for it
    assert {:error, :timeout} = wait_for_turn(app)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    goes_on(app)
    :ok = Sqlite3.close(conn)
  end

  # one that comes before the step does nothing
  defp interrupted_step(conn, step) do
    :ok = Sqlite3.interrupt(conn)

    case Task.yield(step, 20) do
      nil -> interrupted_step(conn, step)
      {:ok, result} -> result
    end
  end

  defp wait_for_turn(app) do
    with :ok <- SQLite.execute(app, "DELETE FROM t WHERE n < 0", [], timeout: 50),
         do: wait_for_turn(app)
  end
end
