defmodule MaculaStorage.Scenario.Checks do
  @moduledoc """
  What must be true of a history once all members see each other again.

  Invariant: nothing acknowledged is lost and nothing that failed took place, each register is linearizable, and every
  watch has told the same changes, each once and none left out.
  """
  import ExUnit.Assertions
  alias MaculaStorage.Scenario.{Linear, Watcher, World}
  alias MaculaStorage.Wait

  @write_ms 5_000
  @writes 10

  @doc "Within five seconds each member writes again, and goes on to; the slowest's milliseconds."
  @spec writes_again(World.t(), [term]) :: non_neg_integer
  def writes_again(world, run) do
    since = System.monotonic_time(:millisecond)

    world
    |> World.serving()
    |> Enum.map(fn n -> Task.async(fn -> writes_again(world, run, n, since) end) end)
    |> Task.await_many(60_000)
    |> Enum.max()
  end

  defp writes_again(world, run, n, since) do
    first = first_write(world, run ++ [{:healed, n}], n, since)
    took_ms = System.monotonic_time(:millisecond) - since

    assert first == :ok and took_ms <= @write_ms,
           "member #{n} does not write after healing: #{inspect(first)} took_ms=#{took_ms}\n" <>
             World.described(world)

    for i <- 1..@writes do
      answer = World.ask(world, n, :put, [run ++ [{:healed, n}], i, [timeout: @write_ms]])
      assert {n, answer} == {n, :ok}
    end

    took_ms
  end

  defp first_write(world, path, n, since) do
    left_ms = @write_ms - (System.monotonic_time(:millisecond) - since)
    answer = World.ask(world, n, :put, [path, 0, [timeout: max(left_ms, 1)]])

    if answer == :ok or left_ms <= 0 do
      answer
    else
      Wait.pause(20)
      first_write(world, path, n, since)
    end
  end

  @doc "Of each register."
  @spec linearizable([tuple]) :: :ok
  def linearizable(calls) do
    registers = for {_, _, {:register, _}, _, _} = call <- calls, do: call

    for {key, calls} <- Enum.group_by(registers, &elem(&1, 2)) do
      ops = Enum.flat_map(calls, &op/1)
      checked = Linear.check(ops)

      assert checked == :ok,
             "#{inspect(key)} of #{length(ops)} calls: #{inspect(checked, limit: 200)}"
    end

    :ok
  end

  defp op({begun, ended, _, :get, {:read, value}}), do: [{begun, ended, {:get, value}}]
  defp op({_, _, _, _, :failed}), do: []
  defp op({_, _, _, :get, :unknown}), do: []
  defp op({begun, _, _, {kind, _} = put, :unknown}) when kind == :put, do: [{begun, :never, put}]
  defp op({begun, _, _, {:cas, _, _} = cas, :unknown}), do: [{begun, :never, cas}]
  defp op({begun, ended, _, {:cas, old, _}, :not_swapped}), do: [{begun, ended, {:cas_not, old}}]
  defp op({begun, ended, _, write, :ok}), do: [{begun, ended, write}]

  @doc "What was acknowledged is there, on each member, and what failed is nowhere."
  @spec nothing_lost(World.t(), [term], [tuple]) :: :ok
  def nothing_lost(world, run, calls) do
    own = for {_, _, {:own, _} = key, {:put, value}, outcome} <- calls, do: {key, value, outcome}

    for n <- World.serving(world) do
      {:ok, there} = World.ask(world, n, :get_many, [run ++ [:*], [timeout: @write_ms]])
      there = for {path, value} <- there, into: %{}, do: {List.last(path), value}
      lost = for {key, value, :ok} <- own, there[key] != value, do: key
      undead = for {key, _, :failed} <- own, is_map_key(there, key), do: key
      assert {n, :lost, lost} == {n, :lost, []}
      assert {n, :failed_but_there, undead} == {n, :failed_but_there, []}
    end

    :ok
  end

  @doc "All members have the same nodes, with the same versions and revisions."
  @spec same_state(World.t(), [term]) :: :ok
  def same_state(world, run) do
    states =
      for n <- World.serving(world) do
        options = [details: true, consistency: :local]
        {:ok, there} = World.ask(world, n, :get_many, [run ++ [:**], options])
        there
      end

    assert length(Enum.uniq(states)) == 1, "members differ: #{inspect(differing(states))}"
    :ok
  end

  defp differing([first | rest]) do
    for other <- rest, {path, node} <- first, other[path] != node, do: {path, node, other[path]}
  end

  @doc """
  All watches told the same until `revision`: those that went on through the faults (`followed`), and those that begin at
  the beginning on each member; how many members had not kept it.
  """
  @spec watches(World.t(), [term], [tuple], [list], pos_integer) :: non_neg_integer
  def watches(world, run, calls, followed, revision) do
    again = for n <- World.serving(world), do: {n, Watcher.again(world, run, n, revision)}
    [told | _] = followed

    for {other, i} <- Enum.with_index(followed),
        do: assert(other == told, "watch #{i} differs: #{inspect(difference(told, other))}")

    for {n, other} <- again, other != :history_gone do
      assert other == told, "anew at member #{n}: #{inspect(difference(told, other))}"
    end

    gap_free(told)
    complete(told, calls)
    Enum.count(again, &(elem(&1, 1) == :history_gone))
  end

  defp difference(a, b), do: [missing: Enum.take(a -- b, 3), more: Enum.take(b -- a, 3)]

  # nothing here is deleted: each change of a node has the next version
  defp gap_free(told) do
    revisions = Enum.map(told, &elem(&1, 0))
    assert revisions == Enum.uniq(Enum.sort(revisions))

    for {path, events} <- told |> Enum.flat_map(&elem(&1, 1)) |> Enum.group_by(& &1.path) do
      versions = Enum.map(events, & &1.version)
      assert {path, versions} == {path, Enum.to_list(1..length(versions))}
    end
  end

  # values are written once
  defp complete(told, calls) do
    seen =
      told |> Enum.flat_map(&elem(&1, 1)) |> Enum.frequencies_by(&{List.last(&1.path), &1.value})

    for {_, _, key, what, outcome} <- calls, what != :get, value = new(what) do
      times = Map.get(seen, {key, value}, 0)

      right? =
        case outcome do
          :ok -> times == 1
          :unknown -> times <= 1
          _failed -> times == 0
        end

      assert right?, "#{inspect({key, what, outcome})} was told #{times} times"
    end
  end

  defp new({:put, value}), do: value
  defp new({:cas, _, value}), do: value
end
