# The main job on real input, run by bin/demo, which gives it a fresh base directory.
#
# Invariant: what is compared at the end is compared with the source files on this machine's disk and
# with what this script remembers, never with anything that went through the library.
for file <- ~w(../bench/tree.exs demo_cluster.exs), do: Code.require_file(file, __DIR__)

defmodule MaculaStorage.Demo do
  @moduledoc false

  alias MaculaStorage.{Bench.Tree, CubDB, SQLite}
  alias MaculaStorage.Operator.Text

  @app "demo"
  @rows_per_transaction 500
  @entries_per_batch 100
  @looks 20
  @look_ms 100

  @usage """
  bin/demo stores this machine's own Erlang, Elixir, crates and Rust in an app: as files, as one SQLite row per
  file, as one key-value entry per BEAM module. It backs the app up, loses it, gets it back, and compares every
  byte, row and entry. Then three BEAMs of this machine form a cluster; one is killed, its state survives, and another
  takes its place. It ends with 1 when anything differs.

    --max-mb N      at most so many megabytes of files (400)
    --max-files N   at most so many files (20000)
    --keep          leave what was stored on the disk, and say where
    --spoil         change a byte, a row and an entry after the restore: the demo must then fail
    --help          this text
  """

  @switches [
    max_mb: :integer,
    max_files: :integer,
    keep: :boolean,
    spoil: :boolean,
    help: :boolean
  ]

  def main(args) do
    case OptionParser.parse(args, strict: @switches) do
      {options, [], []} ->
        if options[:help], do: IO.write(@usage), else: run(Map.new(options))

      {_, words, unknown} ->
        IO.puts(:stderr, "bin/demo: not known: #{inspect(words ++ unknown)}\n\n#{@usage}")
        exit({:shutdown, 2})
    end
  end

  defp run(options) do
    # Elixir from 1.15 on hides what a project does not name.
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [:crypto])

    {:ok, _} = Application.ensure_all_started(:macula_storage)

    {_, seconds} =
      Tree.timed(fn ->
        job(options)
        head("cluster: three BEAMs, an authority and certificates of their own")
        base = System.fetch_env!("MACULA_STORAGE_BASE")

        MaculaStorage.Demo.Cluster.run(
          Path.join(Path.dirname(base), "cluster"),
          &say/2,
          &differ/1
        )
      end)

    say("done", "in #{Tree.seconds(seconds)}: nothing differs")
  end

  defp job(options) do
    base = System.fetch_env!("MACULA_STORAGE_BASE")
    :ok = MaculaStorage.ensure_app_dirs(@app)
    head("macula_storage: the main job on real input")
    Enum.each(Tree.machine(base), &IO.puts/1)

    files = input(options)
    head("store: every write is synced when it answers")
    files = store_files(files)
    rows = store_rows(files)
    entries = store_entries(files)
    upload()

    head("look")
    usage("")
    look_at_entries()
    look_at_rows()

    head("archive")
    tarball = archive(base)

    head("lose and get back")
    lose(base)
    restore(tarball, files)
    if options[:spoil], do: spoil(files)
    compare(files, rows, entries)
    if options[:keep], do: say("kept", base)
  end

  defp input(options) do
    max_bytes = Map.get(options, :max_mb, 400) * 1_000_000
    {files, notes} = Tree.collect(max_bytes, Map.get(options, :max_files, 20_000))

    if files == [] do
      IO.puts(:stderr, "bin/demo: nothing to store: raise --max-mb and --max-files")
      exit({:shutdown, 2})
    end

    parts =
      for {source, files} <- Enum.group_by(files, & &1.source),
          do: "#{source} #{Text.count(length(files))} files #{Text.bytes(Tree.bytes(files))}"

    say("input", "#{Text.count(length(files))} files, #{Text.bytes(Tree.bytes(files))}")
    for line <- parts ++ notes, do: say("", line)
    files
  end

  ## Store

  defp store_files(files) do
    files = Tree.progress("read", files, &Map.put(&1, :digest, digest(Tree.chunks(&1.path))))
    {_, s} = Tree.timed(fn -> Tree.store(@app, files) end)

    say("files", [
      "#{Text.bytes(Tree.bytes(files))} in #{Tree.seconds(s)}: #{Tree.rate(Tree.bytes(files), s)}, ",
      "#{Text.count(round(length(files) / s))} files/s"
    ])

    Enum.sort_by(files, & &1.name)
  end

  defp digest(chunks) do
    chunks
    |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    |> :crypto.hash_final()
  end

  defp store_rows(files) do
    :ok =
      SQLite.execute(@app, """
      CREATE TABLE files (path TEXT PRIMARY KEY, source TEXT NOT NULL, size INTEGER NOT NULL,
        mode INTEGER NOT NULL, sha256 BLOB NOT NULL);
      CREATE INDEX files_source ON files (source, size);
      """)

    rows = for file <- files, do: [file.name, file.source, file.size, file.mode, file.digest]
    batches = Enum.chunk_every(rows, @rows_per_transaction)
    {_, s} = Tree.timed(fn -> Enum.each(batches, &insert/1) end)

    say("sqlite", [
      "#{Text.count(length(rows))} rows in #{length(batches)} transactions, #{Tree.seconds(s)}: ",
      "#{Text.count(round(length(rows) / s))} rows/s"
    ])

    rows
  end

  defp insert(rows) do
    {:ok, _} =
      SQLite.transaction(@app, fn tx ->
        for [path, source, size, mode, digest] <- rows do
          row = [path, source, size, mode, {:blob, digest}]
          :ok = SQLite.execute(tx, "INSERT INTO files VALUES (?, ?, ?, ?, ?)", row)
        end
      end)
  end

  # Half of them one by one, many callers at a time; half in batches.
  defp store_entries(files) do
    beams = Enum.filter(files, &(Path.extname(&1.name) == ".beam"))
    entries = "modules" |> Tree.progress(beams, &entry/1) |> Enum.concat() |> Enum.sort()
    {single, batched} = Enum.split(entries, div(length(entries), 2))
    batches = Enum.chunk_every(batched, @entries_per_batch)

    {_, single_s} =
      Tree.timed(fn ->
        single
        |> Task.async_stream(fn {k, v} -> :ok = MaculaStorage.data_put(@app, k, v) end,
          max_concurrency: 32
        )
        |> Stream.run()
      end)

    {_, batched_s} = Tree.timed(fn -> Enum.each(batches, &(:ok = CubDB.put_multi(@app, &1))) end)

    say("key-value", [
      "#{Text.count(length(entries))} entries, one per BEAM module: ",
      "#{Text.count(round(length(single) / single_s))}/s one by one from 32 callers, ",
      "#{Text.count(round(length(batched) / batched_s))}/s in batches of #{@entries_per_batch}"
    ])

    entries
  end

  defp entry(file) do
    case :beam_lib.chunks(String.to_charlist(file.path), [:exports]) do
      {:ok, {module, [exports: exports]}} ->
        [{{:module, module, file.name}, %{exports: exports, size: file.size}}]

      {:error, :beam_lib, _reason} ->
        []
    end
  end

  # What any other program may do.
  defp upload,
    do: File.cp!("README.md", Path.join(MaculaStorage.app_uploads_path(@app), "README.md"))

  ## Look

  defp usage(when?) do
    usage = same_as_du(@looks)
    parts = for {part, bytes} <- Enum.sort(usage.parts), do: "#{part} #{Text.bytes(bytes)}"
    say("usage#{when?}", Enum.join(parts, ", "))
    say("", "#{Text.count(usage.total)} bytes in all, as du -sb says")
  end

  # The key-value store goes on with its files by itself for a moment: between two looks they may have grown.
  defp same_as_du(looks) do
    {:ok, usage} = MaculaStorage.app_usage(@app, fresh: true)

    case du(app_dir()) do
      du when du == usage.total ->
        usage

      du when looks == 1 ->
        differ("usage is #{usage.total} bytes, du says #{du}")

      _other ->
        Process.sleep(@look_ms)
        same_as_du(looks - 1)
    end
  end

  # From coreutils 9.2 on, du leaves out the directories themselves.
  defp du(dir) do
    sum = fn args ->
      Tree.run!("find", [dir | args]) |> String.split() |> Enum.map(&int/1) |> Enum.sum()
    end

    [bytes, _] = Tree.run!("du", ["-sb", dir]) |> String.split("\t")
    empty = Path.join(System.fetch_env!("MACULA_STORAGE_BASE"), "empty")
    File.mkdir_p!(empty)
    directories? = not String.starts_with?(Tree.run!("du", ["-sb", empty]), "0\t")
    File.rmdir!(empty)
    int(bytes) + if(directories?, do: 0, else: sum.(["-type", "d", "-printf", "%s\\n"]))
  end

  defp int(text), do: String.to_integer(text)

  defp look_at_entries do
    range = [min_key: {:module, :gen, ""}, max_key: {:module, :gen_tcp, "~"}]
    {found, s} = Tree.timed(fn -> Enum.to_list(MaculaStorage.data_select(@app, range)) end)
    names = found |> Enum.map(fn {{:module, module, _}, _} -> inspect(module) end) |> Enum.uniq()
    say("range", "modules from :gen to :gen_tcp, in order, #{round(s * 1_000_000)} us:")
    say("", Enum.join(names, " "))

    {{exports, module}, s} =
      Tree.timed(fn ->
        MaculaStorage.data_select(@app)
        |> Stream.map(fn {{:module, module, _}, value} -> {length(value.exports), module} end)
        |> Enum.max(fn -> {0, nil} end)
      end)

    say("", [
      "most functions of all #{Text.count(CubDB.size(@app))}: #{inspect(module)} exports #{exports}",
      " (#{Tree.seconds(s)})"
    ])
  end

  defp look_at_rows do
    by_source = """
    SELECT source, count(*), sum(size), max(size) FROM files GROUP BY source ORDER BY 3 DESC
    """

    # What stands behind the last dot of the name.
    by_kind = """
    SELECT replace(path, rtrim(path, replace(path, '.', '')), '') AS kind, count(*), sum(size), max(size)
    FROM files WHERE path GLOB '*.*' AND NOT kind GLOB '*/*' GROUP BY kind ORDER BY 3 DESC LIMIT 8
    """

    for {name, sql} <- [{"source", by_source}, {"kind", by_kind}] do
      {{:ok, %{rows: rows}}, s} = Tree.timed(fn -> SQLite.query(@app, sql) end)

      rows =
        for [name, count, bytes, max] <- rows,
            do: [name, Text.count(count), Text.bytes(bytes), Text.bytes(max)]

      say("sql", "by #{name}, #{Tree.seconds(s)}:")

      for line <- [[name, "files", "bytes", "largest"] | rows] |> Text.table() |> lines(),
          do: say("", line)
    end
  end

  defp lines(text), do: String.split(text, "\n")

  ## Archive

  defp archive(base) do
    {zst, gz} = {Path.join(base, "demo.tar.zst"), Path.join(base, "demo.tar.gz")}
    {{:ok, info}, s} = Tree.timed(base, fn -> archive("archive", zst, verify: false) end)

    {_, tar_s} =
      Tree.timed(base, fn ->
        line = Text.line("tar -czf")
        Text.show(line, %{entries_done: 0, bytes_done: 0, bytes_total: info.bytes_in})
        Tree.tar!(["-z"], gz, app_dir())
        Text.clear(line)
      end)

    gz_bytes = File.stat!(gz).size
    said_archive("archive", info.bytes, info.bytes_in, s)
    said_archive("tar -czf", gz_bytes, info.bytes_in, tar_s)

    say("", [
      "archive is #{Tree.times(tar_s / s)} as fast as tar -czf of the same tree, both synced, and its size is ",
      "#{round(100 * info.bytes / gz_bytes)} % of gzip's"
    ])

    Enum.each([zst, gz], &File.rm!/1)
    {{:ok, tarball}, s} = Tree.timed(base, fn -> backup() end)
    said_archive("backup_app", File.stat!(tarball).size, info.bytes_in, s)
    [%{path: ^tarball, name: name} = listed] = MaculaBackup.list_backups(@app, details: true)

    say(
      "",
      "read back and compared: #{if listed.verified, do: "yes", else: "no mark on this disk"}"
    )

    name
  end

  defp said_archive(name, bytes, bytes_in, s) do
    say(
      name,
      "#{Text.bytes(bytes)} of #{Text.bytes(bytes_in)} in #{Tree.seconds(s)}: #{Tree.rate(bytes_in, s)}"
    )
  end

  defp archive(label, dest, options),
    do: with_line(label, &MaculaStorage.archive(@app, dest, [progress: &1] ++ options))

  defp backup, do: with_line("backup", &MaculaBackup.backup_app(@app, progress: &1))

  defp with_line(label, work) do
    line = Text.line(label)
    result = work.(&Text.show(line, &1))
    Text.clear(line)
    result
  end

  ## Lose and get back

  defp lose(base) do
    :ok = MaculaStorage.close_app(@app)
    File.rm_rf!(app_dir())
    {:ok, []} = MaculaStorage.list_apps()
    Tree.run!("sync", ["-f", base])
    say("lost", "the app is closed, its directory is gone")
  end

  defp restore(name, files) do
    {:ok, s} =
      Tree.timed(fn ->
        with_line("restore", &MaculaBackup.restore_app(@app, name, progress: &1))
      end)

    say(
      "restored",
      "#{name} in #{Tree.seconds(s)}: #{Tree.rate(Tree.bytes(files), s)}, each entry verified"
    )

    usage("")
  end

  defp spoil([file | _] = files) do
    victim = Enum.find(files, file, &(&1.size > 0))
    <<byte, rest::binary>> = File.read!(restored_path(victim))
    File.write!(restored_path(victim), <<Bitwise.bxor(byte, 1), rest::binary>>)
    :ok = SQLite.execute(@app, "UPDATE files SET size = size + 1 WHERE path = ?", [file.name])
    [{key, _}] = MaculaStorage.data_select(@app) |> Enum.take(1)
    :ok = MaculaStorage.data_put(@app, key, :spoiled)
  end

  defp compare(files, rows, entries) do
    {found, s} = Tree.timed(fn -> differences(files, rows, entries) end)

    say("compared", [
      "#{Text.count(length(files))} files byte by byte, #{Text.count(length(rows))} rows, ",
      "#{Text.count(length(entries))} entries in #{Tree.seconds(s)}"
    ])

    if found != [], do: differ(Enum.join(found, "\n"))
  end

  defp differences(files, rows, entries) do
    {:ok, names} = MaculaStorage.file_list(@app)
    uploaded = File.read!(Path.join(MaculaStorage.app_uploads_path(@app), "README.md"))

    {:ok, %{rows: found_rows}} =
      SQLite.query(@app, "SELECT path, source, size, mode, sha256 FROM files ORDER BY path")

    found_entries = Enum.to_list(MaculaStorage.data_select(@app))

    file_differences =
      Tree.progress("compare", files, &file_difference/1) |> Enum.reject(&is_nil/1) |> Enum.sort()

    others = [
      list_difference("file names", Enum.sort(Enum.map(files, & &1.name)), names),
      list_difference("rows", rows, found_rows),
      list_difference("entries", entries, found_entries),
      if(uploaded != File.read!("README.md"), do: "uploads/README.md differs")
    ]

    file_differences ++ Enum.reject(others, &is_nil/1)
  end

  # Against the source, and against what the source was when it was stored.
  defp file_difference(file) do
    path = restored_path(file)

    with {:ok, %{size: size}} when size == file.size <- File.stat(path),
         {true, digest} when digest == file.digest <-
           same(Tree.chunks(file.path), Tree.chunks(path)) do
      nil
    else
      other -> "file #{file.name} differs: #{inspect(other)}"
    end
  end

  defp same(source, restored) do
    {same?, hash} =
      Stream.zip(source, restored)
      |> Enum.reduce({true, :crypto.hash_init(:sha256)}, fn {a, b}, {same?, hash} ->
        {same? and a == b, :crypto.hash_update(hash, b)}
      end)

    {same?, :crypto.hash_final(hash)}
  end

  # `===`, because 1 and 1.0 are not the same.
  defp list_difference(_what, expected, found) when expected === found, do: nil

  defp list_difference(what, expected, found) do
    missing = expected -- found

    "#{what} differ: #{length(missing)} missing or changed of #{length(expected)}, " <>
      "found #{length(found)}, the first: #{inspect(Enum.take(missing, 1), limit: 8)}"
  end

  defp restored_path(file),
    do: Path.join([MaculaStorage.app_data_path(@app), "files", file.name])

  defp app_dir, do: Path.dirname(MaculaStorage.app_data_path(@app))

  ## Say

  defp head(text), do: IO.puts(["\n== ", text])
  defp say(name, text), do: IO.puts([String.pad_trailing(name, 11), text])

  defp differ(text) do
    IO.puts(:stderr, "\nbin/demo: FAILED: something differs\n#{text}")
    exit({:shutdown, 1})
  end
end

MaculaStorage.Demo.main(System.argv())
