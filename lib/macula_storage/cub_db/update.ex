defmodule MaculaStorage.CubDB.Update do
  @moduledoc false
  # Optimistic updates: read, let the caller's function compute, write if what was read is unchanged.
  # Writers do not wait for the function, and share syncs. After some conflicts it takes the exclusive
  # turn, so that it comes to an end.
  #
  # Invariant: unchanged means that the stored bytes are the ones read. Bytes made anew could differ: the
  # external format of equal terms depends on the version of OTP, and of maps on the running VM.

  alias MaculaStorage.CubDB.{Pages, Store, Terms, Tx}
  alias MaculaStorage.Error

  @typep entries :: Enumerable.t()
  @typep ttl :: pos_integer | :infinity

  @conflicts_max 3
  # what is read comes back as a condition: a copy that costs more than a turn from here on
  @bytes_max 1_048_576

  @doc """
  `fun` gets a map of those of `keys` that are there, and answers `{result, entries_to_put,
  keys_to_delete}`. It may be run again. Nothing to write: nothing is written. What is put has `ttl`.
  """
  @spec run(Store.t(), atom, [term], (map -> {result, entries | nil, [term] | nil}), ttl) ::
          result | {:error, term}
        when result: any
  def run(store, op, keys, fun, ttl \\ :infinity) do
    Store.refuse_nested!(store)
    optimistic(store, op, keys, &computed(fun.(&1), ttl), @conflicts_max)
  end

  @doc "Writes if the key holds `expected`: `{:ok, value}`, or `:error` for nothing."
  @spec compare(Store.t(), atom, term, {:ok, term} | :error, entries, [term], ttl) ::
          :ok | {:error, term}
  def compare(store, op, key, expected, entries, keys, ttl \\ :infinity)

  def compare(store, op, key, :error, entries, keys, ttl) do
    {:ok, ops} = computed({:ok, entries, keys}, ttl)
    Store.write(store, op, ops, [{:is, Terms.key(key), nil}])
  end

  def compare(store, op, key, {:ok, expected}, entries, keys, ttl) do
    {:ok, ops} = computed({:ok, entries, keys}, ttl)
    condition = {:is, Terms.key(key), :erlang.term_to_binary(expected)}

    with {:error, :conflict} <- Store.write(store, op, ops, [condition]) do
      # the same value may be stored in another form
      same = fn
        %{^key => value} when value === expected -> {:ok, entries, keys}
        %{} -> {{:error, :conflict}, [], []}
      end

      run(store, op, [key], same, ttl)
    end
  end

  def compare(_store, _op, _key, other, _entries, _keys, _ttl) do
    raise ArgumentError,
          "expected what the key is to hold as {:ok, value} or :error, " <>
            "got: #{inspect(other, limit: 5)}"
  end

  defp optimistic(store, op, keys, fun, tries_left) do
    encoded = Enum.map(keys, &Terms.key/1)

    with {:ok, found} <- read(store, op, encoded) do
      if tries_left == 0 or bytes(found) > @bytes_max,
        do: exclusive(store, op, keys, fun),
        else: attempt(store, op, keys, fun, tries_left, Enum.zip(encoded, found))
    end
  end

  defp read(store, op, keys) do
    Error.wrap_result(
      Store.with_handle(store, &Pages.get_multi_raw(&1, keys)),
      op,
      Store.name(store)
    )
  end

  defp bytes(found), do: Enum.reduce(found, 0, &(&2 + byte_size(&1 || "")))

  defp attempt(store, op, keys, fun, tries_left, found) do
    values =
      for {key, {_, value}} <- Enum.zip(keys, found),
          value,
          into: %{},
          do: {key, :erlang.binary_to_term(value)}

    {result, ops} = Store.alone(store, fn -> fun.(values) end)
    conditions = for {key, value} <- found, do: {:is, key, value}

    case ops == [] || Store.write(store, op, ops, conditions) do
      {:error, :conflict} -> optimistic(store, op, keys, fun, tries_left - 1)
      {:error, _} = error -> error
      _written -> result
    end
  end

  defp exclusive(store, op, keys, fun) do
    Tx.run(store, op, fn tx ->
      case Tx.try_get_multi(tx, keys) do
        {:ok, values} -> finish(tx, fun.(values))
        {:error, _} = error -> {:cancel, error}
      end
    end)
  end

  defp finish(_tx, {result, []}), do: {:cancel, result}

  defp finish(tx, {result, ops}) do
    case Tx.try_write(tx, ops) do
      :ok -> {:commit, tx, result}
      {:error, _} = error -> {:cancel, error}
    end
  end

  defp computed({result, entries, keys}, ttl) do
    puts = for {key, value} <- entries || [], do: Terms.put(key, value, ttl)
    {result, puts ++ Enum.map(keys || [], &Terms.delete/1)}
  end

  defp computed(other, _ttl) do
    raise ArgumentError,
          "expected the function to answer {result, entries_to_put, keys_to_delete}, " <>
            "got: #{inspect(other, limit: 5)}"
  end
end
