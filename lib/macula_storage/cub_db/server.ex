defmodule MaculaStorage.CubDB.Server do
  @moduledoc false
  # The process that stands for a store: what a supervisor starts and a name points to. It holds no
  # data and no call goes through it; the app's engine is reached by its handle.

  use GenServer

  alias MaculaStorage.{Apps, Error, Options}

  @registry MaculaStorage.Stores

  @doc false
  def start_link(app, options), do: start(:start_link, app, options)

  @doc false
  def start(app, options), do: start(:start, app, options)

  defp start(how, app, options) do
    app = Options.app!(app)
    %{name: name} = Options.validate!(options, name: {nil, :any})

    unless is_atom(name) or is_binary(name) do
      raise ArgumentError, "expected option :name to be an atom or string, got: #{inspect(name)}"
    end

    start_named(how, app, name && to_string(name))
  end

  # The name is registered by GenServer itself, so that one that is taken is an answer and no exit.
  defp start_named(how, app, name) do
    via = if name, do: [name: {:via, Registry, {@registry, name, app}}], else: []

    case Process.whereis(@registry) do
      # the application is not running
      nil -> {:error, :closed}
      _registry -> apply(GenServer, how, [__MODULE__, {app, name}, via])
    end
  end

  @doc "The app that a pid, name or app stands for. Raises when a name's store is not there now."
  @spec app!(term) :: String.t()
  def app!(db) do
    case app(db) do
      {:ok, app} -> app
      {:error, :closed} -> Error.raise!(:closed, :lookup, remembered(db))
    end
  end

  @doc "As `app!/1`, with `{:error, :closed}` for a name whose store is not there now."
  @spec app(term) :: {:ok, String.t()} | {:error, :closed}
  def app(pid) when is_pid(pid) do
    case lookup(pid) do
      [{_, app}] -> {:ok, app}
      [] -> raise ArgumentError, "expected an app or a store's pid or name, got: #{inspect(pid)}"
    end
  end

  def app(name) when is_atom(name) or is_binary(name) do
    case lookup(to_string(name)) do
      [{_, app}] -> {:ok, app}
      [] -> app_or_gone(to_string(name), remembered(name), name)
    end
  end

  def app(other), do: {:ok, Options.app!(other)}

  # A name that once stood for a store of another app never turns into an app: what is written between
  # two lives of the store's process would land elsewhere.
  defp app_or_gone(_name, nil, given), do: {:ok, Options.app!(given)}
  defp app_or_gone(name, name, _given), do: {:ok, name}
  defp app_or_gone(_name, _app, _given), do: {:error, :closed}

  defp remembered(name), do: :persistent_term.get({__MODULE__, to_string(name)}, nil)

  @doc "The process that a pid or name stands for."
  @spec pid!(term) :: pid
  def pid!(pid) when is_pid(pid) do
    if lookup(pid) == [], do: app!(pid), else: pid
  end

  def pid!(name) when is_atom(name) or is_binary(name) do
    case lookup(to_string(name)) do
      [{pid, _app}] -> pid
      [] -> raise ArgumentError, "expected a store's pid or name, got: #{inspect(name)}"
    end
  end

  # A registry forgets the dead a moment after their death.
  defp lookup(key) do
    for {pid, app} <- Registry.lookup(@registry, key), Process.alive?(pid), do: {pid, app}
  rescue
    # no registry: the application is not running, which the use of the app will tell
    ArgumentError -> []
  end

  @impl true
  def init({app, name}) do
    with {:ok, _handle} <- Apps.app(app),
         {:ok, _} <- Registry.register(@registry, self(), app) do
      remember(name, app)
      {:ok, app}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  defp remember(nil, _app), do: :ok

  defp remember(name, app) do
    # a known name is not put again: a put of a new value makes every process look for the old one
    if remembered(name) != app, do: :persistent_term.put({__MODULE__, name}, app)
  end
end
