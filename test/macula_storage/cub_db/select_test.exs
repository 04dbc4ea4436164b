defmodule MaculaStorage.CubDB.SelectTest do
  @moduledoc "Ranges: bounds, classes of equal keys, direction, laziness, pages."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error}

  setup do
    %{db: unique_app()}
  end

  defp keys(db, options), do: db |> CubDB.select(options) |> Enum.map(&elem(&1, 0))

  test "bounds are inclusive unless told", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..9, do: {n, n}))
    assert keys(db, min_key: 3, max_key: 5) == [3, 4, 5]
    assert keys(db, min_key: 3, max_key: 5, min_key_inclusive: false) == [4, 5]
    assert keys(db, min_key: 3, max_key: 5, max_key_inclusive: false) == [3, 4]
    assert keys(db, min_key: 7) == [7, 8, 9]
    assert keys(db, max_key: 2) == [1, 2]
    assert keys(db, min_key: 3, max_key: 5, reverse: true) == [5, 4, 3]
    assert keys(db, min_key: 5, max_key: 3) == []
    assert keys(db, min_key: 3, max_key: 3) == [3]
    assert keys(db, min_key: 3, max_key: 3, max_key_inclusive: false) == []
    assert keys(db, reverse: true) == Enum.to_list(9..1//-1)
    assert keys(db, min_key: 2.5, max_key: 4.5) == [3, 4]
    # an inclusive without a bound says nothing
    assert keys(db, min_key_inclusive: false, max_key_inclusive: false) == Enum.to_list(1..9)
  end

  test "a bound takes in all keys that are equal to it", %{db: db} do
    :ok =
      CubDB.put_multi(db, [{1, :i}, {1.0, :f}, {2, :i}, {2.0, :f}, {{1, :b}, 1}, {{1.0, :b}, 2}])

    assert keys(db, min_key: 1.0, max_key: 1.0) === [1, 1.0]
    assert keys(db, min_key: 1, max_key: 1) === [1, 1.0]
    assert keys(db, min_key: 1, min_key_inclusive: false, max_key: 2) === [2, 2.0]
    assert keys(db, min_key: 1.0, min_key_inclusive: false, max_key: 2.0) === [2, 2.0]
    assert keys(db, max_key: 2, max_key_inclusive: false) === [1, 1.0]
    assert keys(db, min_key: {1.0, :b}) === [{1, :b}, {1.0, :b}]
    assert keys(db, min_key: {1, :b}, min_key_inclusive: false) === []
  end

  test "the tie of 1 and 1.0 counts last", %{db: db} do
    :ok = CubDB.put_multi(db, [{{1, :b}, 1}, {{1.0, :a}, 2}, {{1.0, :b}, 3}, {{1, :a}, 4}])
    assert keys(db, []) === [{1, :a}, {1.0, :a}, {1, :b}, {1.0, :b}]
  end

  test "nil is a key and a bound when it is given", %{db: db} do
    :ok = CubDB.put_multi(db, [{1, 1}, {:a, 1}, {nil, 1}, {:z, 1}, {"s", 1}])
    assert keys(db, []) == [1, :a, nil, :z, "s"]
    assert keys(db, min_key: nil) == [nil, :z, "s"]
    assert keys(db, max_key: nil) == [1, :a, nil]
    assert keys(db, min_key: nil, min_key_inclusive: false) == [:z, "s"]
    assert keys(db, min_key: nil, max_key: nil) == [nil]
  end

  test "the snapshot is taken at the first demand, not before, not again", %{db: db} do
    :ok = CubDB.put(db, 1, :old)
    stream = CubDB.select(db)
    :ok = CubDB.put(db, 1, :new)
    :ok = CubDB.put_multi(db, for(n <- 2..2_000, do: {n, n}))

    seen =
      Enum.map(stream, fn {n, value} ->
        if n == 1, do: :ok = CubDB.put_multi(db, [{1_999, :later}, {2_001, 2_001}])
        value
      end)

    assert seen == [:new | Enum.to_list(2..2_000)]
    # each run of the stream has its own
    assert Enum.count(stream) == 2_001
  end

  test "only what is asked for is read, and an end before the end is clean", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..5_000, do: {n, n}))
    assert [{1, 1}, {2, 2}] = db |> CubDB.select() |> Enum.take(2)
    assert {10, 10} = db |> CubDB.select() |> Enum.at(9)
    assert {5_000, 5_000} = db |> CubDB.select(reverse: true) |> Enum.at(0)
    assert [] = db |> CubDB.select() |> Enum.take(0)

    assert_raise RuntimeError, "in the middle", fn ->
      db |> CubDB.select() |> Enum.each(fn {n, _} -> if n == 600, do: raise("in the middle") end)
    end

    zipped = Stream.zip(CubDB.select(db), CubDB.select(db, reverse: true))
    assert {{1, 1}, {5_000, 5_000}} = Enum.at(zipped, 0)
  end

  test "pages meet without a gap or a double, both ways, at every size", %{db: db} do
    for count <- [511, 512, 513, 1_024, 1_025] do
      :ok = CubDB.clear(db)
      :ok = CubDB.put_multi(db, for(n <- 1..count, do: {n / 1, n}))
      assert keys(db, []) == Enum.map(1..count, &(&1 / 1))
      assert keys(db, reverse: true) == Enum.map(count..1//-1, &(&1 / 1))
      assert keys(db, min_key: 2, max_key: count - 1) |> length() == count - 2
    end
  end

  test "pages of large values, too", %{db: db} do
    value = :binary.copy("v", 90_000)
    for n <- 1..20, do: :ok = CubDB.put(db, n, value)
    assert Enum.to_list(1..20) == keys(db, [])
    assert Enum.to_list(20..1//-1) == keys(db, reverse: true)
  end

  test "another process may consume the stream, and outlive who made it", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..1_500, do: {n, n}))
    stream = Task.await(Task.async(fn -> CubDB.select(db, min_key: 2) end))
    assert Task.await(Task.async(fn -> Enum.count(stream) end)) == 1_499
  end

  test "a reader killed in the middle holds nothing up", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..1_500, do: {n, n}))
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        Enum.each(CubDB.select(db), fn _ ->
          send(test, :reading)
          receive do: (:never -> :ok)
        end)
      end)

    assert_receive :reading, 60_000
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    assert :ok = CubDB.clear(db)
    assert :ok = MaculaStorage.close_app(db)
  end

  test "data_select is the same", %{db: db} do
    :ok = MaculaStorage.data_put(db, :a, 1)
    :ok = MaculaStorage.data_put(db, :b, 2)
    assert [b: 2] == db |> MaculaStorage.data_select(min_key: :b) |> Enum.to_list()
    assert :ok = MaculaStorage.data_delete(db, :b)
    assert :ok = MaculaStorage.data_delete(db, :b)
    assert MaculaStorage.data_get(db, :b) == nil
    assert MaculaStorage.data_get(db, :b, 0) == 0

    assert_raise ArgumentError, ~r/unknown option/, fn ->
      MaculaStorage.data_put(db, 1, 1, lifetime: 1)
    end
  end

  test "a closed app in the middle raises, and the next stream goes on", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 1..1_500, do: {n, n}))

    error =
      assert_raise Error, fn ->
        Enum.each(CubDB.select(db), fn {n, _} ->
          if n == 1, do: :ok = MaculaStorage.close_app(db)
        end)
      end

    assert error.kind == :closed
    assert Enum.count(CubDB.select(db)) == 1_500
  end
end
