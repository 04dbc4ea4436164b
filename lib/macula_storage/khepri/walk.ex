defmodule MaculaStorage.Khepri.Walk do
  @moduledoc false
  # Many nodes, a page at a time: each page sees the state of its own moment.

  alias MaculaStorage.Khepri.{Engine, Wire}

  @page_len 1000

  @doc false
  def names(path, options), do: names(path, nil, options.limit, options, [])

  defp names(path, behind, limit, options, pages) do
    page_len = min(limit, @page_len)

    case Engine.query({:list, path, behind, page_len}, options) do
      {:ok, names} ->
        left = if limit == :infinity, do: :infinity, else: limit - length(names)
        pages = [Enum.map(names, &Wire.term/1) | pages]

        if length(names) < page_len or left == 0,
          do: {:ok, pages |> Enum.reverse() |> Enum.concat()},
          else: names(path, List.last(names), left, options, pages)

      failure ->
        failure
    end
  end

  @doc false
  def fold(pattern, acc, fun, options), do: fold(pattern, nil, acc, fun, options)

  defp fold(pattern, behind, acc, fun, options) do
    query = {:get_many, pattern, behind, @page_len}

    with {:ok, {nodes, more}} <- Engine.query(query, options) do
      acc =
        for {path, node} <- nodes,
            options.details or elem(node, 0) != nil,
            reduce: acc,
            do: (acc -> fun.(Wire.path(path), Wire.node(node), acc))

      if more,
        do: fold(pattern, nodes |> List.last() |> elem(0), acc, fun, options),
        else: {:ok, acc}
    end
  end
end
