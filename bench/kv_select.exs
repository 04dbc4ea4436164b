# How fast are 1,000 consecutive entries read?
#
#     mix run --no-start bench/kv_select.exs [--keys 100000] [--rounds 3] [--seconds 2] [--only ours,ets] [--cache-mb 16]
#
# Keys are `{group, number}` with 1,000 numbers in each group; one call reads a random group into a list, by 1
# and 8 processes. ETS and Mnesia (ordered_set) get the group as a part of the key, which makes the range one
# walk in their trees. DETS and bitcask have no order and no part.
Code.require_file("kv.exs", __DIR__)

defmodule MaculaStorage.Bench.KvSelect do
  @moduledoc false

  alias MaculaStorage.Bench.{Kv, Measure}

  @group 1000
  @clients [1, 8]

  def main(args) do
    settings = [seconds: 2, fill: {:ordered, &{div(&1, @group), rem(&1, @group)}}]
    Kv.main(args, ~w(ours ets mnesia cubdb), settings, &run/1)
  end

  defp run(bench) do
    IO.puts("without DETS and bitcask: no order")
    groups = div(bench.keys, @group)
    if groups == 0, do: raise("--keys #{bench.keys}: at least #{@group}")

    for clients <- @clients do
      measured = Kv.measure(bench, clients, @group, &select(&1, &2, groups))
      Kv.print(bench, "select of #{@group}, #{Measure.clients(clients)}", measured)
    end
  end

  defp select(side, store, groups) do
    fn n -> @group = length(side.select(store, rem(n, groups), @group)) end
  end
end

MaculaStorage.Bench.KvSelect.main(System.argv())
