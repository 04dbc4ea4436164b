# What the demo and the archive bench share: a tree of real files that every machine with this project
# has (Erlang, Elixir, the sources of the crates, the Rust that builds them), its way into an app, the
# rivals that are measured beside us, and how figures are said.
#
# Invariant: the same machine gives the same tree, so that two runs can be compared.
defmodule MaculaStorage.Bench.Tree do
  @moduledoc false

  alias MaculaStorage.Operator.Text

  @chunk_bytes 1_048_576
  # Enough that writers share their syncs.
  @writers 32

  @doc """
  The files, at most `max_bytes` and `max_files` of them: `{[%{name, path, source, size, mode}], notes}`.

  What is too large for a quarter of the limit is left out, and the Rust installation fills what the
  others leave, picked by the hash of the name so that it is a mix.
  """
  def collect(max_bytes, max_files) do
    {files, notes} =
      Enum.reduce(sources(), {[], []}, fn {source, dir}, {files, notes} ->
        case dir && walk(dir, "") do
          nil -> {files, ["without #{source}: not on this machine" | notes]}
          found -> {files ++ Enum.map(mixed(source, found), &file(&1, source, dir)), notes}
        end
      end)

    {Enum.sort_by(fitting(files, max_bytes, max_files), & &1.name), Enum.reverse(notes)}
  end

  defp fitting(files, max_bytes, max_files) do
    files
    |> Enum.reject(&(&1.size > max_bytes / 4))
    |> Enum.take(max_files)
    |> Enum.scan({nil, 0}, fn file, {_, bytes} -> {file, bytes + file.size} end)
    |> Enum.take_while(fn {_file, bytes} -> bytes <= max_bytes end)
    |> Enum.map(fn {file, _} -> file end)
  end

  defp sources do
    cargo = System.get_env("CARGO_HOME") || Path.join(System.user_home!(), ".cargo")
    crates = Path.join(cargo, "registry/src")

    [
      {"erlang", List.to_string(:code.root_dir())},
      {"elixir", Path.dirname(List.to_string(:code.lib_dir(:elixir)))},
      {"crates", if(File.dir?(crates), do: crates)},
      {"rust", rust()}
    ]
  end

  defp rust do
    with rustc when is_binary(rustc) <- System.find_executable("rustc"),
         {root, 0} <- System.cmd(rustc, ["--print", "sysroot"], stderr_to_stdout: true) do
      String.trim(root)
    else
      _ -> nil
    end
  end

  defp mixed("rust", found), do: Enum.sort_by(found, fn {name, _} -> :erlang.phash2(name) end)
  defp mixed(_source, found), do: Enum.sort(found)

  defp file({name, stat}, source, dir) do
    path = Path.join(dir, name)
    %{name: Path.join(source, name), path: path, source: source, size: stat.size, mode: stat.mode}
  end

  # Regular files that we may read; links are not followed.
  defp walk(dir, name) do
    for entry <- File.ls!(Path.join(dir, name)),
        name = Path.join(name, entry),
        {:ok, stat} <- [File.lstat(Path.join(dir, name))],
        found <- walk(dir, name, stat),
        do: found
  end

  defp walk(dir, name, %{type: :directory, access: access}) when access in [:read, :read_write],
    do: walk(dir, name)

  defp walk(_dir, name, %{type: :regular, access: access} = stat)
       when access in [:read, :read_write],
       do: [{name, stat}]

  defp walk(_dir, _name, _stat), do: []

  @doc "Writes the files into an app, many at a time."
  def store(app, files), do: progress("store", files, &write(app, &1))

  # Small ones whole, large ones in constant memory.
  defp write(app, %{size: size} = file) when size <= @chunk_bytes,
    do: :ok = MaculaStorage.file_write(app, file.name, File.read!(file.path), timeout: :infinity)

  defp write(app, file),
    do: Enum.into(chunks(file.path), MaculaStorage.file_stream!(app, file.name))

  @doc "The content of a file, in chunks."
  def chunks(path) do
    Stream.resource(
      fn -> :file.open(path, [:read, :raw, :binary]) |> ok!(path) end,
      fn io ->
        case :file.read(io, @chunk_bytes) do
          {:ok, bytes} -> {[bytes], io}
          :eof -> {:halt, io}
          {:error, reason} -> raise File.Error, reason: reason, action: "read", path: path
        end
      end,
      &:file.close/1
    )
  end

  defp ok!({:ok, io}, _path), do: io

  defp ok!({:error, reason}, path),
    do: raise(File.Error, reason: reason, action: "open", path: path)

  @doc "Runs `work` on each file, many at a time, with a progress line; results in no order."
  def progress(label, files, work) do
    line = Text.line(label)
    total = bytes(files)

    {results, _} =
      files
      |> Task.async_stream(&{&1, work.(&1)},
        max_concurrency: @writers,
        ordered: false,
        timeout: :infinity
      )
      |> Enum.map_reduce({0, 0}, fn {:ok, {file, result}}, {entries, bytes} ->
        {entries, bytes} = {entries + 1, bytes + file.size}
        Text.show(line, %{entries_done: entries, bytes_done: bytes, bytes_total: total})
        {result, {entries, bytes}}
      end)

    Text.clear(line)
    results
  end

  @doc "Bytes of all files."
  def bytes(files), do: files |> Enum.map(& &1.size) |> Enum.sum()

  @doc "A fresh directory on a disk (`/tmp` may be memory), and what removes it."
  def fresh_dir(prefix) do
    parent = System.get_env("TMPDIR", "/var/tmp")
    dir = Path.join(parent, "#{prefix}_#{System.pid()}_#{System.os_time(:millisecond)}")
    File.mkdir_p!(dir)
    dir
  end

  @doc "Runs a command; its output."
  def run!(command, args, options \\ []) do
    case System.cmd(command, args, [stderr_to_stdout: true] ++ options) do
      {output, 0} -> output
      {output, status} -> raise "#{command} #{Enum.join(args, " ")}: status=#{status} #{output}"
    end
  end

  @doc "Archives a directory with tar and a compressor, and syncs the archive."
  def tar!(compressor, archive, dir) do
    args = compressor ++ ["-cf", archive, "-C", Path.dirname(dir), Path.basename(dir)]
    run!("tar", args)
    run!("sync", [archive])
  end

  @doc "Unpacks an archive with tar into a directory, and syncs the file system."
  def untar!(compressor, archive, into) do
    run!("tar", compressor ++ ["-xf", archive, "-C", into])
    run!("sync", ["-f", into])
  end

  @doc "`{result, seconds}`, begun with nothing left to write on the file system of `dir`."
  def timed(dir, work) do
    run!("sync", ["-f", dir])
    timed(work)
  end

  @doc "`{result, seconds}`."
  def timed(work) do
    {us, result} = :timer.tc(work)
    {result, max(us, 1) / 1_000_000}
  end

  @doc "Lines on where this was measured: machine, day, and how often its disk syncs."
  def machine(dir) do
    cpu =
      case File.read("/proc/cpuinfo") do
        {:ok, text} -> Regex.run(~r/model name\s*: (.*)/, text)
        _ -> nil
      end

    {:ok, memory} = File.read("/proc/meminfo")
    [_, kib] = Regex.run(~r/MemTotal:\s+(\d+)/, memory)
    type = run!("stat", ["-f", "-c", "%T", dir]) |> String.trim()

    [
      "#{Date.utc_today()}, #{:erlang.system_info(:logical_processors_available)} CPUs" <>
        " (#{if cpu, do: List.last(cpu), else: "unknown"}), #{Text.bytes(String.to_integer(kib) * 1024)} RAM," <>
        " OTP #{:erlang.system_info(:otp_release)}, Elixir #{System.version()}",
      "disk: #{type}, #{Text.count(syncs_per_second(dir))} syncs/s (4 KiB and fdatasync, one after the other)"
    ]
  end

  @syncs 500

  defp syncs_per_second(dir) do
    path = Path.join(dir, "syncs")
    {:ok, io} = :file.open(path, [:write, :raw, :binary])
    page = :binary.copy(<<1>>, 4096)

    {_, s} =
      timed(fn ->
        for at <- 0..(@syncs - 1) do
          :ok = :file.pwrite(io, rem(at, 16) * 4096, page)
          :ok = :file.datasync(io)
        end
      end)

    :file.close(io)
    File.rm!(path)
    round(@syncs / s)
  end

  @doc "Seconds, as said in reports."
  def seconds(s), do: "#{:erlang.float_to_binary(s / 1, decimals: 2)} s"

  @doc "Bytes in a time."
  def rate(bytes, s), do: "#{Text.bytes(bytes / s)}/s"

  @doc "The middle one."
  def median(numbers) do
    sorted = Enum.sort(numbers)
    middle = div(length(sorted), 2)

    if rem(length(sorted), 2) == 1,
      do: Enum.at(sorted, middle),
      else: (Enum.at(sorted, middle - 1) + Enum.at(sorted, middle)) / 2
  end

  @doc "How many times."
  def times(ratio), do: "#{:erlang.float_to_binary(ratio / 1, decimals: 1)}x"
end
