# How soon do two members know the same again after one was away, and what do many files cost?
#
#     mix run --no-start bench/meshfs_reconcile.exs [--files 100000] [--bytes 16] [--changes 100] [--kill]
#
# Two BEAMs of one cluster on this machine, linked by mTLS over loopback, with so many files on both. Then each is alone
# in turn: a fifth of the changes are written on the second while the first is away, the others on the first while the
# second is. It is started again, and the clock runs from the start of our application there, on a BEAM that is up, until
# both have the same version of each changed file, here, and nothing to tell or to fetch. What travels is what the kernel
# counts on loopback: nothing else may run. With `--kill` members go by SIGKILL.
for file <- ~w(rsync.exs meshfs_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.MeshFSReconcile do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, MeshLoad, Nodes, Rsync, Tree}
  alias MaculaStorage.Operator.Text

  @clients 256
  # two comparisons of each with the other
  @idle_ms 32_000
  @look_ms 20

  def main(args) do
    known = [files: :integer, bytes: :integer, changes: :integer, kill: :boolean]
    {given, [], []} = OptionParser.parse(args, strict: known)

    options = Map.merge(%{files: 100_000, bytes: 16, changes: 100, kill: false}, Map.new(given))

    Measure.main("macula_bench_mesh", &run(&1, options))
  end

  defp run(dir, options) do
    Measure.start(Path.join(dir, "controller"))

    Nodes.run(dir, fn place ->
      nodes = MeshLoad.cluster(place, 1..2)
      told("empty", nodes)
      fill(nodes, options)
      told("filled", nodes)
      idle(nodes)
      told("idle", nodes)
      listed(hd(nodes))
      nodes = parted(place, nodes, options)
      told("after that", nodes)
    end)
  end

  defp fill([writer | _] = nodes, options) do
    args = ["all", 1..options.files, options.bytes, @clients, [ack: :local]]
    turn = MeshLoad.on(writer, :write_set, args)
    {_, behind_s} = Tree.timed(fn -> MeshLoad.done(nodes) end)

    IO.puts([
      "filled: #{Text.count(options.files)} files of #{options.bytes} bytes by #{Measure.clients(@clients)} on one ",
      "in #{Tree.seconds(turn.s)}, #{Text.count(round(options.files / turn.s))} a second; the other has all ",
      "#{Tree.seconds(behind_s)} later"
    ])

    Nodes.until("both list all", fn ->
      Enum.all?(
        Nodes.call_all(nodes, MeshLoad, :list, []),
        fn {count, _s} -> count == options.files end
      )
    end)
  end

  defp told(when?, nodes) do
    memory = for node <- nodes, {all, _} = Nodes.memory(node), do: Text.bytes(all)
    index = for node <- nodes, do: Text.bytes(MeshLoad.index_bytes(node))

    IO.puts(
      "#{when?}: memory #{Enum.join(memory, " and ")}, index on the disk #{Enum.join(index, " and ")}"
    )
  end

  defp idle(nodes) do
    Measure.settle(hd(nodes).place.dir)
    before = Enum.map(nodes, &Nodes.cpu_s/1)
    bytes = Rsync.traffic_of_others(@idle_ms)
    cpu = nodes |> Enum.map(&Nodes.cpu_s/1) |> Enum.zip_with(before, &(&1 - &2))

    IO.puts([
      "loopback while nothing is done: #{Text.bytes(bytes * 1000 / @idle_ms)}/s; ",
      "processor time of each #{Enum.map_join(cpu, " and ", &"#{Measure.decimals(100 * 1000 * &1 / @idle_ms, 1)} %")}"
    ])
  end

  defp listed(node) do
    {count, s} = MeshLoad.on(node, :list)
    IO.puts("list: #{Text.count(count)} names, #{Text.count(round(count / s))} a second")
  end

  ## Each alone, then together

  defp parted(place, [first, second], options) do
    gone = if options.kill, do: &Nodes.kill/1, else: &Nodes.stop/1
    of_second = max(div(options.changes, 5), 1)
    gone.(first)
    change(second, "all", 1..of_second, options)
    gone.(second)
    first = alone(place, first.n)
    change(first, "all", (options.files - options.changes + 1)..options.files, options)
    # of both: two versions, of which all show the same
    change(first, "all", 1..1, options)
    second = Nodes.boot(place, second.n)
    MeshLoad.load([second])
    Measure.settle(place.dir)

    names =
      for n <- Enum.concat(1..of_second, (options.files - options.changes + 1)..options.files),
          do: MeshLoad.name("all", n)

    {{up_s, met_s, even_s}, bytes} = Rsync.traffic(fn -> together(first, second, names) end)
    MeshLoad.done([first, second])

    IO.puts([
      "#{length(names)} changes known to both #{Tree.seconds(even_s)} after the start of our application, which was up after ",
      "#{Tree.seconds(up_s)}, and saw the other after #{Tree.seconds(met_s)}; #{Rsync.mib(bytes)} over loopback"
    ])

    Rsync.goals([
      {"both know the same", even_s, 5, &Tree.seconds/1, :max},
      {"bytes that travel for it", bytes, 2 * 1_048_576, &Rsync.mib/1, :max}
    ])

    [first, second]
  end

  defp alone(place, n) do
    node = Nodes.boot(place, n)
    MeshLoad.load([node])
    {_, up_s} = Tree.timed(fn -> Nodes.start(node) end)
    {_, stat_s} = Tree.timed(fn -> MeshLoad.on(node, :known, [[MeshLoad.name("all", 1)]]) end)

    IO.puts(
      "started alone: our application is up after #{Tree.seconds(up_s)}, the first answer came " <>
        "#{Tree.seconds(stat_s)} later"
    )

    node
  end

  defp change(node, set, numbers, options) do
    args = [set, numbers, options.bytes, 8, [ack: :local]]
    %{errors: errors} = MeshLoad.on(node, :write_set, args)
    true = errors == %{}
  end

  # When it was up, when they saw each other, when they knew the same: seconds.
  defp together(first, second, names) do
    began = System.monotonic_time(:millisecond)
    since = fn -> (System.monotonic_time(:millisecond) - began) / 1000 end
    Nodes.start(second)
    # as whoever makes a cluster has it
    Nodes.call(second, Node, :connect, [first.name])
    up_s = since.()
    MeshLoad.meet([first, second])
    met_s = since.()

    Nodes.until("both know the same", fn ->
      Process.sleep(@look_ms)
      [one, other] = Nodes.call_all([first, second], MeshLoad, :known, [names])

      left = Nodes.call_all([first, second], MeshLoad, :left, [])
      one == other and Enum.all?(one, &match?({_, true}, &1)) and left == [{0, 0}, {0, 0}]
    end)

    {up_s, met_s, since.()}
  end
end

MaculaStorage.Bench.MeshFSReconcile.main(System.argv())
