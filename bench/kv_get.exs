# How fast is a get of a random key?
#
#     mix run --no-start bench/kv_get.exs [--keys 100000] [--rounds 3] [--seconds 1] [--only ours,ets] [--cache-mb 16]
#
# 100-byte values by 1 and 64 processes, each key and value looked at; then 100 keys in one call. ETS shows
# what memory alone does in the same loop. The loop itself (random number, key, clock) is measured as a
# side of its own, and `net of loop` is what a get costs without it, on average over all processes together.
#
# How much of the store its cache holds decides the figures of a large one: the cache's size is printed, and
# what the store tells of its hits, if it does.
Code.require_file("kv.exs", __DIR__)

defmodule MaculaStorage.Bench.KvGet do
  @moduledoc false

  alias MaculaStorage.Bench.{Kv, Measure}
  alias MaculaStorage.Bench.Kv.Ours

  @clients [1, 64]
  @multi 100
  @large 1_000_003

  def main(args), do: Kv.main(args, ~w(ours ets dets mnesia bitcask cubdb), [], &run/1)

  defp run(bench) do
    unless stats(bench), do: IO.puts("without our cache's hit rate: the store does not tell it")

    for clients <- @clients do
      told(bench, fn ->
        measured = Kv.measure(bench, clients, 1, &get/2, [:loop])
        Kv.print(bench, "get, #{Measure.clients(clients)}", measured)
      end)
    end

    told(bench, fn ->
      measured = Kv.measure(bench, 1, @multi, &get_multi(&1, &2, bench.keys), [:loop])
      Kv.print(bench, "get_multi of #{@multi}", measured)
    end)
  end

  defp get(:loop, _store), do: fn n -> <<"user", _::binary>> = Kv.key(n) end

  defp get(side, store) do
    fn n -> <<^n::64, _::binary>> = side.get(store, Kv.key(n)) end
  end

  defp get_multi(:loop, _store, keys), do: fn n -> @multi = length(some(n, keys)) end

  defp get_multi(side, store, keys) do
    fn n -> @multi = Enum.count(side.get_multi(store, some(n, keys))) end
  end

  # Different ones, far from each other.
  defp some(n, keys), do: for(at <- 0..(@multi - 1), do: Kv.key(rem(n + at * @large, keys)))

  # What the store's own counters say of the gets in between.
  defp told(bench, work) do
    before = stats(bench)
    work.()
    told = stats(bench)

    with %{cache_hits: hits_before, cache_misses: misses_before} <- before,
         %{cache_hits: hits, cache_misses: misses} <- told,
         asked when asked > 0 <- hits - hits_before + misses - misses_before do
      IO.puts("ours: #{Float.round(100 * (hits - hits_before) / asked, 1)} % from its cache")
    else
      _ -> told && IO.puts("ours: #{inspect(told, limit: :infinity)}")
    end
  end

  defp stats(bench) do
    with {_, app} <- List.keyfind(bench.stores, Ours, 0), do: Ours.stats(app)
  end
end

MaculaStorage.Bench.KvGet.main(System.argv())
