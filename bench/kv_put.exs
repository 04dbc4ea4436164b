# How fast is a durable put into a store that already holds entries?
#
#     mix run --no-start bench/kv_put.exs [--keys 100000] [--rounds 3] [--seconds 1] [--only ours,dets] [--cache-mb 16]
#
# 100 bytes under a random key of those that are there, by 1, 8 and 64 processes that each wait for their
# `:ok`; then 1,000 entries in one call. Beside the figures stands the disk's own rate, measured in the same
# run: the same bytes appended to one file, and fdatasync. More puts a second than that means shared syncs.
#
# `written/byte` is what went to the device (from anybody: an idle machine) for each byte of key and value,
# until it was quiet again.
Code.require_file("kv.exs", __DIR__)

defmodule MaculaStorage.Bench.KvPut do
  @moduledoc false
  import Bitwise

  alias MaculaStorage.Bench.{Kv, Measure}
  alias MaculaStorage.Operator.Text

  @clients [1, 8, 64]
  @multi 1000
  @batches 32

  def main(args), do: Kv.main(args, ~w(ours dets mnesia bitcask cubdb), [], &run/1)

  defp run(bench) do
    for clients <- @clients do
      measured = Kv.measure(bench, clients, 1, &put/2, [:sync])
      Kv.print(bench, "put, #{Measure.clients(clients)}", measured)
    end

    measured = Kv.measure(bench, 1, @multi, &put_multi(&1, &2, bench.keys), [:sync])
    Kv.print(bench, "put_multi of #{Text.count(@multi)}", measured)
  end

  defp put(side, store), do: fn n -> side.put(store, Kv.key(n), Kv.value(n)) end

  # Made before the clock runs. Each batch comes in two, used by turns: what is there already is not put again.
  defp put_multi(side, store, keys) do
    used = :counters.new(@batches, [])
    batches = for at <- 1..@batches, into: %{}, do: {at, twice(@multi, keys)}

    fn n ->
      at = rem(n, @batches) + 1
      :counters.add(used, at, 1)
      side.put_multi(store, elem(Map.fetch!(batches, at), :counters.get(used, at) &&& 1))
    end
  end

  defp twice(entries, keys) do
    numbers = for _ <- 1..entries, do: :rand.uniform(keys) - 1
    {Enum.map(numbers, &entry/1), Enum.map(numbers, &entry/1)}
  end

  defp entry(n), do: {Kv.key(n), Kv.value(n)}
end

MaculaStorage.Bench.KvPut.main(System.argv())
