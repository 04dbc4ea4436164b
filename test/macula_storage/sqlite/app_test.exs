defmodule MaculaStorage.SQLite.AppTest do
  @moduledoc "The app's database beyond single statements: many rows, batches, streams, hot reads, its care."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite, Wait}

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    %{app: app}
  end

  defp count(app, where \\ "1"),
    do:
      with(
        {:ok, %{rows: [[n]]}} <- SQLite.query(app, "SELECT count(*) FROM t WHERE #{where}"),
        do: n
      )

  describe "execute_many" do
    test "any enumerable, in parts, all or nothing", %{app: app} do
      rows = Stream.map(1..12_000, &[&1, "v#{&1}"])
      assert {:ok, 12_000} = SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", rows)
      assert count(app) == 12_000
      assert {:ok, 0} = SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", [])

      # the last row of the last part is there already
      rows = Stream.map(1..11_000, &[if(&1 == 11_000, do: 1, else: 20_000 + &1), "w"])

      assert {:error, %Error{kind: :sql}} =
               SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", rows)

      assert count(app) == 12_000

      assert {:ok, 3} =
               SQLite.execute_many(app, "DELETE FROM t WHERE id = ?", [[1], [2], [3], [1]])
    end

    test "inside a transaction, and what is no row", %{app: app} do
      assert {:error, :enough} =
               SQLite.transaction(app, fn tx ->
                 {:ok, 2} =
                   SQLite.execute_many(tx, "INSERT INTO t VALUES (?, ?)", [[1, nil], [2, nil]])

                 SQLite.rollback(tx, :enough)
               end)

      assert count(app) == 0

      assert_raise ArgumentError, fn ->
        SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", [1])
      end

      assert {:error, %Error{kind: :invalid}} =
               SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", [[1, 1], [2]])

      assert {:error, %Error{}} =
               SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?); SELECT 1", [[1, 1]])

      assert count(app) == 0
    end
  end

  test "a batch is one transaction with a result for each", %{app: app} do
    assert {:ok, [first, second, third]} =
             SQLite.batch(app, [
               {"INSERT INTO t VALUES (?, ?)", [1, "a"]},
               {"INSERT INTO t VALUES (:id, :v) RETURNING id", %{id: 2, v: {:blob, "b"}}},
               "SELECT id, v FROM t"
             ])

    assert {first.changes, first.last_insert_rowid} == {1, 1}
    assert second.rows == [[2]]
    assert {third.columns, third.rows} == {["id", "v"], [[1, "a"], [2, "b"]]}

    assert {:error, %Error{kind: :sql}} =
             SQLite.batch(app, [
               "DELETE FROM t",
               {"INSERT INTO t VALUES (?, ?)", [1, "a"]},
               "SELECT 1 FROM nowhere"
             ])

    assert count(app) == 2
    assert {:ok, []} = SQLite.batch(app, [])

    # our own COMMIT is prepared already, past the authorizer: it ended the transaction of the batch
    for sql <- ["COMMIT", "ROLLBACK", "SAVEPOINT macula_member", "RELEASE macula_member"],
        do: assert({:error, %Error{kind: :invalid}} = SQLite.batch(app, ["DELETE FROM t", sql]))

    assert {:error, :unsupported} = SQLite.batch(app, ["SELECT 1", "ATTACH 'x' AS x"])
    assert count(app) == 2

    # many at once: each fails or not alone
    answers =
      1..40
      |> Enum.map(fn n ->
        Task.async(fn ->
          id = if rem(n, 4) == 0, do: 1, else: 100 + n

          SQLite.batch(app, [
            {"INSERT INTO t VALUES (?, 'x')", [1000 + n]},
            {"INSERT INTO t VALUES (?, 'x')", [id]}
          ])
        end)
      end)
      |> Task.await_many()

    assert Enum.count(answers, &match?({:ok, _}, &1)) == 30
    assert count(app, "v = 'x'") == 60
  end

  test "a stream reads its instant in pages, and ends with its reader", %{app: app} do
    {:ok, _} =
      SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", for(n <- 1..5_000, do: [n, n]))

    stream =
      SQLite.stream(app, "SELECT id FROM t WHERE id > :from ORDER BY id", [from: 10],
        page_rows: 100
      )

    read =
      Enum.map(stream, fn [id] ->
        if id == 11, do: SQLite.execute(app, "DELETE FROM t WHERE id > 2000")
        id
      end)

    assert read == Enum.to_list(11..5_000)
    assert Enum.take(stream, 3) == [[11], [12], [13]]
    assert Enum.count(stream) == 1_990
    # nothing of them is left that would keep the log from being cut
    assert :ok = SQLite.vacuum(app)

    assert_raise Error, fn -> Enum.to_list(SQLite.stream(app, "SELECT * FROM nowhere")) end
    assert_raise Error, fn -> Enum.to_list(SQLite.stream(app, "DELETE FROM t")) end
    assert_raise Error, fn -> Enum.to_list(SQLite.stream(app, "ATTACH '/tmp/x' AS x")) end
    assert_raise ArgumentError, fn -> SQLite.stream(app, "SELECT 1", [], page_rows: 0) end
    assert count(app) == 2_000
  end

  test "a short read is answered at once the third time, and is what is committed", %{app: app} do
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 'one')")
    read = fn -> SQLite.query(app, "SELECT * FROM t WHERE id = ?", [1]) end
    hot = fn -> with {:ok, stats} <- SQLite.stats(app), do: stats.hot_reads end

    Wait.until("it is hot", fn ->
      assert {:ok, %{columns: ["id", "v"], rows: [[1, "one"]]}} = read.()
      hot.() > 0
    end)

    for n <- 1..100 do
      :ok = SQLite.execute(app, "UPDATE t SET v = ? WHERE id = 1", [n])
      assert {:ok, %{rows: [[1, ^n]]}} = read.()
    end

    assert hot.() > 50
    # the schema is noticed
    :ok = SQLite.execute(app, "ALTER TABLE t ADD COLUMN w DEFAULT 7")
    assert {:ok, %{columns: ["id", "v", "w"], rows: [[1, 100, 7]]}} = read.()
    assert {:ok, %{columns: ["id", "v", "w"], rows: [[1, 100, 7]]}} = read.()

    assert {:error, %Error{kind: :invalid}} =
             SQLite.query(app, "SELECT * FROM t WHERE id = ?", [1, 2])

    :ok = SQLite.execute(app, "DROP TABLE t")
    assert {:error, %Error{kind: :sql}} = read.()
  end

  test "a long read never holds a scheduler, however often it is asked for", %{app: app} do
    {:ok, _} =
      SQLite.execute_many(app, "INSERT INTO t VALUES (?, ?)", for(n <- 1..2_000, do: [n, n]))

    long = fn -> SQLite.query(app, "SELECT count(*) FROM t a, t b WHERE a.id > b.id") end
    for _ <- 1..6, do: assert({:ok, %{rows: [[1_999_000]]}} = long.())
    large = fn -> SQLite.query(app, "SELECT zeroblob(1000000)") end
    for _ <- 1..6, do: assert({:ok, %{rows: [[<<0, _::binary>>]]}} = large.())
    assert {:ok, %{hot_reads: 0}} = SQLite.stats(app)
  end

  test "statistics name who has the writer, and what was slow", %{app: app} do
    test = self()

    holder =
      Task.async(fn ->
        SQLite.transaction(app, fn tx ->
          :ok = SQLite.execute(tx, "INSERT INTO t VALUES (1, 1)")
          send(test, :held)
          receive do: (:go_on -> :ok)
        end)
      end)

    assert_receive :held
    waiting = Task.async(fn -> SQLite.execute(app, "INSERT INTO t VALUES (2, 2)") end)
    Wait.until("it waits", fn -> match?({:ok, %{writes_waiting: 1}}, SQLite.stats(app)) end)
    pid = holder.pid
    assert {:ok, %{holder: {:transaction, ms, ^pid}}} = SQLite.stats(app)
    assert ms >= 0
    send(holder.pid, :go_on)
    assert {:ok, :ok} = Task.await(holder)
    assert :ok = Task.await(waiting)
    {:ok, conn} = SQLite.Sqlite3.open(SQLite.db_path(app))
    :ok = SQLite.Sqlite3.execute(conn, "BEGIN IMMEDIATE")
    assert {:ok, %{holder: {:connection, _, ^test}}} = SQLite.stats(app)
    :ok = SQLite.Sqlite3.close(conn)

    assert {:error, :timeout} = SQLite.query(app, @endless, [], timeout: 300)
    assert {:ok, %{holder: nil, commits: commits, slow: [slow]}} = SQLite.stats(app)
    assert commits >= 3
    assert slow.sql == @endless
    assert slow.took_ms >= 100
  end

  test "vacuum gives room back, and what must not wait for it does not", %{app: app} do
    :ok =
      SQLite.execute(
        app,
        "INSERT INTO t SELECT value, randomblob(100000) FROM json_each('[1,2,3,4,5,6,7,8]')"
      )

    :ok = SQLite.execute(app, "DELETE FROM t WHERE id > 1")
    {:ok, before} = SQLite.stats(app)
    assert :ok = SQLite.vacuum(app)
    assert :ok = SQLite.integrity_check(app)
    assert :ok = SQLite.optimize(app)

    Wait.until("the log is cut", fn ->
      {:ok, stats} = SQLite.stats(app)
      stats.file_bytes < before.file_bytes / 2
    end)

    assert count(app) == 1
    assert {:error, :unsupported} = SQLite.execute(app, "VACUUM")
  end

  test "a damaged database is named", %{app: app} do
    {:ok, _} =
      SQLite.execute_many(
        app,
        "INSERT INTO t VALUES (?, ?)",
        for(n <- 1..2_000, do: [n, "value #{n}"])
      )

    :ok = MaculaStorage.close_app(app)
    path = SQLite.db_path(app)
    bytes = File.read!(path)
    middle = div(byte_size(bytes), 8192) * 4096

    File.write!(path, [
      binary_part(bytes, 0, middle),
      :binary.copy(<<0xA5>>, 4096),
      binary_part(bytes, middle + 4096, byte_size(bytes) - middle - 4096)
    ])

    assert {:error, %Error{kind: :corrupt}} = SQLite.integrity_check(app)
  end
end
