defmodule MaculaStorage.Cache do
  @moduledoc """
  A part of the replicated state in this VM's memory, kept current by a watch, for reads at the price of an ETS
  lookup.

      children = [{MaculaStorage.Cache, prefix: [:apps, :console], name: :console_state}]

  Reads: `get/3`, `fetch/3`, `list/3`; or `MaculaStorage.Khepri.get(path, consistency: :cached)`, which takes
  whichever cache covers the path, the one with the longest prefix, and reads `consistency: :local` when none does.

  A read is as fresh as the watch: a moment behind what this node has applied, which is behind what was
  answered elsewhere. A cache that lost its feed (the state was closed, the history went on, a process of it died)
  says `{:error, :stale}` to reads, unless they have `stale: :ok`, fills itself again and goes on. Each key by itself
  changes at once; keys that one transaction changed may be seen one after the other.

  Memory: `max_bytes:`. Beyond it values are not taken, `stats/1` says `complete: false`, and what is not held is
  read as `consistency: :local`.

  `persistent:` paths of keys that hardly change are kept in `:persistent_term` too: reads copy nothing, and each change
  costs a garbage collection of every process of the VM.
  """

  use GenServer

  alias MaculaStorage.Cache.{Covers, Table}
  alias MaculaStorage.{Khepri, Options}
  alias MaculaStorage.Khepri.{View, Watches, Wire}

  @type name :: atom
  @type option ::
          {:prefix, Khepri.path()}
          | {:name, name}
          | {:max_bytes, pos_integer | :infinity}
          | {:persistent, [Khepri.path()]}

  @start_options [
    prefix: {nil, :any},
    name: {nil, :any},
    max_bytes: {67_108_864, :ttl},
    persistent: {[], :any}
  ]
  @retry_ms 10
  @retry_ms_max 1_000
  @view_ms 30_000

  @doc """
  Starts a cache of what is at and beneath `prefix:`, named `name:` (an atom). Options: `max_bytes:` (default 64 MiB, or
  `:infinity`), `persistent:`. Reads are stale until it is filled, see `wait/2`.

  Cost: a process, a table, and a watch; filling reads the prefix once, as of one moment.

      iex> MaculaStorage.Khepri.put([:doc_cache, :port], 4000)
      iex> {:ok, _pid} = MaculaStorage.Cache.start_link(prefix: [:doc_cache], name: :doc_cache)
      iex> MaculaStorage.Cache.wait(:doc_cache)
      :ok
      iex> MaculaStorage.Cache.get(:doc_cache, [:doc_cache, :port])
      {:ok, 4000}
      iex> MaculaStorage.Khepri.get([:doc_cache, :port], consistency: :cached)
      {:ok, 4000}
      iex> GenServer.stop(:doc_cache)
      :ok
  """
  @spec start_link([option]) :: GenServer.on_start()
  def start_link(options) do
    options = Options.validate!(options, @start_options)
    # misuse is told to the caller
    for path <- [options.prefix | options.persistent], do: Wire.path!(path)

    unless is_atom(options.name) and options.name != nil,
      do: raise(ArgumentError, "expected name: to be an atom, got: #{inspect(options.name)}")

    for path <- options.persistent, not List.starts_with?(path, options.prefix) do
      raise ArgumentError, "expected persistent: paths beneath the prefix, got: #{inspect(path)}"
    end

    GenServer.start_link(__MODULE__, options, name: options.name)
  end

  @doc "For a supervisor: `{MaculaStorage.Cache, prefix: path, name: name}`."
  @spec child_spec([option]) :: Supervisor.child_spec()
  def child_spec(options),
    do: %{id: {__MODULE__, options[:name]}, start: {__MODULE__, :start_link, [options]}}

  @doc """
  The value at a path: `{:ok, value}`, `{:error, :not_found}`, or `{:error, :stale}` unless `stale: :ok`. What a full cache
  does not hold is read from the state, `consistency: :local`. `ArgumentError` of a path outside of the prefix.

  Cost: an ETS lookup, which copies the value.
  """
  @spec get(name, Khepri.path(), stale: :ok | :error) ::
          {:ok, term} | {:error, :not_found | :stale} | Khepri.failure()
  def get(name, path, options \\ []) do
    case Covers.named(name) do
      nil -> {:error, :stale}
      cache -> read!(cache, path, options)
    end
  end

  @doc "As `get/3`, with a default where nothing is; raises `MaculaStorage.Error` where that is not known."
  @spec fetch(name, Khepri.path(), term) :: term
  def fetch(name, path, default \\ nil) do
    case get(name, path) do
      {:ok, value} -> value
      {:error, :not_found} -> default
      {:error, reason} -> MaculaStorage.Error.raise!(reason, :cache, nil)
    end
  end

  @doc """
  The names of a node's children in term order, as `MaculaStorage.Khepri.list/2`. Options and errors as `get/3`.

  Cost: walks the paths of the whole cache: for caches of thousands, not millions.
  """
  @spec list(name, Khepri.path(), stale: :ok | :error) :: {:ok, [term]} | {:error, term}
  def list(name, path, options \\ []) do
    stale? = stale!(options)

    case Covers.named(name) do
      nil ->
        {:error, :stale}

      cache ->
        covered!(cache, path)

        case Table.children(cache, path, stale?) do
          :elsewhere -> Khepri.list(path, consistency: :local)
          found -> found
        end
    end
  end

  @doc """
  Waits until a cache is filled and fed; what was changed since may be a moment behind. Errors: `{:error, :timeout}`,
  `{:error, :closed}` when there is no such cache. Cost: a message to and from the cache's process.
  """
  @spec wait(name, timeout) :: :ok | {:error, :timeout | :closed}
  def wait(name, timeout \\ 5_000) do
    GenServer.call(name, :wait, timeout)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    :exit, _ -> {:error, :closed}
  end

  @doc """
  Figures: `state` (`:empty`, `:ready`, `:stale`), `revision`, `entries`, `bytes`, `max_bytes`, `complete`, `hits`, `misses`,
  `fills`; `nil` when there is no such cache. A miss is a read of what a cache that is full does not hold, or of a stale one.
  """
  @spec stats(name) :: map | nil
  def stats(name) do
    with %{} = cache <- Covers.named(name), do: Table.stats(cache)
  end

  # What `MaculaStorage.Khepri.get/2` reads with `consistency: :cached`.
  @doc false
  @spec cached(Khepri.path(), boolean) :: {:ok, term} | {:error, term}
  def cached(path, stale) do
    case Covers.covering(path) do
      nil ->
        local(path)

      cache ->
        case Table.get(cache, path, stale) do
          # one that was never filled, or was killed, covers nothing
          nothing when nothing in [:empty, :gone, :elsewhere] -> local(path)
          found -> found
        end
    end
  end

  defp read!(cache, path, options) do
    covered!(cache, path)
    read(cache, path, if(options == [], do: false, else: stale!(options)))
  end

  defp read(cache, path, stale?) do
    case Table.get(cache, path, stale?) do
      :elsewhere -> local(path)
      nothing when nothing in [:empty, :gone] -> {:error, :stale}
      found -> found
    end
  end

  defp local(path), do: Khepri.get(path, consistency: :local)

  defp stale!(options),
    do: Options.validate!(options, stale: {:error, {:one_of, [:ok, :error]}}).stale == :ok

  defp covered!(%{prefix: prefix}, path) do
    unless Covers.prefix?(prefix, path),
      do:
        raise(ArgumentError, "expected a path beneath #{inspect(prefix)}, got: #{inspect(path)}")
  end

  ## The process

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    cache = Table.new(options)
    Covers.add(cache)
    state = %{cache: cache, ref: nil, feed: nil, waiting: [], retry_ms: @retry_ms}
    {:ok, state, {:continue, :fill}}
  end

  @impl true
  def handle_continue(:fill, state), do: {:noreply, fill(state)}

  @impl true
  def handle_call(:wait, from, state) do
    if state.ref,
      do: {:reply, :ok, state},
      else: {:noreply, %{state | waiting: [from | state.waiting]}}
  end

  @impl true
  def handle_info({Khepri, ref, revision, events}, %{ref: ref} = state) do
    Table.apply_events(state.cache, revision, events)
    {:noreply, state}
  end

  def handle_info({Khepri, ref, why}, %{ref: ref} = state) when why in [:closed, :history_gone],
    do: {:noreply, lost(state)}

  def handle_info({:DOWN, feed, :process, _, _}, %{feed: feed} = state),
    do: {:noreply, lost(%{state | feed: nil})}

  def handle_info(:fill, %{ref: nil} = state), do: {:noreply, fill(state)}
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Covers.remove(state.cache)
    Table.forget(state.cache)
  end

  # until all new values are there readers are told that what they see is stale
  defp fill(%{cache: cache} = state) do
    feed = state.feed || Process.monitor(Watches)

    case View.with_view(:local, @view_ms, &filled(cache, &1, &2)) do
      {:ok, ref} ->
        Table.ready(cache)
        for from <- state.waiting, do: GenServer.reply(from, :ok)
        %{state | ref: ref, feed: feed, waiting: [], retry_ms: @retry_ms}

      _failure ->
        retry(%{state | feed: feed})
    end
  end

  # the watch first: what comes meanwhile waits in the mailbox
  defp filled(cache, view, revision) do
    with {:ok, ref, ^revision} <- Khepri.watch(cache.prefix ++ [:**], from: revision) do
      wire = Wire.pattern!(cache.prefix ++ [:**])

      case Table.fill(cache, revision, &View.fold(view, wire, &1, &2)) do
        :ok ->
          {:ok, ref}

        failure ->
          Khepri.unwatch(ref)
          failure
      end
    end
  end

  defp lost(state) do
    Table.stale(state.cache)
    retry(%{state | ref: nil})
  end

  defp retry(state) do
    Process.send_after(self(), :fill, state.retry_ms)
    %{state | retry_ms: min(state.retry_ms * 2, @retry_ms_max)}
  end
end
