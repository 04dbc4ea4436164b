# How many durable puts a second into the replicated state of a node that is alone?
#
#     mix run --no-start bench/state_put.exs [--keys 10000] [--rounds 3] [--seconds 2]
#
# 100 bytes under a random path of two names, by 1, 8 and 64 processes that each wait for their `:ok`; beside them a synced
# put of the key-value store of one app, and the disk's own rate of 100 bytes appended and synced, one after the other.
Code.require_file("measure.exs", __DIR__)

defmodule MaculaStorage.Bench.StatePut do
  @moduledoc false
  alias MaculaStorage.Bench.Measure
  alias MaculaStorage.{CubDB, Khepri}

  @clients [1, 8, 64]
  @sides [:state, :key_value, :append]

  def main(args) do
    known = [keys: :integer, rounds: :integer, seconds: :integer]
    {given, [], []} = OptionParser.parse(args, strict: known)
    options = Map.merge(%{keys: 10_000, rounds: 3, seconds: 2}, Map.new(given))
    Measure.main("macula_bench_state", &run(&1, options))
  end

  defp run(base, options) do
    Measure.start(Path.join(base, "ours"))
    bench = %{base: base, options: options, keys: options.keys, rounds: options.rounds}

    for clients <- @clients do
      figures = Measure.rounds(bench, @sides, &ask(bench, clients, &1))
      print("put, #{Measure.clients(clients)}", figures)
    end
  end

  defp ask(bench, _clients, :append), do: Measure.syncs(bench, Measure.value_bytes(), 1)
  defp ask(_bench, clients, side), do: {clients, Measure.value_bytes(), 1, fn -> put(side) end}

  defp put(:state), do: &Khepri.put([:bench, &1], Measure.value(&1))
  defp put(:key_value), do: &CubDB.put("bench", &1, Measure.value(&1))

  defp print(title, figures) do
    rows = for side <- @sides, f = figures[side], do: {name(side), f}
    Measure.print(title, "puts/s", rows)
  end

  defp name(:state), do: "Khepri.put, one node"
  defp name(:key_value), do: "CubDB.put"
  defp name(:append), do: "append + fdatasync, 1 client"
end

MaculaStorage.Bench.StatePut.main(System.argv())
