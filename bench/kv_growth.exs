# How large does a store grow that is overwritten while somebody reads for long, and does the space come back?
#
#     mix run --no-start bench/kv_growth.exs [--keys 100000] [--seconds 30] [--after-seconds 60] [--only ours] [--cache-mb 16]
#
# One process overwrites random keys by put_multi, another by put, both durable and without pause. Meanwhile
# a lazy select of everything has been begun and is held; after `--seconds` it reads on to its end, which
# must be what it was when it began, and the writers go on for `--after-seconds`; at last nobody writes.
#
# Bytes are those that the disk gave (du), beside keys and values; over `--max-gb` (20) nobody writes any more.
# Sides follow each other; CubDB compacts by itself here.
Code.require_file("kv.exs", __DIR__)

defmodule MaculaStorage.Bench.KvGrowth do
  @moduledoc false

  alias MaculaStorage.Bench.{Kv, Measure, Tree}
  alias MaculaStorage.Operator.Text

  @multi 100
  @samples 6
  @idle_s 10

  def main(args) do
    settings = [
      seconds: 30,
      after_seconds: 60,
      max_gb: 20,
      strict: [after_seconds: :integer, max_gb: :integer]
    ]

    Kv.main(args, ~w(ours cubdb), settings, &run/1)
  end

  defp run(bench) do
    IO.puts("without DETS, Mnesia and bitcask: no lazy read of one state")

    for {side, store} <- bench.stores do
      if side == Kv.side("cubdb"), do: apply(CubDB, :set_auto_compact, [store, true])
      head = ["#{side.name()}", "files", "to live data", "overwritten", "longest put"]
      IO.puts(["\n", Text.table([head ++ ["longest put_multi"] | rows(bench, side, store)])])
      if side == Kv.side("cubdb"), do: apply(CubDB, :set_auto_compact, [store, false])
    end
  end

  defp rows(bench, side, store) do
    # of its load
    Measure.settle(bench.base)
    before = sample(bench, side, "before", 0, nil)
    parent = self()
    reader = Task.async(fn -> read(side, store, parent) end)

    receive do
      {:holds, pid} when pid == reader.pid -> :ok
    end

    {held, entries} = phase(bench, side, store, bench.options.seconds, 0, "held")
    send(reader.pid, :read_on)
    IO.puts(["\n#{side.name()}'s reader ended: ", Task.await(reader, :infinity)])

    {let_go, entries} =
      phase(bench, side, store, bench.options.after_seconds, entries, "reader ended")

    Process.sleep(@idle_s * 1000)
    [before] ++ held ++ let_go ++ [sample(bench, side, "idle #{@idle_s} s", entries, nil)]
  end

  defp phase(bench, side, store, seconds, entries, label) do
    every = max(div(seconds, @samples), 1)

    Enum.map_reduce(1..max(div(seconds, every), 1), entries, fn at, entries ->
      longest = write(bench, side, store, every)
      entries = entries + if(longest, do: longest.entries, else: 0)
      {sample(bench, side, "#{label} #{at * every} s", entries, longest), entries}
    end)
  end

  defp write(bench, side, store, seconds) do
    if bytes(bench, side) < bench.options.max_gb * 1_000_000_000 do
      write_both(bench, side, store, seconds)
    else
      Process.sleep(seconds * 1000)
      nil
    end
  end

  # Two kinds of writers at the same time, one of each.
  defp write_both(bench, side, store, seconds) do
    put = fn n -> side.put(store, Kv.key(n), Kv.value(n)) end
    put_multi = fn n -> side.put_multi(store, some(n, bench.keys)) end

    [one, many] =
      [put, put_multi]
      |> Enum.map(fn write ->
        Task.async(fn -> Measure.turn(1, seconds, bench.keys, fn -> write end) end)
      end)
      |> Task.await_many(:infinity)

    %{
      entries: one.calls + many.calls * @multi,
      put_us: longest_us(one),
      put_multi_us: longest_us(many)
    }
  end

  defp longest_us(turn), do: Measure.figures([Map.put(turn, :rate, 0)]).max_us

  # Scattered by the keys themselves.
  defp some(n, keys) do
    for at <- 0..(@multi - 1) do
      n = rem(n + at * 7919, keys)
      {Kv.key(n), Kv.value(n)}
    end
  end

  defp sample(bench, side, label, entries, longest) do
    bytes = bytes(bench, side)

    [
      label,
      Text.bytes(bytes),
      Tree.times(bytes / (bench.keys * Kv.entry_bytes())),
      "#{Text.count(entries)} (#{Tree.times(entries / bench.keys)})",
      if(longest, do: Measure.duration(longest.put_us), else: ""),
      if(longest, do: Measure.duration(longest.put_multi_us), else: "")
    ]
  end

  # A file may go while du looks at it.
  defp bytes(bench, side) do
    du = Tree.run!("sh", ["-c", "du -s -B1 \"$0\" 2>&- || :", Kv.dir(bench, side)])
    du |> String.split() |> hd() |> String.to_integer()
  end

  # What it saw at once must be what it sees when it was held.
  defp read(side, store, parent) do
    expected = Enum.reduce(side.stream(store), {0, 0}, &seen/2)

    hold = fn
      entry, :first -> {:suspend, seen(entry, {0, 0})}
      entry, seen -> {:cont, seen(entry, seen)}
    end

    {:suspended, first, read_on} = Enumerable.reduce(side.stream(store), {:cont, :first}, hold)
    send(parent, {:holds, self()})

    receive do
      :read_on -> :ok
    end

    case read_on.({:cont, first}) do
      {_, ^expected} -> "#{Text.count(elem(expected, 0))} entries, as they were"
      {_, {count, _}} -> "WRONG: #{count} entries, expected #{elem(expected, 0)} others"
    end
  rescue
    error -> "it was not let read on: #{Exception.message(error)}"
  end

  defp seen({key, value}, {count, hash}), do: {count + 1, :erlang.phash2({hash, key, value})}
end

MaculaStorage.Bench.KvGrowth.main(System.argv())
