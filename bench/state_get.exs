# How fast is a local get of the replicated state?
#
#     mix run --no-start bench/state_get.exs [--keys 10000] [--rounds 3] [--seconds 1]
#
# 100-byte values under `[:bench, n]`, by 1 and 64 processes: the public get; what is beneath it on the caller's
# scheduler and, as all local gets were before, on a dirty I/O one; an ETS lookup in the same loop; and the loop
# itself. Ratios say more than rates where others are at work on the machine.
Code.require_file("measure.exs", __DIR__)

defmodule MaculaStorage.Bench.StateGet do
  @moduledoc false
  alias MaculaStorage.{Apps, Khepri, Native}
  alias MaculaStorage.Bench.Measure
  alias MaculaStorage.Khepri.Wire

  @clients [1, 64]
  @sides [:get, :hot, :dirty, :ets, :loop]
  @putters 64

  def main(args) do
    known = [keys: :integer, rounds: :integer, seconds: :integer]
    {given, [], []} = OptionParser.parse(args, strict: known)
    options = Map.merge(%{keys: 10_000, rounds: 3, seconds: 1}, Map.new(given))
    Measure.main("macula_bench_state", &run(&1, options))
  end

  defp run(base, options) do
    Measure.start(Path.join(base, "ours"))
    table = :ets.new(:bench, [:set, :public, read_concurrency: true])
    fill(table, options.keys)
    {:ok, state} = Apps.with_state(&{:ok, &1})
    bench = %{base: base, options: options, keys: options.keys, rounds: options.rounds}

    for clients <- @clients do
      ask = fn side -> {clients, Measure.value_bytes(), 1, fn -> call(side, table, state) end} end
      print("get, #{Measure.clients(clients)}", Measure.rounds(bench, @sides, ask))
    end

    :ok = Khepri.close()
  end

  # Each key is read once, so that what was just written counts as any other.
  defp fill(table, keys) do
    put = fn n ->
      value = Measure.value(n)
      true = :ets.insert(table, {[:bench, n], value})
      :ok = Khepri.put([:bench, n], value)
      {:ok, ^value} = Khepri.get([:bench, n], consistency: :local)
    end

    0..(keys - 1)
    |> Task.async_stream(put, max_concurrency: @putters, timeout: :infinity)
    |> Stream.run()
  end

  defp call(:get, _table, _state) do
    fn n -> {:ok, <<^n::64, _::binary>>} = Khepri.get([:bench, n], consistency: :local) end
  end

  defp call(:hot, _table, state),
    do: fn n -> native(n, Native.state_query_hot(state, {:get, Wire.path!([:bench, n])}, nil)) end

  defp call(:dirty, _table, state),
    do: fn n -> native(n, Native.state_query_here(state, {:get, Wire.path!([:bench, n])})) end

  defp call(:ets, table, _state) do
    fn n -> [{_, <<^n::64, _::binary>>}] = :ets.lookup(table, [:bench, n]) end
  end

  defp call(:loop, _table, _state), do: fn n -> [:bench, ^n] = [:bench, n] end

  defp native(n, {:ok, node}), do: <<^n::64, _::binary>> = Wire.term(elem(node, 0))

  defp print(title, figures) do
    rows = for side <- @sides, f = figures[side], do: {name(side), f}
    Measure.print(title, "gets/s", rows, {"to ETS", figures.ets})
  end

  defp name(:get), do: "Khepri.get, local"
  defp name(:hot), do: "state_query_hot"
  defp name(:dirty), do: "state_query_here (dirty io)"
  defp name(:ets), do: ":ets.lookup"
  defp name(:loop), do: "the loop"
end

MaculaStorage.Bench.StateGet.main(System.argv())
