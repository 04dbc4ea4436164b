defmodule MaculaStorage.Nif.CallerDeathTest do
  @moduledoc "What a killed process had asked for, held or waited for does not keep anybody else waiting."
  use MaculaStorage.NifCase, async: true

  alias MaculaStorage.CubDB.Tx

  @endless "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"

  test "jobs that run are survived, jobs that wait are not run at all" do
    base = own_base()

    killed_when_ready(fn ready ->
      # more than there are threads, for a day in all
      for _ <- 1..40, do: {:ok, _} = Native.probe(base, make_ref(), 500, false)
      for _ <- 1..800, do: {:ok, _} = Native.probe(base, make_ref(), 60_000, false)
      ready.(:submitted)
    end)

    assert {:ok, :done} = call(&Native.probe(base, &1, 0, false))
    assert mailbox() == []
  end

  test "a transaction of a killed owner is undone, and the next writer goes on" do
    app = unique_app()
    :ok = CubDB.put(app, :kept, 1)

    killed_when_ready(fn ready ->
      CubDB.transaction(
        app,
        fn tx ->
          Tx.put(tx, :lost, 1)
          ready.(Tx.clear(tx))
          receive do: (:never -> {:cancel, nil})
        end,
        timeout: 3_600_000
      )
    end)

    assert :ok = CubDB.put(app, :next, 2)
    assert app |> CubDB.select() |> Enum.to_list() == [kept: 1, next: 2]
  end

  test "the turn of a process that died waiting for it goes to the next" do
    app = unique_app()
    :ok = CubDB.put(app, :a, 1)
    test = self()

    {:cancel, waiter} =
      CubDB.transaction(app, fn _tx ->
        # queued behind this transaction, and dead before its turn
        waiter =
          killed_when_ready(fn ready ->
            {:ok, handle} = MaculaStorage.Apps.app(app)
            {:ok, _} = Native.kv_begin(handle, make_ref(), 3_600_000)
            ready.(self())
          end)

        spawn_link(fn -> send(test, {:written, CubDB.put(app, :b, 2)}) end)
        {:cancel, {:cancel, waiter}}
      end)

    refute Process.alive?(waiter)
    assert_receive {:written, :ok}, 60_000
    assert {:ok, 2} = CubDB.fetch(app, :b)
  end

  test "who waits behind a transaction and is killed writes nothing, and fills no queue" do
    app = unique_app()
    :ok = CubDB.put(app, :a, 1)
    {:ok, handle} = MaculaStorage.Apps.app(app)
    test = self()

    {:cancel, :ok} =
      CubDB.transaction(app, fn _tx ->
        # as many as the queue takes, some of them for a turn, of 64 callers that die before their turn
        for n <- 1..64 do
          killed_when_ready(fn ready ->
            for m <- 1..15, do: queue(handle, n, m)
            {:ok, _} = Native.kv_begin(handle, make_ref(), 3_600_000)
            ready.(:queued)
          end)
        end

        assert {:error, :busy} = queue(handle, 0, 0)
        spawn_link(fn -> send(test, {:written, put_until_taken(app, :b, 2)}) end)
        {:cancel, {:cancel, :ok}}
      end)

    assert_receive {:written, :ok}, 60_000
    assert app |> CubDB.select() |> Enum.to_list() == [a: 1, b: 2]
    assert :ok = CubDB.transaction(app, &{:commit, Tx.put(&1, :c, 3), :ok})
    assert mailbox() == []
  end

  test "writers that are killed while the store pauses for its drain leave it going" do
    app = unique_app()

    for round <- 1..5 do
      writers =
        for w <- 1..16 do
          spawn_monitor(fn ->
            for n <- 1..1_000, do: CubDB.put(app, {round, w, n}, :binary.copy(<<w>>, 500_000))
          end)
        end

      # what waits to be drained is over half of its bound: 16 MiB, with what each write weighs
      Wait.until("writes", fn -> CubDB.size(app) > round * 40 end)

      for {pid, ref} <- writers do
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
      end

      assert :ok = CubDB.put(app, {:next, round}, round)
    end

    # one that was being copied when its caller died may still come, whole
    Wait.until("the last of them", fn ->
      CubDB.size(app) ==
        Enum.count(CubDB.select(app, min_key: {0, 0, 0}, max_key: {9, 99, 0})) + 5
    end)

    assert :ok = CubDB.file_sync(app)
    assert mailbox() == []
  end

  test "a stream whose reader dies in the middle lets its snapshot go" do
    app = unique_app()
    for part <- 1..20, do: :ok = CubDB.put_multi(app, for(n <- 1..200, do: {{part, n}, n}))

    for _ <- 1..20 do
      killed_when_ready(fn ready ->
        Enum.each(CubDB.select(app), fn {key, _} -> if key == {3, 100}, do: ready.(key) end)
      end)
    end

    # what is rewritten again and again takes the room of what no snapshot holds
    kv = Path.join([MaculaStorage.app_data_path(app), "kv", "kv.redb"])
    before = rewritten(app, kv)
    assert rewritten(app, kv) <= before
    assert CubDB.size(app) == 4_000
  end

  test "a SQLite transaction of a killed owner is undone, and the next writer goes on" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")

    killed_when_ready(fn ready ->
      SQLite.transaction(
        app,
        fn tx ->
          :ok = SQLite.execute(tx, "INSERT INTO t VALUES (1)")
          ready.(:inserted)
          receive do: (:never -> :ok)
        end,
        timeout: 3_600_000
      )
    end)

    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (2)")
    assert {:ok, %{rows: [[2]]}} = SQLite.query(app, "SELECT n FROM t")
  end

  test "the SQLite turn of a process that died waiting for it goes to the next" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    {:ok, conn} = SQLite.open(app)

    {:ok, :held} =
      SQLite.transaction(app, fn _tx ->
        killed_when_ready(fn ready ->
          {:ok, _} = Native.sqlite_begin(conn, make_ref(), 3_600_000)
          ready.(:queued)
        end)

        :held
      end)

    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (2)")
  end

  test "an endless query ends with its caller" do
    app = unique_app()
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    {:ok, conn} = SQLite.open(app)

    # more than there are readers, and one on the writer
    for n <- 1..12 do
      sql = if n == 12, do: "INSERT INTO t " <> @endless, else: @endless
      kind = if n == 12, do: :execute, else: :query

      killed_when_ready(fn ready ->
        {:ok, _} = Native.sqlite_run(conn, make_ref(), sql, {:positional, []}, kind, 3_600_000)
        ready.(:queued)
      end)
    end

    assert {:ok, %{rows: [[0]]}} = SQLite.query(app, "SELECT count(*) FROM t")
    assert :ok = SQLite.execute(app, "INSERT INTO t VALUES (1)")
  end

  test "a snapshot ends with its owner" do
    app = own_app(own_base())

    snapshot =
      killed_when_ready(fn ready ->
        {:ok, snapshot} = Native.kv_snapshot(app)
        {:ok, 0} = call(&Native.kv_count(snapshot, &1, :none, :none))
        ready.(snapshot)
      end)

    assert Wait.until("end of the snapshot", fn ->
             Native.kv_has(snapshot, :erlang.term_to_binary(1)) == {:error, :closed}
           end)
  end

  test "a file that a killed process was writing leaves no trace" do
    app = unique_app()
    :ok = MaculaStorage.file_write(app, "dir/a.txt", "old")
    files = Path.join(MaculaStorage.app_data_path(app), "files")
    before = tree(MaculaStorage.app_data_path(app))

    killed_when_ready(fn ready ->
      {_, into} = Collectable.into(MaculaStorage.file_stream!(app, "dir/a.txt"))
      into.(:ok, {:cont, :binary.copy("x", 3_000_000)})
      ready.(:written)
    end)

    Wait.until("removal of what was written", fn ->
      tree(MaculaStorage.app_data_path(app)) == before
    end)

    assert File.read!(Path.join(files, "dir/a.txt")) == "old"
    assert {:ok, ["dir/a.txt"]} = MaculaStorage.file_list(app)
  end

  test "a backup whose caller dies is given up and lists as none" do
    app = unique_app()

    for n <- 1..20,
        do: :ok = MaculaStorage.file_write(app, "#{n}", :crypto.strong_rand_bytes(100_000))

    killed_when_ready(fn ready ->
      MaculaBackup.backup_app(app, progress: fn _ -> ready.(:begun) end)
      receive do: (:never -> :ok)
    end)

    # the turn of the next one comes, and with it what was left is gone
    assert {:ok, path} = MaculaBackup.backup_app(app)

    on_exit(fn ->
      Enum.each(MaculaBackup.list_backups(app, details: true), &File.rm!(&1.path))
    end)

    backups = Path.dirname(path)

    Wait.until("removal of what was begun", fn ->
      backups |> File.ls!() |> Enum.filter(&String.starts_with?(&1, ".#{app}_")) == []
    end)
  end

  defp queue(handle, n, m) do
    put = {:put, :erlang.term_to_binary({n, m}), :erlang.term_to_binary(m)}
    Native.kv_write(handle, make_ref(), [put], [], nil)
  end

  # the queue is full of the dead until the writer has passed over them
  defp put_until_taken(app, key, value) do
    case CubDB.put(app, key, value) do
      {:error, :busy} -> put_until_taken(app, key, value)
      other -> other
    end
  end

  # the file's length after all was written anew, some times
  defp rewritten(app, file) do
    for round <- 1..5 do
      for part <- 1..20 do
        :ok = CubDB.put_multi(app, for(n <- 1..200, do: {{part, n}, {round, n}}))
      end

      {:ok, _} = CubDB.check(app)
    end

    File.stat!(file).size
  end

  defp tree(dir), do: dir |> Path.join("**") |> Path.wildcard(match_dot: true) |> Enum.sort()
end
