defmodule MaculaStorage.CubDB.UpdateTest do
  @moduledoc "Updates read, compute in the caller, and write only what still holds; they block nobody meanwhile."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{Apps, Call, CubDB, Native}

  setup do
    db = unique_app()
    :ok = CubDB.put_multi(db, a: 1, b: 2)
    %{db: db}
  end

  defp all(db), do: db |> CubDB.select() |> Enum.to_list()

  # Tells how often it was called, and writes in another process what `meddle` says of that call.
  defp counted(db, meddle, answer) do
    me = self()
    runs = :counters.new(1, [])

    fun = fn value ->
      :counters.add(runs, 1, 1)
      run = :counters.get(runs, 1)
      assert self() == me
      for {key, value} <- meddle.(run), do: elsewhere(fn -> :ok = CubDB.put(db, key, value) end)
      answer.(value)
    end

    {fun, fn -> :counters.get(runs, 1) end}
  end

  defp elsewhere(fun), do: Task.await(Task.async(fun), 60_000)

  test "others write while the function runs, and it runs once", %{db: db} do
    {fun, runs} = counted(db, fn _ -> [c: 3, b: 20] end, &(&1 + 1))
    assert :ok = CubDB.update(db, :a, 0, fun)
    assert runs.() == 1
    assert all(db) == [a: 2, b: 20, c: 3]
  end

  test "it runs again when its key was written, with the value that is there then", %{db: db} do
    {fun, runs} = counted(db, &if(&1 <= 2, do: [a: &1 * 100], else: []), &(&1 + 1))
    assert :ok = CubDB.update(db, :a, 0, fun)
    assert runs.() == 3
    assert CubDB.get(db, :a) == 201
  end

  test "after three conflicts it has the exclusive turn", %{db: db} do
    # in the fourth run this would wait for its own end
    {fun, runs} = counted(db, &if(&1 <= 3, do: [a: &1 * 100], else: []), &{:was, &1})
    assert {:was, 300} = CubDB.get_and_update(db, :a, &{fun.(&1), :done})
    assert runs.() == 4
    assert CubDB.get(db, :a) == :done
  end

  test "a missing key that appears, and one that goes, are conflicts", %{db: db} do
    {fun, runs} = counted(db, &if(&1 == 1, do: [new: 5], else: []), &{&1, :mine})
    assert 5 = CubDB.get_and_update(db, :new, fun)
    assert runs.() == 2

    {fun, runs} = counted(db, fn _ -> [] end, & &1)

    popped =
      CubDB.get_and_update(db, :new, fn value ->
        if runs.() == 0, do: elsewhere(fn -> CubDB.delete(db, :new) end)
        fun.({value, :again})
      end)

    assert popped == nil
    assert runs.() == 2
    assert CubDB.get(db, :new) == :again
  end

  test "what stays the same is not written", %{db: db} do
    # so a write that comes between is no conflict
    {fun, runs} = counted(db, fn _ -> [a: 100] end, &{:seen, &1})
    assert {:seen, 1} = CubDB.get_and_update(db, :a, &{fun.(&1), &1})
    assert runs.() == 1
    assert CubDB.get(db, :a) == 100
    assert :none = CubDB.get_and_update(db, :none, fn nil -> {:none, nil} end)
    refute CubDB.has_key?(db, :none)
    # equal is not the same
    assert :float = CubDB.get_and_update(db, :a, fn 100 -> {:float, 100.0} end)
    assert CubDB.get(db, :a) === 100.0
  end

  test "many keys: all of one instant, and each is watched", %{db: db} do
    {fun, runs} = counted(db, &if(&1 == 1, do: [b: 5], else: []), & &1)

    assert 6 =
             CubDB.get_and_update_multi(db, [:a, :b, :none], fn map ->
               map = fun.(map)
               {map.a + map.b, %{sum: map.a + map.b}, [:a]}
             end)

    assert runs.() == 2
    assert all(db) == [b: 5, sum: 6]
    # a key in both is deleted, as in put_and_delete_multi
    assert :both = CubDB.get_and_update_multi(db, [], fn %{} -> {:both, [b: 7], [:b]} end)
    assert all(db) == [sum: 6]
  end

  test "however the function ends, nothing changes and its process may write again", %{db: db} do
    for update <- [
          &CubDB.update(db, :a, 0, &1),
          &CubDB.get_and_update(db, :a, &1),
          &CubDB.get_and_update_multi(db, [:a], &1)
        ] do
      assert_raise RuntimeError, "oops", fn -> update.(fn _ -> raise "oops" end) end
      assert catch_throw(update.(fn _ -> throw(:ball) end)) == :ball
      assert catch_exit(update.(fn _ -> exit(:left) end)) == :left
      assert :ok = CubDB.put(db, :b, 2)
    end

    for update <- [&CubDB.get_and_update(db, :a, &1), &CubDB.get_and_update_multi(db, [:a], &1)],
        do: assert_raise(ArgumentError, ~r/expected the function/, fn -> update.(& &1) end)

    assert all(db) == [a: 1, b: 2]
  end

  test "a write inside the function, and an update inside a transaction, raise", %{db: db} do
    inside = ~r/inside one of its own transactions/
    write = fn _ -> CubDB.put(db, :c, 3) end
    assert_raise RuntimeError, inside, fn -> CubDB.update(db, :a, 0, write) end
    nested = fn _ -> CubDB.update(db, :b, 0, & &1) end
    assert_raise RuntimeError, inside, fn -> CubDB.get_and_update(db, :a, nested) end
    assert_raise RuntimeError, inside, fn -> CubDB.transaction(db, nested) end
    assert all(db) == [a: 1, b: 2]
    # reading is fine, and so is another store
    other = unique_app()

    assert :ok =
             CubDB.update(db, :a, 0, fn n ->
               :ok = CubDB.put(other, 1, n)
               n + CubDB.get(db, :b)
             end)

    assert CubDB.get(db, :a) == 3
  end

  # Bytes made anew of a value need not be those that are stored: another version of OTP, or the order
  # of a map's keys in another VM. Compared with such bytes an update would never come to its end.
  test "a value whose stored bytes are not those of today", %{db: db} do
    value = %{float: 1.5}
    # the form of floats of long ago, which is still read
    store_as(db, :a, :erlang.term_to_binary(value, minor_version: 0))
    assert CubDB.get(db, :a) == value
    {fun, runs} = counted(db, fn _ -> [] end, &Map.put(&1, :n, 1))
    assert :ok = CubDB.update(db, :a, 0, fun)
    assert runs.() == 1
    assert CubDB.get(db, :a) == Map.put(value, :n, 1)
  end

  defp store_as(db, key, bytes) do
    {:ok, handle} = Apps.app(db)
    ops = [{:put, :erlang.term_to_binary(key), bytes}]
    :ok = Call.run(&Native.kv_write(handle, &1, ops, [], nil), op: :test)
  end

  test "large values take the exclusive turn, where a writer waits", %{db: db} do
    for size <- [100_000, 2_000_000] do
      :ok = CubDB.put(db, :large, :binary.copy("x", size))
      assert ^size = CubDB.get_and_update(db, :large, &{byte_size(&1), &1 <> "y"})
      assert byte_size(CubDB.get(db, :large)) == size + 1
      assert :ok = CubDB.update(db, :large, nil, &byte_size/1)
      assert CubDB.get(db, :large) == size + 1
    end

    {fun, runs} = counted(db, fn _ -> [] end, &{byte_size(&1), 1})
    :ok = CubDB.put(db, :large, :binary.copy("x", 2_000_000))
    test = self()

    assert 2_000_000 =
             CubDB.get_and_update(db, :large, fn value ->
               spawn_link(fn -> send(test, {:written, CubDB.put(db, :a, 9)}) end)
               refute_received {:written, _}
               fun.(value)
             end)

    assert runs.() == 1
    assert_receive {:written, :ok}, 60_000
  end

  # In the exclusive turn what the store refused was raised, where it promises an answer.
  test "an update whose app is closed meanwhile answers, in its exclusive turn too", %{db: db} do
    for large <- [1, :binary.copy("x", 2_000_000)] do
      :ok = CubDB.put(db, :a, large)

      closing = fn value ->
        elsewhere(fn -> :ok = MaculaStorage.close_app(db) end)
        {:closed_meanwhile, {value, 1}}
      end

      # written to the app opened again, or not at all
      assert CubDB.get_and_update(db, :a, closing) in [:closed_meanwhile, {:error, :closed}]
    end

    # the function's own results are its own, whatever they look like
    for size <- [1, 2_000_000] do
      :ok = CubDB.put(db, :a, :binary.copy("x", size))
      assert :error = CubDB.get_and_update_multi(db, [:a], fn _ -> {:error, nil, nil} end)
      assert {:error, :mine} = CubDB.get_and_update(db, :a, &{{:error, :mine}, &1})
    end

    too_large = :binary.copy("k", 70_000)
    put = fn %{} -> {:ok, [{too_large, 1}], []} end
    assert {:error, :too_large} = CubDB.get_and_update_multi(db, [:a], put)
  end

  test "what cannot be written is an answer, and changes nothing", %{db: db} do
    too_large = :binary.copy("k", 70_000)
    assert {:error, :too_large} = CubDB.update(db, too_large, 0, & &1)
    put = fn %{} -> {:ok, [{:c, 3}, {too_large, 1}], []} end
    assert {:error, :too_large} = CubDB.get_and_update_multi(db, [:a], put)
    assert all(db) == [a: 1, b: 2]
    assert_raise FunctionClauseError, fn -> CubDB.update(db, :a, 0, fn -> 1 end) end
  end

  test "every update of many is counted once, whatever it meets", %{db: db} do
    :ok = CubDB.put_multi(db, for(n <- 0..4, do: {{:n, n}, 0}))

    1..200
    |> Task.async_stream(
      fn i ->
        keys = [{:n, rem(i, 5)}, {:n, rem(i + 1, 5)}]

        CubDB.get_and_update_multi(db, keys, fn map ->
          {:ok, Map.new(map, fn {key, n} -> {key, n + 1} end), []}
        end)
      end,
      max_concurrency: 20
    )
    |> Enum.each(fn answer -> assert answer == {:ok, :ok} end)

    assert for({{:n, _}, n} <- all(db), do: n) == [80, 80, 80, 80, 80]
  end
end
