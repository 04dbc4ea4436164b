# What the key-value benches share: the rivals behind one behaviour, what is stored, tables.
#
# Invariant: all sides of a question hold the same entries, are asked the same by the same loop, and promise
# the same: a put that has returned is synced. What one side puts off is counted as its own bytes.
Code.require_file("measure.exs", __DIR__)

defmodule MaculaStorage.Bench.Kv do
  @moduledoc false
  import Bitwise

  alias MaculaStorage.Bench.{Measure, Tree}
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
  @key_bytes 16
  @batch 5000

  @doc """
  Runs a bench: `work` gets what the other functions here call `bench`, with the sides opened.

  `names` are the sides that the question is for, ours first; `settings` are defaults (`:strict` adds
  options; `:fill`, what is stored: `{:hash | :ordered, number -> key}`, or `nil` to open nothing).
  """
  def main(args, names, settings, work) do
    {strict, settings} = Map.pop(Map.new(settings), :strict, [])
    {fill, defaults} = Map.pop(settings, :fill, {:hash, &key/1})
    options = options(args, strict, defaults)
    Measure.main("macula_bench_kv", &run(&1, options, names, fill, work))
  end

  defp run(base, options, names, fill, work) do
    start(Path.join(base, "ours"), options)

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
    for {side, store} <- bench.stores, fill, do: side.close(store)
  end

  @doc "What is given, over the script's defaults, over all scripts' defaults."
  def options(args, strict, defaults) do
    all = [keys: :integer, rounds: :integer, seconds: :integer, only: :string, cache_mb: :integer]
    {given, [], []} = OptionParser.parse(args, strict: all ++ strict)
    @defaults |> Map.merge(defaults) |> Map.merge(Map.new(given))
  end

  @doc "Our application on a base directory of its own, and what rivals need before they are opened."
  def start(base, options) do
    if megabytes = options.cache_mb,
      do: Application.put_env(:macula_storage, :kv_cache_bytes, megabytes * 1_048_576)

    Measure.start(base)
  end

  @doc "The module of a side."
  def side(name), do: Map.fetch!(@sides, name)

  @doc "Where a side's files are."
  def dir(bench, side) do
    {name, _} = Enum.find(@sides, fn {_, module} -> module == side end)
    Path.join(bench.base, name)
  end

  defp stores(bench, names, fill) do
    only = Measure.only(bench.options.only, names)

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

  @doc "A value, each time another one."
  defdelegate value(n), to: Measure

  @doc "Bytes of an entry as the caller sees it."
  def entry_bytes, do: @key_bytes + Measure.value_bytes()

  @doc """
  Asks every side in turn, `rounds` times: `ask.(side, store)` answers, in each client's own process, the
  function that it calls with random numbers below `keys` until the time is over. `per` is how many
  entries a call is about.

  `more` sides are `:loop`, which `ask` answers with what it does without a store, and `:sync`, the disk's own
  rate: as many bytes appended to one file, and fdatasync, by one process. `%{side => figures}`.
  """
  def measure(bench, clients, per, ask, more \\ []) do
    sides = Enum.map(more, &{&1, nil}) ++ bench.stores
    bytes = per * entry_bytes()

    measured =
      Measure.rounds(bench, sides, fn
        {:sync, nil} -> Measure.syncs(bench, bytes, per)
        {:loop, nil} -> {clients, bytes, per, fn -> ask.(:loop, nil) end}
        {side, store} -> {clients, bytes, per, fn -> ask.(side, side.client(store)) end}
      end)

    Map.new(measured, fn {{side, _}, figures} -> {side, figures} end)
  end

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

        [name | cells] ++
          [if(versus?, do: Measure.times(measured[first].rate, figures.rate), else: "")]
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

  defp cell(:range, figures, _, _), do: Measure.range(figures)

  defp cell(:p50, figures, _, _), do: Measure.duration(figures.p50_us)
  defp cell(:p99, figures, _, _), do: Measure.duration(figures.p99_us)
  defp cell(:max, figures, _, _), do: Measure.duration(figures.max_us)

  defp cell(:net, figures, _, loop),
    do: Measure.duration(1_000_000 / figures.rate - 1_000_000 / loop.rate)

  defp cell(:of_sync, figures, sync, _), do: Measure.times(figures.rate, sync.rate)
  defp cell(:written, %{written: nil}, _, _), do: "-"
  defp cell(:written, figures, _, _), do: Measure.decimals(figures.written, 1)
end

Code.require_file("kv_sides.exs", __DIR__)
