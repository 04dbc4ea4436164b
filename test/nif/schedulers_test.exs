defmodule MaculaStorage.Nif.SchedulersTest do
  @moduledoc """
  No call of ours holds a scheduler: neither a normal one for over a millisecond, nor the dirty ones
  that the VM's own file calls need.

  The only timed assertions of the tests. A stall of ours is in every run and in every call of its kind;
  a busy machine, which takes the processor from a scheduler thread, is not: hence shares, not single
  events, a control beside it that keeps the schedulers as busy, and several tries.
  """
  use MaculaStorage.NifCase, async: false

  alias MaculaStorage.Load

  @tries 4
  @run_ms 1_500
  @processes 14
  # a kind that stalls at all stalls in each call: of gets, which are the only calls that are answered
  # where they are made, and of the others of the kind that was called least
  @stalled_share_max 0.5
  @calls_min 60

  test "no normal scheduler is held for over a millisecond under a mixed load" do
    app = unique_app()

    runs =
      Wait.try_until(@tries, fn ->
        {idle, _} = stalls(fn -> pids(@processes, fn -> busy() end) end, &kill/1)
        {ours, done} = stalls(fn -> Load.start(app, @processes) end, &Load.stop/1, 7)
        least = done |> Map.delete(:get) |> Map.values() |> Enum.min()
        run = %{stalls: ours, control: idle, done: done}
        others = ours.other - idle.other
        {others <= least * @stalled_share_max and ours.get <= done.get * @stalled_share_max, run}
      end)

    assert {:ok, _} = runs
  end

  test "the check sees a function that holds a scheduler" do
    tuple = Tuple.duplicate(0, 12_000_000)
    test = self()
    {seen, done} = stalls(fn -> pids(2, fn -> hold(test, tuple) end) end, &kill/1, 1)
    assert seen.other > done.hold * @stalled_share_max
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

  # {long schedules seen in processes of ours, operations done of each kind}: for a time, and until
  # each of so many kinds was done often enough to tell
  defp stalls(start, stop, kinds \\ 0) do
    held = start.()
    getters = if kinds > 1, do: Load.getters(held), else: []
    classes = Map.put(Map.new(getters, &{&1, :get}), self(), :none)
    collector = spawn_link(fn -> collect(classes, %{get: 0, other: 0, none: 0}) end)
    :erlang.system_monitor(collector, [{:long_schedule, 1}])
    done = operations(System.monotonic_time(:millisecond) + @run_ms, kinds, %{})
    :erlang.system_monitor(:undefined)
    stop.(held)
    send(collector, {:tell, self()})
    receive do: ({:stalls, count} -> {count, done})
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

  # Who gets and gets works without a pause, so that the system, which has our threads to run as well,
  # takes the processor from it in the middle now and then; so does this test, which counts.
  defp collect(classes, counts) do
    receive do
      {:monitor, pid, :long_schedule, info} ->
        class = if ours?(info[:in]) or ours?(info[:out]), do: classes[pid] || :other, else: :none
        collect(classes, Map.update!(counts, class, &(&1 + 1)))

      {:tell, to} ->
        send(to, {:stalls, counts})
    end
  end

  # A NIF is no place where a process is scheduled in or out: its caller is.
  defp ours?({module, _, _}),
    do: String.starts_with?(Atom.to_string(module), "Elixir.MaculaStorage.")

  defp ours?(_), do: false

  # Works on its scheduler without a pause, as who gets and gets. (On a machine with other work, the system
  # takes the processor from such a process as often as from ours: 2 s of four of them, load 9: 325 long
  # schedules of this, 211 of ETS lookups, 272 of gets.)
  defp busy(done \\ 0), do: busy(done + 1)

  # copies the tuple of 96 MB, milliseconds in one piece on any machine
  defp hold(test, tuple) do
    12_000_000 = tuple |> put_elem(5, test) |> tuple_size()
    send(test, {:done_one, :hold})
    receive do: (:never -> :ok), after: (1 -> hold(test, tuple))
  end

  defp pids(count, fun), do: for(_ <- 1..count, do: spawn_link(fun))
  defp kill(pids), do: Enum.each(pids, &(Process.unlink(&1) && Process.exit(&1, :kill)))

  defp median_us(path) do
    times = for _ <- 1..101, do: elem(:timer.tc(fn -> "small" = File.read!(path) end), 0)
    Enum.at(Enum.sort(times), 50)
  end
end
