defmodule MaculaStorage.CubDB.SnapshotTest do
  @moduledoc "A snapshot is one instant, for as long as it lasts: its release, its limit, its owner."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error, Wait}
  alias MaculaStorage.CubDB.Snapshot

  setup do
    db = unique_app()
    :ok = CubDB.put_multi(db, for(n <- 1..1_000, do: {n, n}))
    %{db: db}
  end

  defp closed?(snapshot) do
    Snapshot.size(snapshot)
    false
  rescue
    error in Error -> error.kind == :closed
  end

  test "it shows one instant while writers go on", %{db: db} do
    snapshot = CubDB.snapshot(db, :infinity)
    :ok = CubDB.put_and_delete_multi(db, [{1, :changed}, {1_001, 1}], [2])
    assert Snapshot.get(snapshot, 1) == 1
    assert Snapshot.get(snapshot, 1_001, :none) == :none
    assert Snapshot.fetch(snapshot, 2) == {:ok, 2}
    assert Snapshot.fetch(snapshot, 1_001) == :error
    assert Snapshot.has_key?(snapshot, 2)
    assert Snapshot.get_multi(snapshot, [1, 2, 1_001]) == %{1 => 1, 2 => 2}
    assert Snapshot.size(snapshot) == 1_000
    assert for(n <- 1..1_000, do: {n, n}) == snapshot |> Snapshot.select() |> Enum.to_list()
    :ok = CubDB.clear(db)
    assert [{1_000, 1_000}] = snapshot |> Snapshot.select(reverse: true) |> Enum.take(1)
    assert [{5, 5}] = snapshot |> Snapshot.select(min_key: 5, max_key: 5) |> Enum.to_list()
    assert :ok = CubDB.release_snapshot(snapshot)
    assert closed?(snapshot)
  end

  test "its stream may be run twice and by others", %{db: db} do
    CubDB.with_snapshot(db, fn snapshot ->
      stream = Snapshot.select(snapshot)
      assert Enum.count(stream) == 1_000
      assert Task.await(Task.async(fn -> Enum.count(stream) end)) == 1_000
    end)
  end

  test "with_snapshot ends it, however the function ends", %{db: db} do
    assert {:result, snapshot} = CubDB.with_snapshot(db, &{:result, &1})
    assert closed?(snapshot)
    test = self()

    assert_raise RuntimeError, fn ->
      CubDB.with_snapshot(db, fn snapshot ->
        send(test, snapshot)
        raise "oops"
      end)
    end

    assert_received snapshot
    assert closed?(snapshot)
  end

  test "it ends by its limit", %{db: db} do
    snapshot = CubDB.snapshot(db, 50)
    Wait.until("the limit", fn -> closed?(snapshot) end)
  end

  test "it ends with its owner, killed inside with_snapshot", %{db: db} do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        CubDB.with_snapshot(db, fn snapshot ->
          send(test, {:taken, snapshot})
          receive do: (:never -> :ok)
        end)
      end)

    assert_receive {:taken, snapshot}, 60_000
    assert Snapshot.size(snapshot) == 1_000
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    Wait.until("its owner's end", fn -> closed?(snapshot) end)
  end

  test "many at once, each its own instant", %{db: db} do
    snapshots =
      for v <- 1..50 do
        :ok = CubDB.put(db, :v, v)
        CubDB.snapshot(db, :infinity)
      end

    assert Enum.to_list(1..50) == Enum.map(snapshots, &Snapshot.get(&1, :v))
    Enum.each(snapshots, &CubDB.release_snapshot/1)
  end

  test "it closes with the app", %{db: db} do
    snapshot = CubDB.snapshot(db, :infinity)
    :ok = MaculaStorage.close_app(db)
    assert closed?(snapshot)
    assert CubDB.size(db) == 1_000
    assert closed?(snapshot)
  end
end
