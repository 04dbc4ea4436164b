# How many small replicated files are written in a second?
#
#     mix run --no-start bench/meshfs_small.exs [--files 10000] [--bytes 4096] [--rounds 3] [--clients 1,8,64,256]
#
# Two BEAMs of one cluster on this machine, linked by mTLS over loopback; each write is durable on both. Clients are
# processes of the writing node, each of which writes one file after the other, a hundred in a directory. Beside it rsync
# of a tree of as many to a daemon on loopback, with each file synced and with none, and cp with one sync of all. Sides
# take turns in each round, and write to where nothing is; the median is compared. Nothing is removed before the end: see
# archive.exs.
for file <- ~w(rsync.exs meshfs_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.MeshFSSmall do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, MeshLoad, Nodes, Rsync, Tree}
  alias MaculaStorage.Operator.Text

  @rsyncs [
    {:synced, "rsync --fsync -a", ~w(--fsync -a)},
    {:unsynced, "rsync -a, no sync", ~w(-a)}
  ]

  def main(args) do
    known = [files: :integer, bytes: :integer, rounds: :integer, clients: :string]
    {given, [], []} = OptionParser.parse(args, strict: known)

    options =
      Map.merge(%{files: 10_000, bytes: 4096, rounds: 3, clients: "1,8,64,256"}, Map.new(given))

    Measure.main("macula_bench_mesh", &run(&1, options))
  end

  defp run(dir, options) do
    Measure.start(Path.join(dir, "controller"))
    tree = MeshLoad.make_tree(dir, 1..options.files, options.bytes)
    IO.puts("#{Text.count(options.files)} files of #{options.bytes} bytes")

    Rsync.run(dir, Path.join(dir, "received"), fn daemon ->
      Nodes.run(Path.join(dir, "pair"), fn place ->
        nodes = MeshLoad.cluster(place, 1..2)
        measured(%{dir: dir, tree: tree, daemon: daemon, nodes: nodes, options: options})
      end)
    end)
  end

  defp measured(bench) do
    clients = bench.options.clients |> String.split(",") |> Enum.map(&String.to_integer/1)
    ours = for n <- clients, do: {n, "MeshFS.write, ack: 1, #{Measure.clients(n)}"}
    rsyncs = if bench.daemon, do: for({side, name, _} <- @rsyncs, do: {side, name}), else: []
    sides = ours ++ rsyncs ++ [{:cp, "cp -r + sync"}]

    turns =
      for round <- 1..bench.options.rounds, {side, _} <- Measure.turned(sides, round) do
        Measure.settle(bench.dir)
        MeshLoad.fill_memory(bench.dir)
        turn = turn(side, bench, "#{side}-#{round}")
        {side, Map.put(turn, :rate, bench.options.files / turn.s)}
      end

    turns = Enum.group_by(turns, &elem(&1, 0), &elem(&1, 1))
    ours_figures = for {n, name} <- ours, do: {name, Measure.figures(turns[n])}
    [{_, base} | _] = ours_figures

    Measure.print(
      "write, #{bench.options.bytes} bytes",
      "files/s",
      ours_figures,
      {"to 1 client", base}
    )

    others = for {side, name} <- sides -- ours, do: {name, Enum.map(turns[side], & &1.rate)}
    print(others)
    spent(bench, for({n, name} <- ours, do: {name, turns[n]}))
    {best_name, best} = Enum.max_by(ours_figures, fn {_, figures} -> figures.rate end)

    Rsync.goals(
      for {name, rates} <- others, name == "rsync --fsync -a" do
        {"#{best_name}: of #{name}", best.rate / Tree.median(rates), 3, &Tree.times/1, :min}
      end
    )
  end

  defp print(others) do
    rows =
      for {name, rates} <- others do
        [name | Enum.map([Tree.median(rates), Enum.min(rates), Enum.max(rates)], &rate/1)]
      end

    IO.puts(["\n", Text.table([["beside it", "files/s", "slowest", "fastest"] | rows])])
  end

  defp rate(rate), do: Text.count(round(rate))

  defp spent(bench, turns) do
    us = fn turns, n ->
      Measure.decimals(
        1_000_000 * Tree.median(Enum.map(turns, &Enum.at(&1.cpu, n))) / bench.options.files,
        0
      )
    end

    rows = for {name, turns} <- turns, do: [name, us.(turns, 0), us.(turns, 1)]

    IO.puts([
      "\n",
      Text.table([["processor time for a file, us", "writer", "the other"] | rows])
    ])
  end

  defp turn(clients, bench, set) when is_integer(clients) do
    [writer | _] = bench.nodes
    before = Enum.map(bench.nodes, &Nodes.cpu_s/1)
    args = [set, 1..bench.options.files, bench.options.bytes, clients, [ack: 1]]
    turn = MeshLoad.on(writer, :write_set, args)
    MeshLoad.done(bench.nodes)
    cpu = bench.nodes |> Enum.map(&Nodes.cpu_s/1) |> Enum.zip_with(before, &(&1 - &2))
    Map.put(turn, :cpu, cpu)
  end

  defp turn(:cp, bench, set) do
    to = Path.join(bench.dir, set)

    {_, s} =
      Tree.timed(fn ->
        Tree.run!("cp", ["-r", bench.tree, to])
        Tree.run!("sync", ["-f", to])
      end)

    %{s: s}
  end

  defp turn(side, bench, set) do
    {_, _, options} = List.keyfind(@rsyncs, side, 0)
    {_, s} = Tree.timed(fn -> Rsync.send!(bench.daemon, options, bench.tree <> "/", set) end)
    %{s: s}
  end
end

MaculaStorage.Bench.MeshFSSmall.main(System.argv())
