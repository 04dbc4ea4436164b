# How fast are archive and restore beside tar with gzip, and tar with zstd on all cores?
#
#     mix run --no-start bench/archive.exs [--rounds 5] [--max-mb 400] [--max-files 20000]
#
# The tree is the demo's. Every side starts with nothing left to write, from a warm page cache, and ends with
# a sync: ours within the call, tar's archive by fsync, what tar unpacked by syncfs. Sides take turns in each
# round; the median is compared.
#
# Ours is called as a user calls it. tar compares nothing after it wrote, so the goals are held against
# `archive(verify: false)`; the default, which reads the archive back, stands beside it. `restore` always
# verifies each entry. All unpack to where nothing is, as after a loss, and nothing is removed before the end:
# ext4 without a journal passes over inodes that were freed in the last minutes, one by one, and a file that is
# made soon after 20,000 were removed costs twenty times as much, whoever makes it. For the same reason let five
# minutes pass between two runs on such a disk.
Code.require_file("tree.exs", __DIR__)

defmodule MaculaStorage.Bench.Archive do
  @moduledoc false

  alias MaculaStorage.Bench.Tree
  alias MaculaStorage.Operator.Text

  @app "bench"
  @zstd ["-I", "zstd -T0"]
  @gzip ["-z"]

  def main(args) do
    {options, [], []} =
      OptionParser.parse(args, strict: [rounds: :integer, max_mb: :integer, max_files: :integer])

    base = Tree.fresh_dir("macula_bench")
    System.put_env("MACULA_STORAGE_BASE", base)

    try do
      {:ok, _} = Application.ensure_all_started(:macula_storage)
      run(base, Map.new(options))
      # That it stopped is no news.
      :logger.set_primary_config(:level, :warning)
      :ok = Application.stop(:macula_storage)
    after
      File.rm_rf!(base)
    end
  end

  defp run(base, options) do
    Enum.each(Tree.machine(base), &IO.puts/1)
    IO.puts(versions())
    IO.puts("load when it began: #{load()}")
    max_bytes = Map.get(options, :max_mb, 400) * 1_000_000
    {files, notes} = Tree.collect(max_bytes, Map.get(options, :max_files, 20_000))
    Enum.each(notes, &IO.puts/1)
    IO.puts("tree: #{Text.count(length(files))} files, #{Text.bytes(Tree.bytes(files))}")
    Tree.store(@app, files)
    :ok = File.mkdir_p(Path.join(base, "out"))

    rounds = Map.get(options, :rounds, 5)
    sides = if System.find_executable("zstd"), do: [:ours, :gzip, :zstd], else: [:ours, :gzip]
    if :zstd not in sides, do: IO.puts("without tar -I zstd: not on this machine")

    measured =
      for round <- 1..rounds,
          side <- turned(sides, round),
          figure <- side(side, base, round),
          do: figure

    IO.puts("load when it ended: #{load()}")
    report(Enum.group_by(measured, &elem(&1, 0), &elem(&1, 1)), sizes(base), files, rounds)
  end

  # So that no side always comes after the same other.
  defp turned(sides, round) do
    {first, last} = Enum.split(sides, rem(round, length(sides)))
    last ++ first
  end

  defp versions do
    for {command, args} <- [
          {"tar", ["--version"]},
          {"gzip", ["--version"]},
          {"zstd", ["--version"]}
        ],
        System.find_executable(command) do
      Tree.run!(command, args) |> String.split("\n") |> hd() |> String.trim_leading("*** ")
    end
    |> Enum.join(", ")
  end

  # Others at work on the machine make every figure worth less.
  defp load, do: File.read!("/proc/loadavg") |> String.split() |> Enum.take(3) |> Enum.join(" ")

  defp side(:ours, base, round) do
    {verified, plain} = {archive(base, "verified.tar.zst"), archive(base, "ours.tar.zst")}
    Enum.each([verified, plain], &File.rm/1)
    {{:ok, _}, verified_s} = Tree.timed(base, fn -> MaculaStorage.archive(@app, verified) end)

    {{:ok, _}, plain_s} =
      Tree.timed(base, fn -> MaculaStorage.archive(@app, plain, verify: false) end)

    restored = "#{@app}-#{round}"

    {:ok, restore_s} =
      Tree.timed(base, fn -> MaculaStorage.restore(restored, plain, from_other_app: true) end)

    [path, path_of_restored] = Enum.map([@app, restored], &MaculaStorage.app_data_path/1)
    Tree.run!("diff", ["-rq", Path.join(path, "files"), Path.join(path_of_restored, "files")])

    [
      {{:archive, :ours}, plain_s},
      {{:archive, :verified}, verified_s},
      {{:restore, :ours}, restore_s}
    ]
  end

  defp side(side, base, round) do
    {compressor, file} = if side == :gzip, do: {@gzip, "tar.gz"}, else: {@zstd, "tar.zst"}
    {archive, into} = {archive(base, file), Path.join(base, "out/#{side}-#{round}")}
    File.rm(archive)
    {_, archive_s} = Tree.timed(base, fn -> Tree.tar!(compressor, archive, app_dir()) end)
    File.mkdir_p!(into)
    {_, restore_s} = Tree.timed(base, fn -> Tree.untar!(compressor, archive, into) end)
    [{{:archive, side}, archive_s}, {{:restore, side}, restore_s}]
  end

  defp archive(base, name), do: Path.join([base, "out", name])
  defp app_dir, do: Path.dirname(MaculaStorage.app_data_path(@app))

  defp sizes(base) do
    for {side, name} <- [ours: "ours.tar.zst", gzip: "tar.gz", zstd: "tar.zst"],
        {:ok, stat} <- [File.stat(archive(base, name))],
        into: %{},
        do: {side, stat.size}
  end

  @names [
    ours: "MaculaStorage, verify: false",
    verified: "MaculaStorage, default (read back)",
    gzip: "tar -z",
    zstd: "tar -I 'zstd -T0'"
  ]

  defp report(measured, sizes, files, rounds) do
    IO.puts("\nmedian of #{rounds} rounds (fastest to slowest)\n")

    for op <- [:archive, :restore] do
      rows =
        for {side, name} <- @names, times = measured[{op, side}] do
          [
            if(op == :restore and side == :ours, do: "MaculaStorage", else: name),
            Tree.seconds(Tree.median(times)),
            "#{Tree.seconds(Enum.min(times))} to #{Tree.seconds(Enum.max(times))}",
            Tree.rate(Tree.bytes(files), Tree.median(times)),
            if(op == :archive and sizes[side], do: Text.bytes(sizes[side]), else: "")
          ]
        end

      IO.puts(Text.table([["#{op}", "median", "range", "rate", "size"] | rows]))
      IO.puts("")
    end

    goals =
      for {op, side, goal} <- [
            {:archive, :gzip, 10},
            {:restore, :gzip, 2},
            {:archive, :zstd, 1.4},
            {:restore, :zstd, 1.4}
          ],
          times = measured[{op, side}] do
        ours = measured[{op, :ours}]

        [
          "#{op}, as fast as #{@names[side]}",
          times(Tree.median(times) / Tree.median(ours)),
          "#{times(Enum.min(times) / Enum.min(ours))} by the fastest",
          "goal #{times(goal)}",
          met(Tree.median(times) / Tree.median(ours) >= goal)
        ]
      end

    size = sizes.ours / sizes.gzip

    IO.puts(
      Text.table(
        goals ++ [["size, of gzip's", times(size), "", "goal under #{times(1)}", met(size < 1)]]
      )
    )
  end

  defp times(ratio), do: "#{:erlang.float_to_binary(ratio / 1, decimals: 2)}x"
  defp met(true), do: "met"
  defp met(false), do: "MISSED"
end

MaculaStorage.Bench.Archive.main(System.argv())
