defmodule MaculaStorage.CubDB.Place do
  @moduledoc false
  # What a store is started with: an app, or a directory, in CubDB's ways of naming one.

  alias MaculaStorage.Options

  @type t :: {:app, String.t()} | {:dir, Path.t()}

  @doc "The place, and the options beside it. A string is a path when it has a slash."
  @spec parse!(term, keyword) :: {t, keyword}
  def parse!(target, options) do
    cond do
      charlist?(target) ->
        {dir!(target), options}

      is_list(target) and Keyword.keyword?(target) ->
        in_options!(target, options)

      is_binary(target) and String.contains?(target, "/") ->
        {dir!(target), options}

      true ->
        {{:app, Options.app!(target)}, options}
    end
  end

  defp in_options!(target, options) do
    case Keyword.pop(target, :data_dir) do
      {nil, _} ->
        raise ArgumentError,
              "expected an app, a path or options with :data_dir, got: #{inspect(target, limit: 5)}"

      {dir, rest} ->
        {dir!(dir), Keyword.merge(rest, options)}
    end
  end

  @doc "A directory, as a path or charlist."
  @spec dir!(Path.t() | charlist) :: {:dir, Path.t()}
  def dir!(path) do
    path = if charlist?(path), do: List.to_string(path), else: path

    unless is_binary(path) and path != "" and not String.contains?(path, <<0>>) do
      raise ArgumentError, "expected a directory, got: #{inspect(path, limit: 5)}"
    end

    {:dir, Path.expand(path)}
  end

  defp charlist?([_ | _] = list),
    do: not List.improper?(list) and Enum.all?(list, &(is_integer(&1) and &1 in 1..0x10FFFF))

  defp charlist?(_other), do: false
end
