defmodule MaculaStorage.Mnesia.BackupFile do
  @moduledoc false
  # The file of a backup: what mnesia gives a backup module (the behaviour `mnesia_backup`), in frames that carry a checksum, and an end that
  # tells a whole file from a cut one. `docs/formats.md` has the bytes. Mnesia's own format has neither.
  #
  # Invariant: nothing of a frame becomes a term before its checksum was compared.

  alias MaculaStorage.Error

  @magic "MACMNBUP"
  @version 1
  @head_bytes 12
  @frame_bytes 8
  @frame_bytes_max 0xFFFFFFFE
  @end_mark 0xFFFFFFFF

  @doc false
  def open_write(path) do
    # never over a file that is there, never through a link
    with {:ok, file} <- :file.open(path, [:write, :exclusive, :raw, :binary]),
         :ok <- :file.write(file, <<@magic, @version::little-32>>) do
      {:ok, %{file: file, path: path, frames: 0}}
    end
  end

  @doc false
  def write(state, []), do: {:ok, state}

  def write(state, items) do
    body = :erlang.term_to_binary(items)

    with true <- byte_size(body) <= @frame_bytes_max or {:error, :too_large},
         head = <<byte_size(body)::little-32, :erlang.crc32(body)::little-32>>,
         :ok <- :file.write(state.file, [head, body]) do
      {:ok, %{state | frames: state.frames + 1}}
    end
  end

  @doc false
  def commit_write(%{file: file} = state) do
    count = <<state.frames::little-64>>
    tail = <<@end_mark::little-32, :erlang.crc32(count)::little-32, count::binary>>

    with :ok <- :file.write(file, tail),
         :ok <- :file.sync(file),
         :ok <- :file.close(file),
         do: {:ok, state.path}
  end

  @doc false
  def abort_write(%{file: file, path: path}) do
    :file.close(file)
    :file.delete(path)
    {:ok, path}
  end

  def abort_write(path), do: {:ok, path}

  @doc false
  def open_read(path) do
    with {:ok, file} <- :file.open(path, [:read, :raw, :binary, :read_ahead]) do
      case :file.read(file, @head_bytes) do
        {:ok, <<@magic, @version::little-32>>} -> {:ok, %{file: file, frames: 0, ended: false}}
        {:ok, <<@magic, version::little-32>>} -> refuse(file, {:newer_format, version})
        {:error, _} = error -> refuse(file, error)
        _other -> refuse(file, :no_backup)
      end
    end
  end

  defp refuse(file, reason) do
    :file.close(file)
    {:error, reason}
  end

  @doc false
  def read(%{ended: true} = state), do: {:ok, state, []}

  def read(state) do
    case :file.read(state.file, @frame_bytes) do
      {:ok, <<@end_mark::little-32, sum::little-32>>} -> read_end(state, sum)
      {:ok, <<bytes::little-32, sum::little-32>>} -> read_frame(state, bytes, sum)
      {:error, _} = error -> error
      _cut -> {:error, {:corrupt, :cut}}
    end
  end

  defp read_frame(state, bytes, sum) do
    case :file.read(state.file, bytes) do
      {:ok, body} when byte_size(body) == bytes ->
        if :erlang.crc32(body) == sum,
          do: {:ok, %{state | frames: state.frames + 1}, :erlang.binary_to_term(body)},
          else: {:error, {:corrupt, {:frame, state.frames}}}

      {:error, _} = error ->
        error

      _cut ->
        {:error, {:corrupt, :cut}}
    end
  end

  defp read_end(%{frames: frames} = state, sum) do
    with {:ok, <<^frames::little-64>> = count} <- :file.read(state.file, 8),
         true <- :erlang.crc32(count) == sum,
         :eof <- :file.read(state.file, 1) do
      {:ok, %{state | ended: true}, []}
    else
      _other -> {:error, {:corrupt, :end}}
    end
  end

  @doc false
  def close_read(%{file: file}) do
    :file.close(file)
    {:ok, file}
  end

  def close_read(path), do: {:ok, path}

  @doc "Reads a whole file, each frame checked: `fun.(items, acc)`."
  @spec reduce(Path.t(), acc, ([tuple], acc -> acc)) :: {:ok, acc} | {:error, term} when acc: any
  def reduce(path, acc, fun) do
    with {:ok, state} <- open_read(path) do
      try do
        reduce_frames(state, acc, fun)
      after
        close_read(state)
      end
    end
  end

  defp reduce_frames(state, acc, fun) do
    case read(state) do
      {:ok, %{ended: true}, []} -> {:ok, acc}
      {:ok, state, items} -> reduce_frames(state, fun.(items, acc), fun)
      {:error, _} = error -> error
    end
  end

  @doc "What a person is told of a file that cannot be read."
  @spec error(term, Path.t(), atom, String.t() | nil) ::
          {:error, :not_found | :disk_full | Error.t()}
  def error(:enoent, _path, _op, _app), do: {:error, :not_found}
  def error(:enospc, _path, _op, _app), do: {:error, :disk_full}

  def error(reason, path, op, app) do
    {kind, message, hint} = told(reason)
    error = %Error{kind: kind, op: op, app: app, message: "#{message} path=#{path}", hint: hint}
    {:error, error}
  end

  defp told(:no_backup), do: {:invalid, "this is no backup of MaculaStorage.Mnesia", nil}

  defp told({:newer_format, version}),
    do:
      {:newer_format,
       "the backup has a format that this version does not know version=#{version}",
       "restore it with the version of the library that wrote it"}

  defp told({:corrupt, where}),
    do:
      {:corrupt, "the backup is damaged, nothing was changed where=#{inspect(where)}",
       "restore from another backup"}

  defp told(reason) when reason in [:eacces, :eperm, :erofs],
    do: {:permission, "the file cannot be used reason=#{reason}", nil}

  defp told(reason), do: {:io, "the file cannot be used reason=#{inspect(reason)}", nil}
end
