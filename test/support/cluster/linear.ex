defmodule MaculaStorage.Scenario.Linear do
  @moduledoc """
  Whether a history of one register is linearizable: Wing and Gong's search with Lowe's memo of what was tried.

  An operation is `{begun, ended, what}` with `ended` an integer, or `:never` where the outcome is not known; `what` is
  `{:put, v}`, `{:get, v}`, `{:cas, old, new}` (it swapped) or `{:cas_not, old}` (it did not). A register begins `nil`.

  Invariant: what has an end took place once between its begin and its end; what has none, once after its begin, or never.
  """
  import Bitwise

  @type what :: {:put, term} | {:get, term} | {:cas, term, term} | {:cas_not, term}
  @type op :: {integer, integer | :never, what}

  # more was never needed for a right history; undecided fails, too
  @tried_max 1_000_000

  @doc "`:ok`, or the least that was left undone by any order, or that the search was too long."
  @spec check([op]) :: :ok | {:error, {:not_linearizable, [op]} | :undecided}
  def check(ops) do
    left =
      ops
      |> Enum.sort_by(&elem(&1, 0))
      |> Enum.with_index(fn {begun, ended, what}, i -> {1 <<< i, begun, ended, what} end)

    case search(left, 0, nil, %{tried: MapSet.new(), least: left}) do
      :found -> :ok
      %{tried: :too_many} -> {:error, :undecided}
      %{least: least} -> {:error, {:not_linearizable, Enum.map(least, &told/1)}}
    end
  end

  defp told({_bit, begun, ended, what}), do: {begun, ended, what}

  defp search(left, done, value, memo) do
    cond do
      memo.tried == :too_many ->
        memo

      Enum.all?(left, &(elem(&1, 2) == :never)) ->
        :found

      MapSet.member?(memo.tried, {done, value}) ->
        memo

      true ->
        memo = remember(memo, left, {done, value})

        left
        |> next([], :never)
        |> Enum.reduce_while(memo, &step(&1, &2, {left, done, value}))
    end
  end

  defp step({bit, _, _, what} = op, memo, {left, done, value}) do
    with {:ok, value} <- apply_to(what, value),
         :found <- search(List.delete(left, op), done ||| bit, value, memo) do
      {:halt, :found}
    else
      :no -> {:cont, memo}
      memo -> {:cont, memo}
    end
  end

  defp remember(memo, left, place) do
    least = if length(left) < length(memo.least), do: left, else: memo.least

    if MapSet.size(memo.tried) >= @tried_max,
      do: %{memo | tried: :too_many},
      else: %{memo | tried: MapSet.put(memo.tried, place), least: least}
  end

  # Those that may be the next one: begun before any other of those left has ended. An atom is more than any number.
  defp next([{_, begun, ended, _} = op | rest], found, first_end) when begun <= first_end,
    do: next(rest, [op | found], min(first_end, ended))

  # what ends first is mostly first; what never ended is tried last
  defp next(_rest, found, _first_end), do: Enum.sort_by(found, &elem(&1, 2))

  defp apply_to({:put, new}, _value), do: {:ok, new}
  defp apply_to({:get, value}, value), do: {:ok, value}
  defp apply_to({:cas, old, new}, old), do: {:ok, new}
  defp apply_to({:cas_not, old}, value) when old != value, do: {:ok, value}
  defp apply_to(_what, _value), do: :no
end
