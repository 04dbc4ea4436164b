defmodule MaculaStorage.SQLite.Sqlite3SessionTest do
  @moduledoc "Changesets, and rows before they change."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.SQLite
  alias MaculaStorage.SQLite.Sqlite3
  alias MaculaStorage.SQLite.Sqlite3.{Blob, Session}

  doctest MaculaStorage.SQLite.Sqlite3.Session

  @table "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b UNIQUE)"

  defp memory(sql \\ @table) do
    {:ok, conn} = Sqlite3.open(":memory:")
    :ok = Sqlite3.execute(conn, sql)
    conn
  end

  defp rows(conn) do
    {:ok, stmt} = Sqlite3.prepare(conn, "SELECT * FROM t ORDER BY id")
    {:ok, rows} = Sqlite3.fetch_all(conn, stmt)
    rows
  end

  defp recording(conn, table \\ :all) do
    {:ok, session} = Session.create(conn)
    :ok = Session.attach(session, table)
    session
  end

  test "a changeset holds what was changed, a patchset less, and both apply elsewhere" do
    [one, two, three] =
      for _ <- 1..3, do: memory(@table <> "; INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)")

    session = recording(one)
    # prepared before: it must look at each row all the same
    :ok =
      Sqlite3.execute(one, "UPDATE t SET a = x'00ff' WHERE id = 1; DELETE FROM t WHERE id = 2")

    :ok = Sqlite3.execute(one, "INSERT INTO t VALUES (3, 1.5, NULL)")
    {:ok, changes} = Session.changeset(session)
    {:ok, info} = Session.info(changes)

    assert Enum.sort(info) == [
             {"t", :delete, [2, "b", 2], nil},
             {"t", :insert, nil, [3, 1.5, nil]},
             {"t", :update, [1, "a", :unchanged], [:unchanged, <<0, 255>>, :unchanged]}
           ]

    assert :ok = Session.apply(two, changes)
    assert rows(two) == rows(one)
    {:ok, patch} = Session.patchset(session)
    assert byte_size(patch) < byte_size(changes)
    assert :ok = Session.apply(three, patch)
    assert rows(three) == rows(one)
    {:ok, undo} = Session.invert(changes)
    assert :ok = Session.apply(two, undo)
    assert rows(two) == [[1, "a", 1], [2, "b", 2]]
    assert {:ok, ""} = Session.concat(changes, undo)
    assert {:error, _} = Session.invert(patch)
    assert {:error, _} = Session.concat(changes, patch)
    assert {:error, _} = Session.info("no changeset")
    assert {:error, _} = Session.apply(two, "no changeset")
    assert :ok = Session.delete(session)
    assert {:error, :invalid_statement} = Session.changeset(session)
    assert {:error, :invalid_statement} = Session.delete(session)
  end

  test "DELETE without WHERE, also of a statement from before, is recorded row by row" do
    conn = memory(@table <> "; INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    {:ok, delete} = Sqlite3.prepare(conn, "DELETE FROM t")
    session = recording(conn, "t")
    :done = Sqlite3.step(conn, delete)
    {:ok, changes} = Session.changeset(session)
    assert {:ok, [_, _]} = Session.info(changes)
    # of one table
    :ok = Sqlite3.execute(conn, "CREATE TABLE u(id PRIMARY KEY); INSERT INTO u VALUES (1)")
    assert {:ok, ^changes} = Session.changeset(session)
  end

  test "what does not fit is resolved by its kind" do
    source = memory()
    session = recording(source)
    :ok = Sqlite3.execute(source, "INSERT INTO t VALUES (1, 'new', 1)")
    {:ok, insert} = Session.changeset(session)
    there = fn -> memory(@table <> "; INSERT INTO t VALUES (1, 'old', 1)") end

    for {policy, answer, left} <- [
          {:abort, {:error, "a change did not fit, and nothing was applied"}, "old"},
          {%{}, {:error, "a change did not fit, and nothing was applied"}, "old"},
          {:omit, :ok, "old"},
          {:replace, :ok, "new"},
          {%{conflict: :replace}, :ok, "new"},
          {%{conflict: :omit, data: :abort}, :ok, "old"}
        ] do
      conn = there.()
      assert Session.apply(conn, insert, on_conflict: policy) == answer
      assert rows(conn) == [[1, left, 1]]
    end

    # another row has that unique value
    conn = memory(@table <> "; INSERT INTO t VALUES (2, 'other', 1)")
    assert {:error, _} = Session.apply(conn, insert, on_conflict: :replace)
    assert :ok = Session.apply(conn, insert, on_conflict: %{constraint: :omit})
    {:ok, delete} = Session.invert(insert)
    assert {:error, _} = Session.apply(conn, delete)
    assert :ok = Session.apply(conn, delete, on_conflict: :replace)
    assert :ok = Session.apply(there.(), delete, on_conflict: %{data: :omit})
    assert {:error, _} = Session.apply(there.(), delete, on_conflict: :abort)
    keys = memory("PRAGMA foreign_keys = ON; " <> @table <> "; CREATE TABLE c(p REFERENCES t)")
    :ok = Session.apply(keys, insert)
    :ok = Sqlite3.execute(keys, "INSERT INTO c VALUES (1)")
    assert {:error, _} = Session.apply(keys, delete)
    assert [[1, "new", 1]] = rows(keys)

    for bad <- [:other, %{other: :omit}, %{not_found: :replace}, %{data: 1}, 7] do
      assert_raise ArgumentError, fn -> Session.apply(conn, insert, on_conflict: bad) end
    end
  end

  test "on an app's file changes are applied in turn" do
    app = unique_app()
    :ok = SQLite.execute(app, @table)
    source = memory()
    session = recording(source)
    values = Enum.map_join(1..200, ", ", &"(#{&1}, 0, #{&1})")
    :ok = Sqlite3.execute(source, "INSERT INTO t VALUES " <> values)
    {:ok, changes} = Session.changeset(session)
    {:ok, conn} = Sqlite3.open(SQLite.db_path(app))

    writers =
      for n <- 1..4 do
        Task.async(fn ->
          for m <- 1..25,
              do: :ok = SQLite.execute(app, "INSERT INTO t VALUES (?, 1, NULL)", [n * 1000 + m])
        end)
      end

    assert :ok = Session.apply(conn, changes)
    Task.await_many(writers)
    assert {:ok, %{rows: [[300]]}} = SQLite.query(app, "SELECT count(*) FROM t")
  end

  test "rows are told before they change, with their values" do
    conn = memory(@table <> "; CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID")
    {:ok, delete} = Sqlite3.prepare(conn, "DELETE FROM t")
    {:ok, id} = Sqlite3.listen(conn, [:preupdate, :commit])
    {:ok, plain} = Sqlite3.listen(conn, [:update])
    :ok = Sqlite3.execute(conn, "INSERT INTO t VALUES (7, x'00', 'é')")

    assert_receive {Sqlite3, ^id,
                    {:preupdate, :insert, "main", "t", nil, 7, nil, [7, <<0>>, "é"]}}

    assert_receive {Sqlite3, ^plain, {:insert, "main", "t", 7}}
    assert_receive {Sqlite3, ^id, :commit}
    {:ok, blob} = Blob.open(conn, "t", "a", 7, write: true)
    :ok = Blob.write(blob, 0, <<0>>)
    :ok = Blob.close(blob)
    assert_receive {Sqlite3, ^id, {:preupdate, :update, "main", "t", 7, 7, [7, <<0>>, "é"], nil}}
    :ok = Sqlite3.execute(conn, "UPDATE t SET id = 8, a = 1.5")

    assert_receive {Sqlite3, ^id,
                    {:preupdate, :update, "main", "t", 7, 8, [7, <<0>>, "é"], [8, 1.5, "é"]}}

    :ok = Sqlite3.execute(conn, "INSERT INTO w VALUES ('k', 1)")
    assert_receive {Sqlite3, ^id, {:preupdate, :insert, "main", "w", nil, _, nil, ["k", 1]}}
    :ok = Sqlite3.execute(conn, "UPDATE t SET b = zeroblob(2)")
    assert_receive {Sqlite3, ^id, {:preupdate, :update, _, _, 8, 8, _, [8, 1.5, <<0, 0>>]}}
    :done = Sqlite3.step(conn, delete)

    assert_receive {Sqlite3, ^id,
                    {:preupdate, :delete, "main", "t", 8, nil, [8, 1.5, <<0, 0>>], nil}}

    # a connection has either these or sessions
    assert {:error, "SQLite has one pre-update hook" <> _} = Session.create(conn)
    :ok = Sqlite3.unlisten(conn, id)
    session = recording(conn)
    assert {:error, "SQLite has one pre-update hook" <> _} = Sqlite3.listen(conn, [:preupdate])
    assert %{reason: :misuse} = Sqlite3.last_error(conn)
    assert {:ok, _} = Sqlite3.listen(conn, [:commit])
    :ok = Sqlite3.execute(conn, "INSERT INTO t VALUES (1, 1, 1)")
    {:ok, changes} = Session.changeset(session)
    assert {:ok, [{"t", :insert, nil, [1, 1, 1]}]} = Session.info(changes)
    :ok = Session.delete(session)
    assert {:ok, id} = Sqlite3.listen(conn, [:preupdate])
    :ok = Sqlite3.execute(conn, "DELETE FROM t")
    assert_receive {Sqlite3, ^id, {:preupdate, :delete, "main", "t", 1, nil, [1, 1, 1], nil}}
    # of a process that is gone, nothing is left
    {:ok, gone} = Sqlite3.open(":memory:")
    {:ok, _} = Sqlite3.listen(gone, [:preupdate], spawn(fn -> :ok end))
    :ok = Sqlite3.execute(gone, @table <> "; INSERT INTO t VALUES (1, 1, 1)")
    assert {:ok, _} = Session.create(gone)
  end
end
