defmodule MaculaStorage.CubDB.SubscribeTest do
  @moduledoc """
  Subscribers hear what was written in their range, in order, each write whole; they go on from what they
  heard last, or are told that they cannot; and they keep no writer waiting.
  """
  use MaculaStorage.Case, async: true
  import MaculaStorage.NifCase, only: [killed_when_ready: 1, mailbox: 0]

  alias MaculaStorage.{CubDB, Error, Wait}
  alias MaculaStorage.CubDB.{Snapshot, Tx}

  @long 30_000

  defp next(ref) do
    receive do
      {CubDB, ^ref, revision, changes} -> {revision, changes}
      {CubDB, ^ref, last} -> last
    after
      @long -> flunk("nothing was told, mailbox: #{inspect(mailbox(), limit: 5)}")
    end
  end

  defp changes(ref) do
    {_revision, changes} = next(ref)
    changes
  end

  # Whatever comes before this mark is told before it.
  defp mark(app, ref) do
    :ok = CubDB.put(app, :mark, ref)
    changes = changes(ref)
    assert [{:put, :mark, ^ref}] = changes
  end

  defp subscribed(app, options) do
    {:ok, ref, revision} = CubDB.subscribe(app, options)
    assert is_reference(ref) and is_integer(revision)
    ref
  end

  test "a key, and not those that are only equal to it" do
    app = unique_app()
    ref = subscribed(app, key: 1)
    for key <- [1.0, 0, 1, 2, "1", {1}], do: :ok = CubDB.put(app, key, key)
    :ok = CubDB.delete(app, 1.0)
    :ok = CubDB.delete(app, 1)
    assert changes(ref) == [{:put, 1, 1}]
    assert changes(ref) == [{:delete, 1}]
    :ok = CubDB.unsubscribe(ref)
    assert mailbox() == []

    ref = subscribed(app, key: nil)
    :ok = CubDB.put_multi(app, [{nil, nil}, {[], []}])
    assert changes(ref) == [{:put, nil, nil}]
  end

  test "prefixes of binaries, lists and tuples" do
    app = unique_app()
    binary = subscribed(app, prefix: "user:")
    list = subscribed(app, prefix: [:a])
    tuple = subscribed(app, prefix: {:user}, tuple_size: 2)
    keys = ["user", "user:1", "user;", [:a], [:a, 1], [:b], {:user}, {:user, 1}, {:user, 1, 2}]
    :ok = CubDB.put_multi(app, Enum.map(keys, &{&1, 0}))
    assert changes(binary) == [{:put, "user:1", 0}]
    assert changes(list) == [{:put, [:a], 0}, {:put, [:a, 1], 0}]
    assert changes(tuple) == [{:put, {:user, 1}, 0}]
  end

  test "ranges, with and without their bounds" do
    app = unique_app()

    for {options, keys} <- [
          {[], Enum.to_list(0..9)},
          {[min_key: 3], Enum.to_list(3..9)},
          {[max_key: 3, max_key_inclusive: false], [0, 1, 2]},
          {[min_key: 2.0, max_key: 4.0], [2, 3, 4]},
          {[min_key: 2.0, max_key: 4.0, min_key_inclusive: false], [3, 4]}
        ] do
      ref = subscribed(app, options)
      :ok = CubDB.put_multi(app, for(n <- 0..9, do: {n, n}))
      assert changes(ref) == for(n <- keys, do: {:put, n, n})
      :ok = CubDB.unsubscribe(ref)
    end

    # an empty range is none, as for select/2
    none = subscribed(app, min_key: 5, max_key: 4)
    all = subscribed(app, [])
    :ok = CubDB.put(app, 5, 5)
    :ok = CubDB.clear(app)
    assert [_, _] = [changes(all), changes(all)]
    :ok = CubDB.unsubscribe(all)
    assert mailbox() == []
    :ok = CubDB.unsubscribe(none)
  end

  test "one message for each write, whole and in order" do
    app = unique_app()
    ref = subscribed(app, [])
    before = CubDB.revision(app)
    :ok = CubDB.put_and_delete_multi(app, [b: 1, a: 2], [:c, :b])
    :ok = CubDB.put_new(app, :new, 1)
    {:error, :exists} = CubDB.put_new(app, :new, 2)
    {:error, :conflict} = CubDB.compare_and_put(app, :new, {:ok, 7}, 2)
    :ok = CubDB.update(app, :new, 0, &(&1 + 1))
    :ok = CubDB.clear(app)

    :done =
      CubDB.transaction(app, fn tx ->
        tx = tx |> Tx.put(:x, 1) |> Tx.clear() |> Tx.put(:z, 1) |> Tx.put(:y, 1) |> Tx.delete(:z)
        {:commit, tx, :done}
      end)

    :cancelled = CubDB.transaction(app, fn tx -> {:cancel, Tx.put(tx, :no, 1) && :cancelled} end)

    told = for _ <- 1..5, do: next(ref)

    assert Enum.map(told, &elem(&1, 1)) == [
             [{:put, :b, 1}, {:put, :a, 2}, {:delete, :c}, {:delete, :b}],
             [{:put, :new, 1}],
             [{:put, :new, 2}],
             [:clear],
             [:clear, {:put, :y, 1}, {:delete, :z}]
           ]

    revisions = [before | Enum.map(told, &elem(&1, 0))]
    assert revisions == Enum.uniq(Enum.sort(revisions))
    assert CubDB.revision(app) == List.last(revisions)
    mark(app, ref)
  end

  test "values of any size and kind come as they were written" do
    app = unique_app()
    ref = subscribed(app, [])

    value =
      {:binary.copy("v", 3_000_000), %{self() => [1.0, make_ref()]}, for(n <- 1..50_000, do: n)}

    :ok = CubDB.put(app, {:long, String.duplicate("k", 5_000)}, value)
    :ok = CubDB.put_multi(app, for(n <- 1..20_000, do: {n, "x"}))
    assert [{:put, {:long, _}, ^value}] = changes(ref)
    assert changes(ref) == for(n <- 1..20_000, do: {:put, n, "x"})
    mark(app, ref)
  end

  test "many subscribers and writers at once" do
    app = unique_app()
    test = self()

    listeners =
      for n <- 1..20 do
        spawn_link(fn ->
          ref = subscribed(app, if(n > 10, do: [key: {1, n}], else: []))
          send(test, {:listens, self()})
          send(test, {self(), heard(ref, [])})
        end)
      end

    for pid <- listeners, do: assert_receive({:listens, ^pid}, @long)

    1..8
    |> Enum.map(&Task.async(fn -> for n <- 1..100, do: :ok = CubDB.put(app, {&1, n}, n) end))
    |> Enum.each(&Task.await(&1, @long))

    :ok = CubDB.clear(app)
    [one | _] = all = for pid <- listeners, do: assert_heard(pid)
    {everything, of_one_key} = Enum.split(all, 10)
    assert Enum.all?(everything, &(&1 == one))
    assert length(one) == 800
    # each writer's own order
    for writer <- 1..8, do: assert(for({{^writer, n}, _} <- one, do: n) == Enum.to_list(1..100))
    assert of_one_key == for(n <- 11..20, do: [{{1, n}, n}])
  end

  defp heard(ref, entries) do
    case changes(ref) do
      [{:put, key, value}] -> heard(ref, [{key, value} | entries])
      [:clear] -> Enum.reverse(entries)
    end
  end

  defp assert_heard(pid) do
    assert_receive {^pid, entries}, @long
    entries
  end

  test "who left goes on from what it heard last" do
    app = unique_app()
    ref = subscribed(app, [])
    :ok = CubDB.put(app, :a, 1)
    {revision, [{:put, :a, 1}]} = next(ref)
    :ok = CubDB.unsubscribe(ref)
    for n <- 1..50, do: :ok = CubDB.put(app, n, n)
    assert mailbox() == []

    assert {:ok, ref, ^revision} = CubDB.subscribe(app, min_key: 40, max_key: 49, from: revision)
    for n <- 40..49, do: assert(changes(ref) == [{:put, n, n}])
    :ok = CubDB.put(app, 41, :again)
    assert changes(ref) == [{:put, 41, :again}]
    :ok = CubDB.unsubscribe(ref)

    # everything since there was nothing
    assert {:ok, ref, 0} = CubDB.subscribe(app, from: 0)
    assert changes(ref) == [{:put, :a, 1}]
    for n <- 1..50, do: assert(changes(ref) == [{:put, n, n}])
  end

  test "the store is closed, and opened again" do
    app = unique_app()
    ref = subscribed(app, [])
    :ok = CubDB.put(app, :a, 1)
    :ok = MaculaStorage.close_app(app)
    {revision, _} = next(ref)
    assert next(ref) == :closed
    :ok = CubDB.unsubscribe(ref)
    :ok = CubDB.put(app, :b, 2)
    {:ok, ref, ^revision} = CubDB.subscribe(app, from: revision)
    assert changes(ref) == [{:put, :b, 2}]
    :ok = MaculaStorage.close_app(app)
    assert next(ref) == :closed
    # opened by the subscription
    {:ok, ref, ^revision} = CubDB.subscribe(app, from: revision)
    assert changes(ref) == [{:put, :b, 2}]
    mark(app, ref)
  end

  test "a store in a directory, by pid and name" do
    dir = unique_dir()
    name = "subscribed-#{System.unique_integer([:positive])}"
    {:ok, db} = CubDB.start_link(dir, name: name)
    by_pid = subscribed(db, key: :a)
    {:ok, by_name, revision} = CubDB.subscribe(name, key: :a)
    :ok = CubDB.put(name, :a, 1)
    assert [[{:put, :a, 1}], [{:put, :a, 1}]] = [changes(by_pid), changes(by_name)]
    :ok = CubDB.stop(db)
    assert [:closed, :closed] = [next(by_pid), next(by_name)]
    assert {:error, :closed} = CubDB.subscribe(name)
    {:ok, _db} = CubDB.start_link(dir, name: name)
    {:ok, ref, _} = CubDB.subscribe(name, key: :a, from: revision)
    assert changes(ref) == [{:put, :a, 1}]
  end

  test "what is not kept any more is gone, and so is what never was" do
    app = unique_app()
    :ok = CubDB.put(app, :a, 1)
    old = CubDB.revision(app)
    long = :binary.copy("x", 1_000_000)
    for n <- 1..40, do: :ok = CubDB.put(app, rem(n, 3), long)

    assert Wait.until("the log to be drained", fn ->
             CubDB.put(app, :b, long)
             CubDB.subscribe(app, from: old, key: :none) == {:error, :history_gone}
           end)

    newest = CubDB.revision(app)

    for from <- [newest + 1, newest + 1_000_000, 0xFFFF_FFFF_FFFF_FFFF],
        do: assert({:error, :history_gone} = CubDB.subscribe(app, from: from))

    # 4 MiB are kept
    for n <- 1..3, do: :ok = CubDB.put(app, n, long)
    {:ok, ref, ^newest} = CubDB.subscribe(app, from: newest)
    assert for(_ <- 1..3, do: next(ref) |> elem(1) |> hd() |> elem(1)) == [1, 2, 3]
    mark(app, ref)
  end

  test "a snapshot, and what came after it" do
    app = unique_app()
    for n <- 1..10, do: :ok = CubDB.put(app, n, n)

    {known, revision} =
      CubDB.with_snapshot(app, fn snapshot ->
        :ok = CubDB.put(app, 11, 11)
        {Enum.to_list(Snapshot.select(snapshot)), Snapshot.revision(snapshot)}
      end)

    assert known == for(n <- 1..10, do: {n, n})
    {:ok, ref, ^revision} = CubDB.subscribe(app, from: revision)
    assert changes(ref) == [{:put, 11, 11}]
  end

  test "nothing comes after the end, however many write" do
    app = unique_app()
    test = self()
    stop = :atomics.new(1, [])

    writers =
      for n <- 1..4 do
        Task.async(fn ->
          Stream.repeatedly(fn -> CubDB.put(app, n, :binary.copy("v", 100 * n)) end)
          |> Enum.find(fn :ok -> :atomics.get(stop, 1) == 1 end)
        end)
      end

    for round <- 1..40 do
      {:ok, ref, _} =
        CubDB.subscribe(app, if(rem(round, 2) == 0, do: [], else: [from: CubDB.revision(app)]))

      next(ref)
      :ok = CubDB.unsubscribe(ref)
      refute Enum.any?(mailbox(), &match?({CubDB, _, _, _}, &1)), inspect(test)
      :ok = CubDB.unsubscribe(ref)
    end

    :atomics.put(stop, 1, 1)
    Enum.each(writers, &Task.await(&1, @long))
    refute Enum.any?(mailbox(), &match?({CubDB, _, _, _}, &1))
  end

  test "a forgotten reference is no end" do
    app = unique_app()
    subscribed(app, [])
    for _ <- 1..3, do: :erlang.garbage_collect()
    :ok = CubDB.put(app, :a, 1)
    assert_receive {CubDB, ref, _, [{:put, :a, 1}]}, @long
    :ok = CubDB.unsubscribe(ref)
  end

  test "it ends with its process, and writers go on" do
    app = unique_app()

    refs =
      for n <- 1..100 do
        killed_when_ready(fn ready ->
          {:ok, ref, _} = CubDB.subscribe(app, if(rem(n, 2) == 0, do: [key: :a], else: []))
          :ok = CubDB.put(app, :a, n)
          ready.(ref)
        end)
      end

    :ok = CubDB.put(app, :a, 1)
    assert mailbox() == []
    # by others it can be ended too
    for ref <- refs, do: :ok = CubDB.unsubscribe(ref)
    # dead before the answer
    for _ <- 1..20 do
      {pid, monitor} = spawn_monitor(fn -> CubDB.subscribe(app, from: 0) end)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, _}, @long
    end

    ref = subscribed(app, [])
    mark(app, ref)
  end

  test "misuse raises" do
    app = unique_app()

    for options <- [
          [reverse: true],
          [key: 1, min_key: 0],
          [key: 1, prefix: "a"],
          [prefix: {:a}],
          [from: -1],
          [from: 1.0],
          [from: 0x1_0000_0000_0000_0000],
          [unknown: 1],
          :no_list
        ],
        do: assert_raise(ArgumentError, fn -> CubDB.subscribe(app, options) end)

    assert_raise ArgumentError, fn -> CubDB.unsubscribe(make_ref()) end
    assert_raise FunctionClauseError, fn -> CubDB.unsubscribe(:a) end
    assert_raise ArgumentError, fn -> CubDB.subscribe(self()) end

    snapshot = CubDB.snapshot(app)
    :ok = CubDB.release_snapshot(snapshot)
    assert_raise Error, fn -> Snapshot.revision(snapshot) end
  end
end
