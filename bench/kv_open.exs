# How long after a kill does a store answer again?
#
#     mix run --no-start bench/kv_open.exs [--keys 100000] [--rounds 3] [--seconds 2] [--only ours,dets] [--cache-mb 16]
#
# A VM of its own fills the store, and overwrites it from 8 processes until it is killed with SIGKILL. In
# the next VM the clock runs from the call that opens the store to the answer of its first get, with
# applications started and code loaded before (Mnesia loads its tables when it starts, so its start counts).
# Each round kills it again, and opens what that left behind.
Code.require_file("kv.exs", __DIR__)

defmodule MaculaStorage.Bench.KvOpen do
  @moduledoc false

  alias MaculaStorage.Bench.{Kv, Measure, Tree}
  alias MaculaStorage.Operator.Text

  @script __ENV__.file
  @clients 8
  # Longer than any parent waits.
  @for_ever_s 1_000_000
  @line_bytes_max 10_000

  def main(["child" | args]), do: child(args)

  def main(args) do
    Kv.main(args, ~w(ours dets mnesia bitcask cubdb), [seconds: 2, fill: nil], &run/1)
  end

  defp run(bench) do
    rows = for {side, _} <- bench.stores, do: row(bench, side)
    head = ["open after SIGKILL", "median", "range", "entries written before each"]
    IO.puts(["\n", Text.table([head | rows])])
  end

  defp row(bench, side) do
    rounds = for round <- 1..bench.rounds, do: round(bench, side, round)
    {opened_us, written} = Enum.unzip(rounds)

    [
      side.name(),
      Measure.duration(Tree.median(opened_us)),
      "#{Measure.duration(Enum.min(opened_us))} to #{Measure.duration(Enum.max(opened_us))}",
      Enum.map_join(written, ", ", &Text.count/1)
    ]
  end

  defp round(bench, side, round) do
    writer = start(bench, side, if(round == 1, do: "fill", else: "write"))
    "writing" = told(writer)
    Process.sleep(bench.options.seconds * 1000)
    written = kill(writer)

    opener = start(bench, side, "open")
    "opened " <> us = told(opener)
    # Killed too: what ends by itself ends later, and holds the store until then.
    kill(opener)
    {String.to_integer(us), written}
  end

  defp start(bench, side, what) do
    dir = Kv.dir(bench, side)
    ebin = MaculaStorage |> :code.which() |> Path.dirname()
    own = ["child", what, Path.basename(dir), dir <> "_killed", "#{bench.keys}"]
    cache = if mb = bench.options.cache_mb, do: ["#{mb}"], else: []

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      {:line, @line_bytes_max},
      {:args, ["-pa", ebin, @script] ++ own ++ cache}
    ])
  end

  # What a child says is marked, because rivals say things too.
  defp told(port) do
    receive do
      {^port, {:data, {:eol, "bench: " <> line}}} -> line
      {^port, {:data, _}} -> told(port)
      {^port, {:exit_status, status}} -> raise "a child ended with status #{status}"
    end
  end

  # elixir, erl and erlexec each exec the next, so the port's process is the VM itself. What it said last is
  # how many entries it had written.
  defp kill(port) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {_, 0} = System.cmd("sh", ["-c", "kill -s KILL #{os_pid}"])
    written(port, 0)
  end

  defp written(port, last) do
    receive do
      {^port, {:data, {:eol, "bench: " <> count}}} -> written(port, String.to_integer(count))
      {^port, {:data, _}} -> written(port, last)
      {^port, {:exit_status, _}} -> last
    end
  end

  defp child([what, name, dir, keys | cache]) do
    # It does not outlive its parent, whose end closes this.
    spawn(fn -> IO.read(:stdio, :line) && System.halt(1) end)
    cache_mb = if cache != [], do: String.to_integer(hd(cache))
    Kv.start(Path.join(dir, "base"), %{cache_mb: cache_mb})
    File.mkdir_p!(Path.join(dir, "store"))
    child(what, Kv.side(name), Path.join(dir, "store"), String.to_integer(keys))
  end

  defp child("open", side, dir, keys) do
    load(side)
    n = :rand.uniform(keys) - 1
    began = System.monotonic_time(:microsecond)
    store = side.open(dir, :hash, keys)
    <<^n::64, _::binary>> = side.get(store, Kv.key(n))
    say("opened #{System.monotonic_time(:microsecond) - began}")
    Process.sleep(:infinity)
  end

  defp child(what, side, dir, keys) do
    store = side.open(dir, :hash, keys)
    store = if what == "fill", do: Kv.fill(side, store, keys, &Kv.key/1), else: store
    count = :counters.new(1, [])
    say("writing")
    spawn_link(fn -> count(count) end)

    Measure.turn(@clients, @for_ever_s, keys, fn ->
      store = side.client(store)

      fn n ->
        side.put(store, Kv.key(n), Kv.value(n))
        :counters.add(count, 1, 1)
      end
    end)
  end

  defp count(count) do
    say("#{:counters.get(count, 1)}")
    Process.sleep(50)
    count(count)
  end

  defp say(line), do: IO.puts("bench: #{line}")

  # All of a side's code, from where a part of it is.
  defp load(side) do
    for module <- side.modules(),
        beam <- Path.wildcard(Path.join(Path.dirname(:code.which(module)), "*.beam")),
        do:
          {:module, _} =
            beam |> Path.basename(".beam") |> String.to_atom() |> Code.ensure_loaded()
  end
end

MaculaStorage.Bench.KvOpen.main(System.argv())
