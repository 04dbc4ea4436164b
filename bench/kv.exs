# What the key-value benches share: the rivals behind one behaviour, clients that record how long each
# call took, rounds in which sides take turns, the disk's own sync rate beside the figures, tables.
#
# Invariant: all sides of a question hold the same entries, are asked the same by the same loop, and promise
# the same: a put that has returned is synced. Before a side's turn nobody has anything left to write: what
# one side puts off is counted as its own bytes and slows nobody else.
#
# CubDB is there when MACULA_BENCH_PEERS names a directory with its compiled modules in `*/ebin`. What is
# missing is named in the report.
Code.require_file("tree.exs", __DIR__)

defmodule MaculaStorage.Bench.Kv do
  @moduledoc false
  import Bitwise

  alias MaculaStorage.Bench.Tree
  alias MaculaStorage.Bench.Kv.{Bitcask, CubDB, Dets, Ets, Mnesia, Ours}
  alias MaculaStorage.Operator.Text

  @sides %{
    "ours" => Ours,
    "ets" => Ets,
    "dets" => Dets,
    "mnesia" => Mnesia,
    "bitcask" => Bitcask,
    "cubdb" => CubDB
  }
  @defaults %{keys: 100_000, rounds: 3, seconds: 1, cache_mb: nil, only: nil}
  @value_bytes 100
  @key_bytes 16
  @pool_offset_max 0xFFFF
  @pool_bytes @pool_offset_max + @value_bytes
  @batch 5000
  # Enough for an hour in nanoseconds, see slot/2.
  @time_slots 32 * 512 + 1024

  @doc """
  Runs a bench: `work` gets what the other functions here call `bench`, with the sides opened.

  `names` are the sides that the question is for, ours first; `settings` are defaults (`:strict` adds
  options; `:fill`, what is stored: `{:hash | :ordered, number -> key}`, or `nil` to open nothing).
  """
  def main(args, names, settings, work) do
    {strict, settings} = Map.pop(Map.new(settings), :strict, [])
    {fill, defaults} = Map.pop(settings, :fill, {:hash, &key/1})
    options = options(args, strict, defaults)
    base = Tree.fresh_dir("macula_bench_kv")
    # What dies in there takes that process along, and leaves this one to clean up.
    Process.flag(:trap_exit, true)

    try do
      Task.await(Task.async(fn -> run(base, options, names, fill, work) end), :infinity)
    after
      File.rm_rf!(base)
    end
  end

  defp run(base, options, names, fill, work) do
    start(Path.join(base, "ours"), options)
    Enum.each(Tree.machine(base), &IO.puts/1)
    IO.puts("load when it began: #{load()}")

    bench = %{
      base: base,
      options: options,
      keys: options.keys,
      rounds: options.rounds,
      stores: []
    }

    bench = %{bench | stores: stores(bench, names, fill)}
    if bench.stores == [], do: raise("nothing to measure")
    work.(bench)
    IO.puts("\nload when it ended: #{load()}")
    for {side, store} <- bench.stores, fill, do: side.close(store)
    :ok = Application.stop(:macula_storage)
  end

  @doc "What is given, over the script's defaults, over all scripts' defaults."
  def options(args, strict, defaults) do
    all = [keys: :integer, rounds: :integer, seconds: :integer, only: :string, cache_mb: :integer]
    {given, [], []} = OptionParser.parse(args, strict: all ++ strict)
    @defaults |> Map.merge(defaults) |> Map.merge(Map.new(given))
  end

  @doc "Our application on a base directory of its own, and what rivals need before they are opened."
  def start(base, options) do
    # That a rival is overloaded or repairs itself, and that we stopped, is no news.
    :logger.set_primary_config(:level, :error)
    System.put_env("MACULA_STORAGE_BASE", base)

    if megabytes = options.cache_mb,
      do: Application.put_env(:macula_storage, :kv_cache_bytes, megabytes * 1_048_576)

    # Without --no-start it runs already, elsewhere.
    Application.stop(:macula_storage)
    {:ok, _} = Application.ensure_all_started(:macula_storage)
    :persistent_term.put({__MODULE__, :pool}, :crypto.strong_rand_bytes(@pool_bytes))
    peers()
  end

  # Newer versions of Mix hide what a project does not list: Mnesia and what Debian brings.
  defp peers do
    beside = Path.wildcard("#{:code.lib_dir()}/{mnesia,bitcask}-*/ebin")
    given = Path.wildcard("#{System.get_env("MACULA_BENCH_PEERS", "none")}/*/ebin")
    Enum.each(beside ++ given, &Code.append_path/1)
    if given != [], do: consolidate(Enum.map(given, &to_charlist/1))
  end

  # As a release of theirs has them: without this their calls through protocols are slow, or end here.
  defp consolidate(paths) do
    elixir = to_charlist(Path.join(:code.lib_dir(:elixir), "ebin"))

    for protocol <- [Enumerable | Protocol.extract_protocols(paths)] do
      {:ok, code} =
        Protocol.consolidate(protocol, Protocol.extract_impls(protocol, [elixir | paths]))

      :code.purge(protocol)
      {:module, ^protocol} = :code.load_binary(protocol, ~c"#{protocol}", code)
    end
  end

  @doc "The module of a side."
  def side(name), do: Map.fetch!(@sides, name)

  @doc "Where a side's files are."
  def dir(bench, side) do
    {name, _} = Enum.find(@sides, fn {_, module} -> module == side end)
    Path.join(bench.base, name)
  end

  defp stores(bench, names, fill) do
    only = if bench.options.only, do: String.split(bench.options.only, ","), else: names
    for name <- only, name not in names, do: raise("--only #{name}: one of #{inspect(names)}")

    for name <- names, store = store(bench, name, name in only, fill), do: store
  end

  defp store(bench, name, wanted?, fill) do
    side = side(name)
    asked? = bench.options.only != nil

    case if(wanted?, do: side.missing(bench.keys, asked?), else: "not in --only") do
      nil when fill == nil -> {side, nil}
      nil -> {side, filled(bench, side, Path.join(bench.base, name), fill)}
      reason -> IO.puts("without #{side.name()}: #{reason}") && nil
    end
  end

  defp filled(bench, side, dir, {shape, key}) do
    {store, s} =
      Tree.timed(bench.base, fn ->
        File.mkdir_p!(dir)
        store = side.open(dir, shape, bench.keys)
        fill(side, store, bench.keys, key)
      end)

    IO.puts(
      "#{side.name()}: #{Text.count(bench.keys)} entries in #{Tree.seconds(s)}. #{side.note()}"
    )

    store
  end

  @doc "Stores entries 0 to `keys` - 1, in batches; the store as it is to be used from then on."
  def fill(side, store, keys, key) do
    0..(keys - 1)
    |> Stream.chunk_every(@batch)
    |> Stream.map(fn numbers -> Enum.map(numbers, &{key.(&1), value(&1)}) end)
    |> Enum.each(&side.fill(store, &1))

    side.filled(store)
  end

  @doc "The key of an entry: 16 bytes, scattered over the order of keys (the factor makes it one to one)."
  def key(n), do: <<"user", n * 2_654_435_761 &&& 0xFFFFFFFF::32, n::64>>

  @doc """
  A value: 100 bytes that begin with the number and do not compress.

  Each time another one: DETS, for one, writes nothing when what is there already is put.
  """
  def value(n) do
    pool = :persistent_term.get({__MODULE__, :pool})
    at = :erlang.monotonic_time() &&& @pool_offset_max
    <<n::64, binary_part(pool, at, @value_bytes - 8)::binary>>
  end

  @doc "Bytes of an entry as the caller sees it."
  def entry_bytes, do: @key_bytes + @value_bytes

  @doc """
  Asks every side in turn, `rounds` times: `ask.(side, store)` answers, in each client's own process, the
  function that it calls with random numbers below `keys` until the time is over. `per` is how many
  entries a call is about.

  `more` sides are `:loop`, which `ask` answers with what it does without a store, and `:sync`, the disk's own
  rate: as many bytes appended to one file, and fdatasync, by one process. `%{side => figures}`.
  """
  def measure(bench, clients, per, ask, more \\ []) do
    sides = Enum.map(more, &{&1, nil}) ++ bench.stores
    settle(bench.base)

    turns =
      for round <- 1..bench.rounds, {side, store} <- turned(sides, round) do
        {clients, prepare} = asked(bench, side, store, clients, per, ask)
        before = written_bytes()
        turn = turn(clients, bench.options.seconds, bench.keys, prepare)
        settle(bench.base)

        written = before && (written_bytes() - before) / max(turn.calls * per * entry_bytes(), 1)

        {side, Map.merge(turn, %{rate: turn.calls * per / turn.s, written: written})}
      end

    turns
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Map.new(fn {side, turns} -> {side, figures(turns)} end)
  end

  defp asked(_bench, :loop, _store, clients, _per, ask),
    do: {clients, fn -> ask.(:loop, nil) end}

  # A raw file belongs to the process that opens it.
  defp asked(bench, :sync, _store, _clients, per, _ask) do
    data = :crypto.strong_rand_bytes(per * entry_bytes())

    prepare = fn ->
      {:ok, io} = :file.open(Path.join(bench.base, "syncs"), [:write, :raw, :binary])

      fn _ ->
        :ok = :file.write(io, data)
        :ok = :file.datasync(io)
      end
    end

    {1, prepare}
  end

  defp asked(_bench, side, store, clients, _per, ask),
    do: {clients, fn -> ask.(side, side.client(store)) end}

  # So that no side always comes after the same other.
  defp turned(sides, round) do
    {first, last} = Enum.split(sides, rem(round, max(length(sides), 1)))
    last ++ first
  end

  @doc "One turn of many clients: `%{calls, s, times}`, `times` being how often a call took how long."
  def turn(clients, seconds, keys, prepare) do
    parent = self()

    tasks =
      for seed <- 1..clients do
        Task.async(fn ->
          call = prepare.()
          send(parent, {:ready, self()})

          receive do
            {:go, until} -> client(call, keys, seed, until)
          end
        end)
      end

    for task <- tasks do
      receive do
        {:ready, pid} when pid == task.pid -> :ok
        {:DOWN, ref, _, _, reason} when ref == task.ref -> exit(reason)
      end
    end

    began = :erlang.monotonic_time()
    until = began + System.convert_time_unit(seconds, :second, :native)
    for task <- tasks, do: send(task.pid, {:go, until})
    answers = Task.await_many(tasks, :infinity)
    ended = answers |> Enum.map(&elem(&1, 0)) |> Enum.max()

    %{
      calls: answers |> Enum.map(&elem(&1, 1)) |> Enum.sum(),
      s: System.convert_time_unit(ended - began, :native, :microsecond) / 1_000_000,
      times: answers |> Enum.map(&elem(&1, 2)) |> merged()
    }
  end

  defp client(call, keys, seed, until) do
    times = :counters.new(@time_slots, [])
    random = :rand.mwc59_seed(seed)
    ended = loop(call, keys, random, :erlang.monotonic_time(), until, times)

    seen =
      for slot <- 1..@time_slots, (count = :counters.get(times, slot)) > 0, into: %{} do
        {slot_time(slot), count}
      end

    {ended, seen |> Map.values() |> Enum.sum(), seen}
  end

  # The clock is read once a call: a call's end is the next one's beginning. Nothing here makes garbage,
  # whose collection would be taken for a slow call.
  defp loop(_call, _keys, _random, last, until, _times) when last >= until, do: last

  defp loop(call, keys, random, last, until, times) do
    random = :rand.mwc59(random)
    call.((:rand.mwc59_value32(random) * keys) >>> 32)
    now = :erlang.monotonic_time()
    :counters.add(times, slot(now - last, 1), 1)
    loop(call, keys, random, now, until, times)
  end

  # The leading ten bits of a time are kept: within 0.2 %.
  defp slot(time, slot) when time < 1024, do: min(slot + time, @time_slots)
  defp slot(time, slot), do: slot(time >>> 1, slot + 512)

  defp slot_time(slot) when slot <= 1024, do: slot - 1

  defp slot_time(slot) do
    shift = div(slot - 1 - 512, 512)
    (slot - 1 - shift * 512) <<< shift
  end

  defp merged(times), do: Enum.reduce(times, %{}, &Map.merge(&1, &2, fn _, a, b -> a + b end))

  @doc "The figures of one side's turns: rates by their median, times over all calls of all rounds."
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
      written: if(written != [], do: Tree.median(written))
    }
  end

  defp percentile_us(times, rank) do
    {time, _} =
      Enum.reduce_while(times, {0, 0}, fn {time, count}, {_, seen} ->
        if seen + count >= rank, do: {:halt, {time, seen}}, else: {:cont, {time, seen + count}}
      end)

    System.convert_time_unit(time, :native, :nanosecond) / 1000
  end

  @quiet_ms 100
  @quiet_times 3
  @quiet_tries 100

  @doc "Returns when nobody has anything left to write, or after 10 s."
  def settle(dir) do
    if written = written_bytes(), do: quiet(written, @quiet_times, @quiet_tries)
    Tree.run!("sync", ["-f", dir])
  end

  defp quiet(_written, 0, _tries), do: :ok
  defp quiet(_written, _times, 0), do: :ok

  defp quiet(written, times, tries) do
    Process.sleep(@quiet_ms)

    case written_bytes() do
      ^written -> quiet(written, times - 1, tries - 1)
      more -> quiet(more, @quiet_times, tries - 1)
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

  # Others at work on the machine make every figure worth less.
  defp load, do: File.read!("/proc/loadavg") |> String.split() |> Enum.take(3) |> Enum.join(" ")

  @doc "A table of what `measure/5` gave, and how many times as fast the first store is as each other."
  def print(bench, title, measured) do
    {sync, loop} = {measured[:sync], measured[:loop]}
    [{first, _} | others] = bench.stores
    columns = [:rate, :range, :p50, :p99, :max]

    columns =
      columns ++
        if(loop, do: [:net], else: []) ++ if(sync, do: [:of_sync, :written], else: [])

    rows =
      for {name, side, figures} <-
            [{"append + fdatasync", :sync, sync}, {"the loop itself", :loop, loop}] ++
              for({side, _} <- bench.stores, do: {side.name(), side, measured[side]}),
          figures do
        cells = Enum.map(columns, &cell(&1, figures, sync, loop))
        versus? = List.keymember?(others, side, 0)
        [name | cells] ++ [if(versus?, do: times(measured[first].rate, figures), else: "")]
      end

    ours = if first == Ours, do: "ours", else: first.name()
    head = [title | Enum.map(columns, &heading/1)] ++ ["#{ours} to it"]
    IO.puts(["\n", Text.table([head | rows])])
  end

  defp heading(:rate), do: "entries/s"
  defp heading(:range), do: "range"
  defp heading(:p50), do: "p50"
  defp heading(:p99), do: "p99"
  defp heading(:max), do: "longest"
  defp heading(:net), do: "net of loop"
  defp heading(:of_sync), do: "to sync rate"
  defp heading(:written), do: "written/byte"

  defp cell(:rate, figures, _, _), do: Text.count(round(figures.rate))

  defp cell(:range, figures, _, _),
    do: "#{Text.count(round(figures.slowest))} to #{Text.count(round(figures.fastest))}"

  defp cell(:p50, figures, _, _), do: duration(figures.p50_us)
  defp cell(:p99, figures, _, _), do: duration(figures.p99_us)
  defp cell(:max, figures, _, _), do: duration(figures.max_us)

  defp cell(:net, figures, _, loop),
    do: duration(1_000_000 / figures.rate - 1_000_000 / loop.rate)

  defp cell(:of_sync, figures, sync, _), do: times(figures.rate, sync)
  defp cell(:written, %{written: nil}, _, _), do: "-"
  defp cell(:written, figures, _, _), do: decimals(figures.written, 1)

  defp times(rate, figures), do: "#{decimals(rate / max(figures.rate, 0.001), 2)}x"
  defp decimals(number, decimals), do: :erlang.float_to_binary(number / 1, decimals: decimals)

  @doc "How many clients, in words."
  def clients(1), do: "1 client"
  def clients(clients), do: "#{clients} clients"

  @doc "Microseconds, as a person reads them."
  def duration(us) when us < 100, do: "#{decimals(us, 2)} us"
  def duration(us) when us < 10_000, do: "#{Text.count(round(us))} us"
  def duration(us) when us < 1_000_000, do: "#{decimals(us / 1000, 1)} ms"
  def duration(us), do: "#{decimals(us / 1_000_000, 2)} s"
end

Code.require_file("kv_sides.exs", __DIR__)
