defmodule MaculaStorage.CubDB.Server do
  @moduledoc false
  # The process that stands for a store: what a supervisor starts and a name points to. It holds no
  # data and no call goes through it; the app's engine is reached by its handle.

  use GenServer

  alias MaculaStorage.{Apps, Options}

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

    apply(GenServer, how, [__MODULE__, {app, name && to_string(name)}])
  end

  @doc "The app that a pid, name or app stands for."
  @spec app!(term) :: String.t()
  def app!(pid) when is_pid(pid) do
    case lookup(pid) do
      [{_, app}] -> app
      [] -> raise ArgumentError, "expected an app or a store's pid or name, got: #{inspect(pid)}"
    end
  end

  def app!(name) when is_atom(name) or is_binary(name) do
    case lookup(to_string(name)) do
      [{_, app}] -> app
      [] -> Options.app!(name)
    end
  end

  def app!(other), do: Options.app!(other)

  defp lookup(key) do
    Registry.lookup(@registry, key)
  rescue
    # no registry: the application is not running, which the use of the app will tell
    ArgumentError -> []
  end

  @impl true
  def init({app, name}) do
    with {:ok, _handle} <- Apps.app(app),
         {:ok, _} <- Registry.register(@registry, self(), app),
         {:ok, _} <- register_name(name, app) do
      {:ok, app}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  defp register_name(nil, _app), do: {:ok, nil}
  defp register_name(name, app), do: Registry.register(@registry, name, app)
end
