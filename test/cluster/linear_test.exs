defmodule MaculaStorage.Cluster.LinearTest do
  @moduledoc """
  The checker of histories: right and wrong ones made by hand, and random ones beside every order there is.
  """
  use ExUnit.Case, async: true

  alias MaculaStorage.Scenario.Linear

  @histories if System.get_env("MACULA_TORTURE"), do: 200_000, else: 3_000

  defp wrong(history), do: match?({:error, {:not_linearizable, _}}, Linear.check(history))

  test "what is right" do
    assert Linear.check([]) == :ok
    assert Linear.check([{1, 2, {:put, :a}}, {3, 4, {:get, :a}}]) == :ok
    # two at once, in either order
    for seen <- [:a, :b] do
      assert Linear.check([{1, 9, {:put, :a}}, {2, 8, {:put, :b}}, {10, 11, {:get, seen}}]) == :ok
    end

    # nobody knows of a put: it took place late, or never
    late = [{1, :never, {:put, :a}}, {2, 3, {:get, nil}}, {4, 5, {:get, :a}}]
    assert Linear.check(late) == :ok
    assert Linear.check(Enum.take(late, 2)) == :ok
    # a swap that saw the one of two puts at once that was second
    swap = [
      {1, 9, {:put, :a}},
      {2, 8, {:put, :b}},
      {10, 11, {:cas_not, :b}},
      {12, 13, {:cas, :a, :c}}
    ]

    assert Linear.check(swap) == :ok
  end

  test "what is wrong" do
    # a stale read
    assert wrong([{1, 2, {:put, :a}}, {3, 4, {:put, :b}}, {5, 6, {:get, :a}}])
    # an acknowledged put is lost
    assert wrong([{1, 2, {:put, :a}}, {3, 4, {:get, nil}}])
    # seen, and then not any more
    assert wrong([{1, :never, {:put, :a}}, {2, 3, {:get, :a}}, {4, 5, {:get, nil}}])
    # read before it was written
    assert wrong([{1, 2, {:get, :a}}, {3, 4, {:put, :a}}])
    # two readers at once with two put at once do not agree on their order
    puts = [{1, 3, {:put, :a}}, {2, 4, {:put, :b}}]
    assert wrong(puts ++ [{5, 6, {:get, :a}}, {7, 8, {:get, :b}}])
    # both swapped the same value
    assert wrong([{1, 2, {:put, :a}}, {3, 9, {:cas, :a, :b}}, {4, 8, {:cas, :a, :c}}])
    # did not swap what was there
    assert wrong([{1, 2, {:put, :a}}, {3, 4, {:cas_not, :a}}])
    # what nobody knows of took place twice
    assert wrong([
             {1, :never, {:put, :a}},
             {2, 3, {:get, :a}},
             {4, 5, {:put, :b}},
             {6, 7, {:get, :a}}
           ])
  end

  test "the least that is left is told" do
    history = [{1, 2, {:put, :a}}, {3, 4, {:get, :a}}, {5, 6, {:get, :b}}]
    assert {:error, {:not_linearizable, [{5, 6, {:get, :b}}]}} = Linear.check(history)
  end

  test "as every order there is says" do
    seed = String.to_integer(System.get_env("MACULA_SEED", "#{:rand.uniform(1_000_000)}"))
    IO.puts("histories: seed=#{seed}")
    :rand.seed(:exsss, seed)

    found =
      for _ <- 1..@histories do
        history = for i <- 1..:rand.uniform(5), do: random(i)
        right? = any_order?(history)
        assert {right?, history} == {Linear.check(history) == :ok, history}
        right?
      end

    # both kinds were among them
    assert Enum.uniq(found) |> Enum.sort() == [false, true]
  end

  defp random(_i) do
    begun = :rand.uniform(20)
    ended = if :rand.uniform(4) == 1, do: :never, else: begun + :rand.uniform(10)
    {begun, ended, what(ended)}
  end

  defp what(ended) do
    value = Enum.random([:a, :b])

    case {:rand.uniform(4), ended} do
      {1, _} -> {:cas, Enum.random([nil, :a, :b]), value}
      {2, ended} when ended != :never -> {:get, Enum.random([nil, :a, :b])}
      {3, ended} when ended != :never -> {:cas_not, value}
      _ -> {:put, value}
    end
  end

  defp any_order?(history) do
    known = Enum.filter(history, &(elem(&1, 1) != :never))
    unknown = history -- known
    Enum.any?(subsets(unknown), &Enum.any?(orders(known ++ &1), fn order -> right?(order) end))
  end

  defp subsets([]), do: [[]]
  defp subsets([one | rest]), do: Enum.flat_map(subsets(rest), &[&1, [one | &1]])

  defp orders([]), do: [[]]
  defp orders(list), do: for(one <- list, rest <- orders(list -- [one]), do: [one | rest])

  defp right?(order), do: in_time?(order) and reads_right?(Enum.map(order, &elem(&1, 2)), nil)

  # nothing stands behind what had begun only when it had ended
  defp in_time?([]), do: true

  defp in_time?([{begun, _, _} | rest]),
    do: Enum.all?(rest, fn {_, ended, _} -> begun <= ended end) and in_time?(rest)

  defp reads_right?([], _value), do: true
  defp reads_right?([{:put, new} | rest], _value), do: reads_right?(rest, new)
  defp reads_right?([{:get, seen} | rest], value), do: seen == value and reads_right?(rest, value)

  defp reads_right?([{:cas, old, new} | rest], value),
    do: old == value and reads_right?(rest, new)

  defp reads_right?([{:cas_not, old} | rest], value),
    do: old != value and reads_right?(rest, value)
end
