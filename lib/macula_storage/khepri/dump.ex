defmodule MaculaStorage.Khepri.Dump do
  @moduledoc false
  # Exports: files of nodes, see docs/formats.md, "Export of the replicated state".
  #
  # Invariant: under its name a file is whole and synced, or what was there before; nothing of a file is
  # imported before all of it was found to be what was written. Memory holds a page, whatever the size.

  alias MaculaStorage.{Error, Options}
  alias MaculaStorage.Khepri.{Engine, View, Wire}

  @magic "MACULASX"
  @version 1
  @head <<@magic::binary, @version::little-16, 0::48>>
  @end_mark 0xFFFFFFFF
  @body_bytes_max 16 * 1024 * 1024
  @batch_bytes 1_048_576
  @batch_len 1_000
  @buffer_bytes 65_536

  @doc false
  @spec export(term, Path.t(), keyword) :: {:ok, map} | {:error, term}
  def export(pattern, file, options) do
    known = [overwrite: {false, :boolean}, timeout: {5_000, :timeout}]
    options = Options.validate!(options, known)
    wire = exported!(pattern)
    file = Path.expand(file)

    if File.exists?(file) and not options.overwrite,
      do: {:error, :exists},
      else: View.with_view(:linearizable, options.timeout, &write(&1, &2, wire, file))
  end

  # a path stands for what is beneath it too
  defp exported!([_ | _] = pattern) do
    wild? = Enum.any?(pattern, &(&1 in [:*, :**] or match?({:*, _}, &1)))
    Wire.pattern!(if(wild?, do: pattern, else: pattern ++ [:**]))
  end

  defp exported!([]), do: Wire.pattern!([:**])
  defp exported!(other), do: Wire.path!(other)

  defp write(view, revision, wire, file) do
    new = "#{file}.#{System.pid()}-#{System.unique_integer([:positive])}.new"

    result =
      with {:ok, fd} <- io(:file.open(new, [:write, :raw, :binary, :exclusive]), :export, new),
           {:ok, info} <- closing(fd, new, &records(&1, view, wire)),
           :ok <- io(:file.rename(new, file), :export, file),
           :ok <- sync_dir(Path.dirname(file)),
           do: {:ok, Map.put(info, :revision, revision)}

    if match?({:error, _}, result), do: File.rm(new)
    result
  end

  defp closing(fd, file, write) do
    with {:ok, info} <- write.(fd),
         :ok <- io(:file.sync(fd), :export, file),
         :ok <- io(:file.close(fd), :export, file) do
      {:ok, info}
    else
      failure ->
        :file.close(fd)
        failure
    end
  end

  defp records(fd, view, wire) do
    out = %{
      fd: fd,
      buffer: [@head],
      buffered: byte_size(@head),
      md5: :erlang.md5_init(),
      n: 0,
      bytes: 0
    }

    with {:ok, out} <- View.fold(view, wire, out, &record/3),
         last = <<@end_mark::little-32, out.n::little-64, out.bytes::little-64>>,
         {:ok, out} <- flush(%{out | buffer: [out.buffer, last]}),
         :ok <- io(:file.write(fd, :erlang.md5_final(out.md5)), :export, nil),
         do: {:ok, %{entries: out.n, bytes: out.bytes}}
  end

  defp record(path, {value, _, _, _, _, expires_ms, _}, out) do
    parts = for part <- path, do: [<<byte_size(part)::little-32>>, part]
    body = [<<expires_ms || 0::little-64, length(path)::little-16>>, parts, value]
    len = IO.iodata_length(body)
    record = [<<len::little-32, :erlang.crc32(body)::little-32>>, body]
    out = %{out | n: out.n + 1, bytes: out.bytes + len, buffered: out.buffered + len}
    out = %{out | buffer: [out.buffer, record]}

    with true <- out.buffered >= @buffer_bytes, {:error, _} = failure <- flush(out) do
      {:halt, failure}
    else
      false -> {:cont, out}
      {:ok, out} -> {:cont, out}
    end
  end

  defp flush(out) do
    with :ok <- io(:file.write(out.fd, out.buffer), :export, nil),
         do: {:ok, %{out | md5: :erlang.md5_update(out.md5, out.buffer), buffer: [], buffered: 0}}
  end

  # the rename is durable when the directory is
  defp sync_dir(dir) do
    with {:ok, fd} <- io(:file.open(dir, [:read, :raw, :directory]), :export, dir) do
      synced = :file.sync(fd)
      :file.close(fd)
      io(synced, :export, dir)
    end
  end

  @doc false
  @spec import(Path.t(), keyword) :: {:ok, non_neg_integer} | {:error, term}
  def import(file, options) do
    options = Options.validate!(options, timeout: {5_000, :timeout})
    opened = :file.open(file, [:read, :raw, :binary, {:read_ahead, @buffer_bytes}])

    with {:ok, fd} <- io(opened, :import, file) do
      try do
        with {:ok, _} <- read(fd, nil, fn _body, nil -> {:cont, nil} end),
             {:ok, {last, _bytes, n}} <- read(fd, {[], 0, 0}, &batched(&1, &2, options)),
             :ok <- put(last, options),
             do: {:ok, n}
      catch
        {__MODULE__, failure} -> failure
      after
        :file.close(fd)
      end
    end
  end

  defp batched(body, {batch, bytes, n}, options) do
    batch = [entry(body) | batch]
    bytes = bytes + byte_size(body)

    if bytes < @batch_bytes and length(batch) < @batch_len do
      {:cont, {batch, bytes, n + 1}}
    else
      with :ok <- put(batch, options), do: {:cont, {[], 0, n + 1}}
    end
  end

  defp put([], _options), do: :ok

  defp put(batch, options) do
    case Engine.command({:import, Enum.reverse(batch)}, options.timeout) do
      {:ok, {:import, _n}} -> :ok
      {:ok, {:refused, why}} -> {:error, why}
      failure -> failure
    end
  end

  # All records of a file, which is checked while it is read; the second time in case it was written to.
  defp read(fd, acc, fun) do
    {:ok, 0} = :file.position(fd, 0)
    <<magic::binary-8, version::little-16, _zeros::48>> = head = bytes(fd, byte_size(@head))

    cond do
      magic != @magic -> corrupt("it does not begin as an export of the replicated state")
      version > @version -> fail(:newer_format, "written by a newer version: version=#{version}")
      head != @head -> corrupt("its head is none")
      true -> each(fd, :erlang.md5_update(:erlang.md5_init(), head), {0, 0}, acc, fun)
    end
  end

  defp each(fd, md5, {n, total} = counted, acc, fun) do
    case bytes(fd, 4) do
      <<@end_mark::little-32>> = mark ->
        ended(fd, :erlang.md5_update(md5, mark), counted, acc)

      <<len::little-32>> when len > @body_bytes_max ->
        corrupt("a record of #{len} bytes")

      <<len::little-32>> = head ->
        <<crc::little-32>> = sum = bytes(fd, 4)
        body = bytes(fd, len)
        if :erlang.crc32(body) != crc, do: corrupt("a record is not what was written: n=#{n}")
        md5 = :erlang.md5_update(md5, [head, sum, body])

        with {:cont, acc} <- fun.(body, acc), do: each(fd, md5, {n + 1, total + len}, acc, fun)
    end
  end

  defp ended(fd, md5, {n, total}, acc) do
    counted = <<n::little-64, total::little-64>>
    if bytes(fd, 16) != counted, do: corrupt("records are missing: n=#{n}")
    md5 = :erlang.md5_final(:erlang.md5_update(md5, counted))
    if bytes(fd, 16) != md5, do: corrupt("its checksum is another")
    if :file.read(fd, 1) != :eof, do: corrupt("there is more behind its end")
    {:ok, acc}
  end

  defp entry(<<expires_ms::little-64, n::little-16, rest::binary>>) do
    {path, value} = parts(rest, n, [])
    {path, value, if(expires_ms > 0, do: expires_ms)}
  end

  defp entry(_body), do: corrupt("a record is too short")

  defp parts(value, 0, path), do: {Enum.reverse(path), value}

  defp parts(<<len::little-32, part::binary-size(len), rest::binary>>, n, path),
    do: parts(rest, n - 1, [part | path])

  defp parts(_rest, _n, _path), do: corrupt("a path is cut off")

  defp bytes(_fd, 0), do: ""

  defp bytes(fd, len) do
    case :file.read(fd, len) do
      {:ok, bytes} when byte_size(bytes) == len -> bytes
      {:ok, _fewer} -> corrupt("it is cut off")
      :eof -> corrupt("it is cut off")
      {:error, _} = failure -> throw({__MODULE__, io(failure, :import, nil)})
    end
  end

  defp corrupt(message), do: fail(:corrupt, message)

  @spec fail(atom, String.t()) :: no_return
  defp fail(kind, message),
    do: throw({__MODULE__, Error.wrap({:error, {kind, message, nil}}, :import, nil)})

  defp io({:error, :enospc}, _op, _file), do: {:error, :disk_full}

  defp io({:error, reason}, op, file) do
    at = if file, do: " path=#{file}", else: ""
    Error.wrap({:error, {:io, "#{:file.format_error(reason)}#{at}", nil}}, op, nil)
  end

  defp io(done, _op, _file), do: done
end
