defmodule MaculaStorage.Khepri.View do
  @moduledoc false
  # The state as of one moment, read page by page. A view ends with the process that opened it.
  #
  # A client of the cluster has no copy: each of its pages is as of a moment of its own, at or behind the view's
  # revision. A transaction is refused at its commit when that made a difference.

  alias MaculaStorage.{Apps, Call, Error, Native}
  alias MaculaStorage.Khepri.Engine

  # a page of the largest values is a few of these; the rest is what Rust cuts a page at
  @page_len 200

  @opaque view :: reference | {:client, timeout}

  @doc false
  @spec with_view(:linearizable | :local, timeout, (view, non_neg_integer -> result)) ::
          result | {:error, term}
        when result: term
  def with_view(consistency, timeout, use) do
    if Engine.client?(),
      do: with_revision({:client, timeout}, use),
      else: with_own_view(consistency, timeout, use)
  end

  defp with_revision(view, use) do
    with {:ok, %{revision: revision}} <- query(view, :status), do: use.(view, revision)
  end

  defp with_own_view(consistency, timeout, use) do
    rust_ms = MaculaStorage.rust_ms(timeout)
    options = [op: :view, timeout: MaculaStorage.wait_ms(timeout)]
    open = fn state -> Call.run(&Native.state_view(state, &1, consistency, rust_ms), options) end

    with {:ok, view} <- Apps.with_state(open) do
      try do
        with_revision(view, use)
      after
        Native.state_view_release(view)
      end
    end
  end

  @doc "Folds over what matches and has data: `fun.(path, node, acc)`, both as `MaculaStorage.Khepri.Wire` has them."
  @spec fold(view, tuple, acc, ([binary], tuple, acc -> {:cont, acc} | {:halt, term})) ::
          {:ok, acc} | {:error, term}
        when acc: term
  def fold(view, wire, acc, fun), do: fold(view, wire, nil, acc, fun)

  defp fold(view, wire, behind, acc, fun) do
    with {:ok, {nodes, more}} <- query(view, {:get_many, wire, behind, @page_len}) do
      nodes
      |> Enum.filter(fn {_path, node} -> elem(node, 0) != nil end)
      |> Enum.reduce_while({:ok, acc}, fn {path, node}, {:ok, acc} ->
        step(fun.(path, node, acc))
      end)
      |> next(view, wire, nodes, more, fun)
    end
  end

  defp step({:cont, acc}), do: {:cont, {:ok, acc}}
  defp step({:halt, failure}), do: {:halt, failure}

  defp next({:ok, acc}, view, wire, nodes, true, fun),
    do: fold(view, wire, nodes |> List.last() |> elem(0), acc, fun)

  defp next(done_or_failed, _view, _wire, _nodes, _more, _fun), do: done_or_failed

  @doc "A node, as `MaculaStorage.Khepri.Wire` has it, or `nil`."
  @spec get(view, [binary]) :: {:ok, tuple | nil} | {:error, term}
  def get(view, path), do: query(view, {:get, path})

  # whichever member answers: not older than the revision that another one told
  defp query({:client, timeout}, query),
    do: Engine.query(query, %{consistency: :linearizable, timeout: timeout})

  defp query(view, query), do: Error.wrap_result(Native.state_view_query(view, query), :view, nil)
end
