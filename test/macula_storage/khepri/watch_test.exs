defmodule MaculaStorage.Khepri.WatchTest do
  @moduledoc "Watches: every change once, whole and in order, from any revision on, whoever is slow or dies."
  use MaculaStorage.Case, async: false

  alias MaculaStorage.{Khepri, Wait}

  @writes if System.get_env("MACULA_TORTURE"), do: 40_000, else: 3_000
  @writers 8

  setup do
    root = "watch-#{System.unique_integer([:positive])}"
    on_exit(fn -> Khepri.delete([root]) end)
    %{root: root}
  end

  test "tells puts, deletes and what expires, with versions; nothing of elsewhere", %{root: root} do
    {:ok, ref, revision} = Khepri.watch([root, :**])
    assert is_integer(revision)
    :ok = Khepri.put([root, :a], 1)
    :ok = Khepri.put([root <> "x", :a], 1)
    :ok = Khepri.put([root, :a], 2)
    {:ok, true, _} = Khepri.txn([], [{:put, [root, :b, :c], %{x: 1}}, {:delete, [root, :a]}])
    :ok = Khepri.put([root, :short], 1, ttl: 20)
    Khepri.delete([root <> "x"])

    assert_receive {Khepri, ^ref, r1, [%{kind: :put, path: [^root, :a], value: 1, version: 1}]}
    assert_receive {Khepri, ^ref, r2, [%{kind: :put, value: 2, version: 2}]}
    assert_receive {Khepri, ^ref, r3, [put, deleted]}
    assert %{kind: :put, path: [^root, :b, :c], value: %{x: 1}} = put
    assert %{kind: :deleted, path: [^root, :a], value: nil} = deleted
    assert_receive {Khepri, ^ref, r4, [%{kind: :put, path: [^root, :short]}]}
    assert_receive {Khepri, ^ref, r5, [%{kind: :expired, path: [^root, :short]}]}, 10_000
    revisions = [revision, r1, r2, r3, r4, r5]
    assert revisions == revisions |> Enum.sort() |> Enum.dedup()
    assert :ok = Khepri.unwatch(ref)
    assert :ok = Khepri.unwatch(ref)
    Khepri.put([root, :b], 1)
    refute_receive {Khepri, _, _, _}, 20
  end

  test "misuse raises, and a revision that is not kept is refused", %{root: root} do
    for bad <- [[], :a, [root, {:*, version: 1}]],
        do: assert_raise(ArgumentError, fn -> Khepri.watch(bad) end)

    assert_raise ArgumentError, fn -> Khepri.watch([root], from: -1) end
    assert_raise ArgumentError, fn -> Khepri.watch([root], since: 1) end
    for n <- 1..6, do: :ok = Khepri.put([root], :binary.copy(<<n>>, 4_000_000))
    assert {:ok, %{history_first: first}} = Khepri.status()
    assert first > 2
    assert {:error, :history_gone} = Khepri.watch([root], from: first - 2)
    assert {:ok, ref, _} = Khepri.watch([root], from: first - 1)
    Khepri.unwatch(ref)
  end

  test "watchers that go on from random revisions see exactly the changes, in order", %{
    root: root
  } do
    seed = :rand.uniform(1_000_000_000)
    IO.puts("watch seed=#{seed}")
    {:ok, main, start} = Khepri.watch([root, :*, :*])
    each = div(@writes, @writers)

    resuming =
      for n <- 1..4 do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, n, 0})
          resume(root, start, each * @writers, [])
        end)
      end

    writers =
      for w <- 1..@writers do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, w, 1})
          for n <- 1..each, do: write(root, w, n)
        end)
      end

    Task.await_many(writers, 600_000)
    whole = take(main, each * @writers, [])
    numbers = for {_revision, events} <- whole, %{path: [_, w, _], value: n} <- events, do: {w, n}

    for w <- 1..@writers,
        do: assert(for({^w, n} <- numbers, do: n) == Enum.to_list(1..each))

    revisions = Enum.map(whole, &elem(&1, 0))
    assert revisions == revisions |> Enum.sort() |> Enum.dedup()
    assert hd(revisions) > start
    for seen <- Task.await_many(resuming, 600_000), do: assert(seen == whole)
    Khepri.unwatch(main)
  end

  # of a write, now and then two at once: a revision comes whole
  defp write(root, w, n) do
    # one path in twenty is a watched one's neighbour
    if :rand.uniform(20) == 1, do: :ok = Khepri.put([root <> "-other", w], n)
    :ok = Khepri.put([root, w, :rand.uniform(50)], n)
  end

  defp take(_ref, 0, taken), do: Enum.reverse(taken)

  defp take(ref, n, taken) do
    receive do
      {Khepri, ^ref, revision, events} ->
        take(ref, n - length(events), [{revision, events} | taken])
    after
      30_000 -> flunk("left=#{n} last=#{inspect(List.first(taken))}")
    end
  end

  # watches for a while, ends it, and goes on after the last revision seen
  defp resume(_root, _from, 0, seen), do: Enum.reverse(seen)

  defp resume(root, from, n, seen) do
    {:ok, ref, ^from} = Khepri.watch([root, :**], from: from)
    taken = take(ref, min(n, :rand.uniform(200)), [])
    :ok = Khepri.unwatch(ref)
    {last, _} = List.last(taken)
    resume(root, last, n - length(taken), Enum.reverse(taken) ++ seen)
  end

  test "changes elsewhere do not push a watch out of the history", %{root: root} do
    {:ok, ref, _} = Khepri.watch([root, :mine])
    for n <- 1..6, do: :ok = Khepri.put([root, :other], :binary.copy(<<n>>, 4_000_000))
    :ok = Khepri.put([root, :mine], 1)
    assert_receive {Khepri, ^ref, _, [%{value: 1}]}, 5_000
    Khepri.unwatch(ref)
  end

  test "who does not read holds little and is told when the history went on", %{root: root} do
    {:ok, ref, _} = Khepri.watch([root])
    for n <- 1..8, do: :ok = Khepri.put([root], :binary.copy(<<n>>, 4_000_000))
    {:messages, messages} = Process.info(self(), :messages)
    unread = for {Khepri, ^ref, _, _} = message <- messages, do: message
    assert length(unread) <= 2
    got = until_gone(ref, [])
    # a beginning without a gap
    assert got == Enum.to_list(1..length(got)//1)
    assert length(got) < 8
    refute_receive {Khepri, ^ref, _, _}, 20
  end

  defp until_gone(ref, got) do
    receive do
      {Khepri, ^ref, _, [%{value: <<n, _::binary>>}]} -> until_gone(ref, [n | got])
      {Khepri, ^ref, :history_gone} -> Enum.reverse(got)
    after
      10_000 -> flunk("not told got=#{inspect(got)}")
    end
  end

  test "who reads slowly gets everything, a little at a time", %{root: root} do
    {:ok, ref, _} = Khepri.watch([root])
    for n <- 1..40, do: :ok = Khepri.put([root], {n, :binary.copy("x", 200_000)})

    for n <- 1..40 do
      {:message_queue_len, len} = Process.info(self(), :message_queue_len)
      assert len <= 12
      assert_receive {Khepri, ^ref, _, [%{value: {^n, _}}]}, 5_000
    end

    Khepri.unwatch(ref)
  end

  test "a watch ends with its owner, and its owner hears when the feeder is killed", %{root: root} do
    test = self()

    owner =
      spawn(fn ->
        send(test, Khepri.watch([root]))
        Process.sleep(:infinity)
      end)

    assert_receive {:ok, ref, _}
    feeder = feeder(ref)
    monitor = Process.monitor(feeder)
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :normal}

    {:ok, mine, _} = Khepri.watch([root])
    Process.exit(feeder(mine), :kill)
    assert_receive {Khepri, ^mine, :closed}
    Wait.until("forgotten", fn -> not is_map_key(watches().refs, mine) end)
  end

  test "closing the state ends its watches; from the last revision they go on", %{root: root} do
    {:ok, ref, _} = Khepri.watch([root])
    :ok = Khepri.put([root], 1)
    assert_receive {Khepri, ^ref, revision, [%{value: 1}]}
    :ok = Khepri.close()
    assert_receive {Khepri, ^ref, :closed}
    :ok = Khepri.put([root], 2)
    {:ok, again, ^revision} = Khepri.watch([root], from: revision)
    assert_receive {Khepri, ^again, _, [%{value: 2}]}
    Khepri.unwatch(again)
  end

  defp watches, do: :sys.get_state(Khepri.Watches)
  defp feeder(ref), do: Map.fetch!(watches().refs, ref)
end
