# How fast is a large replicated file written, changed in its middle, and read where it is not?
#
#     mix run --no-start bench/meshfs_large.exs [--mib 1024] [--rounds 3] [--reads 20] [--only write,change,read]
#
# BEAMs of one cluster on this machine, linked by mTLS over loopback. Written from a file with a warm page cache, durable
# on one other member; beside it rsync to a daemon on loopback, cp, and what dd writes to the disk and syncs. Both
# members have the one disk of this machine: every byte of ours is written there twice, of the others once. Sides take
# turns in each round, whose content is new to all; the median is compared.
#
# The change is of one mebibyte, and what it costs is what the kernel counts on loopback: nothing else may run. The
# reader is a third member with no copy (mesh_copies: 1), by `stream!`; what a content costs that it never saw is told
# beside what it costs again.
for file <- ~w(rsync.exs meshfs_load.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Bench.MeshFSLarge do
  @moduledoc false
  alias MaculaStorage.Bench.{Measure, MeshLoad, Nodes, Rsync, Tree}
  alias MaculaStorage.Operator.Text

  @tables ~w(write change read)
  @mib 1_048_576
  @idle_ms 5_000
  # contents that the reader never saw
  @news 3

  def main(args) do
    known = [mib: :integer, rounds: :integer, reads: :integer, only: :string]
    {given, [], []} = OptionParser.parse(args, strict: known)
    options = Map.merge(%{mib: 1024, rounds: 3, reads: 20, only: nil}, Map.new(given))
    Measure.main("macula_bench_mesh", &run(&1, options))
  end

  defp run(dir, options) do
    only = Measure.only(options.only, @tables)
    Measure.start(Path.join(dir, "controller"))
    source = Path.join(dir, "source")
    big = Path.join(dir, "random")
    MeshLoad.make_file(big, (options.mib + options.rounds) * @mib)
    bench = %{dir: dir, source: source, big: big, bytes: options.mib * @mib, options: options}
    IO.puts("file: #{options.mib} MiB of random bytes")

    Rsync.run(dir, Path.join(dir, "received"), fn daemon ->
      bench = Map.put(bench, :daemon, daemon)
      pair = if Enum.any?(~w(write change), &(&1 in only)), do: pair(bench, only), else: []
      third = if "read" in only, do: third(bench), else: []
      Rsync.goals(pair ++ third)
    end)
  end

  defp pair(bench, only) do
    Nodes.run(Path.join(bench.dir, "pair"), fn place ->
      bench = Map.put(bench, :nodes, MeshLoad.cluster(place, 1..2))
      written = if "write" in only, do: written(bench), else: []
      if "change" in only, do: written ++ changed(bench), else: written
    end)
  end

  defp third(bench) do
    Nodes.run(Path.join(bench.dir, "third"), [mesh_copies: 1], fn place ->
      read(Map.put(bench, :nodes, MeshLoad.cluster(place, 1..3)))
    end)
  end

  defp settle(bench) do
    Measure.settle(bench.dir)
    MeshLoad.fill_memory(bench.dir)
  end

  ## Writing

  @ours {:ours, "MeshFS.write, ack: 1"}
  @rsyncs [
    {:whole, "rsync --fsync -W", ~w(--fsync -W)},
    {:inplace, "rsync --fsync -W --inplace", ~w(--fsync -W --inplace)},
    {:unsynced, "rsync -W, no sync", ~w(-W)}
  ]
  @rest [
    {:cp, "cp + sync"},
    {:dd, "dd conv=fdatasync"},
    {:direct, "dd oflag=direct conv=fdatasync"}
  ]

  defp written(bench) do
    rsyncs = if bench.daemon, do: for({side, name, _} <- @rsyncs, do: {side, name}), else: []
    sides = [@ours | rsyncs] ++ @rest

    turns =
      for round <- 1..bench.options.rounds,
          _ = cut(bench, round),
          {side, _name} <- Measure.turned(sides, round) do
        settle(bench)
        {side, write(side, bench, "large-#{round}")}
      end

    turns = Enum.group_by(turns, &elem(&1, 0), &elem(&1, 1))

    rows =
      for {side, name} <- sides, times = Enum.map(turns[side], & &1.s) do
        [name, rate(bench, Tree.median(times)) | range(bench, times)]
      end

    IO.puts([
      "\n",
      Text.table([["write, #{bench.options.mib} MiB", "MB/s", "slowest", "fastest"] | rows])
    ])

    spent(bench, turns.ours)
    median = &(turns[&1] |> Enum.map(fn turn -> turn.s end) |> Tree.median())
    disk = Enum.min([median.(:dd), median.(:direct)])
    best = rsyncs |> Enum.map(&median.(elem(&1, 0))) |> Enum.min(fn -> 0 end)
    synced = for {side, _} <- rsyncs, side != :unsynced, do: median.(side)
    ours = median.(:ours)

    [
      {"write: of the slower of disk and rsync", max(disk, best) / ours, 0.6, &times/1, :min}
      | for(
          s <- synced |> Enum.sort() |> Enum.take(1),
          do: {"write: of rsync --fsync", s / ours, 0.6, &times/1, :min}
        )
    ]
  end

  # Other bytes at every offset than in any other round.
  defp cut(bench, round) do
    Tree.run!("dd", [
      "if=#{bench.big}",
      "of=#{bench.source}",
      "bs=1M",
      "skip=#{round - 1}",
      "count=#{bench.options.mib}"
    ])

    MeshLoad.change_file(bench.source, 0, 4096)
  end

  defp write(:ours, bench, name) do
    [writer | _] = bench.nodes
    before = {Enum.map(bench.nodes, &Nodes.cpu_s/1), Measure.written_bytes()}
    s = MeshLoad.on(writer, :write_file, [name, bench.source, [ack: 1]])
    now = {Enum.map(bench.nodes, &Nodes.cpu_s/1), Measure.written_bytes()}
    true = Enum.all?(bench.nodes, &here?(&1, name))
    :ok = MeshLoad.on(writer, :delete, [name])
    MeshLoad.done(bench.nodes)
    {{cpu_before, disk_before}, {cpu, disk}} = {before, now}
    cpu = Enum.zip_with(cpu, cpu_before, &(&1 - &2))
    %{s: s, cpu: cpu, disk: disk && disk - disk_before}
  end

  defp write(side, bench, name) when side in [:cp, :dd, :direct] do
    to = Path.join(bench.dir, "#{name}-#{side}")
    {_, s} = Tree.timed(fn -> copy(side, bench.source, to) end)
    File.rm!(to)
    %{s: s}
  end

  defp write(side, bench, name) do
    {_, _, options} = List.keyfind(@rsyncs, side, 0)
    {_, s} = Tree.timed(fn -> Rsync.send!(bench.daemon, options, bench.source, name) end)
    File.rm!(Path.join([bench.dir, "received", name]))
    %{s: s}
  end

  defp copy(:cp, from, to) do
    Tree.run!("cp", ["--reflink=never", from, to])
    Tree.run!("sync", [to])
  end

  defp copy(:dd, from, to),
    do: Tree.run!("dd", ["if=#{from}", "of=#{to}", "bs=1M", "conv=fdatasync"])

  defp copy(:direct, from, to),
    do: Tree.run!("dd", ["if=#{from}", "of=#{to}", "bs=1M", "oflag=direct", "conv=fdatasync"])

  defp here?(node, name), do: match?({:ok, %{here: true}}, MeshLoad.on(node, :stat, [name]))

  defp range(bench, times),
    do: [rate(bench, Enum.max(times)), rate(bench, Enum.min(times))]

  defp rate(bench, s), do: Text.count(round(bench.bytes / s / 1_000_000))
  defp times(ratio), do: "#{Measure.decimals(ratio, 2)}x"

  defp spent(bench, turns) do
    [writer, holder] = for n <- 0..1, do: Tree.median(Enum.map(turns, &Enum.at(&1.cpu, n)))
    ms = &"#{Measure.decimals(1000 * &1 / bench.options.mib, 2)} ms"
    disk = for %{disk: disk} <- turns, disk, do: disk / bench.bytes

    IO.puts(
      "ours: processor time for a MiB #{ms.(writer)} at the writer, #{ms.(holder)} at the other" <>
        if(disk == [],
          do: "",
          else: "; #{Measure.decimals(Tree.median(disk), 2)} bytes went to the disk for each"
        )
    )
  end

  ## A change in the middle

  defp changed(bench) do
    [writer | _] = bench.nodes
    cut(bench, 1)
    MeshLoad.on(writer, :write_file, ["changed", bench.source, [ack: 1]])
    MeshLoad.done(bench.nodes)

    if bench.daemon,
      do: Rsync.send!(bench.daemon, ~w(--fsync -W), bench.source, "changed")

    others = Rsync.traffic_of_others(@idle_ms)
    IO.puts("\nloopback while nothing is done: #{Text.bytes(others * 1000 / @idle_ms)}/s")

    turns =
      for round <- 1..bench.options.rounds do
        # not at the border of a block
        MeshLoad.change_file(bench.source, div(bench.bytes, 2) + round * 12_345, @mib)
        settle(bench)
        {{s, left_s}, bytes} = Rsync.traffic(fn -> change(bench, writer) end)
        rsync = if bench.daemon, do: Rsync.traffic(fn -> delta(bench) end)
        {s, left_s, bytes, rsync}
      end

    median = &Tree.median(Enum.map(turns, &1))
    bytes = median.(&elem(&1, 2))

    IO.puts(
      "change of 1 MiB: #{Tree.seconds(median.(&elem(&1, 0)))} until it is there, of which " <>
        "#{Rsync.mib(bytes)} over loopback; nothing was left to do #{Tree.seconds(median.(&elem(&1, 1)))} later"
    )

    for {_, _, _, {_, _}} <- Enum.take(turns, 1) do
      s = median.(fn {_, _, _, {s, _}} -> s end)
      bytes = median.(fn {_, _, _, {_, bytes}} -> bytes end)
      IO.puts("rsync --fsync --no-W: #{Tree.seconds(s)}, #{Rsync.mib(bytes)}")
    end

    [{"change of 1 MiB: bytes that travel", bytes, 5 * @mib, &Rsync.mib/1, :max}]
  end

  defp change(bench, writer) do
    s = MeshLoad.on(writer, :write_file, ["changed", bench.source, [ack: 1]])
    {_, left_s} = Tree.timed(fn -> MeshLoad.done(bench.nodes) end)
    {s, left_s}
  end

  defp delta(bench) do
    {_, s} =
      Tree.timed(fn ->
        Rsync.send!(bench.daemon, ~w(--fsync --no-W -I), bench.source, "changed")
      end)

    s
  end

  ## Reading where it is not

  defp read(bench) do
    cut(bench, 1)
    [writer | _] = bench.nodes
    news = for n <- 1..@news, do: new_content(bench, writer, "read", n)
    reader = reader(bench)

    again = for _ <- 1..bench.options.reads, do: MeshLoad.on(reader, :first_byte_us, ["read"])

    {{bytes, s}, growth} =
      MeshLoad.growth(reader, fn -> MeshLoad.on(reader, :read_all, ["read"]) end)

    true = bytes == bench.bytes
    expected = bench.source |> Tree.chunks() |> MeshLoad.digest_of()
    true = expected == MeshLoad.on(reader, :digest, ["read"])
    false = here?(reader, "read")
    first = Tree.median(again)

    IO.puts([
      "\nread at a member without a copy: ",
      "first byte #{Measure.duration(first)} (#{range_of(again)}), of a content that it never saw ",
      "#{Measure.duration(Tree.median(news))} (#{range_of(news)}); all of it #{Tree.rate(bytes, s)}, ",
      "its memory grew by #{Rsync.mib(growth)} to #{Rsync.mib(elem(Nodes.memory(reader), 0))}"
    ])

    [
      {"read: first byte", first / 1000, 20, &"#{Measure.decimals(&1, 2)} ms", :max},
      {"read: first byte of a new content", Tree.median(news) / 1000, 20,
       &"#{Measure.decimals(&1, 2)} ms", :max},
      {"read: growth of memory", growth, 64 * @mib, &Rsync.mib/1, :max}
    ]
  end

  defp new_content(bench, writer, name, n) do
    MeshLoad.change_file(bench.source, 0, 4096 * n)
    MeshLoad.on(writer, :write_file, [name, bench.source, [ack: 1]])
    MeshLoad.done(bench.nodes)
    settle(bench)
    MeshLoad.on(reader(bench), :first_byte_us, [name])
  end

  # Who has no copy, and knows of the file.
  defp reader(bench) do
    {:ok, %{version: version, replicas: replicas}} = MeshLoad.on(hd(bench.nodes), :stat, ["read"])
    [reader] = Enum.reject(bench.nodes, &(&1.name in replicas))

    Nodes.until("#{reader.name} has heard of it", fn ->
      match?({:ok, %{version: ^version, here: false}}, MeshLoad.on(reader, :stat, ["read"]))
    end)

    reader
  end

  defp range_of(us),
    do: "#{Measure.duration(Enum.min(us))} to #{Measure.duration(Enum.max(us))}"
end

MaculaStorage.Bench.MeshFSLarge.main(System.argv())
