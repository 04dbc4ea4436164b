defmodule MaculaStorage.SQLite.Sqlite3.Mode do
  @moduledoc false
  # How a connection opens its file, as exqlite's users say it.

  @doc false
  @spec parse!(term) :: {write :: boolean, create :: boolean}
  def parse!(mode), do: mode!(mode)

  defp mode!(mode) when mode in [:readwrite, :readonly, :create], do: modes!([mode])
  defp mode!([_ | _] = modes), do: modes!(modes)

  defp mode!(:nomutex) do
    raise ArgumentError,
          "expected mode to be `:readwrite` or `:readonly`, can't use a single :nomutex mode"
  end

  defp mode!(mode) do
    raise ArgumentError,
          "expected mode to be `:readwrite`, `:readonly` or list of modes, but received #{inspect(mode)}"
  end

  defp modes!(modes) do
    case Enum.find(modes, &(&1 not in [:readwrite, :readonly, :nomutex, :create])) do
      nil ->
        {:readwrite in modes or :create in modes, :create in modes}

      mode ->
        raise ArgumentError,
              "expected mode to be `:readwrite`, `:readonly`, `:nomutex` or `:create`, but received #{inspect(mode)}"
    end
  end
end
