defmodule MaculaStorage.Apps do
  @moduledoc false
  # The apps that this VM has opened, and their connections: opened on first use, kept in ETS for
  # readers, closed when the application stops.
  #
  # Invariant: this process opens and closes; everyone else reads handles from the table.

  use GenServer, shutdown: 70_000

  alias MaculaStorage.{Call, Config, Native}

  @table __MODULE__
  @open_ms 60_000

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The base directory's handle, opened on first use."
  @spec base() :: {:ok, reference} | {:error, term}
  def base, do: lookup(:base, fn -> ask({:open, :base}) end)

  @doc "An app's handle, opened on first use."
  @spec app(String.t()) :: {:ok, reference} | {:error, term}
  def app(name), do: lookup({:app, name}, fn -> ask({:open, {:app, name}}) end)

  @doc "An app's SQLite connection, opened on first use."
  @spec conn(String.t()) :: {:ok, reference} | {:error, term}
  def conn(name), do: lookup({:conn, name}, fn -> ask({:open, {:conn, name}}) end)

  @doc "Forget a connection that answered `:closed`: a restore closed it."
  @spec forget_conn(String.t(), reference) :: :ok
  def forget_conn(name, conn) do
    :ets.match_delete(@table, {{:conn, name}, conn})
    :ok
  end

  @doc "Close an app: its engines, then its lock."
  @spec close(String.t()) :: :ok | {:error, term}
  def close(name), do: ask({:close, name})

  @doc "Release a snapshot after `ms`, if nobody did."
  @spec release_after(reference, pos_integer) :: :ok
  def release_after(snapshot, ms) do
    Process.send_after(__MODULE__, {:release, snapshot}, ms)
    :ok
  end

  defp lookup(key, open) do
    case :ets.lookup(@table, key) do
      [{_, handle}] -> {:ok, handle}
      [] -> open.()
    end
  rescue
    # no table: the application is not running
    ArgumentError -> {:error, :closed}
  end

  defp ask(request) do
    GenServer.call(__MODULE__, request, @open_ms + 5_000)
  catch
    # not running, or stopped while it was asked
    :exit, {reason, _} when reason in [:noproc, :shutdown, :normal] -> {:error, :closed}
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
    {:ok, nil}
  end

  @impl true
  def handle_call({:open, key}, _from, state), do: {:reply, open(key), state}

  def handle_call({:close, name}, _from, state) do
    :ets.delete(@table, {:app, name})
    :ets.delete(@table, {:conn, name})
    {:reply, close_app(name), state}
  end

  @impl true
  def handle_info({:release, snapshot}, state) do
    Native.kv_snapshot_release(snapshot)
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, _state) do
    case :ets.lookup(@table, :base) do
      [{_, base}] -> Call.run(&Native.base_close(base, &1), op: :stop, timeout: @open_ms)
      [] -> :ok
    end
  end

  defp open(key) do
    # another caller may have come first
    case :ets.lookup(@table, key) do
      [{_, handle}] ->
        {:ok, handle}

      [] ->
        with {:ok, handle} <- open_new(key) do
          :ets.insert(@table, {key, handle})
          {:ok, handle}
        end
    end
  end

  defp open_new(:base) do
    config = Config.get()

    MaculaStorage.Error.wrap_result(
      Native.base_open(config.base_path, config.kv_cache_bytes, config.usage_interval_ms),
      :open,
      nil
    )
  end

  defp open_new({:app, name}) do
    with {:ok, base} <- open(:base) do
      Call.run(&Native.app_open(base, &1, name), op: :open, app: name, timeout: @open_ms)
    end
  end

  defp open_new({:conn, name}) do
    with {:ok, app} <- open({:app, name}) do
      Call.run(&Native.sqlite_open(app, &1), op: :open, app: name, timeout: @open_ms)
    end
  end

  defp close_app(name) do
    with [{_, base}] <- :ets.lookup(@table, :base) do
      Call.run(&Native.app_close(base, &1, name), op: :close, app: name, timeout: @open_ms)
    else
      [] -> :ok
    end
  end
end
