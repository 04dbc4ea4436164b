defmodule MaculaStorage.CubDB.Tx do
  @moduledoc """
  The transaction that `MaculaStorage.CubDB.transaction/3` gives to its function.

  Reads see the transaction's own writes. Functions that write return the transaction, as CubDB's
  do; it is one object, so that a value of it kept from before a write shows that write too. After
  its deadline every function raises a `MaculaStorage.Error` of kind `:timeout`.
  """

  alias MaculaStorage.CubDB.{Pages, Store, Terms}
  alias MaculaStorage.{Call, Error, Native, Options}

  @enforce_keys [:handle, :app]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{handle: reference, app: String.t()}

  @transaction_ms 30_000

  @doc false
  # The exclusive turn: begin, run, commit or abort.
  def run(store, op, fun, timeout \\ @transaction_ms) do
    Store.refuse_nested!(store)

    begin = fn handle ->
      begin = &Native.kv_begin(handle, &1, timeout)
      Call.run(begin, op: op, app: Store.name(store), timeout: :infinity)
    end

    with {:ok, handle} <- Store.with_handle(store, begin) do
      tx = %__MODULE__{handle: handle, app: Store.name(store)}

      try do
        Store.alone(store, fn -> fun.(tx) end)
      else
        {:commit, %__MODULE__{handle: ^handle}, result} -> with :ok <- commit(tx), do: result
        {:cancel, result} -> result
        other -> raise ArgumentError, wrong(other)
      after
        # after a commit this changes nothing
        abort(tx)
      end
    end
  end

  defp wrong(other) do
    "expected the transaction to answer {:commit, tx, result} or {:cancel, result}, " <>
      "got: #{inspect(other, limit: 5)}"
  end

  @doc "The value of a key, or `default`."
  @spec get(t, term, term) :: term
  def get(tx, key, default \\ nil) do
    case fetch(tx, key) do
      {:ok, value} -> value
      :error -> default
    end
  end

  @doc "`{:ok, value}` of a key, or `:error`."
  @spec fetch(t, term) :: {:ok, term} | :error
  def fetch(tx, key), do: answer!(Pages.fetch(tx.handle, key), tx)

  @doc "Whether a key is there."
  @spec has_key?(t, term) :: boolean
  def has_key?(tx, key) do
    {:ok, there?} = answer!(Pages.has_key?(tx.handle, key), tx)
    there?
  end

  @doc "As `MaculaStorage.CubDB.ttl/2`, the transaction's own writes included."
  @spec ttl(t, term) :: {:ok, pos_integer | :infinity} | :error
  def ttl(tx, key), do: answer!(Pages.ttl(tx.handle, key), tx)

  @doc "A map of those of `keys` that are there."
  @spec get_multi(t, [term]) :: map
  def get_multi(tx, keys) do
    {:ok, found} = answer!(Pages.get_multi(tx.handle, keys), tx)
    found
  end

  @doc """
  `{:ok, value}` of a key if it differs from what `snapshot` has, else `:unchanged`; `:error` when it
  is not there.
  """
  @spec refetch(t, term, MaculaStorage.CubDB.Snapshot.t()) :: :unchanged | {:ok, term} | :error
  def refetch(tx, key, snapshot) do
    now = fetch(tx, key)
    if now === MaculaStorage.CubDB.Snapshot.fetch(snapshot, key), do: :unchanged, else: now
  end

  @doc "How many entries there are, the transaction's own writes counted."
  @spec size(t) :: non_neg_integer
  def size(tx) do
    {:ok, size} = answer!(Pages.size(tx.handle), tx)
    size
  end

  @doc "As `MaculaStorage.CubDB.count/2`, the transaction's own writes counted."
  @spec count(t, [MaculaStorage.CubDB.select_option()]) :: non_neg_integer
  def count(tx, options \\ []) do
    {:ok, count} = answer!(Pages.count(tx.handle, Pages.bounds!(options)), tx)
    count
  end

  @doc "As `MaculaStorage.CubDB.select/2`, with the transaction's own writes up to the page being read."
  @spec select(t, [MaculaStorage.CubDB.select_option()]) :: Enumerable.t()
  def select(tx, options \\ []), do: Pages.stream_of(tx.handle, Pages.bounds!(options))

  @doc "Writes an entry. Options: `:ttl`, see `MaculaStorage.CubDB.put/4`; it begins with this call."
  @spec put(t, term, term, [MaculaStorage.CubDB.put_option()]) :: t
  def put(tx, key, value, options \\ []),
    do: write(tx, [Terms.put(key, value, Options.ttl!(options))])

  @doc "As `put/4`, unless the key is there: `{:error, :exists}`."
  @spec put_new(t, term, term, [MaculaStorage.CubDB.put_option()]) :: t | {:error, :exists}
  def put_new(tx, key, value, options \\ []) do
    Options.ttl!(options)
    if has_key?(tx, key), do: {:error, :exists}, else: put(tx, key, value, options)
  end

  @doc "Deletes a key."
  @spec delete(t, term) :: t
  def delete(tx, key), do: write(tx, [Terms.delete(key)])

  @doc "Deletes all entries."
  @spec clear(t) :: t
  def clear(tx), do: write(tx, [:clear])

  @doc false
  def commit(tx),
    do:
      Call.run(&Native.kv_tx_commit(tx.handle, &1), op: :commit, app: tx.app, timeout: :infinity)

  @doc false
  def abort(tx), do: Native.kv_tx_abort(tx.handle)

  defp write(tx, ops) do
    answer!(try_write(tx, ops), tx)
    tx
  end

  @doc false
  # What is raised elsewhere, as an answer: for who promises one.
  def try_get_multi(tx, keys),
    do: Error.wrap_result(Pages.get_multi(tx.handle, keys), :transaction, tx.app)

  @doc false
  def try_write(tx, ops) do
    write = write(ops, tx.handle, Terms.large?(ops))
    Error.wrap_result(write, :transaction, tx.app)
  end

  defp write(ops, handle, false), do: Native.kv_tx_write(handle, ops)

  defp write(ops, handle, true) do
    long = &Native.kv_tx_write_long(handle, &1, ops)
    Call.run(long, op: :transaction, timeout: :infinity)
  end

  defp answer!({:error, _} = error, tx) do
    {:error, reason} = Error.wrap(error, :transaction, tx.app)
    Error.raise!(reason, :transaction, tx.app)
  end

  defp answer!(answer, _tx), do: answer
end
