defmodule MaculaStorage.CubDB.CompareTest do
  @moduledoc "Conditional writes: done if the key holds what is expected, else a conflict that changed nothing."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Apps, Call, CubDB, Native}

  setup do
    db = unique_app()
    :ok = CubDB.put_multi(db, a: 1, nothing: nil)
    %{db: db}
  end

  defp all(db), do: db |> CubDB.select() |> Enum.to_list()

  test "the value that is there, another, none", %{db: db} do
    assert {:error, :conflict} = CubDB.compare_and_put(db, :a, {:ok, 2}, 3)
    assert {:error, :conflict} = CubDB.compare_and_put(db, :a, :error, 3)
    assert {:error, :conflict} = CubDB.compare_and_put(db, :none, {:ok, nil}, 3)
    assert {:error, :conflict} = CubDB.compare_and_put(db, :nothing, :error, 3)
    assert {:error, :conflict} = CubDB.compare_and_delete(db, :a, {:ok, 2})
    assert {:error, :conflict} = CubDB.compare_and_delete(db, :a, :error)
    assert {:error, :conflict} = CubDB.compare_and_delete(db, :none, {:ok, 1})
    assert all(db) == [a: 1, nothing: nil]

    assert :ok = CubDB.compare_and_put(db, :a, {:ok, 1}, 2)
    assert :ok = CubDB.compare_and_put(db, :a, CubDB.fetch(db, :a), 3)
    assert :ok = CubDB.compare_and_put(db, :new, CubDB.fetch(db, :new), 1)
    assert :ok = CubDB.compare_and_put(db, :nothing, {:ok, nil}, nil)
    assert :ok = CubDB.compare_and_delete(db, :a, {:ok, 3})
    assert :ok = CubDB.compare_and_delete(db, :a, :error)
    assert all(db) == [new: 1, nothing: nil]
  end

  test "the same is what === says", %{db: db} do
    for {stored, other} <- [{1, 1.0}, {%{1 => 2}, %{1.0 => 2}}, {"a", 'a'}, {:a, "a"}] do
      :ok = CubDB.put(db, :a, stored)
      assert {:error, :conflict} = CubDB.compare_and_put(db, :a, {:ok, other}, :changed)
      assert CubDB.get(db, :a) === stored
    end

    # maps made in another order, large enough for any of their kinds
    one = Map.new(1..100, &{{&1, "key"}, &1})
    other = Map.new(Enum.reverse(1..100), &{{&1, "key"}, &1})
    :ok = CubDB.put(db, :a, one)
    assert :ok = CubDB.compare_and_put(db, :a, {:ok, other}, :changed)
  end

  # Compared by bytes made anew alone, a value stored under another version of OTP was never the same.
  test "a value whose stored bytes are not those of today", %{db: db} do
    {:ok, handle} = Apps.app(db)
    old = :erlang.term_to_binary({:at, 1.5}, minor_version: 0)
    ops = [{:put, :erlang.term_to_binary(:a), old}]

    for compare <- [
          &CubDB.compare_and_put(db, :a, &1, :changed),
          &CubDB.compare_and_delete(db, :a, &1)
        ] do
      :ok = Call.run(&Native.kv_write(handle, &1, ops, [], nil), op: :test)
      assert {:error, :conflict} = compare.({:ok, {:at, 2.5}})
      assert :ok = compare.({:ok, {:at, 1.5}})
      refute CubDB.get(db, :a) == {:at, 1.5}
    end
  end

  test "of many that expect the same, one writes", %{db: db} do
    results =
      1..50
      |> Task.async_stream(&CubDB.compare_and_put(db, :a, {:ok, 1}, {:won, &1}),
        max_concurrency: 50
      )
      |> Enum.frequencies()

    assert results == %{{:ok, :ok} => 1, {:ok, {:error, :conflict}} => 49}
    assert {:won, _} = CubDB.get(db, :a)
  end

  test "large values", %{db: db} do
    large = :binary.copy("x", 3_000_000)
    :ok = CubDB.put(db, :a, large)
    assert {:error, :conflict} = CubDB.compare_and_put(db, :a, {:ok, large <> "y"}, 1)
    assert :ok = CubDB.compare_and_put(db, :a, {:ok, large}, 1)
    assert CubDB.get(db, :a) == 1
  end

  test "misuse", %{db: db} do
    assert_raise ArgumentError, ~r/:error/, fn -> CubDB.compare_and_put(db, :a, 1, 2) end
    assert_raise ArgumentError, ~r/:error/, fn -> CubDB.compare_and_delete(db, :a, nil) end
    write = fn tx -> {:cancel, CubDB.compare_and_put(db, :a, {:ok, tx}, 1)} end
    assert_raise RuntimeError, ~r/inside one of its own/, fn -> CubDB.transaction(db, write) end
    assert {:error, :too_large} = CubDB.compare_and_delete(db, :binary.copy("k", 70_000), :error)
    assert all(db) == [a: 1, nothing: nil]
  end
end
