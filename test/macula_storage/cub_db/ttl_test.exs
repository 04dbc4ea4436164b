defmodule MaculaStorage.CubDB.TtlTest do
  @moduledoc """
  Entries with a time to live: gone for every reader when it is over, freed by the store itself, and kept
  on every way that a store takes.

  Invariant: no test waits for a fixed time. What is to expire has 1 ms, what is to stay an hour.
  """
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Wait}
  alias MaculaStorage.CubDB.{Snapshot, Tx}

  @hour 3_600_000
  # more than a normal scheduler copies, and than a dirty one reads
  @long String.duplicate("x", 1_200_000)

  setup do
    %{db: unique_app()}
  end

  defp hour?(ttl), do: match?({:ok, left} when left in 1..@hour, ttl)

  defp await_end(db, key), do: Wait.until("its end", fn -> not CubDB.has_key?(db, key) end)

  test "what expired is read by nobody", %{db: db} do
    :ok = CubDB.put_multi(db, a: 1, z: 26)

    for {value, key} <- [{1, :short}, {@long, :long}] do
      snapshot =
        CubDB.transaction(db, fn tx ->
          tx = Tx.put(tx, key, value, ttl: 1)
          {:commit, tx, :ok}
        end) && CubDB.snapshot(db, :infinity)

      await_end(db, key)
      assert CubDB.get(db, key) == nil
      assert CubDB.fetch(db, key) == :error
      assert CubDB.ttl(db, key) == :error
      assert CubDB.get_multi(db, [:a, key]) == %{a: 1}
      assert CubDB.select(db) |> Enum.to_list() == [a: 1, z: 26]
      assert CubDB.select(db, reverse: true) |> Enum.to_list() == [z: 26, a: 1]
      assert CubDB.count(db, min_key: :a) == 2
      assert Snapshot.fetch(snapshot, key) == :error
      assert Snapshot.ttl(snapshot, key) == :error
      assert Snapshot.select(snapshot) |> Enum.to_list() == [a: 1, z: 26]
      CubDB.release_snapshot(snapshot)

      assert CubDB.transaction(db, fn tx ->
               refute Tx.has_key?(tx, key)
               assert Tx.ttl(tx, key) == :error
               {:cancel, Tx.get(tx, key, :gone)}
             end) == :gone
    end
  end

  test "conditions take what expired for absent", %{db: db} do
    :ok = CubDB.put_multi(db, [new: 1, was: 1, is: 1], ttl: 1)
    for key <- [:new, :was, :is], do: await_end(db, key)
    assert {:error, :conflict} = CubDB.compare_and_put(db, :is, {:ok, 1}, 2)
    assert :ok = CubDB.compare_and_put(db, :was, :error, 2)
    assert :ok = CubDB.put_new(db, :new, 2, ttl: @hour)
    assert {:error, :exists} = CubDB.put_new(db, :new, 3, ttl: @hour)
    assert :ok = CubDB.update(db, :is, :initial, &{:updated, &1})
    assert CubDB.select(db) |> Enum.to_list() == [is: :initial, new: 2, was: 2]
  end

  test "each way to write has it", %{db: db} do
    assert :ok = CubDB.put(db, :put, 1, ttl: @hour)
    assert :ok = CubDB.put(db, :long, @long, ttl: @hour)
    assert :ok = CubDB.put_new(db, :put_new, 1, ttl: @hour)
    assert :ok = CubDB.put_multi(db, %{put_multi: 1}, ttl: @hour)
    assert :ok = CubDB.compare_and_put(db, :compare, :error, 1, ttl: @hour)
    assert :ok = MaculaStorage.data_put(db, :data_put, 1, ttl: @hour)

    assert :done =
             CubDB.transaction(db, fn tx ->
               tx = Tx.put(tx, :tx, 1, ttl: @hour)
               tx = Tx.put(tx, :tx_long, @long, ttl: @hour)
               tx = Tx.put_new(tx, :tx_new, 1, ttl: @hour)
               assert hour?(Tx.ttl(tx, :tx)) and hour?(Tx.ttl(tx, :tx_new))
               assert Tx.ttl(tx, :none) == :error
               {:commit, tx, :done}
             end)

    keys = [:put, :long, :put_new, :put_multi, :compare, :data_put, :tx, :tx_long, :tx_new]
    for key <- keys, do: assert(hour?(CubDB.ttl(db, key)), "of #{key}")
    assert CubDB.ttl(db, :none) == :error
    assert CubDB.with_snapshot(db, &hour?(Snapshot.ttl(&1, :put)))
    assert CubDB.get(db, :long) == @long
  end

  test "a value that is found in another form is replaced with its time", %{db: db} do
    # the same map, whose bytes differ
    map = Map.new(1..40, &{&1, &1})
    other = :erlang.term_to_binary(map, [:compressed])
    assert :erlang.binary_to_term(other) === map
    :ok = CubDB.put(db, :map, map, ttl: @hour)
    assert :ok = CubDB.compare_and_put(db, :map, {:ok, map}, 2, ttl: @hour)
    assert hour?(CubDB.ttl(db, :map))
  end

  test "a write without it makes the key stay", %{db: db} do
    writes = [
      put: &CubDB.put(db, &1, 2),
      put_infinity: &CubDB.put(db, &1, 2, ttl: :infinity),
      put_multi: &CubDB.put_multi(db, [{&1, 2}]),
      compare: &CubDB.compare_and_put(db, &1, {:ok, 1}, 2),
      update: &CubDB.update(db, &1, 0, fn 1 -> 2 end),
      get_and_update: fn key -> CubDB.get_and_update(db, key, fn 1 -> {:ok, 2} end) end
    ]

    for {key, write} <- writes do
      :ok = CubDB.put(db, key, 1, ttl: @hour)
      assert hour?(CubDB.ttl(db, key))
      assert :ok = write.(key)
      assert CubDB.ttl(db, key) == {:ok, :infinity}, "after #{key}"
    end

    :ok = CubDB.put(db, :same, 1, ttl: @hour)
    assert 1 = CubDB.get_and_update(db, :same, &{&1, &1})
    assert hour?(CubDB.ttl(db, :same)), "what is not written keeps its time"
    :ok = CubDB.put(db, :same, 1, ttl: 2 * @hour)
    assert {:ok, left} = CubDB.ttl(db, :same)
    assert left > @hour, "it begins anew with each write"
  end

  test "the store frees what expired", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..2_000, do: {n, String.duplicate("v", 50)}), ttl: 1)
    :ok = CubDB.put_multi(db, [{:long, @long}, {0, 0}], ttl: 1)
    :ok = CubDB.put_multi(db, stays: 1, leaves: 2)
    :ok = CubDB.put(db, :late, 1, ttl: @hour)
    await_end(db, 0)
    # brings what waits in memory into the file
    assert {:ok, _} = CubDB.check(db)
    Wait.until("the sweep", fn -> CubDB.size(db) == 3 end)
    assert {:ok, %{entries: 3}} = CubDB.check(db)
  end

  test "subscribers are told that it expired, not that it was deleted", %{db: db} do
    {:ok, ref, _revision} = CubDB.subscribe(db, key: :short)
    :ok = CubDB.put(db, :short, 1, ttl: 1)
    :ok = CubDB.put(db, :other, 1, ttl: 1)
    assert_receive {CubDB, ^ref, _revision, [{:put, :short, 1}]}, 5_000
    # into the file: what lies in memory is swept after that
    {:ok, _} = CubDB.check(db)
    assert_receive {CubDB, ^ref, _revision, [{:expired, :short}]}, 10_000
    :ok = CubDB.unsubscribe(ref)
    refute_received {CubDB, ^ref, _revision, _changes}
  end

  test "it goes on over a restart, and in a copy", %{db: db} do
    :ok = CubDB.put(db, :session, 1, ttl: @hour)
    :ok = CubDB.put(db, :gone, 1, ttl: 1)
    :ok = CubDB.put(db, :stays, 1)
    await_end(db, :gone)
    copy = Path.join(unique_dir(), "copy")
    assert :ok = CubDB.back_up(db, copy)
    assert :ok = MaculaStorage.close_app(db)
    {:ok, copied} = CubDB.start_link(data_dir: copy)

    for store <- [db, copied] do
      assert hour?(CubDB.ttl(store, :session))
      assert CubDB.ttl(store, :stays) == {:ok, :infinity}
      assert CubDB.select(store) |> Enum.to_list() == [session: 1, stays: 1]
    end

    :ok = CubDB.stop(copied)
  end

  test "a backup restores it", %{db: db} do
    :ok = CubDB.put(db, :session, 1, ttl: @hour)
    archive = Path.join(unique_dir(), "app.tar.zst")
    assert {:ok, _} = MaculaStorage.archive(db, archive)
    :ok = CubDB.put(db, :session, 2)
    assert :ok = MaculaStorage.restore(db, archive)
    assert CubDB.get(db, :session) == 1
    assert hour?(CubDB.ttl(db, :session))
  end

  test "misuse changes nothing", %{db: db} do
    for ttl <- [0, -1, 1.5, nil, "1", :never, 0x8000_0000_0000_0000],
        write <- [
          &CubDB.put(db, :a, 1, &1),
          &CubDB.put_new(db, :a, 1, &1),
          &CubDB.put_multi(db, [a: 1], &1),
          &CubDB.compare_and_put(db, :a, :error, 1, &1),
          &MaculaStorage.data_put(db, :a, 1, &1)
        ] do
      message = ~r/:ttl to be milliseconds from 1, or :infinity, got: #{inspect(ttl)}/
      assert_raise ArgumentError, message, fn -> write.(ttl: ttl) end
    end

    assert_raise ArgumentError, ~r/unknown option :ttl_ms/, fn ->
      CubDB.put(db, :a, 1, ttl_ms: 1)
    end

    assert_raise ArgumentError, ~r/:ttl to be/, fn ->
      CubDB.transaction(db, &{:commit, Tx.put_new(&1, :a, 1, ttl: 0), :ok})
    end

    # the longest that there is
    assert :ok = CubDB.put(db, :b, 1, ttl: 0x7FFF_FFFF_FFFF_FFFF)
    assert {:ok, left} = CubDB.ttl(db, :b)
    assert left > 0x7FFF_FFFF_0000_0000
    assert CubDB.size(db) == 1
  end
end
