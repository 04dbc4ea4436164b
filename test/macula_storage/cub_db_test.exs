defmodule MaculaStorage.CubDBTest do
  @moduledoc "Every function of CubDB 2's module, with the shapes that its callers match on."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error}

  doctest MaculaStorage.CubDB
  doctest MaculaStorage.CubDB.Snapshot
  doctest MaculaStorage.CubDB.Subscription

  setup do
    %{db: unique_app()}
  end

  test "get, fetch, has_key?, size of an empty store", %{db: db} do
    assert CubDB.get(db, :a) == nil
    assert CubDB.get(db, :a, :default) == :default
    assert CubDB.fetch(db, :a) == :error
    assert CubDB.has_key?(db, :a) == false
    assert CubDB.size(db) == 0
    assert CubDB.get_multi(db, [:a, :b]) == %{}
    assert db |> CubDB.select() |> Enum.to_list() == []
  end

  test "put, and a stored nil or false is a value", %{db: db} do
    assert :ok = CubDB.put(db, :a, 1)
    assert :ok = CubDB.put(db, :a, nil)
    assert CubDB.get(db, :a, :default) == nil
    assert CubDB.fetch(db, :a) == {:ok, nil}
    assert CubDB.has_key?(db, :a)
    assert :ok = CubDB.put(db, nil, false)
    assert CubDB.fetch(db, nil) == {:ok, false}
    assert CubDB.size(db) == 2
    assert CubDB.get_multi(db, [:a, nil, :none]) == %{:a => nil, nil => false}
  end

  test "1 and 1.0 are two keys, and -0.0 is another than 0.0", %{db: db} do
    :ok = CubDB.put(db, 1, :integer)
    :ok = CubDB.put(db, 1.0, :float)
    assert CubDB.get(db, 1) == :integer
    assert CubDB.get(db, 1.0) == :float
    assert CubDB.size(db) == 2
    assert CubDB.get_multi(db, [1, 1.0]) === %{1 => :integer, 1.0 => :float}
    assert [{1, :integer}, {1.0, :float}] === db |> CubDB.select() |> Enum.to_list()
    :ok = CubDB.delete(db, 1)
    assert [{1.0, :float}] === db |> CubDB.select() |> Enum.to_list()
  end

  test "put_new", %{db: db} do
    assert :ok = CubDB.put_new(db, :a, 1)
    assert {:error, :exists} = CubDB.put_new(db, :a, 2)
    assert CubDB.get(db, :a) == 1
    assert :ok = CubDB.delete(db, :a)
    assert :ok = CubDB.put_new(db, :a, 3)
    assert CubDB.get(db, :a) == 3
  end

  test "of many that put the same new key at once, one does", %{db: db} do
    results =
      1..50
      |> Task.async_stream(&CubDB.put_new(db, :a, &1), max_concurrency: 50)
      |> Enum.to_list()

    assert Enum.count(results, &(&1 == {:ok, :ok})) == 1
    assert Enum.count(results, &(&1 == {:ok, {:error, :exists}})) == 49
  end

  test "delete", %{db: db} do
    assert :ok = CubDB.delete(db, :none)
    :ok = CubDB.put(db, :a, 1)
    assert :ok = CubDB.delete(db, :a)
    assert CubDB.fetch(db, :a) == :error
    assert CubDB.size(db) == 0
  end

  test "put_multi, delete_multi, put_and_delete_multi", %{db: db} do
    assert :ok = CubDB.put_multi(db, %{a: 1, b: 2})
    assert :ok = CubDB.put_multi(db, c: 3, d: 4)
    assert :ok = CubDB.put_multi(db, [{{:e}, 5}])
    assert :ok = CubDB.put_multi(db, [])
    assert :ok = CubDB.delete_multi(db, [:a, :none])
    assert :ok = CubDB.put_and_delete_multi(db, %{f: 6, b: 20}, [:b, :c])
    assert [d: 4, f: 6] ++ [{{:e}, 5}] == db |> CubDB.select() |> Enum.to_list()
  end

  test "a batch is all or none: readers never see a part", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..50, do: {n, 0}))

    writer =
      Task.async(fn ->
        for v <- 1..50, do: :ok = CubDB.put_multi(db, for(n <- 1..50, do: {n, v}))
      end)

    seen = views_until(db, writer.pid, [])
    Task.await(writer, 60_000)
    assert Enum.all?(seen, &(length(&1) == 1))
    assert [{1, 50} | _] = db |> CubDB.select() |> Enum.to_list()
  end

  defp views_until(db, pid, seen) do
    values = db |> CubDB.select() |> Enum.map(&elem(&1, 1)) |> Enum.uniq()
    if Process.alive?(pid), do: views_until(db, pid, [values | seen]), else: [values | seen]
  end

  test "clear", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..1000, do: {n, n}))
    assert :ok = CubDB.clear(db)
    assert CubDB.size(db) == 0
    assert db |> CubDB.select() |> Enum.to_list() == []
    assert :ok = CubDB.put(db, 1, 1)
    assert CubDB.size(db) == 1
  end

  test "update", %{db: db} do
    assert :ok = CubDB.update(db, :a, 0, fn _ -> flunk("called for a missing key") end)
    assert CubDB.get(db, :a) == 0
    assert :ok = CubDB.update(db, :a, 0, &(&1 + 1))
    assert CubDB.get(db, :a) == 1
  end

  test "get_and_update", %{db: db} do
    assert :result = CubDB.get_and_update(db, :a, fn nil -> {:result, 1} end)
    assert 1 = CubDB.get_and_update(db, :a, fn 1 -> :pop end)
    assert CubDB.has_key?(db, :a) == false
    assert nil == CubDB.get_and_update(db, :a, fn nil -> :pop end)
  end

  test "get_and_update_multi", %{db: db} do
    :ok = CubDB.put_multi(db, a: 1, b: 2)

    assert :result =
             CubDB.get_and_update_multi(db, [:a, :b, :none], fn map ->
               assert map == %{a: 1, b: 2}
               {:result, %{a: 10, c: 30}, [:b]}
             end)

    assert :nothing = CubDB.get_and_update_multi(db, [], fn %{} -> {:nothing, nil, nil} end)
    assert [a: 10, c: 30] == db |> CubDB.select() |> Enum.to_list()
  end

  test "updates that come together are all counted", %{db: db} do
    1..100
    |> Task.async_stream(fn _ -> CubDB.update(db, :n, 1, &(&1 + 1)) end, max_concurrency: 20)
    |> Enum.each(fn answer -> assert answer == {:ok, :ok} end)

    assert CubDB.get(db, :n) == 100
  end

  test "large values, one by one and in ranges", %{db: db} do
    for n <- 1..3, do: :ok = CubDB.put(db, n, {n, :binary.copy(<<n>>, 5_000_000)})
    assert {2, bytes} = CubDB.get(db, 2)
    assert bytes == :binary.copy(<<2>>, 5_000_000)
    assert [1, 2, 3] = db |> CubDB.select() |> Enum.map(fn {n, {n, _}} -> n end)
    list = Enum.to_list(1..100_000)
    :ok = CubDB.put(db, :list, list)
    assert CubDB.get(db, :list) == list
    assert %{:list => ^list} = CubDB.get_multi(db, [:list])

    # of any length from everything that can be read: these go by a thread of ours
    assert %{1 => {1, one}, 3 => {3, _}} = CubDB.get_multi(db, [1, 3, :none])
    assert byte_size(one) == 5_000_000

    CubDB.with_snapshot(db, fn snapshot ->
      :ok = CubDB.delete(db, 2)
      assert {2, ^bytes} = CubDB.Snapshot.get(snapshot, 2)
      assert CubDB.Snapshot.has_key?(snapshot, 2)
      assert [3, 2, 1] = snapshot |> CubDB.Snapshot.select(reverse: true, max_key: 3) |> keys()
    end)

    refute CubDB.has_key?(db, 2)

    CubDB.transaction(db, fn tx ->
      tx = CubDB.Tx.put(tx, 2, bytes)
      assert CubDB.Tx.get(tx, 2) == bytes
      assert %{1 => {1, ^one}} = CubDB.Tx.get_multi(tx, [1])
      assert [1, 2, 3] = tx |> CubDB.Tx.select(max_key: 3) |> keys()
      {:cancel, :ok}
    end)
  end

  test "many keys at once, most of them not there", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..3_000//3, do: {n, {:value, n}}))
    found = CubDB.get_multi(db, Enum.to_list(1..3_000))
    assert map_size(found) == 1_000
    assert found[2_998] == {:value, 2_998}
    refute Map.has_key?(found, 2_999)
  end

  defp keys(entries), do: Enum.map(entries, &elem(&1, 0))

  test "keys up to 64 KiB, none above", %{db: db} do
    fits = :binary.copy("k", 60_000)
    :ok = CubDB.put(db, fits, :long)
    assert CubDB.get(db, fits) == :long
    too_large = :binary.copy("k", 70_000)
    assert {:error, :too_large} = CubDB.put(db, too_large, 1)
    assert {:error, :too_large} = CubDB.put_multi(db, [{:a, 1}, {too_large, 1}])
    assert CubDB.size(db) == 1
  end

  test "values of every type come back identical", %{db: db} do
    values = [
      self(),
      make_ref(),
      &Enum.map/2,
      fn -> :closure end,
      %{1 => :a, 1.0 => :b},
      [1 | :improper],
      <<5::3>>,
      -0.0,
      1.0e-320,
      Bitwise.bsl(1, 5_000),
      "",
      {},
      hd(Port.list()),
      :"ein Atom mit ü",
      MapSet.new([1, 2])
    ]

    :ok = CubDB.put_multi(db, Enum.with_index(values, fn value, n -> {n, value} end))
    for {value, n} <- Enum.with_index(values), do: assert(CubDB.get(db, n) === value)
    assert values === db |> CubDB.select() |> Enum.map(&elem(&1, 1))
  end

  test "what was acknowledged is there after closing and opening", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..2_000, do: {{:key, n}, n}))
    :ok = MaculaStorage.close_app(db)
    assert CubDB.size(db) == 2_000
    assert Enum.map(1..2_000, &{{:key, &1}, &1}) == db |> CubDB.select() |> Enum.to_list()
  end

  test "data_dir is the store's directory", %{db: db} do
    :ok = CubDB.put(db, 1, 1)
    assert CubDB.data_dir(db) == Path.join(MaculaStorage.app_data_path(db), "kv")
    assert File.ls!(CubDB.data_dir(db)) != []
  end

  test "syncs and compactions", %{db: db} do
    :ok = CubDB.put(db, 1, 1)
    assert :ok = CubDB.set_auto_file_sync(db, false)
    %{syncs: syncs} = CubDB.stats(db)
    :ok = CubDB.put(db, 2, 2)
    assert CubDB.stats(db).syncs == syncs
    assert :ok = CubDB.file_sync(db)
    assert :ok = CubDB.set_auto_file_sync(db, true)
    :ok = CubDB.put(db, 3, 3)
    assert CubDB.stats(db).syncs == syncs + 2

    for durability <- [:none, :async] do
      %{syncs: syncs} = CubDB.stats(db)
      assert :ok = CubDB.put(db, durability, 1, durability: durability)
      assert :ok = CubDB.put_new(db, {durability, 2}, 1, durability: durability)
      assert :ok = CubDB.put_multi(db, [{{durability, 3}, 1}], durability: durability)
      assert CubDB.get(db, {durability, 3}) == 1
      if durability == :none, do: assert(CubDB.stats(db).syncs == syncs)
    end

    syncs = CubDB.stats(db).syncs
    MaculaStorage.Wait.until("the sync within a second", fn -> CubDB.stats(db).syncs > syncs end)
    assert_raise ArgumentError, ~r/durability/, fn -> CubDB.put(db, 1, 1, durability: :maybe) end
    for setting <- [true, false, {1, 0}], do: assert(:ok = CubDB.set_auto_compact(db, setting))
    assert_raise ArgumentError, ~r/auto_compact/, fn -> CubDB.set_auto_compact(db, {-1, 0.1}) end
    assert {:ok, %{bytes_before: _, bytes_after: after_bytes}} = CubDB.compact(db, wait: true)
    assert after_bytes == CubDB.stats(db).file_bytes
    assert CubDB.get_multi(db, [1, 2, 3]) == %{1 => 1, 2 => 2, 3 => 3}
    refute CubDB.compacting?(db)
    assert {:error, :no_compaction_running} = CubDB.halt_compaction(db)
    assert CubDB.compact(db) in [:ok, {:error, :pending_compaction}]
    MaculaStorage.Wait.until("its end", fn -> not CubDB.compacting?(db) end)
    assert CubDB.dirt_factor(db) === 0.0
    assert CubDB.current_db_file(db) == Path.join(CubDB.data_dir(db), "kv.redb")
    assert_raise ArgumentError, ~r/store's pid/, fn -> CubDB.compact(self()) end
  end

  test "a flipped byte of a closed store is named, never a wrong or missing value", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..200, do: {n, {n, String.duplicate("v", 100)}}))
    :ok = MaculaStorage.close_app(db)
    # its log is empty: all of it is in this file
    file = CubDB.current_db_file(db)
    bytes = File.read!(file)
    :rand.seed(:exsss, {ExUnit.configuration()[:seed], 2, 3})

    for _ <- 1..25 do
      at = :rand.uniform(byte_size(bytes)) - 1
      <<head::binary-size(at), byte, tail::binary>> = bytes
      File.write!(file, [head, Bitwise.bxor(byte, 0x10), tail])

      try do
        for n <- 1..200,
            do: assert(CubDB.get(db, n) == {n, String.duplicate("v", 100)}, "at=#{at}")

        assert db |> CubDB.select() |> Enum.count() == 200, "at=#{at}"
      rescue
        error in Error ->
          assert error.kind in [:corrupt, :newer_format], "at=#{at} #{inspect(error)}"
      end

      MaculaStorage.close_app(db)
    end
  end

  test "misuse raises ArgumentError", %{db: db} do
    assert_raise ArgumentError, ~r/app name/, fn -> CubDB.put("No App", 1, 1) end
    assert_raise ArgumentError, ~r/app name/, fn -> CubDB.get("../x", 1) end
    assert_raise ArgumentError, ~r/app name/, fn -> CubDB.get(nil, 1) end
    assert_raise ArgumentError, ~r/app name/, fn -> CubDB.get(42, 1) end
    assert_raise ArgumentError, ~r/unknown option :min/, fn -> CubDB.select(db, min: 1) end
    assert_raise ArgumentError, ~r/:reverse/, fn -> CubDB.select(db, reverse: :yes) end
    assert_raise ArgumentError, ~r/unknown/, fn -> CubDB.transaction(db, & &1, bad: 1) end
    assert_raise FunctionClauseError, fn -> CubDB.transaction(db, fn -> :none end) end
  end
end
