defmodule MaculaStorage.Mnesia.SetAside do
  @moduledoc false
  # What a node does whose data is to give way to that of the other half of a split.
  #
  # Invariant: mnesia starts with the other half as its master only after all that this node held is twice
  # on the disk: a backup that can be read entry by entry, and its directory as it was when it stopped.

  alias MaculaStorage.Config
  alias MaculaStorage.Mnesia.{Backup, BackupFile, Copy, Local, Watch}

  @doc "A name for what one resolve sets aside, the same on each node."
  @spec stamp() :: String.t()
  def stamp, do: DateTime.utc_now() |> DateTime.to_iso8601(:basic) |> String.replace(":", "")

  @doc "The first copy, while mnesia runs: the tables of this node, as one backup."
  @spec save(String.t()) :: {:ok, Path.t()} | {:error, term}
  def save(stamp) do
    dir = Path.join(Config.mnesia_set_aside_dir(), stamp)

    case File.mkdir_p(dir) do
      :ok ->
        File.chmod(Config.mnesia_set_aside_dir(), 0o700)
        tables = :mnesia.system_info(:local_tables) -- [:schema]
        with :ok <- backup(tables, Path.join(dir, "tables.backup")), do: {:ok, dir}

      {:error, reason} ->
        BackupFile.error(reason, dir, :resolve, nil)
    end
  end

  # mnesia makes no checkpoint of nothing
  defp backup([], _path), do: :ok
  defp backup(tables, path), do: Backup.write(tables, path, false, :resolve, nil)

  @doc "The second copy, of what was written until mnesia stopped too; then the others are the masters."
  @spec stop_and_yield(Path.t(), [node]) :: :ok | {:error, term}
  def stop_and_yield(dir, winners) do
    with :ok <- Local.stop(),
         :ok <- Copy.dir(Config.mnesia_dir(), Path.join(dir, "mnesia")),
         :ok <- mark() do
      case :mnesia.set_master_nodes(winners) do
        :ok -> :ok
        {:error, reason} -> Local.error(:io, "mnesia takes no master reason=#{inspect(reason)}")
      end
    end
  end

  # Masters are kept on the disk. Should nobody be there to end that, the next setup does.
  defp mark do
    path = Config.mnesia_yielding_file()

    with :ok <- File.write(path, ""), :ok <- Copy.sync_dir(Path.dirname(path)) do
      :ok
    else
      {:error, reason} -> BackupFile.error(reason, path, :resolve, nil)
    end
  end

  @doc "Undoes `stop_and_yield/2`."
  @spec take_back() :: :ok | {:error, term}
  def take_back do
    if Local.running() == :no do
      _ = :mnesia.set_master_nodes([])
      File.rm(Config.mnesia_yielding_file())
      Local.start()
    else
      :ok
    end
  end

  @doc "Starts with the masters' data. They are masters for this once: later starts go by who was last."
  @spec rejoin(pos_integer) :: :ok | {:error, term}
  def rejoin(timeout_ms) do
    with :ok <- Local.start(),
         :ok <- Local.ready(timeout_ms),
         # in step now, which the start did not wait for
         :ok <- Watch.watch(),
         do: Local.sync()
  end
end
