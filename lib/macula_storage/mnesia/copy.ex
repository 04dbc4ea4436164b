defmodule MaculaStorage.Mnesia.Copy do
  @moduledoc false
  # Files and directories brought to the disk. Mnesia's files are OTP's own, so they are none of the Rust
  # half's; this is the little that is needed of it here.

  alias MaculaStorage.Mnesia.BackupFile

  @doc "Copies a directory of plain files into a new one, synced."
  @spec dir(Path.t(), Path.t()) :: :ok | {:error, term}
  def dir(from, to) do
    with :ok <- File.mkdir(to), {:ok, names} <- File.ls(from), :ok <- files(names, from, to) do
      sync_tree(to)
    else
      {:error, reason} when is_atom(reason) -> BackupFile.error(reason, to, :resolve, nil)
      {:error, _} = error -> error
    end
  end

  defp files(names, from, to) do
    Enum.reduce_while(names, :ok, fn name, :ok ->
      case File.cp(Path.join(from, name), Path.join(to, name)) do
        :ok -> {:cont, :ok}
        {:error, reason} -> {:halt, BackupFile.error(reason, Path.join(to, name), :resolve, nil)}
      end
    end)
  end

  @doc "Syncs the files of a directory, it and what is above it."
  @spec sync_tree(Path.t()) :: :ok | {:error, term}
  def sync_tree(dir) do
    with {:ok, names} <- File.ls(dir),
         :ok <- each(names, &sync_file(Path.join(dir, &1))),
         :ok <- sync_dir(dir) do
      sync_dir(Path.dirname(dir))
    else
      {:error, reason} -> BackupFile.error(reason, dir, :sync, nil)
    end
  end

  defp each(names, fun) do
    Enum.reduce_while(names, :ok, fn name, :ok ->
      case fun.(name) do
        :ok -> {:cont, :ok}
        # mnesia renames and removes files of its own while it works
        {:error, :enoent} -> {:cont, :ok}
        {:error, _} = error -> {:halt, error}
      end
    end)
  end

  defp sync_file(path), do: sync_open(path, [:read, :raw])

  @doc false
  @spec sync_dir(Path.t()) :: :ok | {:error, term}
  def sync_dir(path), do: sync_open(path, [:read, :raw, :directory])

  defp sync_open(path, modes) do
    with {:ok, file} <- :file.open(path, modes) do
      result = :file.sync(file)
      :file.close(file)
      result
    end
  end
end
