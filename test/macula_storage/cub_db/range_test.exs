defmodule MaculaStorage.CubDB.RangeTest do
  @moduledoc "What begins with a prefix, and how many there are: as the same asked of all keys one by one."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error}
  alias MaculaStorage.CubDB.{Snapshot, Tx}

  setup do
    %{db: unique_app()}
  end

  defp keys(db, options), do: db |> CubDB.select(options) |> Enum.map(&elem(&1, 0))
  defp put_keys(db, keys), do: :ok = CubDB.put_multi(db, Enum.map(keys, &{&1, true}))

  test "binaries", %{db: db} do
    begin = [
      "user:",
      "user:\0",
      "user:\1x",
      "user:1",
      "user:ü",
      <<"user:", 255>>,
      <<"user:", 255, 255>>
    ]

    longer = begin ++ [<<"user:", 1::1>>]
    others = ["user", "use", "", "user;", "usez", <<"user", 29::7>>, 'user:', {"user:"}, :user]
    put_keys(db, longer ++ others)
    assert keys(db, prefix: "user:") == Enum.sort(longer)
    assert keys(db, prefix: "user:", reverse: true) == Enum.sort(longer, :desc)

    assert keys(db, prefix: <<"user:", 255>>) ==
             Enum.sort([<<"user:", 255>>, <<"user:", 255, 255>>])

    assert keys(db, prefix: "none") == []
    # every bitstring begins with nothing
    assert keys(db, prefix: "") == Enum.sort(longer ++ Enum.filter(others, &is_bitstring/1))
  end

  test "lists", %{db: db} do
    begin = [[:a, 1], [:a, 1.0], [:a, 1, :b], [:a, 1 | :tail], [:a, 1, [:b]], [:a, 1 | "x"]]
    others = [[:a], [:a, 2], [:a, [1]], [], [:b, 1], {:a, 1}, [:a | 1]]
    put_keys(db, begin ++ others)
    assert MapSet.new(keys(db, prefix: [:a, 1])) == MapSet.new(begin)
    assert keys(db, prefix: [:a, [1]]) == [[:a, [1]]]
    put_keys(db, ['user:1', 'user:2'])
    assert keys(db, prefix: 'user:') == ['user:1', 'user:2']
  end

  test "tuples, of one size at a time", %{db: db} do
    put_keys(
      db,
      for(n <- 1..3, key <- [{:user, n}, {:user, n, :name}, {:user, n, :age}], do: key)
    )

    put_keys(db, [{:user}, {:usez, 1, :name}, {:user, 2.0, :mail}, {{:user, 2}, :x, :y}])
    assert keys(db, prefix: {:user}, tuple_size: 1) == [{:user}]
    assert keys(db, prefix: {:user}, tuple_size: 2) == [{:user, 1}, {:user, 2}, {:user, 3}]
    assert keys(db, prefix: {:user, 2}, tuple_size: 2) == [{:user, 2}]

    assert keys(db, prefix: {:user, 2}, tuple_size: 3) ===
             [{:user, 2, :age}, {:user, 2.0, :mail}, {:user, 2, :name}]

    assert keys(db, prefix: {}, tuple_size: 3) |> length() == 9
    assert keys(db, prefix: {:user}, tuple_size: 4) == []
  end

  test "bounds narrow a prefix", %{db: db} do
    put_keys(db, for(n <- 1..9, do: "user:#{n}") ++ ["usep", "user;"])
    assert keys(db, prefix: "user:", min_key: "user:8") == ["user:8", "user:9"]
    assert keys(db, prefix: "user:", min_key: "user:8", min_key_inclusive: false) == ["user:9"]
    assert keys(db, prefix: "user:", max_key: "user:2", reverse: true) == ["user:2", "user:1"]
    assert keys(db, prefix: "user:", min_key: 1, max_key: "z") |> length() == 9
    assert keys(db, prefix: "user:", max_key: "user") == []
    # the same bytes end a bound and a prefix
    assert keys(db, prefix: "user:", min_key: "user:", min_key_inclusive: false) |> length() == 9
  end

  test "many pages", %{db: db} do
    put_keys(db, for(a <- 1..4, b <- 1..1_500, do: {a, b}))
    assert keys(db, prefix: {2}, tuple_size: 2) == for(b <- 1..1_500, do: {2, b})

    assert keys(db, prefix: {3}, tuple_size: 2, reverse: true) ==
             for(b <- 1_500..1//-1, do: {3, b})

    assert CubDB.count(db, prefix: {3}, tuple_size: 2) == 1_500
    assert CubDB.count(db) == 6_000
    assert CubDB.count(db, min_key: {1, 1_500}, max_key: {4, 1}) == 3_002
    assert CubDB.count(db, min_key: {4, 1}, max_key: {1, 1}) == 0
    assert CubDB.count(db, min_key: {4, 1}, min_key_inclusive: false, reverse: true) == 1_499
  end

  test "counting: large values, an empty store, snapshots, transactions", %{db: db} do
    assert CubDB.count(db) == 0
    assert CubDB.count(db, min_key: 1) == 0
    for n <- 1..3, do: :ok = CubDB.put(db, n, :binary.copy("x", 2_000_000))
    assert CubDB.count(db, min_key: 2) == 2

    CubDB.with_snapshot(db, fn snapshot ->
      :ok = CubDB.put(db, 4, 4)
      assert Snapshot.count(snapshot, min_key: 2) == 2
      assert Snapshot.count(snapshot) == 3
    end)

    CubDB.transaction(db, fn tx ->
      tx = tx |> Tx.put(5, 5) |> Tx.delete(1)
      assert {Tx.count(tx), Tx.count(tx, min_key: 3), CubDB.count(db, min_key: 3)} == {4, 3, 2}
      {:cancel, nil}
    end)

    released = CubDB.with_snapshot(db, & &1)
    assert assert_raise(Error, fn -> Snapshot.count(released, min_key: 1) end).kind == :closed
  end

  test "misuse", %{db: db} do
    for options <- [
          [prefix: {:a}],
          [prefix: {:a, :b}, tuple_size: 1],
          [prefix: {:a}, tuple_size: -1],
          [prefix: "a", tuple_size: 2],
          [prefix: []],
          [prefix: [:a | :b]],
          [prefix: 1],
          [prefix: nil],
          [prefix: <<1::3>>],
          [tuple_size: 2]
        ],
        call <- [&CubDB.select/2, &CubDB.count/2],
        do: assert_raise(ArgumentError, ~r/:prefix/, fn -> call.(db, options) end)
  end
end
