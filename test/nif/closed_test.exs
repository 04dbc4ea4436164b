defmodule MaculaStorage.Nif.ClosedTest do
  @moduledoc "A handle that was closed says so, whatever is asked of it, and for ever."
  use MaculaStorage.NifCase, async: true

  alias MaculaStorage.CubDB.{Snapshot, Tx}

  defp closed(fun) do
    error = assert_raise Error, fun
    assert error.kind == :closed
  end

  test "a closed connection" do
    app = unique_app()
    {:ok, conn} = SQLite.open(app)
    :ok = SQLite.execute(conn, "CREATE TABLE t (n)")
    assert :ok = SQLite.close(conn)
    assert :ok = SQLite.close(conn)

    for _ <- 1..2 do
      assert {:error, :closed} = SQLite.execute(conn, "INSERT INTO t VALUES (1)")
      assert {:error, :closed} = SQLite.query(conn, "SELECT 1")
      assert {:error, :closed} = SQLite.transaction(conn, fn _ -> flunk("it began") end)
      assert {:error, :closed} = SQLite.backup(conn, Path.join(unique_dir(), "copy.db"))
    end

    # the app's database is open for others
    assert {:ok, %{rows: [[0]]}} = SQLite.query(app, "SELECT count(*) FROM t")
  end

  test "a released snapshot" do
    app = unique_app()
    :ok = CubDB.put(app, 1, :one)
    snapshot = CubDB.snapshot(app)
    stream = Snapshot.select(snapshot)
    assert Enum.to_list(stream) == [{1, :one}]
    assert :ok = CubDB.release_snapshot(snapshot)
    assert :ok = CubDB.release_snapshot(snapshot)

    closed(fn -> Snapshot.get(snapshot, 1) end)
    closed(fn -> Snapshot.fetch(snapshot, 1) end)
    closed(fn -> Snapshot.has_key?(snapshot, 1) end)
    closed(fn -> Snapshot.get_multi(snapshot, [1]) end)
    closed(fn -> Snapshot.size(snapshot) end)
    closed(fn -> Enum.to_list(Snapshot.select(snapshot)) end)
    closed(fn -> Enum.to_list(stream) end)
  end

  test "a transaction that ended" do
    app = unique_app()
    tx_of = fn answer -> CubDB.transaction(app, fn tx -> answer.(tx) end) end
    committed = tx_of.(fn tx -> {:commit, Tx.put(tx, 1, :one), tx} end)
    cancelled = tx_of.(fn tx -> {:cancel, Tx.put(tx, 1, :two)} end)

    for tx <- [committed, cancelled] do
      closed(fn -> Tx.get(tx, 1) end)
      closed(fn -> Tx.get_multi(tx, [1]) end)
      closed(fn -> Tx.size(tx) end)
      closed(fn -> Enum.to_list(Tx.select(tx)) end)
      closed(fn -> Tx.put(tx, 1, :three) end)
      closed(fn -> Tx.delete(tx, 1) end)
      closed(fn -> Tx.clear(tx) end)
      assert {:error, :closed} = Tx.commit(tx)
      assert :ok = Tx.abort(tx)
    end

    assert CubDB.get(app, 1) == :one
  end

  test "a SQLite transaction that ended" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    {:ok, committed} = SQLite.transaction(app, & &1)
    test = self()

    assert {:error, :undone} =
             SQLite.transaction(app, fn tx ->
               send(test, tx)
               SQLite.rollback(tx, :undone)
             end)

    assert_received undone

    for {:tx, handle} = tx <- [committed, undone] do
      assert {:error, :closed} = SQLite.execute(tx, "INSERT INTO t VALUES (1)")
      assert {:error, :closed} = SQLite.query(tx, "SELECT 1")
      assert {:error, :closed} = call(&Native.sqlite_commit(handle, &1))
      assert {:error, :closed} = call(&Native.sqlite_rollback(handle, &1))
    end

    assert {:ok, %{rows: [[0]]}} = SQLite.query(app, "SELECT count(*) FROM t")
  end

  test "a file writer that ended" do
    app = own_app(own_base())

    for finish <- [
          &(:ok = call(fn ref -> Native.files_writer_commit(&1, ref) end)),
          &(:ok = Native.files_writer_abort(&1))
        ] do
      {:ok, writer} = call(&Native.files_writer(app, &1, "a.txt"))
      :ok = call(&Native.files_writer_chunk(writer, &1, "abc"))
      finish.(writer)
      assert {:error, :closed} = call(&Native.files_writer_chunk(writer, &1, "def"))
      assert {:error, :closed} = call(&Native.files_writer_commit(writer, &1))
      assert :ok = Native.files_writer_abort(writer)
      assert {:ok, "abc"} = call(&Native.files_read(app, &1, "a.txt", 100))
    end
  end

  test "a closed app: every handle of it answers, none reaches its files" do
    base = own_base()
    app = own_app(base)
    :ok = call(&Native.kv_write(app, &1, [{:put, etf(1), etf(1)}], [], nil))
    {:ok, conn} = call(&Native.sqlite_open(app, &1))
    {:ok, snapshot} = Native.kv_snapshot(app)
    {:ok, tx} = call(&Native.kv_begin(app, &1, 60_000))
    {:ok, sql_tx} = call(&Native.sqlite_begin(conn, &1, 60_000))
    :ok = call(&Native.app_close(base, &1, "app"))

    assert {:error, :closed} = call(&Native.kv_open(app, &1))
    assert {:error, _} = Native.kv_get(app, etf(1))
    assert {:error, _} = call(&Native.kv_count(app, &1, :none, :none))
    assert {:error, _} = Native.kv_snapshot(app)
    assert {:error, _} = call(&Native.kv_write(app, &1, [:clear], [], nil))
    assert {:error, :closed} = call(&Native.sqlite_open(app, &1))
    assert {:error, :closed} = call(&run(conn, &1, "SELECT 1"))
    assert {:error, :closed} = call(&run(sql_tx, &1, "SELECT 1"))
    assert {:error, :closed} = call(&Native.sqlite_commit(sql_tx, &1))
    assert {:error, :closed} = Native.kv_get(snapshot, etf(1))
    assert {:error, :closed} = Native.kv_get(tx, etf(1))
    assert {:error, :closed} = Native.kv_tx_write(tx, [:clear])
    assert {:error, :closed} = call(&Native.kv_tx_commit(tx, &1))
    assert {:error, :closed} = call(&Native.files_read(app, &1, "a", 1))
    assert {:error, :closed} = call(&Native.files_write(app, &1, "a", "b"))

    # opened again, it is all there
    assert {:ok, 1} = Native.kv_get(own_app(base), etf(1))
  end

  test "a closed directory" do
    {:ok, dir} = call(&Native.dir_open(&1, unique_dir(), 4_194_304, 4_194_304, 0))
    :ok = call(&Native.kv_write(dir, &1, [{:put, etf(1), etf(1)}], [], nil))
    {:ok, snapshot} = Native.kv_snapshot(dir)
    {:ok, tx} = call(&Native.kv_begin(dir, &1, 60_000))
    assert :ok = call(&Native.dir_close(dir, &1))
    assert {:error, :closed} = call(&Native.dir_close(dir, &1))
    assert {:error, :closed} = Native.kv_get(dir, etf(1))
    assert {:error, :closed} = Native.kv_snapshot(dir)
    assert {:error, :closed} = call(&Native.kv_write(dir, &1, [:clear], [], nil))
    assert {:error, :closed} = call(&Native.kv_count(dir, &1, [], []))
    assert {:error, :closed} = call(&Native.kv_check(dir, &1))
    assert {:error, :closed} = call(&Native.kv_back_up(dir, &1, "/nowhere/else"))
    assert {:error, :closed} = Native.kv_get(snapshot, etf(1))
    assert {:error, :closed} = call(&Native.kv_tx_commit(tx, &1))
    assert mailbox() == []
  end

  test "a closed base" do
    base = own_base()
    app = own_app(base)
    assert :ok = call(&Native.base_close(base, &1))
    assert {:error, :closed} = call(&Native.base_close(base, &1))
    assert {:error, :closed} = Native.base_apps(base)
    assert {:error, :closed} = Native.app_owner(base, "app")
    assert {:error, :closed} = call(&Native.app_open(base, &1, "app"))
    assert {:error, :closed} = call(&Native.app_dirs(base, &1, "app"))
    assert {:error, :closed} = call(&Native.probe(base, &1, 0, false))
    assert {:error, :closed} = call(&Native.usage(base, &1, "app", false, 0))
    assert {:error, :closed} = call(&Native.backups(base, &1, "app"))
    assert {:error, :closed} = call(&Native.kv_open(app, &1))
    assert {:error, :closed} = call(&Native.files_read(app, &1, "a", 1))
    assert mailbox() == []
  end

  defp etf(term), do: :erlang.term_to_binary(term)

  defp run(target, ref, sql),
    do: Native.sqlite_run(target, ref, sql, {:positional, []}, :query, 1_000)
end
