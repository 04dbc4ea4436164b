defmodule MaculaStorage.CubDB.Server do
  @moduledoc false
  # The process that stands for a store: what a supervisor starts and a name points to. It holds no
  # data and no call goes through it; the engine is reached by its handle. A store in a directory of its
  # own is this process's: it is closed when the process ends, however it ends.

  use GenServer

  alias MaculaStorage.{Apps, Call, Config, Error, Native, Options}
  alias MaculaStorage.CubDB.{Place, Store}

  @registry MaculaStorage.Stores
  @open_ms 60_000
  # how long the store of a process that was killed may take to close before the next opens it
  @closing_ms 10_000

  @genserver [:timeout, :spawn_opt, :hibernate_after, :debug]

  @doc false
  def start_link(target, options), do: start(:start_link, target, options)

  @doc false
  def start(target, options), do: start(:start, target, options)

  defp start(how, target, options) do
    {place, options} = Place.parse!(target, options)
    known = [name: {nil, :any}, auto_compact: {true, :any}, auto_file_sync: {true, :boolean}]

    given =
      Options.validate!(options, known ++ for(option <- @genserver, do: {option, {nil, :any}}))

    auto_compact!(given.auto_compact)
    name = given.name

    unless is_atom(name) or is_binary(name) do
      raise ArgumentError, "expected option :name to be an atom or string, got: #{inspect(name)}"
    end

    settings = {Keyword.get(options, :auto_compact), Keyword.get(options, :auto_file_sync)}

    start_named(
      how,
      {place, settings},
      name && to_string(name),
      Keyword.take(options, @genserver)
    )
  end

  @doc "Raises unless it is what CubDB takes as its option `:auto_compact`."
  @spec auto_compact!(term) :: :ok
  def auto_compact!(setting) when is_boolean(setting), do: :ok

  def auto_compact!({writes, factor})
      when is_integer(writes) and writes >= 0 and is_number(factor) and factor >= 0 and
             factor <= 1,
      do: :ok

  def auto_compact!(other) do
    raise ArgumentError,
          "expected :auto_compact to be true, false or {writes, factor from 0 to 1}, " <>
            "got: #{inspect(other)}"
  end

  @doc "The same as Rust takes it."
  @spec auto(boolean | {non_neg_integer, number}) :: :default | nil | {non_neg_integer, float}
  def auto(true), do: :default
  def auto(false), do: nil
  def auto({writes, factor}), do: {writes, factor * 1.0}

  # The name is registered by GenServer itself, so that one that is taken is an answer and no exit.
  defp start_named(how, {place, settings}, name, options) do
    via = if name, do: [name: {:via, Registry, {@registry, name, unopened(place)}}], else: []

    case Process.whereis(@registry) do
      # the application is not running
      nil -> {:error, :closed}
      _registry -> apply(GenServer, how, [__MODULE__, {place, name, settings}, via ++ options])
    end
  end

  defp unopened({:app, app}), do: app
  defp unopened({:dir, _path}), do: :opening

  @doc "The store that a pid, name or app stands for. Raises when a name's store is not there now."
  @spec store!(term) :: Store.t()
  def store!(db) do
    case store(db) do
      {:ok, store} -> store
      {:error, :closed} -> Error.raise!(:closed, :lookup, label(remembered(db)))
    end
  end

  @doc "As `store!/1`, with `{:error, :closed}` for a name whose store is not there now."
  @spec store(term) :: {:ok, Store.t()} | {:error, :closed}
  def store(pid) when is_pid(pid) do
    case lookup(pid) do
      [{_, store}] -> {:ok, store}
      [] -> raise ArgumentError, "expected an app or a store's pid or name, got: #{inspect(pid)}"
    end
  end

  def store(name) when is_atom(name) or is_binary(name) do
    case remembered(name) do
      # never a store's name: an app's, as nearly all are
      nil -> {:ok, Options.app!(name)}
      store -> named(to_string(name), store)
    end
  end

  def store(other), do: {:ok, Options.app!(other)}

  defp named(name, remembered) do
    case lookup(name) do
      [{_, :opening}] -> {:error, :closed}
      [{_, store}] -> {:ok, store}
      # A name that once stood for another store never turns into an app: what is written between two
      # lives of the store's process would land elsewhere.
      [] -> if remembered == name, do: {:ok, name}, else: {:error, :closed}
    end
  end

  defp label({:dir, path}), do: path
  defp label(app), do: app

  defp remembered(name), do: :persistent_term.get({__MODULE__, to_string(name)}, nil)

  @doc "The process that a pid or name stands for."
  @spec pid!(term) :: pid
  def pid!(pid) when is_pid(pid) do
    if lookup(pid) == [], do: store!(pid), else: pid
  end

  def pid!(name) when is_atom(name) or is_binary(name) do
    case lookup(to_string(name)) do
      [{pid, _store}] -> pid
      [] -> raise ArgumentError, "expected a store's pid or name, got: #{inspect(name)}"
    end
  end

  # A registry forgets the dead a moment after their death.
  defp lookup(key) do
    for {pid, store} <- Registry.lookup(@registry, key), Process.alive?(pid), do: {pid, store}
  rescue
    # no registry: the application is not running, which the use of the store will tell
    ArgumentError -> []
  end

  @impl true
  def init({{:app, app}, name, settings}) do
    with {:ok, _handle} <- Apps.app(app), :ok <- set(app, settings), do: stand_for(app, name, app)
  end

  def init({{:dir, path}, name, settings}) do
    # closed in terminate, when the supervisor says so
    Process.flag(:trap_exit, true)

    with :ok <- claim(path), {:ok, handle} <- open(path) do
      store = {:dir, path, handle}
      :ok = set(store, settings)
      if name, do: Registry.update_value(@registry, name, fn _opening -> store end)
      stand_for(store, name, {:dir, path})
    end
  end

  # What is not given stays as it is: an app's store may be in use already.
  defp set(store, {compact, sync}) do
    with :ok <- set(store, compact, &Native.kv_set_auto_compact(&1, auto(compact))),
         do: set(store, sync, &Native.kv_set_durability(&1, if(sync, do: :sync, else: :none)))
  end

  defp set(_store, nil, _fun), do: :ok
  defp set(store, _given, fun), do: Store.with_handle(store, fun)

  defp stand_for(store, name, remembered) do
    {:ok, _} = Registry.register(@registry, self(), store)
    remember(name, remembered)
    {:ok, store}
  end

  # One that is open in this VM is told at once; only one that is being closed is waited for.
  defp claim(path) do
    case Registry.register(@registry, {:dir, path}, nil) do
      {:ok, _} -> :ok
      {:error, {:already_registered, _pid}} -> {:stop, {:locked, os_pid()}}
    end
  end

  defp open(path) do
    config = Config.get()

    open = &Native.dir_open(&1, path, config.kv_cache_bytes, config.kv_history_bytes, @closing_ms)

    case Call.run(open, op: :open, app: path, timeout: @open_ms) do
      {:ok, handle} -> {:ok, handle}
      {:error, :locked} -> {:stop, {:locked, owner(path)}}
      {:error, reason} -> {:stop, reason}
    end
  end

  defp owner(path) do
    case Native.dir_owner(path) do
      {:ok, os_pid} -> os_pid
      {:error, _} -> nil
    end
  end

  defp os_pid, do: String.to_integer(System.pid())

  defp remember(nil, _store), do: :ok

  defp remember(name, store) do
    # a known name is not put again: a put of a new value makes every process look for the old one
    if remembered(name) != store, do: :persistent_term.put({__MODULE__, name}, store)
  end

  @impl true
  def handle_info({:EXIT, _pid, :normal}, store), do: {:noreply, store}
  def handle_info({:EXIT, _pid, reason}, store), do: {:stop, reason, store}
  def handle_info(_message, store), do: {:noreply, store}

  @impl true
  def terminate(_reason, {:dir, path, handle}),
    do: Call.run(&Native.dir_close(handle, &1), op: :stop, app: path, timeout: @open_ms)

  def terminate(_reason, _app), do: :ok
end
