defmodule MaculaStorage.Khepri.Tx do
  @moduledoc """
  Inside `MaculaStorage.Khepri.transaction/2`: reads that are recorded, writes that are kept.

  All reads see the state as of one moment, and the transaction's own writes. When what they saw has changed
  at the commit, nothing is written and the fun runs again.
  """

  alias MaculaStorage.Khepri
  alias MaculaStorage.Khepri.{Engine, Op, View, Wire}

  @enforce_keys [:ref, :view, :revision]
  defstruct [:ref, :view, :revision]

  @opaque t :: %__MODULE__{ref: reference, view: reference, revision: non_neg_integer}

  @doc "The value at a path. Cost: one dirty-I/O call."
  @spec get(t, Khepri.path()) :: {:ok, term} | {:error, :not_found}
  def get(%__MODULE__{} = tx, path) do
    etfs = Wire.path!(path)
    state = state!(tx)

    case written(state.writes, path) do
      {:put, value} -> {:ok, value}
      :deleted -> {:error, :not_found}
      nil -> read(tx, state, path, etfs)
    end
  end

  @doc """
  The values of all nodes that match a pattern, by path. Before the first write of the transaction only.
  The commit fails, and the fun runs again, also when something near was deleted meanwhile.
  Cost: a dirty-I/O call for each 200 nodes.
  """
  @spec get_many(t, Khepri.pattern()) :: {:ok, %{Khepri.path() => term}}
  def get_many(%__MODULE__{} = tx, pattern) do
    wire = Wire.pattern!(pattern)
    state = state!(tx)

    if state.ops != [],
      do: raise(ArgumentError, "a transaction reads by patterns before it writes")

    keep = fn path, node, found ->
      {:cont, Map.put(found, Wire.path(path), Wire.term(elem(node, 0)))}
    end

    case View.fold(tx.view, wire, %{}, keep) do
      {:ok, found} ->
        Process.put(tx.ref, %{state | walks: [wire | state.walks]})
        {:ok, found}

      failure ->
        throw({__MODULE__, :failed, failure})
    end
  end

  @doc "Puts a value, at the commit. Options as `MaculaStorage.Khepri.put/3`, without `timeout:`."
  @spec put(t, Khepri.path(), term, keyword) :: :ok
  def put(%__MODULE__{} = tx, path, value, options \\ []) do
    {op, _options} = Op.put!(path, value, options)
    write(tx, op, {:put, path, value})
  end

  @doc "Deletes a node and everything beneath it, at the commit."
  @spec delete(t, Khepri.path()) :: :ok
  def delete(%__MODULE__{} = tx, path),
    do: write(tx, {:delete, Wire.path!(path)}, {:delete, path})

  @doc false
  def run(fun, options) do
    until = if options.timeout == :infinity, do: :infinity, else: now() + options.timeout
    attempt(fun, options, until)
  end

  defp attempt(fun, options, until) do
    View.with_view(:linearizable, options.timeout, fn view, revision ->
      tx = %__MODULE__{ref: make_ref(), view: view, revision: revision}
      act(fun, tx)
    end)
    |> finish(fun, options, until)
  end

  defp act(fun, tx) do
    Process.put(tx.ref, %{reads: %{}, walks: [], writes: [], ops: []})
    {:done, fun.(tx), tx, Process.get(tx.ref)}
  catch
    :throw, {__MODULE__, :abort, reason} -> {:aborted, reason}
    :throw, {__MODULE__, :failed, failure} -> {:failed, failure}
  after
    Process.delete(tx.ref)
  end

  defp finish({:aborted, reason}, _fun, _options, _until), do: {:error, {:aborted, reason}}
  defp finish({:failed, failure}, _fun, _options, _until), do: failure

  defp finish({:error, _} = failure, _fun, _options, _until), do: failure

  defp finish({:done, result, tx, state}, fun, options, until) do
    reads =
      for {_path, {etfs, modified}} <- state.reads, do: {:node, etfs, {:modified, :eq, modified}}

    walks = for wire <- state.walks, do: {:unchanged, wire, tx.revision}

    case Engine.txn(reads ++ walks, Enum.reverse(state.ops), [], options) do
      {:ok, {:txn, true, _}} -> {:ok, result}
      {:ok, {:txn, false, _}} -> again(fun, options, until)
      failure -> failure
    end
  end

  defp again(fun, options, :infinity), do: attempt(fun, options, :infinity)

  defp again(fun, options, until) do
    case until - now() do
      left when left > 0 -> attempt(fun, %{options | timeout: left}, until)
      _ -> {:error, :conflict}
    end
  end

  defp read(tx, state, path, etfs) do
    case View.get(tx.view, etfs) do
      {:ok, node} ->
        modified = if node, do: elem(node, 3), else: 0
        reads = Map.put(state.reads, path, {etfs, modified})
        Process.put(tx.ref, %{state | reads: reads})
        value_of(node)

      failure ->
        throw({__MODULE__, :failed, failure})
    end
  end

  defp value_of(nil), do: {:error, :not_found}
  defp value_of({nil, _, _, _, _, _, _}), do: {:error, :not_found}
  defp value_of({value, _, _, _, _, _, _}), do: {:ok, Wire.term(value)}

  # the newest write that says something of this path
  defp written(writes, path) do
    Enum.find_value(writes, fn
      {:put, ^path, value} -> {:put, value}
      {:put, _, _} -> nil
      {:delete, deleted} -> if List.starts_with?(path, deleted), do: :deleted
    end)
  end

  defp write(tx, op, what) do
    state = state!(tx)
    Process.put(tx.ref, %{state | ops: [op | state.ops], writes: [what | state.writes]})
    :ok
  end

  defp state!(tx) do
    Process.get(tx.ref) || raise ArgumentError, "the transaction is over, or is another process's"
  end

  defp now, do: System.monotonic_time(:millisecond)
end
