defmodule MaculaStorage.KhepriTest do
  @moduledoc "The replicated state on one node: what a call gives, what misuse raises, what a restart keeps."
  use MaculaStorage.Case, async: true

  alias MaculaStorage.{ChildVM, Khepri}
  alias MaculaStorage.Khepri.{Tx, Wire}

  doctest MaculaStorage.Khepri

  # a branch of the tree that no other test has
  setup do
    root = "root-#{System.unique_integer([:positive])}"
    on_exit(fn -> Khepri.delete([root]) end)
    %{root: root}
  end

  test "a read that may be stale is as new as it says", %{root: root} do
    assert :ok = Khepri.put([root], 1)
    assert {:ok, 1} = Khepri.get([root], consistency: {:stale, 60_000})
    assert {:ok, 1} = Khepri.get([root], consistency: {:stale, 1})
    assert {:ok, 1} = Khepri.count([root], consistency: {:stale, 1})

    for bad <- [{:stale, 0}, {:stale, :never}, :fresh],
        do: assert_raise(ArgumentError, ~r/stale/, fn -> Khepri.get([root], consistency: bad) end)
  end

  test "any term is a name and a value", %{root: root} do
    terms = [
      nil,
      1,
      1.0,
      -0.0,
      :a,
      "a",
      {:a, 1},
      %{a: [1]},
      [],
      [1 | 2],
      <<1::3>>,
      self(),
      make_ref()
    ]

    for {term, n} <- Enum.with_index(terms), do: assert(:ok = Khepri.put([root, term], {n, term}))

    for {term, n} <- Enum.with_index(terms),
        do: assert({:ok, {^n, ^term}} = Khepri.get([root, term]))

    assert {:ok, names} = Khepri.list([root])
    assert length(names) == length(terms)
    assert Enum.all?(terms, fn term -> Enum.any?(names, &(&1 === term)) end)
  end

  test "parents come with their children and go with the last of them", %{root: root} do
    assert Khepri.exists([root]) == false
    assert :ok = Khepri.put([root, :a, :b], 1)
    assert Khepri.exists([root, :a]) == true
    assert Khepri.has_data([root, :a]) == false
    assert {:error, :not_found} = Khepri.get([root, :a])

    assert {:ok, %{has_data: false, children: 1, version: 0}} =
             Khepri.get([root, :a], details: true)

    assert :ok = Khepri.delete([root, :a, :b])
    assert Khepri.exists([root]) == false
  end

  test "create, update and compare_and_swap change something only when it is so", %{root: root} do
    path = [root, :x]
    assert {:error, :not_found} = Khepri.update(path, 1)
    assert {:error, :conflict} = Khepri.compare_and_swap(path, nil, 1)
    assert :ok = Khepri.create(path, 1)
    assert {:error, :exists} = Khepri.create(path, 2)
    assert :ok = Khepri.update(path, 2)
    assert {:error, :conflict} = Khepri.compare_and_swap(path, 2.0, 3)
    assert :ok = Khepri.compare_and_swap(path, 2, 3)
    assert {:ok, 3} = Khepri.get(path)
    assert {:ok, %{version: 3}} = Khepri.get(path, details: true)
  end

  test "patterns and conditions", %{root: root} do
    for app <- [:a, :b, :c], n <- 1..3, do: Khepri.put([root, app, n], {app, n})
    assert {:ok, 9} = Khepri.count([root, :*, :*])
    assert {:ok, 13} = Khepri.count([root, :**])
    assert {:ok, found} = Khepri.get_many([root, :*, 2])
    assert found == for(app <- [:a, :b, :c], into: %{}, do: {[root, app, 2], {app, 2}})
    assert {:ok, found} = Khepri.get_many([root, :**], where: [matches: {:_, 3}])
    assert map_size(found) == 3
    assert {:ok, 3} = Khepri.count([root, {:*, children: {:>=, 3}}])
    assert {:ok, 0} = Khepri.count([root, {:*, has_data: true}])

    assert {:ok, 1} =
             Khepri.put_many([root, :**], :changed, where: [any: [[value: {:a, 1}], [value: 0]]])

    assert {:ok, :changed} = Khepri.get([root, :a, 1])
    # the node :b and its three children
    assert {:ok, 4} = Khepri.delete_many([root, :b])
    assert {:ok, [:a, :c]} = Khepri.list([root])
    assert {:ok, [:a]} = Khepri.list([root], limit: 1)
  end

  test "more nodes than a page are found in order, each once", %{root: root} do
    1..2500
    |> Enum.chunk_every(500)
    |> Enum.each(fn names -> Khepri.txn([], for(n <- names, do: {:put, [root, n], n})) end)

    assert {:ok, names} = Khepri.list([root])
    assert names == Enum.to_list(1..2500)

    assert {:ok, paths} =
             Khepri.fold([root, :*], [], fn [_, n], node, acc when node.value == n ->
               [n | acc]
             end)

    assert Enum.reverse(paths) == Enum.to_list(1..2500)
  end

  test "time to live and keep_while end nodes by themselves", %{root: root} do
    assert :ok = Khepri.put([root, :short], 1, ttl: 40)
    assert :ok = Khepri.put([root, :leader], node())
    assert :ok = Khepri.put([root, :follows], 1, keep_while: %{[root, :leader] => [exists: true]})

    assert {:error, {:keep_while_not_met, [^root, :nobody]}} =
             Khepri.put([root, :never], 1, keep_while: %{[root, :nobody] => [exists: true]})

    assert :ok = Khepri.delete([root, :leader])
    assert {:error, :not_found} = Khepri.get([root, :follows])

    MaculaStorage.Wait.until("it expires", fn ->
      Khepri.get([root, :short]) == {:error, :not_found}
    end)
  end

  test "transactions commit at once, see their own writes, and run again on a conflict", %{
    root: root
  } do
    Khepri.put([root, :n], 0)

    add = fn tx ->
      {:ok, n} = Tx.get(tx, [root, :n])
      :ok = Tx.put(tx, [root, :n], n + 1)
      {:ok, m} = Tx.get(tx, [root, :n])
      m
    end

    results =
      1..40
      |> Enum.map(fn _ -> Task.async(fn -> Khepri.transaction(add, timeout: 60_000) end) end)
      |> Task.await_many(60_000)

    assert Enum.sort(results) == for(n <- 1..40, do: {:ok, n})
    assert {:ok, 40} = Khepri.get([root, :n])

    assert {:error, {:aborted, :no}} =
             Khepri.transaction(fn tx ->
               Tx.put(tx, [root, :n], :lost)
               Khepri.abort(:no)
             end)

    assert {:ok, :gone} =
             Khepri.transaction(fn tx ->
               Tx.put(tx, [root, :t, :a], 1)
               Tx.delete(tx, [root, :t])
               {:error, :not_found} = Tx.get(tx, [root, :t, :a])
               :gone
             end)

    assert {:ok, 40} = Khepri.get([root, :n])
    assert Khepri.exists([root, :t]) == false
    assert_raise RuntimeError, fn -> Khepri.transaction(fn _ -> raise "mine" end) end
  end

  test "a transaction sees one moment, and runs again when what it walked over has changed", %{
    root: root
  } do
    for n <- 1..3, do: Khepri.put([root, :in, n], n)
    test = self()

    sum = fn tx ->
      {:ok, first} = Tx.get(tx, [root, :in, 1])
      send(test, {:read, self()})

      receive do
        :go_on -> :ok
      end

      {:ok, all} = Tx.get_many(tx, [root, :in, :*])
      # the same moment, whatever was written meanwhile
      assert all[[root, :in, 1]] == first
      :ok = Tx.put(tx, [root, :sum], all |> Map.values() |> Enum.sum())
      assert_raise ArgumentError, fn -> Tx.get_many(tx, [root, :**]) end
      map_size(all)
    end

    running = Task.async(fn -> Khepri.transaction(sum, timeout: 20_000) end)
    assert_receive {:read, pid}
    :ok = Khepri.put([root, :in, 4], 4)
    :ok = Khepri.put([root, :in, 1], 10)
    send(pid, :go_on)
    assert_receive {:read, ^pid}
    send(pid, :go_on)
    assert {:ok, 4} = Task.await(running)
    assert {:ok, 19} = Khepri.get([root, :sum])
  end

  test "what takes a scheduler long to copy is for a dirty one" do
    put = fn bytes -> {:put, [], :binary.copy("x", bytes), nil, nil, []} end
    refute Wire.large?({:txn, [], [put.(60_000)], []})
    assert Wire.large?({:txn, [], [put.(40_000)], [put.(40_000)]})
    refute Wire.large?({:txn, [], List.duplicate(put.(1), 100), []})
    assert Wire.large?({:txn, [], List.duplicate(put.(1), 1_000), []})
    assert Wire.large?({:import, []})
    refute Wire.large?({:lease_revoke, 1})
  end

  test "misuse raises and changes nothing", %{root: root} do
    for bad <- [[], :a, "a", [root, :*], [root, :**]],
        do: assert_raise(ArgumentError, fn -> Khepri.put(bad, 1) end)

    assert_raise ArgumentError, fn -> Khepri.put([root], 1, ttl: 0) end
    assert_raise ArgumentError, fn -> Khepri.put([root], 1, unknown: 1) end
    assert_raise ArgumentError, fn -> Khepri.get_many([root, :*], where: [size: 1]) end
    assert_raise ArgumentError, fn -> Khepri.get([root], consistency: :best) end
    assert {:error, :too_large} = Khepri.put([root, String.duplicate("x", 70_000)], 1)
    assert {:error, :too_large} = Khepri.put([root], :binary.copy("x", 9_000_000))
    assert Khepri.exists([root]) == false
  end

  test "a local get gives the same whatever the length", %{root: root} do
    for bytes <- [0, 1, 15_000, 16_384, 70_000, 1_000_000] do
      value = :crypto.strong_rand_bytes(bytes)
      assert :ok = Khepri.put([root, bytes], value)
      assert {:ok, ^value} = Khepri.get([root, bytes], consistency: :local)
      assert {:ok, ^value} = Khepri.get([root, bytes])
      assert true == Khepri.has_data([root, bytes], consistency: :local)
    end

    assert {:error, :not_found} = Khepri.get([root, :nowhere], consistency: :local)
  end

  test "calls given up leave no message", %{root: root} do
    for _ <- 1..50, do: Khepri.put([root, :given_up], 1, timeout: 1)
    refute_receive _, 50
  end

  @writer """
  {:ok, _} = Application.ensure_all_started(:macula_storage)
  alias MaculaStorage.Khepri
  {:ok, before} = Khepri.list([:n])
  IO.puts("have \#{length(before)} \#{inspect(before == Enum.to_list(1..length(before)//1))}")
  for n <- Stream.iterate(length(before) + 1, & &1 + 1) do
    :ok = Khepri.put([:n, n], n)
    IO.puts("ack \#{n}")
  end
  """

  test "what was acknowledged is there after kill -9, and another VM is told who has it" do
    base = unique_dir("state")

    Enum.reduce(1..4, 0, fn _life, acknowledged ->
      child = ChildVM.start(@writer, base: base)
      {:line, "have " <> have} = ChildVM.next(child)
      [count, "true"] = String.split(have)
      # more than that: lines that were printed, and lost with the VM
      assert String.to_integer(count) >= acknowledged
      there = String.to_integer(count)
      ChildVM.wait_for(child, "ack #{there + 50}")

      other = ChildVM.start(@writer, base: base, stderr: true)
      {lines, status} = ChildVM.rest(other)
      assert status != 0
      assert Enum.any?(lines, &(&1 =~ ":locked"))

      case ChildVM.kill(child) do
        [] -> there + 50
        lines -> lines |> List.last() |> String.replace("ack ", "") |> String.to_integer()
      end
    end)
  end
end
