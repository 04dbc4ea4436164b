# How fast are many rows read and written, and how much memory does a large result take?
#
#     mix run --no-start bench/sqlite_rows.exs [--keys 10000] [--rows 100000] [--result-mb 1024] [--rounds 3]
#                                              [--seconds 2] [--only ours,exqlite,cli]
#
# A result of 1 GB is read row by row, none kept: how far the memory of this OS process rose above what it was
# before (VmHWM, reset before; ours comes first, as memory that the VM got once stays with it). A SELECT of 10,000 rows
# of 5 columns into a list. 100,000 such rows into an empty table, in one durable transaction; the command line
# reads them from a file, which was written before the clock ran.
Code.require_file("sqlite.exs", __DIR__)

defmodule MaculaStorage.Bench.SqliteRows do
  @moduledoc false

  alias MaculaStorage.Bench.{Measure, Sqlite, Tree}
  alias MaculaStorage.Bench.Sqlite.{Cli, Exqlite, LowLevel, Ours, Pool}
  alias MaculaStorage.Operator.Text

  @columns "(id INTEGER PRIMARY KEY, name TEXT, age INTEGER, score REAL, note TEXT)"
  @chunks [50, 500, 5000]
  @blob_bytes 1000
  @idle_ms 500
  @sample_ms 2
  @text "a note of forty characters, or a few more"

  def main(args) do
    settings = [
      keys: 10_000,
      seconds: 2,
      rows: 100_000,
      result_mb: 1024,
      strict: [rows: :integer, result_mb: :integer]
    ]

    Sqlite.main(args, ~w(ours low_level exqlite pool p1 cli), settings, &run/1)
  end

  defp run(bench) do
    memory = memory(bench)
    read = read(bench)
    inserted = inserted(bench)
    Sqlite.goals(goals(memory, read, inserted))
  end

  # memory

  defp memory(bench) do
    count = div(bench.options.result_mb * 1_048_576, @blob_bytes)

    sql =
      "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < #{count})" <>
        " SELECT i, zeroblob(#{@blob_bytes}) FROM n"

    risen =
      for {side, store} <- bench.stores, side != Cli, into: %{} do
        {side, risen(fn -> each(side, store, sql, count) end)}
      end

    head = [
      "#{Text.bytes(count * @blob_bytes)}, row by row",
      "memory above idle",
      "seconds",
      "rate"
    ]

    lines =
      for {side, _} <- bench.stores, {:ok, bytes, s} <- [risen[side]] do
        [side.name(), Text.bytes(bytes), Tree.seconds(s), Tree.rate(count * @blob_bytes, s)]
      end

    IO.puts("")
    for {side, :unsupported} <- risen, do: IO.puts("without #{side.name()}: no stream of rows")
    IO.puts(["\n", Text.table([head | lines])])
    risen
  end

  # Seen to be all of it.
  defp each(side, store, sql, count) do
    seen = :counters.new(1, [])
    result = side.each(store, sql, fn row -> :counters.add(seen, 1, seen(row)) end)
    if result == :ok, do: true = :counters.get(seen, 1) == count
    result
  end

  defp seen([_, <<_::binary-size(@blob_bytes)>>]), do: 1

  # In a process of its own, as what the caller is left with is not what streams.
  defp risen(work) do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    Process.sleep(@idle_ms)
    reset? = File.write("/proc/self/clear_refs", "5") == :ok
    idle = resident("VmRSS")
    sampler = Task.async(fn -> sample(idle) end)
    {result, s} = Tree.timed(fn -> Task.await(Task.async(work), :infinity) end)
    send(sampler.pid, :stop)
    sampled = Task.await(sampler)
    highest = if reset?, do: max(sampled, resident("VmHWM")), else: sampled
    if result == :ok, do: {:ok, highest - idle, s}, else: result
  end

  defp sample(highest) do
    receive do
      :stop -> max(highest, resident("VmRSS"))
    after
      @sample_ms -> sample(max(highest, resident("VmRSS")))
    end
  end

  defp resident(name) do
    [_, kib] = Regex.run(~r/#{name}:\s+(\d+) kB/, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1024
  end

  # reading

  defp read(bench) do
    for {side, store} <- bench.stores do
      :ok = side.run(store, "CREATE TABLE people #{@columns}")
      :ok = side.insert_many(store, insert("people"), people(bench.keys))
    end

    sides = for {side, store} <- bench.stores, chunk <- chunks(side), do: {side, store, chunk}

    measured =
      Measure.rounds(bench, sides, fn {side, store, chunk} ->
        prepare =
          Sqlite.client(side, store, "SELECT * FROM people", fn client, statement ->
            fn _ -> counted(side.rows(client, statement, [], chunk), bench.keys) end
          end)

        {1, bench.keys, bench.keys, prepare}
      end)

    rows = for {side, _, chunk} = key <- sides, do: {in_chunks(side, chunk), measured[key]}
    title = "SELECT of #{Text.count(bench.keys)}, 5 columns"
    Sqlite.print(title, "rows/s", rows, Ours.name())
    Map.new(rows)
  end

  defp chunks(side) when side in [Exqlite, LowLevel], do: @chunks
  defp chunks(_side), do: [nil]

  defp in_chunks(side, nil), do: side.name()
  defp in_chunks(side, chunk), do: "#{side.name()}, #{Text.count(chunk)} at a time"

  defp counted({:error, _} = error, _count), do: error
  defp counted(rows, count) when length(rows) == count, do: :ok

  defp insert(table), do: "INSERT INTO #{table} VALUES (?, ?, ?, ?, ?)"
  defp people(count), do: for(n <- 1..count, do: [n, "name #{n}", rem(n, 100), n / 7, @text])

  # writing

  defp inserted(bench) do
    people = people(bench.options.rows)

    ways =
      for {side, store} <- bench.stores,
          {way, prepare} <- ways(side, store),
          do: {"#{side.name()}, #{way}", side, store, prepare}

    seconds =
      for round <- 1..bench.rounds, {name, side, store, prepare} <- Measure.turned(ways, round) do
        :ok = side.run(store, "DROP TABLE IF EXISTS bulk")
        :ok = side.run(store, "CREATE TABLE bulk #{@columns}")
        insert = prepare.(people)
        s = Sqlite.timed_s(bench, insert)
        true = sums(side, store) == {length(people), people |> Enum.map(&hd/1) |> Enum.sum()}
        {name, s}
      end

    seconds = Enum.group_by(seconds, &elem(&1, 0), &elem(&1, 1))
    print_inserted(ways, seconds, length(people))
    seconds
  end

  # What is not prepared before the clock runs is part of the work.
  defp ways(Ours = side, store), do: [{"execute_many", many(side, store)}]

  defp ways(side, store) when side in [Exqlite, LowLevel] do
    values = fn rows -> fn -> side.insert_values(store, insert("bulk"), rows) end end
    [{"bind and step per row", many(side, store)}, {"500 rows per INSERT", values}]
  end

  defp ways(Cli, store) do
    [
      {".import of CSV", &import_csv(store, &1)},
      {"INSERTs in one transaction", &script(store, &1)}
    ]
  end

  defp ways(Pool = side, store), do: [{"execute per row", many(side, store)}]
  defp ways(side, store), do: [{"bind and next per row", many(side, store)}]

  defp many(side, store),
    do: fn rows -> fn -> side.insert_many(store, insert("bulk"), rows) end end

  defp import_csv({path, _} = store, rows) do
    csv = "#{path}.csv"

    File.write!(
      csv,
      Enum.map(rows, &[Enum.map_intersperse(&1, ",", fn v -> quoted(v) end), "\n"])
    )

    commands(store, [".import --csv #{csv} bulk"])
  end

  defp script(store, rows) do
    values = fn row -> Enum.map_intersperse(row, ", ", &Cli.literal/1) end
    inserts = Enum.map(rows, &["INSERT INTO bulk VALUES (", values.(&1), ");\n"])
    commands(store, ["BEGIN;\n", inserts, "COMMIT;"])
  end

  defp commands({path, _} = store, lines) do
    script = "#{path}.bulk"
    File.write!(script, [Enum.intersperse(Cli.settings(store), "\n"), "\n", lines, "\n"])

    fn ->
      "" = Cli.read(store, script)
      :ok
    end
  end

  defp quoted(text) when is_binary(text), do: "\"#{text}\""
  defp quoted(number), do: "#{number}"

  defp sums(Cli, store) do
    [count, sum] =
      store
      |> Cli.commands(["SELECT count(*), sum(id) FROM bulk;"])
      |> String.trim()
      |> String.split("|")

    {String.to_integer(count), String.to_integer(sum)}
  end

  defp sums(side, store) do
    {Sqlite.value(side, store, "SELECT count(*) FROM bulk"),
     Sqlite.value(side, store, "SELECT sum(id) FROM bulk")}
  end

  defp print_inserted(ways, seconds, count) do
    head = ["#{Text.count(count)} rows inserted", "rows/s", "median", "range", "ours to it"]
    ours = Enum.find_value(ways, fn {name, side, _, _} -> side == Ours && seconds[name] end)

    lines =
      for {name, side, _, _} <- ways, times = seconds[name] do
        [
          name,
          Text.count(round(count / Tree.median(times))),
          Tree.seconds(Tree.median(times)),
          "#{Tree.seconds(Enum.min(times))} to #{Tree.seconds(Enum.max(times))}",
          if(ours && side != Ours,
            do: Measure.times(Tree.median(times), Tree.median(ours)),
            else: ""
          )
        ]
      end

    IO.puts(["\n", Text.table([head | lines])])
  end

  # goals

  defp goals(memory, read, inserted) do
    memory_goal(memory[Ours]) ++ read_goal(read) ++ inserted_goals(inserted)
  end

  defp memory_goal({:ok, bytes, _}),
    do: [{"memory above idle", bytes, {:under, 32 * 1_048_576}, &Text.bytes/1}]

  defp memory_goal(_), do: []

  defp read_goal(read) do
    rivals = for chunk <- @chunks, figures = read[in_chunks(Exqlite, chunk)], do: figures.rate

    case read[Ours.name()] do
      %{rate: rate} when rivals != [] ->
        [{"SELECT, of exqlite's best", rate / Enum.max(rivals), 1.3}]

      _ ->
        []
    end
  end

  defp inserted_goals(inserted) do
    case of(inserted, Ours) do
      [] ->
        []

      [{_, ours} | _] ->
        exqlite = for {way, s} <- of(inserted, Exqlite), do: {"inserts, of #{way}", s / ours, nil}
        exqlite = Enum.map(exqlite, fn goal -> with_goal(goal, "per row", 12) end)
        cli = for {_, s} <- of(inserted, Cli), do: s

        cli =
          if cli == [],
            do: [],
            else: [{"inserts, of the command line", Enum.min(cli) / ours, 0.67}]

        exqlite ++ cli
    end
  end

  defp with_goal({what, ratio, nil}, part, goal),
    do: {what, ratio, if(String.contains?(what, part), do: goal)}

  defp of(inserted, side) do
    for {name, times} <- inserted,
        String.starts_with?(name, side.name() <> ", "),
        do: {name, Tree.median(times)}
  end
end

MaculaStorage.Bench.SqliteRows.main(System.argv())
