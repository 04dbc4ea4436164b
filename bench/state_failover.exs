# The leader is killed: how long until writes are answered again?
#
#     mix run --no-start bench/state_failover.exs [--rounds 10] [--clients 4]
#
# Three BEAMs as in state_cluster.exs, at default settings. Clients on a survivor put all the time. Each round kills the
# leader's OS process (SIGKILL) and takes the time from just before that until the first `:ok` of a put that began
# when it was gone. What was killed is started again, and has to vote and have caught up before the next round.
for file <- ~w(nodes.exs state_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.StateFailover do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, Nodes, StateLoad, Tree}

  @keys 1_000
  # Others' clocks run from then on: a leader that was just elected is none that failed over in peace.
  @calm_ms 2_000

  def main(args) do
    {given, [], []} = OptionParser.parse(args, strict: [rounds: :integer, clients: :integer])
    options = Map.merge(%{rounds: 10, clients: 4}, Map.new(given))
    Measure.main("macula_bench_failover", &run(&1, options))
  end

  defp run(dir, options) do
    Measure.start(Path.join(dir, "controller"))

    Nodes.run(dir, fn place ->
      nodes = Nodes.start_all(place, 1..3)
      Nodes.form(nodes)
      StateLoad.load(nodes)

      {_nodes, rounds} =
        Enum.reduce(1..options.rounds, {nodes, []}, fn round, {nodes, done} ->
          {nodes, ms} = round(place, nodes, round, options)
          {nodes, [ms | done]}
        end)

      IO.puts([
        "\nwrites again after: median #{Measure.decimals(Tree.median(rounds), 0)} ms (450 at most), ",
        "worst #{Measure.decimals(Enum.max(rounds), 0)} ms of #{options.rounds} (1,000 at most)"
      ])
    end)
  end

  defp round(place, nodes, round, options) do
    Process.sleep(@calm_ms)
    {leader, [survivor | _] = survivors} = Nodes.leader(nodes)
    Nodes.call(survivor, StateLoad, :write_on, [options.clients, @keys])
    # they write
    {_, _} = Nodes.call(survivor, StateLoad, :written_after, [StateLoad.now_ns()])

    killed_ns = StateLoad.now_ns()
    :ok = Nodes.kill(leader)
    gone_ns = StateLoad.now_ns()
    {answered_ns, failed} = Nodes.call(survivor, StateLoad, :written_after, [gone_ns])
    ms = (answered_ns - killed_ns) / 1_000_000
    :ok = Nodes.call(survivor, StateLoad, :write_off, [])

    {again_ms, back} = back(place, leader, survivor)

    IO.puts([
      "round #{round}: #{leader.name} led and was killed, writes again after #{Measure.decimals(ms, 0)} ms",
      if(failed == %{}, do: "", else: ", failed #{inspect(failed)}"),
      "; it was back and even after #{again_ms} ms"
    ])

    {Enum.sort_by([back | survivors], & &1.n), ms}
  end

  defp back(place, killed, survivor) do
    began = System.monotonic_time(:millisecond)
    [back] = Nodes.start_all(place, [killed.n])
    :ok = Nodes.khepri(back, :start, [Enum.map([back, survivor], & &1.name)])
    Nodes.caught_up(back, survivor)
    again_ms = System.monotonic_time(:millisecond) - began
    StateLoad.load([back])
    {again_ms, back}
  end
end

MaculaStorage.Bench.StateFailover.main(System.argv())
