# What the benches of stores share: a fresh directory, our application on it, rivals on the code path; clients
# that record how long each call took, rounds in which sides take turns, medians and percentiles.
#
# Invariant: all sides are asked by the same loop, and before a side's turn nobody has anything left to write:
# what one side puts off slows nobody else.
#
# Rivals that no package of the machine brings are there when MACULA_BENCH_PEERS names a directory with their
# compiled modules in `*/ebin`. What is missing is named in the report.
Code.require_file("tree.exs", __DIR__)

defmodule MaculaStorage.Bench.Measure do
  @moduledoc false
  import Bitwise

  alias MaculaStorage.Bench.Tree
  alias MaculaStorage.Operator.Text

  # Enough for an hour in nanoseconds, see slot/2.
  @time_slots 32 * 512 + 1024
  # Nothing was written so many times in a row.
  @quiet_ms 100
  @quiet_times 3
  @quiet_tries 100
  @value_bytes 100
  @pool_offset_max 0xFFFF
  @pool_bytes @pool_offset_max + @value_bytes
  # What Debian's packages bring.
  @packaged ~w(mnesia bitcask p1_sqlite3)

  @doc """
  Runs `work` with a fresh directory, which is removed whatever happens, and says where and when it ran.
  """
  def main(prefix, work) do
    base = Tree.fresh_dir(prefix)
    # What dies in there takes that process along, and leaves this one to clean up.
    Process.flag(:trap_exit, true)

    try do
      Task.await(Task.async(fn -> told(base, work) end), :infinity)
    after
      File.rm_rf!(base)
    end
  end

  defp told(base, work) do
    Enum.each(Tree.machine(base), &IO.puts/1)
    IO.puts("load when it began: #{load()}")
    work.(base)
    IO.puts("\nload when it ended: #{load()}")
    :ok = Application.stop(:macula_storage)
  end

  # Others at work on the machine make every figure worth less.
  defp load, do: File.read!("/proc/loadavg") |> String.split() |> Enum.take(3) |> Enum.join(" ")

  @doc "Our application on a base directory of its own, and what rivals need before they are opened."
  def start(base) do
    # That a rival is overloaded or repairs itself, and that we stopped, is no news.
    :logger.set_primary_config(:level, :error)
    System.put_env("MACULA_STORAGE_BASE", base)
    # Without --no-start it runs already, elsewhere.
    Application.stop(:macula_storage)
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    values()
    peers()
  end

  @doc "What `value/1` needs in a VM."
  def values, do: :persistent_term.put(__MODULE__, :crypto.strong_rand_bytes(@pool_bytes))

  # Newer versions of Mix hide what a project does not list.
  defp peers do
    beside = Path.wildcard("#{:code.lib_dir()}/{#{Enum.join(@packaged, ",")}}-*/ebin")
    given = Path.wildcard("#{System.get_env("MACULA_BENCH_PEERS", "none")}/*/ebin")
    added = Enum.reject(beside ++ given, &(to_charlist(&1) in :code.get_path()))
    Enum.each(added, &Code.append_path/1)
    if given -- added != given, do: consolidate(Enum.map(given, &to_charlist/1))
  end

  # As a release of theirs has them: without this their calls through protocols are slow, or end here.
  defp consolidate(paths) do
    known =
      for app <- [:elixir, :macula_storage], do: to_charlist(Application.app_dir(app, "ebin"))

    for protocol <- [Enumerable, String.Chars | Protocol.extract_protocols(paths)] do
      {:ok, code} =
        Protocol.consolidate(protocol, Protocol.extract_impls(protocol, known ++ paths))

      :code.purge(protocol)
      {:module, ^protocol} = :code.load_binary(protocol, ~c"#{protocol}", code)
    end
  end

  @doc "The names after `--only`, of those that there are."
  def only(nil, names), do: names

  def only(given, names) do
    only = String.split(given, ",")
    for name <- only, name not in names, do: raise("--only #{name}: one of #{inspect(names)}")
    only
  end

  @doc """
  Asks every side in turn, `rounds` times. `ask.(side)` answers `{clients, bytes, per, prepare}`: each of the
  clients calls, in its own process, `prepare` and what that returns, with random numbers below `keys`, until
  the time is over (`prepare` may return `{call, done}`, `done` being called after that). `per` is how many
  entries a call is about, `bytes` how many bytes. `%{side => figures}`.
  """
  def rounds(bench, sides, ask) do
    quiet_times = Map.get(bench, :quiet_times, @quiet_times)
    settle(bench.base, quiet_times)

    turns =
      for round <- 1..bench.rounds, side <- turned(sides, round) do
        {clients, bytes, per, prepare} = ask.(side)
        before = written_bytes()
        turn = turn(clients, bench.options.seconds, bench.keys, prepare)
        settle(bench.base, quiet_times)
        written = before && (written_bytes() - before) / max(turn.calls * bytes, 1)
        {side, Map.merge(turn, %{rate: turn.calls * per / turn.s, written: written})}
      end

    turns
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Map.new(fn {side, turns} -> {side, figures(turns)} end)
  end

  @doc "As a side of `rounds/3`, the disk's own rate: so many bytes appended to one file, and fdatasync, by one process."
  def syncs(bench, bytes, per) do
    data = :crypto.strong_rand_bytes(bytes)

    # A raw file belongs to the process that opens it.
    prepare = fn ->
      {:ok, io} = :file.open(Path.join(bench.base, "syncs"), [:write, :raw, :binary])

      fn _ ->
        :ok = :file.write(io, data)
        :ok = :file.datasync(io)
      end
    end

    {1, bytes, per, prepare}
  end

  @doc """
  A value: 100 bytes that begin with the number and do not compress.

  Each time another one: DETS and SQLite, for two, write nothing when what is there already is put.
  """
  def value(n) do
    at = :erlang.monotonic_time() &&& @pool_offset_max
    <<n::64, binary_part(:persistent_term.get(__MODULE__), at, @value_bytes - 8)::binary>>
  end

  def value_bytes, do: @value_bytes

  @doc "So that no side always comes after the same other."
  def turned(sides, round) do
    {first, last} = Enum.split(sides, rem(round, max(length(sides), 1)))
    last ++ first
  end

  @doc "One turn of many clients: `%{calls, s, times, errors}`, `times` being how often a call took how long."
  def turn(clients, seconds, keys, prepare) do
    [turn] = go([ready(clients, keys, prepare)], seconds)
    turn
  end

  @doc "Clients that wait to be let go."
  def ready(clients, keys, prepare) do
    parent = self()

    tasks =
      for seed <- 1..clients do
        Task.async(fn ->
          {call, done} = prepared(prepare.())
          send(parent, {:ready, self()})

          receive do
            {:go, until} -> client(call, done, keys, seed, until)
          end
        end)
      end

    for task <- tasks do
      receive do
        {:ready, pid} when pid == task.pid -> :ok
        {:DOWN, ref, _, _, reason} when ref == task.ref -> exit(reason)
      end
    end

    tasks
  end

  defp prepared({call, done}), do: {call, done}
  defp prepared(call), do: {call, fn -> :ok end}

  @doc "Lets groups of clients go at the same time: a turn of each."
  def go(groups, seconds) do
    began = :erlang.monotonic_time()
    until = began + System.convert_time_unit(seconds, :second, :native)
    for tasks <- groups, task <- tasks, do: send(task.pid, {:go, until})
    for tasks <- groups, do: gone(began, Task.await_many(tasks, :infinity))
  end

  defp gone(began, answers) do
    ended = answers |> Enum.map(& &1.ended) |> Enum.max()
    errors = answers |> Enum.map(& &1.errors) |> merged()
    times = answers |> Enum.map(& &1.times) |> merged()

    %{
      calls: total(times) - total(errors),
      s: System.convert_time_unit(ended - began, :native, :microsecond) / 1_000_000,
      times: times,
      errors: errors
    }
  end

  defp client(call, done, keys, seed, until) do
    times = :counters.new(@time_slots, [])
    random = :rand.mwc59_seed(seed)
    ended = loop(call, keys, random, :erlang.monotonic_time(), until, times)
    done.()

    seen =
      for slot <- 1..@time_slots, (count = :counters.get(times, slot)) > 0, into: %{} do
        {slot_time(slot), count}
      end

    %{ended: ended, times: seen, errors: Process.get(:errors, %{})}
  end

  # The clock is read once a call: a call's end is the next one's beginning. Nothing here makes garbage,
  # whose collection would be taken for a slow call.
  defp loop(_call, _keys, _random, last, until, _times) when last >= until, do: last

  defp loop(call, keys, random, last, until, times) do
    random = :rand.mwc59(random)
    result = call.((:rand.mwc59_value32(random) * keys) >>> 32)
    now = :erlang.monotonic_time()
    :counters.add(times, slot(now - last, 1), 1)
    with {:error, reason} <- result, do: failed(reason)
    loop(call, keys, random, now, until, times)
  end

  defp failed(reason),
    do: Process.put(:errors, Map.update(Process.get(:errors, %{}), reason, 1, &(&1 + 1)))

  # The leading ten bits of a time are kept: within 0.2 %.
  defp slot(time, slot) when time < 1024, do: min(slot + time, @time_slots)
  defp slot(time, slot), do: slot(time >>> 1, slot + 512)

  defp slot_time(slot) when slot <= 1024, do: slot - 1

  defp slot_time(slot) do
    shift = div(slot - 1 - 512, 512)
    (slot - 1 - shift * 512) <<< shift
  end

  defp merged(counts), do: Enum.reduce(counts, %{}, &Map.merge(&1, &2, fn _, a, b -> a + b end))
  defp total(counts), do: counts |> Map.values() |> Enum.sum()

  @doc """
  The figures of one side's turns: rates by their median, times over all calls of all rounds. A call that
  failed is not in the rate; the time that its caller waited is in the times.
  """
  def figures(turns) do
    rates = Enum.map(turns, & &1.rate)
    times = turns |> Enum.map(& &1.times) |> merged() |> Enum.sort()
    calls = times |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    written = turns |> Enum.map(& &1[:written]) |> Enum.filter(& &1)

    %{
      rate: Tree.median(rates),
      slowest: Enum.min(rates),
      fastest: Enum.max(rates),
      p50_us: percentile_us(times, calls * 0.50),
      p99_us: percentile_us(times, calls * 0.99),
      max_us: percentile_us(times, calls),
      written: if(written != [], do: Tree.median(written)),
      errors: turns |> Enum.map(& &1.errors) |> merged()
    }
  end

  defp percentile_us(times, rank) do
    {time, _} =
      Enum.reduce_while(times, {0, 0}, fn {time, count}, {_, seen} ->
        if seen + count >= rank, do: {:halt, {time, seen}}, else: {:cont, {time, seen + count}}
      end)

    System.convert_time_unit(time, :native, :nanosecond) / 1000
  end

  @doc "Returns when nobody has anything left to write, or after 10 s."
  def settle(dir, quiet_times \\ @quiet_times) do
    if written = written_bytes(), do: quiet(written, quiet_times, {quiet_times, @quiet_tries})
    Tree.run!("sync", ["-f", dir])
  end

  defp quiet(_written, 0, _), do: :ok
  defp quiet(_written, _times, {_, 0}), do: :ok

  defp quiet(written, times, {all, tries}) do
    Process.sleep(@quiet_ms)

    case written_bytes() do
      ^written -> quiet(written, times - 1, {all, tries - 1})
      more -> quiet(more, all, {all, tries - 1})
    end
  end

  @doc """
  Bytes that went to the device of the temporary directory, whoever wrote them; `nil` where the kernel does
  not tell. (What it says of one process counts a page cache folio of up to a megabyte for each byte in it.)
  """
  def written_bytes do
    %File.Stat{major_device: device} = File.stat!(System.tmp_dir!())
    major = device >>> 8 &&& 0xFFF
    minor = (device &&& 0xFF) ||| (device >>> 12 &&& 0xFFF00)

    with {:ok, text} <- File.read("/sys/dev/block/#{major}:#{minor}/stat") do
      512 * (text |> String.split() |> Enum.at(6) |> String.to_integer())
    else
      _ -> nil
    end
  end

  @doc """
  Prints a table of `{name, figures}`, with each rate against that of `{"to what", figures}` if one is given. A call that
  failed ends the bench.
  """
  def print(title, unit, rows, against \\ nil) do
    head = [title, unit, "range", "p50", "p99", "longest" | ratio(against, &elem(&1, 0))]

    lines =
      for {name, f} <- rows do
        true = f.errors == %{}
        times = Enum.map([f.p50_us, f.p99_us, f.max_us], &duration/1)
        ratio = ratio(against, fn {_what, base} -> times(f.rate, base.rate) end)
        [name, Text.count(round(f.rate)), range(f)] ++ times ++ ratio
      end

    IO.puts(["\n", Text.table([head | lines])])
  end

  defp ratio(nil, _of), do: []
  defp ratio(against, of), do: [of.(against)]

  @doc "Slowest to fastest."
  def range(figures),
    do: "#{Text.count(round(figures.slowest))} to #{Text.count(round(figures.fastest))}"

  @doc "How many times as fast."
  def times(rate, other), do: "#{decimals(rate / max(other, 0.001), 2)}x"

  @doc "A number."
  def decimals(number, decimals), do: :erlang.float_to_binary(number / 1, decimals: decimals)

  @doc "How many clients, in words."
  def clients(1), do: "1 client"
  def clients(clients), do: "#{clients} clients"

  @doc "Microseconds, as a person reads them."
  def duration(us) when us < 100, do: "#{decimals(us, 2)} us"
  def duration(us) when us < 10_000, do: "#{Text.count(round(us))} us"
  def duration(us) when us < 1_000_000, do: "#{decimals(us / 1000, 1)} ms"
  def duration(us), do: "#{decimals(us / 1_000_000, 2)} s"
end
