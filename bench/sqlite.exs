# What the SQLite benches share: sides opened with equal pragmas, tables of figures, goals beside them.
#
# Invariant: every side has its own file with the same rows in it and the same pragmas, which are read back
# and printed; a write that has returned promises what `synchronous` says. Goals are printed, never asserted.
#
# exqlite and db_connection are there when MACULA_BENCH_PEERS names a directory with their compiled modules
# in `*/ebin` (and `exqlite/priv`). What is missing is named in the report.
Code.require_file("measure.exs", __DIR__)

defmodule MaculaStorage.Bench.Sqlite do
  @moduledoc false

  alias MaculaStorage.Bench.{Measure, Tree}
  alias MaculaStorage.Bench.Sqlite.{Cli, Exqlite, LowLevel, Ours, P1, Pool}
  alias MaculaStorage.Operator.Text

  @sides %{
    "ours" => Ours,
    "low_level" => LowLevel,
    "exqlite" => Exqlite,
    "pool" => Pool,
    "p1" => P1,
    "cli" => Cli
  }
  @defaults %{keys: 100_000, rounds: 3, seconds: 1, only: nil, synchronous: nil}
  @options [
    keys: :integer,
    rounds: :integer,
    seconds: :integer,
    only: :string,
    synchronous: :string
  ]
  @batch 5000
  # Longer than our writer waits before it checkpoints an idle database.
  @quiet_times 15
  @pragmas ~w(journal_mode synchronous cache_size page_size foreign_keys mmap_size temp_store)

  @doc "The table of one-row transactions and point selects."
  def table, do: "CREATE TABLE kv (id INTEGER PRIMARY KEY, name TEXT, value BLOB)"
  def insert, do: "INSERT INTO kv (name, value) VALUES (?, ?)"

  @doc "Parameters of an insert."
  def row(n), do: ["user #{n}", {:blob, Measure.value(n)}]

  @doc "Bytes of such a row as the caller sees it."
  def row_bytes, do: Measure.value_bytes() + byte_size("user 12345")

  @doc """
  Runs a bench: `work` gets what the other functions here call `bench`, once for each of
  `settings[:synchronous]`, with the sides opened and `keys` rows in the table if `settings[:fill]`.

  `names` are the sides that the question is for, ours first; `settings` are defaults (`:strict` adds options).
  """
  def main(args, names, settings, work) do
    {own, defaults} = Map.split(Map.new(settings), [:strict, :fill])
    {given, [], []} = OptionParser.parse(args, strict: @options ++ Map.get(own, :strict, []))
    levels = levels(Map.get(defaults, :synchronous, [:full]), given[:synchronous])
    options = @defaults |> Map.merge(defaults) |> Map.merge(Map.new(given))

    Measure.main("macula_bench_sqlite", fn base ->
      for level <- levels, do: run(base, level, options, names, own[:fill], work)
    end)
  end

  defp levels(levels, nil), do: levels

  defp levels(levels, given) do
    case Enum.filter(levels, &("#{&1}" == given)) do
      [] -> raise "--synchronous #{given}: one of #{inspect(levels)}"
      levels -> levels
    end
  end

  defp run(base, synchronous, options, names, fill?, work) do
    setting = if synchronous == :full, do: [], else: [synchronous: synchronous]
    Application.put_env(:macula_storage, :sqlite, setting)
    Measure.start(Path.join([base, "#{synchronous}", "base"]))
    IO.puts("\nsynchronous=#{String.upcase("#{synchronous}")}")

    bench = %{
      base: base,
      options: options,
      keys: options.keys,
      rounds: options.rounds,
      synchronous: synchronous,
      quiet_times: @quiet_times,
      stores: []
    }

    only = Measure.only(options.only, names)

    stores =
      for name <- names, store = store(bench, name, name in only, fill?), do: {side(name), store}

    if stores == [], do: raise("nothing to measure")
    work.(%{bench | stores: stores})
    for {side, store} <- stores, do: side.close(store)
  end

  @doc "The module of a side."
  def side(name), do: Map.fetch!(@sides, name)

  defp store(_bench, name, false, _fill?), do: absent(side(name), "not in --only")

  defp store(bench, name, true, fill?) do
    side = side(name)
    dir = Path.join([bench.base, "#{bench.synchronous}", name])
    File.mkdir_p!(dir)

    case side.open(dir, bench.synchronous) do
      {:ok, store} ->
        if fill?, do: fill(side, store, bench.keys)
        IO.puts("#{side.name()}: #{described(side, store)}")
        store

      {:missing, reason} ->
        absent(side, reason)
    end
  end

  defp absent(side, reason) do
    IO.puts("without #{side.name()}: #{reason}")
    nil
  end

  # What it says itself of how it is set.
  defp described(side, store) do
    version = value(side, store, "SELECT sqlite_version()")
    pragmas = Enum.map_join(@pragmas, " ", &"#{&1}=#{value(side, store, "PRAGMA #{&1}")}")
    String.trim("SQLite #{version}, #{pragmas}. #{side.note()}")
  end

  @doc "The first value of what a statement gives."
  def value(side, store, sql) do
    client = side.client(store)
    [row | _] = side.rows(client, side.prepare(client, sql), [], 2)
    side.leave(client)
    first(row)
  end

  @doc "The first value of a row."
  def first([value | _]), do: value
  def first(row) when is_tuple(row), do: elem(row, 0)

  defp fill(side, store, keys) do
    :ok = side.run(store, table())

    1..keys
    |> Stream.map(&row/1)
    |> Stream.chunk_every(@batch)
    |> Enum.each(&(:ok = side.insert_many(store, insert(), &1)))
  end

  @doc """
  As `prepare` of `MaculaStorage.Bench.Measure.turn/4`: a client of its own, `ask.(client, statement)` being
  what it calls.
  """
  def client(side, store, sql, ask) do
    fn ->
      client = side.client(store)
      {ask.(client, side.prepare(client, sql)), fn -> side.leave(client) end}
    end
  end

  @doc """
  A table of what was measured: `rows` are `{name, figures}`, of which the first of `ours` is compared with
  the others.
  """
  def print(title, unit, rows, ours) do
    head = [title, unit, "range", "p50", "p99", "longest", "errors", "ours to it"]
    {_, our} = List.keyfind(rows, ours, 0, {nil, nil})

    lines =
      for {name, figures} <- rows do
        [
          name,
          Text.count(round(figures.rate)),
          Measure.range(figures),
          Measure.duration(figures.p50_us),
          Measure.duration(figures.p99_us),
          Measure.duration(figures.max_us),
          Text.count(figures.errors |> Map.values() |> Enum.sum()),
          if(our && name != ours, do: Measure.times(our.rate, figures.rate), else: "")
        ]
      end

    IO.puts(["\n", Text.table([head | lines])])
    errors(rows)
  end

  @doc "What went wrong, how often."
  def errors(rows) do
    for {name, figures} <- rows, {reason, count} <- figures.errors do
      reason = if is_binary(reason), do: reason, else: inspect(reason)
      IO.puts("#{name}: #{Text.count(count)} times #{String.slice(reason, 0, 160)}")
    end
  end

  @doc "Goals: `{what, ratio or nil, goal}`, at least, or `{what, ratio, {:under, goal}, said}`."
  def goals(goals) do
    lines =
      for goal <- goals, elem(goal, 1) != nil do
        case goal do
          {what, ratio, {:under, goal}, said} ->
            [what, said.(ratio), "goal under #{said.(goal)}", met(ratio < goal)]

          {what, ratio, nil} ->
            [what, "#{Measure.decimals(ratio, 2)}x", "", ""]

          {what, ratio, goal} ->
            [what, "#{Measure.decimals(ratio, 2)}x", "goal #{goal}x", met(ratio >= goal)]
        end
      end

    if lines != [], do: IO.puts(["\n", Text.table(lines)])
  end

  defp met(true), do: "met"
  defp met(false), do: "MISSED"

  @doc "How many times as fast one side was as another, or `nil`."
  def ratio(measured, one, other) do
    with %{rate: rate} <- measured[one], %{rate: of} <- measured[other], do: rate / max(of, 0.001)
  end

  @doc "Writers without end, each a client of its own that inserts one row after the other."
  def writers(side, store, clients) do
    stop = :atomics.new(1, [])
    counts = :counters.new(2, [:write_concurrency])

    prepare =
      client(side, store, insert(), fn client, statement ->
        fn n -> side.write(client, statement, row(n)) end
      end)

    tasks =
      for n <- 1..clients do
        Task.async(fn ->
          {write, done} = prepare.()
          write(write, n, stop, counts)
          done.()
        end)
      end

    %{tasks: tasks, stop: stop, counts: counts}
  end

  defp write(write, n, stop, counts) do
    result = write.(n)
    :counters.add(counts, if(result == :ok, do: 1, else: 2), 1)
    if :atomics.get(stop, 1) == 0, do: write(write, n, stop, counts)
  end

  @doc "How many rows they have written, how many errors they had."
  def written(writers), do: {:counters.get(writers.counts, 1), :counters.get(writers.counts, 2)}

  @doc "Ends them."
  def stop(writers) do
    :atomics.put(writers.stop, 1, 1)
    Task.await_many(writers.tasks, :infinity)
  end

  @doc "So that what is left from one side is no burden to the next."
  def settle(bench), do: Measure.settle(bench.base, bench.quiet_times)

  @doc "Seconds that a piece of work takes when nobody has anything left to write."
  def timed_s(bench, work) do
    settle(bench)
    {_, s} = Tree.timed(work)
    s
  end
end

Code.require_file("sqlite_sides.exs", __DIR__)
