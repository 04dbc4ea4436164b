defmodule MaculaStorage.Apps do
  @moduledoc false
  # The apps that this VM has opened, and their connections: opened on first use, kept in ETS for
  # readers, closed when the application stops.
  #
  # Invariant: the table only ever saves an opening. Rust answers everyone who opens an app with the
  # same one, and a handle that answers `:closed` is taken out of the table.

  use GenServer, shutdown: 70_000

  alias MaculaStorage.{Call, Config, Native}
  alias MaculaStorage.Khepri.Endpoint
  alias MaculaStorage.MeshFS.{Courier, Refusals}

  @table __MODULE__
  @open_ms 60_000

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The base directory's handle, opened on first use."
  @spec base() :: {:ok, reference} | {:error, term}
  def base, do: lookup(:base, &ask_base/0)

  @doc "An app's handle, opened on first use, in the caller: opening one app waits for no other."
  @spec app(String.t()) :: {:ok, reference} | {:error, term}
  def app(name) do
    lookup({:app, name}, fn ->
      with {:ok, base} <- base() do
        Call.run(&Native.app_open(base, &1, name), op: :open, app: name, timeout: @open_ms)
      end
    end)
  end

  @doc "An app's SQLite connection, opened on first use, in the caller."
  @spec conn(String.t()) :: {:ok, reference} | {:error, term}
  def conn(name) do
    lookup({:conn, name}, fn ->
      with_app(name, fn app ->
        Call.run(&Native.sqlite_open(app, &1), op: :open, app: name, timeout: @open_ms)
      end)
    end)
  end

  @doc """
  Runs `use` with an app's handle. `{:error, :closed}` means that nothing was done, because a restore
  or `close_app/1` came between: once more then, with a fresh handle.
  """
  @spec with_app(String.t(), (reference -> result)) :: result | {:error, term} when result: any
  def with_app(name, use), do: with_handle({:app, name}, fn -> app(name) end, use)

  @doc "As `with_app/2`, with the app's SQLite connection."
  @spec with_conn(String.t(), (reference -> result)) :: result | {:error, term} when result: any
  def with_conn(name, use), do: with_handle({:conn, name}, fn -> conn(name) end, use)

  @doc "Runs `use` with this node's replicated state, opened on first use. As `with_app/2`."
  @spec with_state((reference -> result)) :: result | {:error, term} when result: any
  def with_state(use), do: with_handle(:state, &state/0, use)

  defp state, do: lookup(:state, fn -> open_state(nil) end)

  defp open_state(joins) do
    config = Config.get()
    if config.state_members, do: open_client(config), else: open_member(joins)
  end

  defp open_client(config) do
    certificates = if config.state_plain, do: nil, else: config.state_certificates

    open =
      &Native.state_open_client(&1, &2, to_string(node()), config.state_members, certificates)

    with {:ok, base} <- base(),
         do: Call.run(&open.(base, &1), op: :open, timeout: @open_ms)
  end

  defp open_member(joins) do
    name = Atom.to_string(node())

    with {:ok, base} <- base(),
         {:ok, state} <-
           Call.run(&Native.state_open(base, &1, name, joins), op: :open, timeout: @open_ms),
         :ok <- Endpoint.open(base, state, joins != nil) do
      {:ok, state}
    end
  end

  @doc "Runs `use` with this node's replicated files, opened on first use. As `with_app/2`."
  @spec with_mesh((reference -> result)) :: result | {:error, term} when result: any
  def with_mesh(use), do: with_handle(:mesh, &mesh/0, use)

  defp mesh, do: lookup(:mesh, fn -> with_state(&open_mesh/1) end)

  defp open_mesh(state) do
    config = Config.get()
    place = {config.mesh_zone, config.mesh_class, config.mesh_copies, config.mesh_rules}
    every = if config.mesh_scrub_every != :never, do: config.mesh_scrub_every
    bandwidth = if config.mesh_bandwidth != :infinity, do: config.mesh_bandwidth
    scrub = {every, config.mesh_scrub_rate}
    rates = {bandwidth, config.mesh_repair_rate}
    by_links? = config.mesh_transport == nil
    open = &Native.mesh_open(&1, state, &2, place, {scrub, rates}, {config.mesh_watch, by_links?})

    with {:ok, base} <- base(),
         {:ok, mesh} <- Call.run(&open.(base, &1), op: :open, timeout: @open_ms) do
      # there when these look, also one that starts now
      keep(:mesh, mesh)
      Refusals.look()
      if config.mesh_transport, do: Courier.look()
      {:ok, mesh}
    end
  end

  @doc "This node's replicated files, if they are open already."
  @spec opened_mesh() :: {:ok, reference} | :none | :no_table
  def opened_mesh, do: find(:mesh)

  @doc "Has this node's replicated files reach the other members', now that its state is linked."
  @spec link_mesh(reference) :: :ok | {:error, term}
  def link_mesh(state) do
    with {:ok, _mesh} <- open_mesh(state), do: :ok
  end

  @doc "Has this node's replicated state forget what it was, and wait to be let into a cluster, if one is given."
  @spec renew_state(boolean, binary | nil) :: {:ok, Path.t() | nil} | {:error, term}
  def renew_state(keep?, joins) do
    with {:ok, base} <- base(),
         _ = forget(:state),
         _ = forget(:mesh),
         {:ok, aside} <-
           Call.run(&Native.state_set_aside(base, &1, keep?), op: :set_aside, timeout: @open_ms),
         {:ok, state} <- open_state(joins) do
      keep(:state, state)
      {:ok, aside}
    end
  end

  @doc "Has other members reach this node's replicated state from now on."
  @spec listen_state() :: :ok | {:error, term}
  def listen_state do
    with {:ok, base} <- base(), do: with_state(&Endpoint.open(base, &1, true))
  end

  @doc "Close the replicated state."
  @spec close_state() :: :ok | {:error, term}
  def close_state do
    case find(:base) do
      {:ok, base} ->
        forget(:state)
        forget(:mesh)
        Call.run(&Native.state_close(base, &1), op: :close, timeout: @open_ms)

      :none ->
        :ok

      :no_table ->
        {:error, :closed}
    end
  end

  @doc "This node's replicated state, if it is open already."
  @spec opened_state() :: {:ok, reference} | :none | :no_table
  def opened_state, do: find(:state)

  @doc "An app's connection, if it is there already."
  @spec opened_conn(String.t()) :: {:ok, reference} | :none | :no_table
  def opened_conn(name), do: find({:conn, name})

  defp with_handle(key, get, use) do
    with {:ok, handle} <- get.() do
      case use.(handle) do
        {:error, :closed} ->
          forget(key, handle)
          with {:ok, handle} <- get.(), do: use.(handle)

        result ->
          result
      end
    end
  end

  @doc "Close an app: its engines, then its lock."
  @spec close(String.t()) :: :ok | {:error, term}
  def close(name) do
    with {:ok, base} <- find(:base) do
      forget({:app, name})
      forget({:conn, name})
      Call.run(&Native.app_close(base, &1, name), op: :close, app: name, timeout: @open_ms)
    else
      :none -> :ok
      :no_table -> {:error, :closed}
    end
  end

  @doc "Release a snapshot after `ms`, if nobody did."
  @spec release_after(reference, pos_integer) :: :ok
  def release_after(snapshot, ms) do
    Process.send_after(__MODULE__, {:release, snapshot}, ms)
    :ok
  end

  defp lookup(key, open) do
    case find(key) do
      {:ok, handle} ->
        {:ok, handle}

      :none ->
        with {:ok, handle} <- open.() do
          keep(key, handle)
          {:ok, handle}
        end

      :no_table ->
        {:error, :closed}
    end
  end

  # No table: the application is not running.
  defp find(key) do
    case :ets.lookup(@table, key) do
      [{_, handle}] -> {:ok, handle}
      [] -> :none
    end
  rescue
    ArgumentError -> :no_table
  end

  defp keep(key, handle) do
    :ets.insert(@table, {key, handle})
  rescue
    ArgumentError -> false
  end

  defp forget(key, handle) do
    :ets.delete_object(@table, {key, handle})
  rescue
    ArgumentError -> true
  end

  defp forget(key) do
    :ets.delete(@table, key)
  rescue
    ArgumentError -> true
  end

  defp ask_base do
    GenServer.call(__MODULE__, :open_base, @open_ms)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    # not running, or stopped while it was asked
    :exit, _ -> {:error, :closed}
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
    {:ok, nil}
  end

  @impl true
  def handle_call(:open_base, _from, state) do
    # another caller may have come first
    with :none <- find(:base), {:ok, base} <- open_base() do
      keep(:base, base)
      {:reply, {:ok, base}, state}
    else
      found_or_failed -> {:reply, found_or_failed, state}
    end
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

  defp open_base do
    config = Config.get()

    MaculaStorage.Error.wrap_result(
      Native.base_open(
        config.base_path,
        config.kv_cache_bytes,
        config.kv_history_bytes,
        config.sqlite_synchronous,
        config.usage_interval_ms
      ),
      :open,
      nil
    )
  end
end
