# What does a large replicated state cost: memory, a restart, a new node?
#
#     mix run --no-start bench/state_large.exs [--keys 1000000] [--bytes 1024] [--batch 10]
#
# Three BEAMs as in state_cluster.exs, filled with values that do not compress, so many keys in one transaction. Memory
# of each OS process, with the BEAM's own; a follower killed (SIGKILL) and started again, and all three at once, until
# they serve; a fourth node that joins, until it votes, which it does when it has caught up. It takes about ten times
# the size of the state on the disk.
for file <- ~w(nodes.exs state_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.StateLarge do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, Nodes, StateLoad, Tree}
  alias MaculaStorage.Operator.Text

  @join_ms 3_600_000

  def main(args) do
    {given, [], []} =
      OptionParser.parse(args, strict: [keys: :integer, bytes: :integer, batch: :integer])

    options = Map.merge(%{keys: 1_000_000, bytes: 1_024, batch: 10}, Map.new(given))
    Measure.main("macula_bench_large", &run(&1, options))
  end

  defp run(dir, options) do
    Measure.start(Path.join(dir, "controller"))

    Nodes.run(dir, fn place ->
      nodes = Nodes.start_all(place, 1..3)
      memory("empty", nodes)
      Nodes.form(nodes)
      StateLoad.load(nodes)
      fill(nodes, options)
      memory("filled", nodes)

      {_leader, [follower | _]} = Nodes.leader(nodes)
      [back] = restarted(place, [follower], options, "a follower")
      others = Enum.reject(nodes, &(&1.n == back.n))
      nodes = restarted(place, [back | others], options, "all three at once")
      memory("restarted", nodes)
      newcomer = joined(place, nodes, options)
      memory("joined", [newcomer])
    end)
  end

  defp fill([_ | _] = nodes, options) do
    {leader, followers} = Nodes.leader(nodes)
    args = [options.keys, options.bytes, options.batch]
    {:ok, s} = Tree.timed(fn -> Nodes.call(leader, StateLoad, :fill_large, args) end)
    {_, behind_s} = Tree.timed(fn -> Enum.each(followers, &Nodes.caught_up(&1, leader)) end)
    {:ok, %{live_bytes: live_bytes}} = Nodes.khepri(leader, :status)

    IO.puts([
      "filled: #{Text.count(options.keys)} keys of #{options.bytes} bytes in #{Tree.seconds(s)}, ",
      "#{Text.count(round(options.keys / s))} keys/s in transactions of #{options.batch}, followers even #{Tree.seconds(behind_s)} ",
      "later; #{Text.bytes(live_bytes)} live, #{disk(leader)} on the disk of each"
    ])
  end

  defp disk(node) do
    dir = Path.join(Nodes.base(node.place, node.n), "state/raft")
    [kib | _] = Tree.run!("du", ["-sk", dir]) |> String.split()
    Text.bytes(1024 * String.to_integer(kib))
  end

  defp memory(when?, nodes) do
    told =
      for node <- nodes do
        {all, anonymous} = Nodes.memory(node)
        "#{Text.bytes(all)} (#{Text.bytes(anonymous)} of it no file's)"
      end

    IO.puts("memory, #{when?}: #{Enum.join(told, ", ")} (200 MB at most with 1 M keys)")
  end

  # From the start of the OS process, and from that of the application: what is ours.
  defp restarted(place, nodes, options, who) do
    Enum.each(nodes, &Nodes.kill/1)
    last = options.keys - 1

    told =
      nodes
      |> Enum.map(&Task.async(fn -> serving(place, &1.n, last) end))
      |> Task.await_many(:infinity)

    for {_node, line} <- told, do: IO.puts(["restart of #{who}, ", line])
    nodes = for {node, _} <- told, do: node
    # at another's side they find each other by distribution
    names = Enum.map(nodes, & &1.name)

    {_, s} =
      Tree.timed(fn ->
        peers = running(place)
        for node <- nodes, peer <- peers, do: Nodes.call(node, Node, :connect, [peer.name])

        Nodes.until("a linearizable get on #{inspect(names)}", fn ->
          linearizable?(nodes, last)
        end)
      end)

    IO.puts("restart of #{who}: a linearizable get answers on each #{Tree.seconds(s)} later")
    Enum.sort_by(nodes, & &1.n)
  end

  defp running(place), do: for({_n, node} <- :ets.tab2list(place.running), do: node)

  defp linearizable?(nodes, last) do
    Enum.all?(nodes, &match?({:ok, _}, Nodes.khepri(&1, :get, [["bench", last]])))
  end

  # It serves when it answers; what was not in its table yet is there once somebody leads.
  defp serving(place, n, last) do
    began_ns = StateLoad.now_ns()
    node = Nodes.boot(place, n)
    booted_ns = StateLoad.now_ns()
    Nodes.start(node)
    read = fn -> Nodes.khepri(node, :get, [["bench", last], [consistency: :local]]) end
    first = read.()

    unless match?({:ok, _}, first) or first == {:error, :not_found},
      do: raise("#{inspect(first)}")

    serving_ns = StateLoad.now_ns()
    Nodes.until("the last key on #{node.name}", fn -> match?({:ok, _}, read.()) end)
    whole_ns = StateLoad.now_ns()
    seconds = fn from_ns, until_ns -> Tree.seconds((until_ns - from_ns) / 1_000_000_000) end

    told = [
      "#{node.name}: serves local gets after #{seconds.(booted_ns, serving_ns)} (2 s at most with 1 M keys), ",
      "#{seconds.(began_ns, serving_ns)} with the BEAM's own start; has the last key after ",
      seconds.(booted_ns, whole_ns)
    ]

    {node, told}
  end

  defp joined(place, nodes, options) do
    {leader, _} = Nodes.leader(nodes)
    [newcomer] = Nodes.start_all(place, [4])

    {:ok, s} =
      Tree.timed(fn -> Nodes.khepri(newcomer, :join, [leader.name, [timeout: @join_ms]]) end)

    StateLoad.load([newcomer])

    for n <- [0, div(options.keys, 2), options.keys - 1],
        do: true = Nodes.call(newcomer, StateLoad, :has?, [n, :local])

    {:ok, %{nodes: count}} = Nodes.khepri(newcomer, :status)
    bytes = options.keys * options.bytes

    IO.puts([
      "a fourth node joined and votes after #{Tree.seconds(s)}, #{Text.count(count)} nodes: ",
      "#{Tree.rate(bytes, s)} (50 MB/s at least with 1 M keys)"
    ])

    newcomer
  end
end

MaculaStorage.Bench.StateLarge.main(System.argv())
