# How fast is a point select, alone and beside 64 writers, and what is left for the VM's own file work?
#
#     mix run --no-start bench/sqlite_get.exs [--keys 100000] [--rounds 3] [--seconds 2] [--only ours,exqlite] [--writers 64]
#
# One row of 100 bytes by its primary key, prepared, by 1 and 64 processes. Then 64 processes insert one row after
# the other, durably and without end; beside them one process calls File.stat on a file that nobody else
# uses (its rate without them is measured in the same rounds); then one selects as well. Clients are connected
# before the writers begin.
Code.require_file("sqlite.exs", __DIR__)

defmodule MaculaStorage.Bench.SqliteGet do
  @moduledoc false

  alias MaculaStorage.Bench.{Measure, Sqlite}
  alias MaculaStorage.Operator.Text

  @clients [1, 64]
  @select "SELECT id, name, value FROM kv WHERE id = ?"
  # Until writers are at it.
  @warm_ms 500
  # One row, and that there is no other.
  @chunk 2

  def main(args) do
    settings = [seconds: 2, fill: true, writers: 64, strict: [writers: :integer]]
    Sqlite.main(args, ~w(ours low_level exqlite pool p1), settings, &run/1)
  end

  defp run(bench) do
    alone =
      for clients <- @clients, into: %{} do
        measured = Measure.rounds(bench, bench.stores, &{clients, 1, 1, select(&1)})
        rows = for {side, _} = store <- bench.stores, do: {side.name(), measured[store]}
        title = "point select, #{Measure.clients(clients)}"
        Sqlite.print(title, "selects/s", rows, Sqlite.side("ours").name())
        {clients, Map.new(rows)}
      end

    beside = beside(bench)
    print(bench, beside)
    Sqlite.goals(goals(alone[1], beside))
  end

  defp select({side, store}) do
    Sqlite.client(side, store, @select, fn client, statement ->
      fn n -> selected(side.rows(client, statement, [n + 1], @chunk), n + 1) end
    end)
  end

  defp selected([row], id) do
    ^id = Sqlite.first(row)
    :ok
  end

  defp selected({:error, _} = error, _id), do: error

  # A file of its own, whose name is all that it needs of the disk.
  defp stat(bench) do
    path = Path.join(bench.base, "unrelated")
    File.write!(path, "")
    fn -> fn _ -> {:ok, _} = File.stat(path) end end
  end

  defp beside(bench) do
    Sqlite.settle(bench)

    turns =
      for round <- 1..bench.rounds,
          side <- Measure.turned([:idle | bench.stores], round),
          {what, turn} <- turns(bench, side),
          do: {{what, side}, turn}

    turns
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Map.new(fn {key, turns} -> {key, figures(turns)} end)
  end

  defp turns(bench, :idle),
    do: [{:stat, rated(Measure.turn(1, bench.options.seconds, bench.keys, stat(bench)))}]

  defp turns(bench, store) do
    {[stat], writes} = beside_writers(bench, store, [stat(bench)])
    {[select, stat_too], writes_too} = beside_writers(bench, store, [select(store), stat(bench)])

    [
      {:stat, Map.merge(rated(stat), writes)},
      {:select, Map.merge(rated(select), writes_too)},
      {:stat_too, rated(stat_too)}
    ]
  end

  defp rated(turn), do: Map.put(turn, :rate, turn.calls / turn.s)

  defp beside_writers(bench, {side, store}, prepares) do
    clients = Enum.map(prepares, &Measure.ready(1, bench.keys, &1))
    writers = Sqlite.writers(side, store, bench.options.writers)
    Process.sleep(@warm_ms)
    {written, failed} = Sqlite.written(writers)
    turns = Measure.go(clients, bench.options.seconds)
    {written_then, failed_then} = Sqlite.written(writers)
    Sqlite.stop(writers)
    Sqlite.settle(bench)
    s = turns |> Enum.map(& &1.s) |> Enum.max()
    {turns, %{writes: (written_then - written) / s, write_errors: failed_then - failed}}
  end

  defp figures(turns) do
    writes = for %{writes: writes} <- turns, do: writes

    Map.merge(Measure.figures(turns), %{
      writes: if(writes != [], do: Enum.sum(writes) / length(writes)),
      write_errors: turns |> Enum.map(&Map.get(&1, :write_errors, 0)) |> Enum.sum()
    })
  end

  defp print(bench, beside) do
    writers = Measure.clients(bench.options.writers) |> String.replace("client", "writer")
    idle = beside[{:stat, :idle}]

    head = ["File.stat beside #{writers}", "stats/s", "of idle", "p50", "p99", "longest"]

    lines =
      for store <- [:idle | bench.stores] do
        stat = beside[{:stat, store}]
        [name(store), count(stat.rate), Measure.times(stat.rate, idle.rate)] ++ times(stat)
      end

    head = head ++ ["writes/s", "errors"]

    lines =
      for {line, store} <- Enum.zip(lines, [:idle | bench.stores]),
          do: line ++ writes(beside[{:stat, store}])

    IO.puts(["\n", Text.table([head | lines])])

    head =
      ["point select beside #{writers}", "selects/s", "p50", "p99", "longest", "errors"] ++
        ["writes/s", "errors", "File.stat of idle"]

    lines =
      for store <- bench.stores, select = beside[{:select, store}] do
        [name(store), count(select.rate)] ++
          times(select) ++
          [count(select.errors |> Map.values() |> Enum.sum())] ++
          writes(select) ++ [Measure.times(beside[{:stat_too, store}].rate, idle.rate)]
      end

    IO.puts(["\n", Text.table([head | lines])])

    Sqlite.errors(
      for {side, _} = store <- bench.stores, do: {side.name(), beside[{:select, store}]}
    )
  end

  defp name(:idle), do: "idle"
  defp name({side, _store}), do: side.name()
  defp count(number), do: Text.count(round(number))

  defp times(figures),
    do: Enum.map([figures.p50_us, figures.p99_us, figures.max_us], &Measure.duration/1)

  defp writes(%{writes: nil}), do: ["", ""]
  defp writes(figures), do: [count(figures.writes), count(figures.write_errors)]

  defp goals(alone, beside) do
    ours = Sqlite.side("ours")
    store = Enum.find_value(beside, fn {{_, store}, _} -> match?({^ours, _}, store) && store end)
    idle = beside[{:stat, :idle}]

    rivals =
      for {rival, goal} <- [exqlite: 2, pool: 12], name = Sqlite.side("#{rival}").name() do
        {"1 client, of #{name}", Sqlite.ratio(alone, ours.name(), name), goal}
      end

    if store do
      p99_ms = beside[{:select, store}].p99_us / 1000
      said = &"#{Measure.decimals(&1, 2)} ms"

      rivals ++
        [
          {"p99 beside writers", p99_ms, {:under, 1.0}, said},
          {"File.stat beside writers, of idle", beside[{:stat, store}].rate / idle.rate, 0.5},
          {"the same while one selects", beside[{:stat_too, store}].rate / idle.rate, nil}
        ]
    else
      rivals
    end
  end
end

MaculaStorage.Bench.SqliteGet.main(System.argv())
