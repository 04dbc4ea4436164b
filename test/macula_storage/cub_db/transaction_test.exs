defmodule MaculaStorage.CubDB.TransactionTest do
  @moduledoc "A transaction is there wholly or not at all, however its function ends, and blocks nobody after."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{CubDB, Error, Wait}
  alias MaculaStorage.CubDB.{Snapshot, Tx}

  setup do
    db = unique_app()
    :ok = CubDB.put_multi(db, a: 1, b: 2)
    %{db: db}
  end

  defp all(db), do: db |> CubDB.select() |> Enum.to_list()

  test "commit", %{db: db} do
    assert :result =
             CubDB.transaction(db, fn tx ->
               tx = tx |> Tx.put(:c, 3) |> Tx.put(:a, 10) |> Tx.delete(:b)
               {:commit, tx, :result}
             end)

    assert all(db) == [a: 10, c: 3]
  end

  test "cancel", %{db: db} do
    assert :result =
             CubDB.transaction(db, fn tx ->
               tx |> Tx.put(:c, 3) |> Tx.clear()
               {:cancel, :result}
             end)

    assert all(db) == [a: 1, b: 2]
  end

  test "the first use of a store may be a transaction" do
    db = unique_app()
    assert 1 = CubDB.transaction(db, fn tx -> {:commit, Tx.put(tx, :a, 1), 1} end)
    assert all(db) == [a: 1]
  end

  test "reads see its own writes, nobody else does before the commit", %{db: db} do
    CubDB.transaction(db, fn tx ->
      tx = tx |> Tx.put(:c, 3) |> Tx.delete(:a) |> Tx.put(:b, nil)
      assert Tx.get(tx, :c) == 3
      assert Tx.get(tx, :a, :default) == :default
      assert Tx.get(tx, :b, :default) == nil
      assert Tx.fetch(tx, :a) == :error
      assert Tx.fetch(tx, :b) == {:ok, nil}
      assert Tx.has_key?(tx, :c)
      assert Tx.size(tx) == 2
      assert Tx.get_multi(tx, [:a, :b, :c]) == %{b: nil, c: 3}
      assert [b: nil, c: 3] == tx |> Tx.select() |> Enum.to_list()
      assert [c: 3] == tx |> Tx.select(reverse: true, min_key: :c) |> Enum.to_list()
      # and a store may be read inside its own transaction: the last committed state
      assert all(db) == [a: 1, b: 2]
      assert Task.await(Task.async(fn -> CubDB.get(db, :a) end)) == 1
      {:commit, tx, nil}
    end)

    assert all(db) == [b: nil, c: 3]
  end

  test "put_new, clear, refetch", %{db: db} do
    CubDB.with_snapshot(db, fn before ->
      CubDB.transaction(db, fn tx ->
        assert {:error, :exists} = Tx.put_new(tx, :a, 9)
        tx = Tx.put_new(tx, :c, 3)
        assert Tx.refetch(tx, :a, before) == :unchanged
        assert Tx.refetch(tx, :c, before) == {:ok, 3}
        tx = Tx.clear(tx)
        assert Tx.size(tx) == 0
        assert Tx.refetch(tx, :a, before) == :error
        {:commit, Tx.put_new(tx, :a, 5), nil}
      end)

      assert Snapshot.size(before) == 2
    end)

    assert all(db) == [a: 5]
  end

  test "raise, throw, exit and a wrong answer cancel, and the next writer goes on", %{db: db} do
    endings = [
      fn -> assert_raise RuntimeError, "oops", fn -> run(db, fn -> raise "oops" end) end end,
      fn -> assert catch_throw(run(db, fn -> throw(:ball) end)) == :ball end,
      fn -> assert catch_exit(run(db, fn -> exit(:left) end)) == :left end,
      fn ->
        assert_raise ArgumentError, ~r/expected the trans/, fn -> run(db, fn -> :ok end) end
      end,
      fn -> assert_raise ArgumentError, fn -> run(db, fn -> {:commit, :other, 1} end) end end
    ]

    for {ending, n} <- Enum.with_index(endings) do
      ending.()
      assert CubDB.get(db, :lost) == nil
      assert :ok = CubDB.put(db, :n, n)
    end

    assert all(db) == [a: 1, b: 2, n: 4]
  end

  test "the transaction of another time is no answer", %{db: db} do
    old = CubDB.transaction(db, fn tx -> {:commit, tx, tx} end)
    assert_raise ArgumentError, fn -> CubDB.transaction(db, fn _ -> {:commit, old, 1} end) end
    assert :ok = CubDB.put(db, :c, 3)
  end

  defp run(db, ending) do
    CubDB.transaction(db, fn tx ->
      Tx.put(tx, :lost, 1)
      ending.()
    end)
  end

  test "a nested write raises, and cancels when it is not rescued", %{db: db} do
    writes = [
      fn -> CubDB.put(db, :c, 3) end,
      fn -> CubDB.delete(db, :a) end,
      fn -> CubDB.clear(db) end,
      fn -> CubDB.update(db, :a, 0, & &1) end,
      fn -> CubDB.transaction(db, fn tx -> {:commit, tx, nil} end) end
    ]

    for write <- writes do
      assert_raise RuntimeError, ~r/inside one of its own transactions/, fn -> run(db, write) end
    end

    assert all(db) == [a: 1, b: 2]
    # another store is another matter
    other = unique_app()
    assert :ok = CubDB.transaction(db, fn _tx -> {:cancel, CubDB.put(other, 1, 1)} end)
    assert all(other) == [{1, 1}]
  end

  test "transactions take turns: none sees half of another", %{db: db} do
    :ok = CubDB.put_multi(db, x: 0, y: 0)

    move = fn n ->
      CubDB.transaction(db, fn tx ->
        {x, y} = {Tx.get(tx, :x), Tx.get(tx, :y)}
        assert x == -y
        {:commit, tx |> Tx.put(:x, x + n) |> Tx.put(:y, y - n), :moved}
      end)
    end

    1..100
    |> Task.async_stream(move, max_concurrency: 10)
    |> Enum.each(&assert &1 == {:ok, :moved})

    assert CubDB.get_multi(db, [:x, :y]) == %{x: 5050, y: -5050}
  end

  test "the deadline: rolled back, every use says so, and the next writer goes on", %{db: db} do
    answer =
      CubDB.transaction(
        db,
        fn tx ->
          Tx.put(tx, :lost, 1)
          # the writer's turn comes by itself, while this function still runs
          assert :ok = Task.await(Task.async(fn -> CubDB.put(db, :c, 3) end), 60_000)
          error = assert_raise Error, fn -> Tx.put(tx, :lost, 2) end
          assert error.kind in [:timeout, :closed]
          assert_raise Error, fn -> Tx.get(tx, :a) end
          {:commit, tx, :committed}
        end,
        timeout: 50
      )

    assert answer == {:error, :timeout}
    assert all(db) == [a: 1, b: 2, c: 3]
  end

  test "a killed owner", %{db: db} do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        CubDB.transaction(db, fn tx ->
          send(test, {:in, Tx.clear(tx)})
          receive do: (:never -> {:commit, tx, nil})
        end)
      end)

    assert_receive {:in, tx}, 60_000
    waiting = Task.async(fn -> CubDB.put(db, :c, 3) end)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 60_000
    assert :ok = Task.await(waiting, 60_000)
    assert all(db) == [a: 1, b: 2, c: 3]
    Wait.until("end of the handle", fn -> match?({:error, :closed}, Tx.commit(tx)) end)
  end

  test "ten thousand writes in one", %{db: db} do
    CubDB.transaction(db, fn tx ->
      {:commit, Enum.reduce(1..10_000, tx, &Tx.put(&2, &1, &1)), nil}
    end)

    assert CubDB.size(db) == 10_002
    assert Enum.sum(for {n, n} when is_integer(n) <- CubDB.select(db), do: n) == 50_005_000
  end

  test "a key that is too large raises, and the rest may still be committed or not", %{db: db} do
    CubDB.transaction(db, fn tx ->
      error = assert_raise Error, fn -> Tx.put(tx, :binary.copy("k", 70_000), 1) end
      assert error.kind == :too_large
      {:commit, Tx.put(tx, :c, 3), nil}
    end)

    assert all(db) == [a: 1, b: 2, c: 3]
  end
end
