defmodule MaculaStorage.SQLite.Sqlite3Test do
  @moduledoc "The low-level floor in the shapes of `Exqlite.Sqlite3`, whose own tests it passes beside these."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{SQLite, Wait}
  alias MaculaStorage.SQLite.Sqlite3

  doctest MaculaStorage.SQLite.Sqlite3
  doctest MaculaStorage.SQLite.Sqlite3.Functions

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"

  defp memory do
    {:ok, conn} = Sqlite3.open(":memory:")
    conn
  end

  defp prepared(conn, sql) do
    {:ok, stmt} = Sqlite3.prepare(conn, sql)
    stmt
  end

  defp row(conn, sql) do
    stmt = prepared(conn, sql)
    {:row, row} = Sqlite3.step(conn, stmt)
    row
  end

  test "modes, paths and what cannot be opened" do
    dir = unique_dir()
    path = Path.join(dir, "a.db")
    assert {:error, :database_open_failed} = Sqlite3.open(path, mode: :readwrite)
    assert {:error, :database_open_failed} = Sqlite3.open(Path.join(dir, "no/a.db"))
    {:ok, conn} = Sqlite3.open(path)
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    {:ok, reader} = Sqlite3.open("file:#{path}?mode=ro", mode: :readonly)
    assert row(reader, "SELECT x FROM t") == [1]

    assert {:error, "attempt to write a readonly database"} =
             Sqlite3.execute(reader, "DELETE FROM t")

    for mode <- [:nomutex, :other, [:readwrite, :other], "w"],
        do: assert_raise(ArgumentError, fn -> Sqlite3.open(path, mode: mode) end)

    assert :ok = Sqlite3.close(conn)
    assert :ok = Sqlite3.close(conn)
    assert :ok = Sqlite3.close(nil)
    assert {:error, :connection_closed} = Sqlite3.execute(conn, "SELECT 1")
    assert {:error, :connection_closed} = Sqlite3.changes(conn)
    assert {:ok, :error} = Sqlite3.transaction_status(conn)
  end

  test "values both ways, by position and by name" do
    conn = memory()
    values = [nil, 0, -0x8000_0000_0000_0000, 1.5, "", "é", {:blob, <<0, 255>>}, {:blob, ""}]
    stmt = prepared(conn, "SELECT ?, ?, ?, ?, ?, ?, ?, ?")
    assert Sqlite3.bind_parameter_count(stmt) == 8
    :ok = Sqlite3.bind(stmt, values)
    expected = [nil, 0, -0x8000_0000_0000_0000, 1.5, "", "é", <<0, 255>>, ""]
    assert {:row, ^expected} = Sqlite3.step(conn, stmt)
    assert :done = Sqlite3.step(conn, stmt)

    one = prepared(conn, "SELECT typeof(?1), ?1")

    for {value, type, back} <- [
          {:an_atom, "text", "an_atom"},
          {:undefined, "null", nil},
          {true, "text", "true"},
          {["io", ?l, "ist"], "text", "iolist"},
          {{:blob, [1, <<2>>]}, "blob", <<1, 2>>},
          {~D[2026-11-26], "text", "2026-11-26"},
          {~T[01:02:03], "text", "01:02:03"},
          {~N[2026-11-26 01:02:03], "text", "2026-11-26T01:02:03"},
          {~U[2026-11-26 01:02:03Z], "text", "2026-11-26T01:02:03"}
        ] do
      :ok = Sqlite3.bind(one, [value])
      assert {:row, [^type, ^back]} = Sqlite3.step(conn, one)
    end

    named = prepared(conn, "SELECT :a, @b, $c")
    :ok = Sqlite3.bind(named, %{":a" => 1, :"@b" => 2, "$c" => 3})
    assert {:row, [1, 2, 3]} = Sqlite3.step(conn, named)
    assert {:ok, [":a", "@b", "$c"]} = Sqlite3.columns(conn, named)

    for bad <- [
          [1],
          [1, 2, 3, 4],
          %{":a" => 1},
          %{":a" => 1, "@b" => 2, "c" => 3},
          [self(), 1, 2]
        ],
        do: assert_raise(ArgumentError, fn -> Sqlite3.bind(named, bad) end)

    assert :ok = Sqlite3.bind_integer(named, 1, 7)
    assert_raise MaculaStorage.Error, fn -> Sqlite3.bind_text(named, 4, "x") end
    assert_raise ArgumentError, fn -> Sqlite3.bind_integer(named, 1, 0x8000_0000_0000_0000) end
    assert {:row, [7, 2, 3]} = Sqlite3.step(conn, named)
  end

  test "large values are what they were" do
    conn = memory()
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(b)")
    blob = :crypto.strong_rand_bytes(3_000_000)
    insert = prepared(conn, "INSERT INTO t VALUES (?)")
    :ok = Sqlite3.bind(insert, [{:blob, blob}])
    assert :done = Sqlite3.step(conn, insert)
    :ok = Sqlite3.bind_blob(insert, 1, blob)
    assert :done = Sqlite3.step(conn, insert)
    assert {:ok, [[^blob], [^blob]]} = Sqlite3.fetch_all(conn, prepared(conn, "SELECT b FROM t"))
  end

  test "steps give each row once, however they are asked for" do
    conn = memory()

    numbers =
      "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 1000) SELECT n FROM c"

    stmt = prepared(conn, numbers)
    expected = for n <- 1..1000, do: [n]

    stepped = fn stepped ->
      case Sqlite3.step(conn, stmt) do
        {:row, row} -> [row | stepped.(stepped)]
        :done -> []
      end
    end

    assert stepped.(stepped) == expected
    # a statement that is done begins anew
    assert {:row, [1]} = Sqlite3.step(conn, stmt)
    assert {:rows, rows} = Sqlite3.multi_step(conn, stmt, 99)
    assert rows == Enum.slice(expected, 1, 99)
    assert {:ok, rest} = Sqlite3.fetch_all(conn, stmt)
    assert rest == Enum.drop(expected, 100)
    assert {:error, :invalid_chunk_size} = Sqlite3.multi_step(conn, stmt, 0)
    assert {:row, [1]} = Sqlite3.step(conn, stmt)
    assert :ok = Sqlite3.reset(stmt)
    assert {:row, [1]} = Sqlite3.step(conn, stmt)
    assert :ok = Sqlite3.release(conn, stmt)
    assert {:error, :invalid_statement} = Sqlite3.step(conn, stmt)
    other = memory()
    stmt = prepared(conn, "SELECT 1")
    assert_raise ArgumentError, fn -> Sqlite3.step(other, stmt) end
    assert_raise ArgumentError, fn -> Sqlite3.multi_step(other, stmt) end
  end

  test "errors are SQLite's words, and the connection goes on" do
    conn = memory()
    assert {:error, "near \"NOT\": syntax error"} = Sqlite3.prepare(conn, "NOT SQL")

    assert {:error, "no such table: t"} =
             Sqlite3.execute(conn, "CREATE TABLE u(x); SELECT * FROM t")

    :ok = Sqlite3.execute(conn, "CREATE TABLE t(x UNIQUE); INSERT INTO t VALUES (1)")
    stmt = prepared(conn, "INSERT INTO t VALUES (1)")
    assert {:error, "UNIQUE constraint failed: t.x"} = Sqlite3.step(conn, stmt)
    assert {:ok, :idle} = Sqlite3.transaction_status(conn)
    :ok = Sqlite3.execute(conn, "BEGIN; DELETE FROM t")
    assert {:ok, :transaction} = Sqlite3.transaction_status(conn)
    assert {:ok, 1} = Sqlite3.changes(conn)
    assert :done = Sqlite3.step(conn, stmt)
    assert {:ok, 1} = Sqlite3.last_insert_rowid(conn)
    :ok = Sqlite3.execute(conn, "ROLLBACK")
  end

  test "what a program tells apart of a failure" do
    conn = memory()
    assert Sqlite3.last_error(conn) == nil
    {:error, message} = Sqlite3.prepare(conn, "SELECT é, x FROM")

    assert %{reason: :error, code: 1, message: ^message, constraint: nil} =
             Sqlite3.last_error(conn)

    :ok =
      Sqlite3.execute(conn, """
      PRAGMA foreign_keys = ON;
      CREATE TABLE p(a INTEGER PRIMARY KEY, b INT, c INT NOT NULL, UNIQUE (b, c), CONSTRAINT few CHECK (a < 100))
        STRICT
      """)

    :ok = Sqlite3.execute(conn, "CREATE TABLE c(p REFERENCES p); INSERT INTO p VALUES (1, 1, 1)")

    for {sql, kind, names} <- [
          {"INSERT INTO p VALUES (2, 1, 1)", :unique, ["p.b", "p.c"]},
          {"INSERT INTO p VALUES (1, 2, 2)", :primary_key, ["p.a"]},
          {"INSERT INTO p VALUES (2, 2, NULL)", :not_null, ["p.c"]},
          {"INSERT INTO p VALUES (200, 2, 2)", :check, ["few"]},
          {"INSERT INTO p VALUES (2, 'x', 2)", :data_type, ["p.b"]},
          {"INSERT INTO c VALUES (7)", :foreign_key, []}
        ] do
      {:error, message} = Sqlite3.execute(conn, sql)
      assert %{reason: :constraint, message: ^message} = error = Sqlite3.last_error(conn)
      assert error.constraint == %{kind: kind, names: names}
    end

    # a call that does well leaves it
    :ok = Sqlite3.execute(conn, "SELECT 1")
    assert %{reason: :constraint} = Sqlite3.last_error(conn)
    {:error, _} = Sqlite3.execute(conn, "SELECT 1; SELECT nothing")
    # in the statement that failed
    assert %{reason: :error, offset: 8} = Sqlite3.last_error(conn)
    :ok = Sqlite3.set_authorizer(conn, [:pragma])
    {:error, _} = Sqlite3.execute(conn, "PRAGMA user_version")
    assert %{reason: :auth, code: 23} = Sqlite3.last_error(conn)
    assert_raise MaculaStorage.Error, fn -> Sqlite3.bind_null(prepared(conn, "SELECT 1"), 1) end
    assert %{reason: :range, code: 25} = Sqlite3.last_error(conn)
    :ok = Sqlite3.close(conn)
    assert Sqlite3.last_error(conn) == {:error, :connection_closed}
  end

  test "a lock of others is a reason, too" do
    path = Path.join(unique_dir(), "l.db")
    [one, two] = for _ <- 1..2, {:ok, conn} = Sqlite3.open(path), do: conn
    :ok = Sqlite3.execute(one, "CREATE TABLE t(x); BEGIN IMMEDIATE")
    :ok = Sqlite3.set_busy_timeout(two, 0)
    assert :busy = Sqlite3.step(two, prepared(two, "INSERT INTO t VALUES (2)"))
    assert %{reason: :busy, code: 5, message: "database is locked"} = Sqlite3.last_error(two)
    assert Sqlite3.last_error(one) == nil
    {:ok, reader} = Sqlite3.open(path, mode: :readonly)
    :ok = Sqlite3.execute(one, "COMMIT")
    {:error, _} = Sqlite3.execute(reader, "INSERT INTO t VALUES (3)")
    assert %{reason: :readonly} = Sqlite3.last_error(reader)
  end

  test "a released statement is kept for who prepares the same text again" do
    conn = memory()
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)")
    cached = fn sql -> with {:ok, stmt} <- Sqlite3.prepare_cached(conn, sql), do: stmt end
    sql = "SELECT * FROM t WHERE a > ?"
    one = cached.(sql)
    two = cached.(sql)
    :ok = Sqlite3.bind(one, [0])
    :ok = Sqlite3.bind(two, [1])
    assert {:row, [1]} = Sqlite3.step(conn, one)
    assert {:row, [2]} = Sqlite3.step(conn, two)
    :ok = Sqlite3.release(conn, one)
    :ok = Sqlite3.release(conn, two)
    assert {:error, :invalid_statement} = Sqlite3.step(conn, one)
    # reset, and what was bound is forgotten; no read of its last user is left open
    again = cached.(sql)
    assert :done = Sqlite3.step(conn, again)
    :ok = Sqlite3.bind(again, [1])
    assert {:row, [2]} = Sqlite3.step(conn, again)
    :ok = Sqlite3.release(conn, again)
    :ok = Sqlite3.execute(conn, "ALTER TABLE t ADD COLUMN b DEFAULT 7")
    again = cached.(sql)
    :ok = Sqlite3.bind(again, [1])
    assert {:row, [2, 7]} = Sqlite3.step(conn, again)
    :ok = Sqlite3.release(conn, again)
    assert {:ok, ["a", "b"]} = Sqlite3.columns(conn, cached.(sql))
    assert {:error, "no such table: u"} = Sqlite3.prepare_cached(conn, "SELECT * FROM u")
    # more than are kept
    for n <- 1..200, do: Sqlite3.release(conn, cached.("SELECT #{n}"))
    for n <- 1..200, do: assert({:row, [^n]} = Sqlite3.step(conn, cached.("SELECT #{n}")))
    assert :ok = Sqlite3.execute(conn, "DROP TABLE t")
  end

  test "functions of ours, where they are asked for" do
    conn = memory()
    assert {:error, "no such function: crc32"} = Sqlite3.prepare(conn, "SELECT crc32('')")
    :ok = Sqlite3.add_functions(conn, [:crc32])
    assert row(conn, "SELECT crc32('123456789'), crc32(NULL)") == [0xCBF43926, nil]
    assert {:error, "no such function: blake3"} = Sqlite3.prepare(conn, "SELECT blake3('')")
    :ok = Sqlite3.add_functions(conn)

    assert row(conn, "SELECT base64(x'fffe'), unbase64('//4='), unbase64('?')") == [
             "//4=",
             <<255, 254>>,
             nil
           ]

    assert [hash] = row(conn, "SELECT hex(blake3(''))")
    assert "AF1349B9F5F9A1A6A0404DEA36DCC9499BCB25C9ADC112B7CC9A93CAE41F3262" = hash
    assert row(conn, "SELECT levenshtein('né', 'nee'), levenshtein('', NULL)") == [2, nil]

    :ok =
      Sqlite3.execute(
        conn,
        "CREATE TABLE t(x); CREATE INDEX i ON t(blake3(x)); INSERT INTO t VALUES ('a')"
      )

    for {sql, message} <- [
          {"SELECT crc32(1)", "expected text or a blob, got a number"},
          {"SELECT levenshtein(hex(zeroblob(3000)), '')",
           "levenshtein compares at most 4096 characters"}
        ] do
      assert {:error, ^message} = Sqlite3.step(conn, prepared(conn, sql))
    end

    assert_raise ArgumentError, fn -> Sqlite3.add_functions(conn, [:sin]) end
  end

  test "a database is carried as bytes" do
    conn = memory()
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(x); INSERT INTO t VALUES ('here')")
    {:ok, bytes} = Sqlite3.serialize(conn)
    assert <<"SQLite format 3", 0, _::binary>> = bytes
    other = memory()
    :ok = Sqlite3.deserialize(other, bytes)
    assert row(other, "SELECT x FROM t") == ["here"]
    :ok = Sqlite3.execute(other, "INSERT INTO t VALUES (zeroblob(100000))")
    assert :ok = Sqlite3.shrink_memory(other)
  end

  test "what a connection tells: to one process, and to any number" do
    conn = memory()
    :ok = Sqlite3.execute(conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    :ok = Sqlite3.set_update_hook(conn, self())
    {:ok, all} = Sqlite3.listen(conn, [:update, :commit, :rollback])
    {:ok, commits} = Sqlite3.listen(conn, [:commit])
    :ok = Sqlite3.execute(conn, "INSERT INTO t VALUES (7, 'a')")
    assert_receive {:insert, "main", "t", 7}
    assert_receive {Sqlite3, ^all, {:insert, "main", "t", 7}}
    assert_receive {Sqlite3, ^all, :commit}
    assert_receive {Sqlite3, ^commits, :commit}
    :ok = Sqlite3.unlisten(conn, commits)
    :ok = Sqlite3.execute(conn, "BEGIN; UPDATE t SET x = 'b'; ROLLBACK")
    assert_receive {:update, "main", "t", 7}
    assert_receive {Sqlite3, ^all, {:update, "main", "t", 7}}
    assert_receive {Sqlite3, ^all, :rollback}
    :ok = Sqlite3.set_update_hook(conn, spawn(fn -> :ok end))
    :ok = Sqlite3.unlisten(conn, all)
    :ok = Sqlite3.execute(conn, "DELETE FROM t")
    refute_received _
    assert_raise ArgumentError, fn -> Sqlite3.listen(conn, [:other]) end
  end

  test "the authorizer denies by name and allows again" do
    conn = memory()
    :ok = Sqlite3.set_authorizer(conn, [:create_table, :pragma])
    assert {:error, "not authorized"} = Sqlite3.execute(conn, "CREATE TABLE t(x)")
    assert {:error, "not authorized"} = Sqlite3.execute(conn, "PRAGMA user_version")
    assert_raise ArgumentError, fn -> Sqlite3.set_authorizer(conn, [:no_such_action]) end
    assert {:error, "not authorized"} = Sqlite3.execute(conn, "CREATE TABLE t(x)")
    :ok = Sqlite3.set_authorizer(conn, [])
    assert :ok = Sqlite3.execute(conn, "CREATE TABLE t(x)")
  end

  # What SQLite is compiled with, each by something that only works with it.
  test "JSON, FTS5, R-Tree, geopoly, math, STAT4, sessions and their like are in" do
    conn = memory()
    assert row(conn, "SELECT json_extract('{\"a\":[1,2]}', '$.a[1]')") == [2]
    assert row(conn, "SELECT typeof(jsonb('[1]'))") == ["blob"]
    assert row(conn, "SELECT round(sqrt(2) * ln(exp(1)) + pi(), 3)") == [4.556]

    :ok =
      Sqlite3.execute(conn, """
      CREATE VIRTUAL TABLE f USING fts5(body);
      INSERT INTO f VALUES ('a quick fox'), ('a slow dog');
      CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
      INSERT INTO r VALUES (1, 0, 10), (2, 20, 30);
      CREATE VIRTUAL TABLE g USING geopoly();
      CREATE TABLE t(a, b);
      CREATE INDEX t_a ON t(a);
      INSERT INTO t VALUES (1, 1), (1, 2), (2, 3);
      ANALYZE
      """)

    assert row(conn, "SELECT count(*) FROM f WHERE f MATCH 'fox'") == [1]
    assert row(conn, "SELECT id FROM r WHERE x0 >= 15") == [2]
    assert row(conn, "SELECT count(*) > 0 FROM sqlite_stat4") == [1]
    {:ok, options} = Sqlite3.fetch_all(conn, prepared(conn, "PRAGMA compile_options"))

    for option <- ~w(ENABLE_SESSION ENABLE_PREUPDATE_HOOK DQS=0 THREADSAFE=1),
        do: assert([option] in options)
  end

  test "a dead process's query is interrupted, a living one's by anybody" do
    conn = memory()
    {pid, ref} = spawn_monitor(fn -> Sqlite3.execute(conn, @endless) end)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}
    assert :ok = Sqlite3.execute(conn, "SELECT 1")

    task = Task.async(fn -> Sqlite3.execute(conn, @endless) end)

    Wait.until("it is interrupted", fn ->
      :ok = Sqlite3.cancel(conn)
      Task.yield(task, 1) == {:ok, {:error, "interrupted"}}
    end)

    other = Task.async(fn -> Sqlite3.execute(conn, @endless) end)
    # queued behind it or not, it is told
    assert :ok = Sqlite3.close(conn)
    assert {:error, reason} = Task.await(other)
    assert reason in [:connection_closed, "interrupted"]
  end

  test "connections to one file wait for each other on threads of ours, :busy after their time" do
    path = Path.join(unique_dir(), "b.db")
    [one, two] = for _ <- 1..2, {:ok, conn} = Sqlite3.open(path), do: conn
    :ok = Sqlite3.execute(one, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); BEGIN IMMEDIATE")
    :ok = Sqlite3.set_busy_timeout(two, 0)
    stmt = prepared(two, "INSERT INTO t VALUES (2)")
    assert :busy = Sqlite3.step(two, stmt)
    assert {:error, "database is locked"} = Sqlite3.execute(two, "INSERT INTO t VALUES (2)")
    :ok = Sqlite3.set_busy_timeout(two, 60_000)
    waiting = Task.async(fn -> Sqlite3.step(two, stmt) end)
    refute Task.yield(waiting, 50)
    :ok = Sqlite3.execute(one, "INSERT INTO t VALUES (1); COMMIT")
    assert :done = Task.await(waiting)
    assert row(one, "SELECT sum(x) FROM t") == [3]
  end

  test "on an app's file they take turns with the app" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t(x)")
    path = SQLite.db_path(app)

    low =
      for n <- 1..8 do
        Task.async(fn ->
          {:ok, conn} = Sqlite3.open(path)

          for _ <- 1..20,
              do:
                :ok =
                  Sqlite3.execute(conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (#{n}); COMMIT")

          Sqlite3.close(conn)
        end)
      end

    high =
      for n <- 1..8 do
        Task.async(fn ->
          for _ <- 1..20, do: :ok = SQLite.execute(app, "INSERT INTO t VALUES (?)", [n])
          :ok
        end)
      end

    assert Enum.all?(Task.await_many(low ++ high, 60_000), &(&1 == :ok))
    assert {:ok, %{rows: [[320]]}} = SQLite.query(app, "SELECT count(*) FROM t")
  end
end
