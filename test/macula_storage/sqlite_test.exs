defmodule MaculaStorage.SQLiteTest do
  @moduledoc "Statements, values, parameters, connections, errors, what is refused, copies."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Error, SQLite, Wait}
  alias MaculaStorage.SQLite.Result

  doctest MaculaStorage.SQLite

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"

  setup do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    %{app: app}
  end

  defp one(target, sql, params \\ []) do
    assert {:ok, %Result{rows: [[value]]}} = SQLite.query(target, sql, params)
    value
  end

  test "a result's parts", %{app: app} do
    assert {:ok, %Result{columns: [], rows: [], changes: 2, last_insert_rowid: 8}} =
             SQLite.query(app, "INSERT INTO t VALUES (7, 'a'), (8, 'b')")

    assert {:ok, %Result{columns: ["id", "v", "x y"], rows: [[7, "a", 1], [8, "b", 1]]}} =
             SQLite.query(app, "SELECT id, v, 1 AS \"x y\" FROM t ORDER BY id")

    assert {:ok, %Result{columns: ["id"], rows: [[9]], changes: 1}} =
             SQLite.query(app, "INSERT INTO t (v) VALUES (NULL) RETURNING id")

    assert {:ok, %Result{changes: 2}} = SQLite.query(app, "DELETE FROM t WHERE id < 9")
    assert {:ok, %Result{rows: []}} = SQLite.query(app, "SELECT * FROM t WHERE id = 1")
  end

  # With another copy of SQLite beside it: native/sqlite/tests/bridge.rs. What only the shared object shows
  # is the name of its entry point, which SQLite makes of the letters of the file's name.
  test "the shared object is an extension of SQLite" do
    path = SQLite.bridge_path()
    letters = path |> Path.basename(".so") |> String.replace(~r/[^a-z]/, "")
    assert File.read!(path) =~ <<0, "sqlite3_#{letters}_init", 0>>
  end

  test "all five types, both ways", %{app: app} do
    values = [
      {nil, nil, "null"},
      {0, 0, "integer"},
      {-0x8000_0000_0000_0000, -0x8000_0000_0000_0000, "integer"},
      {0x7FFF_FFFF_FFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF, "integer"},
      {true, 1, "integer"},
      {false, 0, "integer"},
      {1.5, 1.5, "real"},
      {1.0, 1.0, "real"},
      {1.0e308, 1.0e308, "real"},
      {5.0e-324, 5.0e-324, "real"},
      {"", "", "text"},
      {"Zoë 日本 🌍", "Zoë 日本 🌍", "text"},
      {"it's; DROP TABLE t --", "it's; DROP TABLE t --", "text"},
      {{:blob, ""}, "", "blob"},
      {{:blob, <<0, 255, 0>>}, <<0, 255, 0>>, "blob"},
      {"nul\0inside", "nul\0inside", "text"}
    ]

    for {given, back, type} <- values do
      assert {:ok, %{rows: [[^back, ^type]]}} =
               SQLite.query(app, "SELECT ?1, typeof(?1)", [given])

      :ok = SQLite.execute(app, "INSERT OR REPLACE INTO t VALUES (1, ?)", [given])
      assert {:ok, %{rows: [[stored, ^type]]}} = SQLite.query(app, "SELECT v, typeof(v) FROM t")
      assert stored === back
    end
  end

  test "a large blob", %{app: app} do
    blob = :crypto.strong_rand_bytes(5_000_000)
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, ?)", [{:blob, blob}])
    assert one(app, "SELECT v FROM t") == blob
  end

  test "thousands of rows", %{app: app} do
    {:ok, _} =
      SQLite.transaction(app, fn tx ->
        for n <- 1..5_000,
            do: :ok = SQLite.execute(tx, "INSERT INTO t VALUES (?, ?)", [n, "#{n}"])
      end)

    assert {:ok, %{rows: rows}} = SQLite.query(app, "SELECT * FROM t ORDER BY id")
    assert rows == for(n <- 1..5_000, do: [n, "#{n}"])
  end

  test "parameters by position and by name", %{app: app} do
    assert one(app, "SELECT ? - ?", [5, 3]) == 2
    assert one(app, "SELECT ?2 - ?1", [5, 3]) == -2
    assert one(app, "SELECT :a || @b || $c", a: "x", b: "y", c: "z") == "xyz"
    assert one(app, "SELECT :a", %{a: 1}) == 1
    assert one(app, "SELECT :a", %{"a" => 1}) == 1
    assert one(app, "SELECT :a", %{":a" => 1}) == 1
    assert one(app, "SELECT count(*) FROM t WHERE v = :v OR v IS :v", v: nil) == 0
  end

  test "parameters that do not fit are refused", %{app: app} do
    for {sql, params} <- [
          {"SELECT ?", []},
          {"SELECT ?", [1, 2]},
          {"SELECT :a", [b: 1]},
          {"SELECT :a, :b", [a: 1]},
          {"SELECT 1", [1]}
        ] do
      assert {:error, %Error{kind: kind}} = SQLite.query(app, sql, params)
      assert kind in [:invalid, :sql]
    end

    for bad <- [
          [:atom],
          [{1, 2}],
          [0x8000_0000_0000_0000],
          [~D[2026-01-01]],
          [[1]],
          [%{}],
          [<<1::3>>]
        ] do
      assert_raise ArgumentError, fn -> SQLite.query(app, "SELECT ?", bad) end
    end

    assert_raise ArgumentError, fn -> SQLite.query(app, "SELECT ?", 1) end
    assert_raise ArgumentError, fn -> SQLite.query(app, "SELECT 1", [], limit: 1) end
    assert_raise ArgumentError, fn -> SQLite.query("../other", "SELECT 1") end
  end

  test "errors tell what SQLite says, and change nothing", %{app: app} do
    assert {:error, %Error{kind: :sql, app: ^app} = error} = SQLite.query(app, "SELEC 1")
    assert Exception.message(error) =~ "syntax error"
    assert {:error, %Error{kind: :sql}} = SQLite.query(app, "SELECT * FROM nowhere")
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 'a')")

    assert {:error, %Error{kind: :sql} = error} =
             SQLite.execute(app, "INSERT INTO t VALUES (1, 'b')")

    assert Exception.message(error) =~ "UNIQUE"

    assert %{reason: :constraint, code: 1555, offset: nil, message: message} = error.details
    assert message == "UNIQUE constraint failed: t.id"
    assert error.details.constraint == %{kind: :primary_key, names: ["t.id"]}
    assert {:error, %Error{details: details}} = SQLite.query(app, "SELECT nowhere")
    assert %{reason: :error, code: 1, offset: 7, constraint: nil} = details
    assert {:error, %Error{kind: :invalid, details: nil}} = SQLite.query(app, "SELECT ?", [])
    assert {:error, _} = SQLite.execute(app, "INSERT INTO t VALUES (2, 'b'), (1, 'c')")
    assert {:ok, %{rows: [[1, "a"]]}} = SQLite.query(app, "SELECT * FROM t")
    assert {:error, _} = SQLite.query(app, "")
    assert {:error, _} = SQLite.query(app, <<"SELECT ", 0, "1">>)
    assert {:error, _} = SQLite.query(app, <<"SELECT '", 255, "'">>)
    assert {:error, _} = SQLite.query(app, "SELECT 1; SELECT 2")
  end

  test "several statements at once are one transaction", %{app: app} do
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2);")
    assert one(app, "SELECT count(*) FROM t") == 2

    assert {:error, %Error{}} =
             SQLite.execute(app, "INSERT INTO t VALUES (3, 3); INSERT INTO t VALUES (1, 1);")

    assert one(app, "SELECT count(*) FROM t") == 2
  end

  test "independent statements that come together fail and succeed each alone", %{app: app} do
    results =
      1..200
      |> Task.async_stream(
        fn n -> SQLite.execute(app, "INSERT INTO t VALUES (?, ?)", [div(n, 2), n]) end,
        max_concurrency: 64
      )
      |> Enum.map(&elem(&1, 1))

    assert Enum.count(results, &(&1 == :ok)) == 101
    assert Enum.count(results, &match?({:error, %Error{kind: :sql}}, &1)) == 99
    assert one(app, "SELECT count(*) FROM t") == 101
  end

  test "as the document says: WAL, foreign keys, full sync", %{app: app} do
    assert one(app, "PRAGMA journal_mode") == "wal"
    assert one(app, "PRAGMA foreign_keys") == 1
    assert one(app, "PRAGMA synchronous") == 2
    :ok = SQLite.execute(app, "CREATE TABLE child (t INTEGER NOT NULL REFERENCES t (id))")
    assert {:error, %Error{kind: :sql}} = SQLite.execute(app, "INSERT INTO child VALUES (99)")
    assert SQLite.db_path(app) == Path.join(MaculaStorage.app_data_path(app), "app.db")
    assert File.exists?(SQLite.db_path(app))
  end

  test "what reaches beyond the database is refused", %{app: app} do
    dir = unique_dir()
    other = Path.join(dir, "other.db")

    for sql <- [
          "ATTACH '#{other}' AS other",
          "ATTACH DATABASE ':memory:' AS other",
          "VACUUM INTO '#{other}'",
          "SELECT load_extension('#{other}')",
          "PRAGMA synchronous = OFF",
          "PRAGMA journal_mode = DELETE",
          "PRAGMA foreign_keys = OFF",
          "PRAGMA writable_schema = ON",
          "BEGIN",
          "COMMIT",
          "SAVEPOINT a",
          "CREATE TEMP TABLE x (n)",
          "CREATE TABLE temp.t (n)",
          "CREATE VIEW temp.t AS SELECT 1 AS n",
          "CREATE VIRTUAL TABLE temp.t USING fts5(n)",
          "CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN DELETE FROM t; END"
        ],
        run <- [&SQLite.query/2, &SQLite.execute/2] do
      assert {:error, refused} = run.(app, sql)
      assert refused == :unsupported or match?(%Error{}, refused), sql

      # inside a transaction too, which stays usable
      assert {:ok, :ok} =
               SQLite.transaction(app, fn tx ->
                 assert {:error, _} = run.(tx, sql)
                 SQLite.execute(tx, "INSERT INTO t (v) VALUES (?)", [sql])
               end)
    end

    assert File.ls!(dir) == []
    assert one(app, "SELECT count(*) FROM t") == 32
    assert one(app, "PRAGMA journal_mode") == "wal"
    assert one(app, "PRAGMA synchronous") == 2
    assert one(app, "PRAGMA foreign_keys") == 1
  end

  test "a query over its time is interrupted, on readers and on the writer", %{app: app} do
    assert {:error, :timeout} = SQLite.query(app, @endless, [], timeout: 50)

    assert {:error, :timeout} =
             SQLite.execute(app, "INSERT INTO t (v) " <> @endless, [], timeout: 50)

    assert one(app, "SELECT count(*) FROM t") == 0
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 1)")
  end

  test "endless queries on every reader do not keep the writer, nor the next query", %{app: app} do
    endless =
      for _ <- 1..10, do: Task.async(fn -> SQLite.query(app, @endless, [], timeout: 400) end)

    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 1)")
    assert Enum.uniq(Task.await_many(endless, 60_000)) == [{:error, :timeout}]
    assert one(app, "SELECT count(*) FROM t") == 1
  end

  test "connections: open, close, use after close; the app goes on", %{app: app} do
    {:ok, conn} = SQLite.open(app)
    {:ok, other} = SQLite.open(app)
    :ok = SQLite.execute(conn, "INSERT INTO t VALUES (1, 'x')")
    assert one(other, "SELECT v FROM t") == "x"
    assert :ok = SQLite.close(conn)
    assert {:error, :closed} = SQLite.query(conn, "SELECT 1")
    assert one(other, "SELECT v FROM t") == "x"
    :ok = MaculaStorage.close_app(app)
    assert {:error, :closed} = SQLite.query(other, "SELECT 1")
    assert one(app, "SELECT v FROM t") == "x"
    assert_raise ArgumentError, fn -> SQLite.open(app, mode: :readonly) end
  end

  test "a schema changed under cached statements", %{app: app} do
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 'x')")

    for n <- 1..5 do
      assert {:ok, %{columns: columns}} = SQLite.query(app, "SELECT * FROM t")
      assert length(columns) == n + 1
      :ok = SQLite.execute(app, "ALTER TABLE t ADD COLUMN c#{n}")
    end
  end

  test "backup to awkward paths, while writers go on", %{app: app} do
    dir = unique_dir("it's a \"dir\"; DROP")

    {:ok, _} =
      SQLite.transaction(app, fn tx ->
        for n <- 1..500, do: :ok = SQLite.execute(tx, "INSERT INTO t VALUES (?, 'v')", [n])
      end)

    writer =
      Task.async(fn ->
        for n <- 501..600, do: :ok = SQLite.execute(app, "INSERT INTO t VALUES (?, 'v')", [n])
      end)

    for name <- ["it's", "a b", "\"q\"; DROP TABLE t; --", "ü?mode=memory#", "file:x", "%41"] do
      dest = Path.join(dir, name)
      assert :ok = SQLite.backup(app, dest)
      assert <<"SQLite format 3\0", _::binary>> = File.read!(dest)
      assert {:error, :exists} = SQLite.backup(app, dest)
      assert :ok = SQLite.backup(app, dest, overwrite: true)
    end

    Task.await(writer, 60_000)
    # nothing but the copies: no journal, no half file
    assert length(File.ls!(dir)) == 6
    assert {:error, _} = SQLite.backup(app, Path.join(dir, "none/there"))
    assert {:error, _} = SQLite.backup(app, dir, overwrite: true)

    # a rename over an open database: every later :ok of its owner would be lost
    for op <- [&SQLite.backup/3, &MaculaStorage.archive/3] do
      assert {:error, %Error{kind: :invalid}} = op.(app, SQLite.db_path(app), overwrite: true)
    end

    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (9999, 'still mine')")
  end

  # It was looked for when the app was opened, and never again.
  test "code that opens the file later stops writes until it closes it", %{app: app} do
    assert one(app, "SELECT count(*) FROM t") == 0
    other = File.open!(SQLite.db_path(app), [:read, :raw])
    insert = fn -> SQLite.execute(app, "INSERT INTO t (v) VALUES (1)") end
    # at most a second later
    Wait.until("a refusal", fn -> insert.() == {:error, :opened_by_other_sqlite} end)

    # a connection for reading that was there goes on; another thread that reads could not open its own
    before =
      Wait.until("a read", fn ->
        with {:ok, %{rows: [[n]]}} <- SQLite.query(app, "SELECT count(*) FROM t"),
             do: n,
             else: (_ -> nil)
      end)

    assert {:error, :opened_by_other_sqlite} = SQLite.transaction(app, & &1)
    assert {:error, :opened_by_other_sqlite} = SQLite.backup(app, Path.join(unique_dir(), "copy"))
    :ok = File.close(other)
    Wait.until("a write", fn -> insert.() == :ok end)
    assert one(app, "SELECT count(*) FROM t") == before + 1
  end

  test "a copy is a database of one instant, with all that was committed", %{app: app} do
    :ok = SQLite.execute(app, "INSERT INTO t VALUES (1, 'one')")
    dest = Path.join(unique_dir(), "copy.db")
    :ok = SQLite.backup(app, dest)
    other = unique_app()
    :ok = MaculaStorage.ensure_app_dirs(other)
    File.cp!(dest, SQLite.db_path(other))
    assert {:ok, %{rows: [[1, "one"]]}} = SQLite.query(other, "SELECT * FROM t")
    assert one(other, "PRAGMA integrity_check") == "ok"
  end
end
