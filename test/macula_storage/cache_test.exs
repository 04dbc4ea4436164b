defmodule MaculaStorage.CacheTest do
  @moduledoc "Caches: what the state has, a moment later; never half of it as if it were all."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{Cache, Khepri, Wait}

  doctest MaculaStorage.Cache

  setup do
    n = System.unique_integer([:positive])
    root = "cache-#{n}"
    on_exit(fn -> Khepri.delete([root]) end)
    %{root: root, name: :"cache_#{n}"}
  end

  defp start(%{root: root, name: name}, options \\ []) do
    options = Keyword.merge([prefix: [root], name: name], options)
    pid = start_supervised!({Cache, options}, restart: :temporary)
    :ok = Cache.wait(name)
    pid
  end

  defp sees(name, path, found, options \\ []) do
    Wait.until("#{inspect(path)} is #{inspect(found)}", fn ->
      Cache.get(name, path, options) == found
    end)
  end

  test "holds what was there, and what changes", %{root: root, name: name} = context do
    for n <- [1, 1.0, :_, :"$1", "a", {:b}], do: :ok = Khepri.put([root, n, :x], {n, 1})
    :ok = Khepri.put([root], :top)
    start(context)
    for n <- [1, 1.0, :_, :"$1", "a", {:b}], do: {:ok, {^n, 1}} = Cache.get(name, [root, n, :x])
    assert {:ok, :top} = Cache.get(name, [root])
    assert {:error, :not_found} = Cache.get(name, [root, 1])
    assert Cache.list(name, [root]) == Khepri.list([root])
    assert Cache.list(name, [root, :_]) == {:ok, [:x]}
    assert Cache.list(name, [root, :nothing]) == {:ok, []}

    :ok = Khepri.put([root, "a", :x], 2)
    :ok = Khepri.delete([root, 1])
    :ok = Khepri.put([root, :short], 1, ttl: 20)
    sees(name, [root, "a", :x], {:ok, 2})
    sees(name, [root, 1, :x], {:error, :not_found})
    sees(name, [root, :short], {:ok, 1})
    sees(name, [root, :short], {:error, :not_found})
    assert {:ok, {1.0, 1}} = Cache.get(name, [root, 1.0, :x])
    assert :default = Cache.fetch(name, [root, :nothing], :default)
    assert %{state: :ready, complete: true, entries: 6, fills: 1, hits: hits} = Cache.stats(name)
    assert hits > 0
    assert_raise ArgumentError, fn -> Cache.get(name, ["elsewhere"]) end
    assert_raise ArgumentError, fn -> Cache.start_link(name: :a, prefix: [:*]) end
    assert_raise ArgumentError, fn -> Cache.start_link(name: "a", prefix: [:a]) end

    assert_raise ArgumentError, fn ->
      Cache.start_link(name: :a, prefix: [:a], persistent: [[:b]])
    end
  end

  test "consistency: :cached reads the longest prefix, and the state where there is no cache",
       %{root: root, name: name} = context do
    :ok = Khepri.put([root, :a, :b], 1)
    assert {:ok, 1} = Khepri.get([root, :a, :b], consistency: :cached)
    start(context)
    inner = :"#{name}_inner"
    start_supervised!(%{Cache.child_spec(prefix: [root, :a], name: inner) | id: inner})
    :ok = Cache.wait(inner)
    assert {:ok, 1} = Khepri.get([root, :a, :b], consistency: :cached)
    assert {:error, :not_found} = Khepri.get([root, :b], consistency: :cached)
    assert %{hits: 1} = Cache.stats(inner)
    assert %{hits: 1} = Cache.stats(name)
    assert {:ok, %{value: 1}} = Khepri.get([root, :a, :b], consistency: :cached, details: true)
    :ok = stop_supervised(inner)
    assert {:ok, 1} = Khepri.get([root, :a, :b], consistency: :cached)
    assert %{hits: 2} = Cache.stats(name)
    assert_raise ArgumentError, fn -> Khepri.get([], consistency: :cached) end
  end

  test "a cache whose feed ended says stale, and fills itself again",
       %{root: root, name: name} = context do
    for n <- 1..50, do: :ok = Khepri.put([root, n], 1)
    pid = start(context)
    seen = :ets.new(:seen, [:public])

    reader =
      Task.async(fn ->
        Stream.repeatedly(fn -> Cache.list(name, [root]) end)
        |> Enum.reduce_while(0, fn
          {:ok, names}, n ->
            # all of one moment: what was there before, or what is there now
            true = length(names) in [49, 50, 51]
            :ets.insert(seen, {:ok, n})
            if :ets.member(seen, :stop), do: {:halt, n}, else: {:cont, n + 1}

          {:error, :stale}, n ->
            :ets.insert(seen, {:stale, n})
            {:cont, n}
        end)
      end)

    for round <- 1..5 do
      # paused, so that the reads below come between the end and the new beginning
      :sys.suspend(pid)
      :ok = Khepri.close()
      :ok = Khepri.delete([root, round])
      :ok = Khepri.put([root, 100 + round], 1)
      :sys.resume(pid)
      sees(name, [root, 100 + round], {:ok, 1})
      assert {:error, :not_found} = Cache.get(name, [root, round])
    end

    assert %{fills: fills} = Cache.stats(name)
    assert fills >= 6
    :ets.insert(seen, {:stop, true})
    assert Task.await(reader) > 0
  end

  test "while it is stale reads say so, unless old values will do",
       %{root: root, name: name} = context do
    :ok = Khepri.put([root, :a], 1)
    pid = start(context)
    %{ref: ref} = :sys.get_state(pid)
    # it hears of the end of its feed, and is held up before it fills again
    :sys.replace_state(pid, fn state -> %{state | retry_ms: 60_000} end)
    send(pid, {Khepri, ref, :history_gone})
    sees(name, [root, :a], {:error, :stale})
    assert {:ok, 1} = Cache.get(name, [root, :a], stale: :ok)
    assert {:error, :stale} = Khepri.get([root, :a], consistency: :cached)
    assert {:ok, 1} = Khepri.get([root, :a], consistency: :cached, stale: :ok)
    assert {:error, :stale} = Cache.list(name, [root])
    assert {:ok, [:a]} = Cache.list(name, [root], stale: :ok)
    assert %{state: :stale, misses: misses} = Cache.stats(name)
    assert misses >= 2
    :ok = Khepri.put([root, :a], 2)
    send(pid, :fill)
    :ok = Cache.wait(name)
    assert {:ok, 2} = Cache.get(name, [root, :a])
  end

  @tag :capture_log
  test "the deaths of its feeder and of who starts feeders are survived",
       %{root: root, name: name} = context do
    pid = start(context)
    %{ref: ref} = :sys.get_state(pid)
    Process.exit(:sys.get_state(Khepri.Watches).refs[ref], :kill)
    :ok = Khepri.put([root, :a], 1)
    sees(name, [root, :a], {:ok, 1})
    Process.exit(Process.whereis(Khepri.Watches), :kill)
    :ok = Khepri.put([root, :a], 2)
    sees(name, [root, :a], {:ok, 2})
    assert %{fills: fills} = Cache.stats(name)
    assert fills >= 3
  end

  test "a cache that was killed covers nothing", %{root: root, name: name} = context do
    :ok = Khepri.put([root, :a], 1)
    :ok = Khepri.put([root, :p], 1)
    pid = start(context, persistent: [[root, :p]])
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    :ok = Khepri.put([root, :p], 2)
    assert {:ok, 1} = Khepri.get([root, :a], consistency: :cached)
    assert {:ok, 2} = Khepri.get([root, :p], consistency: :cached)
    assert {:error, :stale} = Cache.get(name, [root, :p])
    assert {:error, :stale} = Cache.list(name, [root])
    # under its name it begins anew
    :ok = Khepri.delete([root, :p])
    {:ok, again} = Cache.start_link(prefix: [root], name: name, persistent: [[root, :p]])
    :ok = Cache.wait(name)
    assert {:error, :not_found} = Cache.get(name, [root, :p])
    GenServer.stop(again)
    assert Cache.stats(name) == nil
  end

  test "a full cache takes no more, says so, and reads the rest from the state",
       %{root: root, name: name} = context do
    for n <- 1..20, do: :ok = Khepri.put([root, n], :binary.copy("x", 1_000))
    start(context, max_bytes: 10_000)
    assert %{complete: false, bytes: bytes, entries: entries} = Cache.stats(name)
    assert bytes <= 10_000 and entries in 5..9
    for n <- 1..20, do: {:ok, <<_::binary-1000>>} = Cache.get(name, [root, n])
    assert {:error, :not_found} = Cache.get(name, [root, :none])
    assert {:ok, names} = Cache.list(name, [root])
    assert names == Enum.to_list(1..20)
    assert %{misses: misses} = Cache.stats(name)
    assert misses == 20 - entries + 1

    # one that is held and grows is held no more
    :ok = Khepri.put([root, 1], :binary.copy("y", 20_000))
    sees(name, [root, 1], {:ok, :binary.copy("y", 20_000)})
    for n <- 1..20, do: :ok = Khepri.delete([root, n])
    Wait.until("nothing is held", fn -> match?(%{entries: 0, bytes: 0}, Cache.stats(name)) end)
  end

  test "persistent paths", %{root: root, name: name} = context do
    start(context, persistent: [[root, :p]])
    assert {:error, :not_found} = Cache.get(name, [root, :p])
    :ok = Khepri.put([root, :p], %{big: 1})
    sees(name, [root, :p], {:ok, %{big: 1}})
    # no copy: the very same term
    {:ok, one} = Cache.get(name, [root, :p])
    {:ok, two} = Cache.get(name, [root, :p])
    assert :erts_debug.same(one, two)
    :ok = Khepri.delete([root, :p])
    sees(name, [root, :p], {:error, :not_found})
  end

  test "after thousands of puts by several writers it is what the state is",
       %{root: root, name: name} = context do
    start(context)

    1..6
    |> Enum.map(fn w ->
      Task.async(fn ->
        :rand.seed(:exsss, {w, 2, 3})

        for n <- 1..400 do
          path = [root, :rand.uniform(100)]
          if :rand.uniform(4) == 1, do: Khepri.delete(path), else: Khepri.put(path, {w, n})
        end
      end)
    end)
    |> Task.await_many(60_000)

    :ok = Khepri.put([root, :last], 1)
    sees(name, [root, :last], {:ok, 1})
    {:ok, whole} = Khepri.get_many([root, :**])
    for n <- 1..100, do: assert(Cache.fetch(name, [root, n]) == whole[[root, n]])
    assert %{complete: true, fills: 1, entries: entries} = Cache.stats(name)
    assert entries == map_size(whole)
  end

  test "a cached read costs a few ETS lookups", %{root: root} = context do
    for n <- 1..100, do: :ok = Khepri.put([root, n], n)
    start(context)
    table = :ets.new(:plain, [:set, read_concurrency: true])
    for n <- 1..100, do: :ets.insert(table, {[root, n], n})
    path = [root, 50]

    # an order of magnitude: bench/ has the figures
    assert {:ok, _} =
             Wait.try_until(5, fn ->
               plain_us = timed(fn -> :ets.lookup(table, path) end)
               cached_us = timed(fn -> Khepri.get(path, consistency: :cached) end)
               {cached_us <= 6 * plain_us, {cached_us, plain_us}}
             end)
  end

  defp timed(fun) do
    {us, _} = :timer.tc(fn -> for(_ <- 1..100_000, do: fun.()) end)
    us
  end
end
