# What does it cost that a put into mnesia is on the disk?
#
#     mix run --no-start bench/mnesia_put.exs [--keys 10000] [--rounds 3] [--seconds 2]
#
# 100 bytes under a random key, by 1, 8 and 64 processes that each wait for their `:ok`: our put, whose writers share
# a sync; a transaction and `mnesia:sync_log`, each writer its own, as mnesia offers it; our put with
# `durability: :async`, which is mnesia's transaction alone; and the disk's own rate.
Code.require_file("measure.exs", __DIR__)

defmodule MaculaStorage.Bench.MnesiaPut do
  @moduledoc false
  alias MaculaStorage.Bench.Measure
  alias MaculaStorage.Mnesia

  @app "bench"
  @clients [1, 8, 64]
  @sides [:shared, :own, :async, :append]

  def main(args) do
    known = [keys: :integer, rounds: :integer, seconds: :integer]
    {given, [], []} = OptionParser.parse(args, strict: known)
    options = Map.merge(%{keys: 10_000, rounds: 3, seconds: 2}, Map.new(given))
    Measure.main("macula_bench_mnesia", &run(&1, options))
  end

  defp run(base, options) do
    Measure.start(Path.join(base, "ours"))
    :ok = Mnesia.setup([node()])
    :ok = Mnesia.create_app_table(@app)

    for n <- 1..options.keys,
        do: :ok = Mnesia.put(@app, n, Measure.value(n), durability: :async)

    bench = %{base: base, options: options, keys: options.keys, rounds: options.rounds}

    for clients <- @clients do
      figures = Measure.rounds(bench, @sides, &ask(bench, clients, &1))
      print("put, #{Measure.clients(clients)}", figures)
    end

    :stopped = :mnesia.stop()
  end

  defp ask(bench, _clients, :append), do: Measure.syncs(bench, Measure.value_bytes(), 1)
  defp ask(_bench, clients, side), do: {clients, Measure.value_bytes(), 1, fn -> put(side) end}

  defp put(:shared), do: &Mnesia.put(@app, &1, Measure.value(&1))
  defp put(:async), do: &Mnesia.put(@app, &1, Measure.value(&1), durability: :async)

  defp put(:own) do
    fn n ->
      :ok = Mnesia.put(@app, n, Measure.value(n), durability: :async)
      :ok = :mnesia.sync_log()
    end
  end

  defp print(title, figures) do
    rows = for side <- @sides, f = figures[side], do: {name(side), f}
    Measure.print(title, "puts/s", rows)
  end

  defp name(:shared), do: "Mnesia.put"
  defp name(:own), do: "transaction + sync_log"
  defp name(:async), do: "Mnesia.put, durability: :async"
  defp name(:append), do: "append + fdatasync, 1 client"
end

MaculaStorage.Bench.MnesiaPut.main(System.argv())
