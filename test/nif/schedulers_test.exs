defmodule MaculaStorage.Nif.SchedulersTest do
  @moduledoc """
  No call of ours holds a scheduler: neither a normal one for over a millisecond, nor the dirty ones
  that the VM's own file calls need.

  The only timed assertions of the tests. A stall of ours is in every run and in every call of its kind;
  a busy machine, which takes the processor from a scheduler thread, is not: hence shares of each
  kind, not single events, and several tries.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.Load

  @tries 4
  @run_ms 1_500
  @processes 14
  # a kind that stalls at all stalls in each call
  @stalled_share_max 0.5
  @calls_min 60

  test "no normal scheduler is held for over a millisecond under a mixed load" do
    app = unique_app()

    runs =
      Wait.try_until(@tries, fn ->
        {stalls, done} = stalls(fn -> Load.kinds(Load.start(app, @processes)) end)
        {stalling(stalls, done) == [], %{stalls: stalls, done: done}}
      end)

    assert {:ok, _} = runs
  end

  test "the check sees a function that holds a scheduler" do
    tuple = Tuple.duplicate(0, 12_000_000)
    test = self()
    hold = fn -> spawn_link(fn -> hold(test, tuple) end) end
    {stalls, done} = stalls(fn -> Map.new(1..2, fn _ -> {hold.(), :hold} end) end)
    assert stalling(stalls, done) == [:hold]
  end

  test "File.read! of a small file goes on while 64 writers wait" do
    app = unique_app()
    path = Path.join(unique_dir(), "small.txt")
    File.write!(path, "small")
    :ok = CubDB.put(app, :a, 1)
    :ok = SQLite.execute(app, "CREATE TABLE t (n)")
    idle_us = median_us(path)

    {:ok, loaded_us} =
      SQLite.transaction(app, fn _tx ->
        {:cancel, us} =
          CubDB.transaction(app, fn _tx ->
            # every one of these waits: for the database's turn or for the store's
            writers =
              for n <- 1..64 do
                spawn_link(fn ->
                  if rem(n, 2) == 0,
                    do: :ok = SQLite.execute(app, "INSERT INTO t VALUES (1)"),
                    else: :ok = CubDB.put(app, n, n)
                end)
              end

            waiting = fn pid -> Process.info(pid, :status) == {:status, :waiting} end
            Wait.until("64 waiting writers", fn -> Enum.all?(writers, waiting) end)
            {:cancel, {:cancel, median_us(path)}}
          end)

        us
      end)

    # a stall of the file calls is a matter of seconds
    assert loaded_us < idle_us * 20 + 50_000
    Wait.until("the writers' turn", fn -> CubDB.size(app) == 33 end)
  end

  test "File.read! of a small file goes on while 64 writers write" do
    app = unique_app()
    path = Path.join(unique_dir(), "small.txt")
    File.write!(path, "small")
    idle_us = median_us(path)
    pids = Load.start(app, 64)
    Load.await(2)
    loaded_us = median_us(path)
    Load.stop(pids)
    assert loaded_us < idle_us * 20 + 100_000
  end

  # Ten gets of 200 MB made an unrelated File.read! wait for 9 s: each held one of the ten schedulers
  # for file work until it had read its value.
  test "no dirty scheduler is held while a long value is read" do
    app = unique_app()
    :ok = CubDB.put(app, :long, :binary.copy("x", 30_000_000))
    :erlang.system_flag(:scheduler_wall_time, true)
    before = dirty_io_busy()

    {us, _} =
      :timer.tc(fn -> for _ <- 1..20, do: 30_000_000 = byte_size(CubDB.get(app, :long)) end)

    busy = dirty_io_busy() - before
    :erlang.system_flag(:scheduler_wall_time, false)
    elapsed = System.convert_time_unit(us, :microsecond, :native)
    assert busy < elapsed * 0.2
  end

  # native time units in which the schedulers for file work did something, all together
  defp dirty_io_busy do
    others = :erlang.system_info(:schedulers) + :erlang.system_info(:dirty_cpu_schedulers)
    times = :erlang.statistics(:scheduler_wall_time_all)
    Enum.sum(for {id, active, _total} <- times, id > others, do: active)
  end

  defp stalling(stalls, done),
    do: for({kind, n} <- done, Map.get(stalls, kind, 0) > n * @stalled_share_max, do: kind)

  # {long schedules seen, operations done} of each kind of those that `start` gives with their kind:
  # for a time, and until each was done often enough to tell. (By kind, as a machine that has other
  # work, too, takes the processor from all of them, and all together more often than the rarest ends.)
  defp stalls(start) do
    kinds = start.()
    collector = spawn_link(fn -> collect(kinds, %{}) end)
    :erlang.system_monitor(collector, [{:long_schedule, 1}])
    count = kinds |> Map.values() |> Enum.uniq() |> length()
    done = operations(System.monotonic_time(:millisecond) + @run_ms, count, %{})
    :erlang.system_monitor(:undefined)
    Load.stop(Map.keys(kinds))
    send(collector, {:tell, self()})
    receive do: ({:stalls, stalls} -> {stalls, done})
  end

  defp operations(deadline, kinds, done) do
    enough = map_size(done) >= kinds and Enum.all?(done, fn {_, n} -> n >= @calls_min end)
    left_ms = deadline - System.monotonic_time(:millisecond)

    receive do
      {:done_one, kind} when left_ms > 0 or not enough ->
        operations(deadline, kinds, Map.update(done, kind, 1, &(&1 + 1)))
    after
      max(left_ms, if(enough, do: 0, else: 30_000)) ->
        assert enough, "too little was done to tell: #{inspect(done)}"
        done
    end
  end

  defp collect(kinds, stalls) do
    receive do
      {:monitor, pid, :long_schedule, info} ->
        ours = is_map_key(kinds, pid) and (ours?(info[:in]) or ours?(info[:out]))
        collect(kinds, if(ours, do: Map.update(stalls, kinds[pid], 1, &(&1 + 1)), else: stalls))

      {:tell, to} ->
        send(to, {:stalls, stalls})
    end
  end

  # A NIF is no place where a process is scheduled in or out: its caller is.
  defp ours?({module, _, _}),
    do: String.starts_with?(Atom.to_string(module), "Elixir.MaculaStorage.")

  defp ours?(_), do: false

  # copies the tuple of 96 MB, milliseconds in one piece on any machine
  defp hold(test, tuple) do
    12_000_000 = tuple |> put_elem(5, test) |> tuple_size()
    send(test, {:done_one, :hold})
    receive do: (:never -> :ok), after: (1 -> hold(test, tuple))
  end

  defp median_us(path) do
    times = for _ <- 1..101, do: elem(:timer.tc(fn -> "small" = File.read!(path) end), 0)
    Enum.at(Enum.sort(times), 50)
  end
end
